"""Train the flat one-step models: without a penalty, and with the documents' spectral penalty.

    python train_flat.py [--preset full] [--systems lorenz] ...

trains what run_experiment.py would, and leaves it where run_experiment.py finds it.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from common.config import EXP1_PRESETS
from common.run.command_line import parse_command_line

CONFIG = parse_command_line(EXP1_PRESETS) if __name__ == "__main__" else None  # before torch is imported

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from common.config import LAMBDA_SPECTRAL_PUBLISHED, Exp1Config
from common.regularizers import spectral_penalty
from common.run.cache import Checkpoint, reads_settings
from common.run.run import Experiment, Run, Training, main_training
from common.training.fit import fit
from exp1_spectral_cliff.dataset import (
    LinearSystem,
    System,
    Trajectories,
    draw_windows,
    make_system,
    memory_needed,
    training_trajectories,
)
from exp1_spectral_cliff.models import FlatModel, LinearModel

CLIP_NORM = 1.0


@dataclass(frozen=True)
class FlatVariant:
    """One flat training."""

    lambda_spectral: float  # weight of the spectral penalty
    iterations: int  # optimiser steps


def flat_variants(system: System, config: Exp1Config) -> dict[str, FlatVariant]:
    """Flat, with the penalty, with the published penalty; on Lorenz a sweep of it and a longer training.

    Without the part `cliff` the first is enough.
    """
    if "cliff" not in config.parts:
        return {"flat": FlatVariant(0.0, config.iterations)}
    linear = isinstance(system, LinearSystem)
    weights = {
        "flat": 0.0,
        "spectral": config.lambda_spectral_linear if linear else config.lambda_spectral,
        "spectral_published": LAMBDA_SPECTRAL_PUBLISHED,
    }
    if system.name == "lorenz":
        weights |= {f"spectral_{weight:g}": weight for weight in config.spectral_sweep}
    variants = {name: FlatVariant(weight, config.iterations) for name, weight in weights.items()}
    if system.name == "lorenz" and config.flat_long_iterations:
        variants["flat_long"] = FlatVariant(0.0, config.flat_long_iterations)
    return variants


@reads_settings("seeds", "hidden_dim", "batch_size", "learning_rate",
      "num_trajectories", "trajectory_length")  # fmt: skip
def train_flat(
    system: System,
    data: Trajectories,
    *,
    variant: FlatVariant,
    config: Exp1Config,
    device: torch.device,
    checkpoint: Checkpoint | None = None,
    label: str = "flat",
) -> tuple[nn.Module, dict[str, Tensor]]:
    """A one-step model of every seed: E ||f(s, a) - s'||^2 + lambda (||df/ds||_F^2 + ||df/da||_F^2).

    Args:
        system: what is modelled.
        data: its training trajectories.
        variant: lambda and the optimiser steps. Variants share initial weights and batches.
        config: the fields named above.
        device: where to train.
        checkpoint: where to resume from and save to.
        label: names the training in the log.

    Returns:
        the models of all seeds as one ensemble module, and the training history (see common.training.fit).
    """
    stream = f"{system.name}/flat"
    if isinstance(system, LinearSystem):
        model = LinearModel(config.seeds, system.d_state, system.d_action, stream)
    else:
        model = FlatModel(config.seeds, system.d_state, system.d_action, config.hidden_dim, stream)
    model, data = model.to(device), data.to(device)

    def loss(iteration: int, draws: Sequence[torch.Generator]) -> dict[str, Tensor]:
        states, actions = draw_windows(data, draws, config.batch_size, length=1)
        start, target, action = states[:, :, 0], states[:, :, 1], actions[:, :, 0]
        prediction = (model.step(start, action) - target).square().sum(-1).mean(-1)  # [S]
        if variant.lambda_spectral == 0.0:
            return {"loss": prediction, "prediction": prediction}
        spectral = spectral_penalty(model.step, start, action).mean(-1)
        return {
            "loss": prediction + variant.lambda_spectral * spectral,
            "prediction": prediction,
            "spectral": spectral,
        }

    history = fit(
        model,
        loss,
        seeds=config.seeds,
        iterations=variant.iterations,
        learning_rate=config.learning_rate,
        label=label,
        stream=stream,
        clip_norm=CLIP_NORM,
        checkpoint=checkpoint,
    )
    return model, history


def flat_trainings(system: System, data: Trajectories, config: Exp1Config) -> Training:
    """Every flat variant of a system."""
    return Training(train_flat, system.name, (system, data), flat_variants(system, config))


def train_all(run: Run) -> None:
    """The flat variants of every system of the configuration."""
    for name in run.config.systems:
        system = make_system(name)
        run.train(flat_trainings(system, training_trajectories(system, run.config), run.config))


if __name__ == "__main__":
    alone = Experiment(
        "exp1_spectral_cliff", Path(__file__).parent, EXP1_PRESETS, train_all, memory=memory_needed
    )
    raise SystemExit(main_training(alone, CONFIG))
