"""The symmetries of puzzles on a grid: permuted rows, columns, a transpose, and tokens that may be renamed.

They multiply training puzzles, and they say which puzzles are one and the same: a split that cannot leak is
one by canonical form.

Shapes: H x W cells of a grid, L = H W, V tokens, R row and C column permutations, G = R C (times 2 with the
transpose) geometric symmetries, B puzzles.
"""

import itertools
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

LARGEST_GROUP = 10**5  # that canonical forms go through
BLOCK = 2**20  # numbers of one block of canonical forms; bounds its memory


@dataclass(frozen=True, eq=False)
class Symmetries:
    """A group: any of `rows` with any of `columns`, then perhaps the transpose; any renaming of `renamed`."""

    rows: Tensor  # [R, H] int64: permutations of the rows
    columns: Tensor  # [C, W] int64: permutations of the columns
    transpose: bool  # whether rows and columns may change places; needs H == W
    renamed: Tensor  # int64: tokens that may stand for one another
    vocabulary: int  # V

    @property
    def order(self) -> int:
        """The number G of geometric symmetries."""
        return len(self.rows) * len(self.columns) * (2 if self.transpose else 1)

    def cells(self, row: Tensor, column: Tensor, transposed: Tensor) -> Tensor:
        """Where each cell of the turned grid comes from, by the indices of symmetries: [B] -> [B, L]."""
        width = self.columns.shape[1]
        places = self.rows[row][:, :, None] * width + self.columns[column][:, None, :]  # [B, H, W]
        if self.transpose:
            places = torch.where(transposed.bool()[:, None, None], places.mT, places)
        return places.flatten(1)

    def all_cells(self) -> Tensor:
        """`cells` of every geometric symmetry: [G, L]."""
        flips = torch.arange(2 if self.transpose else 1)
        chosen = torch.cartesian_prod(torch.arange(len(self.rows)), torch.arange(len(self.columns)), flips)
        return self.cells(*chosen.unbind(1))

    def draw(self, draw: torch.Generator, count: int) -> tuple[Tensor, Tensor]:
        """`count` B symmetries, each as likely as any other.

        Returns:
            cells: [B, L] int64, where each cell comes from; tokens: [B, V] int64, what each token becomes.
        """
        row = torch.randint(len(self.rows), (count,), generator=draw)
        column = torch.randint(len(self.columns), (count,), generator=draw)
        transposed = torch.randint(2, (count,), generator=draw)
        order = torch.rand(count, len(self.renamed), generator=draw).argsort(1)
        tokens = torch.arange(self.vocabulary).repeat(count, 1)
        tokens[:, self.renamed] = self.renamed[order]
        return self.cells(row, column, transposed), tokens


def turn(grids: Tensor, cells: Tensor, tokens: Tensor) -> Tensor:
    """Grids of inputs or labels under symmetries: [..., L], [..., L], [..., V] -> [..., L].

    Negative labels, of which nothing is asked, stay as they are.
    """
    moved = grids.gather(-1, cells)
    return torch.where(moved < 0, moved, tokens.gather(-1, moved.clamp(min=0)))


def identity(height: int, width: int, vocabulary: int) -> Symmetries:
    """Of a puzzle that nothing may change."""
    rows, columns = torch.arange(height)[None], torch.arange(width)[None]
    return Symmetries(rows, columns, False, torch.empty(0, dtype=torch.int64), vocabulary)


def dihedral(height: int, width: int, vocabulary: int) -> Symmetries:
    """Reflections and, of a square, quarter turns: 8 of a square, 4 of a rectangle. No token is renamed."""
    rows, columns = torch.arange(height), torch.arange(width)
    none = torch.empty(0, dtype=torch.int64)
    return Symmetries(
        torch.stack([rows, rows.flip(0)]), torch.stack([columns, columns.flip(0)]), height == width, none,
        vocabulary,
    )  # fmt: skip


def banded_permutations(bands: int, size: int) -> Tensor:
    """Permutations of lines, `bands` of `size`, that keep the lines of a band together: [R, bands size]."""
    found: list[list[int]] = []
    within = list(itertools.permutations(range(size)))
    for order in itertools.permutations(range(bands)):
        for inner in itertools.product(within, repeat=bands):
            found.append([
                band * size + line for band, lines in zip(order, inner, strict=True) for line in lines
            ])  # fmt: skip
    return torch.tensor(found)


def canonical_forms(grids: Tensor, symmetries: Symmetries) -> Tensor:
    """The lexicographically least grid among all that the symmetries make of each: [B, L] -> [B, L].

    Two grids are symmetric if and only if their canonical forms are equal. Exhaustive: B G L numbers are
    looked at. Renamed tokens are numbered as they appear, which is the least renaming.

    Raises:
        ValueError: a group that is too large to be gone through.
    """
    if symmetries.order > LARGEST_GROUP:
        raise ValueError(f"{symmetries.order} geometric symmetries: allowed: at most {LARGEST_GROUP}")
    cells = symmetries.all_cells()  # [G, L]
    size = max(1, BLOCK // cells.numel())
    return torch.cat([_least(block[:, cells], symmetries) for block in grids.split(size)])


def _least(candidates: Tensor, symmetries: Symmetries) -> Tensor:
    """The least of G candidates of each grid under the best renaming: [B, G, L] -> [B, L]."""
    alive = torch.ones(candidates.shape[:2], dtype=torch.bool)
    least = []
    for tokens in _renamed_as_they_appear(candidates, symmetries):  # [B, G], cell by cell
        tokens = tokens.masked_fill(~alive, symmetries.vocabulary)
        least.append(tokens.amin(1))
        alive &= tokens == least[-1][:, None]
    return torch.stack(least, 1)


def _renamed_as_they_appear(candidates: Tensor, symmetries: Symmetries) -> Iterator[Tensor]:
    """The cells of the candidates one after another, their renamed tokens numbered in order: [B, G] each."""
    names = torch.arange(symmetries.vocabulary).repeat(*candidates.shape[:2], 1)  # [B, G, V]
    names[..., symmetries.renamed] = -1
    following = torch.zeros(candidates.shape[:2], dtype=torch.int64)  # how many have been named
    targets = torch.cat([symmetries.renamed.sort().values, torch.zeros(1, dtype=torch.int64)])
    for cell in candidates.unbind(-1):
        name = names.gather(-1, cell[..., None])[..., 0]
        unnamed = name < 0
        name = torch.where(unnamed, targets[following], name)
        names.scatter_(-1, cell[..., None], name[..., None])
        following += unnamed
        yield name
