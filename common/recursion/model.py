"""The HRM and TRM recursions: two states that a few layers refine, segment after segment.

Shapes: S members (seeds), B puzzles, P prefix positions, L cells, N = P + L, D width, V vocabulary.
"""

import contextlib
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

import torch
from torch import Tensor, nn

from common.recursion.layers import (
    Attention,
    Block,
    Embedding,
    Generators,
    Level,
    Linear,
    PositionMixing,
    grid_positions,
    line_positions,
    rotations,
    truncated_normal,
)
from common.recursion.table import PuzzleTable
from common.run.random import generators

# How far back a segment's gradient goes: the last call of each level; the last cycle; the whole segment; to
# wherever the states that it began with came from; or through so many last cycles.
Gradient = Literal["one_step", "cycle", "segment", "all"] | int

Q_BIAS = -5.0  # of the halting head at the start, whose weight is 0: nothing halts before it has learned


class States(NamedTuple):
    """The recursion's two states, each [S, B, N, D]."""

    z_H: Tensor
    z_L: Tensor

    def detach(self) -> "States":
        """The same without a graph."""
        return States(self.z_H.detach(), self.z_L.detach())

    def flatten(self) -> Tensor:
        """As one vector a puzzle: [S, B, 2 N D]."""
        return torch.cat([self.z_H.flatten(2), self.z_L.flatten(2)], -1)

    @staticmethod
    def unflatten(flat: Tensor, width: int) -> "States":
        """The states of [S, B, 2 N D]."""
        return States(*(half.unflatten(-1, (-1, width)) for half in flat.chunk(2, -1)))


@dataclass(frozen=True)
class Sizes:
    """A recursive model's sizes; the defaults are HRM's as published, for Sudoku."""

    vocabulary: int = 11
    grid: tuple[int, int] = (9, 9)  # rows and columns: L cells
    prefix: int = 1  # P positions before the cells, for a puzzle's vector or a context
    identifiers: int = 0  # rows of the table of puzzle vectors; 0: no table
    width: int = 512  # D
    heads: int = 8
    expansion: float = 4.0  # of the SwiGLUs, whose inner width is two thirds of it times D
    inner_multiple: int = 256  # that an inner width is rounded up to; wasteful at small D
    layers_H: int = 4
    layers_L: int = 4
    cycles_H: int = 2
    cycles_L: int = 2
    position_axes: Literal[1, 2] = 1  # rotary positions along the line of cells, or by row and column
    mixing: Literal["attention", "mlp"] = "attention"  # mlp: over positions, in attention's place

    @property
    def cells(self) -> int:
        """L."""
        return math.prod(self.grid)


class RecursiveModel(nn.Module):
    """What HRM and TRM share: embedding, initial states, the segment, heads.

    A segment is `cycles_H` cycles of `cycles_L` calls z_L = L(z_L, z_H + x) and one z_H = H(z_H, z_L).
    Subclasses set `level_H` and `level_L`.
    """

    level_H: Level
    level_L: Level

    def __init__(self, seeds: Sequence[int], sizes: Sizes, stream: str = "recursion"):
        """`stream` names the initial weights: models that name the same one begin the same."""
        super().__init__()
        self.sizes = sizes
        draws = generators(seeds, stream)
        self.embedding = Embedding(draws, sizes.vocabulary, sizes.width, std=sizes.width**-0.5)
        for name in ("z_H", "z_L"):
            self.register_buffer(f"initial_{name}", truncated_normal(draws, sizes.width, std=1.0))  # [S, D]
        self.answer = Linear(draws, sizes.width, sizes.vocabulary)
        self.halt = nn.Parameter(torch.zeros(len(seeds), sizes.width, 2))
        self.halt_bias = nn.Parameter(torch.full((len(seeds), 1, 2), Q_BIAS))
        self.table = (
            PuzzleTable(len(seeds), sizes.identifiers, sizes.prefix, sizes.width)
            if sizes.identifiers
            else None
        )
        place = line_positions(sizes.cells, sizes.prefix)
        if sizes.position_axes == 2:
            place = grid_positions(*sizes.grid, sizes.prefix)
        turns = rotations(place.to(self.halt.device), sizes.width // sizes.heads)
        self.register_buffer("turns", turns, persistent=False)
        self._make_levels(draws)

    def _make_levels(self, draws: Generators) -> None:
        raise NotImplementedError

    def _level(self, draws: Generators, layers: int) -> Level:
        sizes = self.sizes
        inside = sizes.expansion, sizes.inner_multiple

        def mixing() -> Attention | PositionMixing:
            if sizes.mixing == "attention":
                return Attention(draws, sizes.width, sizes.heads)
            return PositionMixing(draws, sizes.prefix + sizes.cells, *inside)

        return Level([Block(draws, mixing(), sizes.width, *inside) for _ in range(layers)])

    @property
    def members(self) -> int:
        """S."""
        return len(self.halt)

    def embed(self, tokens: Tensor, prefix: Tensor | None = None) -> Tensor:
        """x = sqrt(D) concat(prefix, embedded tokens): [S, B, L] -> [S, B, N, D].

        Args:
            tokens: [S, B, L] int64.
            prefix: [S, B, P, D], a puzzle's vector or what an encoder says of it; zeros if not given.
        """
        embedded = self.embedding(tokens)
        if prefix is None:
            prefix = embedded.new_zeros(*tokens.shape[:2], self.sizes.prefix, self.sizes.width)
        return math.sqrt(self.sizes.width) * torch.cat([prefix, embedded], 2)

    def embed_puzzles(self, inputs: Tensor, identifiers: Tensor) -> Tensor:
        """`embed` with the table's vectors of [S, B] identifiers, where there is a table."""
        return self.embed(inputs, None if self.table is None else self.table(identifiers))

    def initial(self, batch: int) -> States:
        """The fixed states that every puzzle begins with."""
        places = self.sizes.prefix + self.sizes.cells
        return States(
            *(
                state[:, None, None].expand(-1, batch, places, -1)
                for state in (self.initial_z_H, self.initial_z_L)
            )
        )

    def segment(
        self,
        states: States,
        injected: Tensor,
        guide: Tensor | None = None,
        gradient: Gradient = "one_step",
    ) -> States:
        """The states after one segment.

        Args:
            states: before it.
            injected: x, [S, B, N, D].
            guide: what both levels get beside, [S, B, 1 or N, D]; zero if not given.
            gradient: how far back the graph goes; longer than `one_step` costs memory for each call.
        """
        calls = (*("L",) * self.sizes.cycles_L, "H") * self.sizes.cycles_H
        followed = self._calls_followed(gradient)
        z_H, z_L = states if gradient == "all" else states.detach()
        below = injected if guide is None else injected + guide
        for index, call in enumerate(calls):
            followed_here = index >= len(calls) - followed
            with contextlib.nullcontext() if followed_here else torch.no_grad():
                if call == "L":
                    z_L = self.level_L(z_L, z_H + below, self.turns)
                else:
                    z_H = self.level_H(z_H, z_L if guide is None else z_L + guide, self.turns)
        return States(z_H, z_L)

    def _calls_followed(self, gradient: Gradient) -> int:
        cycle = self.sizes.cycles_L + 1
        if isinstance(gradient, int):
            return cycle * gradient
        return {"one_step": 2, "cycle": cycle}.get(gradient, cycle * self.sizes.cycles_H)

    def read(self, states: States) -> tuple[Tensor, Tensor]:
        """Logits of the cells [S, B, L, V], and of halting and of going on [S, B, 2]."""
        logits = self.answer(states.z_H[:, :, self.sizes.prefix :])
        q = torch.baddbmm(self.halt_bias, states.z_H[:, :, 0], self.halt)
        return logits, q


class HRM(RecursiveModel):
    """Hierarchical Reasoning Model: a slow level and a fast one, each with its own layers."""

    def _make_levels(self, draws: Generators) -> None:
        self.level_H = self._level(draws, self.sizes.layers_H)
        self.level_L = self._level(draws, self.sizes.layers_L)


class TRM(RecursiveModel):
    """Tiny Recursive Model: one net of `layers_L` layers is both levels."""

    def _make_levels(self, draws: Generators) -> None:
        self.level_L = self._level(draws, self.sizes.layers_L)
        self.level_H = self.level_L


SUDOKU, MAZE, ARC = ({"vocabulary": 11, "grid": (9, 9)}, {"vocabulary": 6, "grid": (30, 30)},
                     {"vocabulary": 12, "grid": (30, 30)})  # fmt: skip
_TRM = {"layers_L": 2, "cycles_H": 3, "prefix": 16}
# The published models: their class and sizes.
PUBLISHED: dict[str, tuple[type[RecursiveModel], Sizes]] = {
    "hrm_sudoku": (HRM, Sizes(**SUDOKU)),
    "hrm_maze": (HRM, Sizes(**MAZE)),
    "hrm_arc": (HRM, Sizes(**ARC)),
    "trm_attention_sudoku": (TRM, Sizes(**SUDOKU, **_TRM, cycles_L=6)),
    "trm_mlp_sudoku": (TRM, Sizes(**SUDOKU, **_TRM, cycles_L=6, mixing="mlp")),
    "trm_mlp_maze": (TRM, Sizes(**MAZE, **_TRM, cycles_L=4, mixing="mlp")),
}
