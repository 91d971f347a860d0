"""Parts of the latent world model: rollouts equal repeated steps, members are independent, energies exact."""

import pytest
import torch
import torch.nn.functional as F

from common.latent.model import (
    TRANSITIONS,
    Encoder,
    JumpyTransition,
    LatentModel,
    group_actions,
    project,
    squared_distance_to_set,
)

SEEDS, D, A = (0, 1), 6, 3


def latents(*shape):
    return project(torch.randn(*shape, D, generator=torch.Generator().manual_seed(0)))


def actions(*shape, size=A):
    return torch.rand(*shape, size, generator=torch.Generator().manual_seed(1)).softmax(-1)


@pytest.mark.parametrize("kind", TRANSITIONS)
def test_a_rollout_is_its_steps_one_by_one(kind):
    step = TRANSITIONS[kind](SEEDS, D, A, 16)
    start, plan = latents(2, 5), actions(2, 5, 7)
    expected, latent = [], start
    for action in plan.unbind(2):
        latent = step(latent, action)
        expected.append(latent)
    torch.testing.assert_close(step.rollout(start, plan), torch.stack(expected, 2))


def test_the_frozen_rollouts_adjoint_is_autograds():
    step = TRANSITIONS["action_linear"](SEEDS, D, A, 16).double()
    start, plan = latents(2, 5).double(), actions(2, 5, 7).double()
    weights = torch.randn(2, 5, 7, D, dtype=torch.float64)
    found = []
    for frozen in (False, True):
        step.requires_grad_(not frozen)
        leaves = start.clone().requires_grad_(), plan.clone().requires_grad_()
        rolled = step.rollout(*leaves)
        found.append((rolled.detach(), *torch.autograd.grad((weights * rolled).sum(), leaves)))
    for by_autograd, by_hand in zip(*found, strict=True):
        torch.testing.assert_close(by_hand, by_autograd)
    with torch.no_grad():
        torch.testing.assert_close(step.rollout(start, plan), found[0][0])


def test_a_jumpy_rollout_is_its_macro_steps_and_leaves_the_remainder_out():
    jumpy = JumpyTransition(SEEDS, D, 4 * A, 16)
    start, plan = latents(2, 5), actions(2, 5, 11)
    macro = group_actions(plan, 4)
    assert macro.shape == (2, 5, 2, 4 * A)
    torch.testing.assert_close(macro[:, :, 1, A : 2 * A], plan[:, :, 5])
    first = jumpy(start, macro[:, :, 0])
    expected = torch.stack([first, jumpy(first, macro[:, :, 1])], 2)
    torch.testing.assert_close(jumpy.rollout(start, macro), expected)


@pytest.mark.parametrize("rows", [5, 100])
def test_a_macro_step_of_choices_is_that_of_one_hot_actions(rows):
    """With fewer rows than macro actions, and more: values and gradients."""
    jumpy = JumpyTransition(SEEDS, D, 3 * A, 16).double()
    start = latents(2, rows).double()
    choices = torch.randint(A, (2, rows, 3), generator=torch.Generator().manual_seed(2))
    expected = jumpy(start, F.one_hot(choices, A).double().flatten(-2))
    found = jumpy.of_choices(start, choices)
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12)
    inputs = list(jumpy.parameters())
    for one, other in zip(
        torch.autograd.grad(found.square().sin().sum(), inputs),
        torch.autograd.grad(expected.square().sin().sum(), inputs),
        strict=True,
    ):
        torch.testing.assert_close(one, other, rtol=1e-10, atol=1e-10)


def test_the_action_linear_transition_mixes_displacements_linearly_before_the_projection():
    step = TRANSITIONS["action_linear"](SEEDS, D, A, 16)
    start, mixture = latents(2, 4), actions(2, 4)
    pure = [step.mlp(start).unflatten(-1, (A, D))[..., k, :] for k in range(A)]
    mixed = sum(mixture[..., k, None] * pure[k] for k in range(A))
    torch.testing.assert_close(step(start, mixture), project(start + mixed))


def test_a_member_is_the_same_whatever_it_is_trained_beside():
    both = LatentModel(SEEDS, 10, A, d_latent=D, hidden_dim=16, transition="concat", strides=(4,))
    alone = LatentModel((1,), 10, A, d_latent=D, hidden_dim=16, transition="concat", strides=(4,))
    seen = torch.randn(3, 10)
    z = both.encoder(seen)
    torch.testing.assert_close(z[1:], alone.encoder(seen))
    plan = actions(2, 3, 8)
    torch.testing.assert_close(both.jump(z, plan, 4)[1:], alone.jump(z[1:], plan[1:], 4))
    assert not torch.allclose(z[0], z[1])


def test_latents_lie_on_the_sphere_where_each_axis_has_unit_variance():
    z = Encoder(SEEDS, 10, 16, D)(torch.randn(4, 10))
    torch.testing.assert_close(z.square().sum(-1), torch.full((2, 4), float(D)))


def test_the_energy_to_a_set_is_half_the_squared_distance_to_its_nearest_member():
    z, goals = torch.randn(2, 5, 7, D), torch.randn(2, 3, D)
    expected = 0.5 * (z[:, :, :, None] - goals[:, None, None]).square().sum(-1).amin(-1)
    torch.testing.assert_close(squared_distance_to_set(z, goals), expected)
    at_goal = squared_distance_to_set(goals[:, :, None], goals)
    torch.testing.assert_close(at_goal, torch.zeros(2, 3, 1), atol=1e-5, rtol=0)


def test_one_hot_actions_choose_the_displacement_exactly():
    step = TRANSITIONS["action_linear"](SEEDS, D, A, 16)
    start = latents(2, 4)
    for k in range(A):
        chosen = F.one_hot(torch.full((2, 4), k), A).float()
        displacement = step.mlp(start).unflatten(-1, (A, D))[..., k, :]
        torch.testing.assert_close(step(start, chosen), project(start + displacement))
