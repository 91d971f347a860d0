"""Training latent world models on random walks: batches, the losses that experiments share, the fit.

Shapes: S seeds, B windows, K steps, U different states of a batch, d latent, F features, A actions.
Losses are averaged over the batch: [S].
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from common.config import MiniGridConfig
from common.latent.model import LatentModel
from common.minigrid.task import Task
from common.regularizers import hf_invariance, spectral_penalty_stochastic
from common.run.cache import Checkpoint
from common.run.random import generators
from common.training.fit import Loss, fit

Model = TypeVar("Model", bound=LatentModel)

CLIP_NORM = 10.0  # largest gradient norm of a member
PENALISED = 64  # windows of a batch on which the spectral and HF penalties are taken


# ----------------------------------------------------------------------------------------------
# Batches
# ----------------------------------------------------------------------------------------------


class WindowSampler:
    """Training windows of K steps, uniformly from all that the walks hold.

    Windows also begin after an episode's end, where a walk stays in its last state: a model that has not
    seen what follows an arrival leaves the goal again in long rollouts.
    """

    def __init__(self, task: Task, steps: int):
        self.walks, self.steps = task.walks, steps

    def draw(self, draws: Sequence[torch.Generator], count: int) -> tuple[Tensor, Tensor]:
        """`count` B windows a seed: states [S, B, K + 1] and actions [S, B, K], as indices."""
        offsets = torch.arange(self.steps + 1)
        states, actions = [], []
        for walk, draw in zip(self.walks, draws, strict=True):
            walks, length = walk.actions.shape
            index = torch.randint(walks, (count, 1), generator=draw)
            when = torch.randint(length - self.steps + 1, (count, 1), generator=draw) + offsets
            states.append(walk.states[index, when])
            actions.append(walk.actions[index, when[:, :-1]])
        return torch.stack(states), torch.stack(actions)


@dataclass(frozen=True)
class Windows:
    """A batch of windows. Each different state is encoded once: states are positions in their list."""

    observations: Tensor  # [S, U, F] of the different states
    states: Tensor  # [S, B, K + 1] int64
    actions: Tensor  # [S, B, K, A] one-hot


def draw_windows(
    task: Task, sampler: WindowSampler, draws: Sequence[torch.Generator], count: int, device: torch.device
) -> Windows:
    """`count` B windows a seed."""
    states, actions = sampler.draw(draws, count)
    different, positions = torch.unique(states, return_inverse=True)
    one_hot = F.one_hot(actions, task.world.num_actions).float()
    return Windows(task.observations[:, different].to(device), positions.to(device), one_hot.to(device))


def take(values: Tensor, positions: Tensor) -> Tensor:
    """values [S, U, D] at positions [S, ...] -> [S, ..., D]."""
    flat = positions.flatten(1)[..., None].expand(-1, -1, values.shape[-1])
    return values.gather(1, flat).view(*positions.shape, -1)


def penalty_noise(like: Tensor, seeds: Sequence[int], stream: str) -> Tensor:
    """Standard normal numbers [S, ...] from generators of their own.

    The batches' would be further along after a penalty than without: variants would draw different ones.
    """
    noise = torch.stack([torch.randn(like.shape[1:], generator=draw) for draw in generators(seeds, stream)])
    return noise.to(like.device)


# ----------------------------------------------------------------------------------------------
# Losses
# ----------------------------------------------------------------------------------------------


def dynamics_loss(predicted: Tensor, latents: Tensor) -> Tensor:
    """|z^_{t+k} - sg(z_{t+k})|^2 over steps and axes; predicted [S, B, K, d], latents [S, B, K' + 1, d].

    Without the stop-gradient sg the latents of different states draw together and, with nothing but a
    reconstruction to hold them apart, the one-step accuracy stays below 0.2.
    """
    steps = predicted.shape[2]
    return (predicted - latents[:, :, 1 : steps + 1].detach()).square().mean((1, 2, 3))


def reconstruction_loss(
    decoder: nn.Module, latents: Tensor, predicted: Tensor, batch: Windows, step: int
) -> Tensor:
    """Squared error of the decoder at the windows' first latents and at those predicted for step + 1.

    Decoding predictions keeps rollouts among the latents of states.
    """
    decoded = decoder(torch.cat([latents[:, :, 0], predicted[:, :, step]], 1))
    shown = torch.cat([batch.states[:, :, 0], batch.states[:, :, step + 1]], 1)
    return (decoded - take(batch.observations, shown)).square().mean((1, 2))


def jumpy_loss(model: LatentModel, latents: Tensor, batch: Windows) -> Tensor:
    """Squared error of every jumpy level over its first macro step, averaged; no gradient to `latents`."""
    latents = latents.detach()
    errors = []
    for stride in map(int, model.jumpy):
        predicted = model.jump(latents[:, :, 0], batch.actions[:, :, :stride], stride)[:, :, 0]
        errors.append((predicted - latents[:, :, stride]).square().mean((1, 2)))
    return torch.stack(errors).mean(0)


def spectral_loss(model: LatentModel, latents: Tensor, actions: Tensor, probes: Tensor) -> Tensor:
    """||dz'/dz||_F^2 + ||dz'/da||_F^2 of one step from [S, B, d], estimated from probes [P, S, B, d]."""
    return spectral_penalty_stochastic(model.transition, latents, actions, probes).mean(-1)


def hf_loss(model: LatentModel, latents: Tensor, actions: Tensor, noise: Tensor) -> Tensor:
    """(E(a) - E(a + delta))^2 of rollouts [S, B, K, A] from latents [S, B, d].

    E = ||z_K - z_g||^2 / 2d, the documents' energy per latent axis; goals are the same states, dealt round.
    """
    goals = latents.roll(1, 1).repeat(1, 2, 1)
    both = model.transition.rollout(latents.repeat(1, 2, 1), torch.cat([actions, actions + noise], 1))
    energies = 0.5 * (both[:, :, -1] - goals).square().mean(-1)
    return hf_invariance(*energies.chunk(2, 1)).mean(-1)


# ----------------------------------------------------------------------------------------------
# Fit
# ----------------------------------------------------------------------------------------------


def fit_latent_model(
    model: Model,
    loss: Loss,
    task: Task,
    config: MiniGridConfig,
    *,
    label: str,
    checkpoint: Checkpoint | None,
) -> tuple[Model, dict[str, Tensor]]:
    """The model after `config.iterations` steps, and the training history (see common.training.fit)."""
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
