"""Mollified descent and its baselines on every landscape and function, at equal evaluations.

Shapes: S members (L landscapes x seeds, landscape-major), B starts, G budgets, d coordinates.
"""

import itertools
import math
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from common.config import Exp2Config
from common.planners.problem import BudgetExceeded
from common.run.cache import reads_settings
from common.run.command_line import reject
from common.run.progress import Progress
from common.run.random import generators
from common.run.results import Results
from common.run.run import Run
from common.statistics import crossed_interval, mean_interval
from exp2_funnel_heatmap.dataset import Task, uniform_points
from exp2_funnel_heatmap.energy_functions import (
    DEFINITIONS,
    TrueField,
    aligned_landscape,
    distance_to_minimum,
)
from exp2_funnel_heatmap.fields import Field, cell_centres, tabulate
from exp2_funnel_heatmap.models import EnergyModel
from exp2_funnel_heatmap.mollified_descent import (
    Plan,
    adam_descent,
    cma_es,
    mollified_descent,
    multi_start,
    setting,
    single_descent,
    smoothed_flat,
    smoothed_flat_hop,
)
from exp2_funnel_heatmap.train_helm import SMOOTHER

LANDSCAPE_PLANNERS = (
    "mollified_descent",
    "mollified_descent_hf",
    "smoothed_flat",
    "smoothed_flat_hop",
    "multi_start",
)
RANDOM_PLANNERS = ("mollified_descent", "smoothed_flat", "smoothed_flat_hop", "multi_start")
FUNCTION_PLANNERS = (
    "flat",
    "helm",
    "mollified_descent",
    "smoothed_flat_hop",
    "multi_start",
    "cma_es",
    "cma_es_smooth",
    "true_energy",
)
CMA_PLANNERS = ("cma_es", "cma_es_smooth")  # they plan one start at a time, so from fewer starts
# Planner -> its function, and the variant that it sees.
ON_ONE_FIELD = {
    "flat": (single_descent, "flat"),
    "helm": (single_descent, SMOOTHER),
    "smoothed_flat": (smoothed_flat, "flat"),
    "smoothed_flat_hop": (smoothed_flat_hop, "flat"),
    "multi_start": (multi_start, "flat"),
    "cma_es": (cma_es, "flat"),
    "cma_es_smooth": (cma_es, SMOOTHER),
    "true_energy": (smoothed_flat_hop, "true"),
}
HELD_OUT_POINTS = 4096
BASELINES = ("smoothed_flat", "smoothed_flat_hop", "multi_start")
FUNCTION_BASELINES = (*CMA_PLANNERS, "smoothed_flat_hop", "multi_start")

PLAN_FIELDS = (
    "seeds", "domain_range", "budget_sweep", "plan_evaluations", "smooth_steps", "smooth_rate",
    "smooth_starts", "polish_steps", "polish_rate", "hop_sigma", "hop_rounds",
    "smoothing_sigma", "smoothing_steps", "smoothing_starts", "smoothing_share",
)  # fmt: skip


class Fields:
    """A task's energies as planners see them, by name: the variants' models, and the truth as 'true'.

    Where d = 2 a model is tabulated when it is first asked for.
    """

    def __init__(self, task: Task, models: Mapping[str, EnergyModel]):
        self.task, self.models = task, models
        self._tables: dict[str, Field] = {}
        self._lock = threading.Lock()  # planners are measured side by side

    @property
    def made_of(self) -> tuple:
        """What decides the fields, for fingerprints: tables are made when first asked for."""
        return self.task, self.models

    def __getitem__(self, name: str) -> Field:
        if name == "true":
            return TrueField(self.task.energies)
        if self.task.dimension != 2:
            return self.models[name]
        with self._lock:
            if name not in self._tables:
                self._tables[name] = tabulate(self.models[name], self.task.half_width)
            return self._tables[name]


@dataclass(frozen=True)
class HeldOut:
    """What fresh samples say of the models, which a planner may know."""

    error: Tensor  # RMSE of the flat model, [S]
    share: Tensor  # of the flat energy's departure from the smooth one that is true, 0 to 1, [S]


def held_out(
    task: Task, models: Mapping[str, EnergyModel], config: Exp2Config, smoother: str = SMOOTHER
) -> HeldOut:
    """The flat model's error, and the least-squares slope of E - smooth on flat - smooth."""
    flat, smooth = models["flat"], models[smoother]
    seeds = [*config.seeds] * len(task.energies)
    draws = generators(seeds, f"{task.name}/held out")
    points = uniform_points(HELD_OUT_POINTS, task.dimension, config.domain_range, draws).to(flat.mean)
    with torch.no_grad():
        true, rugged, expected = TrueField(task.energies)(points), flat(points), smooth(points)
    error = (rugged - true).square().mean(1).sqrt()
    learned, actual = rugged - expected, true - expected
    learned, actual = (part - part.mean(1, keepdim=True) for part in (learned, actual))
    share = (learned * actual).sum(1) / learned.square().sum(1).clamp(min=1e-12)
    return HeldOut(error, share.clamp(0, 1))


def run_planner(
    name: str,
    fields: Mapping[str, Field] | Fields,
    starts: Tensor,
    budget: int,
    config: Exp2Config,
    known: HeldOut,
    stream: str,
) -> Plan:
    """One planner on starts [S, B, d].

    The planner's name is not a variant's: `helm` is one descent on the variant helm_second_difference, as
    `flat` is one on the variant flat; the variant helm, trained with L_HF, serves mollified_descent_hf alone.
    true_energy is smoothed_flat_hop on the true energy: what is left to learn if it does better.

    Args:
        name: of the planner.
        fields: what it may descend on, by the variant's name.
        starts: [S, B, d].
        budget: evaluations a start.
        config: its setting.
        known: of the models, from held-out samples.
        stream: names its random numbers.

    Raises:
        BudgetExceeded: the planner spent more.
    """
    error = torch.zeros_like(known.error) if name == "true_energy" else known.error
    shared = setting(config, error, known.share, f"{stream}/{name}")
    if name in ON_ONE_FIELD:
        planner, field = ON_ONE_FIELD[name]
        plan = planner(fields[field], starts, budget, shared)
    else:
        plan = mollified_descent(fields[smoother_of(name)], fields["flat"], starts, budget, shared)
    if plan.evaluations > budget:
        raise BudgetExceeded(f"{name} spends {plan.evaluations} evaluations, the budget is {budget}")
    return plan


def every_planner(
    run: Run, step: Callable, fields: Fields, planners: tuple[str, ...]
) -> dict[str, dict[str, Tensor]]:
    """A measurement once for each planner, by its name."""
    steps = [
        (step, f"{fields.task.name}/planning/{planner}", fields.task, fields, planner) for planner in planners
    ]
    return dict(zip(planners, run.measure_all(steps), strict=True))


def check_planning(config: Exp2Config) -> None:
    """Refuse what would be found out after the trainings.

    Raises:
        ConfigError: no function is defined in any of the dimensions; or a budget that some planner's settings
            do not fit in (each plans once, in the true energy).
    """
    if config.functions and not any(
        dimension in DEFINITIONS[name].dimensions
        for name, dimension in itertools.product(config.functions, config.dimensions)
    ):
        reject("dimensions", config.dimensions, "one in which some of --functions is defined")
    one = replace(config, seeds=config.seeds[:1])
    fields = dict.fromkeys(("flat", "helm", SMOOTHER, "true"), TrueField([aligned_landscape()]))
    known, starts = HeldOut(torch.ones(1), torch.ones(1)), torch.zeros(1, 1, 2)
    budgets = {"budget_sweep": min(config.budget_sweep), "plan_evaluations": config.plan_evaluations}
    planners = {*LANDSCAPE_PLANNERS, *FUNCTION_PLANNERS} - {*CMA_PLANNERS}  # CMA-ES stops at any budget
    for (field, budget), planner in itertools.product(budgets.items(), sorted(planners)):
        try:
            run_planner(planner, fields, starts, budget, one, known, "check")
        except BudgetExceeded as error:
            reject(field, getattr(config, field), f"what every planner can keep to ({error})")


def smoother_of(planner: str) -> str:
    """The variant whose smooth energy a planner knows: L_HF's for mollified_descent_hf."""
    return "helm" if planner == "mollified_descent_hf" else SMOOTHER


def errors(task: Task, points: Tensor) -> Tensor:
    """Distance of points [S, B, d] to their own energy's nearest global minimum: [S, B]."""
    parts = points.tensor_split(len(task.energies))
    pairs = zip(task.energies, parts, strict=True)
    return torch.cat([distance_to_minimum(part, energy.minimisers) for energy, part in pairs])


def budgets(config: Exp2Config) -> list[int]:
    """The budgets of the curve, the configuration's own among them."""
    return sorted({*config.budget_sweep, config.plan_evaluations})


# ----------------------------------------------------------------------------------------------
# Landscapes
# ----------------------------------------------------------------------------------------------


@reads_settings(*PLAN_FIELDS, "plan_grid", "plan_tolerance")
def measure_landscape_planner(
    task: Task, fields: Fields, planner: str, *, config: Exp2Config, device: torch.device
) -> dict[str, Tensor]:
    """One planner from a grid of starts; those beside the minimum do not count.

    Returns:
        counted [S, B], starts farther than plan_tolerance from the minimum; over the budgets, reached
        [G, S, B], counted starts that end within it, and evaluations [G]; at the configuration's own
        budget, endpoint_error (median over counted starts) [S].
    """
    members = len(task.energies) * len(config.seeds)
    starts = cell_centres(config.plan_grid, config.domain_range).to(device, torch.float32)
    starts = starts.expand(members, -1, -1)
    counted = errors(task, starts) > config.plan_tolerance
    known = held_out(task, fields.models, config, smoother_of(planner))
    measured = {"counted": counted}
    reached, spent = [], []
    for budget in budgets(config):
        plan = run_planner(planner, fields, starts, budget, config, known, f"{task.name}/planning")
        distance = errors(task, plan.points)
        reached.append((distance <= config.plan_tolerance) & counted)
        spent.append(plan.evaluations)
        if budget == config.plan_evaluations:
            away = torch.where(counted, distance, torch.nan)
            measured["endpoint_error"] = away.nanmedian(-1).values
    return measured | {"reached": torch.stack(reached), "evaluations": torch.tensor(spent)}


def record_landscape_planning(
    results: Results,
    prefix: str,
    measured: Mapping[str, Mapping[str, Tensor]],
    config: Exp2Config,
    metric: str,
) -> None:
    """Metrics {prefix}/{planner}/{metric, endpoint_error, evaluations}, and the paired differences.

    Members of several landscapes are averaged, seed by seed. A difference is mollified descent's success
    minus a baseline's on the same flat models and starts, at the configuration's budget and at each of the
    curve ({metric}_at_{budget}), with its 95% interval (see `difference_interval`).
    """
    seeds = len(config.seeds)
    here = budgets(config).index(config.plan_evaluations)
    results.add_array(f"{prefix}/budgets", torch.tensor(budgets(config)))
    rates = {}
    for planner, found in measured.items():
        shares = found["reached"].sum(-1) / found["counted"].sum(-1).clamp(min=1)  # [G, S]
        rates[planner] = shares.double().unflatten(1, (-1, seeds))  # [G, L, seeds]
        results.add_array(f"{prefix}/{planner}/success_by_budget", rates[planner].mean(1))
        results.add_array(f"{prefix}/{planner}/success_by_landscape", rates[planner][here])
        results.add(f"{prefix}/{planner}/{metric}", rates[planner][here].mean(0))
        error = found["endpoint_error"].view(-1, seeds).mean(0)
        results.add(f"{prefix}/{planner}/endpoint_error", error, "length")
        spent = [found["evaluations"][here].item()] * seeds
        results.add(f"{prefix}/{planner}/evaluations", spent, "model evaluations")
    ours = measured["mollified_descent"]
    places = {"": here} | {f"_at_{budget}": index for index, budget in enumerate(budgets(config))}
    for baseline in BASELINES:
        name = f"{prefix}/mollified_descent_minus_{baseline}/{metric}"
        apart = rates["mollified_descent"] - rates[baseline]
        for suffix, index in places.items():
            by_start = ours["reached"][index].double() - measured[baseline]["reached"][index].double()
            interval = difference_interval(apart[index], by_start, ours["counted"])
            results.add(name + suffix, apart[index].mean(0), interval=interval)


def difference_interval(rates: Tensor, by_start: Tensor, counted: Tensor) -> tuple[float, float] | None:
    """95% interval of a mean difference over training seeds and, crossed with them, what they share.

    That is the counted starts of one landscape, or the landscapes where there are several; None for one seed.

    Args:
        rates: differences of success, [L, seeds].
        by_start: the same start by start, [S, B].
        counted: which starts count, [S, B].
    """
    shared = rates.T if len(rates) > 1 else by_start[:, counted[0]]  # [seeds, L] or [S, B']
    return crossed_interval(shared, enumerated=False)


# ----------------------------------------------------------------------------------------------
# Test functions
# ----------------------------------------------------------------------------------------------


def function_starts(task: Task, config: Exp2Config) -> Tensor:
    """Uniform random starts, the same for every planner: [S, B, d]."""
    draws = generators([*config.seeds] * len(task.energies), f"{task.name}/starts")
    points = uniform_points(config.function_starts, task.dimension, config.domain_range, draws)
    return points.to(torch.float32)


@reads_settings(*PLAN_FIELDS, "function_starts", "function_tolerance", "cma_starts")
def measure_function_planner(
    task: Task, fields: Fields, planner: str, *, config: Exp2Config, device: torch.device
) -> dict[str, Tensor]:
    """One planner on every function of a dimension, at the configuration's budget.

    Returns:
        reached [S, B], whether a start's end is within function_tolerance a coordinate (RMS) of a global
        minimum; success [L, seeds], the fraction of starts that did; evaluations [].
    """
    starts = function_starts(task, config).to(device)
    if planner in CMA_PLANNERS:
        starts = starts[:, : config.cma_starts]
    progress = Progress(1, f"{task.name}/{planner}")
    known = held_out(task, fields.models, config)
    plan = run_planner(
        planner, fields, starts, config.plan_evaluations, config, known, f"{task.name}/planning"
    )
    reached = errors(task, plan.points) <= config.function_tolerance * math.sqrt(task.dimension)
    success = reached.cpu().double().mean(-1).view(len(task.energies), len(config.seeds))
    progress.update()
    progress.close(f"success={success.mean().item():.2f}")
    return {"reached": reached, "success": success, "evaluations": torch.tensor(plan.evaluations)}


@reads_settings("seeds", "domain_range")
def measure_function_fit(
    task: Task, fields: Fields, *, config: Exp2Config, device: torch.device
) -> dict[str, Tensor]:
    """How well the flat models fit, and whether the true minimum is a minimum of theirs.

    Returns:
        r2 on fresh points, and minimum_error, how far a descent that begins AT the true minimum leads away
        from it (RMS of a coordinate): [L, seeds].
    """
    flat = fields.models["flat"]
    shape = (len(task.energies), len(config.seeds))
    error = held_out(task, fields.models, config).error
    spread = task.std[:, 0].to(flat.mean)
    minima = [energy.minimisers[:1].expand(shape[1], -1) for energy in task.energies]
    minima = torch.cat(minima).to(flat.mean)[:, None]  # [S, 1, d]
    ends = adam_descent(lambda points, _: flat.gradient(points), minima, 50, 0.05, config.domain_range)
    return {
        "r2": (1 - (error / spread).square()).view(shape),
        "minimum_error": (errors(task, ends)[:, 0] / math.sqrt(task.dimension)).view(shape),
    }


def record_functions(
    results: Results, task: Task, measured: Mapping[str, Mapping[str, Tensor]], fit: Mapping[str, Tensor]
) -> None:
    """Metrics functions/{name}-{d}/{planner}/{success, evaluations}, flat/{r2, minimum_error}.

    And mollified_descent_minus_{baseline}/success, the difference over the starts that both planned from,
    with its 95% interval over training seeds (each has starts of its own), and .../starts, how many they are.
    """
    seeds = len(results.seeds)
    for index, energy in enumerate(task.energies):
        prefix = f"functions/{energy.name}"
        for planner, found in measured.items():
            results.add(f"{prefix}/{planner}/success", found["success"][index])
            spent = [found["evaluations"].item()] * seeds
            results.add(f"{prefix}/{planner}/evaluations", spent, "model evaluations")
        results.add(f"{prefix}/flat/r2", fit["r2"][index])
        results.add(f"{prefix}/flat/minimum_error", fit["minimum_error"][index], "length")
        members = slice(index * seeds, (index + 1) * seeds)
        ours = measured["mollified_descent"]["reached"][members].double()
        for baseline in FUNCTION_BASELINES:
            theirs = measured[baseline]["reached"][members].double()
            starts = theirs.shape[1]
            difference = (ours[:, :starts] - theirs).mean(1)
            interval = mean_interval(difference.tolist()) if seeds > 1 else None
            name = f"{prefix}/mollified_descent_minus_{baseline}"
            results.add(f"{name}/success", difference, interval=interval)
            results.add(f"{name}/starts", [starts] * seeds, "starts of a seed")
