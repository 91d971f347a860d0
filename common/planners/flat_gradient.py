"""The flat gradient planner as the original documents have it: the baseline.

Shapes: B problems, T steps, A actions, I gradient steps.
"""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from common.planners.candidates import gumbel_noise, score
from common.planners.problem import BACKWARD_COST, BudgetExceeded, Plan, PlanningProblem


@dataclass(frozen=True)
class FlatGradient:
    """SGD on logits through soft Gumbel-softmax actions; returns their argmax, which it never checked.

    Each step takes a = softmax((logits + g) / tau), g Gumbel (Jang et al., 2017), and descends on the
    energy of the last state, 1/2 ||z_T - z_goal||^2 in the documents. The published 50 steps spend 150 T of
    the budget; the one evaluation of the returned plan serves the report and changes nothing.
    """

    over_time: ClassVar[str] = "final"  # what the problem should judge a plan by

    gd_steps: int = 50  # gradient steps, fewer where the budget ends
    gd_lr: float = 0.1  # of SGD
    tau: float = 1.0  # temperature of the relaxation

    def __call__(self, problem: PlanningProblem, generator: torch.Generator) -> Plan:
        """Plan within the problem's budget.

        Raises:
            BudgetExceeded: where it does not pay for one gradient step and the report.
        """
        steps = min(self.gd_steps, (problem.remaining // problem.horizon - 1) // (1 + BACKWARD_COST))
        if steps < 1:
            raise BudgetExceeded(f"a budget of {problem.budget} pays for no gradient step")
        logits = torch.zeros(
            problem.num_problems, problem.horizon, problem.num_actions, device=problem.device
        )
        history = []
        for _ in range(steps):
            energy, gradient = self._slope(problem, logits, generator)
            logits = logits - self.gd_lr * gradient
            history.append(energy)
        actions = logits.argmax(-1)  # [B, T]
        energy = score(problem.rollout, actions[:, None], problem.num_actions)[:, 0]
        return Plan(actions, energy, energy - history[-1], problem.evaluations, torch.stack(history))

    def _slope(
        self, problem: PlanningProblem, logits: Tensor, generator: torch.Generator
    ) -> tuple[Tensor, Tensor]:
        """Relaxed energy [B] at one noise, and its gradient with respect to the logits [B, T, A]."""
        with torch.enable_grad():
            logits = logits.detach().requires_grad_()
            actions = torch.softmax((logits + gumbel_noise(logits, generator)) / self.tau, -1)
            energy = problem.rollout(actions[:, None])[:, 0]
            (gradient,) = torch.autograd.grad(energy.sum(), logits)
        return energy.detach(), gradient
