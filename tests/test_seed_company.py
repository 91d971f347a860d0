"""Seed 0 is seed 0 in any company: alone, among others, in another order."""

import math
from dataclasses import replace

import pytest

from common.config import EXP1_PRESETS, EXP2_PRESETS, EXP3_PRESETS
from exp1_spectral_cliff.run_experiment import execute as execute_exp1
from exp2_funnel_heatmap.run_experiment import execute as execute_exp2
from exp3_planning_efficiency.run_experiment import execute as execute_exp3

TINY_EXP1 = replace(
    EXP1_PRESETS["quick"], parts=("cliff",), systems=("lorenz", "linear"), horizons=(4, 8),
    num_trajectories=4, trajectory_length=60, num_jacobian_states=3, num_error_states=3, iterations=20,
    hidden_dim=8, d_latent=4,
    batch_size=8, coarse_stride=2, cascade_stride=4, macro_rollouts=(1, 2), mollified_samples=8,
    gradient_horizons=(5,), planning_horizons=(6,), num_problems=2, gd_steps=2, replans=2,
)  # fmt: skip
TINY_EXP2 = replace(
    EXP2_PRESETS["quick"], iterations=20, random_iterations=20, function_iterations=20, hidden_dim=8,
    batch_size=8, grid_size=5, descent_steps=2, plan_evaluations=400, budget_sweep=(400,), smooth_steps=1,
    smooth_starts=1, polish_steps=1, hop_rounds=1, smoothing_steps=1, smoothing_starts=1, plan_grid=2,
    num_landscapes=1, functions=("ackley",), dimensions=(2,), function_starts=1, cma_starts=1,
    map_lambdas=(1.0,), map_sigmas=(0.1,),
)  # fmt: skip
TINY_EXP3 = replace(
    EXP3_PRESETS["quick"], environments=("Empty-5x5",), num_walks=60, walk_length=20, iterations=30,
    hidden_dim=16, d_latent=8, batch_size=16, planning_horizons=(6, 14), study_horizon=6,
    evaluations_per_step=32, budget_sweep=(32,), num_episodes=6, gd_steps=3,
)  # fmt: skip


def metrics(execute, tiny, seeds, folder):
    config = replace(tiny, seeds=seeds, output_dir=folder, cache_dir=folder / "cache", device="cpu")
    return execute(config).metrics


def odd_ones(alone, company, place, rel=0.0, abs_tol=0.0):
    """The metrics of which seed 0 alone is not what it is at its place in company."""
    assert alone.keys() == company.keys() and len(alone) > 100
    pairs = {name: (alone[name]["values"][0], company[name]["values"][place]) for name in alone}
    return {
        name
        for name, (one, other) in pairs.items()
        if one != other
        and (None in (one, other) or not math.isclose(one, other, rel_tol=rel, abs_tol=abs_tol))
    }


@pytest.fixture(scope="module")
def alone_exp3(tmp_path_factory):
    return metrics(execute_exp3, TINY_EXP3, (0,), tmp_path_factory.mktemp("alone"))


@pytest.mark.parametrize("seeds", [(0, 1, 2), (2, 0, 1)])
def test_of_experiment_3_to_the_bit(alone_exp3, tmp_path, seeds):
    company = metrics(execute_exp3, TINY_EXP3, seeds, tmp_path)
    assert odd_ones(alone_exp3, company, seeds.index(0)) == set()


def test_of_experiment_1_but_for_the_last_digit(tmp_path):
    """Trainings to the bit; of float64 logarithms, a vector's last elements are rounded another way."""
    alone = metrics(execute_exp1, TINY_EXP1, (0,), tmp_path / "alone")
    company = metrics(execute_exp1, TINY_EXP1, (2, 0, 1), tmp_path / "company")
    assert not [name for name in odd_ones(alone, company, 1) if "/training/" in name]
    assert odd_ones(alone, company, 1, rel=1e-14) == set()


def test_of_experiment_2_but_for_a_regressions_rounding(tmp_path):
    """Trainings and plans to the bit; a gain and a shrink are sums over a grid, of all members at once.

    The evaluations of a planner are counted over all seeds together, and said of each.
    """
    alone = metrics(execute_exp2, TINY_EXP2, (0,), tmp_path / "alone")
    company = metrics(execute_exp2, TINY_EXP2, (2, 0, 1), tmp_path / "company")
    odd = {name for name in odd_ones(alone, company, 1) if not name.endswith("/evaluations")}
    assert {name.rpartition("/")[2] for name in odd} <= {"ripple_gain", "shrink"}
    assert odd & odd_ones(alone, company, 1, rel=1e-10, abs_tol=1e-14) == set()
