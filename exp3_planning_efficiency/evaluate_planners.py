"""Planners on the trained models, open and closed loop, with their controls; ablation and sweeps.

Shapes: S seeds, E episodes, T horizon.
"""

import logging
import time
from collections.abc import Mapping, Sequence

import numpy as np
import torch
from torch import Tensor

from common.checkpoint import uses
from common.config import Exp3Config
from common.latent_planning import LatentProblems, MakeProblem, OracleProblems
from common.minigrid_task import TASK_FIELDS, Task
from common.planner_evaluation import (
    evaluate_planner,
    paired_interval,
    random_policy_success,
    success_interval,
)
from common.planners import make_planner
from common.planners.problem import Planner
from common.results import Results
from common.runtime import Progress, generator
from exp3_planning_efficiency.models import WorldModel

log = logging.getLogger(__name__)

PLANNERS = ("flat_gradient", "verified_gradient", "helm", "cem", "coarse_cem", "random_shooting")
MODES = ("open", "closed")
PAIRS = (  # compared over the same starts
    ("verified_gradient", "cem"),
    ("helm", "cem"),
    ("helm", "coarse_cem"),
    ("flat_gradient", "random_policy"),
)
ABLATION = ("flat", "spectral", "hf", "helm")  # models
ABLATION_PLANNERS = {"unverified": "flat_gradient", "verified": "verified_gradient"}
KEPT_EPISODES = 1  # whose states are kept for the figures: the reset's
EPISODE_TILE = 12  # side of a cell in their pictures [pixels]
PLANNING_FIELDS = (
    *TASK_FIELDS, "coarse_stride", "evaluations_per_step", "replan_horizon", "replan_execute", "gumbel_tau",
    "gd_steps", "gd_lr", "coarse_share",
)  # fmt: skip


def configured_planner(name: str, config: Exp3Config, tau: float | None = None) -> Planner:
    """The planner with the configuration's settings."""
    tau = tau or config.gumbel_tau
    settings = {
        "flat_gradient": {"gd_steps": config.gd_steps, "gd_lr": config.gd_lr, "tau": tau},
        "verified_gradient": {"tau": tau},
        "helm": {"tau": tau, "coarse_share": config.coarse_share},
        "coarse_cem": {"coarse_share": config.coarse_share},
    }
    return make_planner(name, **settings.get(name, {}))


def problems_of(
    task: Task, models: Mapping[str, WorldModel], arm: str, stride: int, device: torch.device
) -> MakeProblem:
    """Planning problems in a trained model, or for the arm `oracle` in the true dynamics."""
    if arm == "oracle":
        return OracleProblems(task, stride, torch.device("cpu"))  # walks through a table
    return LatentProblems(models[arm], task, stride, device)


@uses(*PLANNING_FIELDS, "planning_horizons")
def measure_planner(
    task: Task,
    models: Mapping[str, WorldModel],
    arm: str,
    planner: str,
    mode: str,
    horizons: Sequence[int],
    *,
    config: Exp3Config,
    device: torch.device,
) -> dict[str, Tensor]:
    """`T=../success` and its like at every horizon, each [S, E] (see evaluate_planner)."""
    began = time.monotonic()
    found = evaluate_planner(
        task,
        problems_of(task, models, arm, config.coarse_stride, device),
        configured_planner(planner, config),
        mode,
        horizons,
        config,
        lambda horizon: generator(config.seeds[0], f"{task.name}/{planner}/{mode}/T={horizon}"),
    )
    success = " ".join(f"{horizon}:{value['success'].mean():.2f}" for horizon, value in found.items())
    spent = time.monotonic() - began
    log.info("%s/%s/%s/%s: success by T %s (%.0f s)", task.name, arm, planner, mode, success, spent)
    measured = {}
    for horizon, values in found.items():
        values["states"] = values["states"][:, :KEPT_EPISODES]
        measured |= {f"T={horizon}/{name}": value for name, value in values.items()}
    return measured


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
    runs += [(f"tau={tau:g}", name, {"tau": tau}) for tau in config.tau_sweep for name in PLANNERS[:3]]
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


# ----------------------------------------------------------------------------------------------
# Records
# ----------------------------------------------------------------------------------------------


def record_planner(
    results: Results,
    task: Task,
    arm: str,
    planner: str,
    mode: str,
    measured: Mapping[str, Tensor],
    horizons: Sequence[int],
) -> None:
    """Metrics of one planner on one model; milliseconds are timings, which no rerun reproduces."""
    units = {"success": "1", "spl": "1", "final_distance": "steps", "evaluations": "transitions"}
    for horizon in horizons:
        prefix = f"{task.name}/{arm}/{planner}/{mode}/T={horizon}"
        for name, unit in units.items():
            values = measured[f"T={horizon}/{name}"]
            interval = success_interval(values) if name == "success" else None
            results.add(f"{prefix}/{name}", values.mean(1), unit, interval)
        results.timings[f"{prefix}/milliseconds"] = float(measured[f"T={horizon}/milliseconds"])
        results.add_array(f"{prefix}/states", measured[f"T={horizon}/states"].to(torch.int16))
        gap = float(measured[f"T={horizon}/relaxation_gap"])
        results.add_array(f"{prefix}/relaxation_gap", torch.tensor(gap))


def record_difference(
    results: Results,
    task: Task,
    arm: str,
    pair: tuple[str, str],
    mode: str,
    measured: Mapping[str, Mapping[str, Tensor]],
    horizons: Sequence[int],
) -> None:
    """Success of the first planner minus the second's over the same starts, with its 95% interval."""
    for horizon in horizons:
        first, second = (measured[planner][f"T={horizon}/success"] for planner in pair)
        name = f"{task.name}/{arm}/{pair[0]}_minus_{pair[1]}/{mode}/T={horizon}/success"
        results.add(name, (first - second).mean(1), "1", paired_interval(first, second))


def control_policies(task: Task, horizons: Sequence[int]) -> dict[str, dict[str, Tensor]]:
    """What frames every planner, in the form of measure_planner: `random_policy`, `shortest_path`, [S, E]."""
    seeds = len(task.walks)
    random = random_policy_success(task, list(horizons))
    reachable = {horizon: (task.distance[task.starts] <= horizon).double() for horizon in horizons}
    return {
        name: {f"T={horizon}/success": value.expand(seeds, -1) for horizon, value in found.items()}
        for name, found in (("random_policy", random), ("shortest_path", reachable))
    }


def record_controls(
    results: Results, task: Task, controls: Mapping[str, Mapping[str, Tensor]], horizons: Sequence[int]
) -> None:
    """`{env}/random_policy/T={T}/success`, exact, and `shortest_path`, the upper bound."""
    for name, found in controls.items():
        for horizon in horizons:
            success = found[f"T={horizon}/success"].mean(1)
            results.add(f"{task.name}/{name}/T={horizon}/success", success)


def record_ablation(
    results: Results,
    task: Task,
    mode: str,
    horizon: int,
    measured: Mapping[tuple[str, str], Mapping[str, Tensor]],
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


def record_episode(results: Results, task: Task, horizon: int) -> None:
    """MiniGrid's pictures of every state that the kept episodes of the first seed pass at this horizon."""
    names = [name for name in results.arrays if name.startswith(f"{task.name}/") and name.endswith("/states")]
    visited = [results.arrays[name][0] for name in names if f"/T={horizon}/" in name]
    states = np.unique(np.concatenate([found.ravel() for found in visited]))
    results.add_array(f"{task.name}/pictures/states", states)
    pictures = np.stack([task.world.render(int(state), EPISODE_TILE) for state in states])
    results.add_array(f"{task.name}/pictures/pixels", pictures)
