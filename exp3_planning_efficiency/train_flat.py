"""Train the flat world model: reconstruction and dynamics.

    python train_flat.py [--preset full] [--environments Empty-16x16] ...

trains what run_experiment.py would, and leaves it where run_experiment.py finds it.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from common.config import EXP3_PRESETS
from common.run.command_line import parse_command_line

CONFIG = parse_command_line(EXP3_PRESETS) if __name__ == "__main__" else None  # before torch is imported

from collections.abc import Sequence

import torch
from torch import Tensor

from common.config import Exp3Config
from common.latent.memory import memory_needed
from common.latent.training import fit_latent_model, weighted_sum
from common.minigrid.task import DATA_FIELDS, Task, check_environments, make_task
from common.run.cache import Checkpoint, reads_settings
from common.run.run import Experiment, Run, Training, main_training
from exp3_planning_efficiency.models import WorldModel, WorldModelLoss, make_model


@reads_settings(*DATA_FIELDS, "d_latent", "hidden_dim", "transition", "batch_size", "iterations",
      "learning_rate",
      "rollout_steps", "coarse_stride", "stride_sweep")  # fmt: skip
def train_flat(
    task: Task,
    *,
    variant: None,
    config: Exp3Config,
    device: torch.device,
    checkpoint: Checkpoint | None = None,
    label: str = "flat",
) -> tuple[WorldModel, dict[str, Tensor]]:
    """The documents' baseline: reconstruction + dynamics mean squared error.

    Args:
        task: environment and walks.
        variant: none; its siblings are in train_helm.py.
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


def flat_trainings(task: Task) -> Training:
    """The flat model."""
    return Training(train_flat, task.name, (task,), {"flat": None})


def train_all(run: Run) -> None:
    """The flat model of every environment."""
    for name in run.config.environments:
        run.train(flat_trainings(make_task(name, run.config)))


if __name__ == "__main__":
    alone = Experiment(
        "exp3_planning_efficiency", Path(__file__).parent, EXP3_PRESETS, train_all,
        check=check_environments, memory=memory_needed,
    )  # fmt: skip
    raise SystemExit(main_training(alone, CONFIG))
