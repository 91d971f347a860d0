"""The figures of experiment 3, drawn from saved results alone.

Arrays of an environment: position [N, 2] (column, row) and distance [N] of its states, states
[S, E', T + 1] of kept episodes, pictures of the states that they pass.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from common.model_evaluation import PICTURE_TILE
from common.viz_utils import COLORS, new_figure, plot_band

Arrays = Mapping[str, np.ndarray]
Results = Mapping[str, Any]

PLANNERS = ("flat_gradient", "verified_gradient", "helm", "cem", "coarse_cem", "random_shooting")
LABELS = {
    "flat_gradient": "flat gradient, as published",
    "verified_gradient": "verified gradient",
    "helm": "HELM, coarse to fine",
    "cem": "CEM",
    "coarse_cem": "CEM, coarse to fine",
    "random_shooting": "random shooting",
    "random_policy": "random policy (exact)",
    "shortest_path": "shortest path",
}
MODELS = {"flat": "flat model", "helm": "HELM's model", "oracle": "oracle model"}
VARIANTS = {"flat": "flat", "spectral": "+ spectral", "hf": "+ HF", "helm": "full HELM"}
MODES = {"open": "open loop", "closed": "closed loop"}


def draw_figures(results: Results, arrays: Arrays) -> dict[str, Figure | list[Figure]]:
    """Every figure of a run, by file name; exp3_episode.gif as its frames."""
    names = [
        name.removesuffix("/data_coverage") for name in results["metrics"] if name.endswith("/data_coverage")
    ]
    studied = names[: results["config"]["study_environments"]]
    shown = "Empty-16x16" if "Empty-16x16" in names else names[0]
    figures: dict[str, Figure | list[Figure]] = {
        "exp3_success_rate.png": draw_success(results, names),
        "exp3_latent_topology.png": draw_topology(results, arrays, shown),
        "exp3_paths.png": draw_paths(results, arrays, shown),
        "exp3_training.png": draw_training(arrays, names),
        "exp3_episode.gif": draw_episode(results, arrays, names[0]),
    }
    if studied:
        figures["exp3_efficiency.png"] = draw_efficiency(results, studied)
        figures["exp3_ablation.png"] = draw_ablation(results, studied)
    return figures


def _mean(results: Results, name: str) -> float:
    entry = results["metrics"].get(name)
    return float("nan") if entry is None or entry["mean"] is None else entry["mean"]


# ----------------------------------------------------------------------------------------------
# Success
# ----------------------------------------------------------------------------------------------


def draw_success(results: Results, names: Sequence[str]) -> Figure:
    """Success over the horizon: a row for each environment and mode, a column for each model."""
    rows = [(name, mode) for name in names for mode in MODES]
    size = (9.5, 0.9 + 2.05 * len(rows))
    figure, axes = new_figure(len(rows), len(MODELS), size, sharex=True, sharey=True)
    for line, (name, mode) in zip(axes, rows, strict=True):
        for axis, (model, title) in zip(line, MODELS.items(), strict=True):
            _success_panel(axis, results, name, model, mode)
            axis.set_title(f"{name}, {MODES[mode]}: {title}", fontsize=8.5)
        line[0].set_ylabel("success rate")
    for axis in axes[-1]:
        axis.set_xlabel("horizon T [steps]")
    figure.legend(*axes[0, 0].get_legend_handles_labels(), loc="outside upper center", ncols=4)
    return figure


def _success_panel(axis: Axes, results: Results, name: str, model: str, mode: str) -> None:
    horizons = np.array(results["config"]["planning_horizons"])
    for control, style in (("shortest_path", ":"), ("random_policy", "--")):
        values = [_mean(results, f"{name}/{control}/T={horizon}/success") for horizon in horizons]
        axis.plot(horizons, values, style, color=COLORS[control], label=LABELS[control], linewidth=1.3)
    for planner in PLANNERS:
        entries = [
            results["metrics"][f"{name}/{model}/{planner}/{mode}/T={horizon}/success"] for horizon in horizons
        ]
        mean = [entry["mean"] for entry in entries]
        low, high = zip(*(entry["interval95"] for entry in entries), strict=True)
        axis.plot(horizons, mean, marker="o", color=COLORS[planner], label=LABELS[planner])
        axis.fill_between(horizons, low, high, color=COLORS[planner], alpha=0.15, linewidth=0)
    axis.set_ylim(-0.03, 1.03)
    axis.set_xticks(horizons)


def draw_efficiency(results: Results, names: Sequence[str]) -> Figure:
    """Success over transition evaluations and over milliseconds a plan, on HELM's model, open loop."""
    figure, axes = new_figure(len(names), 2, (9.0, 0.9 + 2.7 * len(names)), sharey="row")
    horizon = results["config"]["study_horizon"]
    for line, name in zip(axes, names, strict=True):
        for planner in PLANNERS:
            success, evaluations, milliseconds = _sweep(results, name, planner)
            style = {"marker": "o", "color": COLORS[planner], "label": LABELS[planner]}
            line[0].plot(evaluations, success, **style)
            line[1].plot(milliseconds, success, **style)
        line[0].set_title(f"{name}, open loop, T = {horizon}")
        line[0].set_ylabel("success rate")
        random = _mean(results, f"{name}/random_policy/T={horizon}/success")
        for axis in line:
            axis.axhline(random, color=COLORS["random_policy"], ls="--")
            axis.set_ylim(-0.03, 1.03)
        ticks = [budget * horizon for budget in results["config"]["budget_sweep"]]
        line[0].set_xscale("log")
        line[0].set_xticks(ticks, [f"{tick:,}" for tick in ticks])
        line[0].minorticks_off()
    axes[-1, 0].set_xlabel("transition evaluations a plan (a backward counts as two forwards)")
    axes[-1, 1].set_xlabel("milliseconds a plan, all episodes in one batch")
    figure.legend(*axes[0, 0].get_legend_handles_labels(), loc="outside upper center", ncols=3)
    return figure


def _sweep(results: Results, name: str, planner: str) -> tuple[list[float], list[float], list[float]]:
    """Success, evaluations and milliseconds over the budgets."""
    columns: tuple[list[float], list[float], list[float]] = ([], [], [])
    for budget in results["config"]["budget_sweep"]:
        prefix = f"sweep/{name}/budget={budget}/{planner}"
        columns[0].append(_mean(results, f"{prefix}/success"))
        columns[1].append(_mean(results, f"{prefix}/evaluations"))
        columns[2].append(results["timings"][f"{prefix}/milliseconds"])
    return columns


# ----------------------------------------------------------------------------------------------
# Ablation
# ----------------------------------------------------------------------------------------------


def draw_ablation(results: Results, names: Sequence[str]) -> Figure:
    """Success of the four variants of the model, and what each changes in the model."""
    figure, axes = new_figure(len(names), 4, (13.5, 0.6 + 2.9 * len(names)))
    for line, name in zip(axes, names, strict=True):
        for axis, mode in zip(line, MODES, strict=False):
            _ablation_bars(axis, results, name, mode)
        _model_bars(line[2], results, name, {"jacobian_50": "norm"})
        line[2].set_title(r"$\|\partial z_{50}/\partial z_0\|_F$")
        line[2].set_yscale("log")
        knowledge = {"spearman": "Spearman", "accuracy_1": "1 step", "accuracy_10": "10", "accuracy_50": "50"}
        _model_bars(line[3], results, name, knowledge)
        line[3].set_title("Spearman, accuracy")
        line[3].legend(ncols=2)
        line[3].set_ylim(0, 1.35)
    return figure


def _ablation_bars(axis: Axes, results: Results, name: str, mode: str) -> None:
    horizon = results["config"]["study_horizon"]
    positions = np.arange(len(VARIANTS))
    styles = {"unverified": (COLORS["flat_gradient"], "unverified (flat gradient)")}
    styles["verified"] = (COLORS["verified_gradient"], "verified gradient")
    for shift, (planner, (color, label)) in zip((-0.2, 0.2), styles.items(), strict=True):
        entries = [
            results["metrics"][f"ablation/{name}/{mode}/T={horizon}/{variant}/{planner}/success"]
            for variant in VARIANTS
        ]
        mean = np.array([entry["mean"] for entry in entries])
        error = np.abs(np.array([entry["interval95"] for entry in entries]).T - mean)
        axis.bar(positions + shift, mean, 0.38, yerr=error, color=color, label=label, capsize=2)
    axis.axhline(_mean(results, f"{name}/random_policy/T={horizon}/success"), color="#999999", ls="--")
    axis.set_title(f"{name}, {MODES[mode]}, T = {horizon}")
    axis.set_ylabel("success rate")
    axis.set_ylim(0, 1.3)
    axis.set_xticks(positions, VARIANTS.values(), fontsize=8)
    axis.legend(loc="upper left")


def _model_bars(axis: Axes, results: Results, name: str, metrics: Mapping[str, str]) -> None:
    width, colors = 0.8 / len(metrics), ("#0072B2", "#009E73", "#E69F00", "#CC79A7")
    positions = np.arange(len(VARIANTS))
    for index, (metric, label) in enumerate(metrics.items()):
        values = [_mean(results, f"{name}/{variant}/{metric}") for variant in VARIANTS]
        shift = (index - (len(metrics) - 1) / 2) * width
        axis.bar(positions + shift, values, 0.95 * width, color=colors[index], label=label)
    axis.set_xticks(positions, VARIANTS.values(), fontsize=8)


# ----------------------------------------------------------------------------------------------
# Diagnosis
# ----------------------------------------------------------------------------------------------


def draw_topology(results: Results, arrays: Arrays, name: str) -> Figure:
    """Latent over true distance; the energy over the grid with its descent field, beside the true one."""
    figure, axes = new_figure(2, 3, (11.5, 6.6))
    position, distance = arrays[f"{name}/task/position"], arrays[f"{name}/task/distance"]
    for line, model in zip(axes, ("flat", "helm"), strict=True):
        steps = arrays[f"{name}/{model}/pairs/steps"]
        jitter = np.linspace(-0.3, 0.3, len(steps))
        line[0].plot(
            steps + jitter, arrays[f"{name}/{model}/pairs/latent"][0], ".", color=COLORS[model],
            markersize=2, alpha=0.35, rasterized=True,
        )  # fmt: skip
        rank = _mean(results, f"{name}/{model}/spearman")
        line[0].set_title(f"{MODELS[model]}: Spearman {rank:.2f}")
        line[0].set_xlabel("true distance [steps]")
        line[0].set_ylabel("latent distance")
        _landscape(line[1], position, arrays[f"{name}/{model}/energy"][0])
        line[1].set_title("learned energy, and downhill")
        _landscape(line[2], position, distance)
        line[2].set_title("true steps to the goal")
    figure.suptitle(f"{name}: what latent distance knows of the steps to the goal")
    return figure


def _landscape(axis: Axes, position: np.ndarray, energy: np.ndarray) -> None:
    """The lowest energy of each cell over the states in it, with arrows to the lowest neighbouring cell."""
    columns, rows = position.max(0) + 1
    grid = np.full((rows, columns), np.inf)
    np.minimum.at(grid, (position[:, 1], position[:, 0]), energy)
    grid = np.where(np.isfinite(grid), grid, np.nan)
    image = axis.imshow(grid, cmap="viridis_r")
    axis.figure.colorbar(image, ax=axis, shrink=0.8)
    padded = np.pad(np.where(np.isnan(grid), np.inf, grid), 1, constant_values=np.inf)
    moves = np.array([(0, 0), (0, 1), (1, 0), (0, -1), (-1, 0)])
    around = np.stack([padded[1 + y : 1 + y + rows, 1 + x : 1 + x + columns] for y, x in moves])
    best = moves[around.argmin(0)]  # [rows, columns, 2]
    ys, xs = np.nonzero(~np.isnan(grid) & best.any(-1))
    step = best[ys, xs]
    axis.quiver(
        xs, ys, step[:, 1], step[:, 0], color="white", angles="xy", scale_units="xy", scale=2.2, width=0.006
    )
    axis.set_xlim(position[:, 0].min() - 0.5, position[:, 0].max() + 0.5)
    axis.set_ylim(position[:, 1].max() + 0.5, position[:, 1].min() - 0.5)
    axis.set_axis_off()


def draw_paths(results: Results, arrays: Arrays, name: str) -> Figure:
    """The paths that plans from the reset state took, open loop, on MiniGrid's picture."""
    horizon = results["config"]["study_horizon"]
    figure, axes = new_figure(2, len(PLANNERS), (13.0, 5.0))
    for line, model in zip(axes, ("flat", "helm"), strict=True):
        for axis, planner in zip(line, PLANNERS, strict=True):
            states = arrays[f"{name}/{model}/{planner}/open/T={horizon}/states"][0, 0]
            reached = _draw_path(axis, arrays, name, states, COLORS[planner])
            axis.set_title(f"{LABELS[planner]}\n{MODELS[model]}: {reached}", fontsize=8.5)
    return figure


def _draw_path(axis: Axes, arrays: Arrays, name: str, states: np.ndarray, color: str) -> str:
    picture, distance = arrays[f"{name}/task/picture"], arrays[f"{name}/task/distance"]
    position = arrays[f"{name}/task/position"]
    axis.imshow(picture)
    path = (position[states] + 0.5) * PICTURE_TILE + np.linspace(-2, 2, len(states))[:, None]
    axis.plot(path[:, 0], path[:, 1], color=color, linewidth=1.5)
    axis.plot(*path[-1], "o", color=color, markersize=7, markeredgecolor="white")
    axis.set_axis_off()
    left = distance[states[-1]]
    moved = int((np.diff(states) != 0).sum())
    if not np.isfinite(left):
        return "no way back"
    return f"goal after {moved} moves" if left == 0 else f"{left:.0f} steps short"


def draw_episode(results: Results, arrays: Arrays, name: str) -> list[Figure]:
    """Closed loop from the reset state, side by side: the frames of an animation."""
    horizon = results["config"]["study_horizon"]
    shown = (("flat", "flat_gradient"), ("helm", "helm"), ("helm", "cem"))
    episodes = [
        arrays[f"{name}/{model}/{planner}/closed/T={horizon}/states"][0, 0] for model, planner in shown
    ]
    last = max(int(np.flatnonzero(np.diff(states, prepend=-1))[-1]) for states in episodes)
    states_of, pixels = arrays[f"{name}/pictures/states"], arrays[f"{name}/pictures/pixels"]
    frames = []
    for time in range(min(last, horizon) + 1):
        figure, axes = new_figure(1, len(shown), (6.6, 2.7))
        for axis, states, (model, planner) in zip(axes[0], episodes, shown, strict=True):
            axis.imshow(pixels[np.searchsorted(states_of, states[time])])
            axis.set_axis_off()
            axis.set_title(f"{LABELS[planner]}\n{MODELS[model]}", fontsize=8)
        figure.suptitle(f"{name}, closed loop, step {time}", fontsize=9)
        frames.append(figure)
    return frames


def draw_training(arrays: Arrays, names: Sequence[str]) -> Figure:
    """Losses over optimiser steps, a row for each environment."""
    terms = {"reconstruction": "reconstruction", "dynamics": "dynamics", "spectral": "spectral penalty"}
    figure, axes = new_figure(len(names), len(terms), (10.5, 0.6 + 2.3 * len(names)))
    for line, name in zip(axes, names, strict=True):
        for axis, (term, label) in zip(line, terms.items(), strict=True):
            for arm, variant in VARIANTS.items():
                key = f"{name}/{arm}/history/{term}"
                if key in arrays:
                    steps = arrays[f"{name}/{arm}/history/iteration"]
                    plot_band(axis, steps, arrays[key], variant, COLORS[arm], marker="", linewidth=1.2)
            axis.set_yscale("log")
            axis.set_title(f"{name}: {label}")
            axis.set_xlabel("optimiser steps")
    axes[0, 0].legend()
    return figure
