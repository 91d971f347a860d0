"""CEM whose horizon grows: the control that tells the schedule of `belief` from its gradient.

Shapes: B problems, N candidates, T steps, A actions.
"""

import math
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from .belief import capped_horizon, grown_horizon, grown_horizons
from .candidates import BestPlans, Noise, Rollout, sample_actions, score, take, uniform_policy
from .cem import CEM
from .problem import Plan, PlanningProblem, require


@dataclass(frozen=True)
class GrowingCEM(CEM):
    """CEM (Rubinstein, 1999) that judges candidates by their first h steps, h growing as Belief's does.

    h grows from 3 to T, or where energies are steps to go, to those from the start and `slack` more.

    The elites' refit concerns those steps alone, as the others are not judged. The best candidate of each
    round is scored on all T steps, and the best of these is returned.
    """

    over_time: ClassVar[str] = "final"

    growth: float = 0.8  # share of the rounds after which h is T
    least_horizon: int = 3  # the first h
    slack: float = math.inf  # steps by which h may exceed the energy at the start; inf: h grows to T

    def __post_init__(self):
        super().__post_init__()
        require("growth", self.growth, 0 < self.growth <= 1, "in (0, 1]")
        require("least_horizon", self.least_horizon, self.least_horizon >= 1, "at least 1")
        require("slack", self.slack, self.slack >= 0, "at least 0")

    @property
    def least_rollouts(self) -> int:
        """The smallest budget, in rollouts a problem: one candidate and its verification."""
        return 2

    def __call__(self, problem: PlanningProblem, noise: torch.Generator | Noise) -> Plan:
        """Plan within the problem's budget.

        Raises:
            BudgetExceeded: where it pays for fewer than `least_rollouts`.
            NoFinitePlan: where no candidate of a problem had a finite energy.
        """
        noise = Noise.of(noise, problem.num_problems)
        population = min(self.population, problem.affordable(self.least_rollouts) - 1)
        cap = capped_horizon(problem, self.slack)
        probabilities = uniform_policy(problem)
        best = BestPlans(problem.num_problems, problem.horizon, problem.device)
        within = torch.arange(problem.horizon, device=problem.device)
        for steps in self._schedule(problem, cap, population):
            actions = sample_actions(probabilities, population, noise)
            energies = score(_until(problem, steps), actions, problem.num_actions)
            leader = take(actions, energies.argmin(1, keepdim=True))
            best.offer(leader, score(problem.rollout, leader, problem.num_actions))
            best.record()
            fitted = self._elite_frequencies(actions, energies, problem.num_actions)
            fitted = (1 - self.smoothing) * fitted + self.smoothing / problem.num_actions
            kept = self.momentum * probabilities + (1 - self.momentum) * fitted
            judged = (within < steps[:, None])[..., None]  # [B, T, 1]
            probabilities = torch.where(judged, kept, probabilities)
        return best.plan(problem)

    def _schedule(self, problem: PlanningProblem, cap: Tensor, population: int) -> list[Tensor]:
        """The horizons [B] of as many rounds as the budget pays for, one at least."""
        longest, rounds = int(cap.max()), 1

        def cost(rounds: int) -> int:
            ahead = (
                grown_horizon(index, rounds, longest, self.growth, self.least_horizon)
                for index in range(rounds)
            )
            return population * sum(ahead) + rounds * problem.horizon

        while cost(rounds + 1) <= problem.remaining:
            rounds += 1
        return [
            grown_horizons(index, rounds, cap, self.growth, self.least_horizon) for index in range(rounds)
        ]


def _until(problem: PlanningProblem, steps: Tensor) -> Rollout:
    """Energies after so many steps [B]: a function of actions [B, N, T, A] -> [B, N]."""
    return lambda actions: problem.rollout_until(actions, steps)
