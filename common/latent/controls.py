"""What a gradient buys a planner: other searches at its budget, the gradient spoilt, few evaluations.

Shapes: S seeds, E episodes.
"""

import math
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from common.config import MiniGridConfig
from common.latent.comparison import (
    MODES,
    PLANNING_FIELDS,
    configured_planner,
    plan_through,
    problems_of,
    record_difference,
)
from common.latent.model import LatentModel
from common.latent.planner_evaluation import Trial, evaluate_planner, random_policy_success
from common.minigrid.task import Task
from common.planners import PLANNERS
from common.planners.problem import Planner
from common.planners.small_budgets import fitted
from common.run.cache import reads_settings
from common.run.random import generators
from common.run.results import Results
from common.run.run import Run

SEARCHES = ("cem", "coarse_cem", "random_shooting", "hill_climbing", "icem", "mppi")
SPOILT = ("verified_gradient_zeroed", "verified_gradient_shuffled")
# Planners with a gradient, and what each is compared with. The zeroed form still pays for its gradients, so
# what the gradient buys at the whole budget is the difference to random shooting.
JUDGED = {"verified_gradient": (*SPOILT, *SEARCHES), "helm": ("verified_gradient", *SEARCHES)}
LEAST_ABOVE_CHANCE = 0.1  # success of CEM above the random policy's, below which no evaluations are counted
BUDGETED = (  # the planners of small budgets; the spoilt gradients say nothing there that others do not
    *(name for name in PLANNERS if name != "flat_gradient"), "hill_climbing", "icem", "mppi"
)  # fmt: skip
ENOUGH = 0.9  # of CEM's success at the largest budget is what a planner's evaluations are counted for

Models = Mapping[str, LatentModel | None]


# ----------------------------------------------------------------------------------------------
# Peers
# ----------------------------------------------------------------------------------------------


def compare_peers(run: Run, task: Task, models: Models) -> None:
    """`{env}/{model}/{peer}/{mode}/T={T}/success` of every peer, and the differences of JUDGED.

    What the comparison records too is recorded where it has not been.

    Args:
        run: whose results get the records.
        task: environment.
        models: by the name that metrics give them; None for the true dynamics.
    """
    horizons = run.config.planning_horizons
    names = (*JUDGED, *SEARCHES, *SPOILT)
    for label, model in models.items():
        found = plan_through(run, task, {label: model}, names)
        for mode in MODES:
            here = {planner: found[label, planner, mode] for planner in names}
            for planner, measured in here.items():
                prefix = f"{task.name}/{label}/{planner}/{mode}"
                for success in (f"T={horizon}/success" for horizon in horizons):
                    if f"{prefix}/{success}" not in run.results.metrics:
                        run.results.add_rate(f"{prefix}/{success}", measured[success], task.all_starts)
            for first, second in ((first, second) for first, others in JUDGED.items() for second in others):
                prefix = f"{task.name}/{label}/{first}_minus_{second}"
                if f"{prefix}/{mode}/T={horizons[0]}/success" not in run.results.metrics:
                    pair = here[first], here[second]
                    record_difference(run.results, task, prefix, mode, *pair, horizons)


# ----------------------------------------------------------------------------------------------
# Small budgets
# ----------------------------------------------------------------------------------------------


@reads_settings(*PLANNING_FIELDS)
def measure_at_budget(
    task: Task,
    model: LatentModel | None,
    planner: str,
    mode: str,
    horizons: Sequence[int],
    budget: int,
    *,
    config: MiniGridConfig,
    device: torch.device,
) -> dict[str, Tensor]:
    """`T=../success` at so many evaluations a step, [S, E], of the planner's form that fits them.

    The same noise at every budget. For planners that have such a form (see form_for).
    """
    trial = Trial(
        task,
        problems_of(task, model, config.coarse_stride, device),
        form_for(planner, budget, config),
        config,
        noise=lambda horizon: generators(config.seeds, f"{task.name}/budgets/{planner}/{mode}/T={horizon}"),
        evaluations_per_step=budget,
    )
    found = evaluate_planner(trial, mode, horizons)
    return {f"T={horizon}/success": values["success"] for horizon, values in found.items()}


def form_for(planner: str, budget: int, config: MiniGridConfig) -> Planner | None:
    """The planner in the form that fits so many rollouts; none where it needs more."""
    fitting = fitted(configured_planner(planner, config), budget)
    return None if budget < fitting.least_rollouts else fitting


def sweep_small_budgets(run: Run, task: Task, models: Models) -> None:
    """`budgets/{env}/{model}/{planner}/{mode}/T={T}/budget={n}/success`, and `../evaluations_needed`."""
    config = run.config
    by_chance = random_policy_success(task, list(config.planning_horizons))
    for label, model in models.items():
        cells = [
            (planner, mode, budget)
            for planner in BUDGETED for mode in MODES for budget in config.small_budgets
            if form_for(planner, budget, config) is not None
        ]  # fmt: skip
        found = run.measure_all([
            (
                measure_at_budget, f"{task.name}/budgets/{label}/{planner}/{mode}/budget={budget}",
                task, model, planner, mode, config.planning_horizons, budget,
            )
            for planner, mode, budget in cells
        ])  # fmt: skip
        measured = dict(zip(cells, found, strict=True))
        for mode in MODES:
            for horizon in config.planning_horizons:
                chance = float(by_chance[horizon].mean())
                rates = {
                    (planner, budget): outcome[f"T={horizon}/success"]
                    for (planner, own, budget), outcome in measured.items()
                    if own == mode
                }
                record_budgets(
                    run.results, task, f"budgets/{task.name}/{label}", f"{mode}/T={horizon}", rates, chance
                )


def record_budgets(
    results: Results,
    task: Task,
    prefix: str,
    suffix: str,
    rates: Mapping[tuple[str, int], Tensor],
    chance: float,
) -> None:
    """Success by (planner, budget), and the fewest evaluations a step for ENOUGH of CEM's best success.

    The latter is inf in a seed in which a planner never has that much, nan where CEM itself is not
    LEAST_ABOVE_CHANCE above the random policy's `chance`.
    """
    largest = max(budget for _, budget in rates)
    best = rates["cem", largest].mean(1)  # [S]
    wanted = torch.where(best >= chance + LEAST_ABOVE_CHANCE, ENOUGH * best, torch.nan)
    for planner in dict.fromkeys(planner for planner, _ in rates):
        own = {budget: rate for (name, budget), rate in rates.items() if name == planner}
        for budget, rate in own.items():
            results.add_rate(f"{prefix}/{planner}/{suffix}/budget={budget}/success", rate, task.all_starts)
        success = {budget: rate.mean(1) for budget, rate in own.items()}
        needed = [
            evaluations_needed({budget: float(rate[seed]) for budget, rate in success.items()}, float(target))
            for seed, target in enumerate(wanted)
        ]
        results.add(f"{prefix}/{planner}/{suffix}/evaluations_needed", needed, "evaluations a step")


def evaluations_needed(success: Mapping[int, float], target: float) -> float:
    """The budget at which success first reaches the target, between two budgets by their logarithm.

    At the smallest budget where that is enough; inf where none is; nan for a target of nan.
    """
    if math.isnan(target):
        return math.nan
    below: tuple[int, float] | None = None
    for budget, rate in sorted(success.items()):
        if rate >= target:
            if below is None:
                return float(budget)
            smaller, lower = below
            share = (target - lower) / (rate - lower)
            return smaller * math.exp(share * math.log(budget / smaller))
        below = budget, rate
    return math.inf
