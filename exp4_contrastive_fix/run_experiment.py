"""Experiment 4, the contrastive fix: latents whose distance knows the steps, and the two pillars measured.

    python run_experiment.py                  quick preset, minutes on a laptop
    python run_experiment.py --preset full    three seeds, five environments: what the README reports
    python run_experiment.py --parts penalty  some of its parts

writes results/results.json, results/arrays.npz, plots/*.png and plots/exp4_episode.gif; --help lists
every setting.
"""

import itertools
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from common.config import EXP4_PRESETS
from common.run.command_line import parse_command_line

CONFIG = parse_command_line(EXP4_PRESETS) if __name__ == "__main__" else None  # before torch is imported

from common.latent.comparison import (
    MODES,
    Plans,
    compare_planners,
    plan_all,
    record_pictures,
    record_policies,
)
from common.latent.evaluation import record_model, record_task
from common.latent.memory import memory_needed
from common.minigrid.task import Task, check_environments, make_task
from common.run.run import Experiment, Run, main
from exp4_contrastive_fix.controls import measure_controls
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
from exp4_contrastive_fix.train_flat import flat_trainings
from exp4_contrastive_fix.train_head import head_trainings
from exp4_contrastive_fix.train_helm import helm_trainings

Models = dict[str, AlignedModel]


def compute(run: Run) -> None:
    """Train and measure every environment of the configuration."""
    config = run.config
    for position, task in enumerate([make_task(name, config) for name in config.environments]):
        models = train_all(run, task, position)
        record_task(run.results, task)
        names = list(models)
        steps = [(measure_alignment, f"{task.name}/alignment/{name}", task, models[name]) for name in names]
        for name, measured in zip(names, run.measure_all(steps), strict=True):
            record_model(run.results, task, name, measured)
        if "comparison" in config.parts:
            compared = {label: models[variant] for label, variant in COMPARED.items()}
            compare_planners(run, task, compared | {"oracle": None})
            record_pictures(run.results, task, shown_horizon(config.planning_horizons))
            if position < config.pillar_environments:
                measure_pillars(run, task, models)
        else:
            record_policies(run, task)
        measure_controls(run, task, models)


def train_all(run: Run, task: Task, position: int) -> Models:
    """Every model that the configuration's parts need in an environment."""
    parts = run.config.parts
    with_baseline = "comparison" in parts or "shape" in parts
    flat = (flat_trainings(task),) if with_baseline else ()
    models = run.train(*flat, helm_trainings(task, run.config, position))
    if "shape" in parts:
        models |= run.train(head_trainings(task, models["reconstruction"]))
    return models


def measure_pillars(run: Run, task: Task, models: Models) -> None:
    """The 2x2 of spectral regularity and metric alignment, for planners with and without search."""
    config, compared = run.config, COMPARED.values()
    for objective in config.pillar_objectives:
        at = corners(objective)
        horizons = {
            variant: config.planning_horizons if variant in compared else config.pillar_horizons
            for variant in at.values()
        }
        for planner, mode in itertools.product(PILLAR_PLANNERS, MODES):
            found = plan_all(run, task, [
                Plans(variant, models[variant], planner, mode, horizons[variant]) for variant in at.values()
            ])  # fmt: skip
            prefix = f"{DESIGNS[objective]}/{task.name}/{planner}/{mode}"
            by_corner = dict(zip(at, found, strict=True))
            record_pillars(run.results, task, prefix, by_corner, config.pillar_horizons)


EXPERIMENT = Experiment(
    "exp4_contrastive_fix", Path(__file__).parent, EXP4_PRESETS, compute, draw_figures, CRITERIA,
    check=check_environments, memory=memory_needed,
)  # fmt: skip
execute = EXPERIMENT.execute

if __name__ == "__main__":
    raise SystemExit(main(EXPERIMENT, CONFIG))
