"""Gradient fidelity: does the energy's gradient at a plan foretell what changing one action does?

Gradient planning moves along dE/da. At a discrete plan the change that the gradient predicts for action k
instead of a_t is dE/da_{t,k} - dE/da_{t,a_t}; the change that happens is the model's energy of the changed
plan minus that of the plan. Their correlation over all such single swaps says, before any planning,
whether the gradient can be of use: it is 1 where the energy is multilinear in the actions (the table
model), and near 0 in a model whose Jacobians explode however well it predicts.

Shapes: B problems, T steps, A actions.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from .problem import BACKWARD_COST, PlanningProblem


def fidelity_budget(horizon: int, num_actions: int) -> int:
    """Transition evaluations that `gradient_fidelity` spends on each problem."""
    return (1 + BACKWARD_COST + horizon * num_actions) * horizon


def gradient_fidelity(problem: PlanningProblem, plans: Tensor) -> Tensor:
    """Pearson correlation of predicted and actual changes over the T (A - 1) single swaps of a plan.

    Args:
        problem: with the budget of `fidelity_budget`.
        plans: [B, T] int64.

    Returns:
        [B] in [-1, 1]; 0 where the gradient predicts the same for all swaps, nan where no swap changes
        anything, so that there is nothing to foretell.
    """
    one_hot = F.one_hot(plans, problem.num_actions).float().to(problem.device)  # [B, T, A]
    with torch.enable_grad():
        actions = one_hot[:, None].clone().requires_grad_()
        energy = problem.rollout(actions)
        (slope,) = torch.autograd.grad(energy.sum(), actions)
    slope = slope[:, 0]
    predicted = slope - (slope * one_hot).sum(-1, keepdim=True)
    with torch.no_grad():
        actual = problem.rollout(_single_swaps(one_hot)) - energy
    other = one_hot.flatten(1) == 0  # [B, T A], A - 1 of A at each step
    swaps = plans.shape[1] * (problem.num_actions - 1)
    changes = (predicted.flatten(1)[other], actual[other])
    return _correlation(*(change.view(-1, swaps).cpu().double() for change in changes))


def _single_swaps(one_hot: Tensor) -> Tensor:
    """Every plan with one action replaced, by step and then by action: [B, T, A] -> [B, T A, T, A]."""
    _, horizon, num_actions = one_hot.shape
    here = torch.eye(horizon, device=one_hot.device)[:, None, :, None]  # [T, 1, T, 1]
    instead = torch.eye(num_actions, device=one_hot.device)[None, :, None]  # [1, A, 1, A]
    swapped = one_hot[:, None, None] * (1 - here) + here * instead  # [B, T, A, T, A]
    return swapped.flatten(1, 2)


def _correlation(predicted: Tensor, actual: Tensor) -> Tensor:
    """Of the rows of two matrices [B, M]: [B]; 0 where `predicted` is constant, nan where `actual` is."""
    predicted = predicted - predicted.mean(1, keepdim=True)
    actual = actual - actual.mean(1, keepdim=True)
    lengths = predicted.norm(dim=1), actual.norm(dim=1)
    tiny = torch.finfo(torch.float32).eps
    found = (predicted * actual).sum(1) / (lengths[0] * lengths[1]).clamp(min=tiny**2)
    return found.masked_fill(lengths[1] < tiny, torch.nan)
