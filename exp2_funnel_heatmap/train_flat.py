"""Train the flat energy models: the SIREN, other networks, and the baselines that smooth without HELM.

    python train_flat.py [--preset full] ...

trains the landscape models that run_experiment.py would, and leaves them where it finds them.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from common.config import EXP2_PRESETS
from common.run.command_line import parse_command_line

CONFIG = parse_command_line(EXP2_PRESETS) if __name__ == "__main__" else None  # before torch is imported

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from common.config import Exp2Config
from common.run.cache import Checkpoint, reads_settings
from common.run.run import Experiment, Run, Training, main_training
from common.training.fit import fit
from exp2_funnel_heatmap.dataset import Batches, Task, landscape_task, memory_needed
from exp2_funnel_heatmap.energy_functions import make_landscape
from exp2_funnel_heatmap.models import EnergyModel, Variant, make_model

CLIP_NORM = 10.0


def flat_variants(task: Task, config: Exp2Config) -> dict[str, Variant]:
    """The flat SIREN; on the two standard landscapes also the baselines and the other networks."""
    variants = {"flat": Variant()}
    if task.name in ("aligned", "misaligned"):
        variants["noised_inputs"] = Variant("noised_inputs", 1.0, config.input_noise_sigma)
        variants["gradient_penalty"] = Variant("gradient", config.lambda_gradient)
    if task.name == "aligned":
        variants |= {f"flat_{name}": Variant(architecture=name) for name in ("fourier", "silu", "relu")}
    return variants


TRAINING_FIELDS = ("seeds", "hidden_dim", "omega0", "batch_size", "learning_rate", "domain_range")
Terms = Callable[[EnergyModel, Tensor, Tensor, Tensor], dict[str, Tensor]]


@reads_settings(*TRAINING_FIELDS)
def train_flat(
    task: Task,
    *,
    variant: Variant,
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
        variant: penalty, weight and architecture. Variants share initial weights and batches.
        config: the fields named above.
        device: where to train.
        checkpoint: where to resume from and save to.
        label: names the training in the log.

    Returns:
        the ensemble [S members], and the training history (see common.training.fit).
    """

    def terms(model: EnergyModel, points: Tensor, noise: Tensor, energies: Tensor) -> dict[str, Tensor]:
        if variant.penalty == "noised_inputs":
            points = points + variant.sigma * noise
        if variant.penalty != "gradient":
            return {"loss": (model.standardised(points) - energies).square().mean(-1)}
        points.requires_grad_()
        predicted = model.standardised(points)
        fitted = (predicted - energies).square().mean(-1)
        (slope,) = torch.autograd.grad(predicted.sum(), points, create_graph=True)
        penalty = slope.square().sum(-1).mean(-1)
        return {"loss": fitted + variant.weight * penalty, "fit": fitted, "penalty": penalty}

    return train_energies(task, terms, variant, config, device, checkpoint, label)


def train_energies(
    task: Task, terms: Terms, variant: Variant, config: Exp2Config, device: torch.device,
    checkpoint: Checkpoint | None, label: str,
) -> tuple[EnergyModel, dict[str, Tensor]]:  # fmt: skip
    """What every training shares; `terms` makes losses [S] of the model and a batch (see Batches.draw)."""
    members = [*config.seeds] * len(task.energies)
    model = make_model(variant, members, task, config.hidden_dim, config.omega0).to(device)
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


def flat_trainings(task: Task, config: Exp2Config) -> Training:
    """Every flat variant of a task."""
    return Training(train_flat, task.name, (task,), flat_variants(task, config))


def train_all(run: Run) -> None:
    """Both standard landscapes."""
    for name in ("aligned", "misaligned"):
        landscape = make_landscape(name, run.config.domain_range)
        run.train(flat_trainings(landscape_task(name, [landscape], run.config), run.config))


if __name__ == "__main__":
    alone = Experiment(
        "exp2_funnel_heatmap", Path(__file__).parent, EXP2_PRESETS, train_all, memory=memory_needed
    )
    raise SystemExit(main_training(alone, CONFIG))
