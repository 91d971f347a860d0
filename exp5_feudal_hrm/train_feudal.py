"""Train HRM with goals: the answer's cross-entropy, the halting head's, and the feudal loss.

    python train_feudal.py [--preset full] [--tasks sudoku_4x4] [--feudal-loss-weight 0.1] ...

trains what run_experiment.py would, and leaves it where run_experiment.py finds it.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from common.config import EXP5_PRESETS
from common.run.command_line import parse_command_line

CONFIG = parse_command_line(EXP5_PRESETS) if __name__ == "__main__" else None  # before torch is imported

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor

from common.config import Exp5Config
from common.recursion.puzzles.task import PuzzleSampler
from common.recursion.training import TRAINING_FIELDS, SegmentRunner, fit_recursive
from common.run.cache import Checkpoint, reads_settings
from common.run.run import Experiment, Run, Training, main_training
from exp5_feudal_hrm.dataset import Task, check_tasks, load_task, named_trainings
from exp5_feudal_hrm.feudal import FeudalVariant, make_feudal, random_goals
from exp5_feudal_hrm.models import MODEL_FIELDS, FeudalHRM, make_feudal_hrm


def feudal_variants(config: Exp5Config) -> dict[str, FeudalVariant]:
    """The head without a loss of its own, goals that nobody chose, forms of the loss, further attempts."""
    standard = FeudalVariant(config.feudal_loss_weight, config.manager_period)
    return {
        "head": replace(standard, weight=0.0),
        "random_goals": replace(standard, random_goals=True),
        "directional": standard,
        "predict": replace(standard, form="predict"),
        "naive": replace(standard, form="naive"),
        "directional_segment": replace(standard, gradient="segment"),
        "directional_fixed": replace(standard, adaptive=False),
        "predict_segment": replace(standard, form="predict", gradient="segment"),
        "contrastive": replace(standard, form="contrastive"),
        "contrastive_segment": replace(standard, form="contrastive", gradient="segment"),
        "detached": replace(standard, form="predict", detached=True),
        "cells": replace(standard, form="predict", cells=True),
    }


@reads_settings(*MODEL_FIELDS, *TRAINING_FIELDS, "goal_dim", "gating")
def train_feudal(
    task: Task,
    *,
    variant: FeudalVariant,
    config: Exp5Config,
    device: torch.device,
    checkpoint: Checkpoint | None = None,
    label: str = "directional",
) -> tuple[FeudalHRM, dict[str, Tensor]]:
    """Cross-entropy + halting / 2 + weight * feudal loss.

    Args:
        task: training puzzles.
        variant: form, weight and period of the goals. Variants share initial weights and batches, the
            baseline's as well.
        config: the fields named above.
        device: where to train.
        checkpoint: where to resume from and save to.
        label: names the training in the log.

    Returns:
        the averaged ensemble [S members], and the training history (see common.training.fit).
    """
    model = make_feudal_hrm(task.train, config).to(device)
    sampler = PuzzleSampler(task.train, config.seeds, device, augment=True)
    runner = SegmentRunner(model, config, adaptive=variant.adaptive)
    places = model.sizes.prefix + model.sizes.cells
    feudal = make_feudal(model.head, variant, config.batch_size, places)

    def loss(iteration: int, draws: Sequence[torch.Generator]) -> dict[str, Tensor]:
        feudal.reset(runner.carry.refill(sampler.draw(iteration, draws, config.batch_size)))
        segment = runner.run(draws, guide=feudal.guide(), gradient=variant.gradient)
        goals = feudal.losses(segment.states, segment.lm_loss, variant.form)
        given = draw_goals(iteration) if variant.random_goals else None
        feudal.emit(segment.states, segment.lm_loss, given)
        lm_loss, q_loss = segment.lm_loss.mean(1), segment.q_loss.mean(1)
        return {
            "loss": lm_loss + 0.5 * q_loss + variant.weight * goals["feudal_loss"],
            "train/lm_loss": lm_loss,
            "train/q_loss": q_loss,
            **{f"train/{name}": value for name, value in goals.items()},
            **runner.counts(segment, {f"train/{name}": count for name, count in feudal.counts().items()}),
        }

    def draw_goals(iteration: int) -> Tensor:
        rows, goal_dim = feudal.given.shape[1:]
        return random_goals(config.seeds, f"{task.name}/goals/{iteration}", rows, goal_dim).to(device)

    history = fit_recursive(
        model, loss, config, label=label, stream=task.name, checkpoint=checkpoint,
        extra_state={**runner.extra_state, "feudal": feudal},
    )  # fmt: skip
    return model, history


def feudal_trainings(task: Task, config: Exp5Config, names: Sequence[str]) -> Training:
    """Those of the named variants that have goals."""
    return named_trainings(train_feudal, task, feudal_variants(config), names)


def train_all(run: Run) -> None:
    """The variants with goals of every task."""
    for name, variants, changes in run.config.plan():
        with run.having(**changes):
            run.train(feudal_trainings(load_task(run, name), run.config, variants))


if __name__ == "__main__":
    alone = Experiment(
        "exp5_feudal_hrm", Path(__file__).parent, EXP5_PRESETS, train_all, check=check_tasks
    )  # fmt: skip
    raise SystemExit(main_training(alone, CONFIG))
