"""Settings of every planner, chosen at equal tuning: as many trials each, where no table reports.

    python benchmarks/tune_planners.py                    two trials, minutes: whether it runs
    python benchmarks/tune_planners.py --preset full      what common/latent/tuned.py holds

A trial is a planner with settings drawn from SPACES. All plan blindly through the recommended model of
experiment 4, in layouts and with training seeds that no table reports: one in which few plans arrive, one in
which half do. The planner's best trial by success, over layouts, seeds and starts, is chosen. Its usual
settings stand beside and are no candidate: they were chosen where tables report. results/tune_planners.json
is the record, of which that of the full preset is kept beside this script. Trials are cached steps, so a run
goes on where it was.
"""

import sys
from dataclasses import dataclass, fields
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from common.config import EXP4_PRESETS, Exp4Config, bounded
from common.run.command_line import parse_command_line


@dataclass(frozen=True)
class TuningConfig(Exp4Config):
    """Equal tuning of planners: as many trials of each, where no table reports."""

    # trials of each planner, beside its usual settings
    trials: int = bounded(2, low=1)


GRIDS = ("FourRooms", "SimpleCrossingS11N5")
LAYOUT = 2_000_000  # seed of their layouts; those of all experiments are far below
OWN = {"environments": GRIDS, "layout_seed": LAYOUT, "parts": ("tuned",),
       "planning_horizons": (50,), "pillar_horizons": (50,)}  # fmt: skip


def tuning(base: Exp4Config, **own: object) -> TuningConfig:
    """Experiment 4's settings with some of this script's own."""
    return TuningConfig(**{field.name: getattr(base, field.name) for field in fields(base)} | OWN | own)


PRESETS = {
    "quick": tuning(EXP4_PRESETS["quick"], seeds=(100,), iterations=300, num_episodes=20),
    "full": tuning(EXP4_PRESETS["full"], seeds=(100, 101), trials=12, num_episodes=60),
}
CONFIG = parse_command_line(PRESETS) if __name__ == "__main__" else None  # before torch is imported

import json
import math

import torch
from torch import Tensor

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
ROUNDS = {"population": [16, 32, 64], "elites": [2, 4, 8], **REFIT}
SHARE = {"coarse_share": [0.2, 0.35, 0.5, 0.7]}
SPACES = {
    "flat_gradient": {"gd_steps": [12, 25, 50, 100], "gd_lr": (0.01, 3.0), "tau": (0.1, 10.0)},
    "verified_gradient": CHAIN,
    "helm": CHAIN | SHARE | {"carry": [0.25, 0.5, 1.0]},
    "cem": ROUNDS,
    "coarse_cem": ROUNDS | SHARE,
    "icem": {
        "rounds": [5, 10, 15], "decay": [1.0, 1.1, 1.25], "elites": [2, 4, 8], "kept": [0.0, 0.3, 1.0],
        "exponent": [0.0, 1.0, 2.0, 3.0], **REFIT,
    },
    "mppi": {"rounds": [5, 10, 15], "temperature": (0.03, 3.0), **REFIT},
    "hill_climbing": {"swaps": [4, 8, 16, 32, 64], "patience": [1, 2, 4, 8, 16]},
}  # fmt: skip


def draw_trials(planner: str, trials: int) -> list[Settings]:
    """So many different settings from the planner's space; more trials begin as fewer do."""
    draw, found = generator(0, f"tuning/{planner}"), []
    while len(found) < trials:
        settings = tuple((name, _draw(space, draw)) for name, space in SPACES[planner].items())
        if settings not in found:
            found.append(settings)
    return found


def _draw(space: list | tuple[float, float], draw: torch.Generator) -> object:
    if isinstance(space, list):
        return space[int(torch.randint(len(space), (), generator=draw))]
    low, high = map(math.log, space)
    return float(f"{math.exp(low + (high - low) * float(torch.rand((), generator=draw))):.3g}")


def compute(run: Run) -> None:
    """Metrics {planner}/{usual,trial={i},best_minus_next}/{env}/success, and the record."""
    config = run.config
    trials = {planner: draw_trials(planner, config.trials) for planner in SPACES}
    cells = [(planner, index) for planner in SPACES for index in range(-1, config.trials)]  # -1: the usual
    tasks = [make_task(name, config) for name in config.environments]
    found: dict[str, dict[tuple[str, int], Tensor]] = {}
    for position, task in enumerate(tasks):
        model = run.train(helm_trainings(task, config, position))["unified"]
        steps = [
            (
                measure_settings, f"{task.name}/{planner}/{_label(index)}", task, model, planner,
                trials[planner][index] if index >= 0 else (), config.planning_horizons,
            )
            for planner, index in cells
        ]  # fmt: skip
        success = [own[f"T={config.planning_horizons[0]}/success"] for own in run.measure_all(steps)]
        found[task.name] = dict(zip(cells, success, strict=True))
        for (planner, index), rate in found[task.name].items():
            name = f"{planner}/{_label(index)}/{task.name}/success"
            run.results.add_rate(name, rate, task.all_starts)
    record = {
        planner: [
            {
                "settings": dict(settings),
                "success": {name: round(float(own[planner, index].mean()), 4) for name, own in found.items()},
            }
            for index, settings in enumerate(settings_of)
        ]
        for planner, settings_of in trials.items()
    }
    for planner, own in record.items():
        best, *others = ranked(own)
        for task in tasks if others else ():
            gap = found[task.name][planner, best] - found[task.name][planner, others[0]]
            name = f"{planner}/best_minus_next/{task.name}/success"
            run.results.add_difference(name, gap, task.all_starts)
    content = {"layout_seed": config.layout_seed, "seeds": list(config.seeds), "trials": record}
    path = run.folders.results / RECORD
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(path, lambda file: file.write(json.dumps(content, indent=1).encode() + b"\n"))


def _label(index: int) -> str:
    return "usual" if index < 0 else f"trial={index}"


def ranked(trials: list[dict]) -> list[int]:
    """Positions of a planner's trials in the record by mean success over layouts; of equal ones the first."""
    return sorted(range(len(trials)), key=lambda index: -sum(trials[index]["success"].values()))


def best_trial(trials: list[dict]) -> dict:
    """The one that is chosen."""
    return trials[ranked(trials)[0]]


EXPERIMENT = Experiment("tune_planners", Path(__file__).parent, PRESETS, compute, check=check_environments)

if __name__ == "__main__":
    raise SystemExit(main(EXPERIMENT, CONFIG))
