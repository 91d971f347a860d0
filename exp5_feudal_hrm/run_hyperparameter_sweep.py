"""Sweep the feudal loss's weight, the manager's period, or the grid of both, beside the controls.

    python run_hyperparameter_sweep.py --sweep-type feudal_weight --feudal-weights 0.01 0.1 --max-steps 800
    python run_hyperparameter_sweep.py --sweep-type manager_period --manager-periods 1 2 4 8 --device cpu
    python run_hyperparameter_sweep.py --sweep-type grid --feudal-weights 0.05 0.1 --manager-periods 2 4

The settings are trained side by side in this process,
each once: what run_experiment.py or an earlier sweep has trained is read from the cache. Writes
experiments/sweep_*.json, which analyze_experiments.py reads; sweep.py sweeps any other setting.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from exp5_feudal_hrm.document_flags import read_command, sweep_of

CONFIG, TYPE = read_command(sweep_of, __doc__) if __name__ == "__main__" else (None, "")  # before torch

from functools import partial

from common.config import EXP5_PRESETS, Exp5Config
from common.run.run import Experiment, Run, main_training
from exp5_feudal_hrm.dataset import load_task
from exp5_feudal_hrm.evaluate_sweep import known_cells, name_of, run_sweep, sweep_cells, variant_of
from exp5_feudal_hrm.experiment_files import (
    Recorded,
    leave_experiment,
    recorded_variants,
    warn_of_few_steps,
)
from exp5_feudal_hrm.run_experiment import measure, train

VARIANTS = ("baseline", "head", "random_goals", "directional")


def compute(run: Run, kind: str) -> None:
    """Train and measure controls and settings on the first task, and write what was found."""
    config = run.config
    warn_of_few_steps(config.iterations)
    task = load_task(run, config.tasks[0])
    models = train(run, task, VARIANTS)
    run_sweep(run, task, models, measure(run, task, models))
    recorded = recorded_variants(config, task.name, VARIANTS[:3]) | recorded_cells(config, task.name)
    values = (sorted(set(values)) for values in zip(*sweep_cells(config), strict=True))
    weights, periods = ("-".join(f"{value:g}" for value in one) for one in values)
    name = f"{kind}_weights={weights}_periods={periods}_steps={config.iterations}"
    leave_experiment(run, "sweep", name, task.name, recorded)


def recorded_cells(config: Exp5Config, task: str) -> dict[str, Recorded]:
    """Of every setting of the sweep. One that a variant has was trained under the variant's name."""
    known = known_cells(config)
    return {
        f"directional {name_of(cell)}": Recorded(
            variant_of(config, cell),
            f"{task}/{known[cell]}" if cell in known else f"{task}/sweep/{name_of(cell)}",
            f"sweep/{name_of(cell)}/exact",
            f"sweep/{name_of(cell)}/minus_baseline/exact",
        )
        for cell in sorted(sweep_cells(config))
    }


if __name__ == "__main__":
    alone = Experiment("exp5_feudal_hrm", Path(__file__).parent, EXP5_PRESETS, partial(compute, kind=TYPE))
    raise SystemExit(main_training(alone, CONFIG))
