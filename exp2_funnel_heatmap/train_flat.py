"""Train the flat energy models: the SIREN, other networks, and the baselines that smooth without HELM.

    python train_flat.py [--preset full] ...

trains the landscape models that run_experiment.py would, and leaves them where it finds them.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from common.config import EXP2_PRESETS, Exp2Config
from common.run.cache import Checkpoint, uses
from common.run.run import Run, run_training
from common.training.fit import fit
from exp2_funnel_heatmap.dataset import Batches, Task, landscape_task
from exp2_funnel_heatmap.energy_functions import make_landscape
from exp2_funnel_heatmap.models import Arm, EnergyModel, make_model

CLIP_NORM = 10.0


def flat_arms(task: Task, config: Exp2Config) -> dict[str, Arm]:
    """The flat SIREN; on the two standard landscapes also the baselines and the other networks."""
    arms = {"flat": Arm()}
    if task.name in ("aligned", "misaligned"):
        arms["noised_inputs"] = Arm("noised_inputs", 1.0, config.input_noise_sigma)
        arms["gradient_penalty"] = Arm("gradient", config.lambda_gradient)
    if task.name == "aligned":
        arms |= {f"flat_{name}": Arm(architecture=name) for name in ("fourier", "silu", "relu")}
    return arms


TRAINING_FIELDS = ("seeds", "hidden_dim", "omega0", "batch_size", "learning_rate", "domain_range")
Terms = Callable[[EnergyModel, Tensor, Tensor, Tensor], dict[str, Tensor]]


@uses(*TRAINING_FIELDS)
def train_flat(
    task: Task,
    *,
    arm: Arm,
    config: Exp2Config,
    device: torch.device,
    checkpoint: Checkpoint | None = None,
    label: str = "flat",
) -> tuple[EnergyModel, dict[str, Tensor]]:
    """A model of every energy and seed: E (E^(a) - E(a))^2, standardised, plus what a baseline adds.

    noised_inputs: the model is asked at a + sigma e for the energy at a; its minimiser is E smoothed by
    the Gaussian, with gain exp(-w^2 sigma^2 / 2). gradient: + lambda |dE^/da|^2, gain 1 / (1 + lambda w^2).

    Args:
        task: energies and optimiser steps.
        arm: penalty, weight and architecture. Arms share initial weights and batches.
        config: the fields named above.
        device: where to train.
        checkpoint: where to resume from and save to.
        label: names the training in the log.

    Returns:
        the ensemble [S members], and the training history (see common.training.fit).
    """

    def terms(model: EnergyModel, points: Tensor, noise: Tensor, energies: Tensor) -> dict[str, Tensor]:
        if arm.penalty == "noised_inputs":
            points = points + arm.sigma * noise
        if arm.penalty != "gradient":
            return {"loss": (model.standardised(points) - energies).square().mean(-1)}
        points.requires_grad_()
        predicted = model.standardised(points)
        fitted = (predicted - energies).square().mean(-1)
        (slope,) = torch.autograd.grad(predicted.sum(), points, create_graph=True)
        penalty = slope.square().sum(-1).mean(-1)
        return {"loss": fitted + arm.weight * penalty, "fit": fitted, "penalty": penalty}

    return train_energies(task, terms, arm, config, device, checkpoint, label)


def train_energies(
    task: Task, terms: Terms, arm: Arm, config: Exp2Config, device: torch.device,
    checkpoint: Checkpoint | None, label: str,
) -> tuple[EnergyModel, dict[str, Tensor]]:  # fmt: skip
    """What every training shares; `terms` makes losses [S] of the model and a batch (see Batches.draw)."""
    members = [*config.seeds] * len(task.energies)
    model = make_model(arm, members, task, config.hidden_dim, config.omega0).to(device)
    batches = Batches(task, config.seeds, config.batch_size)

    def loss(iteration: int, _: Sequence[torch.Generator]) -> dict[str, Tensor]:
        return terms(model, *(part.to(device) for part in batches.draw(iteration)))

    history = fit(
        model,
        loss,
        seeds=members,
        iterations=task.iterations,
        learning_rate=config.learning_rate,
        label=label,
        stream=task.name,
        clip_norm=CLIP_NORM,
        checkpoint=checkpoint,
    )
    return model, history


def train_flat_arms(run: Run, task: Task) -> dict[str, EnergyModel]:
    """Every flat arm of a task, by name."""
    arms = flat_arms(task, run.config)
    return run.train_arms(train_flat, task.name, task, arms=arms, contents=task.contents)


def train_all(run: Run) -> None:
    """Both standard landscapes."""
    for name in ("aligned", "misaligned"):
        landscape = make_landscape(name, run.config.domain_range)
        train_flat_arms(run, landscape_task(name, [landscape], run.config))


if __name__ == "__main__":
    run_training("exp2_funnel_heatmap", Path(__file__).parent, EXP2_PRESETS, train_all)
