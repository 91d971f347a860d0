"""Gradient fidelity: does the energy's gradient at a plan foretell what changing one action does?

Gradient planning moves along dE/da. At a discrete plan the change that the gradient predicts for action k
instead of a_t is dE/da_{t,k} - dE/da_{t,a_t}; the change that happens is the model's energy of the changed
plan minus that of the plan. Their correlation over all such single swaps says, before any planning,
whether the gradient can be of use: it is 1 where the energy is multilinear in the actions (the table
model), and near 0 in a model whose Jacobians explode however well it predicts.

Shapes: B problems, T steps, A actions.
"""

import torch
from torch import Tensor

from .candidates import one_hot, slopes_at
from .problem import BACKWARD_COST, PlanningProblem

ROUNDING = torch.finfo(torch.float32).eps  # relative differences up to it tell nothing


def fidelity_budget(horizon: int, num_actions: int) -> int:
    """Transition evaluations that `gradient_fidelity` spends on each problem."""
    return (1 + BACKWARD_COST + horizon * num_actions) * horizon


def gradient_fidelity(problem: PlanningProblem, plans: Tensor) -> Tensor:
    """Pearson correlation of predicted and actual changes over the T (A - 1) single swaps of a plan.

    Args:
        problem: with the budget of `fidelity_budget`.
        plans: [B, T] int64.

    Returns:
        [B] in [-1, 1], whatever the unit of energy; 0 where the gradient predicts the same for all swaps, nan
        where all swaps change the energy equally but for rounding, so that there is nothing to foretell, or
        where an energy is not finite.

    Raises:
        BudgetExceeded: where the budget is smaller.
        ValueError: for plans of another shape, or where no gradient can be had (see slopes_at).
    """
    expected = (problem.num_problems, problem.horizon)
    if plans.shape != expected:
        raise ValueError(f"plans must be [B, T] = {list(expected)}, not {list(plans.shape)}")
    taken = one_hot(plans.to(problem.device), problem.num_actions)  # [B, T, A]
    energy, slope = slopes_at(problem.rollout, taken[:, None])  # [B, 1], [B, 1, T, A]
    predicted = slope[:, 0] - (slope[:, 0] * taken).sum(-1, keepdim=True)
    with torch.no_grad():
        swapped = problem.rollout(_single_swaps(taken))
    other = taken.flatten(1) == 0  # [B, T A], A - 1 of A at each step
    swaps = plans.shape[1] * (problem.num_actions - 1)
    predicted = predicted.flatten(1)[other].view(-1, swaps).cpu().double()
    actual = (swapped - energy)[other].view(-1, swaps).cpu().double()
    largest = torch.maximum(swapped.abs().amax(1), energy.abs()[:, 0]).cpu().double()
    return _correlation(predicted, actual, ROUNDING * largest)


def _single_swaps(plans: Tensor) -> Tensor:
    """Every plan with one action replaced, by step and then by action: [B, T, A] -> [B, T A, T, A]."""
    _, horizon, num_actions = plans.shape
    here = torch.eye(horizon, dtype=plans.dtype, device=plans.device)[:, None, :, None]  # [T, 1, T, 1]
    instead = torch.eye(num_actions, dtype=plans.dtype, device=plans.device)[None, :, None]  # [1, A, 1, A]
    swapped = plans[:, None, None] * (1 - here) + here * instead  # [B, T, A, T, A]
    return swapped.flatten(1, 2)


def _correlation(predicted: Tensor, actual: Tensor, rounding: Tensor) -> Tensor:
    """Of the rows of two matrices [B, M]: [B]; 0 where `predicted` is constant, nan where `actual` is.

    Constant is what varies by no more than rounding: of its own entries, or for `actual` by the given [B].
    """
    noise = ROUNDING * predicted.abs().amax(1)
    predicted = predicted - predicted.mean(1, keepdim=True)
    actual = actual - actual.mean(1, keepdim=True)
    found = (predicted * actual).sum(1) / (predicted.norm(dim=1) * actual.norm(dim=1))
    found = found.masked_fill(predicted.abs().amax(1) <= noise, 0.0)
    return found.masked_fill(~(actual.abs().amax(1) > rounding), torch.nan)
