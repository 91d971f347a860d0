"""Walks of experiment 8, and the batches that are drawn from them.

Shapes: S seeds, n walks, B batch, T time, N stride, s state dimension.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from common.run.random import generators
from exp8_two_pillars.world import World

KEPT, NEW = 0.8, 0.6  # coloured noise u' = KEPT u + NEW e keeps its variance, as KEPT^2 + NEW^2 = 1


@dataclass(frozen=True)
class Walks:
    """States [S, n, T + 1, s] and the actions between them [S, n, T, 2]."""

    states: Tensor
    actions: Tensor

    def to(self, *args: object) -> "Walks":
        return Walks(self.states.to(*args), self.actions.to(*args))


def coloured_noise(normals: Tensor) -> Tensor:
    """Actions that last, within [-1, 1], of standard normal numbers: [..., T, 2] -> [..., T, 2]."""
    now, found = normals[..., 0, :], []
    for new in normals.unbind(-2):
        now = KEPT * now + NEW * new
        found.append(now)
    return torch.stack(found, -2).clamp(-1, 1)


def make_walks(world: World, seeds: Sequence[int], count: int, length: int, stream: str = "walks") -> Walks:
    """`count` walks of every seed by coloured noise, from anywhere in the box; float32."""
    draws = generators(seeds, f"{world.name}/{stream}")
    starts = [
        torch.cat((world.sample_positions(count, draw), world.sample_winds(count, draw)), -1)
        for draw in draws
    ]
    normals = torch.stack([torch.randn(count, length, 2, generator=draw) for draw in draws])
    actions = coloured_noise(normals)
    return Walks(world.rollout(torch.stack(starts), actions), actions)


def draw_windows(
    walks: Walks, draws: Sequence[torch.Generator], batch: int, length: int, stride: int = 1
) -> tuple[Tensor, Tensor]:
    """Random windows, a batch for each seed.

    Args:
        walks: of every seed.
        draws: one generator a seed.
        batch: windows for each seed.
        length: steps of a window.
        stride: keep every stride-th state.

    Returns:
        states [S, B, length / stride + 1, s] and actions [S, B, length, 2].
    """
    count, time = walks.actions.shape[1:3]
    which = _integers(count, batch, draws)
    first = _integers(time - length + 1, batch, draws)
    states = _take(walks.states, which, first, torch.arange(0, length + 1, stride))
    return states, _take(walks.actions, which, first, torch.arange(length))


def draw_pairs(
    walks: Walks, draws: Sequence[torch.Generator], batch: int, discount: float, longest: int
) -> tuple[Tensor, Tensor]:
    """States and later ones of their walks, P(gap > k) = discount^k up to `longest` steps.

    A gap is shorter where its walk ends sooner.

    Returns:
        two [S, B, s].
    """
    count, time = walks.actions.shape[1:3]
    which = _integers(count, batch, draws)
    first = _integers(time, batch, draws)
    uniform = torch.stack([torch.rand(batch, generator=draw) for draw in draws])
    gaps = 1 + (uniform.clamp(min=1e-12).log() / math.log(discount)).long()
    gaps = torch.minimum(gaps.clamp(max=longest), time - first)
    ends = torch.stack((torch.zeros_like(gaps), gaps), -1)  # [S, B, 2]
    here, there = _take(walks.states, which, first, ends).unbind(2)
    return here, there


def _integers(below: int, count: int, draws: Sequence[torch.Generator]) -> Tensor:
    """Uniform on 0 .. below - 1: [S, count]."""
    return torch.stack([torch.randint(below, (count,), generator=draw) for draw in draws])


def _take(values: Tensor, which: Tensor, first: Tensor, times: Tensor) -> Tensor:
    """Times after `first` of walks: [S, n, T, f], [S, B], [S, B], [L] or [S, B, L] -> [S, B, L, f]."""
    member = torch.arange(len(values))[:, None, None]
    index = (member, which[..., None], first[..., None] + times)
    return values[tuple(part.to(values.device) for part in index)]
