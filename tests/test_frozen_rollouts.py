"""Rollouts with frozen weights, written for speed: equal to the plain ones in value and gradient."""

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

import common.latent.model as latent_model
from common.latent.model import ActionLinearTransition, JumpyTransition, project

D, A, H = 6, 3, 16


def drawn(seed):
    return torch.Generator().manual_seed(seed)


def starts(members, batch, dtype, seed=0):
    return project(torch.randn(members, batch, D, generator=drawn(seed), dtype=dtype))


def plans(members, batch, steps, dtype, discrete, size=A):
    if discrete:
        return F.one_hot(torch.randint(size, (members, batch, steps), generator=drawn(1)), size).to(dtype)
    return torch.rand(members, batch, steps, size, generator=drawn(1), dtype=dtype).softmax(-1)


def by_autograd_and_by_hand(part, start, actions):
    """(latents, gradients) of a rollout with weights that ask for gradients, and with frozen ones."""
    found = []
    for frozen in (False, True):
        part.requires_grad_(not frozen)
        leaves = start.clone().requires_grad_(), actions.clone().requires_grad_()
        rolled = part.rollout(*leaves)
        weights = torch.randn(rolled.shape, generator=drawn(2), dtype=rolled.dtype)
        found.append((rolled.detach(), *torch.autograd.grad((weights * rolled).sum(), leaves)))
    return found


@pytest.mark.parametrize("discrete", [False, True])
@pytest.mark.parametrize("batch", [1, 5, 40])  # 40 members' rows are more than FEW_ROWS
@pytest.mark.parametrize("members", [1, 3])
@pytest.mark.parametrize("kind", ["steps", "jumps"])
def test_the_adjoint_by_hand_is_autograds(kind, members, batch, discrete):
    seeds = tuple(range(members))
    if kind == "steps":
        part, actions = (
            ActionLinearTransition(seeds, D, A, H),
            plans(members, batch, 7, torch.float64, discrete),
        )
    else:
        part = JumpyTransition(seeds, D, 4 * A, H)
        actions = plans(members, batch, 3, torch.float64, discrete, 4 * A)
    part, start = part.double(), starts(members, batch, torch.float64)
    (expected, *slopes), (found, *by_hand) = by_autograd_and_by_hand(part, start, actions)
    torch.testing.assert_close(found, expected)
    for own, autograds in zip(by_hand, slopes, strict=True):
        torch.testing.assert_close(own, autograds)
    with torch.no_grad():
        torch.testing.assert_close(part.rollout(start, actions), expected)


@given(seed=st.integers(0, 10**6), batch=st.integers(1, 30), steps=st.integers(1, 9), size=st.integers(1, 5))
@settings(deadline=None, max_examples=30)
def test_plans_in_groups_of_one_action_roll_out_the_same(seed, batch, steps, size):
    """Also where a step's plans lack an action, and for a single action."""
    part = ActionLinearTransition((seed,), D, size, H).double().requires_grad_(False)
    start = starts(1, batch, torch.float64, seed)
    chosen = torch.randint(size, (batch, steps), generator=drawn(seed))
    actions = F.one_hot(chosen, size).double()[None]
    expected = latent_model._FrozenRollout.apply(start, actions, part.mlp.layers)
    torch.testing.assert_close(latent_model._rollout_of_plans(start, chosen, part.mlp.layers), expected)


@pytest.mark.parametrize("discrete", [False, True])
def test_many_plans_are_grouped_where_they_are_discrete_and_ask_for_no_gradient(discrete, monkeypatch):
    part = ActionLinearTransition((0,), D, A, H).requires_grad_(False)
    many = latent_model.GROUPED_PLANS
    grouped, original = [], latent_model._rollout_of_plans
    monkeypatch.setattr(latent_model, "_rollout_of_plans", lambda *plan: grouped.append(1) or original(*plan))
    start, actions = starts(1, many, torch.float32), plans(1, many, 5, torch.float32, discrete)
    rolled = part.rollout(start, actions)
    assert bool(grouped) == discrete
    torch.testing.assert_close(rolled, latent_model._FrozenRollout.apply(start, actions, part.mlp.layers))
    grouped.clear()
    part.rollout(start, actions.clone().requires_grad_())
    part.rollout(start[:, :-1], actions[:, :-1])
    assert not grouped


@pytest.mark.parametrize(
    "row",
    [[0.0, 0.0, 0.0], [1.0, 1.0, 0.0], [0.5, 0.5, 0.0], [1.0, 1e-30, 0.0], [2.0, -1.0, 0.0], [-1.0, 1, 1]],
)
def test_only_actions_that_are_one_hot_to_the_bit_are_taken_as_discrete(row):
    actions = plans(1, 4, 5, torch.float32, True)
    assert torch.equal(latent_model._choices(actions), actions.argmax(-1))
    actions[0, 2, 3] = torch.tensor(row)
    assert latent_model._choices(actions) is None
    actions[0, 2, 2] = torch.tensor([1.0, 1.0, 0.0])  # too many entries here may make up for too few there
    assert latent_model._choices(actions) is None
