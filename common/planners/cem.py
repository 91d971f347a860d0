"""The cross-entropy method on categorical action sequences.

Shapes: B problems, N candidates, E elites, T steps, A actions.
"""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from common.planners.candidates import BestPlans, Rollout, one_hot, sample_actions, score
from common.planners.problem import BudgetExceeded, Plan, PlanningProblem


@dataclass(frozen=True)
class CEM:
    """Sample plans step by step independently, refit the probabilities to the elites (Rubinstein, 1999).

    The best plan ever sampled is returned. Rounds follow from the budget: 10 of 32 at 320 T. Without
    smoothing long searches collapse: an action that the elites lack is never drawn again.
    """

    over_time: ClassVar[str] = "softmin"  # what the problem should judge a plan by

    population: int = 32  # N of a round; less where the budget pays for no full round
    elites: int = 4  # E
    smoothing: float = 0.05  # weight of the uniform distribution in each refit
    momentum: float = 0.0  # weight of the old probabilities in each refit
    coarse_share: float = 0.0  # of the budget, for rounds in the jumpy model (see CoarseCEM)

    def __call__(self, problem: PlanningProblem, generator: torch.Generator) -> Plan:
        """Plan within the problem's budget.

        Raises:
            BudgetExceeded: where it pays for no candidate.
        """
        shape = (problem.num_problems, problem.horizon, problem.num_actions)
        probabilities = torch.full(shape, 1 / problem.num_actions, device=problem.device)
        best = BestPlans(problem.num_problems, problem.horizon, problem.device)
        spend = min(int(self.coarse_share * problem.budget), problem.remaining - 2 * problem.horizon)
        if problem.macro_steps and spend >= problem.macro_steps:
            coarse = BestPlans(problem.num_problems, problem.horizon, problem.device)
            candidates = spend // problem.macro_steps
            probabilities = self._search(problem.coarse_rollout, candidates, probabilities, coarse, generator)
            plans = coarse.actions[:, None]
            best.offer(plans, score(problem.rollout, plans, problem.num_actions))
            best.record()
        affordable = problem.remaining // problem.horizon
        if affordable < 1:
            raise BudgetExceeded(f"a budget of {problem.budget} pays for no candidate")
        self._search(problem.rollout, affordable, probabilities, best, generator)
        history = torch.stack(best.history)
        return Plan(best.actions, best.energy, torch.zeros_like(best.energy), problem.evaluations, history)

    def _search(
        self,
        rollout: Rollout,
        affordable: int,
        probabilities: Tensor,
        best: BestPlans,
        generator: torch.Generator,
    ) -> Tensor:
        """Rounds of sampling and refitting with `affordable` candidates in all; the last probabilities."""
        num_actions = probabilities.shape[-1]
        population = min(self.population, affordable)
        for _ in range(affordable // population):
            actions = sample_actions(probabilities, population, generator)
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
