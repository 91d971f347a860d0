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
    Measured,
    configured_planner,
    problems_of,
)
from common.latent.planner_evaluation import Trial, evaluate_planner
from common.minigrid.task import Task
from common.planners import PLANNERS
from common.run.cache import reads_settings
from common.run.progress import Progress
from common.run.random import generators
from common.run.results import Results
from exp3_planning_efficiency.models import WorldModel

ABLATION = ("flat", "spectral", "hf", "helm")  # models
WITH_TAU = ("flat_gradient", "verified_gradient", "helm")  # planners that have a temperature
KEPT = ("success", "evaluations", "milliseconds")  # of every run of the sweeps
ABLATION_PLANNERS = {"unverified": "flat_gradient", "verified": "verified_gradient"}


@dataclass(frozen=True)
class _Setting:
    """What the sweeps change: evaluations for each step, stride of the jumpy level, temperature."""

    budget: int
    stride: int
    tau: float

    def __str__(self) -> str:
        return f"budget={self.budget} stride={self.stride} tau={self.tau:g}"


@reads_settings(*PLANNING_FIELDS, "budget_sweep", "stride_sweep", "tau_sweep", "study_horizon")
def measure_sweeps(
    task: Task, model: WorldModel, *, config: Exp3Config, device: torch.device
) -> dict[str, Tensor]:
    """Open loop at the study horizon: over budgets, strides of the jumpy level, temperatures.

    `budget={n}/{planner}/..`, `stride={s}/helm/..`, `tau={x}/{planner}/..`, each as evaluate_planner.
    """
    standard = _Setting(config.evaluations_per_step, config.coarse_stride, config.gumbel_tau)
    runs = {
        f"budget={budget}/{name}": (name, replace(standard, budget=budget))
        for budget in config.budget_sweep
        for name in PLANNERS
    }
    for stride in config.stride_sweep:
        runs[f"stride={stride}/helm"] = "helm", replace(standard, stride=stride)
    for tau in config.tau_sweep:
        runs |= {f"tau={tau:g}/{name}": (name, replace(standard, tau=tau)) for name in WITH_TAU}
    found, progress = {}, Progress(len(set(runs.values())), f"{task.name}/sweeps")
    for name, setting in dict.fromkeys(runs.values()):  # sweeps meet in the standard setting
        found[name, setting] = _plan_at(task, model, name, setting, config, device)
        progress.update(f"{name} {setting} success={found[name, setting]['success'].mean():.2f}")
    progress.close()
    return {f"{label}/{kept}": found[run][kept] for label, run in runs.items() for kept in KEPT}


def _plan_at(
    task: Task,
    model: WorldModel,
    planner: str,
    setting: _Setting,
    config: Exp3Config,
    device: torch.device,
) -> dict[str, Tensor]:
    """evaluate_planner, open loop at the study horizon; the same noise at every setting."""
    trial = Trial(
        task,
        problems_of(task, model, setting.stride, device),
        configured_planner(planner, config, setting.tau),
        config,
        noise=lambda _: generators(config.seeds, f"{task.name}/sweeps/{planner}"),
        evaluations_per_step=setting.budget,
    )
    return evaluate_planner(trial, "open", [config.study_horizon])[config.study_horizon]


def record_ablation(
    results: Results,
    task: Task,
    mode: str,
    horizon: int,
    measured: Mapping[tuple[str, str], Measured],
) -> None:
    """Success of unverified and verified gradient planning in each variant of the model."""
    for (variant, planner), found in measured.items():
        name = f"ablation/{task.name}/{mode}/T={horizon}/{variant}/{planner}/success"
        results.add_rate(name, found[f"T={horizon}/success"], task.all_starts)


def record_sweeps(results: Results, task: Task, measured: Mapping[str, Tensor]) -> None:
    """`sweep/{env}/{setting}/{planner}/success` and `/evaluations`."""
    for name, value in measured.items():
        if name.endswith("milliseconds"):
            results.timings[f"sweep/{task.name}/{name}"] = float(value)
        elif name.endswith("success"):
            results.add_rate(f"sweep/{task.name}/{name}", value, task.all_starts)
        else:
            results.add(f"sweep/{task.name}/{name}", value.mean(1))
