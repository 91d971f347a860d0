"""Experiment 4's batches and models: what a member sees, distances, and losses with known values."""

import dataclasses

import pytest
import torch

from common.config import EXP4_PRESETS
from common.minigrid.task import make_task
from common.minigrid.walks import all_distances
from common.run.random import generators
from exp4_contrastive_fix.dataset import BatchSampler
from exp4_contrastive_fix.models import GOAL_IDENTITY, OBJECTIVES, make_model, qrl_loss
from exp4_contrastive_fix.train_flat import FlatVariant, train_flat
from exp4_contrastive_fix.train_helm import HelmVariant, train_helm

CPU = torch.device("cpu")


def tiny(seeds=(0, 1), **changes):
    return dataclasses.replace(
        EXP4_PRESETS["quick"], environments=("Empty-5x5",), seeds=seeds, num_walks=30, walk_length=20,
        d_latent=8, hidden_dim=16, batch_size=32, iterations=6, **changes,
    )  # fmt: skip


@pytest.fixture(scope="module")
def task():
    return make_task("Empty-5x5", tiny())


def test_pairs_are_a_state_and_one_that_the_walk_reached_after_that_gap(task):
    sampler = BatchSampler(task, 4, 0.8, CPU)
    batch = sampler.draw(generators((0, 1), "test"), 400)
    assert (batch.gap >= 1).all() and (batch.gap <= 20).all()
    assert 3.0 < float(batch.gap.mean()) < 5.0  # 1 / (1 - .8) = 5, less where walks end
    shortest = all_distances(task.world.next_state)
    pairs, gaps = sampler.draw_pairs(generators((0, 1), "raw"), 100)
    for walk, (start, end), gap in zip(task.walks, pairs.mT, gaps, strict=True):
        assert (shortest[start, end] >= 0).all() and (shortest[start, end] <= gap).all()
        assert torch.isin(start, walk.states).all() and torch.isin(end, walk.states).all()


def test_a_member_sees_only_its_own_states(task):
    batch = BatchSampler(task, 4, 0.8, CPU).draw(generators((0, 1), "test"), 3)
    for seed in range(2):
        drawn = torch.cat([batch.states[seed].flatten(), batch.pairs[seed].flatten(), batch.targets[seed]])
        assert set(drawn.tolist()) == set(batch.own[seed].nonzero().flatten().tolist())
    assert not batch.own.all()


def test_qrl_pushes_targets_away_from_running_episodes_alone(task):
    """Windows bound the distance; what they begin in, an ended episode say, is not pushed away from."""
    model = make_model(task, tiny(), OBJECTIVES["qrl"], ())
    sampler = BatchSampler(task, 4, 0.8, CPU)
    begun, _ = sampler.windows.draw(generators((0, 1), "windows"), 200)
    pairs, _ = sampler.draw_pairs(generators((0, 1), "pairs"), 200)
    assert torch.isin(begun[:, :, 0], task.world.goal_states).any()
    assert not torch.isin(pairs[:, :, 0], task.world.goal_states).any()
    batch = sampler.draw(generators((0, 1), "test"), 200)

    def spread(batch):
        metric, records = qrl_loss(model, model.encoder(batch.observations), batch, tiny())
        return metric - records["weight"] * (records["violation"] - tiny().qrl_tolerance)

    ended = dataclasses.replace(batch, states=batch.states[:, :, -1:].expand(-1, -1, 5))
    torch.testing.assert_close(spread(ended), spread(batch))
    other_starts = dataclasses.replace(batch, pairs=batch.pairs.flip(2))
    assert ((spread(other_starts) - spread(batch)).abs() > 1e-4).all()


@pytest.mark.parametrize("objective", ["infonce", "qrl"])
def test_a_member_does_not_depend_on_its_neighbours(objective):
    """Seed 1 trained beside seed 0 and alone: the same predictions and distances, to rounding.

    Not the same parameters: the bias of a distance's head has no effect and no gradient but rounding.
    """
    variant = HelmVariant(objective, 0.01, 1.0, (4,))
    found = []
    for seeds in ((0, 1), (1,)):
        config = tiny(seeds=seeds)
        task = make_task("Empty-5x5", config)
        model, _ = train_helm(task, variant=variant, config=config, device=CPU)
        latents = model.encoder(task.observations)
        actions = torch.eye(3)[torch.arange(latents.shape[1]) % 3].expand(len(seeds), -1, -1)
        predicted = model.transition(latents, actions)
        found.append((latents[-1], predicted[-1], model.energy(predicted, latents[:, :2])[-1]))
    for together, alone in zip(*found, strict=True):
        torch.testing.assert_close(together, alone, atol=1e-4, rtol=1e-3)


@pytest.mark.parametrize("objective", OBJECTIVES)
def test_the_energy_is_the_distance_to_the_nearest_goal(task, objective):
    """The latents' as half a square; to a quasimetric is added what tells the goal's latent apart."""
    model = make_model(task, tiny(), OBJECTIVES[objective], ())
    latents = model.encoder(task.observations)
    energy = model.energy(latents[:, None], latents[:, :3])[:, 0]  # [S, N]
    points, to_goals = model.embed(latents), []
    for goal in range(3):
        steps = model.distance(points, points[:, goal : goal + 1])
        apart = 0.5 * (latents - latents[:, goal : goal + 1]).square().sum(-1)
        learned = steps + GOAL_IDENTITY * apart / model.d_latent * (model.distance_name == "quasimetric")
        to_goals.append(apart if model.distance_name == "latent" else learned)
    torch.testing.assert_close(energy, torch.stack(to_goals).amin(0), atol=1e-4, rtol=1e-4)


def test_a_collapsed_quasimetric_ranks_the_goal_below_and_is_not_flat(task):
    """A head that is 0 everywhere: every state at distance 0, and flat."""
    model = make_model(task, tiny(), OBJECTIVES["qrl"], ())
    for parameter in model.head.parameters():
        parameter.data.zero_()
    latents = model.encoder(task.observations).detach().requires_grad_()
    goals = latents.detach()[:, :1]
    energy = model.energy(latents, goals)
    (gradient,) = torch.autograd.grad(energy.sum(), latents)
    assert (model.distance(model.embed(latents), model.embed(goals)) == 0).all()
    assert (energy[:, 0] < 1e-4).all() and (energy[:, 1:] > 1e-3).all()
    assert (energy <= 2 * GOAL_IDENTITY).all()
    assert (gradient[:, 1:].norm(dim=-1) > 1e-3).all()


def test_penalties_do_not_shift_the_batches(task):
    """An objective with a penalty of no weight is trained as it is without."""
    plain, _ = train_helm(task, variant=HelmVariant("qrl"), config=tiny(), device=CPU)
    variant = HelmVariant("qrl", lambda_spectral=1e-30, lambda_hf=1e-30)
    penalised, _ = train_helm(task, variant=variant, config=tiny(), device=CPU)
    for name, value in plain.state_dict().items():
        torch.testing.assert_close(penalised.state_dict()[name], value)


def test_flat_and_helm_without_penalties_are_the_same_training(task):
    """The variant of the 2x2 that has neither pillar is the baseline."""
    flat, _ = train_flat(task, variant=FlatVariant(), config=tiny(), device=CPU)
    variant = HelmVariant("reconstruction", strides=(4,))
    helm, _ = train_helm(task, variant=variant, config=tiny(), device=CPU)
    for name, value in flat.state_dict().items():
        torch.testing.assert_close(helm.state_dict()[name], value)
