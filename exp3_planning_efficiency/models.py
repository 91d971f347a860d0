"""The world model of experiment 3: a latent model with a decoder, and the loss that all arms share.

Shapes: S seeds, U states, B windows, K steps, d latent, F features, A actions.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from common.config import Exp3Config
from common.minigrid_task import Task
from common.networks import EnsembleMLP
from common.world_model import LatentModel
from exp3_planning_efficiency.dataset import Batch, take


class WorldModel(LatentModel):
    """LatentModel and a decoder [S, ..., d] -> standardised observations [S, ..., F]."""

    def __init__(self, seeds: Sequence[int], features: int, num_actions: int, **sizes):
        super().__init__(seeds, features, num_actions, **sizes)
        hidden_dim, d_latent = sizes["hidden_dim"], sizes["d_latent"]
        self.decoder = EnsembleMLP(seeds, [d_latent, hidden_dim, features], "decoder")


def make_model(task: Task, config: Exp3Config, strides: Sequence[int] = ()) -> WorldModel:
    """An untrained model of the configuration's size; what arms have in common starts the same."""
    return WorldModel(
        config.seeds,
        task.observations.shape[-1],
        task.world.num_actions,
        d_latent=config.d_latent,
        hidden_dim=config.hidden_dim,
        transition=config.transition,
        strides=strides,
    )


def reconstruction_and_dynamics(
    model: WorldModel, batch: Batch, steps: int, decoded_step: int
) -> tuple[Tensor, dict[str, Tensor]]:
    """The world-model loss of every arm, from a rollout of `steps` K steps.

    dynamics: |z^_{t+k} - sg(z_{t+k})|^2, averaged over steps and axes. Without the stop-gradient sg the
    latents of different states draw together and the one-step accuracy stays below 0.2.
    reconstruction: squared error of the decoder, at the encoded latents and at those predicted for
    `decoded_step`, which keeps rollouts among the latents of states.

    Returns:
        latents [S, B, K' + 1, d] of the batch's windows (K' >= K), and the two terms [S].
    """
    latents = take(model.encoder(batch.observations), batch.states)
    start, targets = latents[:, :, 0], latents[:, :, 1 : steps + 1].detach()
    predicted = model.transition.rollout(start, batch.actions[:, :, :steps])
    decoded = model.decoder(torch.cat([start, predicted[:, :, decoded_step]], 1))
    shown = torch.cat([batch.states[:, :, 0], batch.states[:, :, decoded_step + 1]], 1)
    terms = {
        "dynamics": (predicted - targets).square().mean((1, 2, 3)),
        "reconstruction": (decoded - take(batch.observations, shown)).square().mean((1, 2)),
    }
    return latents, terms
