"""Rounds of iCEM and MPPI, on discrete and continuous actions alike: their sizes, and weights in a round.

Shapes: B problems, N candidates.
"""

import math

import torch
from torch import Tensor

from .problem import require

SMALLEST = 2  # candidates of a round
ON_AVERAGE = 8  # candidates of a round at least, where there are several: fewer tell too little


def populations(rollouts: int, rounds: int, decay: float) -> list[int]:
    """Candidates of each round, `decay` times fewer from one to the next, `rollouts` in all.

    There are fewer rounds where they would have less than 8 candidates on average; what rounding leaves over
    goes to the first.
    """
    rounds = max(1, min(rounds, rollouts // ON_AVERAGE))
    shares = [decay**-index for index in range(rounds)]
    spare = rollouts - SMALLEST * rounds
    sizes = [SMALLEST + int(spare * share / sum(shares)) for share in shares]
    sizes[0] += rollouts - sum(sizes)
    return sizes


def require_icem(
    rounds: int, decay: float, elites: int, kept: float, momentum: float, exponent: float
) -> None:
    """Raise ValueError for a hyperparameter of iCEM out of range."""
    require("rounds", rounds, rounds >= 1, "at least 1")
    require("decay", decay, 1 <= decay < math.inf, "at least 1 and finite")
    require("elites", elites, elites >= 1, "at least 1")
    require("kept", kept, 0 <= kept <= 1, "in [0, 1]")
    require("momentum", momentum, 0 <= momentum < 1, "in [0, 1)")
    require("exponent", exponent, 0 <= exponent < math.inf, "at least 0 and finite")


def path_integral_weights(energies: Tensor, temperature: float) -> Tensor:
    """softmax(-E / (temperature * s)), s the standard deviation of the finite energies: [B, N] -> [B, N].

    A candidate whose energy is not finite has the weight 0; where none is finite all weigh the same.
    """
    finite = energies.isfinite()
    count = finite.sum(1, keepdim=True).clamp(min=1)
    lowest = energies.where(finite, torch.inf).amin(1, keepdim=True)
    above = torch.where(finite, energies - lowest, 0.0)
    mean = above.sum(1, keepdim=True) / count
    variance = torch.where(finite, (above - mean).square(), 0.0).sum(1, keepdim=True) / count
    spread = variance.sqrt().clamp(min=torch.finfo(energies.dtype).tiny)
    scores = torch.where(finite, -above / (temperature * spread), -torch.inf)
    return torch.where(finite.any(1, keepdim=True), scores, 0.0).softmax(1)
