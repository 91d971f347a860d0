"""Planners on a set of trained models of a task, for experiments 3 and 4: configured, measured, recorded.

Shapes: S seeds, E episodes, T horizon.
"""

import logging
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

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
UNITS = {"spl": "1", "final_distance": "steps", "evaluations": "transitions"}  # beside success

Outcomes = Mapping[str, Tensor]  # `T=../success` and its like at every horizon, each [S, E]


def configured_planner(name: str, config: MiniGridConfig, tau: float | None = None) -> Planner:
    """The planner with the configuration's settings; with another temperature if one is given."""
    tau = tau or config.gumbel_tau
    settings = {
        "flat_gradient": {"gd_steps": config.gd_steps, "gd_lr": config.gd_lr, "tau": tau},
        "verified_gradient": {"tau": tau},
        "verified_gradient_zeroed": {"tau": tau},
        "verified_gradient_shuffled": {"tau": tau},
        "helm": {"tau": tau, "coarse_share": config.coarse_share},
        "coarse_cem": {"coarse_share": config.coarse_share},
    }
    return make_planner(name, **settings.get(name, {}))


def problems_of(task: Task, model: LatentModel | None, stride: int, device: torch.device) -> MakeProblem:
    """Planning problems in a trained model, or for None in the true dynamics."""
    if model is None:
        return OracleProblems(task, stride, torch.device("cpu"))  # walks through a table
    return LatentProblems(model, task, stride, device)


def planning_trial(
    task: Task,
    model: LatentModel | None,
    planner: str,
    mode: str,
    config: MiniGridConfig,
    device: torch.device,
    settings: Mapping[str, object] | None = None,
) -> Trial:
    """A planner by name, with the configuration's settings but for these, and with noise of its own."""
    return Trial(
        task,
        problems_of(task, model, config.coarse_stride, device),
        replace(configured_planner(planner, config), **settings or {}),
        config,
        noise=lambda horizon: generators(config.seeds, f"{task.name}/{planner}/{mode}/T={horizon}"),
    )


@reads_settings(*PLANNING_FIELDS)
def measure_planner(
    task: Task,
    model: LatentModel | None,
    planner: str,
    mode: str,
    horizons: Sequence[int],
    *,
    config: MiniGridConfig,
    device: torch.device,
) -> dict[str, Tensor]:
    """`T=../success` and its like at every horizon, each [S, E] (see evaluate_planner)."""
    began = time.monotonic()
    found = evaluate_planner(planning_trial(task, model, planner, mode, config, device), mode, horizons)
    success = " ".join(f"{horizon}:{value['success'].mean():.2f}" for horizon, value in found.items())
    spent = time.monotonic() - began
    log.info("%s/%s/%s/%s: success by T %s (%.0f s)", task.name, planner, mode, success, spent)
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


@dataclass(frozen=True)
class Plans:
    """One planner on one model, in one mode, at some horizons; without a model, in the true dynamics."""

    label: str  # the model's, in names and the log
    model: LatentModel | None
    planner: str
    mode: str
    horizons: Sequence[int]

    @property
    def name(self) -> str:
        return f"{self.label}/{self.planner}/{self.mode}/T={','.join(map(str, self.horizons))}"


def plan_all(run: Run, task: Task, wanted: Sequence[Plans]) -> list[Outcomes]:
    """`measure_planner` for each, as cached steps of the run, side by side."""
    return run.measure_all([
        (
            measure_planner, f"{task.name}/planning/{plans.name}",
            task, plans.model, plans.planner, plans.mode, tuple(plans.horizons),
        )
        for plans in wanted
    ])  # fmt: skip


def plan_through(
    run: Run, task: Task, models: Mapping[str, LatentModel | None], planners: Iterable[str]
) -> dict[tuple[str, str, str], Outcomes]:
    """By (model, planner, mode), what planners make of each model at the configuration's horizons."""
    keys = [(label, planner, mode) for label in models for mode in MODES for planner in planners]
    horizons = run.config.planning_horizons
    wanted = [Plans(label, models[label], planner, mode, horizons) for label, planner, mode in keys]
    return dict(zip(keys, plan_all(run, task, wanted), strict=True))


def control_policies(task: Task, horizons: Sequence[int]) -> dict[str, dict[str, Tensor]]:
    """What frames every planner, in the form of measure_planner: `random_policy`, `shortest_path`, [S, E]."""
    seeds = len(task.walks)
    random = random_policy_success(task, list(horizons))
    reachable = {horizon: (task.distance[task.starts] <= horizon).double() for horizon in horizons}
    return {
        name: {f"T={horizon}/success": value.expand(seeds, -1) for horizon, value in found.items()}
        for name, found in (("random_policy", random), ("shortest_path", reachable))
    }


def record_policies(run: Run, task: Task) -> dict[str, dict[str, Tensor]]:
    """`control_policies` at the configuration's horizons, recorded."""
    horizons = run.config.planning_horizons
    controls = control_policies(task, horizons)
    record_controls(run.results, task, controls, horizons)
    return controls


def compare_planners(run: Run, task: Task, models: Mapping[str, LatentModel | None]) -> None:
    """Every planner on every model, open and closed loop, over all horizons; the controls and PAIRS beside.

    Args:
        run: whose results get the records.
        task: environment.
        models: by the name that metrics give them; None for the true dynamics.
    """
    horizons = run.config.planning_horizons
    controls = record_policies(run, task)
    for label, model in models.items():
        found = plan_through(run, task, {label: model}, PLANNERS)
        for mode in MODES:
            here = {planner: found[label, planner, mode] for planner in PLANNERS}
            for planner, measured in here.items():
                prefix = f"{task.name}/{label}/{planner}/{mode}"
                record_planner(run.results, task, prefix, measured, horizons)
            here |= controls
            for first, second in PAIRS:
                prefix = f"{task.name}/{label}/{first}_minus_{second}"
                record_difference(run.results, task, prefix, mode, here[first], here[second], horizons)


# ----------------------------------------------------------------------------------------------
# Records
# ----------------------------------------------------------------------------------------------


def record_planner(
    results: Results, task: Task, prefix: str, measured: Outcomes, horizons: Sequence[int]
) -> None:
    """`{prefix}/T=../success` and its like, with 95% intervals.

    Milliseconds are timings, which no rerun reproduces.
    """
    for here in (f"T={horizon}" for horizon in horizons):
        results.add_rate(f"{prefix}/{here}/success", measured[f"{here}/success"], task.all_starts)
        for name, unit in UNITS.items():
            results.add(f"{prefix}/{here}/{name}", measured[f"{here}/{name}"].mean(1), unit)
        results.timings[f"{prefix}/{here}/milliseconds"] = float(measured[f"{here}/milliseconds"])
        results.add_array(f"{prefix}/{here}/states", measured[f"{here}/states"].to(torch.int16))


def record_difference(
    results: Results,
    task: Task,
    prefix: str,
    mode: str,
    first: Outcomes,
    second: Outcomes,
    horizons: Sequence[int],
) -> None:
    """`{prefix}/{mode}/T=../success`: success of first - second over the same starts, with 95% intervals."""
    for here in (f"T={horizon}/success" for horizon in horizons):
        results.add_difference(f"{prefix}/{mode}/{here}", first[here] - second[here], task.all_starts)


def record_controls(
    results: Results, task: Task, controls: Mapping[str, Outcomes], horizons: Sequence[int]
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
