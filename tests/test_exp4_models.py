"""Experiment 4's batches and models: what a member sees, distances, and losses with known values."""

import dataclasses
import math

import pytest
import torch
import torch.nn.functional as F

import exp4_contrastive_fix.figures as figures
import exp4_contrastive_fix.train_helm as train_helm_module
from common.config import EXP4_PRESETS
from common.latent.observations import Observations
from common.minigrid.task import make_task
from common.run.random import generators
from common.statistics import spearman
from exp4_contrastive_fix.dataset import Batch, BatchSampler
from exp4_contrastive_fix.models import GOAL_IDENTITY, OBJECTIVES, RootEnergyModel, make_model, qrl_loss
from exp4_contrastive_fix.train_flat import train_flat
from exp4_contrastive_fix.train_head import HEAD, train_head
from exp4_contrastive_fix.train_helm import HelmVariant, helm_variants, penalised, reconciled, train_helm
from tests.pose_grids import all_distances

CPU = torch.device("cpu")


def tiny(seeds=(0, 1), **changes):
    sizes = {"num_walks": 30, "walk_length": 20, "d_latent": 8, "hidden_dim": 16}
    sizes |= {"environments": ("Empty-5x5",), "batch_size": 32, "iterations": 6}
    return dataclasses.replace(EXP4_PRESETS["quick"], seeds=seeds, **(sizes | changes))


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


@pytest.mark.parametrize(
    ("objective", "batch_size"),
    [("infonce", 3), ("infonce", 32), ("qrl", 32), ("temporal_distance", 3), ("temporal_distance", 32)],
)
def test_a_member_is_the_same_to_the_bit_in_any_company(objective, batch_size, one_thread):
    """Seed 1 beside seed 0 and alone, on one thread and with widths that are multiples of 16.

    Not of quasimetric RL in batches of 3: some processors round softplus in a vector and in what is left over
    differently, what is left over depends on the company, and 20 steps end some thousandths apart.
    """
    variant = HelmVariant(objective, 0.01, 1.0, (4,))
    found = []
    for seeds in ((0, 1), (1,)):
        config = tiny(seeds=seeds, batch_size=batch_size, d_latent=16, hidden_dim=32, iterations=20)
        task = make_task("Empty-5x5", config)
        model, _ = train_helm(task, variant=variant, config=config, device=CPU)
        found.append({name: value[-1] for name, value in model.state_dict().items()})
    assert all(torch.equal(found[0][name], value) for name, value in found[1].items())


class PlainSampler:
    """The same draws from the walks one by one; lists what any member drew, sorted, each state once."""

    def __init__(self, task, steps, discount, device):
        self.task, self.steps, self.discount = task, steps, discount

    def draw_member(self, walk, draw, count):
        """Windows, their actions, pairs, gaps and targets of one seed."""
        walks, length = walk.actions.shape
        index = torch.randint(walks, (count, 1), generator=draw)
        begin = torch.randint(length - self.steps + 1, (count, 1), generator=draw)
        when = begin + torch.arange(self.steps + 1)
        begins = walk.valid.nonzero()
        of_pair, time = begins[torch.randint(len(begins), (count,), generator=draw)].unbind(1)
        uniform = torch.rand(count, generator=draw)
        wished = 1 + (uniform.log() / math.log(self.discount)).floor().long()
        gap = torch.minimum(wished, walk.valid.sum(1)[of_pair] - time)
        pairs = walk.states[of_pair[:, None], torch.stack([time, time + gap], 1)]
        visited = torch.unique(walk.states)
        targets = visited[torch.randint(len(visited), (count,), generator=draw)]
        return walk.states[index, when], walk.actions[index, when[:, :-1]], pairs, gap, targets

    def draw(self, draws, count):
        members = [
            self.draw_member(walk, draw, count) for walk, draw in zip(self.task.walks, draws, strict=True)
        ]
        states, choices, pairs, gap, targets = (torch.stack(parts) for parts in zip(*members, strict=True))
        drawn = torch.cat([states, pairs, targets[..., None]], -1)
        different, positions = torch.unique(drawn, return_inverse=True)
        own = torch.zeros(len(states), len(different), dtype=torch.bool)
        own.scatter_(1, positions.flatten(1), True)
        return Batch(
            observations=Observations(self.task.observations[:, different]),
            states=positions[..., : self.steps + 1],
            choices=choices,
            actions=F.one_hot(choices, self.task.world.num_actions).double(),
            pairs=positions[..., -3:-1],
            gap=gap.double(),
            targets=positions[..., -1],
            own=own,
        )


@pytest.mark.parametrize("batch_size", [3, 40])
@pytest.mark.parametrize("objective", OBJECTIVES)
def test_twenty_steps_are_those_of_plainly_drawn_batches(float64, monkeypatch, objective, batch_size):
    """With fewer draws than states, and more."""
    config = tiny(iterations=20, num_walks=100, environments=("Empty-6x6",), batch_size=batch_size)
    task = make_task(config.environments[0], config)
    task = dataclasses.replace(task, observations=task.observations.double())
    variant = HelmVariant(objective, 0.01, 1.0, (4,))
    _, found = train_helm(task, variant=variant, config=config, device=CPU)
    monkeypatch.setattr(train_helm_module, "BatchSampler", PlainSampler)
    _, expected = train_helm(task, variant=variant, config=config, device=CPU)
    assert len(found["loss"]) == 20 and found.keys() == expected.keys()
    for name in found.keys() - {"seconds"}:
        torch.testing.assert_close(found[name], expected[name], rtol=1e-7, atol=1e-7)


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


def test_the_root_energy_keeps_the_order_and_has_a_gradient_at_the_goal(task):
    model = make_model(task, tiny(), OBJECTIVES["reconstruction"], (4,))
    root = RootEnergyModel.of(model)
    latents = model.encoder(task.observations).detach().requires_grad_()
    goals = latents.detach()[:, :2]
    squared, distance = model.energy(latents, goals), root.energy(latents, goals)
    far = squared > 1e-2
    torch.testing.assert_close(distance[far], (2 * squared[far]).sqrt(), atol=2e-2, rtol=0)
    orders = [values.argsort(dim=1, stable=True)[:, 4:] for values in (squared, distance)]
    assert torch.equal(*orders)
    (gradient,) = torch.autograd.grad(distance.sum(), latents)
    assert gradient.isfinite().all() and (distance[:, :2].abs() < 1e-2).all()
    assert set(root.state_dict()) == set(model.state_dict())


def test_a_head_learns_the_steps_on_latents_that_stay_as_they_are(task):
    config = tiny(iterations=300)
    finished, _ = train_flat(task, variant=None, config=config, device=CPU)
    frozen = {name: value.clone() for name, value in finished.requires_grad_(False).state_dict().items()}
    model, _ = train_head(task, finished, variant=None, config=config, device=CPU)
    for name, value in model.state_dict().items():
        if not name.startswith(("head", "dual")):
            assert torch.equal(value, frozen[name]), name
    assert model.distance_name == "quasimetric" and set(model.jumpy) == {"4"}

    def ranks(own):
        points = own.embed(finished.encoder(task.observations))
        between = own.distance(points[:, :, None], points[:, None])[:, true > 0]
        return torch.tensor([spearman(each.detach(), true[true > 0]) for each in between])

    true = all_distances(task.world.next_state)
    learned, untrained = ranks(model), ranks(make_model(task, config, HEAD, (4,)))
    assert (learned > 0.5).all() and (learned > untrained + 0.1).all(), (learned, untrained)


def test_one_weight_of_the_penalty_is_the_unified_model():
    """So its training is shared; the figure of the penalty names models as the trainings do."""
    config = tiny(parts=("penalty", "reconcile"))
    variants = helm_variants(config, 0)
    names = [penalised(config.unified_spectral, weight) for weight in config.penalty_sweep]
    assert variants.keys() >= set(names) and names[0] == "qrl_penalty=0" and "unified" in names
    for weight, name in zip(config.penalty_sweep, names, strict=True):
        assert variants[name].lambda_spectral == weight and variants[name].objective == "qrl"
        assert figures.penalised(dataclasses.asdict(config)["unified_spectral"], weight) == name
    assert not helm_variants(config, 1).keys() & reconciled(config).keys(), "in the first environment alone"
    pairs = {(v.lambda_dynamics, v.lambda_spectral) for v in variants.values() if v.lambda_dynamics}
    assert pairs == {(d, w) for d in (1.0, 30.0) for w in (0.0, 1e-3, 1e-2)}


def test_penalties_do_not_shift_the_batches(task):
    """An objective with a penalty of no weight is trained as it is without."""
    plain, _ = train_helm(task, variant=HelmVariant("qrl"), config=tiny(), device=CPU)
    variant = HelmVariant("qrl", lambda_spectral=1e-30, lambda_hf=1e-30)
    penalised, _ = train_helm(task, variant=variant, config=tiny(), device=CPU)
    for name, value in plain.state_dict().items():
        torch.testing.assert_close(penalised.state_dict()[name], value)


def test_flat_and_helm_without_penalties_are_the_same_training(task):
    """The variant of the 2x2 that has neither pillar is the baseline."""
    flat, _ = train_flat(task, variant=None, config=tiny(), device=CPU)
    variant = HelmVariant("reconstruction", strides=(4,))
    helm, _ = train_helm(task, variant=variant, config=tiny(), device=CPU)
    for name, value in flat.state_dict().items():
        torch.testing.assert_close(helm.state_dict()[name], value)
