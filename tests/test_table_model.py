"""The oracle: its energies, its exact gradient, and shortest paths, on grids whose answers are known."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from common.minigrid.walks import distances_to
from common.planners.table_model import TableModel
from tests.pose_grids import FORWARD, LEFT, RIGHT, absorbing, corner, pose_grid, room


def random_table(states, num_actions, seed):
    generator = torch.Generator().manual_seed(seed)
    table = torch.randint(states, (states, num_actions), generator=generator)
    return TableModel(table, torch.randn(states, generator=generator, dtype=torch.float64)), generator


def one_hot(actions, num_actions):
    return torch.nn.functional.one_hot(actions, num_actions).double()


def test_steps_in_an_open_room_are_the_known_ones():
    steps = distances_to(pose_grid(6, 6), corner(6, 6)).view(6, 6, 4)
    assert steps[5, 5].eq(0).all()
    assert steps[0, 5].tolist() == [5, 6, 7, 6]  # five ahead; one turn; about face; one turn
    assert steps[0, 0].tolist() == [11, 11, 12, 12]  # ten cells and the corner's turn
    assert steps.isfinite().all()


def test_steps_agree_with_a_queue_and_go_around_walls():
    table = pose_grid(5, 4, walls={(2, 0), (2, 1), (2, 2)})
    goals = corner(5, 4)
    expected = {int(goal): 0 for goal in goals}
    frontier = list(expected)
    while frontier:  # breadth-first, backwards, one state at a time
        ahead = frontier.pop(0)
        for state in torch.nonzero((table == ahead).any(1))[:, 0].tolist():
            if state not in expected:
                expected[state] = expected[ahead] + 1
                frontier.append(state)
    steps = distances_to(table, goals)
    assert all(steps[state] == expected.get(state, torch.inf) for state in range(len(table)))
    assert steps[0] > 3 + 3 + 1  # the way around costs more than the way through


def test_unreachable_states_are_infinitely_far():
    assert distances_to(torch.tensor([[0], [0], [2]]), torch.tensor([0])).tolist() == [0, 1, torch.inf]


def test_absorbing_holds_the_goals_alone():
    table = pose_grid(3, 3)
    held = absorbing(table, corner(3, 3))
    assert torch.equal(held[corner(3, 3)], corner(3, 3)[:, None].expand(-1, 3))
    assert torch.equal(held[:32], table[:32])


@given(seed=st.integers(0, 2**31), horizon=st.integers(1, 7), num_actions=st.integers(1, 4))
@settings(deadline=None, max_examples=30)
def test_the_walk_equals_the_belief_in_value_and_gradient(seed, horizon, num_actions):
    model, generator = random_table(9, num_actions, seed)
    starts = torch.randint(9, (3,), generator=generator)
    plans = torch.randint(num_actions, (3, 2, horizon), generator=generator)
    weights = torch.randn(3, 2, horizon, generator=generator, dtype=torch.float64)
    fast = one_hot(plans, num_actions).requires_grad_()
    slow = one_hot(plans, num_actions).requires_grad_()
    values = model.energies(starts)(fast)
    dense = model.belief_energies(starts.repeat_interleave(2), slow.flatten(0, 1)).view(3, 2, horizon)
    torch.testing.assert_close(values, dense)
    (values * weights).sum().backward()
    (dense * weights).sum().backward()
    torch.testing.assert_close(fast.grad, slow.grad)


def test_the_energies_are_those_of_the_states_walked_to():
    model, distance = room(6)
    state, expected = torch.tensor(0), []
    plan = torch.tensor([FORWARD, FORWARD, RIGHT, FORWARD, LEFT, RIGHT, RIGHT])
    for action in plan:
        state = model.step(state, action)
        expected.append(distance[state])
    energies = model.energies(torch.tensor([0]))(one_hot(plan, 3).float()[None, None])
    assert torch.equal(energies[0, 0], torch.stack(expected))


def test_gradcheck_on_relaxed_and_on_one_hot_actions():
    model, generator = random_table(6, 3, seed=1)
    starts = torch.tensor([2, 5])
    relaxed = torch.rand(2, 2, 4, 3, generator=generator, dtype=torch.float64).softmax(-1)
    discrete = one_hot(torch.randint(3, (2, 2, 4), generator=generator), 3)
    for actions in (relaxed, discrete):
        assert torch.autograd.gradcheck(model.energies(starts), actions.requires_grad_())


def test_the_gradient_is_what_swapping_an_action_does():
    model, distance = room(6)
    start, plan = torch.tensor([0]), torch.tensor([FORWARD] * 3 + [RIGHT] + [FORWARD] * 3)
    actions = one_hot(plan, 3).float()[None, None].requires_grad_()
    model.energies(start)(actions)[..., -1].sum().backward()
    for time in range(len(plan)):
        for action in (LEFT, RIGHT, FORWARD):
            swapped = plan.clone()
            swapped[time] = action
            state = start
            for now in swapped:
                state = model.step(state, now)
            assert actions.grad[0, 0, time, action] == distance[state]


def test_the_jumpy_model_is_the_product_of_its_steps():
    model, _ = room(6)
    starts = torch.tensor([0, 30])
    actions = one_hot(torch.randint(3, (2, 3, 8), generator=torch.Generator().manual_seed(0)), 3)
    every = model.energies(starts)(actions)
    assert torch.equal(model.jumpy_energies(starts, 4)(actions), every[..., [3, 7]])


def test_a_table_that_makes_no_sense_is_refused():
    table = torch.tensor([[0, 1], [1, 2]])
    with pytest.raises(ValueError, match="a state that it does not have"):
        TableModel(table, torch.zeros(2))
    with pytest.raises(ValueError, match="finite"):
        TableModel(table.clamp(max=1), torch.tensor([0.0, torch.inf]))
