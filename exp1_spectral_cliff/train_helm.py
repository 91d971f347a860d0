"""Train HELM's macro models, and the ablations that say which of its parts does what.

    python train_helm.py [--preset full] [--systems lorenz] ...

trains what run_experiment.py would, and leaves it where run_experiment.py finds it.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from common.config import EXP1_PRESETS
from common.run.command_line import parse_command_line

CONFIG = parse_command_line(EXP1_PRESETS) if __name__ == "__main__" else None  # before torch is imported

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from common.config import Exp1Config
from common.run.cache import Checkpoint, reads_settings
from common.run.random import normal_like
from common.run.run import Experiment, Run, Training, main_training
from common.training.fit import fit
from exp1_spectral_cliff.dataset import (
    LorenzSystem,
    System,
    Trajectories,
    draw_windows,
    make_system,
    memory_needed,
    training_trajectories,
)
from exp1_spectral_cliff.models import HelmModel

CLIP_NORM = 1.0
LEAST_STEPS_ROLLED = 4  # rollouts of fewer macro steps are differentiated step by step
SMALLEST_BATCH = 64  # rollouts of many macro steps shrink the batch, not below this (or what was asked)


@dataclass(frozen=True)
class HelmVariant:
    """One setting of HELM's parts."""

    stride: int  # environment steps in a macro step
    rollouts: tuple[int, ...]  # macro steps of the training rollouts, in turn
    sigma: float  # noise on start state and actions
    bounded: bool = True  # latent within (-1, 1)


def helm_variants(config: Exp1Config) -> dict[str, HelmVariant]:
    """HELM, the coarser level of its cascade, and HELM with one part changed.

    The part `evaluations` alone needs the first, the part `switch` the first two.
    """
    helm = HelmVariant(config.coarse_stride, config.macro_rollouts, config.hf_noise_sigma)
    levels = {"helm": helm, "helm_coarse": replace(helm, stride=config.cascade_stride)}
    if "cliff" not in config.parts:
        return levels if "switch" in config.parts else {"helm": helm}
    same_length = tuple(count * config.coarse_stride for count in config.macro_rollouts)
    return levels | {
        "helm_n1": replace(helm, stride=1, rollouts=same_length),
        "helm_sigma0": replace(helm, sigma=0.0),
        "helm_unbounded": replace(helm, bounded=False),
        "helm_one_step": replace(helm, rollouts=(1,)),
        "helm_neither": replace(helm, rollouts=(1,), bounded=False),
    }


@reads_settings("seeds", "hidden_dim", "d_latent", "batch_size", "iterations", "learning_rate",
      "num_trajectories", "trajectory_length")  # fmt: skip
def train_helm(
    system: System,
    data: Trajectories,
    *,
    variant: HelmVariant,
    config: Exp1Config,
    device: torch.device,
    checkpoint: Checkpoint | None = None,
    label: str = "helm",
) -> tuple[nn.Module, dict[str, Tensor]]:
    """A macro model of every seed: E (1/K) sum_k ||D z_k - s_{kN}||^2 over rollouts of K macro steps.

    The rollout starts at s_0 + sigma e and takes actions a + sigma e', e and e' standard normal; its
    targets are the clean true states. The minimiser is E[s_{kN} | noisy input], the K-step map averaged
    over what the input may have been; where the data are spread evenly over sigma this is the map
    smoothed by a Gaussian (`analyze_spectrum.stein_bound`), elsewhere it is weighted by their density.

    Args:
        system: what is modelled.
        data: its training trajectories.
        variant: stride N, rollout lengths K, sigma, bounded latent. Those of one stride begin alike.
        config: the fields named above.
        device: where to train.
        checkpoint: where to resume from and save to.
        label: names the training in the log.

    Returns:
        the models of all seeds as one ensemble module, and the training history (see common.training.fit).
    """
    stream = f"{system.name}/helm"
    model = HelmModel(
        config.seeds, system.d_state, system.d_action, config.d_latent, config.hidden_dim,
        variant.stride, variant.bounded, stream,
    )  # fmt: skip
    model, data = model.to(device), data.to(device)

    def loss(iteration: int, draws: Sequence[torch.Generator]) -> dict[str, Tensor]:
        count = variant.rollouts[iteration % len(variant.rollouts)]
        batch = max(config.batch_size // count, min(config.batch_size, SMALLEST_BATCH))
        states, actions = draw_windows(data, draws, batch, count * variant.stride, variant.stride)
        start = states[:, :, 0] + variant.sigma * normal_like(states[:, :, 0], draws)
        actions = actions + variant.sigma * normal_like(actions, draws)
        blocks = actions.unflatten(2, (count, variant.stride)).flatten(3)
        predicted = model.decode(all_latents(model, model.encode(start), blocks))  # [S, K, B, d]
        errors = (predicted - states[:, :, 1:].transpose(1, 2)).square().sum(-1).mean(-1)  # [S, K]
        return {"loss": errors.mean(1), "first": errors[:, 0], "last": errors[:, -1]}

    history = fit(
        model,
        loss,
        seeds=config.seeds,
        iterations=config.iterations,
        learning_rate=config.learning_rate,
        label=label,
        stream=stream,
        clip_norm=CLIP_NORM,
        checkpoint=checkpoint,
    )
    return model, history


def all_latents(model: HelmModel, latents: Tensor, blocks: Tensor) -> Tensor:
    """Latents after every step: [S, B, D], [S, B, K, N d_a] -> [S, K, B, D].

    Of short rollouts autograd differentiates the steps one by one, which costs less than what `roll` sets up.
    """
    if blocks.shape[2] >= LEAST_STEPS_ROLLED:
        return model.roll(latents, blocks)
    found = []
    for block in blocks.unbind(2):
        latents = model.step(latents, block)
        found.append(latents)
    return torch.stack(found, 1)


def helm_trainings(system: System, data: Trajectories, config: Exp1Config) -> Training:
    """Every HELM variant of a system; none for the linear one, whose Jacobian no smoothing changes."""
    variants = helm_variants(config) if isinstance(system, LorenzSystem) else {}
    return Training(train_helm, system.name, (system, data), variants)


def train_all(run: Run) -> None:
    """The HELM variants of every system of the configuration."""
    for name in run.config.systems:
        system = make_system(name)
        run.train(helm_trainings(system, training_trajectories(system, run.config), run.config))


if __name__ == "__main__":
    alone = Experiment(
        "exp1_spectral_cliff", Path(__file__).parent, EXP1_PRESETS, train_all, memory=memory_needed
    )
    raise SystemExit(main_training(alone, CONFIG))
