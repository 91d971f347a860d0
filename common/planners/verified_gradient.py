"""Gradient planning that returns what it has verified.

Shapes: B problems, T steps, A actions.
"""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from .candidates import Noise, Rollout
from .problem import Plan, PlanningProblem
from .straight_through import Chain, StraightThrough


@dataclass(frozen=True)
class VerifiedGradient(StraightThrough):
    """One long straight-through chain a problem; the best discrete plan that it scored is returned."""

    over_time: ClassVar[str] = "softmin"  # what the problem should judge a plan by

    def __call__(self, problem: PlanningProblem, noise: torch.Generator | Noise) -> Plan:
        """Plan within the problem's budget, all of it but one rollout for the relaxation gap.

        Raises:
            BudgetExceeded: where it pays for fewer than `least_rollouts`.
            NoFinitePlan: where no candidate of a problem had a finite energy.
            ValueError: in inference mode, or where the energies have no gradient.
        """
        noise = Noise.of(noise, problem.num_problems)
        iterations = (problem.affordable(self.least_rollouts) - 1) // self.iteration_cost
        chain = Chain(self.initial_logits(problem, problem.horizon, noise))
        self.descend(problem.rollout, chain, iterations, problem.energy_scale, noise)
        return self.finish(problem, chain)


@dataclass(frozen=True)
class VerifiedGradientZeroed(VerifiedGradient):
    """The control without the gradient: it is paid for and put to 0, and the chain stays where it began.

    What is left is the search: plans drawn from the first logits, verified, and the best kept.
    """

    def _sample_slope(self, rollout: Rollout, chain: Chain, noise: torch.Generator | Noise) -> Tensor:
        return torch.zeros_like(super()._sample_slope(rollout, chain, noise))


@dataclass(frozen=True)
class VerifiedGradientShuffled(VerifiedGradient):
    """The control with the gradient of other steps: shuffled over the steps anew at every iteration.

    It keeps how large the gradient is and which actions it prefers on the whole, and loses when.
    """

    def _sample_slope(self, rollout: Rollout, chain: Chain, noise: torch.Generator | Noise) -> Tensor:
        slope = super()._sample_slope(rollout, chain, noise)  # [B, T, A]
        order = Noise.of(noise, len(slope)).uniform(slope.shape[:2], slope.device).argsort(1)
        return slope.gather(1, order[..., None].expand_as(slope))
