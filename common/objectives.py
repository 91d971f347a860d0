"""Objectives that make a latent distance know the steps between states, each a pure function of tensors.

Shapes: ... leading dimensions (ensemble members), B batch, d latent, h metric, K keys.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

METRIC_GROUP_SIZE = 8  # dimensions of which a quasimetric takes the largest
METRIC_GROUPS = 8  # of them in a head that is trained for one
LOG_WEIGHT_LIMIT = 6.0  # QRL's weight stays below e^6
DUAL_RATE = 10.0  # near 0 its logarithm learns DUAL_RATE LOG_WEIGHT_LIMIT times as fast as the model


def quasimetric(points: Tensor, others: Tensor) -> Tensor:
    """d(x, y) = sum over groups of max_i relu(y_i - x_i): [..., h], [..., h] -> [...].

    Non-negative, 0 from a point to itself, d(x, z) <= d(x, y) + d(y, z), and not symmetric: a turn can lead
    away faster than back. (A sum of the asymmetric parts of the metric residual network, Liu et al., 2023.)
    """
    ahead = (others - points).relu().unflatten(-1, (-1, METRIC_GROUP_SIZE))
    return ahead.amax(-1).sum(-1)


def info_nce(
    queries: Tensor, keys: Tensor, positives: Tensor, temperature: float, allowed: Tensor | None = None
) -> Tensor:
    """-log softmax over the keys of cos(q, k) / temperature, at the positive key (van den Oord et al., 2018).

    Args:
        queries: [..., B, d]; normalised here, as the keys are.
        keys: [..., K, d]; each query's negatives are all keys but its own.
        positives: [..., B] int64, the position of each query's key.
        temperature: of the softmax, above 0.
        allowed: bool, the keys that may be negatives: [..., K], or [..., B, K] for each query its own; all
            where None. A query's own key counts whatever it says.

    Returns:
        the cross-entropy of each query [..., B]; log K where the keys are indistinguishable.

    Raises:
        ValueError: a mask that is neither bool nor of those shapes, a temperature that is not above 0.
    """
    if not temperature > 0:
        raise ValueError(f"temperature = {temperature}: must be above 0")
    logits = F.normalize(queries, dim=-1) @ F.normalize(keys, dim=-1).mT / temperature
    if allowed is not None:
        logits = logits.masked_fill(~_with_positives(allowed, positives, logits.shape), -torch.inf)
    chosen = logits.log_softmax(-1).gather(-1, positives[..., None])
    return -chosen.squeeze(-1)


def _with_positives(allowed: Tensor, positives: Tensor, shape: torch.Size) -> Tensor:
    """The mask of each query [..., B, K], its own key in it."""
    each = allowed if allowed.dim() == len(shape) else allowed[..., None, :]
    if allowed.dtype != torch.bool or each.dim() > len(shape) or not _expands(each.shape, shape):
        raise ValueError(
            f"allowed is {allowed.dtype} {tuple(allowed.shape)}: must be torch.bool, [..., K] or [..., B, K] "
            f"with [..., B, K] = {tuple(shape)}"
        )
    return each.expand(shape).scatter(-1, positives[..., None], True)


def _expands(shape: torch.Size, to: torch.Size) -> bool:
    pairs = zip(reversed(shape), reversed(to), strict=False)
    return all(size in (1, wanted) for size, wanted in pairs)


def qrl_spread(distances: Tensor, offset: float, beta: float) -> Tensor:
    """softplus_beta(offset - d), whose minimisation drives random pairs apart: [...].

    Quasimetric RL (Wang et al., 2023), eq. 11: nearly -d far below the offset and flat far above it, so that
    distances which nothing bounds do not run away.
    """
    return F.softplus(offset - distances, beta=beta)


def qrl_violation(distances: Tensor) -> Tensor:
    """relu(d(s, s') - 1)^2 of pairs that one step connects: 0 where the distance admits that step: [...]."""
    return (distances - 1).relu().square()


def qrl_log_weight(dual: Tensor) -> Tensor:
    """The logarithm of the constraint's weight from a parameter that begins at 0: [...], within the limit."""
    return LOG_WEIGHT_LIMIT * torch.tanh(DUAL_RATE * dual)


def lagrangian(objective: Tensor, violation: Tensor, log_weight: Tensor, tolerance: float) -> Tensor:
    """objective + w (violation - tolerance), whose descent lowers it in the model and raises it in log w.

    The gradient with respect to log w = `log_weight` has its sign turned, so ONE optimiser finds the saddle:
    the weight grows while the constraint is violated by more than the tolerance and shrinks else.
    """
    weight, excess = log_weight.exp(), violation - tolerance
    return objective + weight.detach() * excess - (weight - weight.detach()) * excess.detach()
