"""Random shooting: the control that spends the same budget without learning from it.

Shapes: B problems, N candidates, T steps, A actions.
"""

from dataclasses import dataclass
from typing import ClassVar

import torch

from .candidates import BestPlans, Noise, sample_actions, score, uniform_policy
from .problem import Plan, PlanningProblem, require


@dataclass(frozen=True)
class RandomShooting:
    """The best of as many uniformly random plans as the budget pays for."""

    over_time: ClassVar[str] = "softmin"  # what the problem should judge a plan by
    least_rollouts: ClassVar[int] = 1

    chunk: int = 64  # candidates evaluated at once; bounds the memory

    def __post_init__(self):
        require("chunk", self.chunk, self.chunk >= 1, "at least 1")

    def __call__(self, problem: PlanningProblem, noise: torch.Generator | Noise) -> Plan:
        """Plan within the problem's budget.

        Raises:
            BudgetExceeded: where it pays for fewer than `least_rollouts`.
            NoFinitePlan: where no candidate of a problem had a finite energy.
        """
        noise = Noise.of(noise, problem.num_problems)
        left = problem.affordable(self.least_rollouts)
        uniform = uniform_policy(problem)
        best = BestPlans(problem.num_problems, problem.horizon, problem.device)
        while left:
            count = min(self.chunk, left)
            actions = sample_actions(uniform, count, noise)
            best.offer(actions, score(problem.rollout, actions, problem.num_actions))
            best.record()
            left -= count
        return best.plan(problem)
