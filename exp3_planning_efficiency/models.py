"""The world model of experiment 3: a latent model with a decoder, and the loss that all variants share.

Shapes: S seeds, B windows, K steps, d latent, F features.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from common.config import Exp3Config
from common.latent.model import LatentModel
from common.latent.observations import take
from common.latent.training import Windows, dynamics_loss, reconstruction_loss
from common.minigrid.task import Task
from common.training.ensembles import EnsembleMLP
from exp3_planning_efficiency.dataset import BatchSampler


class WorldModel(LatentModel):
    """LatentModel and a decoder [S, ..., d] -> standardised observations [S, ..., F]."""

    def __init__(self, seeds: Sequence[int], features: int, num_actions: int, **sizes):
        super().__init__(seeds, features, num_actions, **sizes)
        hidden_dim, d_latent = sizes["hidden_dim"], sizes["d_latent"]
        self.decoder = EnsembleMLP(seeds, [d_latent, hidden_dim, features], "decoder")


def make_model(task: Task, config: Exp3Config, strides: Sequence[int] = ()) -> WorldModel:
    """An untrained model of the configuration's size; what variants have in common starts the same."""
    return WorldModel(
        config.seeds,
        task.observations.shape[-1],
        task.world.num_actions,
        d_latent=config.d_latent,
        hidden_dim=config.hidden_dim,
        transition=config.transition,
        strides=strides,
    )


class WorldModelLoss:
    """Reconstruction and dynamics over a rollout of `rollout_steps` K steps: the loss of every variant."""

    def __init__(self, task: Task, config: Exp3Config, device: torch.device):
        self.sampler = BatchSampler(task, config, device)
        self.steps = config.rollout_steps

    def __call__(
        self, model: WorldModel, iteration: int, draws: Sequence[torch.Generator]
    ) -> tuple[Windows, Tensor, Tensor, dict[str, tuple[float, Tensor]]]:
        """A batch, its latents [S, B, K' + 1, d], K' >= K, those predicted [S, B, K, d], weighted terms."""
        batch = self.sampler.draw(draws)
        latents = take(model.encoder(batch.observations), batch.states)
        predicted = model.transition.rollout(latents[:, :, 0], batch.actions[:, :, : self.steps])
        shown = iteration % self.steps  # the prediction that is decoded
        terms = {
            "dynamics": (1.0, dynamics_loss(predicted, latents)),
            "reconstruction": (1.0, reconstruction_loss(model.decoder, latents, predicted, batch, shown)),
        }
        return batch, latents, predicted, terms
