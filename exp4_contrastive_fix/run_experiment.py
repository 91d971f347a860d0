"""Experiment 4, the contrastive fix: latents whose distance knows the steps, and the two pillars measured.

    python run_experiment.py                  quick preset, minutes on a laptop
    python run_experiment.py --preset full    three seeds, five environments: what the README reports

writes results/results.json, results/arrays.npz, plots/*.png and plots/exp4_episode.gif; --help lists
every setting.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from common.config import EXP4_PRESETS
from common.latent.comparison import MODES, compare_planners, plan_with, record_pictures
from common.latent.evaluation import record_model, record_task
from common.minigrid.task import Task, check_environments, make_task
from common.run.run import Run, run_experiment
from exp4_contrastive_fix.criteria import CRITERIA
from exp4_contrastive_fix.evaluate_alignment import measure_alignment
from exp4_contrastive_fix.evaluate_planners import (
    COMPARED,
    DESIGNS,
    PILLAR_PLANNERS,
    corners,
    record_pillars,
)
from exp4_contrastive_fix.figures import draw_figures, shown_horizon
from exp4_contrastive_fix.models import AlignedModel
from exp4_contrastive_fix.train_flat import train_flat_variants
from exp4_contrastive_fix.train_helm import train_helm_variants

Models = dict[str, AlignedModel]


def compute(run: Run) -> None:
    """Train and measure every environment of the configuration."""
    for position, task in enumerate([make_task(name, run.config) for name in run.config.environments]):
        models = train_flat_variants(run, task) | train_helm_variants(run, task, position)
        record_task(run.results, task)
        for variant in models:
            name = f"{task.name}/alignment/{variant}"
            upstream = [f"{task.name}/{variant}"]
            measured = run.measure(measure_alignment, name, task, models, variant, upstream=upstream)
            record_model(run.results, task, variant, measured)
        compare_planners(run, task, models, COMPARED | {"oracle": "oracle"})
        record_pictures(run.results, task, shown_horizon(run.config.planning_horizons))
        if position < run.config.pillar_environments:
            measure_pillars(run, task, models)


def measure_pillars(run: Run, task: Task, models: Models) -> None:
    """The 2x2 of spectral regularity and metric alignment, for planners with and without search."""
    compared, horizons = COMPARED.values(), run.config.pillar_horizons
    for objective in run.config.pillar_objectives:
        for planner in PILLAR_PLANNERS:
            for mode in MODES:
                found = {
                    corner: plan_with(
                        run, task, models, variant, planner, mode,
                        run.config.planning_horizons if variant in compared else horizons,
                    )
                    for corner, variant in corners(objective).items()
                }  # fmt: skip
                prefix = f"{DESIGNS[objective]}/{task.name}/{planner}/{mode}"
                record_pillars(run.results, prefix, found, horizons)


if __name__ == "__main__":
    raise SystemExit(
        run_experiment(
            "exp4_contrastive_fix",
            Path(__file__).parent,
            EXP4_PRESETS,
            compute,
            draw_figures,
            CRITERIA,
            check=check_environments,
        )
    )
