"""What a segment's answer costs, and how right it is.

Shapes: S members (seeds), B puzzles, L cells, V vocabulary. A label below 0 asks nothing of its cell.
"""

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor


def log_stablemax(logits: Tensor) -> Tensor:
    """log s(x) / sum s(x) with s(x) = x + 1 from 0 on and 1 / (1 - x) below.

    Prieto et al., arXiv 2501.04697. In float64: float32 loses digits where logits are in the thousands, which
    is where training takes them. On a device without float64 (mps) in float32. [..., V] -> [..., V].
    """
    wide = logits if logits.device.type == "mps" else logits.double()
    # each side of the `where` is finite everywhere, or its gradient would be nan times zero
    grown = torch.where(wide >= 0, wide.clamp(min=0) + 1, 1 / (1 - wide.clamp(max=0)))
    return grown.log() - grown.sum(-1, keepdim=True).log()


def cross_entropy(logits: Tensor, labels: Tensor, softmax: bool = False) -> Tensor:
    """Mean cross-entropy over the cells asked about: [S, B, L, V], [S, B, L] -> [S, B].

    `softmax`: of softmax, not of stablemax.
    """
    asked = labels >= 0
    log_probabilities = torch.log_softmax(logits, -1) if softmax else log_stablemax(logits)
    chosen = log_probabilities.gather(-1, labels.clamp(min=0)[..., None])[..., 0]
    total = -torch.where(asked, chosen, 0.0).sum(-1)
    return (total / asked.sum(-1).clamp(min=1)).to(logits.dtype)


class Judged(NamedTuple):
    """How right an answer is, each [S, B]."""

    accuracy: Tensor  # share of the cells asked about that are right
    exact: Tensor  # bool: whether all are


def judge(logits: Tensor, labels: Tensor) -> Judged:
    """Of the likeliest answers: [S, B, L, V], [S, B, L]."""
    asked = labels >= 0
    right = (logits.argmax(-1) == labels) & asked
    counted = asked.sum(-1)
    accuracy = right.sum(-1) / counted.clamp(min=1)
    return Judged(accuracy, (right.sum(-1) == counted) & (counted > 0))


def halting_loss(q: Tensor, exact: Tensor, continuation: Tensor | None = None) -> Tensor:
    """Binary cross-entropy of halting with having solved the puzzle, and of going on with its value.

    Args:
        q: logits of halting and of going on [S, B, 2].
        exact: [S, B] bool.
        continuation: value of going on in [0, 1], [S, B]; none given (TRM): halting alone.

    Returns:
        [S, B].
    """
    loss = F.binary_cross_entropy_with_logits(q[..., 0], exact.to(q.dtype), reduction="none")
    if continuation is not None:
        loss = loss + F.binary_cross_entropy_with_logits(q[..., 1], continuation, reduction="none")
    return loss
