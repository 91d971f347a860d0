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
    weighted_sum,
)
from common.minigrid.task import DATA_FIELDS, Task, check_environments, make_task
from common.run.cache import Checkpoint, reads_settings
from common.run.run import Experiment, Run, Training, main_training
from exp4_contrastive_fix.dataset import BatchSampler
from exp4_contrastive_fix.models import (
    OBJECTIVES,
    AlignedModel,
    Objective,
    Prediction,
    contrast_loss,
    make_model,
    predict,
    qrl_loss,
    straight_loss,
    temporal_distance_loss,
)

RECONCILED_PENALTIES = (0.0, 1e-3, 1e-2)  # without, and the defaults of experiments 3 and 4
Terms = dict[str, tuple[float, Tensor]]  # weight and term [S], side by side; a weight of 0: a record


@dataclass(frozen=True)
class HelmVariant:
    """One training: its objective's name in OBJECTIVES, the weights of its penalties, its jumpy levels.

    lambda_dynamics: weight of its prediction error; None for the configuration's.
    """

    objective: str
    lambda_spectral: float = 0.0
    lambda_hf: float = 0.0
    strides: tuple[int, ...] = ()
    lambda_dynamics: float | None = None


def helm_variants(config: Exp4Config, position: int) -> dict[str, HelmVariant]:
    """Of the environment at a position of the configuration, all but the baseline: what its parts need."""
    variants = comparison_variants(config, position) if "comparison" in config.parts else {}
    variants.setdefault("unified", unified(config))
    strides = (config.coarse_stride,)
    if "penalty" in config.parts or "shape" in config.parts:
        weights = config.penalty_sweep if "penalty" in config.parts else (0.0,)
        variants |= {
            penalised(config.unified_spectral, weight): HelmVariant("qrl", weight, strides=strides)
            for weight in weights
        }
    if "reconcile" in config.parts and position == 0:
        variants |= reconciled(config)
    return variants


def unified(config: Exp4Config) -> HelmVariant:
    """What the repository recommends."""
    return HelmVariant("qrl", config.unified_spectral, strides=(config.coarse_stride,))


def penalised(unified_spectral: float, weight: float) -> str:
    """The variant's name of quasimetric RL with the penalty at a weight, one of which is `unified`'s."""
    return "unified" if weight == unified_spectral else f"qrl_penalty={weight:g}"


def reconciled(config: Exp4Config) -> dict[str, HelmVariant]:
    """Reconstruction with experiment 3's penalty, with 4's and without, at each weight of the dynamics."""
    return {
        f"reconstruction_dynamics={dynamics:g}_penalty={penalty:g}": HelmVariant(
            "reconstruction", penalty, strides=(config.coarse_stride,), lambda_dynamics=dynamics
        )
        for dynamics in config.dynamics_sweep
        for penalty in RECONCILED_PENALTIES
    }


def comparison_variants(config: Exp4Config, position: int) -> dict[str, HelmVariant]:
    """The two unified models everywhere; the objectives alone, and the 2x2's corners, where asked for."""
    strides = (config.coarse_stride,)
    planned = config.pillar_objectives if position < config.pillar_environments else ()
    alone = OBJECTIVES if position < config.objective_environments else planned
    variants = {
        name: HelmVariant(name, strides=strides if name in planned else ())
        for name in alone
        if name != "reconstruction"
    }
    variants["unified_published"] = HelmVariant("infonce", config.lambda_spectral, config.lambda_hf, strides)
    variants["unified"] = unified(config)
    if planned:
        for objective in ("reconstruction", *planned):
            variants[f"{objective}_spectral"] = HelmVariant(
                objective, config.lambda_spectral, strides=strides
            )
    return variants


def objective_terms(
    model: AlignedModel, objective: Objective, ahead: Prediction, step: int, config: Exp4Config
) -> Terms:
    """Weight and term [S] of each part of an objective; `step` is the prediction that is decoded."""
    batch, encoded, latents, predicted = ahead.batch, ahead.encoded, ahead.latents, ahead.predicted
    terms: Terms = {}
    if objective.reconstruction:
        term = reconstruction_loss(model.decoder, latents, predicted, batch, step)
        terms["reconstruction"] = (1.0, term)
    if objective.contrast:
        terms["contrast"] = (1.0, contrast_loss(objective, ahead, step, config.nce_temperature))
    if objective.metric == "qrl":
        term, records = qrl_loss(model, encoded, batch, config)
        terms["metric"] = (1.0, term)
        terms |= {name: (0.0, record) for name, record in records.items()}
    if objective.metric == "temporal":
        terms["metric"] = (1.0, temporal_distance_loss(model, encoded, batch, config.expectile))
    if objective.straight:
        terms["straight"] = (config.lambda_straight, straight_loss(encoded, batch))
    return terms


def penalty_terms(
    model: AlignedModel,
    variant: HelmVariant,
    ahead: Prediction,
    name: str,
    iteration: int,
    config: Exp4Config,
) -> Terms:
    """Weight and term [S] of each penalty and of the jumpy levels, with noise of the task `name`."""
    batch, latents, predicted = ahead.batch, ahead.latents, ahead.predicted
    start, actions = latents[:, :PENALISED, 0], batch.actions[:, :PENALISED, : config.rollout_steps]
    terms: Terms = {}
    if variant.strides:
        terms["jumpy"] = (1.0, jumpy_loss(model, latents, batch))
    if variant.lambda_spectral:
        probes = penalty_noise(start, config.seeds, f"{name}/probes/{iteration}")[None]
        terms["spectral"] = (variant.lambda_spectral, spectral_loss(model, start, actions[:, :, 0], probes))
    if variant.lambda_hf:
        delta = penalty_noise(actions, config.seeds, f"{name}/delta/{iteration}")
        ends = predicted[:, :PENALISED, -1]
        term = hf_loss(model, start, ends, actions, config.hf_noise_sigma * delta)
        terms["hf"] = (variant.lambda_hf, term)
    return terms


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
    objective = OBJECTIVES[variant.objective]
    own = variant.lambda_dynamics
    weight = config.lambda_dynamics if own is None else own
    model = make_model(task, config, objective, variant.strides).to(device)
    longest = max(config.rollout_steps, config.coarse_stride)
    sampler = BatchSampler(task, longest, config.pair_discount, device)

    def loss(iteration: int, draws: Sequence[torch.Generator]) -> dict[str, Tensor]:
        ahead = predict(model, sampler.draw(draws, config.batch_size), config.rollout_steps)
        step = iteration % config.rollout_steps  # the prediction that is decoded
        terms = {"dynamics": (weight, dynamics_loss(ahead.predicted, ahead.latents))}
        terms |= objective_terms(model, objective, ahead, step, config)
        terms |= penalty_terms(model, variant, ahead, task.name, iteration, config)
        return weighted_sum(terms)

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
