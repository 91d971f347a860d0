"""Train the flat models: one step at a time, with and without a metric, a penalty, noise, more training.

    python train_flat.py [--preset full] [--parts corners long] ...

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
from common.regularizers import spectral_penalty
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
from exp8_two_pillars.parts import OTHER_METRICS, WIDTHS, Scene, training_walks, trainings_of
from exp8_two_pillars.world import World

WINDOW = 8  # steps of a window, each of which is predicted from its own true start
PENALISED = 64  # states of a batch at which the penalty is taken


@dataclass(frozen=True)
class FlatVariant:
    """One flat training."""

    metric: str = "none"  # what trains the distance
    noise: float = 0.0  # on the latents that steps begin from
    lambda_spectral: float = 0.0  # weight of the spectral penalty
    bounded: bool = True  # latent within (-3, 3)
    times: int = 1  # optimiser steps, in multiples of the configuration's
    width: int = 1  # of the hidden layers, likewise


def flat_variants(config: Exp8Config) -> dict[str, FlatVariant]:
    """Every flat variant by name; the experiment's parts choose among them (see comparisons.py)."""
    alone = {"noise_alone": FlatVariant(noise=config.latent_noise), "unbounded": FlatVariant(bounded=False)}
    alone |= {f"penalty_{weight:g}": FlatVariant(lambda_spectral=weight) for weight in config.spectral_sweep}
    alone |= {f"times_{times}": FlatVariant(times=times) for times in config.long_times}
    alone |= {f"width_{width}": FlatVariant(width=width) for width in WIDTHS}
    with_metric = {f"{name}+metric": replace(variant, metric="infonce") for name, variant in alone.items()}
    metrics = {f"none+{metric}": FlatVariant(metric=metric) for metric in OTHER_METRICS}
    return {"none": FlatVariant(), "metric": FlatVariant(metric="infonce"), **alone, **with_metric, **metrics}


@reads_settings("seeds", *MODEL_FIELDS)
def train_flat(
    world: World,
    walks: Walks,
    *,
    variant: FlatVariant,
    config: Exp8Config,
    device: torch.device,
    checkpoint: Checkpoint | None = None,
    label: str = "flat",
) -> tuple[WindModel, dict[str, Tensor]]:
    """A one-step model of every seed.

        E |step(z_t, a_t) - sg(z_{t+1})|^2 + w_r |dec(z) - picture|^2 + w_m metric + w_s spectral penalty

    Args:
        world: what is modelled.
        walks: of every seed.
        variant: what is trained for, and how long. Variants share initial weights and windows.
        config: the fields named above.
        device: where to train.
        checkpoint: where to resume from and save to.
        label: names the training in the log.

    Returns:
        the models of all seeds as one ensemble module, and the training history (see common.training.fit).
    """
    model = make_model(world, config, metric=variant.metric, bounded=variant.bounded, width=variant.width)
    model, walks = model.to(device), walks.to(device)

    def loss(iteration: int, draws: Sequence[torch.Generator]) -> dict[str, Tensor]:
        states, actions = draw_windows(walks, draws, max(1, config.batch_size // WINDOW), WINDOW)
        seen = see(model, world, states)
        start, target = seen.latents[:, :, :-1], seen.latents[:, :, 1:].detach()
        if variant.noise:
            start = start + variant.noise * normal_like(start, draws)
        terms = {
            "prediction": (model.step(start, actions) - target).square().mean((1, 2, 3)),
            "reconstruction": reconstruction_loss(model, seen),
            "probe": probe_loss(model, seen),
        }
        weights = {"reconstruction": config.lambda_reconstruction}
        if variant.metric != "none":
            terms["metric"] = metric_loss(model, world, walks, draws, config)
            weights["metric"] = config.lambda_metric
        if variant.lambda_spectral:
            few, moves = start.flatten(1, 2)[:, :PENALISED], actions.flatten(1, 2)[:, :PENALISED]
            terms["spectral"] = spectral_penalty(model.step, few, moves).mean(1)
            weights["spectral"] = variant.lambda_spectral
        return {"loss": sum(weights.get(name, 1.0) * term for name, term in terms.items()), **terms}

    history = fit(
        model,
        loss,
        seeds=config.seeds,
        iterations=variant.times * config.iterations,
        learning_rate=config.learning_rate,
        label=label,
        stream=world.name,
        checkpoint=checkpoint,
    )
    return model, history


def flat_trainings(scene: Scene, walks: Walks, config: Exp8Config, names: Sequence[str]) -> Training:
    """The flat variants among these names."""
    variants = {name: variant for name, variant in flat_variants(config).items() if name in names}
    return Training(train_flat, scene.name, (scene.world, walks), variants)


def train_all(run: Run) -> None:
    """The flat variants of every world that the configuration's parts need."""
    for scene, names in trainings_of(run.config).items():
        run.train(flat_trainings(scene, training_walks(scene.world, run.config), run.config, names))


if __name__ == "__main__":
    alone = Experiment("exp8_two_pillars", Path(__file__).parent, EXP8_PRESETS, train_all)
    raise SystemExit(main_training(alone, CONFIG))
