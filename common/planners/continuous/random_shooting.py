"""Random shooting on continuous actions: spends the same budget without learning from it.

Shapes: B problems, N candidates, T steps, A entries of an action.
"""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from ..candidates import Noise, score_relaxed
from ..problem import require
from .candidates import best_of, checked, draw_plans, finish, require_correlation
from .problem import ContinuousPlan, ContinuousProblem


@dataclass(frozen=True)
class ContinuousShooting:
    """The best of as many plans of coloured noise as the budget pays for; `initial` plans are among them."""

    least_rollouts: ClassVar[int] = 1

    correlation: float = 0.8  # of neighbouring steps
    chunk: int = 64  # candidates evaluated at once; bounds the memory

    def __post_init__(self):
        require_correlation(self.correlation)
        require("chunk", self.chunk, self.chunk >= 1, "at least 1")

    def __call__(
        self, problem: ContinuousProblem, noise: torch.Generator | Noise, initial: Tensor | None = None
    ) -> ContinuousPlan:
        """See ContinuousPlanner. It hands on its best plan."""
        noise, initial = Noise.of(noise, problem.num_problems), checked(problem, initial)
        left, best = problem.affordable(self.least_rollouts), best_of(problem)
        while left:
            count = min(self.chunk, left)
            plans = draw_plans(problem, count, self.correlation, noise, initial)
            best.offer(plans, score_relaxed(problem.rollout, plans))
            best.record()
            left, initial = left - count, None if initial is None else initial[:, count:]
        return finish(problem, best, best.actions[:, None])
