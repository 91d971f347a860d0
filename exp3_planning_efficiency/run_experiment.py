"""Experiment 3, planning efficiency: gradient planners against CEM in MiniGrid world models.

    python run_experiment.py                  quick preset, minutes on a laptop
    python run_experiment.py --preset full    three seeds, five environments: what the README reports

writes results/results.json, results/arrays.npz, plots/*.png and plots/exp3_episode.gif; --help lists
every setting.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from common.config import EXP3_PRESETS
from common.latent.comparison import MODES, compare_planners, plan_with, record_pictures
from common.latent.evaluation import measure_model, record_model, record_task
from common.minigrid.task import Task, check_environments, make_task
from common.run.run import Run, run_experiment
from exp3_planning_efficiency.criteria import CRITERIA
from exp3_planning_efficiency.evaluate_planners import (
    ABLATION,
    ABLATION_PLANNERS,
    measure_sweeps,
    record_ablation,
    record_sweeps,
)
from exp3_planning_efficiency.figures import draw_figures
from exp3_planning_efficiency.models import WorldModel
from exp3_planning_efficiency.train_flat import train_flat_variants
from exp3_planning_efficiency.train_helm import train_helm_variants

Models = dict[str, WorldModel]


def compute(run: Run) -> None:
    """Train and measure every environment of the configuration."""
    for position, task in enumerate([make_task(name, run.config) for name in run.config.environments]):
        studied = position < run.config.study_environments
        models = train_flat_variants(run, task) | train_helm_variants(run, task, studied)
        record_task(run.results, task)
        for variant in models:
            measured = run.measure(
                measure_model,
                f"{task.name}/model/{variant}",
                task,
                models,
                variant,
                upstream=[f"{task.name}/{variant}"],
            )
            record_model(run.results, task, variant, measured)
        compare_planners(run, task, models, {variant: variant for variant in ("flat", "helm", "oracle")})
        record_pictures(run.results, task, run.config.study_horizon)
        if studied:
            ablate(run, task, models)
            sweep(run, task, models)


def ablate(run: Run, task: Task, models: Models) -> None:
    """Flat, + spectral, + HF, full HELM, each with the unverified and the verified gradient planner."""
    horizon = run.config.study_horizon
    horizons = dict.fromkeys(ABLATION, (horizon,)) | dict.fromkeys(
        ("flat", "helm"), run.config.planning_horizons
    )
    for mode in MODES:
        measured = {
            (variant, label): plan_with(run, task, models, variant, planner, mode, horizons[variant])
            for variant in ABLATION
            for label, planner in ABLATION_PLANNERS.items()
        }
        record_ablation(run.results, task, mode, horizon, measured)


def sweep(run: Run, task: Task, models: Models) -> None:
    """Over budgets, strides and temperatures, on HELM's model."""
    name, upstream = f"{task.name}/sweeps", [f"{task.name}/helm"]
    record_sweeps(
        run.results, task, run.measure(measure_sweeps, name, task, models, "helm", upstream=upstream)
    )


if __name__ == "__main__":
    raise SystemExit(
        run_experiment(
            "exp3_planning_efficiency",
            Path(__file__).parent,
            EXP3_PRESETS,
            compute,
            draw_figures,
            CRITERIA,
            check=check_environments,
        )
    )
