"""Experiment 3's trainings: what a plain implementation gives, and a member the same in any company."""

import dataclasses

import pytest
import torch
import torch.nn.functional as F

from common.config import EXP3_PRESETS
from common.latent.training import CLIP_NORM, PENALISED, WindowSampler, penalty_noise, spectral_loss
from common.minigrid.task import make_task
from common.training.fit import fit
from exp3_planning_efficiency.models import make_model
from exp3_planning_efficiency.train_helm import HelmVariant, train_helm

CPU = torch.device("cpu")
VARIANT = HelmVariant(lambda_spectral=0.01, lambda_hf=1.0, strides=(2, 4))


def tiny(seeds=(0, 1), environment="Empty-8x8", **changes):
    sizes = {
        "num_walks": 400,
        "walk_length": 50,
        "iterations": 20,
        "coarse_stride": 4,
        "stride_sweep": (2, 4),
    }
    return dataclasses.replace(
        EXP3_PRESETS["quick"], environments=(environment,), seeds=seeds, **(sizes | changes)
    )


def plain_training(task, config):
    """Every window's observations encoded, every rollout done anew; no list of states."""
    model = make_model(task, config, VARIANT.strides)
    sampler = WindowSampler(task, max(config.rollout_steps, *VARIANT.strides), CPU)
    members = torch.arange(len(config.seeds))[:, None, None]

    def loss(iteration, draws):
        states, choices = sampler.draw(draws, config.batch_size)
        actions = F.one_hot(choices, task.world.num_actions).to(task.observations)
        shown = task.observations[members, states]  # [S, B, K + 1, F]
        latents = model.encoder(shown.flatten(1, 2)).unflatten(1, shown.shape[1:3])
        ahead = [latents[:, :, 0]]
        for action in actions[:, :, : config.rollout_steps].unbind(2):
            ahead.append(model.transition(ahead[-1], action))
        step = iteration % config.rollout_steps + 1
        true = latents[:, :, 1 : config.rollout_steps + 1].detach()
        found = {"dynamics": (torch.stack(ahead[1:], 2) - true).square().mean((1, 2, 3))}
        decoded = model.decoder(torch.cat([ahead[0], ahead[step]], 1))
        wanted = torch.cat([shown[:, :, 0], shown[:, :, step]], 1)
        found["reconstruction"] = (decoded - wanted).square().mean((1, 2))
        jumps = [
            (
                model.jumpy[str(k)](latents[:, :, 0].detach(), actions[:, :, :k].flatten(2))
                - latents[:, :, k].detach()
            )
            for k in VARIANT.strides
        ]
        found["jumpy"] = sum(jump.square().mean((1, 2)) for jump in jumps) / len(jumps)
        few, taken = latents[:, :PENALISED, 0], actions[:, :PENALISED, : config.rollout_steps]
        probes = penalty_noise(few, config.seeds, f"{task.name}/probes/{iteration}")[None]
        found["spectral"] = spectral_loss(model, few, taken[:, :, 0], probes)
        delta = penalty_noise(taken, config.seeds, f"{task.name}/delta/{iteration}")
        ends = []
        for plan in (taken, taken + config.hf_noise_sigma * delta):
            end = few
            for action in plan.unbind(2):
                end = model.transition(end, action)
            ends.append(0.5 * (end - few.roll(1, 1)).square().mean(-1))
        found["hf"] = (ends[0] - ends[1]).square().mean(-1)
        weights = {"spectral": VARIANT.lambda_spectral, "hf": VARIANT.lambda_hf}
        total = sum(weights.get(name, 1.0) * term for name, term in found.items())
        return {"loss": total, **found}

    options = {"iterations": config.iterations, "learning_rate": config.learning_rate, "label": "plain"}
    return model, fit(
        model, loss, seeds=config.seeds, stream=task.name, clip_norm=CLIP_NORM, **options
    )  # fmt: skip


@pytest.mark.parametrize("environment", ["Empty-8x8", "KeyCorridorS3R1"])
@pytest.mark.parametrize("batch_size", [8, 80])
def test_twenty_steps_are_those_of_a_plain_implementation(float64, environment, batch_size):
    """Observations sparse and dense; fewer draws than states and than macro actions, and more."""
    config = tiny(environment=environment, batch_size=batch_size, d_latent=8, hidden_dim=16)
    task = make_task(environment, config)
    task = dataclasses.replace(task, observations=task.observations.double())
    model, history = train_helm(task, variant=VARIANT, config=config, device=CPU)
    plain, expected = plain_training(task, config)
    assert len(history["loss"]) == 20
    for name in ("loss", "dynamics", "reconstruction", "jumpy", "spectral", "hf"):
        torch.testing.assert_close(history[name], expected[name], rtol=1e-7, atol=1e-7)
    for name, value in plain.state_dict().items():
        torch.testing.assert_close(model.state_dict()[name], value, rtol=1e-6, atol=1e-7)


def test_a_member_is_the_same_to_the_bit_in_any_company(one_thread):
    """On one thread, where widths are multiples of 16. Elsewhere 1e-8 apart: Adam's last few numbers of an
    odd size (the decoder's bias) round differently, and two threads split sums differently.
    """
    found = []
    for seeds in ((0,), (0, 1, 2)):
        config = tiny(seeds=seeds, batch_size=64, d_latent=16, hidden_dim=32)
        task = make_task("Empty-8x8", config)
        task = dataclasses.replace(task, observations=task.observations[..., :208])
        model, _ = train_helm(task, variant=VARIANT, config=config, device=CPU)
        found.append({name: value[0] for name, value in model.state_dict().items()})
    assert all(torch.equal(found[1][name], value) for name, value in found[0].items())
