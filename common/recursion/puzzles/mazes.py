"""Mazes with one shortest path, which the solver is to mark.

Cells with even row and column are rooms, those between two rooms doors. A random spanning tree opens doors,
then a few more open, so that there are loops and a dead end is not all that tells a path from its
surroundings. Start and goal are drawn so that exactly one shortest path joins them.

Shapes: N rows and columns (odd), L = N^2 cells. Tokens are those of HRM's mazes.
"""

from collections.abc import Iterator, Sequence
from functools import cache, partial

import torch

from common.recursion.puzzles.splits import Candidate, puzzles_of, split_by_class
from common.recursion.puzzles.symmetries import canonical_forms, dihedral
from common.recursion.puzzles.task import Puzzles
from common.run.random import generator

PADDING, WALL, FREE, START, GOAL, PATH = range(6)  # tokens
VOCABULARY = 6

DRAWN_TOGETHER = 16  # mazes whose classes are found together


def maze_puzzles(
    size: int, *, train: int, test: int, loops: int, shortest: int, test_share: float, seed: int
) -> tuple[Puzzles, Puzzles]:
    """Two sets of mazes, all different; no walls of one are, turned or mirrored, those of the other.

    A label is the whole grid with the path marked between start and goal, as in HRM.

    Args:
        size: N, odd, at least 3.
        train, test: how many.
        loops: doors opened beyond a tree; 0: one way between any two cells.
        shortest: least number of steps from start to goal, at least 2.
        test_share: of the classes of walls, in (0, 1).
        seed: of the mazes and of the split.

    Raises:
        ValueError: a size that is even or below 3, or there are not so many mazes.
    """
    if size < 3 or size % 2 == 0:
        raise ValueError(f"size = {size}: allowed: odd numbers >= 3")
    candidates = _candidates(size, loops, shortest, generator(seed, f"maze/{size}"))
    what = f"{size}x{size} mazes with {loops} loops and a path of {shortest} steps or more"
    sides = split_by_class(candidates, train=train, test=test, test_share=test_share, seed=seed, what=what)
    symmetries = dihedral(size, size, VOCABULARY)
    return puzzles_of(sides[0], (size, size), symmetries), puzzles_of(sides[1], (size, size), symmetries)


# ----------------------------------------------------------------------------------------------
# Walls
# ----------------------------------------------------------------------------------------------


@cache
def neighbours(size: int) -> tuple[tuple[int, ...], ...]:
    """The cells beside each cell: above, below, left, right."""
    found = []
    for cell in range(size**2):
        row, column = divmod(cell, size)
        beside = ((row - 1, column), (row + 1, column), (row, column - 1), (row, column + 1))
        found.append(tuple(r * size + c for r, c in beside if 0 <= r < size and 0 <= c < size))
    return tuple(found)


@cache
def _doors(size: int) -> tuple[tuple[int, int, int], ...]:
    """Every door with the two rooms that it joins."""
    found = []
    for cell in range(size**2):
        row, column = divmod(cell, size)
        if row % 2 != column % 2:
            step = 1 if column % 2 else size
            found.append((cell, cell - step, cell + step))
    return tuple(found)


def random_walls(size: int, loops: int, draw: torch.Generator) -> list[int]:
    """WALL or FREE of each cell [L]: Kruskal's spanning tree of doors in random order, and `loops` more."""
    room_of = list(range(size**2))  # a tree of rooms that are joined, as parents

    def root(cell: int) -> int:
        while room_of[cell] != cell:
            room_of[cell] = room_of[room_of[cell]]
            cell = room_of[cell]
        return cell

    doors = _doors(size)
    order = torch.randperm(len(doors), generator=draw).tolist()
    cells = [FREE if not (row % 2 or column % 2) else WALL for row in range(size) for column in range(size)]
    for index in order:
        door, one, other = doors[index]
        if root(one) != root(other):
            room_of[root(one)] = root(other)
            cells[door] = FREE
    shut = [doors[index][0] for index in order if cells[doors[index][0]] == WALL]
    for door in shut[:loops]:
        cells[door] = FREE
    return cells


# ----------------------------------------------------------------------------------------------
# Paths
# ----------------------------------------------------------------------------------------------


def shortest_paths(cells: Sequence[int], size: int, start: int) -> tuple[list[int], list[int], list[int]]:
    """Breadth first from one cell over all that are no wall.

    Returns:
        steps: from the start to each cell [L], -1 where there is no way; ways: how many shortest paths lead
        there [L]; before: the cell before it on one of them [L], -1 for none.
    """
    steps, ways, before = [-1] * size**2, [0] * size**2, [-1] * size**2
    steps[start], ways[start] = 0, 1
    reached = [start]
    for cell in reached:  # grows on the way
        for beside in neighbours(size)[cell]:
            if cells[beside] == WALL:
                continue
            if steps[beside] < 0:
                steps[beside], before[beside] = steps[cell] + 1, cell
                reached.append(beside)
            if steps[beside] == steps[cell] + 1:
                ways[beside] += ways[cell]
    return steps, ways, before


def pose(
    cells: Sequence[int], size: int, shortest: int, order: Sequence[int]
) -> tuple[list[int], list[int]] | None:
    """Inputs and labels [L]: start and goal in a maze, and the one shortest path; none where there is none.

    The start is the first free cell in `order` [L]; the goal the first that only one shortest path leads to,
    of `shortest` steps or more.
    """
    start = next(cell for cell in order if cells[cell] == FREE)
    steps, ways, before = shortest_paths(cells, size, start)
    goal = next((cell for cell in order if steps[cell] >= shortest and ways[cell] == 1), None)
    if goal is None:
        return None
    inputs, labels = list(cells), list(cells)
    inputs[start], inputs[goal] = labels[start], labels[goal] = START, GOAL
    cell = before[goal]
    while cell != start:
        labels[cell], cell = PATH, before[cell]
    return inputs, labels


# ----------------------------------------------------------------------------------------------
# Puzzles
# ----------------------------------------------------------------------------------------------


def _candidates(size: int, loops: int, shortest: int, draw: torch.Generator) -> Iterator[Candidate]:
    """Without end."""
    symmetries = dihedral(size, size, VOCABULARY)
    while True:
        mazes = [random_walls(size, loops, draw) for _ in range(DRAWN_TOGETHER)]
        orders = torch.rand(DRAWN_TOGETHER, size**2, generator=draw).argsort(1).tolist()
        marks = canonical_forms(torch.tensor(mazes), symmetries).tolist()
        for mark, maze, order in zip(marks, mazes, orders, strict=True):
            yield bytes(mark), partial(pose, maze, size, shortest, order)
