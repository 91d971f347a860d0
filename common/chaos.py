"""Chaotic systems of ordinary differential equations, and the integrator that steps them.

Shapes: d coordinates, which lead, so that each is contiguous; ... the batch.
"""

from collections.abc import Callable

import torch
from torch import Tensor

SIGMA, RHO, BETA = 10.0, 28.0, 8.0 / 3.0  # Lorenz (1963)
A, B, C = 0.2, 0.2, 5.7  # Roessler (1976)
FORCING = 8.0  # Lorenz (1996)


def lorenz(state: Tensor, force: Tensor | float = 0.0) -> Tensor:
    """(sigma (y - x) + force, x (rho - z) - y, x y - beta z): [3, ...] -> [3, ...]."""
    x, y, z = state.unbind(0)
    return torch.stack((SIGMA * (y - x) + force, x * (RHO - z) - y, x * y - BETA * z))


def roessler(state: Tensor) -> Tensor:
    """(-y - z, x + a y, b + z (x - c)): [3, ...] -> [3, ...]."""
    x, y, z = state.unbind(0)
    return torch.stack((-y - z, x + A * y, B + z * (x - C)))


def lorenz96(state: Tensor) -> Tensor:
    """(x_{i+1} - x_{i-2}) x_{i-1} - x_i + F on a ring of d >= 4 coordinates: [d, ...] -> [d, ...]."""
    ahead, before, two_before = state.roll(-1, 0), state.roll(1, 0), state.roll(2, 0)
    return (ahead - two_before) * before - state + FORCING


def runge_kutta(derivative: Callable[[Tensor], Tensor], state: Tensor, h: float, steps: int) -> Tensor:
    """Classical fourth-order Runge-Kutta, `steps` steps of length h: [d, ...] -> [d, ...]."""
    for _ in range(steps):
        k1 = derivative(state)
        k2 = derivative(state + 0.5 * h * k1)
        k3 = derivative(state + 0.5 * h * k2)
        k4 = derivative(state + h * k3)
        state = state + h / 6 * (k1 + 2 * k2 + 2 * k3 + k4)
    return state
