"""Train the baseline: reconstruction and dynamics, a latent whose distance nobody asked for.

    python train_flat.py [--preset full] [--environments Empty-16x16] ...

trains what run_experiment.py would, and leaves it where run_experiment.py finds it.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from common.config import EXP4_PRESETS
from common.run.command_line import parse_command_line

CONFIG = parse_command_line(EXP4_PRESETS) if __name__ == "__main__" else None  # before torch is imported

from collections.abc import Sequence

import torch
from torch import Tensor

from common.config import Exp4Config
from common.latent.memory import memory_needed
from common.latent.training import (
    dynamics_loss,
    fit_latent_model,
    jumpy_loss,
    reconstruction_loss,
    weighted_sum,
)
from common.minigrid.task import DATA_FIELDS, Task, check_environments, make_task
from common.run.cache import Checkpoint, reads_settings
from common.run.run import Experiment, Run, Training, main_training
from exp4_contrastive_fix.dataset import BatchSampler
from exp4_contrastive_fix.models import OBJECTIVES, AlignedModel, make_model, predict


@reads_settings(*DATA_FIELDS, "d_latent", "hidden_dim", "transition", "batch_size", "iterations",
      "learning_rate",
      "rollout_steps", "coarse_stride", "lambda_dynamics", "pair_discount")  # fmt: skip
def train_flat(
    task: Task,
    *,
    variant: None,
    config: Exp4Config,
    device: torch.device,
    checkpoint: Checkpoint | None = None,
    label: str = "reconstruction",
) -> tuple[AlignedModel, dict[str, Tensor]]:
    """Reconstruction + lambda_dynamics dynamics; a jumpy level on the finished latents.

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
    model = make_model(task, config, OBJECTIVES["reconstruction"], (config.coarse_stride,)).to(device)
    longest = max(config.rollout_steps, config.coarse_stride)
    sampler = BatchSampler(task, longest, config.pair_discount, device)

    def loss(iteration: int, draws: Sequence[torch.Generator]) -> dict[str, Tensor]:
        ahead = predict(model, sampler.draw(draws, config.batch_size), config.rollout_steps)
        batch, latents, predicted = ahead.batch, ahead.latents, ahead.predicted
        step = iteration % config.rollout_steps  # the prediction that is decoded
        terms = {
            "dynamics": (config.lambda_dynamics, dynamics_loss(predicted, latents)),
            "reconstruction": (
                1.0,
                reconstruction_loss(model.decoder, latents, predicted, batch, step),
            ),
            "jumpy": (1.0, jumpy_loss(model, latents, batch)),
        }
        return weighted_sum(terms)

    return fit_latent_model(model, loss, task, config, label=label, checkpoint=checkpoint)


def flat_trainings(task: Task) -> Training:
    """The baseline, by the name of its objective."""
    return Training(train_flat, task.name, (task,), {"reconstruction": None})


def train_all(run: Run) -> None:
    """The baseline of every environment."""
    for name in run.config.environments:
        run.train(flat_trainings(make_task(name, run.config)))


if __name__ == "__main__":
    alone = Experiment(
        "exp4_contrastive_fix", Path(__file__).parent, EXP4_PRESETS, train_all,
        check=check_environments, memory=memory_needed,
    )  # fmt: skip
    raise SystemExit(main_training(alone, CONFIG))
