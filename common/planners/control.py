"""Executing plans: receding-horizon control (closed loop) and one plan executed blindly (open loop).

Shapes
    B  episodes
    L  steps of an episode at most
    T  horizon of a plan
    A  entries of a continuous action; an action is a number where they are discrete
    ...  a state's own dimensions; none where states are indices

A planner sees planning problems only. The step function, which is the environment, stays here.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from .candidates import Noise
from .continuous.problem import ContinuousPlanner, moved_on
from .problem import Planner, Problem

MakeProblem = Callable[[Tensor, int], Problem]  # (states [B, ...], horizon) -> their problem
Step = Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]  # (states, actions [B(, A)]) -> (states, done [B])

NO_ACTION = -1  # where no discrete action was taken; where no continuous one was, nan


@dataclass(frozen=True)
class Episodes:
    """What happened in B episodes of at most L steps."""

    states: Tensor  # [B, L + 1, ...], the start first; after an episode's end its last state again
    actions: Tensor  # [B, L] int64, NO_ACTION after an episode's end; or [B, L, A], nan after it
    steps: Tensor  # [B] int64, actions executed
    done: Tensor  # [B] bool, whether the environment ended the episode
    evaluations: Tensor  # [B, L] int64, transition evaluations of the plan that was made before each step

    def until(self, length: int) -> "Episodes":
        """The same episodes with their first `length` steps alone."""
        steps = self.steps.clamp(max=length)
        done = self.done & (self.steps <= length)
        states, actions = self.states[:, : length + 1], self.actions[:, :length]
        return Episodes(states, actions, steps, done, self.evaluations[:, :length])


class _Recorder:
    """Episodes as they happen."""

    def __init__(self, starts: Tensor, episode_length: int):
        count, device = len(starts), starts.device
        self.states = starts.unsqueeze(1).repeat(1, episode_length + 1, *([1] * (starts.dim() - 1)))
        self.actions = torch.full((count, episode_length), NO_ACTION, device=device)  # if discrete
        self.steps = torch.zeros(count, dtype=torch.int64, device=device)
        self.done = torch.zeros(count, dtype=torch.bool, device=device)
        self.evaluations = torch.zeros(count, episode_length, dtype=torch.int64, device=device)
        self.time = 0

    def running(self) -> Tensor:
        """Indices of the episodes that have not ended, [R]."""
        return torch.nonzero(~self.done)[:, 0]

    def advance(self, step: Step, running: Tensor, actions: Tensor) -> None:
        """Take one step in the running episodes: actions [R(, A)]."""
        if self.time == 0:
            self.actions = _blank(self.evaluations, actions)
        states, done = step(self.states[running, self.time], actions)
        self.actions[running, self.time] = actions
        self.states[running, self.time + 1 :] = states.unsqueeze(1)
        self.steps[running] += 1
        self.done[running] = done
        self.time += 1

    def finish(self) -> Episodes:
        return Episodes(self.states, self.actions, self.steps, self.done, self.evaluations)


def _blank(times: Tensor, actions: Tensor) -> Tensor:
    """A record at these times [B, L] in which no action of the kind [R(, A)] was taken: [B, L(, A)]."""
    if not actions.is_floating_point():
        return torch.full_like(times, NO_ACTION)
    return actions.new_full((*times.shape, *actions.shape[1:]), torch.nan)


def receding_horizon(
    make_problem: MakeProblem,
    planner: Planner | ContinuousPlanner,
    step: Step,
    starts: Tensor,
    episode_length: int,
    plan_horizon: int = 12,
    execute: int = 3,
    *,
    generator: torch.Generator | Noise,
    warm_start: bool = False,
) -> Episodes:
    """Plan, execute the first few actions, and plan again from where they led, until done or out of steps.

    Finished episodes leave the batch. Every plan has the same horizon, also where the episode ends sooner,
    so the first T steps of an episode do not depend on how many more are allowed (`Episodes.until`).

    Args:
        make_problem: (states [R, ...], horizon) -> the planning problem of those states.
        planner: plans all running episodes together.
        step: the environment, (states [R, ...], actions [R(, A)]) -> (states, done [R] bool).
        starts: [B, ...], none of them done.
        episode_length: L.
        plan_horizon: T.
        execute: actions taken of each plan.
        generator: of the planner's noise, on the CPU: one for all episodes, or a Noise with one a group.
        warm_start: every plan but the first begins from what the one before it carried, moved on by the
            steps executed; continuous actions alone.

    Raises:
        ValueError: for an episode length, plan horizon or number of executed actions below 1.
    """
    if min(episode_length, plan_horizon, execute) < 1:
        raise ValueError("episode length, plan horizon and executed actions must be at least 1")
    noise = Noise.of(generator, len(starts))
    episodes = _Recorder(starts, episode_length)
    carried, initial = None, {}  # of all episodes, and what the planner gets of it
    while episodes.time < episode_length and len(running := episodes.running()):
        problem = make_problem(episodes.states[running, episodes.time], plan_horizon)
        if carried is not None:
            initial = {"initial": carried[running.to(carried.device)]}
        plan = planner(problem, noise.select(running), **initial)
        episodes.evaluations[running, episodes.time] += plan.evaluations
        left = episode_length - episodes.time
        _execute(episodes, step, running, plan.actions[:, : min(execute, left)].to(starts.device))
        if warm_start:
            carried = _spread(moved_on(plan.carried, execute), running, len(starts))
    return episodes.finish()


def _spread(values: Tensor, places: Tensor, count: int) -> Tensor:
    """Values [R, ...] of some of `count` episodes, at their places: [B, ...]."""
    places = places.to(values.device)
    return values.new_zeros(count, *values.shape[1:]).index_copy(0, places, values)


def execute_open_loop(step: Step, starts: Tensor, actions: Tensor, evaluations: int = 0) -> Episodes:
    """Execute whole plans blindly; an episode ends at its plan's end or when the environment says done.

    Args:
        step: the environment, as in `receding_horizon`.
        starts: [B, ...].
        actions: [B, L] int64, or [B, L, A].
        evaluations: what each plan cost, for the record.
    """
    episodes = _Recorder(starts, actions.shape[1])
    episodes.evaluations[:, 0] += evaluations
    _execute(episodes, step, episodes.running(), actions)
    return episodes.finish()


def _execute(episodes: _Recorder, step: Step, running: Tensor, actions: Tensor) -> None:
    """Take actions [R, K(, A)] in the running episodes [R], each until it is done."""
    for now in actions.unbind(1):
        alive = ~episodes.done[running]
        if not alive.any():
            return
        episodes.advance(step, running[alive], now[alive])
