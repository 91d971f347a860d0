"""Train HELM's world models: spectral penalty, HF invariance over actions, jumpy levels; and parts alone.

    python train_helm.py [--preset full] [--environments Empty-16x16] ...

trains what run_experiment.py would, and leaves it where run_experiment.py finds it.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from common.checkpoint import Checkpoint, uses
from common.config import EXP3_PRESETS, Exp3Config
from common.experiment import Run, run_training
from common.minigrid_task import DATA_FIELDS, Task, check_environments, make_task
from common.regularizers import hf_invariance, spectral_penalty_stochastic
from common.runtime import generators
from common.training import fit
from exp3_planning_efficiency.dataset import Batch, draw_batch, window_sampler
from exp3_planning_efficiency.models import WorldModel, make_model, reconstruction_and_dynamics

CLIP_NORM = 10.0
PENALISED = 64  # windows of a batch on which the penalties are taken
PROBES = 1  # random vectors of the spectral penalty's estimate


@dataclass(frozen=True)
class HelmArm:
    """One HELM training: weights of its penalties, and strides of its jumpy levels."""

    lambda_spectral: float = 0.0
    lambda_hf: float = 0.0
    strides: tuple[int, ...] = ()


def helm_arms(config: Exp3Config, with_ablation: bool) -> dict[str, HelmArm]:
    """Full HELM; for the ablation, each penalty alone."""
    strides = tuple(sorted({config.coarse_stride, *config.stride_sweep}))
    arms = {"helm": HelmArm(config.lambda_spectral, config.lambda_hf, strides)}
    if with_ablation:
        arms["spectral"] = HelmArm(lambda_spectral=config.lambda_spectral)
        arms["hf"] = HelmArm(lambda_hf=config.lambda_hf)
    return arms


def spectral_term(model: WorldModel, latents: Tensor, actions: Tensor, probes: Tensor) -> Tensor:
    """||dz'/dz||_F^2 + ||dz'/da||_F^2 of one step, estimated and averaged over [S, B]: [S]."""
    return spectral_penalty_stochastic(model.transition, latents, actions, probes).mean(-1)


def hf_term(model: WorldModel, latents: Tensor, actions: Tensor, noise: Tensor) -> Tensor:
    """(E(a) - E(a + delta))^2 of rollouts [S, B, K, A], E / d the distance to another window's state: [S].

    `latents` [S, B, d] are the starts; the goals are the same states, dealt to their neighbours.
    """
    goals = latents.roll(1, 1)
    both = model.transition.rollout(latents.repeat(1, 2, 1), torch.cat([actions, actions + noise], 1))
    energies = 0.5 * (both[:, :, -1] - goals.repeat(1, 2, 1)).square().mean(-1)
    return hf_invariance(*energies.chunk(2, 1)).mean(-1)


def jumpy_term(model: WorldModel, latents: Tensor, batch: Batch) -> Tensor:
    """Squared error of every jumpy level over its first macro step, averaged: [S]."""
    errors = []
    for stride in map(int, model.jumpy):
        predicted = model.jump(latents[:, :, 0], batch.actions[:, :, :stride], stride)[:, :, 0]
        errors.append((predicted - latents[:, :, stride].detach()).square().mean((1, 2)))
    return torch.stack(errors).mean(0)


@uses(*DATA_FIELDS, "d_latent", "hidden_dim", "transition", "batch_size", "iterations", "learning_rate",
      "rollout_steps", "coarse_stride", "stride_sweep",
      "hf_noise_sigma")  # fmt: skip
def train_helm(
    task: Task,
    *,
    arm: HelmArm,
    config: Exp3Config,
    device: torch.device,
    checkpoint: Checkpoint | None = None,
    label: str = "helm",
) -> tuple[WorldModel, dict[str, Tensor]]:
    """Reconstruction + dynamics + lambda_spectral spectral + lambda_hf HF + jumpy.

    Args:
        task: environment and walks.
        arm: weights and strides. Arms share initial weights and batches with each other and with flat.
        config: the fields named above.
        device: where to train.
        checkpoint: where to resume from and save to.
        label: names the training in the log.

    Returns:
        the ensemble [S members], and the training history (see common.training.fit).
    """
    model = make_model(task, config, arm.strides).to(device)
    steps = config.rollout_steps
    sampler = window_sampler(task, config)

    def normal(like: Tensor, name: str, iteration: int) -> Tensor:  # not from the batches' generators
        draws = generators(config.seeds, f"{task.name}/{name}/{iteration}")
        return torch.stack([torch.randn(like.shape[1:], generator=draw) for draw in draws]).to(device)

    def loss(iteration: int, draws: Sequence[torch.Generator]) -> dict[str, Tensor]:
        batch = draw_batch(task, sampler, draws, config.batch_size, device)
        latents, terms = reconstruction_and_dynamics(model, batch, steps, iteration % steps)
        start, actions = latents[:, :PENALISED, 0], batch.actions[:, :PENALISED, :steps]
        total = terms["reconstruction"] + terms["dynamics"]
        if arm.strides:
            terms["jumpy"] = jumpy_term(model, latents, batch)
            total = total + terms["jumpy"]
        if arm.lambda_spectral:
            probes = normal(start, "probes", iteration)[None]
            terms["spectral"] = spectral_term(model, start, actions[:, :, 0], probes)
            total = total + arm.lambda_spectral * terms["spectral"]
        if arm.lambda_hf:
            noise = config.hf_noise_sigma * normal(actions, "delta", iteration)
            terms["hf"] = hf_term(model, start, actions, noise)
            total = total + arm.lambda_hf * terms["hf"]
        return {"loss": total, **terms}

    history = fit(
        model,
        loss,
        seeds=config.seeds,
        iterations=config.iterations,
        learning_rate=config.learning_rate,
        label=label,
        stream=task.name,
        clip_norm=CLIP_NORM,
        checkpoint=checkpoint,
    )
    return model, history


def train_helm_arms(run: Run, task: Task, with_ablation: bool) -> dict[str, WorldModel]:
    """Full HELM and, where asked for, the ablation's arms, by name."""
    return run.train_arms(train_helm, task.name, task, arms=helm_arms(run.config, with_ablation))


def train_all(run: Run) -> None:
    """The models of every environment."""
    for position, name in enumerate(run.config.environments):
        train_helm_arms(run, make_task(name, run.config), position < run.config.study_environments)


if __name__ == "__main__":
    run_training(
        "exp3_planning_efficiency", Path(__file__).parent, EXP3_PRESETS, train_all, check_environments
    )
