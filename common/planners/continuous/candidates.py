"""Candidates on continuous actions: drawing them, and returning the best.

Shapes: B problems, N candidates, T steps, A entries of an action, K plans handed on.
"""

import torch
from torch import Tensor

from ..candidates import BestPlans, Noise, require_finite
from ..coloured_noise import autoregressive_noise
from ..problem import require
from .problem import ContinuousPlan, ContinuousProblem


def draw_plans(
    problem: ContinuousProblem, count: int, correlation: float, noise: Noise, initial: Tensor | None = None
) -> Tensor:
    """Plans of autoregressive noise of unit variance, clamped to the box: [B, N, T, A].

    The first ones are the `initial` plans, as many as there are and fit.
    """
    shape = (problem.num_problems, count, problem.horizon, problem.action_size)
    plans = autoregressive_noise(noise, shape, problem.device, correlation).clamp(-1, 1)
    if initial is not None:
        fit = initial[:, :count]
        plans[:, : fit.shape[1]] = fit
    return plans


def require_correlation(correlation: float) -> None:
    """Raise ValueError for a correlation of neighbouring steps out of range."""
    require("correlation", correlation, 0 <= correlation < 1, "in [0, 1)")


def checked(problem: ContinuousProblem, initial: Tensor | None) -> Tensor | None:
    """The initial plans, on the problem's device and in the box.

    Raises:
        ValueError: for plans of another shape than [B, K, T, A].
    """
    if initial is None:
        return None
    expected = (problem.num_problems, problem.horizon, problem.action_size)
    if initial.dim() != 4 or (initial.shape[0], *initial.shape[2:]) != expected or not initial.shape[1]:
        raise ValueError(f"initial plans must be [B, K, T, A], not {list(initial.shape)}")
    return initial.to(problem.device, torch.float32).clamp(-1, 1)


def best_of(problem: ContinuousProblem) -> BestPlans:
    """The best plan so far, of none."""
    return BestPlans(problem.num_problems, problem.horizon, problem.device, problem.action_size)


def finish(problem: ContinuousProblem, best: BestPlans, carried: Tensor) -> ContinuousPlan:
    """What a planner returns.

    Raises:
        NoFinitePlan: where no candidate of a problem had a finite energy.
    """
    require_finite(best.energy.isfinite())
    history = torch.stack(best.history)
    return ContinuousPlan(best.actions, best.energy, problem.evaluations, problem.rollouts, history, carried)
