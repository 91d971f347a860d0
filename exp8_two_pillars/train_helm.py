"""Train HELM's models: macro steps, rollouts from noised latents, and each of these alone or left out.

    python train_helm.py [--preset full] [--parts corners ablation] ...

trains what run_experiment.py would, and leaves it where run_experiment.py finds it.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from common.config import EXP8_PRESETS
from common.run.command_line import parse_command_line

CONFIG = parse_command_line(EXP8_PRESETS) if __name__ == "__main__" else None  # before torch is imported

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from common.config import Exp8Config
from common.run.cache import Checkpoint, reads_settings
from common.run.random import normal_like
from common.run.run import Experiment, Run, Training, main_training
from common.training.fit import fit
from exp8_two_pillars.dataset import Walks, draw_windows
from exp8_two_pillars.models import (
    MODEL_FIELDS,
    WindModel,
    make_model,
    metric_loss,
    probe_loss,
    reconstruction_loss,
    see,
)
from exp8_two_pillars.parts import OTHER_METRICS, Scene, training_walks, trainings_of
from exp8_two_pillars.world import World


@dataclass(frozen=True)
class HelmVariant:
    """One setting of HELM's parts."""

    stride: int  # environment steps in a macro step
    rollout: int  # macro steps of a training rollout
    noise: float  # on the latents that rollouts begin from
    bounded: bool = True  # latent within (-3, 3)
    metric: str = "none"  # what trains the distance


def helm_variants(config: Exp8Config) -> dict[str, HelmVariant]:
    """Every variant by name; the experiment's parts choose among them (see parts.py)."""
    stride, count, noise = config.coarse_stride, config.rollout_steps, config.latent_noise
    whole = HelmVariant(stride, count, noise)
    parts = {
        "macro_alone": HelmVariant(stride, 1, 0.0),
        "multi_step_alone": HelmVariant(1, count * stride, 0.0),
        "without_macro": HelmVariant(1, count * stride, noise),
        "without_multi_step": HelmVariant(stride, 1, noise),
        "without_noise": HelmVariant(stride, count, 0.0),
        "without_bound": HelmVariant(stride, count, noise, bounded=False),
    }
    with_metric = {f"{name}+metric": replace(variant, metric="infonce") for name, variant in parts.items()}
    metrics = {f"spectral+{metric}": replace(whole, metric=metric) for metric in OTHER_METRICS}
    return {"spectral": whole, "both": replace(whole, metric="infonce"), **parts, **with_metric, **metrics}


@reads_settings("seeds", *MODEL_FIELDS)
def train_helm(
    world: World,
    walks: Walks,
    *,
    variant: HelmVariant,
    config: Exp8Config,
    device: torch.device,
    checkpoint: Checkpoint | None = None,
    label: str = "helm",
) -> tuple[WindModel, dict[str, Tensor]]:
    """A macro model of every seed, rolled out from a noised latent.

        E mean_k |z^_k - sg(z_{kN})|^2 + w_r |dec(z) - picture|^2 + w_m metric,  z^_0 = z_0 + noise

    Args:
        world: what is modelled.
        walks: of every seed.
        variant: stride N, rollout length K, noise, bound, metric. Those of one length share windows.
        config: the fields named above.
        device: where to train.
        checkpoint: where to resume from and save to.
        label: names the training in the log.

    Returns:
        the models of all seeds as one ensemble module, and the training history (see common.training.fit).
    """
    model = make_model(world, config, metric=variant.metric, stride=variant.stride, bounded=variant.bounded)
    model, walks = model.to(device), walks.to(device)
    length = variant.rollout * variant.stride

    def loss(iteration: int, draws: Sequence[torch.Generator]) -> dict[str, Tensor]:
        batch = max(1, config.batch_size // variant.rollout)
        states, actions = draw_windows(walks, draws, batch, length, variant.stride)
        seen = see(model, world, states)
        start, target = seen.latents[:, :, 0], seen.latents[:, :, 1:].detach()
        if variant.noise:
            start = start + variant.noise * normal_like(start, draws)
        terms = {
            "prediction": (model.roll(start, actions) - target).square().mean((1, 2, 3)),
            "reconstruction": reconstruction_loss(model, seen),
            "probe": probe_loss(model, seen),
        }
        weights = {"reconstruction": config.lambda_reconstruction}
        if variant.metric != "none":
            terms["metric"] = metric_loss(model, world, walks, draws, config)
            weights["metric"] = config.lambda_metric
        return {"loss": sum(weights.get(name, 1.0) * term for name, term in terms.items()), **terms}

    history = fit(
        model,
        loss,
        seeds=config.seeds,
        iterations=config.iterations,
        learning_rate=config.learning_rate,
        label=label,
        stream=world.name,
        checkpoint=checkpoint,
    )
    return model, history


def helm_trainings(scene: Scene, walks: Walks, config: Exp8Config, names: Sequence[str]) -> Training:
    """The HELM variants among these names."""
    variants = {name: variant for name, variant in helm_variants(config).items() if name in names}
    return Training(train_helm, scene.name, (scene.world, walks), variants)


def train_all(run: Run) -> None:
    """The HELM variants of every world that the configuration's parts need."""
    for scene, names in trainings_of(run.config).items():
        run.train(helm_trainings(scene, training_walks(scene.world, run.config), run.config, names))


if __name__ == "__main__":
    alone = Experiment("exp8_two_pillars", Path(__file__).parent, EXP8_PRESETS, train_all)
    raise SystemExit(main_training(alone, CONFIG))
