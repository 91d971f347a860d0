"""Sudoku with unique solutions on 4x4, 6x6 and 9x9 cells, and splits that share no puzzle.

A puzzle is dug: out of a random solution, cells are taken in random order as long as one solution remains.

Two 4x4 solutions exist up to symmetry, so 4x4 puzzles are split by the class of the PUZZLE. There are 49
classes of 6x6 solutions and 5,472,730,538 of 9x9, so these are split by the class of the SOLUTION.

Shapes: N digits, lines and boxes, L = N^2 cells, B grids. Digits are 1 .. N, an empty cell is 0; as a token
each is one larger, as in HRM's folders: token 0 is padding.
"""

import hashlib
from collections.abc import Callable, Iterator, Sequence
from functools import cache, partial

import torch
from torch import Tensor

from common.recursion.puzzles.symmetries import Symmetries, banded_permutations, canonical_forms
from common.recursion.puzzles.task import Puzzles
from common.run.random import generator

BOXES = {4: (2, 2), 6: (2, 3), 9: (3, 3)}  # rows and columns of a box, by N
PATIENCE = 5000  # puzzles in a row that are of no use, before generation gives up
DRAWN_TOGETHER = 64  # puzzles whose classes are found together


# ----------------------------------------------------------------------------------------------
# Rules
# ----------------------------------------------------------------------------------------------


@cache
def units(size: int) -> tuple[tuple[int, ...], tuple[int, ...], tuple[int, ...]]:
    """Row, column and box of each cell of an N x N grid."""
    box_rows, box_columns = BOXES[size]
    rows = tuple(cell // size for cell in range(size**2))
    columns = tuple(cell % size for cell in range(size**2))
    boxes = tuple(
        row // box_rows * box_rows + column // box_columns for row, column in zip(rows, columns, strict=True)
    )
    return rows, columns, boxes


class Board:
    """A partly filled grid; which digits a line or box holds is the bits of a number."""

    def __init__(self, size: int, digits: Sequence[int]):
        """`digits`: [L], 0 for an empty cell. They may break the rules; then there is no solution."""
        self.size, self.all = size, (1 << size) - 1
        self.row_of, self.column_of, self.box_of = units(size)
        self.rows, self.columns, self.boxes = [0] * size, [0] * size, [0] * size
        self.digits = [0] * size**2
        self.empty = [cell for cell, digit in enumerate(digits) if not digit]
        self.broken = False
        for cell, digit in enumerate(digits):
            if digit:
                self.broken |= not self.allowed(cell) >> digit - 1 & 1
                self.put(cell, digit)

    def allowed(self, cell: int) -> int:
        """The digits that a cell may have, as bits: bit d - 1 for digit d."""
        taken = (
            self.rows[self.row_of[cell]] | self.columns[self.column_of[cell]] | self.boxes[self.box_of[cell]]
        )
        return self.all & ~taken

    def put(self, cell: int, digit: int) -> None:
        """Write a digit."""
        self._flip(cell, digit)
        self.digits[cell] = digit

    def take(self, cell: int) -> int:
        """Empty a cell; the digit that was there."""
        digit, self.digits[cell] = self.digits[cell], 0
        self._flip(cell, digit)
        return digit

    def _flip(self, cell: int, digit: int) -> None:
        bit = 1 << digit - 1
        self.rows[self.row_of[cell]] ^= bit
        self.columns[self.column_of[cell]] ^= bit
        self.boxes[self.box_of[cell]] ^= bit

    def solutions(self, ranks: Sequence[Sequence[int]] | None = None) -> Iterator[list[int]]:
        """Every solution [L], one after another: depth first, the cell with the fewest digits allowed first.

        `ranks` [L][N]: in which order a cell tries its digits; by default the least first.
        """
        if self.broken:
            return
        if not self.empty:
            yield list(self.digits)
            return
        place, allowed = self._most_constrained()
        cell = self.empty[place]
        self.empty[place] = self.empty[-1]
        self.empty.pop()
        order = range(1, self.size + 1) if ranks is None else ranks[cell]
        for digit in order:
            if allowed >> digit - 1 & 1:
                self.put(cell, digit)
                yield from self.solutions(ranks)
                self.take(cell)
        self.empty.append(cell)
        self.empty[place], self.empty[-1] = self.empty[-1], self.empty[place]

    def _most_constrained(self) -> tuple[int, int]:
        """The place in `empty` of the cell with the fewest digits allowed, and these."""
        best, fewest, digits = 0, self.size + 1, 0
        for place, cell in enumerate(self.empty):
            allowed = self.allowed(cell)
            count = allowed.bit_count()
            if count < fewest:
                best, fewest, digits = place, count, allowed
                if count <= 1:
                    break
        return best, digits


def count_solutions(size: int, digits: Sequence[int], limit: int = 2) -> int:
    """How many solutions a grid has, counted up to `limit`."""
    found = Board(size, digits).solutions()
    return sum(1 for _ in zip(range(limit), found, strict=False))


def has_unique_solution(size: int, digits: Sequence[int]) -> bool:
    """Whether a grid has exactly one."""
    return count_solutions(size, digits) == 1


# ----------------------------------------------------------------------------------------------
# Generation
# ----------------------------------------------------------------------------------------------


def random_solution(size: int, draw: torch.Generator) -> list[int]:
    """A filled grid [L] by backtracking with digits tried in random order. Not quite uniform."""
    ranks = torch.rand(size**2, size, generator=draw).argsort(1) + 1
    return next(Board(size, [0] * size**2).solutions(ranks.tolist()))


def dig(size: int, solution: Sequence[int], givens: int, order: Sequence[int]) -> list[int]:
    """A puzzle [L] with that one solution: cells are emptied in `order` [L] down to `givens` digits.

    More are left where none can be taken without a second solution.
    """
    digits, left = list(solution), size**2
    for cell in order:
        if left == givens:
            break
        if not _other_digit_possible(size, digits, cell):
            digits[cell], left = 0, left - 1
    return digits


def _other_digit_possible(size: int, digits: Sequence[int], cell: int) -> bool:
    """Whether there is a solution with another digit in a cell, all other givens kept."""
    changed = list(digits)
    for digit in range(1, size + 1):
        if digit != digits[cell]:
            changed[cell] = digit
            if count_solutions(size, changed, limit=1):
                return True
    return False


def sudoku_puzzles(
    size: int, *, train: int, test: int, givens: tuple[int, int], test_share: float, seed: int
) -> tuple[Puzzles, Puzzles]:
    """Two sets of puzzles, all different, no puzzle of one symmetric to a puzzle of the other.

    The label of every cell is its digit, givens included, as in HRM. A class of symmetric puzzles (4x4) or
    solutions (6x6, 9x9) is held out or not by a hash of the class and the seed, so the sizes of the sets do
    not move a class from one to the other. Symmetric 4x4 puzzles are a group; others are groups of one.

    Args:
        size: N, 4, 6 or 9.
        train, test: how many puzzles.
        givens: least and largest number of digits given.
        test_share: of the classes, in (0, 1).
        seed: of the puzzles and of the split.

    Raises:
        ValueError: another size, or there are not so many puzzles with so few givens.
    """
    if size not in BOXES:
        raise ValueError(f"size = {size}: allowed: {', '.join(map(str, BOXES))}")
    sets = {False: _Set(train), True: _Set(test)}  # by whether it is held out
    idle = 0
    for mark, solution, make_puzzle in _candidates(size, givens, generator(seed, f"sudoku/{size}")):
        chosen = sets[_is_held_out(mark, seed, test_share)]
        idle = 0 if chosen.add(mark, solution, make_puzzle, givens[1]) else idle + 1
        if all(part.complete for part in sets.values()):
            return sets[False].puzzles(size), sets[True].puzzles(size)
        if idle == PATIENCE:
            have, held_out = (len(part.found) for part in sets.values())
            raise ValueError(
                f"{size}x{size} puzzles with {givens[0]} to {givens[1]} givens: found {have} of {train} for"
                f" training and {held_out} of {test} held out; allowed: fewer puzzles, or more givens"
            )
    raise AssertionError


class _Set:
    """One side of a split while it is filled."""

    def __init__(self, wanted: int):
        self.wanted = wanted
        self.found: dict[tuple[int, ...], tuple[list[int], bytes]] = {}  # puzzle -> solution, class

    @property
    def complete(self) -> bool:
        return len(self.found) == self.wanted

    def add(self, mark: bytes, solution: list[int], make_puzzle: Callable[[], list[int]], most: int) -> bool:
        """Take a puzzle if there is room, it has at most so many givens and is not here yet."""
        if self.complete:
            return False
        puzzle = tuple(make_puzzle())
        if puzzle in self.found or sum(digit > 0 for digit in puzzle) > most:
            return False
        self.found[puzzle] = solution, mark
        return True

    def puzzles(self, size: int) -> Puzzles:
        """As tokens; symmetric 4x4 puzzles are a group."""
        solutions, marks = zip(*self.found.values(), strict=True)
        number = {mark: index for index, mark in enumerate(dict.fromkeys(marks))}
        groups = [number[mark] for mark in marks] if size == 4 else range(len(marks))
        return Puzzles(
            inputs=torch.tensor(list(self.found)) + 1,
            labels=torch.tensor(solutions) + 1,
            identifiers=torch.zeros(len(self.found), dtype=torch.int64),
            groups=torch.tensor(groups),
            vocabulary=size + 2,
            num_identifiers=1,
            grid=(size, size),
            symmetries=sudoku_symmetries(size),
        )


def _candidates(
    size: int, givens: tuple[int, int], draw: torch.Generator
) -> Iterator[tuple[bytes, list[int], Callable[[], list[int]]]]:
    """Without end: a class, a solution, and what digs its puzzle."""
    while True:
        solutions, diggers = [], []
        for _ in range(DRAWN_TOGETHER):
            target = int(torch.randint(givens[0], givens[1] + 1, (), generator=draw))
            solutions.append(random_solution(size, draw))
            order = torch.randperm(size**2, generator=draw).tolist()
            diggers.append(partial(dig, size, solutions[-1], target, order))
        if size == 4:
            puzzles = [make_puzzle() for make_puzzle in diggers]
            marks = canonical_forms(torch.tensor(puzzles) + 1, sudoku_symmetries(size))
        else:
            marks = canonical_solutions(torch.tensor(solutions), size)
        classes = [bytes(mark) for mark in marks.tolist()]
        yield from zip(classes, solutions, diggers, strict=True)


def _is_held_out(mark: bytes, seed: int, share: float) -> bool:
    digest = hashlib.sha256(f"{seed}/split/".encode() + mark).digest()
    return int.from_bytes(digest[:8], "big") < share * 2**64


# ----------------------------------------------------------------------------------------------
# Symmetries
# ----------------------------------------------------------------------------------------------


@cache
def sudoku_symmetries(size: int) -> Symmetries:
    """Rows within bands, bands, columns and stacks alike, the transpose where boxes are square; all digits.

    128 geometric symmetries of 4x4, 3,456 of 6x6, 3,359,232 of 9x9.
    """
    box_rows, box_columns = BOXES[size]
    return Symmetries(
        rows=banded_permutations(size // box_rows, box_rows),
        columns=banded_permutations(size // box_columns, box_columns),
        transpose=box_rows == box_columns,
        renamed=torch.arange(2, size + 2),
        vocabulary=size + 2,
    )


def canonical_solutions(solutions: Tensor, size: int) -> Tensor:
    """The least grid among all that the symmetries make of each SOLUTION: [B, L] -> [B, L], digits.

    The same as `canonical_forms`, for large groups. The least grid begins with the row 1 .. N, so the choice
    of a first row and of the columns' order fixes the digits' names; then the best order of the other rows is
    the sorted one.
    """
    return torch.stack([_canonical_solution(solution.view(size, size)) for solution in solutions])


def _canonical_solution(solution: Tensor) -> Tensor:
    """Of one [N, N] -> [L]. T: as it is and transposed; C orders of columns; bands of h rows."""
    size = len(solution)
    symmetries, height = sudoku_symmetries(size), BOXES[size][0]
    grids = torch.stack([solution, solution.T] if symmetries.transpose else [solution]) - 1  # [T, N, N]
    lines = grids[:, :, symmetries.columns].unflatten(1, (-1, height))  # [T, bands, h, C, N]
    names = lines.argsort(-1)  # of the digits, where this line is to read 0 .. N - 1
    pairs = names[:, :, :, None].expand(-1, -1, -1, height, -1, -1)  # [T, bands, h, h, C, N]
    second = _numbers(pairs.gather(-1, lines[:, :, None].expand_as(pairs)))  # [T, bands, h, h, C]
    itself = torch.eye(height, dtype=torch.bool)[:, :, None]
    second = second.masked_fill(itself, size**size).amin(3)  # the least line that may follow the first
    view, band, line, column = (second == second.min()).nonzero().T  # [K] each: what is left
    names = names[view, band, line, column]  # [K, N]
    rows = lines[view, :, :, column]  # [K, bands, h, N]
    rows = _numbers(names[:, None, None].expand_as(rows).gather(-1, rows)).sort(-1).values  # [K, bands, h]
    order = rows[..., 0].argsort(1)[..., None].expand_as(rows)
    least = torch.tensor(min(rows.gather(1, order).flatten(1).tolist()))  # [N]
    return (least[:, None] // _powers(size) % size + 1).flatten()


def _numbers(lines: Tensor) -> Tensor:
    """Lines as numbers in base N, which compare as the lines do: [..., N] -> [...]."""
    return (lines * _powers(lines.shape[-1])).sum(-1)


def _powers(size: int) -> Tensor:
    return size ** torch.arange(size - 1, -1, -1)
