"""Experiment 2, funnel heatmap: how much of a rugged energy leads to its minimum, flat against HELM.

    python run_experiment.py                  quick preset, minutes on a laptop
    python run_experiment.py --preset full    more seeds, landscapes and functions: what the README reports

writes results/results.json, results/arrays.npz and plots/*.png; --help lists every setting.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from common.config import EXP2_PRESETS
from common.run.command_line import parse_command_line

CONFIG = parse_command_line(EXP2_PRESETS) if __name__ == "__main__" else None  # before torch is imported

from common.run.run import Experiment, Run, main
from exp2_funnel_heatmap.criteria import CRITERIA
from exp2_funnel_heatmap.dataset import Task, function_task, landscape_task, memory_needed, random_task
from exp2_funnel_heatmap.energy_functions import make_landscape, random_landscapes
from exp2_funnel_heatmap.evaluate_planning import (
    FUNCTION_PLANNERS,
    LANDSCAPE_PLANNERS,
    RANDOM_PLANNERS,
    Fields,
    check_planning,
    every_planner,
    measure_function_fit,
    measure_function_planner,
    measure_landscape_planner,
    record_functions,
    record_landscape_planning,
)
from exp2_funnel_heatmap.figures import draw_figures
from exp2_funnel_heatmap.models import EnergyModel
from exp2_funnel_heatmap.train_flat import flat_trainings, flat_variants
from exp2_funnel_heatmap.train_helm import helm_trainings, helm_variants, map_trainings
from exp2_funnel_heatmap.visualize_heatmap import (
    measure_basins,
    measure_predicted_map,
    record_basins,
    record_landscape,
    record_map,
)


def compute(run: Run) -> None:
    """The two standard landscapes, the map over lambda and sigma, random landscapes, test functions."""
    config = run.config
    for name in ("aligned", "misaligned"):
        task = landscape_task(name, [make_landscape(name, config.domain_range)], config)
        record_landscape(run.results, task, config)
        models = train(run, task)
        heatmaps(run, task, models)
        plan(run, task, models, LANDSCAPE_PLANNERS, "coverage")
        if name == "aligned":
            lambda_sigma_map(run, task)
    if config.num_landscapes:
        landscapes = random_landscapes(config.num_landscapes, config.domain_range)
        task = random_task(landscapes, config)
        plan(run, task, train(run, task), RANDOM_PLANNERS, "success")
    for dimension in config.dimensions:
        if (task := function_task(dimension, config)) is not None:
            benchmark(run, task, train(run, task))


def train(run: Run, task: Task) -> dict[str, EnergyModel]:
    """Every variant of a task, flat and HELM's."""
    return run.train(flat_trainings(task, run.config), helm_trainings(task, run.config))


def heatmaps(run: Run, task: Task, models: dict[str, EnergyModel]) -> None:
    """Basin coverage of every variant, and what stands beside it."""
    variants = flat_variants(task, run.config) | helm_variants(task, run.config)
    steps = [(measure_basins, f"{task.name}/basins/{name}", task, model) for name, model in models.items()]
    for name, measured in zip(models, run.measure_all(steps), strict=True):
        record_basins(run.results, task, name, variants[name], measured)


def lambda_sigma_map(run: Run, task: Task) -> None:
    """Coverage, bias and shrink over lambda and sigma: predicted, and where the preset says so, trained."""
    predicted = run.measure(measure_predicted_map, "map/predicted", task)
    with run.having(batch_size=run.config.map_batch_size):
        models = run.train(map_trainings(task, run.config)) if run.config.train_map else {}
    steps = [(measure_basins, f"map/basins/{name}", task, model) for name, model in models.items()]
    trained = dict(zip(models, run.measure_all(steps), strict=True))
    record_map(run.results, predicted, trained, run.config)


def plan(
    run: Run, task: Task, models: dict[str, EnergyModel], planners: tuple[str, ...], metric: str
) -> None:
    """Mollified descent and its baselines at equal evaluations."""
    fields = Fields(task, models)
    measured = every_planner(run, measure_landscape_planner, fields, planners)
    record_landscape_planning(run.results, task.name, measured, run.config, metric)


def benchmark(run: Run, task: Task, models: dict[str, EnergyModel]) -> None:
    """Every planner on the test functions of one dimension."""
    fields = Fields(task, models)
    fit = run.measure(measure_function_fit, f"{task.name}/fit", task, fields)
    measured = every_planner(run, measure_function_planner, fields, FUNCTION_PLANNERS)
    record_functions(run.results, task, measured, fit)


EXPERIMENT = Experiment(
    "exp2_funnel_heatmap", Path(__file__).parent, EXP2_PRESETS, compute, draw_figures, CRITERIA,
    check=check_planning, memory=memory_needed, headline="exp2_contour_triplet.png",
)  # fmt: skip
execute = EXPERIMENT.execute

if __name__ == "__main__":
    raise SystemExit(main(EXPERIMENT, CONFIG))
