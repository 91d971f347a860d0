"""Objectives of experiment 4 alone, each a pure function of tensors; common/objectives.py has the others.

Shapes: ... leading dimensions (ensemble members), d latent, T time.
"""

import torch
from torch import Tensor


def expectile_loss(errors: Tensor, expectile: float) -> Tensor:
    """|expectile - 1[error < 0]| error^2, minimal at their mean for an expectile of 1/2: [...].

    With error = observed - predicted and an expectile below 1/2 the prediction tends to the smallest values
    that were observed (Newey & Powell, 1987), here the shortest of the ways that a walk took.
    """
    squares = errors.square()  # times numbers, which take the dtype of the errors
    return torch.where(errors < 0, (1 - expectile) * squares, expectile * squares)


def straightening(latents: Tensor) -> Tensor:
    """1 - cos(z_{t+1} - z_t, z_{t+2} - z_{t+1}) of trajectories [..., T + 1, d]: [..., T - 1].

    Temporal straightening (Henaff et al., 2019). Where a trajectory stands still it has no direction and the
    loss no say: 0.
    """
    steps = latents.diff(dim=-2)
    before, after = steps[..., :-1, :], steps[..., 1:, :]
    lengths = before.square().sum(-1) * after.square().sum(-1)
    moving = lengths > 0
    cosine = (before * after).sum(-1) / torch.where(moving, lengths, 1.0).sqrt()
    return torch.where(moving, 1 - cosine, 0.0)
