"""Experiment 3, planning efficiency: gradient planners against CEM in MiniGrid world models.

    python run_experiment.py                  quick preset, minutes on a laptop
    python run_experiment.py --preset full    three seeds, five environments: what the README reports
    python run_experiment.py --parts ladder   some of its parts

writes results/results.json, results/arrays.npz, plots/*.png and plots/exp3_episode.gif; --help lists
every setting.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from common.config import EXP3_PRESETS
from common.run.command_line import parse_command_line

CONFIG = parse_command_line(EXP3_PRESETS) if __name__ == "__main__" else None  # before torch is imported

from common.latent.comparison import (
    MODES,
    Plans,
    compare_planners,
    plan_all,
    record_pictures,
    record_policies,
)
from common.latent.controls import compare_peers, sweep_small_budgets
from common.latent.evaluation import measure_model, record_model, record_task
from common.latent.memory import memory_needed
from common.minigrid.task import Task, check_environments, make_task
from common.run.run import Experiment, Run, main
from exp3_planning_efficiency.criteria import CRITERIA
from exp3_planning_efficiency.evaluate_planners import (
    ABLATION,
    ABLATION_PLANNERS,
    measure_sweep,
    record_ablation,
    record_sweeps,
    sweep_runs,
)
from exp3_planning_efficiency.figures import draw_figures
from exp3_planning_efficiency.ladder import climb_ladder
from exp3_planning_efficiency.models import WorldModel
from exp3_planning_efficiency.train_flat import flat_trainings
from exp3_planning_efficiency.train_helm import helm_trainings, is_studied

Models = dict[str, WorldModel]


def compute(run: Run) -> None:
    """Train and measure every environment of the configuration."""
    config = run.config
    for position, task in enumerate([make_task(name, config) for name in config.environments]):
        studied = is_studied(config, position)
        models = run.train(flat_trainings(task), helm_trainings(task, config, studied))
        record_task(run.results, task)
        names = list(models)
        steps = [(measure_model, f"{task.name}/model/{name}", task, models[name]) for name in names]
        for name, measured in zip(names, run.measure_all(steps), strict=True):
            record_model(run.results, task, name, measured)
        planned = {"flat": models["flat"], "helm": models["helm"], "oracle": None}
        if "comparison" in config.parts:
            compare_planners(run, task, planned)
            record_pictures(run.results, task, config.study_horizon)
        else:
            record_policies(run, task)
        if studied:
            ablate(run, task, models)
            sweep(run, task, models)
        measure_controls(run, task, planned)


def measure_controls(run: Run, task: Task, planned: dict[str, WorldModel | None]) -> None:
    """What the gradient buys, and what each change to the published planner does."""
    if "peers" in run.config.parts:
        compare_peers(run, task, planned)
    if "budgets" in run.config.parts:
        sweep_small_budgets(run, task, {label: planned[label] for label in ("helm", "oracle")})
    if "ladder" in run.config.parts:
        climb_ladder(run, task, planned)


def ablate(run: Run, task: Task, models: Models) -> None:
    """Flat, + spectral, + HF, full HELM, each with the unverified and the verified gradient planner."""
    horizon = run.config.study_horizon
    horizons = dict.fromkeys(ABLATION, (horizon,)) | dict.fromkeys(
        ("flat", "helm"), run.config.planning_horizons
    )
    wanted = [(variant, label) for variant in ABLATION for label in ABLATION_PLANNERS]
    for mode in MODES:
        found = plan_all(run, task, [
            Plans(variant, models[variant], ABLATION_PLANNERS[label], mode, horizons[variant])
            for variant, label in wanted
        ])  # fmt: skip
        record_ablation(run.results, task, mode, horizon, dict(zip(wanted, found, strict=True)))


def sweep(run: Run, task: Task, models: Models) -> None:
    """Over budgets, strides and temperatures, on HELM's model."""
    runs = sweep_runs(run.config)
    steps = [
        (measure_sweep, f"{task.name}/sweeps/{one.name}", task, models["helm"], one) for one in runs.values()
    ]
    record_sweeps(run.results, task, dict(zip(runs, run.measure_all(steps), strict=True)))


EXPERIMENT = Experiment(
    "exp3_planning_efficiency", Path(__file__).parent, EXP3_PRESETS, compute, draw_figures, CRITERIA,
    check=check_environments, memory=memory_needed, headline="exp3_success_rate.png",
)  # fmt: skip
execute = EXPERIMENT.execute

if __name__ == "__main__":
    raise SystemExit(main(EXPERIMENT, CONFIG))
