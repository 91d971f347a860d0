"""Hill climbing on single action swaps: local search without a gradient.

Shapes: B problems, N candidates of a round, T steps, A actions.
"""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from .candidates import BestPlans, Noise, sample_actions, score, take, uniform_policy
from .problem import Plan, PlanningProblem, require


@dataclass(frozen=True)
class HillClimbing:
    """From the best of N random plans, take the best of N random single swaps wherever it is better.

    A swap puts another action at one step; those of a round differ. With N at least T (A - 1) a round tries
    them all. A problem that found no better one for `patience` rounds begins again with N random plans. The
    best plan ever scored is returned.
    """

    over_time: ClassVar[str] = "softmin"  # what the problem should judge a plan by
    least_rollouts: ClassVar[int] = 1

    swaps: int = 32  # N
    patience: int = 4  # rounds without improvement before a restart

    def __post_init__(self):
        require("swaps", self.swaps, self.swaps >= 1, "at least 1")
        require("patience", self.patience, self.patience >= 1, "at least 1")

    def __call__(self, problem: PlanningProblem, noise: torch.Generator | Noise) -> Plan:
        """Plan within the problem's budget, all of it.

        Raises:
            BudgetExceeded: where it pays for fewer than `least_rollouts`.
            NoFinitePlan: where no candidate of a problem had a finite energy.
        """
        noise = Noise.of(noise, problem.num_problems)
        left, uniform = problem.affordable(self.least_rollouts), uniform_policy(problem)
        best = BestPlans(problem.num_problems, problem.horizon, problem.device)
        here, energy = best.actions, best.energy  # where each climb stands, [B, T] and [B]
        begins = torch.ones_like(energy, dtype=torch.bool)
        failures = torch.zeros_like(here[:, 0])
        while left:
            count = min(self.swaps, left, _neighbours(problem))
            anew = sample_actions(uniform, count, noise)  # drawn for all: no problem's noise shifts another's
            plans = torch.where(
                begins[:, None, None], anew, _swapped(here, count, problem.num_actions, noise)
            )
            energies = score(problem.rollout, plans, problem.num_actions)
            best.offer(plans, energies)
            best.record()
            lowest, index = energies.min(1)
            moves = begins | (lowest < energy)
            here = torch.where(moves[:, None], take(plans, index[:, None])[:, 0], here)
            energy = torch.where(moves, lowest, energy)
            failures = torch.where(moves, 0, failures + 1)
            begins = failures >= self.patience
            left -= count
        return best.plan(problem)


def _neighbours(problem: PlanningProblem) -> int:
    """Single swaps of a plan, T (A - 1); where there is one action, the plan itself counts for each step."""
    return problem.horizon * max(problem.num_actions - 1, 1)


def _swapped(plans: Tensor, count: int, num_actions: int, noise: Noise) -> Tensor:
    """So many of each plan's single swaps, drawn without replacement: [B, T] -> [B, N, T]."""
    batch, horizon = plans.shape
    others = max(num_actions - 1, 1)
    chosen = noise.uniform((batch, horizon * others), plans.device).topk(count).indices  # [B, N]
    step, other = chosen[..., None] // others, chosen[..., None] % others + 1
    candidates = plans[:, None].expand(-1, count, -1)
    instead = (candidates.gather(2, step) + other) % num_actions
    return candidates.scatter(2, step, instead)
