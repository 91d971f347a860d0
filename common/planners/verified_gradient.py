"""Gradient planning that returns what it has verified.

Shapes: B problems, T steps, A actions.
"""

from dataclasses import dataclass
from typing import ClassVar

import torch

from .candidates import Noise
from .problem import Plan, PlanningProblem
from .straight_through import Chain, StraightThrough, affordable_iterations


@dataclass(frozen=True)
class VerifiedGradient(StraightThrough):
    """One long straight-through chain a problem; the best discrete plan that it scored is returned."""

    over_time: ClassVar[str] = "softmin"  # what the problem should judge a plan by

    def __call__(self, problem: PlanningProblem, noise: torch.Generator | Noise) -> Plan:
        """Plan within the problem's budget, all of it but one rollout for the relaxation gap.

        Raises:
            BudgetExceeded: where it does not pay for one iteration and the gap.
            NoFinitePlan: where no candidate of a problem had a finite energy.
            ValueError: in inference mode, or where the energies have no gradient.
        """
        noise = Noise.of(noise, problem.num_problems)
        rollouts = problem.remaining // problem.horizon - 1
        iterations = affordable_iterations(rollouts, self.iteration_cost)
        chain = Chain(self.initial_logits(problem, problem.horizon, noise))
        self.descend(problem.rollout, chain, iterations, problem.energy_scale, noise)
        return self.finish(problem, chain)
