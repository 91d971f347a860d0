"""Compare HRM with goals with HRM without, and with the controls: the head alone, goals that nobody chose.

    python run_baseline_comparison.py --feudal-weight 0.1 --manager-period 4 --max-steps 800 --device cpu

writes experiments/baseline_comparison_*.json, which analyze_experiments.py reads.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from exp5_feudal_hrm.document_flags import config_of, read_command

CONFIG = read_command(config_of, __doc__) if __name__ == "__main__" else None  # before torch is imported

from common.config import EXP5_PRESETS
from common.run.run import Experiment, Run, main_training
from exp5_feudal_hrm.dataset import load_task
from exp5_feudal_hrm.experiment_files import leave_experiment, recorded_variants, warn_of_few_steps
from exp5_feudal_hrm.run_experiment import measure, train

VARIANTS = ("baseline", "head", "random_goals", "directional")


def compute(run: Run) -> None:
    """Train and measure the variants on the first task, and write what was found."""
    config = run.config
    warn_of_few_steps(config.iterations)
    task = load_task(run, config.tasks[0])
    measure(run, task, train(run, task, VARIANTS))
    setting = f"weight={config.feudal_loss_weight:g}_period={config.manager_period}"
    recorded = recorded_variants(config, task.name, VARIANTS)
    leave_experiment(run, "baseline_comparison", f"{setting}_steps={config.iterations}", task.name, recorded)


if __name__ == "__main__":
    alone = Experiment("exp5_feudal_hrm", Path(__file__).parent, EXP5_PRESETS, compute)
    raise SystemExit(main_training(alone, CONFIG))
