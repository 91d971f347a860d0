"""iCEM on categorical action sequences (after Pinneri et al., 2020, CoRL, which is on continuous ones).

Shapes: B problems, N candidates of a round, E elites, T steps, A actions.
"""

import math
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from .candidates import BestPlans, Noise, one_hot, score, take, uniform_policy
from .coloured_noise import power_law_noise
from .problem import Plan, PlanningProblem, require
from .rounds import populations, require_icem


@dataclass(frozen=True)
class ICEM:
    """CEM with coloured noise, elites kept, a falling population, and the likeliest plan in the last round.

    Noise over time: a plan is argmax_k (log p_k + g_k), with g standard Gumbel at every step and coloured
    over the steps, so that each step follows p and neighbouring steps tend to agree. Elites that stay in the
    pool keep the energy known of them. `rounds` is fixed, and the populations use up the budget.
    """

    over_time: ClassVar[str] = "softmin"  # what the problem should judge a plan by
    least_rollouts: ClassVar[int] = 2

    rounds: int = 10  # fewer where they would have less than 8 candidates
    decay: float = 1.25  # of the population, from round to round
    elites: int = 4  # E, half of the pool at most
    kept: float = 0.3  # share of the elites that stays in the pool
    momentum: float = 0.1  # weight of the old probabilities in each refit
    smoothing: float = 0.05  # weight of the uniform distribution in each refit
    exponent: float = 2.0  # of the noise's power law

    def __post_init__(self):
        require_icem(self.rounds, self.decay, self.elites, self.kept, self.momentum, self.exponent)
        require("smoothing", self.smoothing, 0 <= self.smoothing <= 1, "in [0, 1]")

    def __call__(self, problem: PlanningProblem, noise: torch.Generator | Noise) -> Plan:
        """Plan within the problem's budget, all of it.

        Raises:
            BudgetExceeded: where it pays for fewer than `least_rollouts`.
            NoFinitePlan: where no candidate of a problem had a finite energy.
        """
        noise, probabilities = Noise.of(noise, problem.num_problems), uniform_policy(problem)
        best = BestPlans(problem.num_problems, problem.horizon, problem.device)
        pool, known = best.actions[:, None][:, :0], best.energy[:, None][:, :0]  # elites kept: none yet
        sizes = populations(problem.affordable(self.least_rollouts), self.rounds, self.decay)
        for index, count in enumerate(sizes):
            plans = self._draw(probabilities, count, noise)
            if 0 < index == len(sizes) - 1:
                plans[:, -1] = probabilities.argmax(-1)
            energies = score(problem.rollout, plans, problem.num_actions)
            best.offer(plans, energies)
            best.record()
            pool, known = torch.cat([pool, plans], 1), torch.cat([known, energies], 1)
            elites = min(self.elites, max(1, pool.shape[1] // 2))
            known, lowest = known.topk(elites, largest=False)
            pool = take(pool, lowest)
            fitted = one_hot(pool, problem.num_actions).mean(1)
            fitted = (1 - self.smoothing) * fitted + self.smoothing / problem.num_actions
            probabilities = self.momentum * probabilities + (1 - self.momentum) * fitted
            stay = math.ceil(self.kept * elites)
            pool, known = pool[:, :stay], known[:, :stay]
        return best.plan(problem)

    def _draw(self, probabilities: Tensor, count: int, noise: Noise) -> Tensor:
        """Plans whose steps follow the probabilities [B, T, A]: [B, N, T] int64."""
        batch, horizon, num_actions = probabilities.shape
        shape = (batch, count, horizon, num_actions)
        coloured = power_law_noise(noise, shape, probabilities.device, self.exponent)
        exponential = -torch.special.log_ndtr(coloured)
        gumbel = -exponential.clamp(min=torch.finfo(torch.float32).tiny).log()
        return (probabilities.log()[:, None] + gumbel).argmax(-1)
