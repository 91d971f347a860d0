"""Training latent world models on random walks: batches, the losses that experiments share, the fit.

Shapes: S seeds, B windows, K steps, U states listed in a batch, d latent, F features, A actions.
Losses are averaged over the batch: [S].
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

import torch
from torch import Tensor

from common.config import MiniGridConfig
from common.latent.model import LatentModel
from common.latent.observations import Observations
from common.minigrid.task import Task
from common.regularizers import hf_invariance, spectral_penalty_stochastic
from common.run.cache import Checkpoint
from common.run.random import generators
from common.training.ensembles import EnsembleMLP
from common.training.fit import Loss, fit

Model = TypeVar("Model", bound=LatentModel)

CLIP_NORM = 10.0  # largest gradient norm of a member
ROWS = 64  # lists of states are as long as a multiple of it: sums then round the same in any company
PENALISED = 64  # windows of a batch on which the spectral and HF penalties are taken


# ----------------------------------------------------------------------------------------------
# Batches
# ----------------------------------------------------------------------------------------------


class WindowSampler:
    """Training windows of K steps, uniformly from all that the walks hold.

    Windows also begin after an episode's end, where a walk stays in its last state: a model that has not
    seen what follows an arrival leaves the goal again in long rollouts.
    """

    def __init__(self, task: Task, steps: int, device: torch.device):
        self.steps, self.device = steps, device
        self.states = torch.stack([walk.states for walk in task.walks]).to(device)  # [S, W, L + 1]
        self.actions = torch.stack([walk.actions for walk in task.walks]).to(device)  # [S, W, L]
        self.one_hot = torch.eye(task.world.num_actions, device=device)
        self.members = torch.arange(len(task.walks), device=device)[:, None, None]
        self.offsets = torch.arange(steps + 1, device=device)

    def draw(self, draws: Sequence[torch.Generator], count: int) -> tuple[Tensor, Tensor]:
        """`count` B windows a seed: states [S, B, K + 1] and actions [S, B, K], as indices."""
        walks, length = self.actions.shape[1:]
        begins = []  # walk and step of each window
        for draw in draws:
            walk = torch.randint(walks, (count, 1), generator=draw)
            begins.append([walk, torch.randint(length - self.steps + 1, (count, 1), generator=draw)])
        walk, begin = (torch.stack(parts).to(self.device) for parts in zip(*begins, strict=True))
        when = begin + self.offsets
        return self.states[self.members, walk, when], self.actions[self.members, walk, when[..., :-1]]


@dataclass(frozen=True)
class Windows:
    """A batch of windows: states are positions in one list of observations."""

    observations: Observations  # of U states
    states: Tensor  # [S, B, K + 1] int64
    choices: Tensor  # [S, B, K] int64: actions
    actions: Tensor  # [S, B, K, A]: the same, one-hot


def list_states(table: Observations, drawn: Tensor) -> tuple[Observations, Tensor, Tensor]:
    """What to encode of a table of N states so that each drawn state [S, B, C] is encoded once.

    All N states where a batch may draw as many; else those that a member drew, in their order, filled up to
    a number of rows U. On the cpu that is the next multiple of ROWS; elsewhere to count them would wait for
    the device, and U is B C.

    Returns:
        observations: of U states; positions: of the draws in them, [S, B, C]; own: [S, U] bool, which of
        them a member drew itself, each of its states once.
    """
    flat, (members, states, _) = drawn.flatten(1), table.shape
    met = torch.zeros(members, states, dtype=torch.bool, device=flat.device).scatter_(1, flat, True)
    if states <= flat.shape[1]:
        return table, drawn, met
    positions = (met.cumsum(1) - 1).gather(1, flat)
    count = met.sum(1)
    rows = flat.shape[1]
    if flat.device.type == "cpu":
        rows = ROWS * math.ceil(int(count.max()) / ROWS)
    listed = flat.new_zeros(members, rows).scatter_(1, positions, flat)
    own = torch.arange(rows, device=flat.device) < count[:, None]
    return table.select(listed), positions.view_as(drawn), own


def draw_windows(
    table: Observations, sampler: WindowSampler, draws: Sequence[torch.Generator], count: int
) -> Windows:
    """`count` B windows a seed."""
    states, actions = sampler.draw(draws, count)
    listed, positions, _ = list_states(table, states)
    return Windows(listed, positions, actions, sampler.one_hot[actions])


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
    decoder: EnsembleMLP, latents: Tensor, predicted: Tensor, batch: Windows, step: int
) -> Tensor:
    """Squared error of the decoder at the windows' first latents and at those predicted for step + 1.

    Decoding predictions keeps rollouts among the latents of states.
    """
    hidden = torch.cat([latents[:, :, 0], predicted[:, :, step]], 1)
    for layer in decoder.layers[:-1]:
        hidden = decoder.activation(layer(hidden))
    shown = torch.cat([batch.states[:, :, 0], batch.states[:, :, step + 1]], 1)
    return batch.observations.select(shown).squared_error(hidden, decoder.layers[-1])


def jumpy_loss(model: LatentModel, latents: Tensor, batch: Windows) -> Tensor:
    """Squared error of every jumpy level over its first macro step, averaged; no gradient to `latents`."""
    latents = latents.detach()
    errors = []
    for name, jumpy in model.jumpy.items():
        stride = int(name)
        predicted = jumpy.of_choices(latents[:, :, 0], batch.choices[:, :, :stride])
        errors.append((predicted - latents[:, :, stride]).square().mean((1, 2)))
    return torch.stack(errors).mean(0)


def spectral_loss(model: LatentModel, latents: Tensor, actions: Tensor, probes: Tensor) -> Tensor:
    """||dz'/dz||_F^2 + ||dz'/da||_F^2 of one step from [S, B, d], estimated from probes [P, S, B, d]."""
    return spectral_penalty_stochastic(model.transition, latents, actions, probes).mean(-1)


def hf_loss(model: LatentModel, latents: Tensor, predicted: Tensor, actions: Tensor, noise: Tensor) -> Tensor:
    """(E(a) - E(a + delta))^2 of rollouts [S, B, K, A] from latents [S, B, d]; those of a end at predicted.

    predicted: [S, B, d]. E = ||z_K - z_g||^2 / 2d, the documents' energy per latent axis; goals are the same
    states, dealt round.
    """
    goals = latents.roll(1, 1)
    perturbed = model.transition.rollout(latents, actions + noise)[:, :, -1]
    centre, beside = (0.5 * (end - goals).square().mean(-1) for end in (predicted, perturbed))
    return hf_invariance(centre, beside).mean(-1)


def weighted_sum(terms: Mapping[str, tuple[float, Tensor]]) -> dict[str, Tensor]:
    """`loss`, the sum of weight times term, and the terms by name; a term of weight 0 is a record."""
    total = sum(weight * term for weight, term in terms.values() if weight)
    return {"loss": total} | {name: term for name, (_, term) in terms.items()}


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
