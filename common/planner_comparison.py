"""Planners on a set of trained models of a task: configured, measured, recorded.

Shapes: S seeds, E episodes, T horizon.
"""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from common.checkpoint import uses
from common.config import MiniGridConfig
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
from common.runtime import generator
from common.world_model import LatentModel

PLANNERS = ("flat_gradient", "verified_gradient", "helm", "cem", "coarse_cem", "random_shooting")
MODES = ("open", "closed")
KEPT_EPISODES = 1  # whose states are kept for figures
PLANNING_FIELDS = (
    *TASK_FIELDS, "coarse_stride", "evaluations_per_step", "replan_horizon", "replan_execute", "gumbel_tau",
    "gd_steps", "gd_lr", "coarse_share",
)  # fmt: skip
UNITS = {"success": "1", "spl": "1", "final_distance": "steps", "evaluations": "transitions"}


def configured_planner(name: str, config: MiniGridConfig) -> Planner:
    """The planner with the configuration's settings."""
    tau = config.gumbel_tau
    settings = {
        "flat_gradient": {"gd_steps": config.gd_steps, "gd_lr": config.gd_lr, "tau": tau},
        "verified_gradient": {"tau": tau},
        "helm": {"tau": tau, "coarse_share": config.coarse_share},
        "coarse_cem": {"coarse_share": config.coarse_share},
    }
    return make_planner(name, **settings.get(name, {}))


@uses(*PLANNING_FIELDS)
def measure_planner(
    task: Task,
    models: Mapping[str, LatentModel],
    arm: str,
    planner: str,
    mode: str,
    horizon: int,
    *,
    config: MiniGridConfig,
    device: torch.device,
) -> dict[str, Tensor]:
    """success, spl and their like, each [S, E] (see evaluate_planner); `arm` may be `oracle`."""
    make_problem: MakeProblem
    if arm == "oracle":
        make_problem = OracleProblems(task, config.coarse_stride, torch.device("cpu"))  # walks in a table
    else:
        make_problem = LatentProblems(models[arm], task, config.coarse_stride, device)
    found = evaluate_planner(
        task,
        make_problem,
        configured_planner(planner, config),
        mode,
        [horizon],
        config,
        lambda steps: generator(config.seeds[0], f"{task.name}/{planner}/{mode}/T={steps}"),
    )[horizon]
    # the episode from the reset's start, where that is among them
    found["states"] = found["states"][:, _kept(task)].clone()
    return found


def _kept(task: Task) -> Tensor:
    """Positions of the kept episodes among the starts: the reset's first."""
    reset = (task.starts == task.world.start_state).nonzero().squeeze(1)
    order = torch.cat([reset, torch.arange(len(task.starts))])
    return order[:KEPT_EPISODES]


def record_planner(results: Results, prefix: str, measured: Mapping[str, Tensor]) -> None:
    """`{prefix}/success` and its like, with 95% intervals; milliseconds are timings."""
    for name, unit in UNITS.items():
        values = measured[name]
        interval = success_interval(values) if name == "success" else None
        results.add(f"{prefix}/{name}", values.mean(1), unit, interval)
    results.timings[f"{prefix}/milliseconds"] = float(measured["milliseconds"])
    results.add_array(f"{prefix}/states", measured["states"].to(torch.int16))


def record_difference(results: Results, name: str, first: Tensor, second: Tensor) -> None:
    """Mean of first - second [S, E] over the same starts, with its 95% interval."""
    results.add(name, (first - second).mean(1), "1", paired_interval(first, second))


def record_controls(results: Results, task: Task, horizons: Sequence[int]) -> None:
    """`{env}/random_policy/T={T}/success`, exact, and `shortest_path`, the upper bound."""
    random = random_policy_success(task, list(horizons))
    for horizon in horizons:
        reachable = (task.distance[task.starts] <= horizon).double()
        for name, success in (("random_policy", random[horizon]), ("shortest_path", reachable)):
            mean = success.mean().expand(len(results.seeds))
            results.add(f"{task.name}/{name}/T={horizon}/success", mean)
