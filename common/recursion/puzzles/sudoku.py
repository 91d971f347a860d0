"""Sudoku with unique solutions on 4x4, 6x6 and 9x9 cells, and splits that share no puzzle.

A puzzle is dug: out of a random solution, cells are taken in random order as long as one solution remains.

Two 4x4 solutions exist up to symmetry, so 4x4 puzzles are split by the class of the PUZZLE. There are 49
classes of 6x6 solutions and 5,472,730,538 of 9x9, so these are split by the class of the SOLUTION.

Shapes: N digits, lines and boxes, L = N^2 cells, B grids. Digits are 1 .. N, an empty cell is 0; as a token
each is one larger, as in HRM's folders: token 0 is padding.
"""

from collections.abc import Callable, Iterator, Sequence
from functools import cache, partial

import torch
from torch import Tensor

from common.recursion.puzzles.splits import Candidate, puzzles_of, split_by_class
from common.recursion.puzzles.sudoku_solver import BOXES, Board, count_solutions
from common.recursion.puzzles.symmetries import Symmetries, banded_permutations, canonical_forms
from common.recursion.puzzles.task import Puzzles
from common.run.random import generator

DRAWN_TOGETHER = 16  # puzzles whose classes are found together

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

    The label of every cell is its digit, givens included, as in HRM. Symmetric 4x4 puzzles are a group;
    others are groups of one.

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
    candidates = _candidates(size, givens, generator(seed, f"sudoku/{size}"))
    what = f"{size}x{size} puzzles with {givens[0]} to {givens[1]} givens"
    sides = split_by_class(candidates, train=train, test=test, test_share=test_share, seed=seed, what=what)
    kind = {"symmetries": sudoku_symmetries(size), "group_by_class": size == 4}
    return puzzles_of(sides[0], (size, size), **kind), puzzles_of(sides[1], (size, size), **kind)


def _candidates(size: int, givens: tuple[int, int], draw: torch.Generator) -> Iterator[Candidate]:
    """Without end."""
    least, most = givens
    while True:
        solutions = [random_solution(size, draw) for _ in range(DRAWN_TOGETHER)]
        targets = torch.randint(least, most + 1, (DRAWN_TOGETHER,), generator=draw).tolist()
        orders = torch.rand(DRAWN_TOGETHER, size**2, generator=draw).argsort(1).tolist()
        diggers = [
            cache(partial(dig, size, *asked)) for asked in zip(solutions, targets, orders, strict=True)
        ]
        if size == 4:
            puzzles = torch.tensor([digger() for digger in diggers])
            marks = canonical_forms(puzzles + 1, sudoku_symmetries(size))
        else:
            marks = canonical_solutions(torch.tensor(solutions), size)
        for mark, digger, solution in zip(marks.tolist(), diggers, solutions, strict=True):
            yield bytes(mark), partial(_as_tokens, digger, solution, most)


def _as_tokens(
    digger: Callable[[], list[int]], solution: Sequence[int], most: int
) -> tuple[list[int], list[int]] | None:
    """A puzzle and its solution as tokens; none where more than `most` digits had to be left."""
    digits = digger()
    if sum(digit > 0 for digit in digits) > most:
        return None
    return [digit + 1 for digit in digits], [digit + 1 for digit in solution]


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
