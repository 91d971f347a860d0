"""What every puzzle is: a grid of tokens, the grid that is asked for, and what may be done to both.

Shapes: N puzzles, L cells, V tokens, S seeds, B puzzles in a batch.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import lru_cache

import torch
from torch import Tensor

from common.recursion.puzzles.symmetries import Symmetries, turn
from common.run.random import generator

IGNORE = -100  # the label of a cell about which nothing is asked


@dataclass(frozen=True, eq=False)
class Puzzles:
    """N puzzles on one grid. Token 0 is padding, as in HRM's folders."""

    inputs: Tensor  # [N, L] tokens: int64, or int8 of a folder, whose batches are int64 too
    labels: Tensor  # [N, L] tokens, or IGNORE where nothing is asked
    identifiers: Tensor  # [N] int64: which row of a table of puzzle embeddings belongs to it; 0: none
    groups: Tensor  # [N] int64, rising from 0: puzzles that are forms of one
    vocabulary: int  # V
    num_identifiers: int  # rows of that table
    grid: tuple[int, int]  # rows, columns
    symmetries: Symmetries  # of the task: they turn a puzzle into another one

    def __post_init__(self) -> None:
        """Raises ValueError for tensors that do not belong together."""
        count, cells = self.inputs.shape
        if self.labels.shape != (count, cells) or self.grid[0] * self.grid[1] != cells:
            raise ValueError(
                f"inputs {tuple(self.inputs.shape)}, labels {tuple(self.labels.shape)}, {self.grid}"
            )
        if self.identifiers.shape != (count,) or self.groups.shape != (count,):
            raise ValueError(f"{count} puzzles: allowed: as many identifiers and groups")

    def __len__(self) -> int:
        return len(self.inputs)

    def select(self, rows: Tensor) -> "Puzzles":
        """Some of the puzzles, their groups numbered anew."""
        groups = torch.unique(self.groups[rows], return_inverse=True)[1]
        chosen = [values[rows] for values in (self.inputs, self.labels, self.identifiers)]
        return replace(self, inputs=chosen[0], labels=chosen[1], identifiers=chosen[2], groups=groups)


@dataclass(frozen=True)
class Batch:
    """Puzzles of S seeds."""

    inputs: Tensor  # [S, B, L] int64
    labels: Tensor  # [S, B, L] int64
    identifiers: Tensor  # [S, B] int64


class PuzzleSampler:
    """Training batches: one puzzle of each group an epoch, in random order, under random symmetries.

    The order of an epoch depends on the seed and the epoch's number alone, so a training that goes on from a
    checkpoint needs to remember nothing.
    """

    def __init__(self, puzzles: Puzzles, seeds: Sequence[int], device: torch.device, *, augment: bool):
        self.puzzles, self.seeds, self.device, self.augment = puzzles, seeds, device, augment
        self.members = puzzles.groups.argsort(stable=True)  # group by group
        self.sizes = torch.bincount(puzzles.groups)
        self.begins = self.sizes.cumsum(0) - self.sizes
        self._order = lru_cache(maxsize=2 * len(seeds))(self._draw_order)

    def draw(self, iteration: int, draws: Sequence[torch.Generator], count: int) -> Batch:
        """The batch of an iteration: `count` B puzzles a seed; `draws` choose the symmetries."""
        puzzles = self.puzzles
        rows = torch.stack([self.rows(seed, iteration, count) for seed in self.seeds])  # [S, B]
        inputs, labels = puzzles.inputs[rows].long(), puzzles.labels[rows].long()
        if self.augment:
            chosen = [puzzles.symmetries.draw(draw, count) for draw in draws]
            cells, tokens = (torch.stack(parts) for parts in zip(*chosen, strict=True))
            inputs, labels = turn(inputs, cells, tokens), turn(labels, cells, tokens)
        parts = (inputs, labels, puzzles.identifiers[rows])
        return Batch(*(part.to(self.device) for part in parts))

    def rows(self, seed: int, iteration: int, count: int) -> Tensor:
        """Which puzzles a seed sees in an iteration: [count] int64."""
        groups = len(self.sizes)
        positions = torch.arange(iteration * count, (iteration + 1) * count)
        epochs = range(int(positions[0]) // groups, int(positions[-1]) // groups + 1)
        orders = torch.cat([self._order(seed, epoch) for epoch in epochs])
        return orders[positions - epochs[0] * groups]

    def _draw_order(self, seed: int, epoch: int) -> Tensor:
        """One puzzle of each group, in random order."""
        draw = generator(seed, f"epoch/{epoch}")
        chosen = (torch.rand(len(self.sizes), generator=draw, dtype=torch.float64) * self.sizes).long()
        order = torch.randperm(len(self.sizes), generator=draw)
        return self.members[self.begins + chosen][order]
