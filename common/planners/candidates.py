"""Discrete candidates of a planner: drawing them, and keeping the best.

Shapes: B problems, N candidates, T steps, A actions, I iterations.

All noise is drawn on the CPU from an explicit generator, so a plan does not depend on the device.
"""

from collections.abc import Callable

import torch
from torch import Tensor

Rollout = Callable[[Tensor], Tensor]  # actions [B, N, T, A] -> energies [B, N]


def one_hot(actions: Tensor, num_actions: int, dtype: torch.dtype = torch.float32) -> Tensor:
    """Discrete actions as points of the simplex: [...] int64 -> [..., A]."""
    return torch.zeros(*actions.shape, num_actions, dtype=dtype, device=actions.device).scatter_(
        -1, actions[..., None], 1.0
    )


def sample_actions(probabilities: Tensor, count: int, generator: torch.Generator) -> Tensor:
    """Independent draws from categorical distributions, by their inverse: [B, T, A] -> [B, N, T] int64."""
    batch, horizon, _ = probabilities.shape
    uniform = torch.rand(batch, count, horizon, 1, generator=generator).to(probabilities)
    thresholds = probabilities.cumsum(-1)[:, None, :, :-1]  # the last is 1 up to rounding
    return (uniform >= thresholds).sum(-1)


def gumbel_noise(like: Tensor, generator: torch.Generator) -> Tensor:
    """Standard Gumbel noise of the shape, type and device of `like`."""
    exponential = torch.empty(like.shape).exponential_(generator=generator)
    return -exponential.clamp(min=torch.finfo(torch.float32).tiny).log().to(like)


class BestPlans:
    """The lowest-energy discrete plan of each problem so far.

    Attributes:
        actions: [B, T] int64.
        energy: [B], +inf before the first offer.
        history: list of [B], the lowest energy after each call of `record`.
    """

    def __init__(self, num_problems: int, horizon: int, device: torch.device):
        self.actions = torch.zeros(num_problems, horizon, dtype=torch.int64, device=device)
        self.energy = torch.full((num_problems,), torch.inf, device=device)
        self.history: list[Tensor] = []

    def offer(self, actions: Tensor, energies: Tensor) -> Tensor:
        """Keep what is lower than before: [B, N, T], [B, N] -> where a problem's plan improved, [B]."""
        lowest, index = energies.detach().min(1)
        improved = lowest < self.energy
        chosen = actions[torch.arange(len(actions), device=actions.device), index]
        self.actions = torch.where(improved[:, None], chosen, self.actions)
        self.energy = torch.where(improved, lowest, self.energy)
        return improved

    def record(self) -> None:
        """Append the lowest energies to the history."""
        self.history.append(self.energy)


def score(rollout: Rollout, actions: Tensor, num_actions: int) -> Tensor:
    """Energies of discrete candidates, without a gradient: [B, N, T] -> [B, N]."""
    with torch.no_grad():
        return rollout(one_hot(actions, num_actions))
