"""Train HRM: the answer's cross-entropy and the halting head's.

    python train_baseline.py [--preset full] [--tasks sudoku_4x4] ...

trains what run_experiment.py would, and leaves it where run_experiment.py finds it.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from common.config import EXP5_PRESETS
from common.run.command_line import parse_command_line

CONFIG = parse_command_line(EXP5_PRESETS) if __name__ == "__main__" else None  # before torch is imported

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from common.config import Exp5Config
from common.recursion.model import HRM
from common.recursion.puzzles.task import PuzzleSampler
from common.recursion.training import TRAINING_FIELDS, SegmentRunner, fit_recursive
from common.run.cache import Checkpoint, reads_settings
from common.run.run import Experiment, Run, Training, main_training
from exp5_feudal_hrm.dataset import Task, check_tasks, load_task, named_trainings
from exp5_feudal_hrm.models import MODEL_FIELDS, make_hrm


@dataclass(frozen=True)
class BaselineVariant:
    """What tells one training without goals from another."""

    gradient: Literal["one_step", "segment"] = "one_step"
    adaptive: bool = True  # whether the halting head ends a puzzle in training


BASELINES = {
    "baseline": BaselineVariant(),
    "baseline_segment": BaselineVariant(gradient="segment"),
    "baseline_fixed": BaselineVariant(adaptive=False),
}


@reads_settings(*MODEL_FIELDS, *TRAINING_FIELDS)
def train_baseline(
    task: Task,
    *,
    variant: BaselineVariant,
    config: Exp5Config,
    device: torch.device,
    checkpoint: Checkpoint | None = None,
    label: str = "baseline",
) -> tuple[HRM, dict[str, Tensor]]:
    """Cross-entropy + halting / 2.

    Args:
        task: training puzzles.
        variant: how far back gradients go; its siblings are in train_feudal.py.
        config: the fields named above.
        device: where to train.
        checkpoint: where to resume from and save to.
        label: names the training in the log.

    Returns:
        the averaged ensemble [S members], and the training history (see common.training.fit).
    """
    model = make_hrm(task.train, config).to(device)
    sampler = PuzzleSampler(task.train, config.seeds, device, augment=True)
    runner = SegmentRunner(model, config, adaptive=variant.adaptive)

    def loss(iteration: int, draws: Sequence[torch.Generator]) -> dict[str, Tensor]:
        runner.carry.refill(sampler.draw(iteration, draws, config.batch_size))
        segment = runner.run(draws, gradient=variant.gradient)
        lm_loss, q_loss = segment.lm_loss.mean(1), segment.q_loss.mean(1)
        return {
            "loss": lm_loss + 0.5 * q_loss,
            "train/lm_loss": lm_loss,
            "train/q_loss": q_loss,
            **runner.counts(segment),
        }

    history = fit_recursive(
        model, loss, config, label=label, stream=task.name, checkpoint=checkpoint,
        extra_state=runner.extra_state,
    )  # fmt: skip
    return model, history


def baseline_trainings(task: Task, names: Sequence[str]) -> Training:
    """Those of the named variants that have no goals."""
    return named_trainings(train_baseline, task, BASELINES, names)


def train_all(run: Run) -> None:
    """The baselines of every task."""
    for name, variants, changes in run.config.plan():
        with run.having(**changes):
            run.train(baseline_trainings(load_task(run, name), variants))


if __name__ == "__main__":
    alone = Experiment(
        "exp5_feudal_hrm", Path(__file__).parent, EXP5_PRESETS, train_all, check=check_tasks
    )  # fmt: skip
    raise SystemExit(main_training(alone, CONFIG))
