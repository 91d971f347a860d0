"""Success, path efficiency and cost of planners on a task, open and closed loop.

Terms
    open     one plan of T actions, executed blindly
    closed   replanning with horizon min(T, replan_horizon), replan_execute actions taken of each plan
    success  at a goal within T steps, which ends the episode
    SPL      success * shortest path / steps taken (Anderson et al., 2018)

Shapes: S seeds, E episodes, N states, A actions.
"""

import math
import time
from typing import Protocol

import torch
from torch import Tensor

from common.latent_planning import MakeProblem
from common.minigrid_task import Task
from common.planners.control import Episodes, execute_open_loop, receding_horizon
from common.planners.problem import Plan, Planner, PlanningProblem


class PlanningConfig(Protocol):
    """The settings of planning (see MiniGridConfig)."""

    evaluations_per_step: int
    replan_horizon: int
    replan_execute: int


class _Timed:
    """A planner whose plans are counted and timed."""

    def __init__(self, planner: Planner):
        self.planner, self.plans, self.seconds, self.gaps = planner, 0, 0.0, []

    def __call__(self, problem: PlanningProblem, generator: torch.Generator) -> Plan:
        began = time.perf_counter()
        plan = self.planner(problem, generator)
        if plan.evaluations > problem.budget or plan.evaluations != problem.evaluations:
            raise AssertionError(
                f"{self.planner} spent {problem.evaluations} of {problem.budget} evaluations"
            )
        gap = plan.relaxation_gap.cpu()  # waits for the device
        self.seconds += time.perf_counter() - began
        self.plans += problem.num_problems
        self.gaps.append(gap / problem.energy_scale.cpu())
        return plan


def evaluate_planner(
    task: Task,
    make_problem: MakeProblem,
    planner: Planner,
    mode: str,
    horizon: int,
    config: PlanningConfig,
    generator: torch.Generator,
    evaluations_per_step: int | None = None,
) -> dict[str, Tensor]:
    """Plan from every start for every seed, execute in the tabulated environment.

    Args:
        task: environment, starts and true distances.
        make_problem: of a model; the planner sees what it makes, and nothing else.
        planner: planned with as it asks to be judged (its `over_time`).
        mode: "open" or "closed".
        horizon: T.
        config: budget and replanning.
        generator: of the planner's noise.
        evaluations_per_step: another budget than the configuration's.

    Returns:
        success, spl, final_distance [steps], evaluations and steps, each [S, E]; states [S, E, T + 1];
        relaxation_gap, the mean over plans in units of the energy at their start; milliseconds a plan.
    """
    per_step = evaluations_per_step or config.evaluations_per_step
    seeds, timed, table = len(task.walks), _Timed(planner), task.world

    def problem(states: Tensor, steps: int) -> PlanningProblem:
        return make_problem(states, steps, per_step * steps, planner.over_time)

    def step(states: Tensor, actions: Tensor) -> tuple[Tensor, Tensor]:
        following = table.next_state[states[:, 1], actions.cpu()]
        return torch.stack([states[:, 0], following], 1), table.terminal[following]

    starts = torch.cartesian_prod(torch.arange(seeds), task.starts)  # [S E, 2], by seed
    if mode == "open":
        plan = timed(problem(starts, horizon), generator)
        episodes = execute_open_loop(step, starts, plan.actions.cpu(), plan.evaluations)
    else:
        episodes = receding_horizon(
            problem, timed, step, starts, horizon,
            config.replan_horizon, config.replan_execute, generator=generator,
        )  # fmt: skip
    measured = {name: value.unflatten(0, (seeds, -1)) for name, value in judge(task, episodes).items()}
    measured["relaxation_gap"] = torch.cat(timed.gaps).mean()
    measured["milliseconds"] = torch.tensor(1e3 * timed.seconds / timed.plans, dtype=torch.float64)
    return measured


def judge(task: Task, episodes: Episodes) -> dict[str, Tensor]:
    """Success, SPL, final distance, evaluations and steps of R episodes [R], and their states [R, T + 1]."""
    states = episodes.states[..., 1]
    last = states[:, -1]
    success = torch.isin(last, task.world.goal_states)
    shortest = task.distance[states[:, 0]]
    spl = success * shortest / torch.maximum(episodes.steps, shortest)
    finite = task.distance[task.distance.isfinite()]
    return {
        "success": success.double(),
        "spl": spl.double(),
        "final_distance": task.distance[last].clamp(max=float(finite.max()) + 1).double(),
        "evaluations": episodes.evaluations.double(),
        "steps": episodes.steps.double(),
        "states": states,
    }


def random_policy_success(task: Task, horizons: list[int]) -> dict[int, Tensor]:
    """Exact probability that uniformly random actions succeed within T steps, from each start: {T: [E]}.

    V_{t+1}(s) = mean_a V_t(s'), V_0 = 1 at goals: dynamic programming in the tabulated environment.
    """
    value = torch.zeros(task.world.num_states, dtype=torch.float64)
    value[task.world.goal_states] = 1.0
    found = {}
    for steps in range(1, max(horizons) + 1):
        value = value[task.world.next_state].mean(1)
        if steps in horizons:
            found[steps] = value[task.starts]
    return found


def wilson_interval(successes: float, episodes: int, z: float = 1.96) -> tuple[float, float]:
    """95% interval of a success rate (Wilson, 1927)."""
    rate, spread = successes / episodes, z * z / episodes
    centre = (rate + spread / 2) / (1 + spread)
    half = math.sqrt(rate * (1 - rate) * spread + spread * spread / 4) / (1 + spread)
    return max(0.0, centre - half), min(1.0, centre + half)


def paired_interval(first: Tensor, second: Tensor) -> tuple[float, float]:
    """95% interval of the mean of first - second [S, E], over starts.

    The episodes of one start are not independent between seeds: each start counts once, with its mean.
    """
    difference = (first - second).double().mean(0)
    half = 1.96 * float(difference.std()) / math.sqrt(len(difference))
    return float(difference.mean()) - half, float(difference.mean()) + half
