"""Experiment 8's models: closed forms, what trains what, and that variants differ in what they say alone."""

import dataclasses

import pytest
import torch
import torch.nn.functional as F

from common.config import EXP8_PRESETS, Exp8Config
from common.jacobian_utils import jacobians
from common.run.random import generator, generators
from exp8_two_pillars.dataset import draw_pairs, draw_windows
from exp8_two_pillars.models import (
    BOUND,
    METRICS,
    make_model,
    metric_loss,
    probe_loss,
    reconstruction_loss,
    see,
)
from exp8_two_pillars.parts import base_world, scenes, training_walks, trainings_of, variants
from exp8_two_pillars.train_flat import FlatVariant, flat_variants, train_flat
from exp8_two_pillars.train_helm import HelmVariant, helm_variants, train_helm

CPU = torch.device("cpu")


def tiny(seeds=(0,), **changes):
    sizes = {"num_walks": 30, "walk_length": 40, "d_latent": 16, "hidden_dim": 32, "batch_size": 80,
             "num_pairs": 32, "iterations": 20, "num_tasks": 3}  # fmt: skip
    return dataclasses.replace(EXP8_PRESETS["quick"], seeds=seeds, **(sizes | changes))


CONFIG = tiny()
WORLD = base_world(CONFIG)


def normal(*shape):
    return torch.randn(*shape, generator=generator(0, "test"))


@pytest.mark.parametrize("bounded", [True, False])
@pytest.mark.parametrize("stride", [1, 5])
def test_step_jacobians_are_autograds(stride, bounded, float64):
    model = make_model(WORLD, tiny((0, 1)), metric="none", stride=stride, bounded=bounded)
    latents, blocks = normal(2, 4, 16).double(), normal(2, 4, 2 * stride).double()
    expected = jacobians(lambda z, a: model.step(z, a), latents, blocks)
    for found, wanted in zip(model.step_jacobians(latents, blocks), expected, strict=True):
        torch.testing.assert_close(found, wanted)


def test_latents_are_bounded_unless_said():
    pictures, actions = 50 * normal(1, 6, 64), normal(1, 6, 40, 2)
    model = make_model(WORLD, CONFIG, metric="none")
    latents = model.encode(pictures)
    assert latents.abs().max() <= BOUND and model.roll(latents, actions).abs().max() <= BOUND
    free = make_model(WORLD, CONFIG, metric="none", bounded=False)
    assert free.encode(pictures).abs().max() > BOUND


def test_a_rollout_takes_the_actions_block_by_block():
    model = make_model(WORLD, CONFIG, metric="none", stride=5)
    latents, actions = normal(1, 3, 16), normal(1, 3, 10, 2)
    first = model.step(latents, actions[:, :, :5].flatten(2))
    second = model.step(first, actions[:, :, 5:].flatten(2))
    torch.testing.assert_close(model.roll(latents, actions), torch.stack((first, second), 2))


def test_the_probe_trains_itself_alone():
    model = make_model(WORLD, CONFIG, metric="infonce")
    seen = see(model, WORLD, training_walks(WORLD, CONFIG).states[:, :4])
    probe_loss(model, seen).sum().backward()
    trained = {name.partition(".")[0] for name, value in model.named_parameters() if value.grad is not None}
    assert trained == {"probe"}
    reconstruction_loss(model, seen).sum().backward()
    assert model.encoder.layers[0].weight.grad is not None


def test_infonce_is_the_cross_entropy_both_ways():
    model, walks = make_model(WORLD, CONFIG, metric="infonce"), training_walks(WORLD, CONFIG)
    found = metric_loss(model, WORLD, walks, generators((0,), "pairs"), CONFIG)
    here, there = draw_pairs(walks, generators((0,), "pairs"), 32, CONFIG.pair_discount, CONFIG.longest_gap)
    points, others = (model.head(model.encode(WORLD.picture(states)))[0] for states in (here, there))
    logits = -(points[:, None] - others[None]).square().sum(-1)
    own = torch.arange(32)
    expected = (F.cross_entropy(logits, own) + F.cross_entropy(logits.T, own)) / 2
    torch.testing.assert_close(found, expected[None], atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("metric", METRICS)
def test_energies_are_least_at_the_goal_and_have_gradients(metric):
    model = make_model(WORLD, CONFIG, metric=metric)
    goals = model.encode(normal(1, 5, 64)).detach()
    elsewhere = (goals + 0.3 * normal(1, 5, 16)).requires_grad_()
    at_goal, away = (model.energy(value[:, :, None], goals)[..., 0] for value in (goals, elsewhere))
    assert (at_goal < away).all()
    away.sum().backward()
    assert (elsewhere.grad.abs().sum(-1) > 0).all()


@pytest.mark.parametrize("metric", ["infonce", "infonce_published", "qrl", "qrl_symmetric"])
def test_metrics_train_the_distance(metric):
    walks = training_walks(WORLD, CONFIG)
    _, history = train_flat(
        WORLD,
        walks,
        variant=FlatVariant(metric=metric),
        config=tiny(iterations=60, learning_rate=1e-2),
        device=CPU,
    )
    assert history["metric"][-10:].mean() < history["metric"][0]


def test_the_target_of_a_prediction_gets_no_gradient():
    """Else the latent could forget what is hard to predict."""
    walks = training_walks(WORLD, CONFIG)
    model = make_model(WORLD, CONFIG, metric="none")
    states, actions = draw_windows(walks, generators((0,), "w"), 4, 8)
    pictures = WORLD.picture(states).requires_grad_()
    latents = model.encode(pictures)
    error = (model.step(latents[:, :, :-1], actions) - latents[:, :, 1:].detach()).square().sum()
    error.backward()
    assert (pictures.grad[:, :, -1] == 0).all() and (pictures.grad[:, :, 0] != 0).any()


def test_a_member_is_trained_the_same_in_any_company(one_thread):
    found = []
    for seeds in ((0, 1), (1,)):
        config = tiny(seeds)
        walks = training_walks(WORLD, config)
        model, _ = train_helm(WORLD, walks, variant=helm_variants(config)["both"], config=config, device=CPU)
        found.append({name: value[-1] for name, value in model.state_dict().items()})
    for name, value in found[1].items():
        torch.testing.assert_close(found[0][name], value, atol=1e-4, rtol=1e-3)


def test_training_lowers_what_it_is_for():
    config = tiny(iterations=80, learning_rate=1e-2)
    for train, variant in ((train_flat, FlatVariant()), (train_helm, HelmVariant(5, 8, 0.1))):
        _, history = train(WORLD, training_walks(WORLD, config), variant=variant, config=config, device=CPU)
        assert history["loss"][-8:].mean() < 0.5 * history["loss"][0], train.__name__


def test_the_penalty_lowers_the_step_jacobian():
    config, norms = tiny(iterations=60, learning_rate=1e-2), []
    for weight in (0.0, 1.0):
        variant = FlatVariant(lambda_spectral=weight)
        model, _ = train_flat(
            WORLD, training_walks(WORLD, config), variant=variant, config=config, device=CPU
        )
        norms.append(model.step_jacobians(normal(1, 20, 16), normal(1, 20, 2))[0].norm())
    assert norms[1] < 0.8 * norms[0]


def test_each_part_is_one_change_from_the_whole_or_from_none():
    variants_of = helm_variants(CONFIG)
    whole, none = variants_of["both"], HelmVariant(1, 1, 0.0, metric="infonce")

    def changes(one, other):
        same_length = one.rollout * one.stride == other.rollout * other.stride
        pairs = zip(dataclasses.astuple(one), dataclasses.astuple(other), strict=True)
        return sum(a != b for a, b in pairs) - same_length * (one.stride != other.stride)

    for name, variant in variants_of.items():
        if name.startswith("without") and name.endswith("+metric"):
            assert changes(variant, whole) == 1, name
        if "_alone" in name and name.endswith("+metric"):
            assert changes(variant, none) == 1, name
    assert flat_variants(CONFIG)["metric"] == FlatVariant(metric="infonce")


def test_every_variant_of_every_part_is_trained_by_one_of_the_two():
    config = EXP8_PRESETS["full"]
    known = set(flat_variants(config)) | set(helm_variants(config))
    assert not set(flat_variants(config)) & set(helm_variants(config))
    for part in config.parts:
        assert set(variants(config, part)) <= known, part
        assert len({scene.name for scene in scenes(config, part)}) == len(scenes(config, part))
    used = {name for names in trainings_of(config).values() for name in names}
    assert used == known, "a variant that no part uses"
    worlds = [scene.world for scene in trainings_of(config)]
    assert len(set(worlds)) == len(worlds)
    assert len({scene.name for scene in trainings_of(config)}) == len(worlds)


def test_batches_hold_as_many_transitions_of_the_model(monkeypatch):
    """Whatever the stride and the length of a rollout."""
    from exp8_two_pillars import train_flat as flat_module
    from exp8_two_pillars import train_helm as helm_module

    counts = {}
    for module in (flat_module, helm_module):

        def spy(walks, draws, batch, length, stride=1):
            counts[name] = batch * length // stride
            return draw_windows(walks, draws, batch, length, stride)

        monkeypatch.setattr(module, "draw_windows", spy)
    config = tiny(iterations=1)
    walks = training_walks(WORLD, config)
    for name in ("none", "metric"):
        train_flat(WORLD, walks, variant=flat_variants(config)[name], config=config, device=CPU)
    for name in ("both", "macro_alone", "multi_step_alone", "without_macro"):
        train_helm(WORLD, walks, variant=helm_variants(config)[name], config=config, device=CPU)
    assert set(counts.values()) == {config.batch_size}


def test_bad_settings_are_refused():
    for changes, words in (
        ({"closed_horizons": (12,)}, "multiples of 5"),
        ({"study_horizon": 50}, "--closed-horizons"),
        ({"walk_length": 39}, ">= 40"),
        ({"parts": ()}, "at least one"),
        ({"planners": ("icem", "icem")}, "each once"),
        ({"wall_length": 1.0}, "<= 0.95"),
    ):
        with pytest.raises(ValueError, match=words):
            Exp8Config(**changes)
