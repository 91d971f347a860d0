"""Settings of every planner, chosen at equal tuning: as many trials each, where no table reports.

    python benchmarks/tune_planners.py                    two trials, minutes: whether it runs
    python benchmarks/tune_planners.py --preset full      what common/latent/tuned.py holds

A trial is a planner with settings: the first with its usual ones, every other with settings drawn from
SPACES. Each plans blindly through the recommended model of experiment 4, on grids and with training seeds
that no table reports, and the planner's best trial by success, over grids, seeds and starts, is chosen. The
record goes to the output folder as tune_planners.json; trials are cached steps, so a run can be resumed.
"""

import sys
from dataclasses import dataclass, fields
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from common.config import EXP4_PRESETS, Exp4Config, bounded
from common.run.command_line import parse_command_line


@dataclass(frozen=True)
class TuningConfig(Exp4Config):
    """Equal tuning of planners: as many trials of each, on grids and training seeds that no table reports."""

    # trials of each planner, the first with its usual settings
    trials: int = bounded(2, low=1)


GRIDS = ("SimpleCrossingS9N3", "SimpleCrossingS11N5")
OWN = {"parts": ("tuned",), "planning_horizons": (30,), "pillar_horizons": (30,)}


def tuning(base: Exp4Config, **own: object) -> TuningConfig:
    """Experiment 4's settings with some of this script's own."""
    return TuningConfig(**{field.name: getattr(base, field.name) for field in fields(base)} | OWN | own)


PRESETS = {
    "quick": tuning(
        EXP4_PRESETS["quick"], environments=GRIDS[:1], seeds=(100,), iterations=300, num_episodes=20
    ),
    "full": tuning(EXP4_PRESETS["full"], environments=GRIDS, seeds=(100, 101), trials=16),
}
CONFIG = parse_command_line(PRESETS) if __name__ == "__main__" else None  # before torch is imported

import json
import math

import torch

from common.latent.tuned import Settings, measure_settings
from common.minigrid.task import check_environments, make_task
from common.run.files import write_atomically
from common.run.random import generator
from common.run.run import Experiment, Run, main
from exp4_contrastive_fix.train_helm import helm_trainings

RECORD = "tune_planners.json"
CHAIN = {  # of the planners that descend on logits; a pair of numbers is a range, its logarithm uniform
    "travel": (2.0, 32.0), "betas": [(0.5, 0.9), (0.9, 0.999), (0.0, 0.9)], "tau": (0.3, 3.0),
    "init_sigma": [0.0, 0.3, 1.0], "gradient_samples": [1, 2, 4], "hard_samples": [0, 2, 4, 8],
    "pull_back": ["expected", "gumbel"],
}  # fmt: skip
REFIT = {"momentum": [0.0, 0.1, 0.3, 0.5], "smoothing": [0.0, 0.02, 0.05, 0.1, 0.2]}
ROUNDS = {"population": [8, 16, 32, 64], "elites": [2, 4, 8], **REFIT}
SHARE = {"coarse_share": [0.2, 0.35, 0.5, 0.7]}
SPACES = {
    "flat_gradient": {"gd_lr": (0.01, 3.0), "tau": (0.1, 10.0)},
    "verified_gradient": CHAIN,
    "helm": CHAIN | SHARE | {"carry": [0.25, 0.5, 1.0]},
    "cem": ROUNDS,
    "coarse_cem": ROUNDS | SHARE,
    "icem": {
        "rounds": [5, 10, 20], "decay": [1.0, 1.25, 1.5], "elites": [2, 4, 8], "kept": [0.0, 0.3, 1.0],
        "exponent": [0.0, 1.0, 2.0, 3.0], **REFIT,
    },
    "mppi": {"rounds": [5, 10, 20], "temperature": (0.03, 3.0), **REFIT},
    "hill_climbing": {"swaps": [4, 8, 16, 32, 64], "patience": [1, 2, 4, 8, 16]},
}  # fmt: skip


def draw_trials(planner: str, trials: int) -> list[Settings]:
    """The usual settings, then `trials` - 1 drawn from the planner's space; more trials begin as fewer do."""
    draw, found = generator(0, f"tuning/{planner}"), [()]
    while len(found) < trials:
        found.append(tuple((name, _draw(space, draw)) for name, space in SPACES[planner].items()))
    return found


def _draw(space: list | tuple[float, float], draw: torch.Generator) -> object:
    if isinstance(space, list):
        return space[int(torch.randint(len(space), (), generator=draw))]
    low, high = map(math.log, space)
    return float(f"{math.exp(low + (high - low) * float(torch.rand((), generator=draw))):.3g}")


def compute(run: Run) -> None:
    """Every trial in every grid; metrics {planner}/trial={i}/{env}/success, and the record."""
    config = run.config
    (horizon,) = config.planning_horizons
    trials = {planner: draw_trials(planner, config.trials) for planner in SPACES}
    cells = [(planner, index) for planner in SPACES for index in range(config.trials)]
    success: dict[tuple[str, int], dict[str, float]] = {cell: {} for cell in cells}
    for position, name in enumerate(config.environments):
        task = make_task(name, config)
        model = run.train(helm_trainings(task, config, position))["unified"]
        steps = [
            (
                measure_settings, f"{name}/{planner}/trial={index}", task, model, planner,
                trials[planner][index], (horizon,),
            )
            for planner, index in cells
        ]  # fmt: skip
        for (planner, index), found in zip(cells, run.measure_all(steps), strict=True):
            rate = found[f"T={horizon}/success"]
            run.results.add_rate(f"{planner}/trial={index}/{name}/success", rate, task.all_starts)
            success[planner, index][name] = float(rate.mean())
    record = {
        planner: [
            {"settings": dict(settings), "success": success[planner, index]}
            for index, settings in enumerate(own)
        ]
        for planner, own in trials.items()
    }
    write_atomically(
        run.folders.output / RECORD, lambda file: file.write(json.dumps(record, indent=1).encode() + b"\n")
    )


def best_trial(trials: list[dict]) -> dict:
    """The trial of greatest mean success over grids; of equal ones the first."""
    return max(trials, key=lambda trial: sum(trial["success"].values()))


EXPERIMENT = Experiment("tune_planners", Path(__file__).parent, PRESETS, compute, check=check_environments)

if __name__ == "__main__":
    raise SystemExit(main(EXPERIMENT, CONFIG))
