"""Experiment 8, two pillars: a maze in a chaotic wind, planned through with neither, either and both.

    python run_experiment.py                           quick preset, minutes on a laptop
    python run_experiment.py --preset full             ten seeds, every part: what the README reports
    python run_experiment.py --parts corners ablation  some of its parts

writes results/results.json, results/arrays.npz, plots/*.png and plots/exp8_episode.gif; --help lists
every setting.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from common.config import EXP8_PRESETS
from common.run.command_line import parse_command_line

CONFIG = parse_command_line(EXP8_PRESETS) if __name__ == "__main__" else None  # before torch is imported

from common.run.run import Experiment, Run, main
from exp8_two_pillars.comparisons import PARTS
from exp8_two_pillars.criteria import CRITERIA
from exp8_two_pillars.figures import draw_figures
from exp8_two_pillars.parts import training_walks, trainings_of
from exp8_two_pillars.train_flat import flat_trainings
from exp8_two_pillars.train_helm import helm_trainings


def compute(run: Run) -> None:
    """Train what the configuration's parts need, world by world, and measure part by part."""
    models = {}
    for scene, names in trainings_of(run.config).items():
        walks = training_walks(scene.world, run.config)
        models[scene.world] = run.train(
            flat_trainings(scene, walks, run.config, names), helm_trainings(scene, walks, run.config, names)
        )
    for part in run.config.parts:
        PARTS[part](run, models)


EXPERIMENT = Experiment(
    "exp8_two_pillars", Path(__file__).parent, EXP8_PRESETS, compute, draw_figures, CRITERIA,
)  # fmt: skip
execute = EXPERIMENT.execute

if __name__ == "__main__":
    raise SystemExit(main(EXPERIMENT, CONFIG))
