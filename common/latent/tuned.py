"""Planners with settings chosen at equal tuning, beside their own.

benchmarks/tune_planners.py gave every planner as many trials, in two layouts and with training seeds that no
table reports, in a learned model; what it found best is TUNED, and benchmarks/tune_planners.json the record.

Shapes: S seeds, E episodes.
"""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from common.config import MiniGridConfig
from common.latent.comparison import PLANNING_FIELDS, planning_trial
from common.latent.controls import JUDGED
from common.latent.model import LatentModel
from common.latent.planner_evaluation import evaluate_planner
from common.minigrid.task import Task
from common.run.cache import reads_settings
from common.run.run import Run

Settings = tuple[tuple[str, object], ...]  # (name, value) of the hyperparameters that are not the usual ones

TUNED: dict[str, dict[str, object]] = {
    "flat_gradient": {"gd_steps": 50, "gd_lr": 0.116, "tau": 0.104},
    "verified_gradient": {
        "travel": 14.1,
        "betas": (0.0, 0.9),
        "tau": 2.19,
        "init_sigma": 1.0,
        "gradient_samples": 4,
        "hard_samples": 4,
        "pull_back": "gumbel",
    },
    "helm": {
        "travel": 11.5,
        "betas": (0.5, 0.9),
        "tau": 1.2,
        "init_sigma": 0.3,
        "gradient_samples": 2,
        "hard_samples": 2,
        "pull_back": "gumbel",
        "coarse_share": 0.2,
        "carry": 1.0,
    },
    "cem": {"population": 16, "elites": 4, "momentum": 0.3, "smoothing": 0.02},
    "coarse_cem": {"population": 32, "elites": 4, "momentum": 0.0, "smoothing": 0.1, "coarse_share": 0.2},
    "icem": {
        "rounds": 10,
        "decay": 1.25,
        "elites": 2,
        "kept": 0.3,
        "exponent": 1.0,
        "momentum": 0.0,
        "smoothing": 0.1,
    },
    "mppi": {"rounds": 15, "temperature": 0.0545, "momentum": 0.5, "smoothing": 0.02},
    "hill_climbing": {"swaps": 32, "patience": 2},
}
UNTUNED = ("random_shooting",)  # there is nothing to tune


@reads_settings(*PLANNING_FIELDS)
def measure_settings(
    task: Task,
    model: LatentModel | None,
    planner: str,
    settings: Settings,
    horizons: Sequence[int],
    *,
    config: MiniGridConfig,
    device: torch.device,
) -> dict[str, Tensor]:
    """`T=../success` of blind plans at every horizon, [S, E], by a planner with some settings changed.

    The noise is that of `measure_planner`: without changes, so is the result.
    """
    trial = planning_trial(task, model, planner, "open", config, device, dict(settings))
    found = evaluate_planner(trial, "open", horizons)
    return {f"T={horizon}/success": values["success"] for horizon, values in found.items()}


def compare_tuned(run: Run, task: Task, models: Mapping[str, LatentModel | None]) -> None:
    """`tuned/{env}/{model}/{planner}/open/T={T}/success`, beside `{planner}_default`, and differences.

    The differences are `.._minus_{other}` of JUDGED, and `.._minus_default`: what tuning gained.
    """
    horizons = run.config.planning_horizons
    for label, model in models.items():
        chosen: dict[str, Settings] = {planner: tuple(own.items()) for planner, own in TUNED.items()}
        wanted = [*chosen.items(), *((planner, ()) for planner in (*TUNED, *UNTUNED))]
        steps = [
            (
                measure_settings, f"{task.name}/{'tuned' if settings else 'default'}/{label}/{planner}",
                task, model, planner, settings, horizons,
            )
            for planner, settings in wanted
        ]  # fmt: skip
        found = dict(zip(wanted, run.measure_all(steps), strict=True))
        tuned = {planner: found[planner, chosen.get(planner, ())] for planner in (*TUNED, *UNTUNED)}
        for where in (f"T={horizon}/success" for horizon in horizons):
            for planner, measured in tuned.items():
                prefix = f"tuned/{task.name}/{label}/{planner}"
                run.results.add_rate(f"{prefix}/open/{where}", measured[where], task.all_starts)
                others = {other: tuned[other] for other in tuned if planner in JUDGED and other != planner}
                if planner in TUNED:
                    others["default"] = usual = found[planner, ()]
                    run.results.add_rate(f"{prefix}_default/open/{where}", usual[where], task.all_starts)
                for other, compared in others.items():
                    difference = measured[where] - compared[where]
                    run.results.add_difference(
                        f"{prefix}_minus_{other}/open/{where}", difference, task.all_starts
                    )
