"""What experiment 3 measures of planners beyond their comparison: ablation and sweeps.

Shapes: S seeds, E episodes.
"""

from collections.abc import Mapping

import torch
from torch import Tensor

from common.checkpoint import uses
from common.config import Exp3Config
from common.minigrid_task import Task
from common.planner_comparison import PLANNING_FIELDS, Measured, configured_planner, problems_of
from common.planner_evaluation import evaluate_planner, success_interval
from common.planners import PLANNERS
from common.results import Results
from common.runtime import Progress, generator
from exp3_planning_efficiency.models import WorldModel

PAIRS = (  # compared over the same starts
    ("verified_gradient", "cem"),
    ("helm", "cem"),
    ("helm", "coarse_cem"),
    ("flat_gradient", "random_policy"),
)
ABLATION = ("flat", "spectral", "hf", "helm")  # models
WITH_TAU = ("flat_gradient", "verified_gradient", "helm")  # planners that have a temperature
ABLATION_PLANNERS = {"unverified": "flat_gradient", "verified": "verified_gradient"}


@uses(*PLANNING_FIELDS, "budget_sweep", "stride_sweep", "tau_sweep", "study_horizon")
def measure_sweeps(
    task: Task, models: Mapping[str, WorldModel], arm: str, *, config: Exp3Config, device: torch.device
) -> dict[str, Tensor]:
    """Open loop at the study horizon: over budgets, strides of the jumpy level, temperatures.

    `budget={n}/{planner}/..`, `stride={s}/helm/..`, `tau={x}/{planner}/..`, each as evaluate_planner.
    """
    runs = [
        (f"budget={budget}", name, {"budget": budget}) for budget in config.budget_sweep for name in PLANNERS
    ]
    runs += [(f"stride={stride}", "helm", {"stride": stride}) for stride in config.stride_sweep]
    runs += [(f"tau={tau:g}", name, {"tau": tau}) for tau in config.tau_sweep for name in WITH_TAU]
    measured, progress = {}, Progress(len(runs), f"{task.name}/sweeps")
    for setting, name, changed in runs:
        make_problem = problems_of(task, models, arm, changed.get("stride", config.coarse_stride), device)
        found = evaluate_planner(
            task,
            make_problem,
            configured_planner(name, config, changed.get("tau")),
            "open",
            [config.study_horizon],
            config,
            lambda _, name=name: generator(config.seeds[0], f"{task.name}/sweeps/{name}"),
            changed.get("budget"),
        )[config.study_horizon]
        for kept in ("success", "evaluations", "milliseconds"):
            measured[f"{setting}/{name}/{kept}"] = found[kept]
        progress.update(f"{setting} {name} success={found['success'].mean():.2f}")
    progress.close()
    return measured


def record_ablation(
    results: Results,
    task: Task,
    mode: str,
    horizon: int,
    measured: Mapping[tuple[str, str], Measured],
) -> None:
    """Success of unverified and verified gradient planning in each variant of the model."""
    for (arm, planner), found in measured.items():
        values = found[f"T={horizon}/success"]
        name = f"ablation/{task.name}/{mode}/T={horizon}/{arm}/{planner}/success"
        results.add(name, values.mean(1), "1", success_interval(values))


def record_sweeps(results: Results, task: Task, measured: Mapping[str, Tensor]) -> None:
    """`sweep/{env}/{setting}/{planner}/success` and `/evaluations`."""
    for name, value in measured.items():
        if name.endswith("milliseconds"):
            results.timings[f"sweep/{task.name}/{name}"] = float(value)
        else:
            results.add(f"sweep/{task.name}/{name}", value.mean(1))
