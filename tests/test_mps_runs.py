"""Every experiment runs whole where there is no float64, as on Apple's accelerator; and as on the cpu."""

import importlib
from dataclasses import replace

import pytest

import common.run.run as run_module
from common.config import EXP1_PRESETS, EXP2_PRESETS, EXP3_PRESETS, EXP4_PRESETS, EXP5_PRESETS
from tests.fake_mps import fake_mps, fake_mps_that_mixes  # noqa: F401 (fixtures)

GRID = {
    "environments": ("Empty-5x5",), "num_walks": 40, "walk_length": 20, "iterations": 3, "hidden_dim": 8,
    "d_latent": 4, "batch_size": 8, "planning_horizons": (6,), "evaluations_per_step": 16, "num_episodes": 4,
    "gd_steps": 2,
}  # fmt: skip
TINY = {
    "exp1_spectral_cliff": replace(
        EXP1_PRESETS["quick"], horizons=(4, 8), num_trajectories=4, trajectory_length=60,
        num_jacobian_states=3, num_error_states=3, iterations=3, hidden_dim=8, d_latent=4, batch_size=8,
        coarse_stride=2,
        cascade_stride=4, macro_rollouts=(1, 2), mollified_samples=8, gradient_horizons=(5,),
        planning_horizons=(6,), num_problems=2, gd_steps=2, replans=2,
        evaluation_sweep=(6.0, 12.0), replan_sweep=(1, 2),
    ),
    "exp2_funnel_heatmap": replace(
        EXP2_PRESETS["quick"], seeds=(0,), iterations=6, random_iterations=6, function_iterations=6,
        hidden_dim=8, batch_size=16, grid_size=4, descent_steps=5, plan_evaluations=2000,
        budget_sweep=(2000,), smooth_steps=5, plan_grid=3, functions=("ackley",), function_starts=4,
        cma_starts=1, map_lambdas=(1.0,), map_sigmas=(0.1,),
    ),
    "exp3_planning_efficiency": replace(EXP3_PRESETS["quick"], study_horizon=6, budget_sweep=(16,), **GRID),
    "exp4_contrastive_fix": replace(EXP4_PRESETS["quick"], pillar_horizons=(6,), **GRID),
    "exp5_feudal_hrm": replace(
        EXP5_PRESETS["quick"], seeds=(0, 1), width=8, inner_multiple=8, batch_size=4, iterations=3,
        segments=2, manager_period=1, train_puzzles=12, test_puzzles=4, goal_dim=4, period_sweep=(1, 2),
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", TINY)
def test_an_experiment_runs_whole_without_float64(name, tmp_path, monkeypatch, fake_mps_that_mixes):  # noqa: F811
    experiment = importlib.import_module(f"{name}.run_experiment").EXPERIMENT
    monkeypatch.setattr(run_module, "resolve_device", lambda _: fake_mps_that_mixes)
    results = experiment.execute(replace(TINY[name], output_dir=tmp_path, cache_dir=tmp_path / "cache"))
    assert len(results.metrics) > 100
