"""Mazes: labels are the one shortest path, by a search of the tests' own; no walls on both sides."""

from collections import deque

import pytest
import torch

from common.recursion.puzzles.mazes import FREE, GOAL, PATH, START, WALL, maze_puzzles, pose, random_walls
from common.recursion.puzzles.symmetries import canonical_forms, turn
from common.run.random import generator

SIZE = 9


@pytest.fixture(scope="module")
def split():
    return maze_puzzles(SIZE, train=60, test=20, loops=3, shortest=8, test_share=0.25, seed=0)


def beside(cell, size):
    row, column = divmod(cell, size)
    for r, c in ((row + 1, column), (row, column + 1), (row - 1, column), (row, column - 1)):
        if 0 <= r < size and 0 <= c < size:
            yield r * size + c


def distances(walls, size, start):
    found, waiting = {start: 0}, deque([start])
    while waiting:
        cell = waiting.popleft()
        for other in beside(cell, size):
            if not walls[other] and other not in found:
                found[other] = found[cell] + 1
                waiting.append(other)
    return found


def paths_of(walls, size, start, goal, steps):
    """Every way from start to goal of so many steps, going downhill from the goal's distances."""
    to_goal = distances(walls, size, goal)
    ways = [[start]]
    for left in range(steps - 1, -1, -1):
        ways = [[*way, cell] for way in ways for cell in beside(way[-1], size) if to_goal.get(cell) == left]
    return ways


def test_labels_are_the_one_shortest_path(split):
    for puzzles in split:
        for inputs, labels in zip(puzzles.inputs.tolist(), puzzles.labels.tolist(), strict=True):
            walls, start, goal = [token == WALL for token in inputs], inputs.index(START), inputs.index(GOAL)
            steps = distances(walls, SIZE, start)[goal]
            (path,) = paths_of(walls, SIZE, start, goal, steps)
            expected = list(inputs)
            for cell in path[1:-1]:
                expected[cell] = PATH
            assert steps >= 8 and labels == expected


def test_inputs_show_no_path_and_one_start_and_goal(split):
    for puzzles in split:
        counts = torch.stack([(puzzles.inputs == token).sum(1) for token in (START, GOAL, PATH)], 1)
        assert (counts == torch.tensor([1, 1, 0])).all()
        assert len(torch.unique(puzzles.inputs, dim=0)) == len(puzzles)


@pytest.mark.parametrize("loops", [0, 4])
def test_every_free_cell_is_reached_and_loops_are_counted(loops):
    """Of a connected graph, edges - vertices + 1 is the number of independent loops."""
    cells = random_walls(7, loops, generator(0, "test"))
    walls = [cell == WALL for cell in cells]
    free = [cell for cell, token in enumerate(cells) if token == FREE]
    assert set(distances(walls, 7, 0)) == set(free)
    edges = sum(not walls[other] for cell in free for other in beside(cell, 7)) // 2
    assert edges - len(free) + 1 == loops


def test_two_shortest_paths_are_no_puzzle():
    ring = [FREE, FREE, FREE, FREE, WALL, FREE, FREE, FREE, FREE]
    assert pose(ring, 3, 4, range(9)) is None  # opposite corners: round either side
    inputs, labels = pose(ring, 3, 3, range(9))
    assert inputs[0] == START and inputs.count(GOAL) == 1 and labels.count(PATH) == 2


def test_no_walls_are_held_out_ones_turned_or_mirrored(split):
    symmetries = split[0].symmetries
    walls = [puzzles.inputs.clamp(WALL, FREE) for puzzles in split]  # start and goal are free cells
    forms = {tuple(form) for cells in symmetries.all_cells() for form in walls[0][:, cells].tolist()}
    assert len(forms) > 7 * 50 and symmetries.order == 8
    assert not forms & {tuple(form) for form in walls[1].tolist()}
    marks = [{tuple(form) for form in canonical_forms(part, symmetries).tolist()} for part in walls]
    assert not marks[0] & marks[1]


def test_a_turned_maze_is_a_maze(split):
    train = split[0]
    cells, tokens = train.symmetries.draw(generator(0, "test"), len(train))
    inputs, labels = turn(train.inputs, cells, tokens), turn(train.labels, cells, tokens)
    for grid, answer in zip(inputs.tolist(), labels.tolist(), strict=True):
        walls = [token == WALL for token in grid]
        steps = distances(walls, SIZE, grid.index(START))[grid.index(GOAL)]
        assert answer.count(PATH) == steps - 1


def test_same_seed_same_mazes(split):
    train, test = maze_puzzles(SIZE, train=60, test=20, loops=3, shortest=8, test_share=0.25, seed=0)
    assert torch.equal(train.inputs, split[0].inputs) and torch.equal(test.labels, split[1].labels)


def test_what_cannot_be_is_refused(monkeypatch):
    monkeypatch.setattr("common.recursion.puzzles.splits.PATIENCE", 100)
    arguments = {"train": 4, "test": 2, "loops": 0, "test_share": 0.3, "seed": 0}
    with pytest.raises(ValueError, match="size = 4: allowed: odd numbers >= 3"):
        maze_puzzles(4, shortest=2, **arguments)
    with pytest.raises(
        ValueError, match="3x3 mazes with 0 loops and a path of 9 steps or more: found 0 of 4"
    ):
        maze_puzzles(3, shortest=9, **arguments)
