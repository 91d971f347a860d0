"""Intervals over training seeds and starts, rates, effects of a 2x2, rank correlation, area under the curve.

Shapes: S training seeds, E starts (or episodes), N values.
"""

import math
from collections.abc import Sequence

import numpy as np
import torch
from scipy.special import stdtrit
from torch import Tensor

CONFIDENCE = 0.95


def mean_interval(numbers: Sequence[float]) -> tuple[float, float]:
    """95% interval of the mean of independent numbers, Student's t; at least two."""
    values = np.asarray(numbers, dtype=np.float64)
    half = _t_quantile(len(values) - 1) * values.std(ddof=1) / math.sqrt(len(values))
    return float(values.mean() - half), float(values.mean() + half)


def crossed_interval(values: Tensor, enumerated: bool) -> tuple[float, float] | None:
    """95% interval of the mean of values [S, E] that every training seed has at the same starts.

    Seeds and starts are crossed random effects: retraining moves all of a seed's values, another draw of
    starts all of a start's. With the mean squares of seeds, starts and residual, each as the variance of the
    means,

        variance = s2_seed / S + s2_start / E - s2_residual / (S E)

    and Satterthwaite's degrees of freedom (1946). Where the starts are all that there are, nothing was drawn
    among them, and the interval is over seeds alone.

    Args:
        values: [S, E].
        enumerated: whether the E starts are all there are.

    Returns:
        (low, high); None for one seed, of which no retraining can be known.
    """
    values = values.double()
    seeds, starts = values.shape
    if seeds < 2:
        return None
    by_seed, by_start, mean = values.mean(1), values.mean(0), float(values.mean())
    if enumerated or starts < 2:
        return mean_interval(by_seed.tolist())
    residual = values - by_seed[:, None] - by_start + mean
    residual_square = float(residual.square().sum()) / ((seeds - 1) * (starts - 1))
    parts = (  # of the variance, with their degrees of freedom
        (float(by_seed.var()) / seeds, seeds - 1),
        (float(by_start.var()) / starts, starts - 1),
        (-residual_square / (seeds * starts), (seeds - 1) * (starts - 1)),
    )
    # the first two hold the residual's share each; the sum can fall below either by chance alone
    variance = max(sum(part for part, _ in parts), parts[0][0], parts[1][0])
    if variance == 0.0:
        return mean, mean
    degrees = variance**2 / sum(part**2 / freedom for part, freedom in parts)
    half = _t_quantile(max(degrees, seeds - 1)) * math.sqrt(variance)
    return mean - half, mean + half


def rate_interval(success: Tensor, enumerated: bool) -> tuple[float, float] | None:
    """`crossed_interval` of a success rate, within [0, 1].

    Where starts were drawn it holds Wilson's interval over them, so that a rate of 1 is not certain.
    """
    crossed = crossed_interval(success, enumerated)
    if crossed is None:
        return None
    low, high = crossed
    if not enumerated:
        over_starts = wilson_interval(float(success.double().mean(0).sum()), success.shape[1])
        low, high = min(low, over_starts[0]), max(high, over_starts[1])
    return max(0.0, low), min(1.0, high)


def starts_interval(values: Tensor) -> tuple[float, float]:
    """95% interval over the starts alone of the mean of values [S, E], of these models and no others.

    Each start counts once, with its mean over seeds.
    """
    by_start = values.double().mean(0)
    half = 1.96 * float(by_start.std()) / math.sqrt(len(by_start))
    return float(by_start.mean()) - half, float(by_start.mean()) + half


def wilson_interval(successes: float, episodes: int, z: float = 1.96) -> tuple[float, float]:
    """95% interval of a success rate (Wilson, 1927)."""
    rate, spread = successes / episodes, z * z / episodes
    centre = (rate + spread / 2) / (1 + spread)
    half = math.sqrt(rate * (1 - rate) * spread + spread * spread / 4) / (1 + spread)
    return max(0.0, min(centre - half, rate)), min(1.0, max(centre + half, rate))  # rounding aside


def _t_quantile(degrees: float) -> float:
    """Two-sided, of Student's t."""
    return float(stdtrit(degrees, 0.5 + CONFIDENCE / 2))


def factorial_effects(none: Tensor, spectral: Tensor, metric: Tensor, both: Tensor) -> dict[str, Tensor]:
    """Main effects and interaction of a 2x2 design, episode by episode: four [S, E] -> each [S, E].

    A main effect is the mean of what a factor changes without and with the other; the interaction is by how
    much it changes more with the other than without; both_minus_.. is what adding the other factor changes.
    """
    return {
        "both_minus_spectral": both - spectral,
        "both_minus_metric": both - metric,
        "main_spectral": ((spectral - none) + (both - metric)) / 2,
        "main_metric": ((metric - none) + (both - spectral)) / 2,
        "interaction": (both - metric) - (spectral - none),
    }


def spearman(first: Tensor, second: Tensor) -> float:
    """Spearman's rank correlation of two equally long vectors, ties with their mean rank; nan if constant."""
    return float(torch.corrcoef(torch.stack([mean_ranks(first), mean_ranks(second)]))[0, 1])


def auroc(scores: Tensor, positive: Tensor) -> float:
    """How often a positive's score is above a negative's, a tie counting half: area under the ROC curve.

    By ranks (Mann & Whitney, 1947).

    Args:
        scores: [N].
        positive: [N] bool.

    Returns:
        in [0, 1], .5 for scores that tell nothing; nan where all are positive or none is.
    """
    many = int(positive.sum())
    pairs = many * (len(positive) - many)
    if pairs == 0:
        return math.nan
    return (float(mean_ranks(scores)[positive].sum()) - many * (many + 1) / 2) / pairs


def mean_ranks(values: Tensor) -> Tensor:
    """Ranks from 1 in ascending order, float64; equal values share the mean of theirs: [N] -> [N]."""
    _, position, counts = torch.unique(values, return_inverse=True, return_counts=True)
    last = counts.cumsum(0).double()
    return (last - (counts.double() - 1) / 2)[position]
