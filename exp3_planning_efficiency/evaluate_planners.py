"""What experiment 3 measures of planners beyond their comparison: ablation and sweeps.

Shapes: S seeds, E episodes.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from common.config import Exp3Config
from common.latent.comparison import (
    PLANNING_FIELDS,
    Outcomes,
    configured_planner,
    problems_of,
)
from common.latent.planner_evaluation import Trial, evaluate_planner
from common.minigrid.task import Task
from common.planners import PLANNERS
from common.run.cache import reads_settings
from common.run.random import generators
from common.run.results import Results
from exp3_planning_efficiency.models import WorldModel

ABLATION = ("flat", "spectral", "hf", "helm")  # models
WITH_TAU = ("flat_gradient", "verified_gradient", "helm")  # planners that have a temperature
KEPT = ("success", "evaluations", "milliseconds")  # of every run of the sweeps
ABLATION_PLANNERS = {"unverified": "flat_gradient", "verified": "verified_gradient"}


@dataclass(frozen=True)
class SweepRun:
    """One planner at one setting of what the sweeps change."""

    planner: str
    budget: int  # evaluations for each step of the horizon
    stride: int  # of the jumpy level [steps]
    tau: float  # temperature of the Gumbel-softmax

    @property
    def name(self) -> str:
        return f"{self.planner}/budget={self.budget},stride={self.stride},tau={self.tau:g}"


def sweep_runs(config: Exp3Config) -> dict[str, SweepRun]:
    """Over budgets, strides of the jumpy level and temperatures, by label; they meet in the standard setting.

    `budget={n}/{planner}`, `stride={s}/helm`, `tau={x}/{planner}`.
    """
    standard = {
        name: SweepRun(name, config.evaluations_per_step, config.coarse_stride, config.gumbel_tau)
        for name in PLANNERS
    }
    runs = {
        f"budget={budget}/{name}": replace(run, budget=budget)
        for budget in config.budget_sweep
        for name, run in standard.items()
    }
    runs |= {
        f"stride={stride}/helm": replace(standard["helm"], stride=stride) for stride in config.stride_sweep
    }
    for tau in config.tau_sweep:
        runs |= {f"tau={tau:g}/{name}": replace(standard[name], tau=tau) for name in WITH_TAU}
    return runs


@reads_settings(*PLANNING_FIELDS, "study_horizon")
def measure_sweep(
    task: Task, model: WorldModel, run: SweepRun, *, config: Exp3Config, device: torch.device
) -> dict[str, Tensor]:
    """Open loop at the study horizon, KEPT of evaluate_planner; the same noise at every setting."""
    trial = Trial(
        task,
        problems_of(task, model, run.stride, device),
        configured_planner(run.planner, config, run.tau),
        config,
        noise=lambda _: generators(config.seeds, f"{task.name}/sweeps/{run.planner}"),
        evaluations_per_step=run.budget,
    )
    found = evaluate_planner(trial, "open", [config.study_horizon])[config.study_horizon]
    return {name: found[name] for name in KEPT}


def record_ablation(
    results: Results,
    task: Task,
    mode: str,
    horizon: int,
    measured: Mapping[tuple[str, str], Outcomes],
) -> None:
    """Success of unverified and verified gradient planning in each variant of the model."""
    for (variant, planner), found in measured.items():
        name = f"ablation/{task.name}/{mode}/T={horizon}/{variant}/{planner}/success"
        results.add_rate(name, found[f"T={horizon}/success"], task.all_starts)


def record_sweeps(results: Results, task: Task, measured: Mapping[str, Outcomes]) -> None:
    """`sweep/{env}/{setting}/{planner}/success` and `/evaluations`, by the labels of `sweep_runs`."""
    for label, found in measured.items():
        prefix = f"sweep/{task.name}/{label}"
        results.add_rate(f"{prefix}/success", found["success"], task.all_starts)
        results.add(f"{prefix}/evaluations", found["evaluations"].mean(1))
        results.timings[f"{prefix}/milliseconds"] = float(found["milliseconds"])
