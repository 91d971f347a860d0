"""Train for metric alignment: every objective alone, the two pillars, and the two unified objectives.

    python train_helm.py [--preset full] [--environments Empty-16x16] ...

trains what run_experiment.py would, and leaves it where run_experiment.py finds it.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from common.config import EXP4_PRESETS
from common.run.command_line import parse_command_line

CONFIG = parse_command_line(EXP4_PRESETS) if __name__ == "__main__" else None  # before torch is imported

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from common.config import Exp4Config
from common.latent.memory import memory_needed
from common.latent.training import (
    PENALISED,
    dynamics_loss,
    fit_latent_model,
    hf_loss,
    jumpy_loss,
    penalty_noise,
    reconstruction_loss,
    spectral_loss,
    take,
)
from common.minigrid.task import DATA_FIELDS, Task, check_environments, make_task
from common.run.cache import Checkpoint, reads_settings
from common.run.run import Experiment, Run, Training, main_training
from exp4_contrastive_fix.dataset import Batch, BatchSampler
from exp4_contrastive_fix.models import (
    OBJECTIVES,
    AlignedModel,
    contrast_loss,
    make_model,
    qrl_loss,
    straight_loss,
    temporal_distance_loss,
)


@dataclass(frozen=True)
class HelmVariant:
    """One training: its objective's name in OBJECTIVES, the weights of its penalties, its jumpy levels."""

    objective: str
    lambda_spectral: float = 0.0
    lambda_hf: float = 0.0
    strides: tuple[int, ...] = ()


def helm_variants(config: Exp4Config, position: int) -> dict[str, HelmVariant]:
    """Of the environment at a position of the configuration, all but the baseline.

    The two unified models everywhere; the objectives alone, and the corners of the 2x2, where asked for.
    """
    strides = (config.coarse_stride,)
    planned = config.pillar_objectives if position < config.pillar_environments else ()
    alone = OBJECTIVES if position < config.objective_environments else planned
    variants = {
        name: HelmVariant(name, strides=strides if name in planned else ())
        for name in alone
        if name != "reconstruction"
    }
    variants["unified_published"] = HelmVariant("infonce", config.lambda_spectral, config.lambda_hf, strides)
    variants["unified"] = HelmVariant("qrl", config.unified_spectral, strides=strides)
    if planned:
        for objective in ("reconstruction", *planned):
            variants[f"{objective}_spectral"] = HelmVariant(
                objective, config.lambda_spectral, strides=strides
            )
    return variants


class _Loss:
    """The terms of a variant's loss on a batch."""

    def __init__(self, model: AlignedModel, task: Task, variant: HelmVariant, config: Exp4Config):
        self.model, self.name, self.variant, self.config = model, task.name, variant, config
        self.objective = OBJECTIVES[variant.objective]

    def terms(self, batch: Batch, iteration: int) -> dict[str, Tensor]:
        """Each [S]; what the weights of `weights` are for, and records beside."""
        model, objective, config = self.model, self.objective, self.config
        steps = config.rollout_steps
        step = iteration % steps
        encoded = model.encoder(batch.observations)
        latents = take(encoded, batch.states)
        predicted = model.transition.rollout(latents[:, :, 0], batch.actions[:, :, :steps])
        terms = {"dynamics": dynamics_loss(predicted, latents)}
        if objective.reconstruction:
            terms["reconstruction"] = reconstruction_loss(model.decoder, latents, predicted, batch, step)
        if objective.contrast:
            terms["contrast"] = contrast_loss(
                objective, encoded, predicted, batch, step, config.nce_temperature
            )
        if objective.metric == "qrl":
            terms |= qrl_loss(model, encoded, batch, config)
        if objective.metric == "temporal":
            terms["metric"] = temporal_distance_loss(model, encoded, batch, config.expectile)
        if objective.straight:
            terms["straight"] = straight_loss(encoded, batch)
        return terms | self._penalties(latents, batch, iteration)

    def _penalties(self, latents: Tensor, batch: Batch, iteration: int) -> dict[str, Tensor]:
        terms, seeds = {}, self.config.seeds
        start = latents[:, :PENALISED, 0]
        actions = batch.actions[:, :PENALISED, : self.config.rollout_steps]
        if self.variant.strides:
            terms["jumpy"] = jumpy_loss(self.model, latents, batch)
        if self.variant.lambda_spectral:
            probes = penalty_noise(start, seeds, f"{self.name}/probes/{iteration}")[None]
            terms["spectral"] = spectral_loss(self.model, start, actions[:, :, 0], probes)
        if self.variant.lambda_hf:
            delta = penalty_noise(actions, seeds, f"{self.name}/delta/{iteration}")
            terms["hf"] = hf_loss(self.model, start, actions, self.config.hf_noise_sigma * delta)
        return terms

    @property
    def weights(self) -> dict[str, float]:
        """Of the terms that are minimised; those not named are records."""
        return {
            "dynamics": self.config.lambda_dynamics,
            "reconstruction": 1.0,
            "contrast": 1.0,
            "metric": 1.0,
            "straight": self.config.lambda_straight,
            "jumpy": 1.0,
            "spectral": self.variant.lambda_spectral,
            "hf": self.variant.lambda_hf,
        }


@reads_settings(*DATA_FIELDS, "d_latent", "hidden_dim", "transition", "batch_size", "iterations",
      "learning_rate",
      "rollout_steps", "coarse_stride", "lambda_dynamics", "pair_discount", "nce_temperature", "qrl_offset",
      "qrl_beta", "qrl_tolerance", "expectile", "lambda_straight", "hf_noise_sigma")  # fmt: skip
def train_helm(
    task: Task,
    *,
    variant: HelmVariant,
    config: Exp4Config,
    device: torch.device,
    checkpoint: Checkpoint | None = None,
    label: str = "unified",
) -> tuple[AlignedModel, dict[str, Tensor]]:
    """The weighted sum of what the variant asks for.

    Args:
        task: environment and walks.
        variant: objective, penalties and strides. Variants share initial weights and batches, flat's as well.
        config: the fields named above.
        device: where to train.
        checkpoint: where to resume from and save to.
        label: names the training in the log.

    Returns:
        the ensemble [S members], and the training history (see common.training.fit).
    """
    model = make_model(task, config, OBJECTIVES[variant.objective], variant.strides).to(device)
    sampler = BatchSampler(
        task, max(config.rollout_steps, config.coarse_stride), config.pair_discount, device
    )
    parts = _Loss(model, task, variant, config)

    def loss(iteration: int, draws: Sequence[torch.Generator]) -> dict[str, Tensor]:
        batch = sampler.draw(draws, config.batch_size)
        terms = parts.terms(batch, iteration)
        total = sum(weight * terms[name] for name, weight in parts.weights.items() if name in terms)
        return {"loss": total, **terms}

    return fit_latent_model(model, loss, task, config, label=label, checkpoint=checkpoint)


def helm_trainings(task: Task, config: Exp4Config, position: int) -> Training:
    """Every model but the baseline; `position` is the environment's in the configuration."""
    return Training(train_helm, task.name, (task,), helm_variants(config, position))


def train_all(run: Run) -> None:
    """The models of every environment."""
    for position, name in enumerate(run.config.environments):
        run.train(helm_trainings(make_task(name, run.config), run.config, position))


if __name__ == "__main__":
    alone = Experiment(
        "exp4_contrastive_fix", Path(__file__).parent, EXP4_PRESETS, train_all,
        check=check_environments, memory=memory_needed,
    )  # fmt: skip
    raise SystemExit(main_training(alone, CONFIG))
