"""The penalty on the recommended model, the energy's shape apart from its metric, two penalties reconciled.

Shapes: S seeds, E episodes.
"""

from collections.abc import Mapping, Sequence

from torch import Tensor

from common.latent.comparison import MODES, Outcomes, plan_through
from common.latent.controls import compare_peers, sweep_small_budgets
from common.latent.tuned import compare_tuned
from common.minigrid.task import Task
from common.run.results import Results
from common.run.run import Run
from exp4_contrastive_fix.evaluate_planners import PILLAR_PLANNERS
from exp4_contrastive_fix.models import AlignedModel, RootEnergyModel
from exp4_contrastive_fix.train_helm import penalised, reconciled

PLANNED = (*PILLAR_PLANNERS, "random_shooting")
# The models of the part `shape`, each compared with the one before it.
SHAPES = ("reconstruction", "reconstruction_sqrt", "frozen_qrl", "qrl_penalty=0")
Models = Mapping[str, AlignedModel]


def measure_controls(run: Run, task: Task, models: Models) -> None:
    """What the gradient buys in the recommended model, and what its penalty and its energy do."""
    parts, planned = run.config.parts, {"unified": models["unified"], "oracle": None}
    if "peers" in parts:
        compare_peers(run, task, planned)
    if "tuned" in parts:
        compare_tuned(run, task, {"unified": models["unified"]})
    if "budgets" in parts:
        sweep_small_budgets(run, task, planned)
    if "penalty" in parts:
        sweep_penalty(run, task, models)
    if "shape" in parts:
        root = RootEnergyModel.of(models["reconstruction"])
        compare_shapes(run, task, {**models, "reconstruction_sqrt": root})
    if "reconcile" in parts and reconciled(run.config).keys() <= models.keys():
        reconcile(run, task, models)


def sweep_penalty(run: Run, task: Task, models: Models) -> None:
    """`two_pillars_qrl/{env}/{planner}/{mode}/T={T}/lambda={w}`, and `.._minus_0`, its gain on no penalty."""
    weights = {weight: penalised(run.config.unified_spectral, weight) for weight in run.config.penalty_sweep}
    found = plan_through(run, task, {name: models[name] for name in weights.values()}, PLANNED)
    for planner in PLANNED:
        for mode in MODES:
            rates = {weight: found[name, planner, mode] for weight, name in weights.items()}
            prefix = f"two_pillars_qrl/{task.name}/{planner}/{mode}"
            record_penalty(run.results, task, prefix, rates, run.config.planning_horizons)


def record_penalty(
    results: Results, task: Task, prefix: str, found: Mapping[float, Outcomes], horizons: Sequence[int]
) -> None:
    """`{prefix}/T=../lambda=..` and `{prefix}/T=../lambda=.._minus_0`, with 95% intervals."""
    for horizon in horizons:
        success = {weight: outcome[f"T={horizon}/success"] for weight, outcome in found.items()}
        for weight, values in success.items():
            name = f"{prefix}/T={horizon}/lambda={weight:g}"
            results.add_rate(name, values, task.all_starts)
            if weight:
                results.add_difference(f"{name}_minus_0", values - success[0.0], task.all_starts)


def compare_shapes(run: Run, task: Task, models: Models) -> None:
    """`{env}/{model}/{planner}/{mode}/T={T}/success` of SHAPES, and the differences that tell them apart.

    reconstruction_sqrt_minus_reconstruction is the energy's shape; frozen_qrl_minus_reconstruction_sqrt the
    metric on the same latents and dynamics, whose head has steps of its own; the last all that remains:
    another objective than the decoder's, and latents, dynamics and metric trained together.
    """
    found = plan_through(run, task, {name: models[name] for name in SHAPES}, PLANNED)
    success: dict[tuple[str, str], Tensor] = {}
    for (name, planner, mode), outcome in found.items():
        for horizon in run.config.planning_horizons:
            where = f"{planner}/{mode}/T={horizon}/success"
            success[name, where] = outcome[f"T={horizon}/success"]
            run.results.add_rate(f"{task.name}/{name}/{where}", success[name, where], task.all_starts)
    for name, where in success:
        before = SHAPES[max(SHAPES.index(name) - 1, 0)]
        if before != name:
            difference = success[name, where] - success[before, where]
            run.results.add_difference(
                f"{task.name}/{name}_minus_{before}/{where}", difference, task.all_starts
            )


def reconcile(run: Run, task: Task, models: Models) -> None:
    """`reconcile/{env}/dynamics={d}/{planner}/{mode}/T={T}/lambda={w}`, and each weight's gain `.._minus_0`.

    `reconcile/{env}/interaction/{planner}/..`: the gain at the largest weight of the dynamics minus that at
    the smallest; below 0 where the penalty helps in the one and harms in the other.
    """
    variants, horizons = reconciled(run.config), run.config.planning_horizons
    found = plan_through(run, task, {name: models[name] for name in variants}, PLANNED)
    for planner in PLANNED:
        for mode in MODES:
            rates: dict[float, dict[float, Outcomes]] = {}
            for name, variant in variants.items():
                own = rates.setdefault(variant.lambda_dynamics, {})
                own[variant.lambda_spectral] = found[name, planner, mode]
            where = f"{planner}/{mode}"
            for dynamics, by_weight in rates.items():
                prefix = f"reconcile/{task.name}/dynamics={dynamics:g}/{where}"
                record_penalty(run.results, task, prefix, by_weight, horizons)
            prefix = f"reconcile/{task.name}/interaction/{where}"
            record_interaction(run.results, task, prefix, rates[min(rates)], rates[max(rates)], horizons)


def record_interaction(
    results: Results,
    task: Task,
    prefix: str,
    light: Mapping[float, Outcomes],
    heavy: Mapping[float, Outcomes],
    horizons: Sequence[int],
) -> None:
    """`{prefix}/T=../lambda=..`: each weight's gain under a heavy dynamics' loss minus that under a light."""
    for success in (f"T={horizon}/success" for horizon in horizons):
        for weight in (weight for weight in light if weight):
            gains = [own[weight][success] - own[0.0][success] for own in (light, heavy)]
            name = f"{prefix}/{success.removesuffix('/success')}/lambda={weight:g}"
            results.add_difference(name, gains[1] - gains[0], task.all_starts)
