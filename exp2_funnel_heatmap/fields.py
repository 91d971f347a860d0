"""Energies as planners see them: a value and a gradient, tabulated where d = 2.

Shapes: S members, B points, d coordinates, G cells a side of a table.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

from exp2_funnel_heatmap.energy_functions import Energy
from exp2_funnel_heatmap.models import EnergyModel

CHUNK = 1 << 13  # points evaluated at once, over all members


class Field(Protocol):
    """An energy to descend on."""

    def __call__(self, points: Tensor) -> Tensor:
        """[S, B, d] -> [S, B]."""

    def gradient(self, points: Tensor) -> Tensor:
        """[S, B, d] -> [S, B, d]."""


# ----------------------------------------------------------------------------------------------
# Tables
# ----------------------------------------------------------------------------------------------

# Length of a table's cell. Bilinear interpolation errs by (w h)^2 / 8 of a ripple's slope: 0.6% at the
# highest frequency, 11.3 rad per unit; tests/test_exp2_coverage.py compares with the model itself.
CELL = 0.02


@dataclass(frozen=True)
class Table:
    """A two-dimensional field's gradient at the centres of square cells, interpolated between them.

    A basin map asks for ten million gradients of one model; the table needs 90 thousand.
    """

    exact: EnergyModel | Energy  # the energy itself, [S, B, 2] -> [S, B]
    energies: Tensor  # [S, G, G], rows along the second coordinate
    gradients: Tensor  # [S, 2, G, G]
    half_width: float

    def __call__(self, points: Tensor) -> Tensor:
        return torch.cat([self.exact(part) for part in points.split(CHUNK // len(points), 1)], 1)

    def gradient(self, points: Tensor) -> Tensor:
        """Bilinear: [S, B, 2] -> [S, B, 2]."""
        grid = (points / self.half_width)[:, None]  # [S, 1, B, 2]
        values = F.grid_sample(self.gradients, grid, padding_mode="border", align_corners=False)
        return values[:, :, 0].transpose(1, 2)

    def member(self, index: int) -> Callable[[Tensor], Tensor]:
        """One member's exact energy: [1, B, 2] -> [1, B]."""
        return self.exact.member(index)

    def argmin(self) -> Tensor:
        """Centre of the lowest cell: [S, 2]."""
        centres = cell_centres(self.energies.shape[-1], self.half_width).to(self.energies)
        return centres[self.energies.flatten(1).argmin(1)]


def cell_centres(count: int, half_width: float) -> Tensor:
    """Centres of count x count cells of the square, float64, first coordinate fastest: [count^2, 2]."""
    side = (torch.arange(count, dtype=torch.float64) + 0.5) * (2 * half_width / count) - half_width
    second, first = torch.meshgrid(side, side, indexing="ij")
    return torch.stack((first, second), -1).flatten(0, 1)


def tabulate(model: EnergyModel, half_width: float) -> Table:
    """A model's table, from its own values and gradients."""
    members, count = len(model.mean), round(2 * half_width / CELL)
    centres = cell_centres(count, half_width).to(model.mean)
    values, slopes = [], []
    for part in centres.split(CHUNK // members):
        part = part.expand(members, -1, -1).clone().requires_grad_()
        energies = model(part)
        slopes.append(torch.autograd.grad(energies.sum(), part)[0])
        values.append(energies.detach())
    gradients = torch.cat(slopes, 1).transpose(1, 2).unflatten(2, (count, count))
    energies = torch.cat(values, 1).unflatten(1, (count, count))
    return Table(model, energies, gradients.contiguous(), half_width)


# ----------------------------------------------------------------------------------------------
# Theory: the minimiser of a smoothing loss is a filter
# ----------------------------------------------------------------------------------------------


def hf_gain(squared_frequency: Tensor, weight: float, sigma: float) -> Tensor:
    """H = 1 / (1 + 2 lambda (1 - exp(-w^2 sigma^2 / 2))) of L_HF, from w^2 [rad^2 per length^2]."""
    return 1 / (1 + 2 * weight * -torch.expm1(-0.5 * squared_frequency * sigma**2))


def second_difference_gain(squared_frequency: Tensor, weight: float, sigma: float) -> Tensor:
    """H = 1 / (1 + lambda (6 - 8 exp(-s / 2) + 2 exp(-2 s))), s = w^2 sigma^2."""
    s = squared_frequency * sigma**2
    return 1 / (1 + weight * (6 - 8 * torch.exp(-s / 2) + 2 * torch.exp(-2 * s)))


def predicted_gain(penalty: str, squared_frequency: Tensor, weight: float, sigma: float) -> Tensor:
    """What a variant's loss leaves of a ripple (see models.Variant)."""
    if penalty == "hf_invariance":
        return hf_gain(squared_frequency, weight, sigma)
    if penalty == "second_difference":
        return second_difference_gain(squared_frequency, weight, sigma)
    if penalty == "noised_inputs":
        return torch.exp(-0.5 * squared_frequency * sigma**2)
    if penalty == "gradient":
        return 1 / (1 + weight * squared_frequency)
    return torch.ones_like(squared_frequency)


def filtered(energy: Energy, gain: Callable[[Tensor], Tensor], half_width: float) -> Table:
    """An energy on the square passed through a filter, mirrored at the border: the exact minimiser's table.

    Mirrored because the loss leaves the slope at the border free, as a mirror does. One member.

    Args:
        energy: what is filtered.
        gain: of the squared frequency.
        half_width: of the square.
    """
    count = round(2 * half_width / CELL)
    centres = cell_centres(count, half_width)
    values = energy(centres).view(count, count)
    mirrored = torch.cat((values, values.flip(0)), 0)
    mirrored = torch.cat((mirrored, mirrored.flip(1)), 1)
    frequency = 2 * math.pi * torch.fft.fftfreq(2 * count, CELL, dtype=torch.float64)
    first, second = frequency[None, :], frequency[:, None]
    spectrum = torch.fft.fft2(mirrored) * gain(first**2 + second**2)
    images = [
        torch.fft.ifft2(spectrum * factor).real[:count, :count] for factor in (1.0, 1j * first, 1j * second)
    ]
    smooth, *slopes = (image.float() for image in images)
    gradients = torch.stack(slopes)[None]
    return Table(energy, smooth[None], gradients.contiguous(), half_width)
