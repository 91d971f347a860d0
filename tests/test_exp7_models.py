"""Experiment 7's models: shapes and closed forms, and a tiny trained grid against MiniGrid itself."""

import dataclasses

import pytest
import torch

from common.config import EXP7_PRESETS
from exp7_unseen_layouts import episodes as episodes_module
from exp7_unseen_layouts.batches import (
    LayoutData,
    MoveSampler,
    SpatialSampler,
    cut_cells,
    cut_moves,
    join_moves,
)
from exp7_unseen_layouts.dataset import AGENTS, Layout, cut_patches, walk_layouts, with_agent
from exp7_unseen_layouts.episodes import choose_episodes, episodes_of, measure_episodes, true_distances
from exp7_unseen_layouts.evaluate_planners import Compared, follow_values, member_of
from exp7_unseen_layouts.latent_planning import LARGEST, LatentProblems
from exp7_unseen_layouts.models import (
    OUTCOMES,
    composed,
    kernel_of_maps,
    make_spatial_model,
    neighbourhoods,
    outcome_poses,
    outcomes_of,
)
from exp7_unseen_layouts.modes import Simulator, belief_model, explore, iterate_values, steps_from
from exp7_unseen_layouts.train_helm import train_helm, train_kernel

CONFIG = dataclasses.replace(
    EXP7_PRESETS["quick"], iterations=250, kernel_iterations=250, batch_size=128, num_episodes=12
)
CPU = torch.device("cpu")


def data_of_layout(name, walks=12, length=40):
    """Walks in one layout, as both trainings want them."""
    layout = Layout(name, 0)
    found = walk_layouts([layout], walks, length, seed=0)
    patches = [cut_patches(found)]
    return layout, found, LayoutData(patches, [cut_cells(patches[0])], [join_moves([cut_moves(found)])])


@pytest.fixture(scope="module")
def trained():
    """A snapped model and its kernel of Empty-6x6."""
    layout, walks, data = data_of_layout("Empty-6x6", walks=40)
    model, _ = train_helm(data, variant=None, config=CONFIG, device=CPU)
    kernel, _ = train_kernel(data, model.requires_grad_(False), variant=None, config=CONFIG, device=CPU)
    return layout, walks, Simulator(model, kernel.requires_grad_(False), 0.5)


@pytest.fixture(scope="module")
def searched(trained):
    layout, _, simulator = trained
    layout.reset()
    state = layout.read_map(), torch.tensor(layout.read_pose()), layout.read_carried()
    return layout, simulator, explore(simulator, [state], layout.actions, slack=4, sweeps=60, max_modes=10)


# ----------------------------------------------------------------------------------------------
# Closed forms
# ----------------------------------------------------------------------------------------------


def test_neighbourhoods_are_the_3x3_cells_in_reading_order():
    cells = torch.arange(1.0, 13).view(1, 3, 4, 1)
    whole, part = neighbourhoods(cells), neighbourhoods(cells, whole=False)
    assert whole[0, 1, 1].tolist() == [1, 2, 3, 5, 6, 7, 9, 10, 11]
    assert whole[0, 0, 0].tolist() == [0, 0, 0, 0, 1, 2, 0, 5, 6]
    assert torch.equal(part, whole[:, 1:-1, 1:-1])


def test_outcomes_and_the_poses_they_mean_are_inverse():
    poses = torch.cartesian_prod(torch.arange(1, 4), torch.arange(1, 3), torch.arange(4))  # inside 5 x 4
    leads_to = outcome_poses(4, 5)
    for shift_x, shift_y, turned in ((0, 0, 0), (1, 0, 1), (-1, 0, 3), (0, 1, 2), (0, -1, 0)):
        after = poses + torch.tensor([shift_x, shift_y, 0])
        after[:, 2] = turned
        found = outcomes_of(poses, after)
        assert ((found >= 0) & (found < OUTCOMES)).all()
        numbers = (poses[:, 1] * 5 + poses[:, 0]) * 4 + poses[:, 2]
        expected = (after[:, 1] * 5 + after[:, 0]) * 4 + after[:, 2]
        assert torch.equal(leads_to[numbers, found], expected)


def test_values_of_a_chain_with_a_slip():
    """Two states before the goal; the first step slips half of the time: V = 1 + (1 + 2) expected steps."""
    successors = torch.tensor([[[0, 0]], [[0, 0]], [[1, 2]]])
    probabilities = torch.tensor([[[1.0, 0.0]], [[1.0, 0.0]], [[0.5, 0.5]]])
    value = iterate_values(successors, probabilities, torch.tensor([True, True, True]), 200)
    torch.testing.assert_close(value, torch.tensor([0.0, 1.0, 3.0]), atol=1e-2, rtol=0)
    unknown = iterate_values(successors, probabilities, torch.tensor([True, False, True]), 50)
    assert unknown[1] == 50


def test_a_members_codes_and_losses_do_not_depend_on_company():
    _, _, data = data_of_layout("Empty-5x5", walks=3, length=10)
    _, _, other = data_of_layout("DoorKey-5x5", walks=3, length=10)
    alone = make_spatial_model(data.patches, dataclasses.replace(CONFIG, seeds=(0,)))
    both = make_spatial_model([*data.patches, *other.patches], dataclasses.replace(CONFIG, seeds=(0, 1)))
    present = (~both.absent[0]).sum()
    assert torch.equal(both.contents[0, :present], alone.contents[0])
    own = member_of(both, 0)
    grids = data.patches[0].before[None, :4]
    torch.testing.assert_close(own.encode(grids), alone.encode(grids))


def test_codes_are_composed_of_what_lay_and_who_stood_there():
    wall, floor, door = 2 * AGENTS, AGENTS, 4 * AGENTS
    seen = torch.tensor([0, wall, floor + 7, floor + 9, door + 7])
    assert composed(seen).tolist() == sorted([wall, floor + 7, floor + 9, door + 7, door + 9])


def test_a_latent_that_explodes_keeps_a_finite_energy():
    def explode(latents, actions):
        return latents.square()

    problems = LatentProblems(explode, torch.full((1, 2, 2, 3), 9.0), torch.zeros(1, 4, 2, 2, 3), (0, 1))
    energies = problems.energies(torch.full((1, 1, 20, 2), 0.5))
    assert energies[0, 0, 0] == 0.5 * 12 * 81**2
    assert (energies[0, 0, 1:] == 0.5 * 12 * LARGEST**2).all()


@pytest.mark.parametrize("sampler", ["cells", "patches", "moves"])
def test_batches_hold_what_the_walks_hold(sampler):
    _, _, data = data_of_layout("DoorKey-5x5", walks=6, length=30)
    model = make_spatial_model(data.patches, CONFIG)
    draws = [torch.Generator().manual_seed(0)]
    if sampler == "moves":
        batch = MoveSampler(model, data.moves, 64, CPU).draw(draws)
        assert batch.around.shape == (1, 64, 9 * CONFIG.d_latent) and batch.changed.any()
        return
    own = SpatialSampler(model, data, CONFIG, CPU)
    batch = own.draw_cells(draws) if sampler == "cells" else own.draw_patches(draws)
    size = {"cells": (128, 3, 1), "patches": (16, 7, 3)}[sampler]
    assert batch.before.shape == (1, size[0], size[1], size[1])
    assert batch.after.shape == (1, size[0], size[2], size[2])
    assert (batch.actions.sum(-1) == 1).all()
    contents = model.contents[0][batch.before.clamp(min=0)]
    assert ((contents > 0) & (batch.before >= 0) | (batch.before < 0)).all()


# ----------------------------------------------------------------------------------------------
# A trained grid
# ----------------------------------------------------------------------------------------------


def test_snapped_steps_are_minigrids(trained):
    _, walks, simulator = trained
    maps, steps = walks.maps[walks.map_index], walks.actions.shape[1]
    grids = torch.stack([
        with_agent(maps[:, k], walks.poses[:, k], walks.carried[:, k]) for k in range(steps + 1)
    ], 1)  # fmt: skip
    state = grids[None, :, 0]
    for step in range(steps):
        state = simulator.spatial.step_contents(state, walks.actions[None, :, step])
    assert torch.equal(state[0], grids[:, -1])


def test_rows_of_the_kernel_sum_to_1_and_are_minigrids_moves(trained):
    layout, _, simulator = trained
    layout.reset()
    grid = layout.read_map().long()
    odds, changes, reaches = kernel_of_maps(
        simulator.spatial, simulator.kernel, grid[None], torch.tensor([0])
    )
    torch.testing.assert_close(odds.sum(-1), torch.ones(odds.shape[:-1]))
    leads_to, width, wrong, table = outcome_poses(*grid.shape), grid.shape[1], 0, true_distances(layout)
    for column, row, direction in table.poses.tolist():
        here = (row * width + column) * 4 + direction
        for action in layout.actions:
            layout.reset()
            layout.place((column, row, direction))
            reached, _ = layout.step(action)
            x, y, way = layout.read_pose()
            wrong += int(leads_to[here, odds[0, here, action].argmax()]) != (y * width + x) * 4 + way
            wrong += bool(reaches[0, here, action] > 0.5) != reached
            wrong += bool(changes[0, here, action] > 0.5)
    assert wrong == 0
    with pytest.raises(ValueError, match="without its agent"):
        kernel_of_maps(simulator.spatial, simulator.kernel, grid[None] + AGENTS // 2, torch.tensor([0]))


def test_values_are_the_true_steps_and_following_them_arrives(searched):
    layout, _, graph = searched
    table, width = true_distances(layout), graph.maps.shape[2]
    assert graph.num_modes == 1
    for pose, distance in zip(table.poses.tolist(), table.distance.tolist(), strict=True):
        column, row, direction = pose
        state = graph.find((graph.maps[0], torch.tensor(pose), 0))
        assert state is not None and int(graph.pose[state]) == (row * width + column) * 4 + direction
        assert float(graph.value[state]) == pytest.approx(distance, abs=0.2)
    start = int(graph.starts[0])
    plan = follow_values([(graph, start)], 12).actions[0].tolist()
    layout.reset()
    outcomes = [layout.step(layout.actions[action]) for action in plan[: round(float(graph.value[start]))]]
    assert outcomes[-1] == (True, True)


def test_a_belief_keeps_its_mass_and_its_gradient_is_that_of_finite_differences(searched):
    _, _, graph = searched
    model, starts = belief_model([graph, graph], [int(graph.starts[0]), 5])
    shape = (2, 1, 4, model.num_actions)
    actions = torch.randn(shape, generator=torch.Generator().manual_seed(0)).softmax(-1)
    for belief in model.beliefs(starts, actions[:, 0]):
        torch.testing.assert_close(model.sum_blocks(belief), torch.ones(2))
    model.energy, model.probabilities = model.energy.double(), model.probabilities.double()
    exact = actions.double().requires_grad_()
    assert torch.autograd.gradcheck(model.energies(starts), (exact,), eps=1e-5, atol=1e-5)


def test_a_restriction_keeps_values_and_all_near_shortest_ways(searched):
    _, _, graph = searched
    start = int((graph.value == 2).nonzero()[0])
    small, there = graph.restricted(start, 2)
    assert len(small.value) < len(graph.value) and small.value[there] == graph.value[start]
    torch.testing.assert_close(small.probabilities.sum(-1), torch.ones(small.probabilities.shape[:2]))
    near = steps_from(graph, start) + graph.value <= graph.value[start] + 2
    assert len(small.value) >= int(near.sum())


def test_the_belief_planner_arrives_from_everywhere(searched):
    layout, _, graph = searched
    episodes = choose_episodes([layout], 12, 3, "test")
    where = []
    for episode in range(12):
        grid, pose, held = episodes.start(episode)
        where.append((graph, graph.find((grid.long(), pose, held))))
    plan = Compared("belief", CONFIG).plan(where, 14, torch.Generator().manual_seed(0))
    for episode, actions in enumerate(plan.actions.tolist()):
        episodes.start(episode)
        assert any(layout.step(layout.actions[action])[0] for action in actions)


@pytest.mark.parametrize("largest", [20_000, 10])
def test_episodes_that_were_measured_are_those_that_were_chosen(monkeypatch, largest):
    """Tables and all; where a layout has more states than can be enumerated, without."""
    monkeypatch.setattr(episodes_module, "LARGEST_TABLE", largest)
    config = dataclasses.replace(CONFIG, train_layouts=3, test_layouts=2, mode_episodes=4)
    found = measure_episodes("DoorKey-5x5", "test", config=config, device=CPU)
    monkeypatch.setattr(episodes_module, "true_distances", None)  # it is not asked again
    episodes = episodes_of("DoorKey-5x5", "test", found, config)
    monkeypatch.undo()
    monkeypatch.setattr(episodes_module, "LARGEST_TABLE", largest)
    layouts = episodes_module.part_of("DoorKey-5x5", "test", config)
    chosen = choose_episodes(layouts, 4, config.start_distance, "DoorKey-5x5/test")
    for name in ("layout", "pose", "shortest", "states"):
        torch.testing.assert_close(
            getattr(episodes, name), getattr(chosen, name), rtol=0, atol=0, equal_nan=True
        )
    for own, wanted in zip(episodes.tables, chosen.tables, strict=True):
        assert (own is None) == (wanted is None) == (largest == 10)
        for name in episodes_module.TABLE if own is not None else ():
            assert torch.equal(getattr(own, name), getattr(wanted, name))
        assert own is None or own.actions == wanted.actions


def test_a_door_and_its_key_make_modes():
    """DoorKey-5x5, the model and the kernel trained on it alone: V is the true number of steps."""
    layout, _, data = data_of_layout("DoorKey-5x5", walks=60, length=50)
    config = dataclasses.replace(CONFIG, iterations=500, kernel_iterations=400, batch_size=256)
    model, _ = train_helm(data, variant=None, config=config, device=CPU)
    kernel, _ = train_kernel(data, model.requires_grad_(False), variant=None, config=config, device=CPU)
    layout.reset()
    state = layout.read_map(), torch.tensor(layout.read_pose()), layout.read_carried()
    simulator = Simulator(model, kernel.requires_grad_(False), 0.5)
    graph = explore(simulator, [state], layout.actions, slack=2, sweeps=60, max_modes=200)
    table = true_distances(layout)
    begin = (table.poses == torch.tensor(layout.read_pose())).all(1).nonzero()[0, 0]
    assert graph.num_modes > 2
    assert float(graph.value[graph.starts[0]]) == pytest.approx(float(table.distance[begin]), abs=0.2)
