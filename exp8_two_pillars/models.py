"""World models of experiment 8: a bounded latent, a transition over blocks of actions, a distance.

Shapes: S seeds, P problems, B batch, M latents of a problem, K steps of the model, N stride, D latent,
h metric, C pixels.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from common.config import Exp8Config
from common.objectives import (
    METRIC_GROUP_SIZE,
    METRIC_GROUPS,
    info_nce,
    lagrangian,
    qrl_log_weight,
    qrl_spread,
    qrl_violation,
    quasimetric,
)
from common.training.ensembles import EnsembleMLP
from exp8_two_pillars.dataset import Walks, draw_pairs, draw_windows
from exp8_two_pillars.world import World

BOUND = 3.0  # latents lie within (-BOUND, BOUND)
LATENT_SHARE = 0.3  # of the latents' mean squared difference beside a quasimetric, which can be flat
NCE_TEMPERATURE = 0.1  # of InfoNCE as published

# What trains the distance -> whether it has a head of its own.
METRICS = {"none": False, "infonce": True, "infonce_published": False, "qrl": True, "qrl_symmetric": True}
# Settings that every training reads.
MODEL_FIELDS = (
    "d_latent", "d_metric", "hidden_dim", "batch_size", "iterations", "learning_rate",
    "lambda_reconstruction", "lambda_metric", "num_pairs", "pair_discount", "longest_gap",
    "qrl_offset", "qrl_beta", "qrl_tolerance",
)  # fmt: skip


class WindModel(nn.Module):
    """z = f(enc(picture)), z' = f(z + MLP(z, N actions)), f(z) = 3 tanh(z / 3), picture = dec(z).

    The probe reads the position off a latent, for evaluation; no gradient of it reaches the latent.
    """

    def __init__(
        self,
        seeds: Sequence[int],
        d_picture: int,
        *,
        stride: int,
        bounded: bool,
        metric: str,
        d_latent: int,
        d_metric: int,
        hidden_dim: int,
    ):
        """`metric`: one of METRICS."""
        super().__init__()
        self.stride, self.bounded, self.metric = stride, bounded, metric
        wide = d_latent + 2 * stride
        self.encoder = EnsembleMLP(seeds, (d_picture, hidden_dim, hidden_dim, d_latent), "encoder")
        self.network = EnsembleMLP(seeds, (wide, hidden_dim, hidden_dim, d_latent), f"transition/{stride}")
        self.decoder = EnsembleMLP(seeds, (d_latent, hidden_dim, d_picture), "decoder")
        self.probe = EnsembleMLP(seeds, (d_latent, hidden_dim, 2), "probe")
        if METRICS[metric]:
            d_out = METRIC_GROUPS * METRIC_GROUP_SIZE if metric == "qrl" else d_metric
            self.head = EnsembleMLP(seeds, (d_latent, hidden_dim, d_out), "head")
        if metric.startswith("qrl"):
            self.dual = nn.Parameter(torch.zeros(len(seeds), 1))

    def _bound(self, latents: Tensor) -> Tensor:
        return BOUND * torch.tanh(latents / BOUND) if self.bounded else latents

    def encode(self, pictures: Tensor) -> Tensor:
        """[S, ..., C] -> [S, ..., D]."""
        return self._bound(self.encoder(pictures))

    def step(self, latents: Tensor, blocks: Tensor) -> Tensor:
        """One step of the model, N actions: [S, ..., D], [S, ..., 2 N] -> [S, ..., D]."""
        return self._bound(latents + self.network(torch.cat((latents, blocks), -1)))

    def step_jacobians(self, latents: Tensor, blocks: Tensor) -> tuple[Tensor, Tensor]:
        """dz'/dz [S, B, D, D] and dz'/da [S, B, D, 2 N] in closed form (see common/jacobian_utils.py)."""
        both, width = self.network.jacobian(torch.cat((latents, blocks), -1)), latents.shape[-1]
        state_jacobian, action_jacobian = both[..., :width] + torch.eye(width).to(latents), both[..., width:]
        if not self.bounded:
            return state_jacobian, action_jacobian
        slope = 1 - (self.step(latents, blocks) / BOUND).square().unsqueeze(-1)
        return slope * state_jacobian, slope * action_jacobian

    step.jacobians = step_jacobians

    def blocks(self, actions: Tensor) -> Tensor:
        """The actions of each step of the model: [S, B, K N, 2] -> [S, B, K, 2 N]."""
        return actions.unflatten(2, (-1, self.stride)).flatten(3)

    def roll(self, latents: Tensor, actions: Tensor) -> Tensor:
        """Latents after every step of the model: [S, B, D], [S, B, K N, 2] -> [S, B, K, D]."""
        found = []
        for block in self.blocks(actions).unbind(2):
            latents = self.step(latents, block)
            found.append(latents)
        return torch.stack(found, 2)

    def embed(self, latents: Tensor) -> Tensor:
        """What distances are taken in: [S, ..., D] -> [S, ..., h]."""
        return self.head(latents) if METRICS[self.metric] else latents

    def distance(self, points: Tensor, others: Tensor) -> Tensor:
        """From points to others; squared but where steps are learned: [S, ..., h] twice -> [S, ...]."""
        if self.metric == "qrl":
            return quasimetric(points, others)
        squared = (points - others).square().sum(-1)
        return (squared + 1e-6).sqrt() if self.metric == "qrl_symmetric" else squared

    def energy(self, latents: Tensor, goals: Tensor) -> Tensor:
        """How far a problem's latents are from its goal: [S, P, M, D], [S, P, D] -> [S, P, M].

        A quasimetric is flat where all its relus are off, so a little of the latents' own distance is added.
        """
        learned = self.distance(self.embed(latents), self.embed(goals)[:, :, None])
        if self.metric == "qrl":
            learned = learned + LATENT_SHARE * (latents - goals[:, :, None]).square().mean(-1)
        return learned


def make_model(
    world: World, config: Exp8Config, *, metric: str, stride: int = 1, bounded: bool = True, width: int = 1
) -> WindModel:
    """An untrained model of every seed, `width` times the configuration's hidden layers."""
    return WindModel(
        config.seeds, world.d_picture, stride=stride, bounded=bounded, metric=metric,
        d_latent=config.d_latent, d_metric=config.d_metric, hidden_dim=width * config.hidden_dim,
    )  # fmt: skip


# ----------------------------------------------------------------------------------------------
# Losses that every training has, each averaged over a batch: [S]
# ----------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Seen:
    """Windows as the model sees them: states [S, B, K + 1, s], their pictures, and the latents of these."""

    states: Tensor
    pictures: Tensor
    latents: Tensor


def see(model: WindModel, world: World, states: Tensor) -> Seen:
    """Draw the pictures of states, and encode them."""
    pictures = world.picture(states)
    return Seen(states, pictures, model.encode(pictures))


def reconstruction_loss(model: WindModel, seen: Seen) -> Tensor:
    """Mean squared error of the pictures."""
    return (model.decoder(seen.latents) - seen.pictures).square().mean((1, 2, 3))


def probe_loss(model: WindModel, seen: Seen) -> Tensor:
    """Mean squared error of the positions; it trains the probe alone."""
    return (model.probe(seen.latents.detach()) - seen.states[..., :2]).square().mean((1, 2, 3))


def metric_loss(
    model: WindModel, world: World, walks: Walks, draws: Sequence[torch.Generator], config: Exp8Config
) -> Tensor:
    """What trains the distance: InfoNCE or the Lagrangian of quasimetric RL."""
    longest = 1 if model.metric == "infonce_published" else config.longest_gap
    here, there = draw_pairs(walks, draws, config.num_pairs, config.pair_discount, longest)
    points, others = (model.embed(model.encode(world.picture(states))) for states in (here, there))
    own = torch.arange(config.num_pairs, device=points.device).expand(points.shape[:2])
    if model.metric == "infonce_published":
        return info_nce(points, others, own, NCE_TEMPERATURE).mean(1)
    if model.metric == "infonce":
        logits = -torch.cdist(points, others).square()  # the same both ways: either may be the query
        both = logits.log_softmax(1) + logits.log_softmax(2)
        return -0.5 * both.diagonal(dim1=1, dim2=2).mean(1)
    spread = qrl_spread(model.distance(points, others.roll(1, 1)), config.qrl_offset, config.qrl_beta)
    states, _ = draw_windows(walks, draws, config.num_pairs, 1)
    now, after = model.embed(model.encode(world.picture(states))).unbind(2)
    violation = qrl_violation(model.distance(now, after)).mean(1)
    log_weight = qrl_log_weight(model.dual[:, 0])
    return lagrangian(spread.mean(1), violation, log_weight, config.qrl_tolerance)
