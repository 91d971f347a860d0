"""iCEM: the cross-entropy method with coloured noise and elites kept (Pinneri et al., 2020, CoRL).

Shapes: B problems, N candidates of a round, E elites, T steps, A entries of an action.
"""

import math
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from ..candidates import Noise, score_relaxed, take
from ..coloured_noise import power_law_noise
from ..problem import require
from ..rounds import populations, require_icem
from .candidates import best_of, checked, finish
from .problem import ContinuousPlan, ContinuousProblem


@dataclass(frozen=True)
class ContinuousICEM:
    """Draw plans around a mean with noise coloured over time, refit mean and deviation to the elites.

    Of the paper: power-law noise; fewer candidates every round; the best elites stay in the next round's
    pool, with the energies known of them (the model is deterministic); the mean is a candidate of the last
    round; the best plan is returned. Handed on to the next plan are the mean and the elites kept: all are
    among the candidates of its first round (in the paper the mean is not), which is drawn around that mean.
    The paper fixes the population; here `rounds` is fixed, and the populations use up the budget.
    """

    least_rollouts: ClassVar[int] = 2

    rounds: int = 5  # fewer where they would have less than 8 candidates
    decay: float = 1.25  # of the population, from round to round
    elites: int = 8  # E, half of the pool at most
    kept: float = 0.3  # share of the elites that stays in the pool
    momentum: float = 0.1  # weight of the old mean and deviation in each refit
    deviation: float = 0.7  # of the first round, in an action's entry
    exponent: float = 2.0  # of the noise's power law

    def __post_init__(self):
        require_icem(self.rounds, self.decay, self.elites, self.kept, self.momentum, self.exponent)
        require("deviation", self.deviation, 0 < self.deviation < math.inf, "positive and finite")

    def __call__(
        self, problem: ContinuousProblem, noise: torch.Generator | Noise, initial: Tensor | None = None
    ) -> ContinuousPlan:
        """See ContinuousPlanner. It hands on its mean and the elites kept."""
        noise, initial = Noise.of(noise, problem.num_problems), checked(problem, initial)
        best = best_of(problem)
        mean = torch.zeros_like(best.actions) if initial is None else initial[:, 0]
        deviation = torch.full_like(mean, self.deviation)
        pool = mean.new_zeros(len(mean), 0, *mean.shape[1:])  # elites kept, with their energies
        known = mean.new_zeros(len(mean), 0)
        sizes = populations(problem.affordable(self.least_rollouts), self.rounds, self.decay)
        for index, count in enumerate(sizes):
            plans = self._draw(mean, deviation, count, noise)
            if index == 0 and initial is not None:
                again = initial[:, :count]
                plans[:, : again.shape[1]] = again
            if index == len(sizes) - 1:
                plans[:, -1] = mean
            energies = score_relaxed(problem.rollout, plans)
            best.offer(plans, energies)
            best.record()
            pool, known = torch.cat([pool, plans], 1), torch.cat([known, energies], 1)
            elites, known = self._elites(pool, known)
            mean = self.momentum * mean + (1 - self.momentum) * elites.mean(1)
            spread = elites.std(1, correction=0)
            deviation = self.momentum * deviation + (1 - self.momentum) * spread
            stay = math.ceil(self.kept * elites.shape[1])
            pool, known = elites[:, :stay], known[:, :stay]
        return finish(problem, best, torch.cat([mean[:, None], pool], 1))

    def _draw(self, mean: Tensor, deviation: Tensor, count: int, noise: Noise) -> Tensor:
        """Plans around the mean [B, T, A], clamped to the box: [B, N, T, A]."""
        shape = (len(mean), count, *mean.shape[1:])
        coloured = power_law_noise(noise, shape, mean.device, self.exponent)
        return (mean[:, None] + deviation[:, None] * coloured).clamp(-1, 1)

    def _elites(self, pool: Tensor, energies: Tensor) -> tuple[Tensor, Tensor]:
        """The best of the pool, best first, and their energies."""
        count = min(self.elites, max(1, pool.shape[1] // 2))
        lowest, index = energies.topk(count, largest=False)
        return take(pool, index), lowest
