"""Success, path efficiency and cost of planners on a task, open and closed loop.

Terms
    open     one plan of T actions, executed blindly
    closed   replanning with horizon min(T, replan_horizon), replan_execute actions taken of each plan,
             the episode ends after T steps
    success  at a goal within T steps, which ends the episode
    SPL      success * shortest path / steps taken (Anderson et al., 2018)

Shapes: S seeds, E episodes, N states, A actions.
"""

import time
from collections.abc import Callable, Sequence
from typing import Protocol

import torch
from torch import Tensor

from common.latent.problems import MakeProblem
from common.minigrid.task import Task
from common.planners.control import Episodes, execute_open_loop, receding_horizon
from common.planners.problem import Plan, Planner, PlanningProblem


class PlanningConfig(Protocol):
    """The settings of planning (see MiniGridConfig)."""

    evaluations_per_step: int
    replan_horizon: int
    replan_execute: int
    open_temperature: float
    closed_temperature: float


class _Timed:
    """A planner whose plans are counted and timed."""

    def __init__(self, planner: Planner):
        self.planner, self.over_time = planner, planner.over_time
        self.plans, self.seconds = 0, 0.0

    def __call__(self, problem: PlanningProblem, generator: torch.Generator) -> Plan:
        began = time.perf_counter()
        plan = self.planner(problem, generator)
        if plan.evaluations > problem.budget or plan.evaluations != problem.evaluations:
            raise AssertionError(
                f"{self.planner} spent {problem.evaluations} of {problem.budget} evaluations"
            )
        plan.energy.cpu()  # waits for the device
        self.seconds += time.perf_counter() - began
        self.plans += problem.num_problems
        return plan

    def milliseconds(self) -> Tensor:
        """Of a plan, on average."""
        return torch.tensor(1e3 * self.seconds / self.plans, dtype=torch.float64)


def evaluate_planner(
    task: Task,
    make_problem: MakeProblem,
    planner: Planner,
    mode: str,
    horizons: Sequence[int],
    config: PlanningConfig,
    noise: Callable[[int], torch.Generator],
    evaluations_per_step: int | None = None,
) -> dict[int, dict[str, Tensor]]:
    """Plan from every start for every seed, execute in the tabulated environment; at each horizon.

    In closed loop all horizons of at least replan_horizon are one run, as long as the longest of them: the
    first T steps of an episode do not depend on how many more are allowed.

    Args:
        task: environment, starts and true distances.
        make_problem: of a model; the planner sees what it makes, and nothing else.
        planner: planned with as it asks to be judged (its `over_time`).
        mode: "open" or "closed".
        horizons: T.
        config: budget, replanning and temperatures of the softmin.
        noise: T -> the generator of the planner's noise in a run of that length; in closed loop asked
            for replan_horizon where T is larger, so that all those runs begin alike.
        evaluations_per_step: another budget than the configuration's.

    Returns:
        by horizon: success, spl, final_distance [steps], evaluations and steps, each [S, E]; states
        [S, E, T + 1]; milliseconds a plan, over all plans of a run (so one number for all that share one).
    """
    per_step = evaluations_per_step or config.evaluations_per_step
    groups = [[horizon] for horizon in horizons if mode == "open" or horizon < config.replan_horizon]
    longer = [horizon for horizon in horizons if [horizon] not in groups]
    found = {}
    for group in [*groups, longer] if longer else groups:
        timed = _Timed(planner)
        generator = noise(config.replan_horizon if group is longer else group[0])
        episodes = _run(task, make_problem, timed, mode, max(group), config, generator, per_step)
        for horizon in group:
            judged = judge(task, episodes.until(horizon))
            found[horizon] = {
                name: value.unflatten(0, (len(task.walks), -1)) for name, value in judged.items()
            }
            found[horizon]["milliseconds"] = timed.milliseconds()
    return found


def _run(
    task: Task,
    make_problem: MakeProblem,
    planner: _Timed,
    mode: str,
    horizon: int,
    config: PlanningConfig,
    generator: torch.Generator,
    per_step: int,
) -> Episodes:
    """Episodes of every seed from every start, seed by seed: [S E]."""
    world = task.world
    temperature = config.open_temperature if mode == "open" else config.closed_temperature

    def problem(states: Tensor, steps: int) -> PlanningProblem:
        return make_problem(states, steps, per_step * steps, planner.over_time, temperature)

    def step(states: Tensor, actions: Tensor) -> tuple[Tensor, Tensor]:
        following = world.next_state[states[:, 1], actions.cpu()]
        return torch.stack([states[:, 0], following], 1), world.terminal[following]

    starts = torch.cartesian_prod(torch.arange(len(task.walks)), task.starts)  # [S E, 2]
    if mode == "open":
        plan = planner(problem(starts, horizon), generator)
        return execute_open_loop(step, starts, plan.actions.cpu(), plan.evaluations)
    return receding_horizon(
        problem, planner, step, starts, horizon,
        min(horizon, config.replan_horizon), config.replan_execute, generator=generator,
    )  # fmt: skip


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
        "evaluations": episodes.evaluations.sum(1).double(),
        "steps": episodes.steps.double(),
        "states": states,
    }


def random_policy_success(task: Task, horizons: Sequence[int]) -> dict[int, Tensor]:
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
