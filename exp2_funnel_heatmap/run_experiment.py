"""Experiment 2, funnel heatmap: how much of a rugged energy leads to its minimum, flat against HELM.

    python run_experiment.py                  quick preset, minutes on a laptop
    python run_experiment.py --preset full    more seeds, landscapes and functions: what the README reports

writes results/results.json, results/arrays.npz and plots/*.png; --help lists every setting.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from common.config import EXP2_PRESETS
from common.run.run import Run, run_experiment
from exp2_funnel_heatmap.criteria import CRITERIA
from exp2_funnel_heatmap.dataset import Task, function_task, landscape_task, random_task
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
    trainings,
)
from exp2_funnel_heatmap.figures import draw_figures
from exp2_funnel_heatmap.models import EnergyModel
from exp2_funnel_heatmap.train_flat import flat_variants, train_flat_variants
from exp2_funnel_heatmap.train_helm import helm_variants, train_helm_variants, train_map_variants
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
        models = train_flat_variants(run, task) | train_helm_variants(run, task)
        heatmaps(run, task, models)
        plan(run, task, models, LANDSCAPE_PLANNERS, "coverage")
        if name == "aligned":
            lambda_sigma_map(run, task)
    if config.num_landscapes:
        landscapes = random_landscapes(config.num_landscapes, config.domain_range)
        task = random_task(landscapes, config)
        plan(
            run,
            task,
            train_flat_variants(run, task) | train_helm_variants(run, task),
            RANDOM_PLANNERS,
            "success",
        )
    for dimension in config.dimensions:
        if (task := function_task(dimension, config)) is not None:
            benchmark(run, task, train_flat_variants(run, task) | train_helm_variants(run, task))


def heatmaps(run: Run, task: Task, models: dict[str, EnergyModel]) -> None:
    """Basin coverage of every variant, and what stands beside it."""
    variants = flat_variants(task, run.config) | helm_variants(task, run.config)
    for variant, model in models.items():
        name = f"{task.name}/basins/{variant}"
        measured = run.measure(measure_basins, name, task, model, upstream=[f"{task.name}/{variant}"])
        record_basins(run.results, task, variant, variants[variant], measured)


def lambda_sigma_map(run: Run, task: Task) -> None:
    """Coverage, bias and shrink over lambda and sigma: predicted, and where the preset says so, trained."""
    predicted = run.measure(measure_predicted_map, "map/predicted", task)
    trained = {}
    with run.having(batch_size=run.config.map_batch_size):
        models = train_map_variants(run, task) if run.config.train_map else {}
    for variant, model in models.items():
        name = f"map/basins/{variant}"
        trained[variant] = run.measure(
            measure_basins, name, task, model, upstream=[f"map/{task.name}/{variant}"]
        )
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
    fit = run.measure(measure_function_fit, f"{task.name}/fit", task, fields, upstream=trainings(fields))
    measured = every_planner(run, measure_function_planner, fields, FUNCTION_PLANNERS)
    record_functions(run.results, task, measured, fit)


if __name__ == "__main__":
    raise SystemExit(
        run_experiment(
            "exp2_funnel_heatmap",
            Path(__file__).parent,
            EXP2_PRESETS,
            compute,
            draw_figures,
            CRITERIA,
            check=check_planning,
        )
    )
