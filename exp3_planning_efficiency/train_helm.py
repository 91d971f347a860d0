"""Train HELM's world models: spectral penalty, HF invariance over actions, jumpy levels; and parts alone.

    python train_helm.py [--preset full] [--environments Empty-16x16] ...

trains what run_experiment.py would, and leaves it where run_experiment.py finds it.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from common.config import EXP3_PRESETS
from common.run.command_line import parse_command_line

CONFIG = parse_command_line(EXP3_PRESETS) if __name__ == "__main__" else None  # before torch is imported

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from common.config import Exp3Config
from common.latent.memory import memory_needed
from common.latent.training import (
    PENALISED,
    fit_latent_model,
    hf_loss,
    jumpy_loss,
    penalty_noise,
    spectral_loss,
    weighted_sum,
)
from common.minigrid.task import DATA_FIELDS, Task, check_environments, make_task
from common.run.cache import Checkpoint, reads_settings
from common.run.run import Experiment, Run, Training, main_training
from exp3_planning_efficiency.models import WorldModel, WorldModelLoss, make_model


@dataclass(frozen=True)
class HelmVariant:
    """One HELM training: weights of its penalties, and strides of its jumpy levels."""

    lambda_spectral: float = 0.0
    lambda_hf: float = 0.0
    strides: tuple[int, ...] = ()


def is_studied(config: Exp3Config, position: int) -> bool:
    """Whether the environment at a position of the configuration has ablation and sweeps."""
    return "comparison" in config.parts and position < config.study_environments


def helm_variants(config: Exp3Config, with_ablation: bool) -> dict[str, HelmVariant]:
    """Full HELM; for the ablation, each penalty alone."""
    strides = tuple(sorted({config.coarse_stride, *config.stride_sweep}))
    variants = {"helm": HelmVariant(config.lambda_spectral, config.lambda_hf, strides)}
    if with_ablation:
        variants["spectral"] = HelmVariant(lambda_spectral=config.lambda_spectral)
        variants["hf"] = HelmVariant(lambda_hf=config.lambda_hf)
    return variants


@reads_settings(*DATA_FIELDS, "d_latent", "hidden_dim", "transition", "batch_size", "iterations",
      "learning_rate",
      "rollout_steps", "coarse_stride", "stride_sweep",
      "hf_noise_sigma")  # fmt: skip
def train_helm(
    task: Task,
    *,
    variant: HelmVariant,
    config: Exp3Config,
    device: torch.device,
    checkpoint: Checkpoint | None = None,
    label: str = "helm",
) -> tuple[WorldModel, dict[str, Tensor]]:
    """Reconstruction + dynamics + lambda_spectral spectral + lambda_hf HF + jumpy.

    Args:
        task: environment and walks.
        variant: weights and strides. Variants share initial weights and batches, flat's as well.
        config: the fields named above.
        device: where to train.
        checkpoint: where to resume from and save to.
        label: names the training in the log.

    Returns:
        the ensemble [S members], and the training history (see common.training.fit).
    """
    model = make_model(task, config, variant.strides).to(device)
    world_model_loss = WorldModelLoss(task, config, device)

    def loss(iteration: int, draws: Sequence[torch.Generator]) -> dict[str, Tensor]:
        batch, latents, predicted, terms = world_model_loss(model, iteration, draws)
        start, actions = latents[:, :PENALISED, 0], batch.actions[:, :PENALISED, : config.rollout_steps]
        if variant.strides:
            terms["jumpy"] = (1.0, jumpy_loss(model, latents, batch))
        if variant.lambda_spectral:
            probes = penalty_noise(start, config.seeds, f"{task.name}/probes/{iteration}")[None]
            penalty = spectral_loss(model, start, actions[:, :, 0], probes)
            terms["spectral"] = (variant.lambda_spectral, penalty)
        if variant.lambda_hf:
            delta = penalty_noise(actions, config.seeds, f"{task.name}/delta/{iteration}")
            ends = predicted[:, :PENALISED, -1]
            penalty = hf_loss(model, start, ends, actions, config.hf_noise_sigma * delta)
            terms["hf"] = (variant.lambda_hf, penalty)
        return weighted_sum(terms)

    return fit_latent_model(model, loss, task, config, label=label, checkpoint=checkpoint)


def helm_trainings(task: Task, config: Exp3Config, with_ablation: bool) -> Training:
    """Full HELM and, where asked for, the ablation's variants."""
    return Training(train_helm, task.name, (task,), helm_variants(config, with_ablation))


def train_all(run: Run) -> None:
    """The models of every environment."""
    for position, name in enumerate(run.config.environments):
        studied = is_studied(run.config, position)
        run.train(helm_trainings(make_task(name, run.config), run.config, studied))


if __name__ == "__main__":
    alone = Experiment(
        "exp3_planning_efficiency", Path(__file__).parent, EXP3_PRESETS, train_all,
        check=check_environments, memory=memory_needed,
    )  # fmt: skip
    raise SystemExit(main_training(alone, CONFIG))
