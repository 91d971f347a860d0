"""The flat gradient planner as the original documents have it: the baseline.

Shapes: B problems, T steps, A actions, I gradient steps.
"""

import math
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from .candidates import Noise, Rollout, gumbel_noise, require_finite, score, slopes_at
from .problem import BACKWARD_COST, Plan, PlanningProblem, require

LARGEST_LOGIT = 1e30  # in absolute value; larger ones would overflow in the next step


@dataclass(frozen=True)
class FlatGradient:
    """SGD on logits through soft Gumbel-softmax actions; returns their argmax, which it never checked.

    Each step takes a = softmax((logits + g) / tau), g Gumbel (Jang et al., 2017), and descends on the
    energy of the last state, 1/2 ||z_T - z_goal||^2 in the documents. The published 50 steps spend 150 T of
    the budget; the one evaluation of the returned plan serves the report and changes nothing. That plan may
    have the energy +inf: nothing was verified.
    """

    over_time: ClassVar[str] = "final"  # what the problem should judge a plan by
    least_rollouts: ClassVar[int] = 2 + BACKWARD_COST  # one gradient step and the report

    gd_steps: int = 50  # gradient steps, fewer where the budget ends
    gd_lr: float = 0.1  # of SGD
    tau: float = 1.0  # temperature of the relaxation

    def __post_init__(self):
        require("gd_steps", self.gd_steps, self.gd_steps >= 1, "at least 1")
        require("gd_lr", self.gd_lr, 0 < self.gd_lr < math.inf, "positive and finite")
        require("tau", self.tau, 0 < self.tau < math.inf, "positive and finite")

    def __call__(self, problem: PlanningProblem, noise: torch.Generator | Noise) -> Plan:
        """Plan within the problem's budget.

        Raises:
            BudgetExceeded: where it pays for fewer than `least_rollouts`.
            NoFinitePlan: where no gradient moved a problem's logits and its plan has no finite energy.
            ValueError: in inference mode, or where the energies have no gradient.
        """
        noise = Noise.of(noise, problem.num_problems)
        rollouts = problem.affordable(self.least_rollouts)
        steps = min(self.gd_steps, (rollouts - 1) // (1 + BACKWARD_COST))
        shape = (problem.num_problems, problem.horizon, problem.num_actions)
        logits = torch.zeros(shape, dtype=torch.float32, device=problem.device)
        history = []
        for _ in range(steps):
            energy, gradient = relaxed_slope(problem.rollout, logits, self.tau, noise)
            logits = (logits - self.gd_lr * gradient).clamp(-LARGEST_LOGIT, LARGEST_LOGIT)
            history.append(energy)
        actions = logits.argmax(-1)  # [B, T]
        energy = score(problem.rollout, actions[:, None], problem.num_actions)[:, 0]
        require_finite(energy.isfinite() | (logits != 0).flatten(1).any(1))
        return Plan(actions, energy, energy - history[-1], problem.evaluations, torch.stack(history))


def relaxed_slope(rollout: Rollout, logits: Tensor, tau: float, noise: Noise) -> tuple[Tensor, Tensor]:
    """Energy [B] of softmax((logits + g) / tau) at one noise g, and its gradient to the logits [B, T, A]."""
    with torch.enable_grad():
        logits = logits.detach().requires_grad_()
        actions = torch.softmax((logits + gumbel_noise(logits, noise)) / tau, -1)
        energy, slope = slopes_at(rollout, actions[:, None])
        (gradient,) = torch.autograd.grad(actions, logits, slope[:, 0])
    return energy[:, 0], gradient.nan_to_num(nan=0.0, posinf=0.0, neginf=0.0)
