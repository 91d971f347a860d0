"""Planners on a set of trained models of a task, for experiments 3 and 4: configured, measured, recorded.

Shapes: S seeds, E episodes, T horizon.
"""

import logging
import time
from collections.abc import Mapping, Sequence

import numpy as np
import torch
from torch import Tensor

from common.config import MiniGridConfig
from common.latent.model import LatentModel
from common.latent.planner_evaluation import Trial, evaluate_planner, random_policy_success
from common.latent.problems import LatentProblems, MakeProblem, OracleProblems
from common.minigrid.task import TASK_FIELDS, Task
from common.planners import PLANNERS, make_planner
from common.planners.problem import Planner
from common.run.cache import reads_settings
from common.run.random import generators
from common.run.results import Results
from common.run.run import Run
from common.statistics import paired_interval, success_interval

log = logging.getLogger(__name__)

MODES = ("open", "closed")
PAIRS = (  # of planners or controls, whose success is compared over the same starts
    ("verified_gradient", "cem"),
    ("helm", "cem"),
    ("verified_gradient", "coarse_cem"),
    ("helm", "coarse_cem"),
    ("flat_gradient", "random_policy"),
)
KEPT_EPISODES = 1  # whose states are kept for figures
EPISODE_TILE = 12  # side of a cell in their pictures [pixels]
PLANNING_FIELDS = (
    *TASK_FIELDS, "coarse_stride", "evaluations_per_step", "replan_horizon", "replan_execute",
    "open_temperature", "closed_temperature", "gumbel_tau", "gd_steps", "gd_lr", "coarse_share",
)  # fmt: skip
STARTS = "/starts"  # ends the names of arrays [S, E] that hold a metric start by start
UNITS = {"spl": "1", "final_distance": "steps", "evaluations": "transitions"}  # beside success

Measured = Mapping[str, Tensor]  # `T=../success` and its like at every horizon, each [S, E]


def configured_planner(name: str, config: MiniGridConfig, tau: float | None = None) -> Planner:
    """The planner with the configuration's settings; with another temperature if one is given."""
    tau = tau or config.gumbel_tau
    settings = {
        "flat_gradient": {"gd_steps": config.gd_steps, "gd_lr": config.gd_lr, "tau": tau},
        "verified_gradient": {"tau": tau},
        "helm": {"tau": tau, "coarse_share": config.coarse_share},
        "coarse_cem": {"coarse_share": config.coarse_share},
    }
    return make_planner(name, **settings.get(name, {}))


def problems_of(
    task: Task, models: Mapping[str, LatentModel], variant: str, stride: int, device: torch.device
) -> MakeProblem:
    """Planning problems in a trained model, or for the variant `oracle` in the true dynamics."""
    if variant == "oracle":
        return OracleProblems(task, stride, torch.device("cpu"))  # walks through a table
    return LatentProblems(models[variant], task, stride, device)


@reads_settings(*PLANNING_FIELDS)
def measure_planner(
    task: Task,
    models: Mapping[str, LatentModel],
    variant: str,
    planner: str,
    mode: str,
    horizons: Sequence[int],
    *,
    config: MiniGridConfig,
    device: torch.device,
) -> dict[str, Tensor]:
    """`T=../success` and its like at every horizon, each [S, E] (see evaluate_planner)."""
    began = time.monotonic()
    trial = Trial(
        task,
        problems_of(task, models, variant, config.coarse_stride, device),
        configured_planner(planner, config),
        config,
        noise=lambda horizon: generators(config.seeds, f"{task.name}/{planner}/{mode}/T={horizon}"),
    )
    found = evaluate_planner(trial, mode, horizons)
    success = " ".join(f"{horizon}:{value['success'].mean():.2f}" for horizon, value in found.items())
    spent = time.monotonic() - began
    log.info("%s/%s/%s/%s: success by T %s (%.0f s)", task.name, variant, planner, mode, success, spent)
    measured = {}
    for horizon, values in found.items():
        values["states"] = values["states"][:, _kept(task)].clone()
        measured |= {f"T={horizon}/{name}": value for name, value in values.items()}
    return measured


def _kept(task: Task) -> Tensor:
    """Positions of the kept episodes among the starts: the reset's first."""
    reset = (task.starts == task.world.start_state).nonzero().squeeze(1)
    order = torch.cat([reset, torch.arange(len(task.starts))])
    return order[:KEPT_EPISODES]


def plan_with(
    run: Run,
    task: Task,
    models: Mapping[str, LatentModel],
    variant: str,
    planner: str,
    mode: str,
    horizons: Sequence[int],
) -> Measured:
    """`measure_planner` as a phase of the run, done once; `variant` is one of the models, or `oracle`."""
    upstream = [f"{task.name}/{variant}"] if variant in models else []
    name = f"{task.name}/planning/{variant}/{planner}/{mode}/T={','.join(map(str, horizons))}"
    return run.measure(
        measure_planner, name, task, models, variant, planner, mode, horizons, upstream=upstream
    )


def control_policies(task: Task, horizons: Sequence[int]) -> dict[str, dict[str, Tensor]]:
    """What frames every planner, in the form of measure_planner: `random_policy`, `shortest_path`, [S, E]."""
    seeds = len(task.walks)
    random = random_policy_success(task, list(horizons))
    reachable = {horizon: (task.distance[task.starts] <= horizon).double() for horizon in horizons}
    return {
        name: {f"T={horizon}/success": value.expand(seeds, -1) for horizon, value in found.items()}
        for name, found in (("random_policy", random), ("shortest_path", reachable))
    }


def compare_planners(
    run: Run,
    task: Task,
    models: Mapping[str, LatentModel],
    variants: Mapping[str, str],
) -> None:
    """Every planner on every variant, open and closed loop, over all horizons; the controls and PAIRS beside.

    Args:
        run: whose results get the records.
        task: environment.
        models: by variant.
        variants: {the name that metrics give it: one of the models, or `oracle`}.
    """
    horizons = run.config.planning_horizons
    controls = control_policies(task, horizons)
    record_controls(run.results, task, controls, horizons)
    for label, variant in variants.items():
        for mode in MODES:
            found = {name: plan_with(run, task, models, variant, name, mode, horizons) for name in PLANNERS}
            for planner, measured in found.items():
                record_planner(run.results, f"{task.name}/{label}/{planner}/{mode}", measured, horizons)
            found |= controls
            for first, second in PAIRS:
                prefix = f"{task.name}/{label}/{first}_minus_{second}"
                record_difference(run.results, prefix, mode, found[first], found[second], horizons)


# ----------------------------------------------------------------------------------------------
# Records
# ----------------------------------------------------------------------------------------------


def record_success(results: Results, name: str, success: Tensor) -> None:
    """A success rate [S, E] with Wilson's 95% interval; start by start, as bool, in `{name}/starts`."""
    rates = success.double()
    results.add(name, rates.mean(1), "1", success_interval(rates))
    results.add_array(name + STARTS, success.bool())


def record_paired(results: Results, name: str, difference: Tensor) -> None:
    """A difference over the same starts [S, E] with its 95% interval; start by start in `{name}/starts`."""
    results.add(name, difference.double().mean(1), "1", paired_interval(difference))
    results.add_array(name + STARTS, difference.float())


def record_planner(results: Results, prefix: str, measured: Measured, horizons: Sequence[int]) -> None:
    """`{prefix}/T=../success` and its like, with 95% intervals.

    Milliseconds are timings, which no rerun reproduces.
    """
    for here in (f"T={horizon}" for horizon in horizons):
        record_success(results, f"{prefix}/{here}/success", measured[f"{here}/success"])
        for name, unit in UNITS.items():
            results.add(f"{prefix}/{here}/{name}", measured[f"{here}/{name}"].mean(1), unit)
        results.timings[f"{prefix}/{here}/milliseconds"] = float(measured[f"{here}/milliseconds"])
        results.add_array(f"{prefix}/{here}/states", measured[f"{here}/states"].to(torch.int16))


def record_difference(
    results: Results, prefix: str, mode: str, first: Measured, second: Measured, horizons: Sequence[int]
) -> None:
    """`{prefix}/{mode}/T=../success`: success of first - second over the same starts, with 95% intervals."""
    for here in (f"T={horizon}/success" for horizon in horizons):
        record_paired(results, f"{prefix}/{mode}/{here}", first[here] - second[here])


def record_controls(
    results: Results, task: Task, controls: Mapping[str, Measured], horizons: Sequence[int]
) -> None:
    """`{env}/random_policy/T={T}/success`, exact, and `shortest_path`, the upper bound."""
    for name, found in controls.items():
        for here in (f"T={horizon}/success" for horizon in horizons):
            results.add(f"{task.name}/{name}/{here}", found[here].mean(1))


def record_pictures(results: Results, task: Task, horizon: int) -> None:
    """MiniGrid's pictures of every state that the kept episodes of the first seed pass at this horizon."""
    names = [name for name in results.arrays if name.startswith(f"{task.name}/") and name.endswith("/states")]
    visited = [results.arrays[name][0] for name in names if f"/T={horizon}/" in name]
    states = np.unique(np.concatenate([found.ravel() for found in visited]))
    results.add_array(f"{task.name}/pictures/states", states)
    pictures = np.stack([task.world.render(int(state), EPISODE_TILE) for state in states])
    results.add_array(f"{task.name}/pictures/pixels", pictures)
