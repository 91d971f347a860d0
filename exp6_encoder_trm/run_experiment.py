"""Experiment 6, encoder TRM: can demonstrations replace a learned puzzle embedding?

    python run_experiment.py                    quick preset, minutes on a laptop
    python run_experiment.py --preset full      three seeds, every job, larger canvas: what the README reports
    python run_experiment.py --jobs E0 E1 E5    these beside what the decision tree asks for

writes results/results.json, results/arrays.npz and plots/*.png; --help lists every setting.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from common.config import EXP6_PRESETS
from common.run.command_line import parse_command_line

CONFIG = parse_command_line(EXP6_PRESETS) if __name__ == "__main__" else None  # before torch is imported

from common.run.run import Experiment, Run, main
from exp6_encoder_trm.campaign import measure_recursion, run_campaign
from exp6_encoder_trm.criteria import CRITERIA
from exp6_encoder_trm.dataset import check_data, make_setting
from exp6_encoder_trm.figures import draw_figures
from exp6_encoder_trm.generalise import run_family
from exp6_encoder_trm.gradient_study import run_gradient_study


def compute(run: Run) -> None:
    """The campaign on every setting, then tasks never seen."""
    for name, changes in run.config.plan():
        setting = make_setting(name, run.config)
        with run.having(**changes):
            models = run_campaign(run, setting)
            measure_recursion(run, setting, models)
        if run.config.gradient_study and name == "recoloured":
            run_gradient_study(run, setting)
    for family in run.config.families:
        run_family(run, family)


EXPERIMENT = Experiment(
    "exp6_encoder_trm", Path(__file__).parent, EXP6_PRESETS, compute, draw_figures, CRITERIA,
    check=check_data,
)  # fmt: skip
execute = EXPERIMENT.execute

if __name__ == "__main__":
    raise SystemExit(main(EXPERIMENT, CONFIG))
