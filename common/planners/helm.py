"""HELM: plan coarsely over the jumpy model, then refine on the fine one.

Shapes: B problems, N candidates, T steps, A actions, M macro steps.
"""

import math
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from .candidates import Noise, score
from .problem import Plan, PlanningProblem, require
from .straight_through import Chain, StraightThrough


@dataclass(frozen=True)
class Helm(StraightThrough):
    """A straight-through chain over T actions in the jumpy model, refined by one on the fine model.

    A macro step stands for `stride` steps, so a coarse iteration costs a stride-th of a fine one and its
    gradient passes a stride-th of the transitions. Both stages verify in their own model; the plan and its
    energy are the fine model's.

    coarse="repeat" is the documents' coarse stage: one action for every `stride` steps, repeated, and
    evaluated on the fine model. It is what a problem without a jumpy model gets, or with a horizon
    below its stride.
    """

    over_time: ClassVar[str] = "softmin"  # what the problem should judge a plan by

    coarse: str = "jumpy"  # "jumpy" or "repeat"
    coarse_share: float = 0.5  # of the budget, for the coarse stage
    carry: float = 0.5  # of the coarse logits, into the fine stage; less leaves it more to decide

    def __post_init__(self):
        super().__post_init__()
        require("coarse", self.coarse, self.coarse in ("jumpy", "repeat"), "'jumpy' or 'repeat'")
        require("coarse_share", self.coarse_share, 0 <= self.coarse_share < 1, "in [0, 1)")
        require("carry", self.carry, math.isfinite(self.carry), "finite")

    def __call__(self, problem: PlanningProblem, noise: torch.Generator | Noise) -> Plan:
        """Plan within the problem's budget.

        Raises:
            BudgetExceeded: where it pays for fewer than `least_rollouts` on the fine model.
            NoFinitePlan: where no candidate of a problem had a finite energy.
            ValueError: in inference mode, or where the energies have no gradient.
        """
        noise = Noise.of(noise, problem.num_problems)
        chain = self._coarse_stage(problem, noise)
        iterations = (problem.affordable(self.least_rollouts) - 1) // self.iteration_cost
        self.descend(problem.rollout, chain, iterations, problem.energy_scale, noise)
        return self.finish(problem, chain)

    def _coarse_stage(self, problem: PlanningProblem, noise: torch.Generator | Noise) -> Chain:
        """The chain that the fine stage runs on: coarse logits, and the best coarse plan, scored finely."""
        jumpy = self.coarse == "jumpy" and problem.macro_steps > 0
        level = _JumpyLevel(problem) if jumpy else _RepeatedLevel(problem)
        fine_minimum = (self.iteration_cost + 2) * problem.horizon  # an iteration, the coarse plan, the gap
        spend = min(int(self.coarse_share * problem.budget), problem.remaining - fine_minimum)
        iterations = max(spend // (self.iteration_cost * level.cost), 0)
        coarse = Chain(self.initial_logits(problem, level.steps, noise))
        self.descend(level.rollout, coarse, iterations, problem.energy_scale, noise)
        fine = Chain(self.carry * level.to_fine(coarse.logits, 1))
        if iterations:
            plans = level.to_fine(coarse.best.actions, 1)[:, None]
            fine.offer(plans, score(problem.rollout, plans, problem.num_actions))
            fine.best.record()
        return fine


class _JumpyLevel:
    """All T actions, judged by the jumpy model."""

    def __init__(self, problem: PlanningProblem):
        self.steps, self.cost, self.rollout = problem.horizon, problem.macro_steps, problem.coarse_rollout

    def to_fine(self, values: Tensor, axis: int) -> Tensor:
        """Of a chain's steps, those of the fine model: the same."""
        return values


class _RepeatedLevel:
    """One action for every `stride` steps, ceil(T / stride) of them, judged by the fine model."""

    def __init__(self, problem: PlanningProblem):
        self.problem, self.cost = problem, problem.horizon
        self.steps = -(-problem.horizon // problem.stride)

    def to_fine(self, values: Tensor, axis: int) -> Tensor:
        """Each step of a chain repeated: [.., ceil(T / stride), ..] -> [.., T, ..]."""
        repeated = values.repeat_interleave(self.problem.stride, axis)
        return repeated.narrow(axis, 0, self.problem.horizon)

    def rollout(self, actions: Tensor) -> Tensor:
        """Energies by the fine model: [B, N, ceil(T / stride), A] -> [B, N]."""
        return self.problem.rollout(self.to_fine(actions, 2))
