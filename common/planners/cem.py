"""The cross-entropy method on categorical action sequences.

Shapes: B problems, N candidates, E elites, T steps, A actions.
"""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from .candidates import BestPlans, Noise, Rollout, one_hot, sample_actions, score, uniform_policy
from .problem import Plan, PlanningProblem, require


@dataclass(frozen=True)
class CEM:
    """Sample plans step by step independently, refit the probabilities to the elites (Rubinstein, 1999).

    The best plan ever sampled is returned. Rounds follow from the budget: 10 of 32 at 320 T. Without
    smoothing long searches collapse: an action that the elites lack is never drawn again.
    """

    over_time: ClassVar[str] = "softmin"  # what the problem should judge a plan by
    least_rollouts: ClassVar[int] = 1

    population: int = 32  # N of a round; less where the budget pays for no full round
    elites: int = 4  # E
    smoothing: float = 0.05  # weight of the uniform distribution in each refit
    momentum: float = 0.0  # weight of the old probabilities in each refit
    coarse_share: float = 0.0  # of the budget, for rounds in the jumpy model (see CoarseCEM)

    def __post_init__(self):
        require("population", self.population, self.population >= 1, "at least 1")
        require("elites", self.elites, self.elites >= 1, "at least 1")
        require("smoothing", self.smoothing, 0 <= self.smoothing <= 1, "in [0, 1]")
        require("momentum", self.momentum, 0 <= self.momentum < 1, "in [0, 1)")
        require("coarse_share", self.coarse_share, 0 <= self.coarse_share < 1, "in [0, 1)")

    def __call__(self, problem: PlanningProblem, noise: torch.Generator | Noise) -> Plan:
        """Plan within the problem's budget.

        Raises:
            BudgetExceeded: where it pays for fewer than `least_rollouts`.
            NoFinitePlan: where no candidate of a problem had a finite energy.
        """
        noise = Noise.of(noise, problem.num_problems)
        probabilities = uniform_policy(problem)
        best = BestPlans(problem.num_problems, problem.horizon, problem.device)
        spend = min(int(self.coarse_share * problem.budget), problem.remaining - 2 * problem.horizon)
        if problem.macro_steps and spend >= problem.macro_steps:
            coarse = BestPlans(problem.num_problems, problem.horizon, problem.device)
            candidates = spend // problem.macro_steps
            probabilities = self._search(problem.coarse_rollout, candidates, probabilities, coarse, noise)
            plans = coarse.actions[:, None]
            best.offer(plans, score(problem.rollout, plans, problem.num_actions))
            best.record()
        affordable = problem.affordable(self.least_rollouts)
        self._search(problem.rollout, affordable, probabilities, best, noise)
        return best.plan(problem)

    def _search(
        self,
        rollout: Rollout,
        affordable: int,
        probabilities: Tensor,
        best: BestPlans,
        noise: Noise,
    ) -> Tensor:
        """Rounds of sampling and refitting with `affordable` candidates in all; the last probabilities."""
        num_actions = probabilities.shape[-1]
        population = min(self.population, affordable)
        for _ in range(affordable // population):
            actions = sample_actions(probabilities, population, noise)
            energies = score(rollout, actions, num_actions)
            best.offer(actions, energies)
            best.record()
            fitted = self._elite_frequencies(actions, energies, num_actions)
            fitted = (1 - self.smoothing) * fitted + self.smoothing / num_actions
            probabilities = self.momentum * probabilities + (1 - self.momentum) * fitted
        return probabilities

    def _elite_frequencies(self, actions: Tensor, energies: Tensor, num_actions: int) -> Tensor:
        """How often the elites take each action at each step: [B, N, T], [B, N] -> [B, T, A]."""
        elite = energies.topk(min(self.elites, energies.shape[1]), largest=False).indices  # [B, E]
        chosen = actions.gather(1, elite[..., None].expand(-1, -1, actions.shape[-1]))
        return one_hot(chosen, num_actions).mean(1)


@dataclass(frozen=True)
class CoarseCEM(CEM):
    """CEM from coarse to fine: HELM's hierarchy without its gradient, the control that tells them apart.

    Part of the budget goes to rounds in the jumpy model, whose evaluations cost a stride-th for a plan; the
    rounds on the fine model go on from the probabilities that those end with. The plan and its energy are
    the fine model's. Without a jumpy model it is CEM.
    """

    coarse_share: float = 0.5
