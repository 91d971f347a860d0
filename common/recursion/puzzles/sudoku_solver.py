"""A solver of Sudoku on 4x4, 6x6 and 9x9 cells that finds every solution; which digits are taken is bits.

Shapes: N digits, lines and boxes, L = N^2 cells. Digits are 1 .. N, an empty cell is 0.
"""

from collections.abc import Iterator, Sequence
from functools import cache

BOXES = {4: (2, 2), 6: (2, 3), 9: (3, 3)}  # rows and columns of a box, by N


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
