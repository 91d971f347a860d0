"""What the recursion does, as metrics: convergence, Jacobians, gradients, and what longer gradients change.

A puzzle counts as solved where the answer after the last followed segment is right.

Shapes: S seeds, E puzzles, K segments.
"""

import math
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from common.recursion.training import halting_of
from common.run.fingerprint import Measured
from common.run.results import Results
from common.run.run import Run
from exp5_feudal_hrm.analyze_halting import (
    record_foretelling,
    record_halting,
    record_q_rule,
    signals_of,
)
from exp5_feudal_hrm.dataset import Task
from exp5_feudal_hrm.evaluate_recursion import (
    SINGULAR_AT,
    growth,
    log10_jacobian,
    measure_gradients,
    measure_recursion,
    measure_singular_values,
    reported,
    sample_puzzles,
    state_size,
)
from exp5_feudal_hrm.models import HRM
from exp5_feudal_hrm.train_baseline import BASELINES
from exp5_feudal_hrm.train_feudal import feudal_variants

CONVERGED = 1e-3  # relative residual below which a recursion has arrived somewhere


def analyze_recursion(run: Run, task: Task, models: Mapping[str, HRM]) -> None:
    """Follow the recursion of the configuration's variants, compare gradients, halt by what it shows."""
    followed = {name: models[name] for name in run.config.recursion_variants if name in models}
    measured = _measure(run, task, followed)
    for name, model in followed.items():
        _record(run, f"{task.name}/{name}", measured[name], state_size(model))
    if {"baseline", "baseline_segment"} <= followed.keys():
        pair = (measured[name]["recursion"] for name in ("baseline", "baseline_segment"))
        record_longer_gradients(run.results, task.name, *pair, state_size(followed["baseline"]))
    plain = [name for name in followed if name in BASELINES]
    shown = run.measure_all([
        (sample_puzzles, f"{task.name}/{name}/puzzle", task, models[name], measured[name]["recursion"])
        for name in plain
    ])  # fmt: skip
    for name, found in zip(plain, shown, strict=True):
        for part, values in found.items():
            run.results.add_array(f"{task.name}/{name}/puzzle/{part}", values)


def _measure(run: Run, task: Task, models: Mapping[str, HRM]) -> dict[str, dict[str, Measured]]:
    """By variant: recursion on held-out puzzles, training, singular; of baselines gradients. Side by side."""
    config, variants, steps = run.config, BASELINES | feudal_variants(run.config), {}
    last, budget = config.recursion_segments, config.segments
    for name, model in models.items():
        given = task, model, variants[name]
        steps[name, "recursion"] = measure_recursion, *given, "test", last
        steps[name, "training"] = measure_recursion, *given, "train", budget
        steps[name, "singular"] = measure_singular_values, *given, reported(last, SINGULAR_AT)
        if name in BASELINES:
            steps[name, "gradients"] = measure_gradients, task, model, reported(budget)
    done = run.measure_all([
        (step, f"{task.name}/{name}/{what}", *inputs) for (name, what), (step, *inputs) in steps.items()
    ])  # fmt: skip
    found = {name: {} for name in models}
    for (name, what), arrays in zip(steps, done, strict=True):
        found[name][what] = arrays
    return found


def _record(run: Run, prefix: str, found: Mapping[str, Measured], size: int) -> None:
    """One variant's metrics."""
    budget, halting, measured = run.config.segments, halting_of(run.config), found["recursion"]
    record_recursion(run.results, prefix, measured, size, found["singular"]["singular_value"])
    exact = measured["exact"][:, :, :budget]
    signals, learned = (
        signals_of(followed, budget, size, halting) for followed in (measured, found["training"])
    )
    record_foretelling(run.results, prefix, signals, measured["exact"])
    record_halting(run.results, prefix, learned, signals, exact)
    record_q_rule(run.results, prefix, measured["q"][:, :, :budget], exact, halting)
    if "gradients" in found:
        record_gradients(run.results, prefix, found["gradients"], reported(budget))


def add_known(results: Results, name: str, values: Tensor, unit: str = "1") -> None:
    """Record a metric [S], unless no seed has a number, as where a model solves every puzzle or none."""
    if not values.isnan().all():
        results.add(name, values, unit)


def median_over(values: Tensor, rows: Tensor) -> Tensor:
    """Median over a member's chosen puzzles, nan where there are none: [S, E, ..], [S, E] bool -> [S, ..]."""
    rows = rows.view(*rows.shape, *[1] * (values.dim() - 2)).expand_as(values)
    return torch.where(rows, values, math.nan).nanmedian(1).values


def record_recursion(
    results: Results, prefix: str, measured: Mapping[str, Tensor], size: int, singular: Tensor
) -> None:
    """Metrics {prefix}/recursion/{residual,log10_jacobian,growth,singular_value}/{solved,unsolved}, arrays.

    Medians over the puzzles; `wrong_fixed_point`: the share of unsolved puzzles whose residual is below
    CONVERGED at the last segment, `fixed_point` the same of solved ones. The singular values [S, E', K'] are
    of the first puzzles, at SINGULAR_AT and the last segment; /{solved,unsolved}: at the last.
    """
    solved, segments = measured["exact"][:, :, -1], measured["exact"].shape[2]
    groups = {"solved": solved, "unsolved": ~solved}
    add_known(results, f"{prefix}/recursion/solved", solved.double().mean(1))
    followed = {
        "residual": measured["residual"],
        "log10_jacobian": log10_jacobian(measured["log_tangent"], size),
    }
    for quantity, values in followed.items():
        medians = {group: median_over(values, rows) for group, rows in groups.items()}  # [S, K]
        medians["unsolved_minus_solved"] = medians["unsolved"] - medians["solved"]
        for group, found in medians.items():
            results.add_array(f"{prefix}/recursion/{quantity}/{group}", found.T)
            horizon = "T" if quantity == "log10_jacobian" else "segment"
            for k in reported(segments):
                add_known(results, f"{prefix}/recursion/{quantity}/{group}/{horizon}={k}", found[:, k - 1])
    for group, rows in groups.items():
        slope = median_over(growth(measured["log_tangent"]), rows)
        add_known(results, f"{prefix}/recursion/growth/{group}", slope, "nats a segment")
        arrived = (measured["residual"][:, :, -1] < CONVERGED) & rows
        name = "fixed_point" if group == "solved" else "wrong_fixed_point"
        add_known(results, f"{prefix}/recursion/{name}", arrived.sum(1) / rows.sum(1))
        largest = median_over(singular[..., -1], rows[:, : singular.shape[1]])
        add_known(results, f"{prefix}/recursion/singular_value/{group}", largest)
    for k, values in zip(reported(segments, SINGULAR_AT), singular.unbind(-1), strict=True):
        add_known(results, f"{prefix}/recursion/singular_value/segment={k}", values.median(1).values)


def record_longer_gradients(
    results: Results, task: str, short: Mapping[str, Tensor], longer: Mapping[str, Tensor], size: int
) -> None:
    """Metrics {task}/baseline_segment_minus_baseline/recursion/{log10_residual,log10_jacobian,growth}/...

    Medians over the puzzles that both models of a seed solve: below 0 where the model that was trained with
    gradients through the segment converges faster.
    """
    prefix = f"{task}/baseline_segment_minus_baseline/recursion"
    both = short["exact"][:, :, -1] & longer["exact"][:, :, -1]

    def quantities(measured: Mapping[str, Tensor]) -> dict[str, Tensor]:
        tiny = torch.finfo(measured["residual"].dtype).eps
        return {
            "log10_residual": measured["residual"].clamp(min=tiny).log10(),
            "log10_jacobian": log10_jacobian(measured["log_tangent"], size),
        }

    first, second = quantities(short), quantities(longer)
    for quantity, values in second.items():
        apart = median_over(values, both) - median_over(first[quantity], both)  # [S, K]
        results.add_array(f"{prefix}/{quantity}", apart.T)
        for k in reported(apart.shape[1]):
            add_known(results, f"{prefix}/{quantity}/segment={k}", apart[:, k - 1], "log10")
    slopes = [median_over(growth(measured["log_tangent"]), both) for measured in (longer, short)]
    add_known(results, f"{prefix}/growth", slopes[0] - slopes[1], "nats a segment")


def record_gradients(
    results: Results, prefix: str, measured: Mapping[str, Tensor], segments: Sequence[int]
) -> None:
    """Metrics and arrays {prefix}/gradient_{cosine,ratio}/{segment,all}/segment={k}."""
    for name, rows in measured.items():
        results.add_array(f"{prefix}/gradient_{name}", rows)
        for k, values in zip(segments, rows, strict=True):
            results.add(f"{prefix}/gradient_{name}/segment={k}", values)
