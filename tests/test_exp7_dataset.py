"""Experiment 7's data: contents, layouts that are never shared, walks that MiniGrid itself agrees with."""

import pytest
import torch

from common.config import EXP7_PRESETS
from common.minigrid.live import make_live, maker
from exp7_unseen_layouts.dataset import (
    ACTIONS,
    PLANES,
    Layout,
    crop,
    cut_patches,
    join_patches,
    layout_key,
    make_layouts,
    planes_of,
    require_disjoint,
    walk_layouts,
    with_agent,
    without_agent,
)
from exp7_unseen_layouts.run_experiment import EXPERIMENT

FAMILIES = ("FourRooms", "SimpleCrossingS9N3", "LavaCrossingS9N1", "DoorKey-8x8", "KeyCorridorS3R2")


@pytest.fixture(scope="module", params=FAMILIES)
def walked(request):
    layouts, _ = make_layouts(request.param, 2, 0)
    return layouts, walk_layouts(layouts, 6, 30, seed=0)


def test_the_agent_can_be_taken_out_of_an_observation_and_put_back(walked):
    _, walks = walked
    index, poses, carried = (values.flatten(0, 1) for values in (walks.map_index, walks.poses, walks.carried))
    grids = with_agent(walks.maps[index], poses, carried)
    maps, found, held = without_agent(grids)
    assert torch.equal(maps, walks.maps[index].long())
    assert torch.equal(found, poses) and torch.equal(held, carried)


def test_planes_are_the_digits_of_a_content_and_name_the_agent(walked):
    _, walks = walked
    grids = with_agent(walks.maps[walks.map_index[:, 0]], walks.poses[:, 0], walks.carried[:, 0])
    planes = planes_of(grids)
    assert (planes < torch.tensor(PLANES)).all() and (planes >= 0).all()
    again = torch.zeros_like(grids)
    for digit, size in zip(planes.unbind(-1), PLANES, strict=True):
        again = again * size + digit
    assert torch.equal(again, grids)
    column, row, direction = walks.poses[:, 0].unbind(-1)
    here = planes[torch.arange(len(planes)), row, column]
    assert torch.equal(here[:, 3], 1 + direction)
    assert (planes[..., 3] > 0).flatten(1).sum(1).eq(1).all()


def test_walks_are_what_a_fresh_environment_does(walked):
    """The first walk of each layout, replayed from the reset in an environment of its own."""
    layouts, walks = walked
    for number, layout in enumerate(layouts):
        row = number * 6
        core = make_live(maker(layout.name), "full", layout.seed).unwrapped
        for step, action in enumerate(walks.actions[row].tolist()):
            _, reward, ended, _, _ = core.step(core.actions[ACTIONS[action]])
            pose = (*map(int, core.agent_pos), int(core.agent_dir))
            assert walks.poses[row, step + 1].tolist() == list(pose)
            assert bool(walks.reached[row, step]) == (reward > 0)
            if ended:
                break


def test_an_ended_walk_stays_and_no_walk_begins_at_an_end(walked):
    _, walks = walked
    assert not walks.ended[:, 0].any()
    over = walks.ended[:, :-1]
    assert torch.equal(walks.poses[:, :-1][over], walks.poses[:, 1:][over])
    assert not walks.reached[over].any()


def test_walks_are_the_same_again_and_other_for_another_seed(walked):
    layouts, walks = walked
    again, other = (walk_layouts(layouts, 6, 30, seed) for seed in (0, 1))
    assert torch.equal(again.poses, walks.poses) and torch.equal(again.actions, walks.actions)
    assert not torch.equal(other.actions, walks.actions)


def test_later_walks_begin_in_states_that_earlier_ones_saw(walked):
    _, walks = walked
    for first in (0, 6):
        seen = set()
        for row in range(first, first + 6):
            states = list(map(tuple, torch.cat([
                walks.map_index[row, :, None], walks.poses[row], walks.carried[row, :, None],
            ], 1).tolist()))  # fmt: skip
            assert row == first or states[0] in seen
            seen |= set(states)


@pytest.mark.parametrize("family", FAMILIES)
def test_held_out_layouts_are_new_and_a_shared_one_is_found(family):
    training, held_out = make_layouts(family, 6, 4)
    require_disjoint(training, held_out)
    assert len({layout_key(layout) for layout in (*training, *held_out)}) == 10
    with pytest.raises(AssertionError, match="1 held-out"):
        require_disjoint(training, [*held_out, Layout(family, training[2].seed)])


def test_what_training_leaves_of_a_small_family_is_held_out():
    training, held_out = make_layouts("SimpleCrossingS9N1", 32, 24)
    require_disjoint(training, held_out)
    assert len(training) == 32 and len(held_out) == 10


@pytest.mark.parametrize("preset", EXP7_PRESETS)
def test_every_preset_has_its_layouts(preset):
    EXPERIMENT.validate(EXP7_PRESETS[preset])


def test_a_family_with_one_layout_is_refused():
    with pytest.raises(ValueError, match="--families"):
        make_layouts("Empty-5x5", 2, 0)


def test_a_crop_shows_the_cells_around_its_centre_and_nothing_beyond_the_map():
    grid = torch.arange(1, 13).view(1, 3, 4)
    assert crop(grid, torch.tensor([[1, 1]]), 1).tolist() == [[[1, 2, 3], [5, 6, 7], [9, 10, 11]]]
    assert crop(grid, torch.tensor([[3, 0]]), 1).tolist() == [[[0, 0, 0], [3, 4, 0], [7, 8, 0]]]


def test_patches_are_distinct_and_say_what_changed(walked):
    _, walks = walked
    patches = cut_patches(walks)
    rows = torch.cat([patches.before.flatten(1), patches.after.flatten(1), patches.actions], 1)
    assert len(rows.unique(dim=0)) == len(rows)
    centre = patches.before[:, 3, 3]
    assert (planes_of(centre)[:, 3] > 0).all(), "the agent is in the middle"
    moved = (patches.before % 330 == 0) & (patches.after[:, 0] % 330 == 0)
    other = (patches.before != patches.after[:, 0]) & moved
    assert not (other.flatten(1).any(1) & ~patches.changed).any()
    assert len(join_patches([patches, patches]).before) == 2 * len(patches.before)
