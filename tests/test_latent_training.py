"""What experiments 3 and 4 train latent models with: windows, and losses with known values."""

import dataclasses

import pytest
import torch

from common.config import Exp3Config
from common.latent.model import LatentModel
from common.latent.observations import observations, take
from common.latent.training import (
    WindowSampler,
    draw_windows,
    dynamics_loss,
    hf_loss,
    jumpy_loss,
    list_states,
    penalty_noise,
)
from common.minigrid.task import make_task
from common.run.random import generators

CONFIG = Exp3Config(seeds=(0, 1), num_walks=60, walk_length=20)
CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def task():
    return make_task("Empty-6x6", CONFIG)


@pytest.fixture(scope="module")
def model(task):
    features, actions = task.observations.shape[-1], task.world.num_actions
    sizes = {"d_latent": 8, "hidden_dim": 16, "transition": "action_linear", "strides": (2, 4)}
    return LatentModel((0, 1), features, actions, **sizes)


@pytest.fixture(scope="module")
def batch(task):
    sampler = WindowSampler(task, 5, CPU)
    return draw_windows(observations(task.observations), sampler, generators((0, 1), "test"), 300)


def test_windows_follow_the_table(task):
    states, actions = WindowSampler(task, 5, CPU).draw(generators((0, 1), "test"), 300)
    assert states.shape == (2, 300, 6) and actions.shape == (2, 300, 5)
    assert torch.equal(task.world.next_state[states[..., :-1], actions], states[..., 1:])


def test_windows_cross_an_episodes_end_and_begin_after_it(task):
    states, _ = WindowSampler(task, 5, CPU).draw(generators((0, 1), "test"), 300)
    ended = task.world.terminal[states]
    assert (~ended[..., 0] & ended[..., -1]).any() and ended[..., 0].any()


@pytest.mark.parametrize("count", [2, 300])
def test_a_batchs_windows_point_to_what_was_drawn(task, count):
    """Fewer draws than states, and more."""
    states, actions = WindowSampler(task, 5, CPU).draw(generators((0, 1), "test"), count)
    table, sampler = observations(task.observations), WindowSampler(task, 5, CPU)
    batch = draw_windows(table, sampler, generators((0, 1), "test"), count)
    expected = torch.stack([task.observations[seed][states[seed]] for seed in range(2)])
    torch.testing.assert_close(take(batch.observations.rows, batch.states), expected)
    assert torch.equal(batch.choices, actions) and torch.equal(batch.actions.argmax(-1), actions)
    assert (batch.actions.sum(-1) == 1).all()


@pytest.mark.parametrize("count", [2, 300])
def test_of_a_list_a_member_owns_each_state_that_it_drew_once(task, count):
    states, _ = WindowSampler(task, 5, CPU).draw(generators((0, 1), "test"), count)
    numbers = torch.arange(task.world.num_states).float().expand(2, -1)[..., None]
    listed, positions, own = list_states(observations(numbers), states)
    assert torch.equal(take(listed.rows, positions)[..., 0].long(), states)
    for seed in range(2):
        owned = listed.rows[seed, own[seed], 0].long()
        assert torch.equal(owned.sort().values, torch.unique(states[seed]))


def test_noise_of_a_seed_is_its_own():
    both = penalty_noise(torch.zeros(2, 3, 4), (0, 1), "test")
    assert torch.equal(penalty_noise(torch.zeros(1, 3, 4), (1,), "test")[0], both[1])
    assert not torch.equal(both[0], both[1])


def test_dynamics_loss_does_not_pull_at_its_target(model, batch):
    latents = take(model.encoder(batch.observations), batch.states)
    shifted = latents[:, :, 1:4].detach() + 0.5
    loss = dynamics_loss(shifted.requires_grad_(), latents)
    torch.testing.assert_close(loss, torch.full((2,), 0.25))
    loss.sum().backward()
    assert all(parameter.grad is None for parameter in model.encoder.parameters())


def test_without_noise_no_hf_loss(model, batch):
    latents = take(model.encoder(batch.observations), batch.states)[:, :, 0]
    ends = model.transition.rollout(latents, batch.actions)[:, :, -1]
    zero = hf_loss(model, latents, ends, batch.actions, torch.zeros_like(batch.actions))
    torch.testing.assert_close(zero, torch.zeros(2), atol=1e-10, rtol=0)
    assert (hf_loss(model, latents, ends, batch.actions, 0.5 * torch.ones_like(batch.actions)) > 0).all()


def test_the_jumpy_loss_is_the_mean_over_levels_and_leaves_the_encoder_alone(task, model, batch):
    model.zero_grad()
    latents = take(model.encoder(batch.observations), batch.states)
    loss = jumpy_loss(model, latents, batch)
    errors = []
    for stride in (2, 4):
        macro = batch.actions[:, :, :stride].flatten(2)
        predicted = model.jumpy[str(stride)](latents[:, :, 0], macro)
        errors.append((predicted - latents[:, :, stride]).square().mean((1, 2)))
    torch.testing.assert_close(loss, (errors[0] + errors[1]) / 2)
    loss.sum().backward()
    assert all(parameter.grad is None for parameter in model.encoder.parameters())
    fewer = dataclasses.replace(batch, choices=batch.choices[:, :, :4])
    torch.testing.assert_close(jumpy_loss(model, latents, fewer), loss)
