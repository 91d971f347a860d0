"""Experiment 5, feudal HRM: do goals of a manager level help a model that reasons by recursion?

    python run_experiment.py                        quick preset, minutes on a laptop
    python run_experiment.py --preset full          ten seeds, larger puzzles; the README reports a part
    python run_experiment.py --preset published --data-dir FOLDER    HRM's own sizes, on one GPU

writes results/results.json, results/arrays.npz and plots/; --help lists every setting.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from common.config import EXP5_PRESETS
from common.run.command_line import parse_command_line

CONFIG = parse_command_line(EXP5_PRESETS) if __name__ == "__main__" else None  # before torch is imported

from collections.abc import Sequence

from common.run.run import Experiment, Run, main
from exp5_feudal_hrm.analyze_recursion import analyze_recursion
from exp5_feudal_hrm.criteria import CRITERIA
from exp5_feudal_hrm.dataset import Task, check_tasks, load_task
from exp5_feudal_hrm.evaluate_sweep import run_sweep
from exp5_feudal_hrm.evaluate_variants import Measurements, measure_variant, record_history, record_variants
from exp5_feudal_hrm.figures import draw_figures
from exp5_feudal_hrm.models import HRM
from exp5_feudal_hrm.train_baseline import BASELINES, baseline_trainings
from exp5_feudal_hrm.train_feudal import feudal_trainings, feudal_variants


def compute(run: Run) -> None:
    """Train and measure every task of the configuration; the sweeps on the first."""
    for position, (name, variants, changes) in enumerate(run.config.plan()):
        with run.having(**changes):
            task = load_task(run, name)
            models = train(run, task, variants)
            measured = measure(run, task, models)
            analyze_recursion(run, task, models)
            if position == 0:
                run_sweep(run, task, models, measured)


def train(run: Run, task: Task, variants: Sequence[str]) -> dict[str, HRM]:
    """Models by variant, trained side by side."""
    models = run.train(baseline_trainings(task, variants), feudal_trainings(task, run.config, variants))
    record_history(run.results, task.name, list(models))
    return models


def measure(run: Run, task: Task, models: dict[str, HRM]) -> Measurements:
    """Answers of every variant to the held-out puzzles, and what its goals do."""
    variants = BASELINES | feudal_variants(run.config)
    steps = [
        (measure_variant, f"{task.name}/evaluation/{name}", task, model, variants[name])
        for name, model in models.items()
    ]
    measured = dict(zip(models, run.measure_all(steps), strict=True))
    record_variants(run.results, task.name, measured)
    return measured


EXPERIMENT = Experiment(
    "exp5_feudal_hrm", Path(__file__).parent, EXP5_PRESETS, compute, draw_figures, CRITERIA,
    check=check_tasks,
)  # fmt: skip
execute = EXPERIMENT.execute

if __name__ == "__main__":
    raise SystemExit(main(EXPERIMENT, CONFIG))
