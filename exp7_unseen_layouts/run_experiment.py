"""Experiment 7, unseen layouts: planning by gradient around walls that no training has seen.

    python run_experiment.py                                quick preset, minutes on a laptop
    python run_experiment.py --preset full                  what the README reports
    python run_experiment.py --families FourRooms ...       any MiniGrid families

writes results/results.json, results/arrays.npz and plots/*.png; --help lists every setting.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from common.config import EXP7_PRESETS, Exp7Config
from common.run.command_line import parse_command_line

CONFIG = parse_command_line(EXP7_PRESETS) if __name__ == "__main__" else None  # before torch is imported

from common.run.run import Experiment, Run, main
from exp7_unseen_layouts.batches import collect_data
from exp7_unseen_layouts.criteria import CRITERIA
from exp7_unseen_layouts.dataset import make_layouts, require_disjoint
from exp7_unseen_layouts.episodes import draw_episodes
from exp7_unseen_layouts.evaluate_distance import compare_distances
from exp7_unseen_layouts.evaluate_models import (
    measure_accuracy,
    measure_belief,
    measure_latent,
    record_knowledge,
)
from exp7_unseen_layouts.evaluate_planners import measure_planning, record_planning
from exp7_unseen_layouts.figures import draw_figures
from exp7_unseen_layouts.latent_planning import goal_grids
from exp7_unseen_layouts.pictures import measure_pictures, record_pictures
from exp7_unseen_layouts.train_flat import flat_trainings
from exp7_unseen_layouts.train_helm import helm_trainings, kernel_trainings

PARTS = ("test", "train")  # held-out layouts, and training layouts beside them


def check_families(config: Exp7Config) -> None:
    """Raise ValueError for a family that has too few layouts, no cell to go to, or that is not MiniGrid's."""
    for family in config.families:
        training, held_out = make_layouts(family, config.train_layouts, config.test_layouts)
        require_disjoint(training, held_out)
        if family in config.latent_families:
            try:
                goal_grids(held_out[0])
            except ValueError as error:
                raise ValueError(f"latent_families (--latent-families): {error}") from error


def compute(run: Run) -> None:
    """Walk, train the flat model, HELM's and its kernel, then measure in held-out and training layouts."""
    data = collect_data(run)
    models = run.train(flat_trainings(data), helm_trainings(data))
    models |= run.train(kernel_trainings(data, models["snapped"]))
    spatial, snapped, kernel = (models[name] for name in ("spatial", "snapped", "kernel"))
    for part in PARTS:
        measure_part(run, part, spatial, snapped, kernel)
    compare_distances(run, snapped, PARTS)
    shown = run.config.families[0]
    drawn = draw_episodes(run, "test", [shown])
    pictures = run.measure(measure_pictures, f"{shown}/pictures", shown, drawn[shown], snapped, kernel)
    record_pictures(run.results, shown, pictures)


def measure_part(run: Run, part: str, spatial, snapped, kernel) -> None:
    """Everything that is measured in the layouts of a part, family by family."""
    drawn = draw_episodes(run, part, run.config.families)
    steps = [
        (measure_planning, f"{env}/{part}/planning", env, part, drawn[env], snapped, kernel) for env in drawn
    ]
    for env, measured in zip(drawn, run.measure_all(steps), strict=True):
        record_planning(run.results, env, part, measured)
    knowledge = [
        (env, step, f"{env}/{part}/{label}", env, part, *models)
        for env in drawn
        for step, label, models in (
            (measure_accuracy, "accuracy", (spatial, snapped)),
            (measure_belief, "belief", (drawn[env], snapped, kernel)),
            (measure_latent, "latent", (drawn[env], spatial)),
        )
        if step is not measure_latent or (part == "test" and env in run.config.latent_families)
    ]
    for (env, *_), measured in zip(
        knowledge, run.measure_all([tuple(own[1:]) for own in knowledge]), strict=True
    ):
        record_knowledge(run.results, env, part, measured)


EXPERIMENT = Experiment(
    "exp7_unseen_layouts", Path(__file__).parent, EXP7_PRESETS, compute, draw_figures, CRITERIA,
    check=check_families,
)  # fmt: skip
execute = EXPERIMENT.execute

if __name__ == "__main__":
    raise SystemExit(main(EXPERIMENT, CONFIG))
