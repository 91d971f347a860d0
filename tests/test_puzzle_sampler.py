"""Puzzles as a task: symmetries as augmentation, canonical forms, epochs of groups."""

import dataclasses
import itertools

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from common.recursion.puzzles.sudoku import sudoku_puzzles, sudoku_symmetries
from common.recursion.puzzles.sudoku_solver import count_solutions, units
from common.recursion.puzzles.symmetries import (
    banded_permutations,
    canonical_forms,
    dihedral,
    identity,
    turn,
)
from common.recursion.puzzles.task import IGNORE, Puzzles, PuzzleSampler
from common.run.random import generator, generators

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def puzzles():
    return sudoku_puzzles(4, train=40, test=4, givens=(4, 6), test_share=0.2, seed=0)[0]


def small(groups):
    """Puzzles whose token says which they are."""
    count = len(groups)
    rows = torch.arange(count)
    tokens, symmetries = rows[:, None] + 1, identity(1, 1, count + 1)
    return Puzzles(tokens, tokens, rows, torch.tensor(groups), count + 1, count, (1, 1), symmetries)


# --- symmetries -----------------------------------------------------------------------------------


@pytest.mark.parametrize("size, order", [(4, 128), (6, 3456), (9, 3359232)])
def test_sudoku_has_its_symmetries(size, order):
    symmetries = sudoku_symmetries(size)
    assert symmetries.order == order
    for permutations in (symmetries.rows, symmetries.columns):
        assert len(torch.unique(permutations, dim=0)) == len(permutations)


@pytest.mark.parametrize("size", [4, 6])
def test_symmetries_keep_units(size):
    """Cells of a row, column or box are cells of one again, whatever is done to the grid."""
    cells = sudoku_symmetries(size).all_cells()
    assert (cells.sort(1).values == torch.arange(size**2)).all()
    members = torch.zeros(3 * size, size**2)
    for kind, of_cell in enumerate(units(size)):
        members[kind * size + torch.tensor(of_cell), torch.arange(size**2)] = 1
    moved = members[:, cells].transpose(0, 1)  # [G, 3 N, L]
    overlaps = moved @ members.T
    assert ((overlaps == size).sum(2) == 1).all()


def test_the_group_is_closed():
    cells = sudoku_symmetries(4).all_cells()
    known = set(map(tuple, cells.tolist()))
    products = cells[:, cells].flatten(0, 1)
    assert len(known) == 128 and set(map(tuple, products.tolist())) == known


def test_dihedral_groups():
    square, oblong = dihedral(3, 3, 6), dihedral(2, 3, 6)
    grid = torch.arange(9).view(3, 3)
    turns = [torch.rot90(face, times) for face in (grid, grid.T) for times in range(4)]
    expected = {tuple(turned.flatten().tolist()) for turned in turns}
    assert {tuple(cells) for cells in square.all_cells().tolist()} == expected and square.order == 8
    assert oblong.order == 4 == len(torch.unique(oblong.all_cells(), dim=0))


def test_banded_permutations_keep_bands_together():
    found = banded_permutations(2, 3)
    assert found.shape == (72, 6)
    assert (found.view(-1, 2, 3) // 3 == found.view(-1, 2, 3)[:, :, :1] // 3).all()


def test_turning_moves_renames_and_leaves_what_is_not_asked():
    labels = torch.tensor([[2, IGNORE, 1, 0]])
    turned = turn(labels, torch.tensor([[3, 2, 1, 0]]), torch.tensor([[0, 2, 1]]))
    assert turned.tolist() == [[0, 2, IGNORE, 1]]


def test_canonical_forms_are_the_least_of_all_forms(puzzles):
    """Against every turn and every renaming, written out."""
    symmetries, grid = puzzles.symmetries, puzzles.inputs[0]
    forms = [
        [[0, 1, *names][token] for token in grid[cells].tolist()]
        for names in itertools.permutations(range(2, 6))
        for cells in symmetries.all_cells()
    ]
    assert canonical_forms(grid[None], symmetries)[0].tolist() == min(forms)


@settings(max_examples=15, deadline=None)
@given(st.integers(0, 2**32))
def test_symmetric_puzzles_have_one_canonical_form(puzzles, seed):
    cells, tokens = puzzles.symmetries.draw(torch.Generator().manual_seed(seed), len(puzzles))
    turned = turn(puzzles.inputs, cells, tokens)
    expected = canonical_forms(puzzles.inputs, puzzles.symmetries)
    assert torch.equal(canonical_forms(turned, puzzles.symmetries), expected)


def test_a_group_too_large_to_go_through_is_refused():
    with pytest.raises(ValueError, match="3359232 geometric symmetries: allowed: at most 100000"):
        canonical_forms(torch.ones(1, 81, dtype=torch.int64), sudoku_symmetries(9))


# --- batches --------------------------------------------------------------------------------------


def test_augmented_puzzles_are_valid_and_unique(puzzles):
    batch = PuzzleSampler(puzzles, (0,), CPU, augment=True).draw(0, generators((0,), "test"), 40)
    plain = PuzzleSampler(puzzles, (0,), CPU, augment=False).draw(0, generators((0,), "test"), 40)
    assert (batch.inputs != plain.inputs).any(-1).float().mean() > 0.9
    given_ = batch.inputs > 1
    assert torch.equal(given_.sum(-1), (plain.inputs > 1).sum(-1))
    assert torch.equal(batch.inputs[given_], batch.labels[given_])
    for inputs, labels in zip(batch.inputs[0], batch.labels[0], strict=True):
        assert count_solutions(4, (inputs - 1).tolist()) == count_solutions(4, (labels - 1).tolist()) == 1


def test_symmetries_are_drawn_uniformly():
    cells, tokens = sudoku_symmetries(4).draw(generator(0, "test"), 20000)
    for drawn, count in ((cells, 128), (tokens, 24)):
        found, often = torch.unique(drawn, dim=0, return_counts=True)
        expected = 20000 / count
        assert len(found) == count and ((often - expected).square() / expected).sum() < 2 * count


def test_an_epoch_has_one_puzzle_of_each_group():
    groups = [0, 0, 1, 2, 2, 2]
    sampler = PuzzleSampler(small(groups), (0,), CPU, augment=False)
    rows = torch.cat([sampler.rows(0, iteration, 2) for iteration in range(600)]).view(-1, 3)  # epochs
    assert (torch.tensor(groups)[rows].sort(1).values == torch.arange(3)).all()
    often = torch.bincount(rows.flatten()) / len(rows)
    assert torch.allclose(often, torch.tensor([1 / 2, 1 / 2, 1, 1 / 3, 1 / 3, 1 / 3]), atol=0.09)
    assert len(torch.unique(rows, dim=0)) > 20  # in an order of its own


@pytest.mark.parametrize("count", [1, 4, 7, 11])
def test_batches_go_through_epochs_whatever_their_size(count):
    sampler = PuzzleSampler(small(range(5)), (0,), CPU, augment=False)
    rows = torch.cat([sampler.rows(0, iteration, count) for iteration in range(15)])
    whole = rows[: len(rows) // 5 * 5].view(-1, 5)
    assert (whole.sort(1).values == torch.arange(5)).all()


def test_a_seed_draws_the_same_in_any_company_and_after_a_pause(puzzles):
    together = PuzzleSampler(puzzles, (0, 1), CPU, augment=True)
    alone = PuzzleSampler(puzzles, (1,), CPU, augment=True)
    draws, own = generators((0, 1), "test"), generators((1,), "test")
    for iteration in range(9):
        both, one = together.draw(iteration, draws, 12), alone.draw(iteration, own, 12)
        for name in ("inputs", "labels", "identifiers"):
            assert torch.equal(getattr(both, name)[1], getattr(one, name)[0])
    later = PuzzleSampler(puzzles, (1,), CPU, augment=True)
    assert torch.equal(later.rows(1, 8, 12), alone.rows(1, 8, 12))
    assert not torch.equal(both.inputs[0], both.inputs[1])


def test_small_integers_give_the_same_batches(puzzles):
    bytes_ = dataclasses.replace(puzzles, inputs=puzzles.inputs.to(torch.int8), labels=puzzles.labels.char())
    one, other = (
        PuzzleSampler(these, (0,), CPU, augment=True).draw(0, generators((0,), "test"), 8)
        for these in (puzzles, bytes_)
    )
    assert other.inputs.dtype == torch.int64 and torch.equal(one.inputs, other.inputs)
    assert torch.equal(one.labels, other.labels)


def test_selected_puzzles_have_groups_from_0():
    chosen = small([0, 0, 1, 2, 2]).select(torch.tensor([1, 3, 4]))
    assert chosen.inputs.flatten().tolist() == [2, 4, 5] and chosen.groups.tolist() == [0, 1, 1]


def test_puzzles_that_do_not_belong_together_are_refused(puzzles):
    with pytest.raises(ValueError, match="labels"):
        dataclasses.replace(puzzles, labels=puzzles.labels[:, 1:])
    with pytest.raises(ValueError, match="identifiers"):
        dataclasses.replace(puzzles, identifiers=puzzles.identifiers[1:])
