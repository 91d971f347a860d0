"""The figures of what a gradient buys, for experiments 3 and 4: peers, and success at small budgets."""

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from common.latent.controls import BUDGETED, ENOUGH, JUDGED
from common.latent.figures import (
    MODE_LABELS,
    PLANNER_COLORS,
    PLANNER_LABELS,
    Results,
    draw_points,
    interval_of,
    mean_of,
)
from common.latent.tuned import TUNED, UNTUNED
from common.viz_utils import new_figure

PEER_LABELS = {
    "verified_gradient_zeroed": "gradient zeroed",
    "verified_gradient_shuffled": "gradient shuffled",
    "hill_climbing": "hill climbing",
    "icem": "iCEM",
    "mppi": "MPPI",
}
PEER_COLORS = {
    "verified_gradient_zeroed": "#999999",
    "verified_gradient_shuffled": "#56B4E9",
    "hill_climbing": "#8B4513",
    "icem": "#D55E00",
    "mppi": "#F0C060",
}
LABELS = PLANNER_LABELS | {"helm": "HELM"} | PEER_LABELS
COLORS = PLANNER_COLORS | PEER_COLORS
ROWS = (  # of the figure of peers, from the top
    "verified_gradient", "verified_gradient_shuffled", "verified_gradient_zeroed", "helm", "hill_climbing",
    "cem", "coarse_cem", "icem", "mppi", "random_shooting",
)  # fmt: skip


def draw_peers(results: Results, names: Sequence[str], models: Mapping[str, str], horizon: int) -> Figure:
    """Success of every planner and peer at one horizon: a column for each environment and mode.

    Args:
        results: of the run.
        names: environments.
        models: {model: title}, a row of panels each.
        horizon: T.
    """
    columns = [(name, mode) for name in names for mode in MODE_LABELS]
    size = (1.6 + 2.1 * len(columns), 0.9 + 3.0 * len(models))
    figure, axes = new_figure(len(models), len(columns), size, sharex=True, sharey=True)
    for line, (model, title) in zip(axes, models.items(), strict=True):
        for axis, (name, mode) in zip(line, columns, strict=True):
            success = f"{name}/{model}/{{}}/{mode}/T={horizon}/success"
            _draw_rows(axis, results, ROWS, success)
            axis.set_title(f"{name}\n{MODE_LABELS[mode]}, {title}", fontsize=8.5)
    for axis in axes[-1]:
        axis.set_xlabel(f"success rate, T = {horizon}")
    return figure


def _draw_rows(axis: Axes, results: Results, rows: Sequence[str], metric: str) -> dict[str, float]:
    """A point for each planner, from the top; `metric` has {} for its name. Returns where each stands."""
    where = dict(zip(rows, np.arange(len(rows))[::-1].tolist(), strict=True))
    for planner, position in where.items():
        draw_points(axis, results, [metric.format(planner)], [position], COLORS[planner], planner, lying=True)
    axis.set_xlim(-0.05, 1.05)
    axis.set_yticks(list(where.values()), [LABELS[planner] for planner in rows], fontsize=8)
    return where


def draw_tuned(results: Results, names: Sequence[str], models: Mapping[str, str], horizon: int) -> Figure:
    """Success of blind plans with settings chosen at equal tuning, hollow with the usual ones.

    A row of panels for each environment, a column for each model; arguments as of `draw_peers`.
    """
    size = (3.4 + 4.6 * len(models), 1.4 + 3.0 * len(names))
    figure, axes = new_figure(len(names), len(models), size, sharex=True, sharey=True)
    rows = [planner for planner in ROWS if planner in (*TUNED, *UNTUNED)]
    for line, name in zip(axes, names, strict=True):
        for axis, (model, title) in zip(line, models.items(), strict=True):
            success = f"tuned/{name}/{model}/{{}}/open/T={horizon}/success"
            for planner, position in _draw_rows(axis, results, rows, success).items():
                if planner in TUNED:
                    usual = mean_of(results, success.format(f"{planner}_default"))
                    axis.plot(usual, position, "o", color=COLORS[planner], ms=11, markerfacecolor="none")
            axis.set_title(f"{name}, {title}", fontsize=8.5)
    for axis in axes[-1]:
        axis.set_xlabel(f"success of blind plans, T = {horizon}")
    name, (model, title) = names[0], next(iter(models.items()))
    success = f"tuned/{name}/{model}/{{}}/open/T={horizon}/success"
    judged = next(iter(JUDGED))
    others = [planner for planner in rows if planner not in JUDGED]
    strongest = max(others, key=lambda planner: mean_of(results, success.format(planner)))
    gap = success.format(f"{judged}_minus_{strongest}")
    figure.suptitle(
        f"At equal tuning, {LABELS[judged]} minus {LABELS[strongest]}: {_in_words(results, gap)}\n"
        f"{name}, {title}; hollow: with the usual settings",
        fontweight="bold",
    )
    return figure


def _in_words(results: Results, name: str) -> str:
    """A difference with its 95% interval."""
    entry = results["metrics"][name]
    low, high = interval_of(entry)
    return f"{entry['mean']:+.2f} [{low:.2f}, {high:.2f}]"


def draw_budgets(results: Results, names: Sequence[str], models: Mapping[str, str], horizon: int) -> Figure:
    """Success over the evaluations a step of a plan: a row for each model, a column an environment and mode.

    Means over seeds; the intervals would hide each other, and stand in the results. The dotted line is what
    evaluations are counted for, ENOUGH of CEM's success at the largest budget.
    """
    columns = [(name, mode) for name in names for mode in MODE_LABELS]
    size = (0.6 + 2.9 * len(columns), 1.2 + 2.6 * len(models))
    figure, axes = new_figure(len(models), len(columns), size, sharex=True, sharey=True)
    budgets = results["config"]["small_budgets"]
    for line, (model, title) in zip(axes, models.items(), strict=True):
        for axis, (name, mode) in zip(line, columns, strict=True):
            prefix = f"budgets/{name}/{model}"
            for planner in BUDGETED:
                where = f"{prefix}/{planner}/{mode}/T={horizon}"
                rates = [mean_of(results, f"{where}/budget={budget}/success") for budget in budgets]
                axis.plot(budgets, rates, "o-", color=COLORS[planner], label=LABELS[planner], markersize=4)
            best = mean_of(results, f"{prefix}/cem/{mode}/T={horizon}/budget={max(budgets)}/success")
            axis.axhline(ENOUGH * best, color="#444444", ls=":", label=f"{ENOUGH:.0%} of CEM's best")
            chance = mean_of(results, f"{name}/random_policy/T={horizon}/success")
            axis.axhline(chance, color=COLORS["random_policy"], ls="--", label="random policy (exact)")
            axis.set_title(f"{name}\n{MODE_LABELS[mode]}, {title}", fontsize=8.5)
            axis.set_xscale("log", base=2)
            axis.set_xticks(budgets, [str(budget) for budget in budgets], fontsize=7.5)
            axis.set_ylim(-0.03, 1.03)
        line[0].set_ylabel("success rate")
    for axis in axes[-1]:
        axis.set_xlabel("evaluations for each step of a plan")
    figure.legend(*axes[0, 0].get_legend_handles_labels(), loc="outside upper center", ncols=1 + len(columns))
    return figure
