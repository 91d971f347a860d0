"""World models of experiment 8: a bounded latent, a transition over blocks of actions, a distance.

Shapes: S seeds, B batch, K steps of the model, N stride, D latent, h metric, P pixels.
"""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from common.objectives import METRIC_GROUP_SIZE, quasimetric
from common.training.ensembles import EnsembleMLP

BOUND = 3.0  # latents lie within (-BOUND, BOUND)
METRIC_GROUPS = 8  # of METRIC_GROUP_SIZE dimensions each, in the quasimetric
LATENT_WEIGHT = 0.1  # of the latents' own distance beside a quasimetric, which can be flat


class WindModel(nn.Module):
    """z = f(enc(picture)), z' = f(z + MLP(z, N actions)), f(z) = 3 tanh(z / 3), picture = dec(z).

    distance: what tells how far a goal is: "latent", ||z - z'||^2; "infonce", the squared distance of a head
    psi; "qrl_symmetric", the distance of a head; "qrl", a quasimetric of one.
    """

    def __init__(
        self,
        seeds: Sequence[int],
        d_picture: int,
        *,
        stride: int = 1,
        bounded: bool = True,
        distance: str = "latent",
        d_latent: int = 32,
        d_metric: int = 16,
        hidden_dim: int = 128,
    ):
        super().__init__()
        self.stride, self.bounded, self.distance_name = stride, bounded, distance
        wide = d_latent + 2 * stride
        self.encoder = EnsembleMLP(seeds, (d_picture, hidden_dim, hidden_dim, d_latent), "encoder")
        self.network = EnsembleMLP(seeds, (wide, hidden_dim, hidden_dim, d_latent), f"transition/{stride}")
        self.decoder = EnsembleMLP(seeds, (d_latent, hidden_dim, d_picture), "decoder")
        self.probe = EnsembleMLP(seeds, (d_latent, hidden_dim, 2), "probe")
        if distance != "latent":
            out = METRIC_GROUPS * METRIC_GROUP_SIZE if distance == "qrl" else d_metric
            self.head = EnsembleMLP(seeds, (d_latent, hidden_dim, out), "head")
        if distance.startswith("qrl"):
            self.dual = nn.Parameter(torch.zeros(len(seeds), 1))

    def _bound(self, latents: Tensor) -> Tensor:
        return BOUND * torch.tanh(latents / BOUND) if self.bounded else latents

    def encode(self, pictures: Tensor) -> Tensor:
        """[S, ..., P] -> [S, ..., D]."""
        return self._bound(self.encoder(pictures))

    def step(self, latents: Tensor, blocks: Tensor) -> Tensor:
        """One step of the model, N actions: [S, ..., D], [S, ..., 2 N] -> [S, ..., D]."""
        return self._bound(latents + self.network(torch.cat((latents, blocks), -1)))

    def step_jacobians(self, latents: Tensor, blocks: Tensor) -> tuple[Tensor, Tensor]:
        """dz'/dz [S, B, D, D] and dz'/da [S, B, D, 2 N] in closed form (common/jacobian_utils.py)."""
        both, width = self.network.jacobian(torch.cat((latents, blocks), -1)), latents.shape[-1]
        both = torch.cat((both[..., :width] + torch.eye(width).to(latents), both[..., width:]), -1)
        if self.bounded:
            both = (1 - (self.step(latents, blocks) / BOUND).square()).unsqueeze(-1) * both
        return both[..., :width], both[..., width:]

    step.jacobians = step_jacobians

    def roll(self, latents: Tensor, actions: Tensor) -> Tensor:
        """Latents after every step of the model: [S, B, D], [S, B, K N, 2] -> [S, B, K, D]."""
        found = []
        for block in actions.unflatten(2, (-1, self.stride)).flatten(3).unbind(2):
            latents = self.step(latents, block)
            found.append(latents)
        return torch.stack(found, 2)

    def embed(self, latents: Tensor) -> Tensor:
        """What distances are taken in: [S, ..., D] -> [S, ..., h]."""
        return latents if self.distance_name == "latent" else self.head(latents)

    def distance(self, points: Tensor, others: Tensor) -> Tensor:
        """From points to others: [S, ..., h], [S, ..., h] -> [S, ...]."""
        if self.distance_name == "qrl":
            return quasimetric(points, others)
        squared = (points - others).square().sum(-1)
        return (squared + 1e-6).sqrt() if self.distance_name == "qrl_symmetric" else squared

    def energy(self, latents: Tensor, goals: Tensor) -> Tensor:
        """How far the goals' latents are: [S, ..., D] twice -> [S, ...].

        A quasimetric is flat where all its relus are off, so the latents' own distance is added to it.
        """
        learned = self.distance(self.embed(latents), self.embed(goals))
        if self.distance_name == "qrl":
            learned = learned + LATENT_WEIGHT * (latents - goals).square().mean(-1)
        return learned


Readout = Callable[[Tensor], Tensor]
