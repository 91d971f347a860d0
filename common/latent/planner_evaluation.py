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
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from common.latent.problems import MakeProblem
from common.minigrid.task import Task
from common.planners.candidates import Noise
from common.planners.control import Episodes, execute_open_loop, receding_horizon
from common.planners.problem import Plan, Planner, PlanningProblem


class PlanningConfig(Protocol):
    """The settings of planning (see MiniGridConfig)."""

    evaluations_per_step: int
    replan_horizon: int
    replan_execute: int
    open_temperature: float
    closed_temperature: float


@dataclass(frozen=True)
class Trial:
    """A planner on a task, in the model that `make_problem` makes problems of.

    Attributes:
        task: environment, starts and true distances, which the planner does not see.
        make_problem: of a model; the planner sees what it makes, and nothing else.
        planner: planned with as it asks to be judged (its `over_time`).
        config: budget, replanning and temperatures of the softmin.
        noise: T -> generators of the planner's noise, one a seed, in a run of that length.
        evaluations_per_step: another budget than the configuration's.
    """

    task: Task
    make_problem: MakeProblem
    planner: Planner
    config: PlanningConfig
    noise: Callable[[int], Sequence[torch.Generator]]
    evaluations_per_step: int | None = None

    def starts(self) -> Tensor:
        """Where episodes begin, (seed, state), seed by seed: [S E, 2]."""
        return torch.cartesian_prod(torch.arange(len(self.task.walks)), self.task.starts)

    def draws(self, horizon: int) -> Noise:
        """The noise of a run of that length; a seed's episodes draw from their seed's generator alone."""
        return Noise(self.noise(horizon), self.starts()[:, 0])

    def problem(self, states: Tensor, steps: int, temperature: float) -> PlanningProblem:
        """Planning `steps` ahead from states [R, 2], at the budget for so many steps."""
        budget = steps * (self.evaluations_per_step or self.config.evaluations_per_step)
        return self.make_problem(states, steps, budget, self.planner.over_time, temperature)

    def step(self, states: Tensor, actions: Tensor) -> tuple[Tensor, Tensor]:
        """The environment: states [R, 2], actions [R] -> (states, whether at a goal)."""
        world = self.task.world
        following = world.next_state[states[:, 1], actions.cpu()]
        return torch.stack([states[:, 0], following], 1), world.terminal[following]


class _Timed:
    """A planner whose plans are counted and timed."""

    def __init__(self, planner: Planner):
        self.planner = planner
        self.plans, self.seconds = 0, 0.0

    def __call__(self, problem: PlanningProblem, noise: Noise) -> Plan:
        began = time.perf_counter()
        plan = self.planner(problem, noise)
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


def evaluate_planner(trial: Trial, mode: str, horizons: Sequence[int]) -> dict[int, dict[str, Tensor]]:
    """Plan from every start for every seed, execute in the tabulated environment; at each horizon.

    Args:
        trial: what is measured.
        mode: "open" (see `evaluate_open`) or "closed" (see `evaluate_closed`).
        horizons: T.

    Returns:
        by horizon: success, spl, final_distance [steps], evaluations and steps, each [S, E]; states
        [S, E, T + 1]; milliseconds a plan, over all plans of a run (so one number for all that share one).

    Raises:
        ValueError: for another mode.
    """
    if mode not in ("open", "closed"):
        raise ValueError(f"mode is 'open' or 'closed', not {mode!r}")
    return (evaluate_open if mode == "open" else evaluate_closed)(trial, horizons)


def evaluate_open(trial: Trial, horizons: Sequence[int]) -> dict[int, dict[str, Tensor]]:
    """One plan an episode, executed blindly; a run of its own for every horizon (see evaluate_planner)."""
    found = {}
    for horizon in horizons:
        timed = _Timed(trial.planner)
        starts = trial.starts()
        plan = timed(trial.problem(starts, horizon, trial.config.open_temperature), trial.draws(horizon))
        episodes = execute_open_loop(trial.step, starts, plan.actions.cpu(), plan.evaluations)
        found[horizon] = _judged(trial.task, episodes) | {"milliseconds": timed.milliseconds()}
    return found


def evaluate_closed(trial: Trial, horizons: Sequence[int]) -> dict[int, dict[str, Tensor]]:
    """Replanning (see evaluate_planner).

    All horizons of at least replan_horizon are judged from one run, as long as the longest of them: they
    plan equally far ahead, so the first T steps of an episode do not depend on how many more are allowed.
    A shorter horizon plans less far ahead and has a run of its own.
    """
    ahead = trial.config.replan_horizon
    runs: dict[int, list[int]] = {}  # steps planned ahead -> the horizons that are judged from that run
    for horizon in horizons:
        runs.setdefault(min(horizon, ahead), []).append(horizon)
    found = {}
    for steps, together in runs.items():
        timed = _Timed(trial.planner)
        episodes = _replanned(trial, timed, steps, max(together))
        for horizon in together:
            judged = _judged(trial.task, episodes.until(horizon))
            found[horizon] = judged | {"milliseconds": timed.milliseconds()}
    return found


def _replanned(trial: Trial, planner: Planner, ahead: int, length: int) -> Episodes:
    """Episodes of `length` steps from every start, replanning `ahead` steps: [S E]."""
    config = trial.config

    def problem(states: Tensor, steps: int) -> PlanningProblem:
        return trial.problem(states, steps, config.closed_temperature)

    return receding_horizon(
        problem, planner, trial.step, trial.starts(), length, ahead, config.replan_execute,
        generator=trial.draws(ahead),
    )  # fmt: skip


def _judged(task: Task, episodes: Episodes) -> dict[str, Tensor]:
    """`judge`, seed by seed: [S, E]."""
    return {name: value.unflatten(0, (len(task.walks), -1)) for name, value in judge(task, episodes).items()}


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
