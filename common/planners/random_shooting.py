"""Random shooting: the control that spends the same budget without learning from it.

Shapes: B problems, N candidates, T steps, A actions.
"""

from dataclasses import dataclass
from typing import ClassVar

import torch

from common.planners.candidates import BestPlans, sample_actions, score
from common.planners.problem import BudgetExceeded, Plan, PlanningProblem


@dataclass(frozen=True)
class RandomShooting:
    """The best of as many uniformly random plans as the budget pays for."""

    over_time: ClassVar[str] = "softmin"  # what the problem should judge a plan by

    chunk: int = 64  # candidates evaluated at once; bounds the memory

    def __call__(self, problem: PlanningProblem, generator: torch.Generator) -> Plan:
        """Plan within the problem's budget.

        Raises:
            BudgetExceeded: where it pays for no candidate.
        """
        left = problem.remaining // problem.horizon
        if left < 1:
            raise BudgetExceeded(f"a budget of {problem.budget} pays for no candidate")
        shape = (problem.num_problems, problem.horizon, problem.num_actions)
        uniform = torch.full(shape, 1 / problem.num_actions, device=problem.device)
        best = BestPlans(problem.num_problems, problem.horizon, problem.device)
        while left:
            count = min(self.chunk, left)
            actions = sample_actions(uniform, count, generator)
            best.offer(actions, score(problem.rollout, actions, problem.num_actions))
            best.record()
            left -= count
        history = torch.stack(best.history)
        return Plan(best.actions, best.energy, torch.zeros_like(best.energy), problem.evaluations, history)
