"""MPPI: model predictive path integral control (Williams et al., 2017, ICRA).

Shapes: B problems, N candidates of a round, T steps, A entries of an action.
"""

import math
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from ..candidates import Noise, score_relaxed
from ..coloured_noise import autoregressive_noise
from ..problem import require
from ..rounds import path_integral_weights, populations
from .candidates import best_of, checked, finish, require_correlation
from .problem import ContinuousPlan, ContinuousProblem


@dataclass(frozen=True)
class ContinuousMPPI:
    """Draw plans around a mean, and move the mean to their average, weighted by exp(-E / temperature).

    The mean is a candidate of every round, and the best plan scored is returned: the paper returns the mean,
    unscored. There is no cost of control. The temperature is in units of the standard deviation of a round's
    energies, so that it means the same near the goal and far from it.
    """

    least_rollouts: ClassVar[int] = 2

    rounds: int = 5  # of equal size; fewer where they would have less than 8 candidates
    temperature: float = 0.3  # in standard deviations of a round's energies
    deviation: float = 0.7  # of the noise, in an action's entry
    shrink: float = 0.8  # of the deviation, from round to round
    correlation: float = 0.8  # of the noise at neighbouring steps

    def __post_init__(self):
        require("rounds", self.rounds, self.rounds >= 1, "at least 1")
        require("temperature", self.temperature, 0 < self.temperature < math.inf, "positive and finite")
        require("deviation", self.deviation, 0 < self.deviation < math.inf, "positive and finite")
        require("shrink", self.shrink, 0 < self.shrink <= 1, "in (0, 1]")
        require_correlation(self.correlation)

    def __call__(
        self, problem: ContinuousProblem, noise: torch.Generator | Noise, initial: Tensor | None = None
    ) -> ContinuousPlan:
        """See ContinuousPlanner. It hands on its mean; it begins from the first initial plan."""
        noise, initial = Noise.of(noise, problem.num_problems), checked(problem, initial)
        best = best_of(problem)
        mean = torch.zeros_like(best.actions) if initial is None else initial[:, 0]
        deviation = self.deviation
        for count in populations(problem.affordable(self.least_rollouts), self.rounds, decay=1.0):
            shape = (len(mean), count, *mean.shape[1:])
            coloured = autoregressive_noise(noise, shape, mean.device, self.correlation)
            plans = (mean[:, None] + deviation * coloured).clamp(-1, 1)
            plans[:, 0] = mean
            energies = score_relaxed(problem.rollout, plans)
            best.offer(plans, energies)
            best.record()
            weights = path_integral_weights(energies, self.temperature)
            mean = (weights[..., None, None] * plans).sum(1)
            deviation *= self.shrink
        return finish(problem, best, mean[:, None])
