"""Train a quasimetric head on the finished latents of the baseline: the metric apart from the latent.

    python train_head.py [--preset full] [--environments Empty-16x16] ...

trains the baseline and the head as run_experiment.py would for the part `shape`, and leaves them where
run_experiment.py finds them.
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
from common.latent.training import fit_latent_model, weighted_sum
from common.minigrid.task import DATA_FIELDS, Task, check_environments, make_task
from common.run.cache import Checkpoint, reads_settings
from common.run.run import Experiment, Run, Training, main_training
from exp4_contrastive_fix.dataset import BatchSampler
from exp4_contrastive_fix.models import AlignedModel, Objective, make_model, qrl_loss
from exp4_contrastive_fix.train_flat import flat_trainings

HEAD = Objective(metric="qrl", distance="quasimetric")


@reads_settings(*DATA_FIELDS, "d_latent", "hidden_dim", "transition", "batch_size", "iterations",
      "learning_rate",
      "rollout_steps", "coarse_stride", "pair_discount", "qrl_offset", "qrl_beta",
      "qrl_tolerance")  # fmt: skip
def train_head(
    task: Task,
    finished: AlignedModel,
    *,
    variant: None,
    config: Exp4Config,
    device: torch.device,
    checkpoint: Checkpoint | None = None,
    label: str = "frozen_qrl",
) -> tuple[AlignedModel, dict[str, Tensor]]:
    """Quasimetric RL on latents that it does not change.

    Args:
        task: environment and walks.
        finished: the baseline, whose encoder, transition and jumpy level are taken as they are.
        variant: none.
        config: the fields named above.
        device: where to train.
        checkpoint: where to resume from and save to.
        label: names the training in the log.

    Returns:
        the ensemble [S members], and the training history (see common.training.fit).
    """
    model = make_model(task, config, HEAD, tuple(map(int, finished.jumpy))).to(device)
    model.load_state_dict(finished.state_dict(), strict=False)  # all but the decoder, which it has not
    for part in (model.encoder, model.transition, model.jumpy):
        part.requires_grad_(False)
    sampler = BatchSampler(
        task, max(config.rollout_steps, config.coarse_stride), config.pair_discount, device
    )

    def loss(iteration: int, draws: Sequence[torch.Generator]) -> dict[str, Tensor]:
        batch = sampler.draw(draws, config.batch_size)
        term, records = qrl_loss(model, model.encoder(batch.observations), batch, config)
        return weighted_sum({"metric": (1.0, term)} | {name: (0.0, each) for name, each in records.items()})

    return fit_latent_model(model, loss, task, config, label=label, checkpoint=checkpoint)


def head_trainings(task: Task, finished: AlignedModel) -> Training:
    """The head on the baseline's latents."""
    return Training(train_head, task.name, (task, finished), {"frozen_qrl": None})


def train_all(run: Run) -> None:
    """The baseline and the head of every environment."""
    for name in run.config.environments:
        task = make_task(name, run.config)
        baseline = run.train(flat_trainings(task))["reconstruction"]
        run.train(head_trainings(task, baseline))


if __name__ == "__main__":
    alone = Experiment(
        "exp4_contrastive_fix", Path(__file__).parent, EXP4_PRESETS, train_all,
        check=check_environments, memory=memory_needed,
    )  # fmt: skip
    raise SystemExit(main_training(alone, CONFIG))
