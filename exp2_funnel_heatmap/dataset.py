"""What every model of experiment 2 is trained on: points uniform in the box, and their true energies.

An ensemble has S = L x seeds members, landscape-major: member l * seeds + s is landscape l with seed s.

Shapes: S members, n samples, d coordinates.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from common.config import Exp2Config
from common.runtime import generators
from exp2_funnel_heatmap.energy_functions import DEFINITIONS, BenchmarkFunction, Energy


@dataclass(frozen=True)
class Samples:
    """Points [S, n, d], their energies [S, n], and what the energies are standardised with [S, 1]."""

    points: Tensor
    energies: Tensor
    mean: Tensor
    std: Tensor

    def to(self, *args: object) -> "Samples":
        return Samples(*(value.to(*args) for value in vars(self).values()))


def uniform_points(count: int, dimension: int, half_width: float, draws: Sequence[torch.Generator]) -> Tensor:
    """Uniform in [-half_width, half_width]^d, float64: [S, count, d]."""
    uniform = [torch.rand(count, dimension, generator=draw, dtype=torch.float64) for draw in draws]
    return (2 * torch.stack(uniform) - 1) * half_width


def sample_energies(
    energies: Sequence[Energy], seeds: Sequence[int], count: int, half_width: float
) -> Samples:
    """`count` samples of each energy and seed, float32."""
    points = torch.cat([
        uniform_points(count, energy.dimension, half_width, generators(seeds, f"{energy.name}/samples"))
        for energy in energies
    ])  # fmt: skip
    values = torch.cat([
        energy(part) for energy, part in zip(energies, points.split(len(seeds)), strict=True)
    ])  # fmt: skip
    mean, std = values.mean(1, keepdim=True), values.std(1, keepdim=True)
    return Samples(points, values, mean, std).to(torch.float32)


def draw_batch(data: Samples, draws: Sequence[torch.Generator], count: int) -> tuple[Tensor, Tensor]:
    """Points [S, count, d] and standardised energies [S, count], drawn with replacement."""
    size = data.points.shape[1]
    index = torch.stack([torch.randint(size, (count,), generator=draw) for draw in draws]).to(
        data.points.device
    )
    points = data.points.gather(1, index[..., None].expand(-1, -1, data.points.shape[-1]))
    return points, (data.energies.gather(1, index) - data.mean) / data.std


@dataclass(frozen=True)
class Task:
    """Energies of one dimension that one ensemble learns, and what it learns them from."""

    name: str
    energies: Sequence[Energy]
    data: Samples
    iterations: int  # optimiser steps

    @property
    def dimension(self) -> int:
        return self.energies[0].dimension

    @property
    def contents(self) -> str:
        """The names of several energies; empty for a single one, whose name the task has."""
        return " ".join(energy.name for energy in self.energies) if len(self.energies) > 1 else ""


def landscape_task(name: str, energies: Sequence[Energy], config: Exp2Config) -> Task:
    """Rippled basins: config.num_samples of each."""
    data = sample_energies(energies, config.seeds, config.num_samples, config.domain_range)
    return Task(name, energies, data, config.iterations)


def function_task(dimension: int, config: Exp2Config) -> Task | None:
    """The test functions that are defined in this dimension; None where none of them is."""
    names = [name for name in config.functions if dimension in DEFINITIONS[name].dimensions]
    if not names:
        return None
    energies = [BenchmarkFunction(name, dimension, config.domain_range) for name in names]
    data = sample_energies(energies, config.seeds, config.function_samples, config.domain_range)
    return Task(f"functions/d={dimension}", energies, data, config.function_iterations)
