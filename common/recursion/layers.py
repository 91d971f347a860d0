"""Layers of recursive reasoning models, S of each side by side: no biases, norms without weights.

As in the Hierarchical Reasoning Model (Wang et al., arXiv 2506.21734) and the Tiny Recursive Model
(Jolicoeur-Martineau, arXiv 2510.04871).

Shapes: S members (seeds), B puzzles, N positions, D width, h heads, e width of a head.
"""

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

NORM_EPSILON = 1e-5
# Standard deviation of a standard normal cut off at +-2: what is drawn is divided by it.
CUT_OFF_STD = 0.87962566103423978

Generators = Sequence[torch.Generator]


def truncated_normal(generators: Generators, *shape: int, std: float) -> Tensor:
    """Normal numbers [S, *shape] cut off at two standard deviations, of standard deviation `std`.

    Member i is drawn from generator i alone. Nothing is drawn on the meta device.
    """
    draws = torch.empty(len(generators), *shape)
    if not draws.is_meta:
        raw = std / CUT_OFF_STD
        for draw, generator in zip(draws, generators, strict=True):
            nn.init.trunc_normal_(draw, std=raw, a=-2 * raw, b=2 * raw, generator=generator)
    return draws


class Linear(nn.Module):
    """S linear maps without bias, [S, ..., in] -> [S, ..., out]; LeCun's initialisation, truncated."""

    def __init__(self, generators: Generators, in_features: int, out_features: int):
        super().__init__()
        drawn = truncated_normal(generators, in_features, out_features, std=in_features**-0.5)
        self.weight = nn.Parameter(drawn)  # [S, in, out]

    def forward(self, inputs: Tensor) -> Tensor:
        return torch.bmm(inputs.flatten(1, -2), self.weight).view(*inputs.shape[:-1], -1)


class Embedding(nn.Module):
    """S tables of vectors: tokens [S, ...] -> [S, ..., D]."""

    def __init__(self, generators: Generators, count: int, width: int, std: float):
        super().__init__()
        self.weight = nn.Parameter(truncated_normal(generators, count, width, std=std))  # [S, count, D]

    def forward(self, tokens: Tensor) -> Tensor:
        members, count, width = self.weight.shape
        own = torch.arange(members, device=tokens.device) * count
        flat = tokens.flatten(1) + own[:, None]
        return F.embedding(flat, self.weight.flatten(0, 1)).view(*tokens.shape, width)


def rms_norm(inputs: Tensor) -> Tensor:
    """x / sqrt(mean(x^2) + epsilon) over the last dimension."""
    return inputs * torch.rsqrt(inputs.square().mean(-1, keepdim=True) + NORM_EPSILON)


# ----------------------------------------------------------------------------------------------
# Positions
# ----------------------------------------------------------------------------------------------


def line_positions(length: int, prefix: int = 0) -> Tensor:
    """Places on a line [prefix + length, 1]: the prefix's are -prefix .. -1, the others 0, 1, .."""
    return torch.arange(-prefix, length)[:, None]


def grid_positions(rows: int, columns: int, prefix: int = 0) -> Tensor:
    """Row and column of each place, row by row [prefix + rows * columns, 2].

    The prefix lies on the diagonal before the first cell, (-prefix, -prefix) .. (-1, -1).
    """
    cells = torch.cartesian_prod(torch.arange(rows), torch.arange(columns))
    before = torch.arange(-prefix, 0)[:, None].expand(-1, 2)
    return torch.cat([before, cells])


def rotations(positions: Tensor, head_width: int, theta: float = 1e4) -> Tensor:
    """Complex numbers of modulus 1 that turn the pairs of a head's axes: [N, e / 2].

    Rotary embedding (Su et al., arXiv 2104.09864): pair i of an axis turns by place * theta^(-2 i / width).
    With positions on A axes each gets its own e / A of the head's axes.

    Raises:
        ValueError: the head's axes do not divide into pairs for each axis of the positions.
    """
    axes = positions.shape[1]
    if head_width % (2 * axes):
        raise ValueError(f"a head of width {head_width} does not divide into pairs for {axes} axes")
    pairs = head_width // (2 * axes)
    speeds = theta ** (-torch.arange(pairs, dtype=torch.float64) / pairs)
    angles = (positions[:, :, None].double() * speeds).flatten(1)  # [N, e / 2]
    return torch.polar(torch.ones_like(angles), angles).to(torch.get_default_dtype().to_complex())


def rotate(inputs: Tensor, turns: Tensor) -> Tensor:
    """Turn neighbouring pairs of the last dimension: inputs [..., N, h, e], turns [N, e / 2]."""
    pairs = torch.view_as_complex(inputs.unflatten(-1, (-1, 2)))
    return torch.view_as_real(pairs * turns[:, None]).flatten(-2)


# ----------------------------------------------------------------------------------------------
# A block and a level
# ----------------------------------------------------------------------------------------------


class Attention(nn.Module):
    """Every position attends to every other: [S, B, N, D] -> [S, B, N, D].

    Written out in plain products, so that it has derivatives of every order and direction.
    """

    def __init__(self, generators: Generators, width: int, heads: int):
        super().__init__()
        self.heads = heads
        self.query, self.key, self.value, self.out = (Linear(generators, width, width) for _ in range(4))

    def forward(self, inputs: Tensor, turns: Tensor) -> Tensor:
        members, batch, length, width = inputs.shape
        shape = (members * batch, length, self.heads, width // self.heads)
        query, key = (rotate(map_(inputs).view(shape), turns) for map_ in (self.query, self.key))
        value = self.value(inputs).view(shape)
        # [S B h, N, e]
        query, key, value = (part.transpose(1, 2).flatten(0, 1) for part in (query, key, value))
        weights = torch.softmax(torch.bmm(query, key.mT) * shape[-1] ** -0.5, -1)
        attended = torch.bmm(weights, value).view(shape[0], self.heads, length, shape[-1])
        return self.out(attended.transpose(1, 2).reshape(inputs.shape))


def inner_width(width: int, expansion: float, multiple: int) -> int:
    """Width inside a SwiGLU: two thirds of `expansion` times the width, rounded up to a multiple."""
    return math.ceil(round(expansion * width * 2 / 3) / multiple) * multiple


class SwiGLU(nn.Module):
    """down(silu(gate x) * up x): [S, ..., D] -> [S, ..., D] (Shazeer, arXiv 2002.05202)."""

    def __init__(self, generators: Generators, width: int, expansion: float, multiple: int):
        super().__init__()
        inner = inner_width(width, expansion, multiple)
        self.gate, self.up = Linear(generators, width, inner), Linear(generators, width, inner)
        self.down = Linear(generators, inner, width)

    def forward(self, inputs: Tensor) -> Tensor:
        return self.down(F.silu(self.gate(inputs)) * self.up(inputs))


class PositionMixing(nn.Module):
    """A SwiGLU over positions in attention's place: [S, B, N, D] -> [S, B, N, D] (TRM-MLP)."""

    def __init__(self, generators: Generators, length: int, expansion: float, multiple: int):
        super().__init__()
        self.mlp = SwiGLU(generators, length, expansion, multiple)

    def forward(self, inputs: Tensor, turns: Tensor | None = None) -> Tensor:
        return self.mlp(inputs.mT).mT


class Block(nn.Module):
    """h = rms(h + mix(h)); h = rms(h + SwiGLU(h)): [S, B, N, D] -> [S, B, N, D]."""

    def __init__(
        self,
        generators: Generators,
        mix: Attention | PositionMixing,
        width: int,
        expansion: float,
        multiple: int,
    ):
        """`mix`: what takes numbers from position to position. TRM-MLP's first norm is over positions."""
        super().__init__()
        self.mix, self.mlp = mix, SwiGLU(generators, width, expansion, multiple)

    def forward(self, hidden: Tensor, turns: Tensor) -> Tensor:
        hidden = hidden + self.mix(hidden, turns)
        hidden = rms_norm(hidden.mT).mT if isinstance(self.mix, PositionMixing) else rms_norm(hidden)
        return rms_norm(hidden + self.mlp(hidden))


class Level(nn.Module):
    """h = blocks(h + injection): [S, B, N, D] -> [S, B, N, D]."""

    def __init__(self, blocks: Sequence[Block]):
        super().__init__()
        self.blocks = nn.ModuleList(blocks)

    def forward(self, hidden: Tensor, injection: Tensor, turns: Tensor) -> Tensor:
        hidden = hidden + injection
        for block in self.blocks:
            hidden = block(hidden, turns)
        return hidden
