"""MPPI on categorical action sequences (after Williams et al., 2017, ICRA, which is on continuous ones).

Shapes: B problems, N candidates of a round, T steps, A actions.
"""

import math
from dataclasses import dataclass
from typing import ClassVar

import torch

from .candidates import BestPlans, Noise, one_hot, sample_actions, score, uniform_policy
from .problem import Plan, PlanningProblem, require
from .rounds import path_integral_weights, populations


@dataclass(frozen=True)
class MPPI:
    """Draw plans step by step, and refit the probabilities to all of them, weighted by exp(-E / temperature).

    The temperature is in standard deviations of a round's energies. The best plan ever scored is returned.
    """

    over_time: ClassVar[str] = "softmin"  # what the problem should judge a plan by
    least_rollouts: ClassVar[int] = 2

    rounds: int = 10  # of equal size; fewer where they would have less than 8 candidates
    temperature: float = 0.3  # in standard deviations of a round's energies
    momentum: float = 0.3  # weight of the old probabilities in each refit
    smoothing: float = 0.05  # weight of the uniform distribution in each refit

    def __post_init__(self):
        require("rounds", self.rounds, self.rounds >= 1, "at least 1")
        require("temperature", self.temperature, 0 < self.temperature < math.inf, "positive and finite")
        require("momentum", self.momentum, 0 <= self.momentum < 1, "in [0, 1)")
        require("smoothing", self.smoothing, 0 <= self.smoothing <= 1, "in [0, 1]")

    def __call__(self, problem: PlanningProblem, noise: torch.Generator | Noise) -> Plan:
        """Plan within the problem's budget, all of it.

        Raises:
            BudgetExceeded: where it pays for fewer than `least_rollouts`.
            NoFinitePlan: where no candidate of a problem had a finite energy.
        """
        noise, probabilities = Noise.of(noise, problem.num_problems), uniform_policy(problem)
        best = BestPlans(problem.num_problems, problem.horizon, problem.device)
        for count in populations(problem.affordable(self.least_rollouts), self.rounds, decay=1.0):
            plans = sample_actions(probabilities, count, noise)
            energies = score(problem.rollout, plans, problem.num_actions)
            best.offer(plans, energies)
            best.record()
            weights = path_integral_weights(energies, self.temperature)
            fitted = (weights[..., None, None] * one_hot(plans, problem.num_actions)).sum(1)
            fitted = (1 - self.smoothing) * fitted + self.smoothing / problem.num_actions
            probabilities = self.momentum * probabilities + (1 - self.momentum) * fitted
        return best.plan(problem)
