"""Gradient descent on continuous actions: plain, normalised, and Adam, from several starts at once.

Shapes: B problems, G starts, T steps, A entries of an action.
"""

import math
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from ..adam import Adam
from ..candidates import Noise, score_relaxed, slopes_at, take
from ..problem import BACKWARD_COST, require
from .candidates import best_of, checked, draw_plans, finish, require_correlation
from .problem import ContinuousPlan, ContinuousProblem

GRADIENT_COST = 1 + BACKWARD_COST  # of one gradient step of one start, in rollouts

Step = Callable[[Tensor, Tensor], Tensor]  # (plans, their slopes [B, G, T, A]) -> plans, unclamped


@dataclass(frozen=True)
class GradientPlanner(ABC):
    """Descend from G plans of coloured noise, each for itself; the best plan scored on the way is returned.

    A plan's energy comes with its gradient, so every iterate is scored; the last ones are scored without.
    Actions are clamped to the box after every step. A share of the budget can go to drawing more plans than
    G, of which the best are the starts. Gradients are in units of the energy scale.
    """

    least_rollouts: ClassVar[int] = GRADIENT_COST + 1  # one start, one step, and what it led to

    starts: int = 16  # G; fewer where the budget pays for no step of each
    screening: float = 0.0  # share of the budget for drawing the plans whose best are the starts
    correlation: float = 0.8  # of neighbouring steps in the plans drawn

    def __post_init__(self):
        require("starts", self.starts, self.starts >= 1, "at least 1")
        require("screening", self.screening, 0 <= self.screening < 1, "in [0, 1)")
        require_correlation(self.correlation)

    @abstractmethod
    def make_step(self, plans: Tensor) -> Step:
        """The step of a descent that begins at these plans."""

    def __call__(
        self, problem: ContinuousProblem, noise: torch.Generator | Noise, initial: Tensor | None = None
    ) -> ContinuousPlan:
        """See ContinuousPlanner. It hands on all its last plans, the best first.

        Raises:
            ValueError: in inference mode, or where the energies have no gradient.
        """
        noise, initial = Noise.of(noise, problem.num_problems), checked(problem, initial)
        rollouts, best = problem.affordable(self.least_rollouts), best_of(problem)
        starts = min(self.starts, rollouts // self.least_rollouts)
        screened = min(int(self.screening * rollouts), rollouts - starts * self.least_rollouts)
        plans = draw_plans(problem, max(screened, starts), self.correlation, noise, initial)
        if screened > starts:
            energies = score_relaxed(problem.rollout, plans)
            best.offer(plans, energies)
            best.record()
            plans = take(plans, energies.topk(starts, largest=False).indices)
        plans = plans[:, :starts]
        step = self.make_step(plans)
        for _ in range((problem.affordable(0) // starts - 1) // GRADIENT_COST):
            energies, slopes = slopes_at(problem.rollout, plans)
            best.offer(plans, energies)
            best.record()
            plans = step(plans, slopes / problem.energy_scale[:, None, None, None]).clamp(-1, 1)
        energies = score_relaxed(problem.rollout, plans)
        best.offer(plans, energies)
        best.record()
        ranked = take(plans, energies.argsort(dim=1, stable=True))
        return finish(problem, best, ranked)


@dataclass(frozen=True)
class PlainGradient(GradientPlanner):
    """u <- u - rate * dE/du."""

    rate: float = 1.0

    def __post_init__(self):
        super().__post_init__()
        require("rate", self.rate, 0 < self.rate < math.inf, "positive and finite")

    def make_step(self, plans: Tensor) -> Step:
        return lambda plans, slopes: plans - self.rate * slopes


@dataclass(frozen=True)
class NormalisedGradient(GradientPlanner):
    """u <- u - fraction * |u| * g / |g|, norms over a whole plan: steps as long however large the gradient.

    A plan shorter than `shortest` moves as one of that norm, so that a plan of zeros can leave its place.
    """

    fraction: float = 0.15  # of the plan's norm
    shortest: float = 0.1  # root mean square of a plan's entries that counts for shorter ones

    def __post_init__(self):
        super().__post_init__()
        require("fraction", self.fraction, 0 < self.fraction < math.inf, "positive and finite")
        require("shortest", self.shortest, 0 <= self.shortest <= 1, "in [0, 1]")

    def make_step(self, plans: Tensor) -> Step:
        least = self.shortest * math.sqrt(plans[0, 0].numel())

        def step(plans: Tensor, slopes: Tensor) -> Tensor:
            length = _norm(plans).clamp(min=least)
            largest = slopes.abs().amax((2, 3), keepdim=True)
            direction = slopes / largest.clamp(min=torch.finfo(slopes.dtype).tiny)  # no square overflows
            return plans - self.fraction * length * direction / _norm(direction).clamp(min=1.0)

        return step


@dataclass(frozen=True)
class AdamGradient(GradientPlanner):
    """Adam (Kingma & Ba, 2015) on the actions."""

    rate: float = 0.1  # how far an action moves in a step, about
    betas: tuple[float, float] = (0.5, 0.9)

    def __post_init__(self):
        super().__post_init__()
        require("rate", self.rate, 0 < self.rate < math.inf, "positive and finite")
        two = len(self.betas) == 2
        require(
            "betas", self.betas, two and all(0 <= beta < 1 for beta in self.betas), "two numbers in [0, 1)"
        )

    def make_step(self, plans: Tensor) -> Step:
        adam = Adam(plans, self.rate, self.betas)

        def step(plans: Tensor, slopes: Tensor) -> Tensor:
            moved = plans.clone()
            adam.step(moved, slopes)
            return moved

        return step


def _norm(plans: Tensor) -> Tensor:
    """Of whole plans: [B, G, T, A] -> [B, G, 1, 1]."""
    return plans.square().sum((2, 3), keepdim=True).sqrt()
