"""The world model of experiment 4, its distances, and the losses that objectives are made of.

Shapes: S seeds, B windows, K steps, U states listed in a batch, d latent, h metric, F features, A actions.
"""

import copy
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from common.config import Exp4Config
from common.latent.model import LatentModel, squared_distances
from common.latent.observations import take
from common.minigrid.task import Task
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
from exp4_contrastive_fix.dataset import Batch
from exp4_contrastive_fix.objectives import expectile_loss, straightening

GOAL_IDENTITY = 0.3  # [steps], of latents at right angles, where 1/2 ||z - z'||^2 = d
ROOT_ROUNDING = 1e-2  # of a square root's cusp at the goal; latents are sqrt(d) long
PAIRS_A_START = 4  # random targets for each start, in quasimetric RL


@dataclass(frozen=True)
class Objective:
    """What a latent is trained for, beside its dynamics.

    contrast: InfoNCE of z_t with z_{t+1} ("next"), of z_t with z_{t+k} ("later"), or of the predicted latent
        with the true one ("predicted"); "" for none.
    metric: what trains the distance, "qrl" or "temporal"; "" for nothing.
    distance: "latent", which is ||z - z'||, or with a head of its own "symmetric" or "quasimetric".
    """

    reconstruction: bool = False
    contrast: str = ""
    metric: str = ""
    distance: str = "latent"
    straight: bool = False


OBJECTIVES = {
    "reconstruction": Objective(reconstruction=True),
    "infonce": Objective(contrast="next"),
    "infonce_geometric": Objective(contrast="later"),
    "next_state": Objective(contrast="predicted"),
    "qrl_symmetric": Objective(contrast="predicted", metric="qrl", distance="symmetric"),
    "qrl": Objective(contrast="predicted", metric="qrl", distance="quasimetric"),
    "temporal_distance": Objective(contrast="predicted", metric="temporal", distance="quasimetric"),
    "straightening": Objective(contrast="predicted", straight=True),
}


class AlignedModel(LatentModel):
    """LatentModel with a decoder or a distance of its own, as its objective needs.

    A distance that is not the latents' own is taken between h(z) and h(z'), h a perceptron.
    """

    def __init__(self, seeds: Sequence[int], features: int, num_actions: int, objective: Objective, **sizes):
        super().__init__(seeds, features, num_actions, **sizes)
        hidden_dim, d_latent = sizes["hidden_dim"], sizes["d_latent"]
        self.distance_name = objective.distance
        if objective.reconstruction:
            self.decoder = EnsembleMLP(seeds, [d_latent, hidden_dim, features], "decoder")
        if objective.distance != "latent":
            self.head = EnsembleMLP(seeds, [d_latent, hidden_dim, METRIC_GROUPS * METRIC_GROUP_SIZE], "head")
        if objective.metric == "qrl":
            self.dual = nn.Parameter(torch.zeros(len(seeds), 1))

    def embed(self, latents: Tensor) -> Tensor:
        """[S, ..., d] -> [S, ..., h]."""
        return super().embed(latents) if self.distance_name == "latent" else self.head(latents)

    def distance(self, points: Tensor, others: Tensor) -> Tensor:
        """In steps, if it has learned them: [S, ..., h] -> [S, ...]."""
        if self.distance_name == "quasimetric":
            return quasimetric(points, others)
        return super().distance(points, others)

    def energy(self, latents: Tensor, goals: Tensor) -> Tensor:
        """Distance to the nearest goal; the latents' own as 1/2 ||z - z_g||^2: [S, ..., d] -> [S, ...].

        A learned quasimetric can be 0 from a state that is no goal. Its relus are all off there, so no
        gradient lifts it, and planners stay: a false goal. So what tells states apart, their latents, is
        added: GOAL_IDENTITY steps where they are at right angles, nothing at the goal, which lies lower then.
        (The symmetric distance is flat nowhere but where h is the goal's.)
        """
        if self.distance_name == "latent":
            return super().energy(latents, goals)
        flat = latents.flatten(1, -2)
        steps = self.distance(self.embed(flat)[:, :, None], self.embed(goals)[:, None])  # [S, M, G]
        if self.distance_name == "quasimetric":
            steps = steps + GOAL_IDENTITY * squared_distances(flat, goals) / self.d_latent
        return steps.amin(-1).view(latents.shape[:-1])


class RootEnergyModel(AlignedModel):
    """Plans by ||z - z_g|| where the model would by 1/2 ||z - z_g||^2: the same order, another shape."""

    @classmethod
    def of(cls, model: AlignedModel) -> "RootEnergyModel":
        """A copy of a trained model whose distance is its latents' own."""
        root = copy.deepcopy(model)
        root.__class__ = cls
        return root

    def energy(self, latents: Tensor, goals: Tensor) -> Tensor:
        """Distance to the nearest goal, rounded off within ROOT_ROUNDING of it: [S, ..., d] -> [S, ...]."""
        return (2 * super().energy(latents, goals) + ROOT_ROUNDING**2).sqrt() - ROOT_ROUNDING


def make_model(task: Task, config: Exp4Config, objective: Objective, strides: Sequence[int]) -> AlignedModel:
    """An untrained model of the configuration's size; what variants have in common starts the same."""
    return AlignedModel(
        config.seeds,
        task.observations.shape[-1],
        task.world.num_actions,
        objective,
        d_latent=config.d_latent,
        hidden_dim=config.hidden_dim,
        transition=config.transition,
        strides=strides,
    )


@dataclass(frozen=True)
class Prediction:
    """A batch, and what the model makes of it."""

    batch: Batch
    encoded: Tensor  # [S, U, d], latents of the states listed in the batch
    latents: Tensor  # [S, B, K' + 1, d], those of the windows
    predicted: Tensor  # [S, B, K, d], from each window's first latent and actions, K <= K'


def predict(model: AlignedModel, batch: Batch, steps: int) -> Prediction:
    """Encode the batch, and predict `steps` K steps of its windows."""
    encoded = model.encoder(batch.observations)
    latents = take(encoded, batch.states)
    return Prediction(
        batch, encoded, latents, model.transition.rollout(latents[:, :, 0], batch.actions[:, :, :steps])
    )


# ----------------------------------------------------------------------------------------------
# Losses, each averaged over a batch: [S]
# ----------------------------------------------------------------------------------------------


def contrast_loss(objective: Objective, ahead: Prediction, step: int, temperature: float) -> Tensor:
    """InfoNCE whose keys are the batch's different states, each once.

    No state is thus positive and negative of one query; for "next" and "later" the query's own state is among
    the negatives. For "predicted" the queries are the latents predicted for `step` + 1.
    """
    batch, encoded, predicted = ahead.batch, ahead.encoded, ahead.predicted
    if objective.contrast == "predicted":
        queries, positives = predicted[:, :, step], batch.states[:, :, step + 1]
    elif objective.contrast == "next":
        queries, positives = take(encoded, batch.states[:, :, 0]), batch.states[:, :, 1]
    else:
        queries, positives = take(encoded, batch.pairs[:, :, 0]), batch.pairs[:, :, 1]
    return info_nce(queries, encoded, positives, temperature, batch.own).mean(-1)


def qrl_loss(
    model: AlignedModel, encoded: Tensor, batch: Batch, config: Exp4Config
) -> tuple[Tensor, dict[str, Tensor]]:
    """The Lagrangian of quasimetric RL; as records the `violation` of d(s, s') <= 1 and its `weight`.

    Targets are pushed away from states of running episodes (a pair's first), not from ended ones: nothing is
    reached from those, and pushing everything away from them takes what the head needs near the goal.
    """
    points = model.embed(encoded)
    now, after = take(points, batch.states[:, :, :-1]), take(points, batch.states[:, :, 1:])
    violation = qrl_violation(model.distance(now, after)).mean((1, 2))
    targets = take(points, batch.targets)
    dealt = torch.stack([targets.roll(shift, 1) for shift in range(PAIRS_A_START)], 2)
    apart = model.distance(take(points, batch.pairs[:, :, :1]), dealt)
    spread = qrl_spread(apart, config.qrl_offset, config.qrl_beta).mean((1, 2))
    log_weight = qrl_log_weight(model.dual[:, 0])
    metric = lagrangian(spread, violation, log_weight, config.qrl_tolerance)
    return metric, {"violation": violation, "weight": log_weight.exp()}


def temporal_distance_loss(model: AlignedModel, encoded: Tensor, batch: Batch, expectile: float) -> Tensor:
    """Expectile regression of the steps that a walk took between two of its states."""
    points = model.embed(encoded)
    start, end = take(points, batch.pairs).unbind(2)
    return expectile_loss(batch.gap - model.distance(start, end), expectile).mean(1)


def straight_loss(encoded: Tensor, batch: Batch) -> Tensor:
    """Temporal straightening of the encoded windows."""
    return straightening(take(encoded, batch.states)).mean((1, 2))
