"""Intervals of rates and differences, and rank correlation.

Shapes: S training seeds, E starts, N values.
"""

import math

import torch
from torch import Tensor


def wilson_interval(successes: float, episodes: int, z: float = 1.96) -> tuple[float, float]:
    """95% interval of a success rate (Wilson, 1927)."""
    rate, spread = successes / episodes, z * z / episodes
    centre = (rate + spread / 2) / (1 + spread)
    half = math.sqrt(rate * (1 - rate) * spread + spread * spread / 4) / (1 + spread)
    return max(0.0, min(centre - half, rate)), min(1.0, max(centre + half, rate))  # rounding aside


def success_interval(success: Tensor) -> tuple[float, float]:
    """Wilson's interval of the mean of success [S, E], with E episodes: seeds share their starts."""
    return wilson_interval(float(success.mean(0).sum()), success.shape[1])


def paired_interval(difference: Tensor) -> tuple[float, float]:
    """95% interval of the mean of a difference over the same starts [S, E].

    The episodes of one start are not independent between seeds: each start counts once, with its mean.
    """
    by_start = difference.double().mean(0)
    half = 1.96 * float(by_start.std()) / math.sqrt(len(by_start))
    return float(by_start.mean()) - half, float(by_start.mean()) + half


def spearman(first: Tensor, second: Tensor) -> float:
    """Spearman's rank correlation of two equally long vectors, ties with their mean rank; nan if constant."""
    return float(torch.corrcoef(torch.stack([mean_ranks(first), mean_ranks(second)]))[0, 1])


def mean_ranks(values: Tensor) -> Tensor:
    """Ranks from 1 in ascending order, float64; equal values share the mean of theirs: [N] -> [N]."""
    _, position, counts = torch.unique(values, return_inverse=True, return_counts=True)
    last = counts.cumsum(0).double()
    return (last - (counts.double() - 1) / 2)[position]
