"""What every model of experiment 2 is trained on: samples of the true energy, fresh ones in every batch.

An ensemble has S = L x seeds members, landscape-major: member l * seeds + s is landscape l with seed s.

Shapes: S members, B samples, d coordinates.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.quasirandom import SobolEngine

from common.config import Exp2Config
from common.run.random import generators
from exp2_funnel_heatmap.energy_functions import DEFINITIONS, BenchmarkFunction, Energy, TrueField

STANDARD_POINTS = 2**14  # that energies are standardised over
DRAWN_TOGETHER = 16  # batches, at a price a little above that of one
LOWEST = 1e-12  # quantile of a perturbation


@dataclass(frozen=True)
class Task:
    """Energies of one dimension that one ensemble learns on the box [-half_width, half_width]^d."""

    name: str
    energies: Sequence[Energy]
    mean: Tensor  # of each member's energy over the box, [S, 1]
    std: Tensor  # [S, 1]
    half_width: float
    iterations: int  # optimiser steps

    @property
    def dimension(self) -> int:
        return self.energies[0].dimension


class Batches:
    """Samples of a task in batches: each seed's are a scrambled Sobol sequence, block by block.

    The sequence spans points and perturbations together (scrambling: Matousek, 1998). A sample is distributed
    as an independent draw would be, uniform in the box and normal, but successive batches fill both evenly
    (in two dimensions each by itself does): gradients have less noise, and later batches cancel much of it.
    """

    def __init__(self, task: Task, seeds: Sequence[int], count: int):
        self.task, self.count, self.energy = task, count, TrueField(task.energies)
        draws = generators(seeds, f"{task.name}/samples")
        scrambles = [int(torch.randint(2**62, (), generator=draw)) for draw in draws]
        self.first, self.drawn = -1, []  # what was drawn last: its first iteration, and its batches
        self.engines = [SobolEngine(2 * task.dimension, scramble=True, seed=seed) for seed in scrambles]

    def draw(self, iteration: int) -> tuple[Tensor, Tensor, Tensor]:
        """Points [S, B, d], perturbations ~ N(0, I) [S, B, d], standardised energies [S, B]; float32, cpu.

        The samples of an iteration are the same whichever were drawn before, and for every variant.
        """
        first = iteration - iteration % DRAWN_TOGETHER
        if self.first != first:
            self.first, self.drawn = first, self._draw_together(first)
        return tuple(part.clone() for part in self.drawn[iteration - first])

    def _draw_together(self, first: int) -> list[tuple[Tensor, ...]]:
        """The batches of the DRAWN_TOGETHER iterations from `first` on."""
        for engine in self.engines:
            if engine.num_generated > first * self.count:
                engine.reset()
            engine.fast_forward(first * self.count - engine.num_generated)
        total = DRAWN_TOGETHER * self.count
        uniform = torch.stack([engine.draw(total, dtype=torch.float64) for engine in self.engines])
        points, quantiles = uniform.chunk(2, -1)
        perturbations = torch.special.ndtri(quantiles.clamp(LOWEST, 1 - LOWEST)).float()
        energies = len(self.task.energies)
        points = in_box(points, self.task.half_width).repeat(energies, 1, 1)
        values = (self.energy(points) - self.task.mean) / self.task.std
        parts = points.float(), perturbations.repeat(energies, 1, 1), values.float()
        return list(zip(*(part.split(self.count, 1) for part in parts), strict=True))


def uniform_points(count: int, dimension: int, half_width: float, draws: Sequence[torch.Generator]) -> Tensor:
    """Independent and uniform in [-half_width, half_width]^d, float64: [S, count, d]."""
    uniform = [torch.rand(count, dimension, generator=draw, dtype=torch.float64) for draw in draws]
    return in_box(torch.stack(uniform), half_width)


def in_box(uniform: Tensor, half_width: float) -> Tensor:
    """From [0, 1]^d to [-half_width, half_width]^d."""
    return (2 * uniform - 1) * half_width


def landscape_task(name: str, energies: Sequence[Energy], config: Exp2Config) -> Task:
    """Rippled basins."""
    return _task(name, energies, config, config.iterations)


def random_task(energies: Sequence[Energy], config: Exp2Config) -> Task:
    """Random landscapes, learned together."""
    return _task("random_landscapes", energies, config, config.random_iterations)


def function_task(dimension: int, config: Exp2Config) -> Task | None:
    """The test functions that are defined in this dimension; None where none of them is."""
    names = [name for name in config.functions if dimension in DEFINITIONS[name].dimensions]
    if not names:
        return None
    energies = [BenchmarkFunction(name, dimension, config.domain_range) for name in names]
    return _task(f"functions/d={dimension}", energies, config, config.function_iterations)


def _task(name: str, energies: Sequence[Energy], config: Exp2Config, iterations: int) -> Task:
    net = SobolEngine(energies[0].dimension, scramble=True, seed=0).draw(STANDARD_POINTS, dtype=torch.float64)
    points = in_box(net, config.domain_range)
    values = torch.stack([energy(points) for energy in energies]).repeat_interleave(len(config.seeds), 0)
    mean, std = values.mean(1, keepdim=True), values.std(1, keepdim=True)
    return Task(name, energies, mean, std, config.domain_range, iterations)


def memory_needed(config: Exp2Config) -> dict[str, float]:
    """Bytes of the largest array that each size shapes, for common.run.memory."""
    seeds, width = len(config.seeds), config.hidden_dim
    members = seeds * max(1, config.num_landscapes, len(config.functions))
    numbers = members * 4.0
    budget = max(config.plan_evaluations, *config.budget_sweep)
    samples = max(1.0, budget / (3 * config.smoothing_steps))  # that a step of post-hoc smoothing averages
    starts = max(config.plan_grid**2, config.function_starts)
    plans = numbers * max(2, *config.dimensions) * starts * samples
    return {
        "hidden_dim": numbers * 4 * width**2,  # with its gradient and two moments
        "batch_size": numbers * 3 * config.batch_size * width,
        "map_batch_size": seeds * 4.0 * 3 * config.map_batch_size * width * config.train_map,
        "grid_size": seeds * 4.0 * 2 * config.grid_size**2,
        "num_landscapes": max(plans, numbers * 3 * config.batch_size * width),
        "plan_grid": plans,
        "function_starts": plans,
        "plan_evaluations": plans,
        "budget_sweep": plans,
        "smooth_starts": numbers * 2 * starts * config.smooth_starts,
        "smoothing_starts": plans * config.smoothing_starts,
    }
