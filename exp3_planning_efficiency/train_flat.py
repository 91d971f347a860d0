"""Train the flat world model: reconstruction and dynamics.

    python train_flat.py [--preset full] [--environments Empty-16x16] ...

trains what run_experiment.py would, and leaves it where run_experiment.py finds it.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from common.config import EXP3_PRESETS, Exp3Config
from common.latent.training import fit_latent_model, weighted_sum
from common.minigrid.task import DATA_FIELDS, Task, check_environments, make_task
from common.run.cache import Checkpoint, reads_settings
from common.run.run import Run, run_training
from exp3_planning_efficiency.models import WorldModel, WorldModelLoss, make_model


@dataclass(frozen=True)
class FlatVariant:
    """There is one flat training; its siblings are in train_helm.py."""


@reads_settings(*DATA_FIELDS, "d_latent", "hidden_dim", "transition", "batch_size", "iterations",
      "learning_rate",
      "rollout_steps", "coarse_stride", "stride_sweep")  # fmt: skip
def train_flat(
    task: Task,
    *,
    variant: FlatVariant,
    config: Exp3Config,
    device: torch.device,
    checkpoint: Checkpoint | None = None,
    label: str = "flat",
) -> tuple[WorldModel, dict[str, Tensor]]:
    """The documents' baseline: reconstruction + dynamics mean squared error.

    Args:
        task: environment and walks.
        variant: nothing to choose.
        config: the fields named above.
        device: where to train.
        checkpoint: where to resume from and save to.
        label: names the training in the log.

    Returns:
        the ensemble [S members], and the training history (see common.training.fit).
    """
    model = make_model(task, config).to(device)
    world_model_loss = WorldModelLoss(task, config, device)

    def loss(iteration: int, draws: Sequence[torch.Generator]) -> dict[str, Tensor]:
        *_, terms = world_model_loss(model, iteration, draws)
        return weighted_sum(terms)

    return fit_latent_model(model, loss, task, config, label=label, checkpoint=checkpoint)


def train_flat_variants(run: Run, task: Task) -> dict[str, WorldModel]:
    """The flat model, by name."""
    return run.train_variants(train_flat, task.name, task, variants={"flat": FlatVariant()})


def train_all(run: Run) -> None:
    """The flat model of every environment."""
    for name in run.config.environments:
        train_flat_variants(run, make_task(name, run.config))


if __name__ == "__main__":
    run_training(
        "exp3_planning_efficiency", Path(__file__).parent, EXP3_PRESETS, train_all, check_environments
    )
