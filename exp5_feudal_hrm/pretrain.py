"""Train HRM with goals once, by the document's keys.

    python pretrain.py arch.loss.feudal_loss_weight=0.1 arch.subgoal_head.manager_period=4 max_steps=800
    python pretrain.py goal_dim=16 gating=false global_batch_size=48 epochs=100 device=cpu enable_wandb=true
    python pretrain.py data_path=FOLDER preset=published     a folder of puzzles in HRM's format

loss.feudal_loss_weight=0 disables the feudal loss. With epochs the training ends after so many passes through
the groups of puzzles, or after max_steps if that is sooner. Writes experiments/pretrain_*.json, which
analyze_experiments.py reads.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from exp5_feudal_hrm.document_flags import pretraining_of, read_command

CONFIG, EPOCHS = read_command(pretraining_of, __doc__) if __name__ == "__main__" else (None, 0.0)

import math
from functools import partial

from common.config import EXP5_PRESETS
from common.run.run import Experiment, Run, main_training
from exp5_feudal_hrm.dataset import Task, load_task
from exp5_feudal_hrm.evaluate_variants import measure_variant, record_variants
from exp5_feudal_hrm.experiment_files import leave_experiment, recorded_variants, warn_of_few_steps
from exp5_feudal_hrm.train_feudal import feudal_trainings, feudal_variants


def compute(run: Run, epochs: float) -> None:
    """Train and measure one model on the first task, and write what was found."""
    task = load_task(run, run.config.tasks[0])
    steps = min(run.config.iterations, steps_of(task, run.config.batch_size, epochs))
    warn_of_few_steps(steps)
    with run.having(iterations=steps):
        config = run.config
        model = run.train(feudal_trainings(task, config, ["directional"]))["directional"]
        variant = feudal_variants(config)["directional"]
        found = run.measure(measure_variant, f"{task.name}/evaluation/directional", task, model, variant)
        record_variants(run.results, task.name, {"directional": found})
        setting = f"weight={config.feudal_loss_weight:g}_period={config.manager_period}"
        recorded = recorded_variants(config, task.name, ["directional"])
        leave_experiment(run, "pretrain", f"{setting}_steps={steps}", task.name, recorded)


def steps_of(task: Task, batch_size: int, epochs: float) -> float:
    """Optimiser steps in so many passes through the groups of puzzles."""
    groups = int(task.train.groups.max()) + 1
    return epochs if math.isinf(epochs) else math.ceil(epochs * groups / batch_size)


if __name__ == "__main__":
    alone = Experiment(
        "exp5_feudal_hrm", Path(__file__).parent, EXP5_PRESETS, partial(compute, epochs=EPOCHS)
    )
    raise SystemExit(main_training(alone, CONFIG))
