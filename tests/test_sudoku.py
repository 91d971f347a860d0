"""Sudoku: the solver against brute force, unique solutions, splits that share no class."""

import itertools

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from common.recursion.puzzles.sudoku import (
    canonical_solutions,
    dig,
    random_solution,
    sudoku_puzzles,
    sudoku_symmetries,
)
from common.recursion.puzzles.sudoku_solver import BOXES, Board, count_solutions, units
from common.recursion.puzzles.symmetries import canonical_forms, turn
from common.run.random import generator

SETTINGS = {4: (60, 30, (4, 6)), 6: (20, 8, (14, 18)), 9: (4, 2, (30, 36))}


@pytest.fixture(scope="module", params=SETTINGS)
def split(request):
    train, test, givens = SETTINGS[request.param]
    return request.param, sudoku_puzzles(
        request.param, train=train, test=test, givens=givens, test_share=0.3, seed=0
    )


@pytest.fixture(scope="module")
def four():
    return sudoku_puzzles(4, train=300, test=120, givens=(4, 6), test_share=0.25, seed=0)


@pytest.fixture(scope="module")
def every_4x4():
    """All 4x4 solutions, from all grids whose rows are permutations."""
    rows = torch.tensor(list(itertools.permutations(range(1, 5))))
    grids = rows[torch.cartesian_prod(*[torch.arange(24)] * 4)]  # [24^4, 4, 4]
    bits = 2**grids
    boxes = bits.unflatten(1, (2, 2)).unflatten(3, (2, 2)).sum((2, 4))
    valid = (bits.sum(1) == 30).all(1) & (boxes == 30).flatten(1).all(1)
    distinct = [(grids == digit).sum(1).eq(1).all(1) for digit in range(1, 5)]
    return grids[valid & torch.stack(distinct).all(0)].flatten(1)


def is_solution(digits, size):
    """By the rules, from sets."""
    grid, (box_rows, box_columns) = np.asarray(digits).reshape(size, size), BOXES[size]
    corners = itertools.product(range(0, size, box_rows), range(0, size, box_columns))
    boxes = [grid[row : row + box_rows, column : column + box_columns].flatten() for row, column in corners]
    return all(sorted(unit) == list(range(1, size + 1)) for unit in (*grid, *grid.T, *boxes))


def completions(digits, size):
    """Every solution that keeps the givens, cell by cell in reading order, with nothing clever."""
    if 0 not in digits:
        return [tuple(digits)]
    cell, found = digits.index(0), []
    beside = {
        digits[other]
        for of_cell in units(size)
        for other in range(size**2)
        if of_cell[other] == of_cell[cell]
    }
    for digit in set(range(1, size + 1)) - beside:
        found += completions([*digits[:cell], digit, *digits[cell + 1 :]], size)
    return found


def digits_of(tokens):
    return (tokens - 1).tolist()


# --- the solver -----------------------------------------------------------------------------------


def test_the_solver_finds_all_288_solutions_of_4x4(every_4x4):
    found = sorted(Board(4, [0] * 16).solutions())
    assert found == sorted(every_4x4.tolist()) and len(found) == 288


@settings(max_examples=40, deadline=None)
@given(st.lists(st.integers(0, 4), min_size=16, max_size=16))
def test_the_solver_counts_as_brute_force_does(every_4x4, digits):
    asked = torch.tensor(digits)
    fits = ((every_4x4 == asked) | (asked == 0)).all(1).sum()
    assert count_solutions(4, digits, limit=1000) == fits


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 287), st.sets(st.integers(0, 15), max_size=12))
def test_the_solver_counts_grids_that_have_a_solution(every_4x4, number, emptied):
    digits = [0 if cell in emptied else digit for cell, digit in enumerate(every_4x4[number].tolist())]
    asked = torch.tensor(digits)
    fits = int(((every_4x4 == asked) | (asked == 0)).all(1).sum())
    assert fits >= 1 and count_solutions(4, digits, limit=1000) == fits
    assert count_solutions(4, digits) == min(fits, 2)


def test_it_leaves_its_board_as_it_was():
    board = Board(4, [1, 0, 0, 0] * 4)
    assert list(board.solutions()) == []  # a column of four ones
    board = Board(4, [1, 2, 0, 0] + [0] * 12)
    first, second = list(board.solutions()), list(board.solutions())
    assert sorted(first) == sorted(second) and len(first) == 24


# --- puzzles --------------------------------------------------------------------------------------


def test_puzzles_are_unique_by_brute_force(split):
    size, sides = split
    for puzzles in sides:
        for tokens, solution in zip(puzzles.inputs, puzzles.labels, strict=True):
            if size == 9:  # too many branches without a clever order
                assert count_solutions(size, digits_of(tokens)) == 1
            else:
                assert completions(digits_of(tokens), size) == [tuple(digits_of(solution))]


def test_labels_are_solutions_that_keep_the_givens(split):
    size, sides = split
    least, most = SETTINGS[size][2]
    for puzzles in sides:
        assert all(is_solution(digits_of(solution), size) for solution in puzzles.labels)
        given_ = puzzles.inputs > 1
        assert torch.equal(puzzles.inputs[given_], puzzles.labels[given_])
        assert ((given_.sum(1) >= least) & (given_.sum(1) <= most)).all()
        assert puzzles.vocabulary == size + 2 and puzzles.grid == (size, size)
        assert len(torch.unique(puzzles.inputs, dim=0)) == len(puzzles)


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 119), st.integers(0, 2**32))
def test_every_rule_valid_prediction_of_a_unique_puzzle_is_the_solution(four, number, seed):
    tokens, solution = four[1].inputs[number], four[1].labels[number]
    order = torch.rand(16, 4, generator=torch.Generator().manual_seed(seed)).argsort(1) + 1
    predicted = next(Board(4, digits_of(tokens)).solutions(order.tolist()))  # by guesses in any order
    assert is_solution(predicted, 4) and predicted == digits_of(solution)


def test_digging_stops_where_a_second_solution_would_come():
    draw = generator(0, "test")
    solution = random_solution(4, draw)
    puzzle = dig(4, solution, 0, torch.randperm(16, generator=draw).tolist())
    assert 4 <= sum(digit > 0 for digit in puzzle) <= 6  # no 4x4 puzzle of 3 givens has one solution
    for cell in (cell for cell, digit in enumerate(puzzle) if digit):
        assert count_solutions(4, [*puzzle[:cell], 0, *puzzle[cell + 1 :]]) == 2


def test_solutions_are_of_every_class():
    """Permuting the digits, rows and columns of one grid makes a single class."""
    draw = generator(0, "test")
    four = torch.tensor([random_solution(4, draw) for _ in range(40)])
    six = torch.tensor([random_solution(6, draw) for _ in range(200)])
    assert len(torch.unique(canonical_solutions(four, 4), dim=0)) == 2
    assert 25 <= len(torch.unique(canonical_solutions(six, 6), dim=0)) <= 49


# --- splits ---------------------------------------------------------------------------------------


def test_no_4x4_puzzle_is_a_held_out_one_under_any_of_3072_symmetries(four):
    """Every symmetric form of every class of training puzzles, against the held-out puzzles themselves."""
    train, test = four
    symmetries = sudoku_symmetries(4)
    first_of_group = torch.stack([train.inputs[train.groups == group][0] for group in train.groups.unique()])
    names = torch.tensor([[0, 1, *order] for order in itertools.permutations(range(2, 6))])  # [24, V]
    cells = symmetries.all_cells()
    assert cells.shape == (128, 16) and len(torch.unique(cells, dim=0)) == 128
    forms = names[:, first_of_group[:, cells]].flatten(0, 2)  # [24 groups 128, L]
    powers = 6 ** torch.arange(16)
    assert torch.isin((train.inputs * powers).sum(1), (forms * powers).sum(1)).all()
    assert not torch.isin((test.inputs * powers).sum(1), (forms * powers).sum(1)).any()


def test_4x4_groups_are_classes(four):
    for puzzles in four:
        forms = canonical_forms(puzzles.inputs, puzzles.symmetries)
        pairs = torch.cat([forms, puzzles.groups[:, None]], 1)
        classes = len(torch.unique(forms, dim=0))
        assert classes == len(torch.unique(pairs, dim=0)) == puzzles.groups.max() + 1 > 30


def test_no_6x6_solution_is_a_held_out_one_under_any_symmetry():
    train, test = sudoku_puzzles(6, train=20, test=10, givens=(16, 20), test_share=0.3, seed=1)
    forms = [  # exhaustively: all 3456 turns and every renaming
        {tuple(form) for form in canonical_forms(puzzles.labels, puzzles.symmetries).tolist()}
        for puzzles in (train, test)
    ]
    assert len(forms[0]) >= 8 and len(forms[1]) >= 2 and not forms[0] & forms[1]


def test_no_9x9_solution_is_a_held_out_one():
    train, test = sudoku_puzzles(9, train=4, test=2, givens=(36, 40), test_share=0.3, seed=1)
    forms = canonical_solutions(torch.cat([train.labels, test.labels]) - 1, 9)
    assert len(torch.unique(forms, dim=0)) == 6


def test_same_seed_same_puzzles_and_size_moves_no_class():
    one, same = (sudoku_puzzles(4, train=20, test=8, givens=(4, 6), test_share=0.3, seed=3) for _ in range(2))
    for first, second in zip(one, same, strict=True):
        assert torch.equal(first.inputs, second.inputs) and torch.equal(first.labels, second.labels)
    more, _ = sudoku_puzzles(4, train=40, test=8, givens=(4, 6), test_share=0.3, seed=3)
    assert torch.equal(more.inputs[:20], one[0].inputs)
    other, _ = sudoku_puzzles(4, train=20, test=8, givens=(4, 6), test_share=0.3, seed=4)
    assert not torch.equal(other.inputs, one[0].inputs)


@pytest.mark.parametrize("givens, test_share", [((1, 3), 0.3), ((4, 6), 1e-9)])
def test_what_does_not_exist_is_refused(givens, test_share, monkeypatch):
    """A puzzle of 3 givens; a held-out one where no class is held out."""
    monkeypatch.setattr("common.recursion.puzzles.splits.PATIENCE", 100)
    with pytest.raises(ValueError, match=r"4x4 puzzles with .* found \d+ of 10 .* and 0 of 5") as refused:
        sudoku_puzzles(4, train=10, test=5, givens=givens, test_share=test_share, seed=0)
    assert "\n" not in str(refused.value)


def test_other_sizes_are_refused():
    with pytest.raises(ValueError, match="size = 5: allowed: 4, 6, 9"):
        sudoku_puzzles(5, train=1, test=1, givens=(4, 6), test_share=0.3, seed=0)


# --- canonical forms of solutions -----------------------------------------------------------------


def test_canonical_solutions_are_the_exhaustive_least_4x4(every_4x4):
    exhaustive = canonical_forms(every_4x4 + 1, sudoku_symmetries(4)) - 1
    assert torch.equal(canonical_solutions(every_4x4, 4), exhaustive)


def test_canonical_solutions_are_the_exhaustive_least_6x6():
    draw = generator(0, "test")
    solutions = torch.tensor([random_solution(6, draw) for _ in range(6)])
    exhaustive = canonical_forms(solutions + 1, sudoku_symmetries(6)) - 1
    assert torch.equal(canonical_solutions(solutions, 6), exhaustive)


def test_canonical_solutions_are_the_exhaustive_least_9x9():
    solution = np.array(random_solution(9, generator(0, "test"))).reshape(9, 9) - 1
    rows, columns = (part.numpy() for part in (sudoku_symmetries(9).rows, sudoku_symmetries(9).columns))
    powers, least = 9 ** np.arange(8, -1, -1), [9**9]
    for grid in (solution, solution.T):
        for order in rows:
            turned = grid[order]
            names = turned[0][columns].argsort(1)  # [C, 9]: so that the first row reads 0 .. 8
            second = np.take_along_axis(names, turned[1][columns], 1) @ powers
            if second.min() > least[0]:
                continue  # the second row decides against every order of columns
            for column in columns[second == second.min()]:
                named = turned[0][column].argsort()[turned[:, column]]
                least = min(least, (named[1:] @ powers).tolist())
    found = canonical_solutions(torch.from_numpy(solution.flatten() + 1)[None], 9)[0].view(9, 9) - 1
    assert (found.numpy()[1:] @ powers).tolist() == least and found[0].tolist() == list(range(9))


def test_canonical_solutions_do_not_move_under_symmetries():
    draw = generator(0, "test")
    solution = torch.tensor(random_solution(9, draw))
    cells, tokens = sudoku_symmetries(9).draw(draw, 10)
    turned = turn(solution.expand(10, -1) + 1, cells, tokens) - 1
    assert len(torch.unique(turned, dim=0)) == 10 and all(is_solution(grid, 9) for grid in turned)
    assert len(torch.unique(canonical_solutions(turned, 9), dim=0)) == 1
