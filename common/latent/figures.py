"""What the figures of experiments 3 and 4 share: names, success over the horizon, landscapes, episodes.

Everything is drawn from saved results alone. Arrays of an environment: position [N, 2] (column, row) and
distance [N] of its states, energy [S, N] of a model, states [S, E', T + 1] of kept episodes, and pictures of
the states that these pass.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from common.viz_utils import new_figure, plot_band

Arrays = Mapping[str, np.ndarray]
Results = Mapping[str, Any]

PLANNER_COLORS = {
    "flat_gradient": "#D55E00",
    "verified_gradient": "#009E73",
    "helm": "#0072B2",
    "cem": "#CC79A7",
    "coarse_cem": "#882255",
    "random_shooting": "#E69F00",
    "random_policy": "#999999",
    "shortest_path": "#000000",
}

PLANNER_LABELS = {
    "flat_gradient": "flat gradient, as published",
    "verified_gradient": "verified gradient",
    "helm": "HELM, coarse to fine",
    "cem": "CEM",
    "coarse_cem": "CEM, coarse to fine",
    "random_shooting": "random shooting",
}
CONTROL_LABELS = {"shortest_path": "shortest path", "random_policy": "random policy (exact)"}
CONTROL_STYLES = {"shortest_path": ":", "random_policy": "--"}
MODE_LABELS = {"open": "open loop", "closed": "closed loop"}
SHOWN = "Empty-16x16"  # where there is room between planners


def measured_environments(results: Results) -> list[str]:
    """The environments of a run in the order of its configuration, as metrics name them."""
    suffix = "/data_coverage"
    return [name.removesuffix(suffix) for name in results["metrics"] if name.endswith(suffix)]


def mean_of(results: Results, name: str) -> float:
    """The mean of a metric over seeds; nan where it was not measured."""
    entry = results["metrics"].get(name)
    return float("nan") if entry is None or entry["mean"] is None else entry["mean"]


def shown_environment(names: Sequence[str]) -> str:
    """That figures comparing planners in one environment show: SHOWN if it was measured, or the first."""
    return SHOWN if SHOWN in names else names[0]


def short_label(planner: str) -> str:
    """A planner's name as far as its first comma."""
    return PLANNER_LABELS[planner].partition(",")[0]


# ----------------------------------------------------------------------------------------------
# Success
# ----------------------------------------------------------------------------------------------


def draw_success(results: Results, names: Sequence[str], models: Mapping[str, str]) -> Figure:
    """Success over the horizon: a row for each environment and mode, a column for each of {model: title}."""
    rows = [(name, mode) for name in names for mode in MODE_LABELS]
    size = (0.5 + 3.1 * len(models), 0.9 + 2.2 * len(rows))
    figure, axes = new_figure(len(rows), len(models), size, sharex=True, sharey=True)
    for line, (name, mode) in zip(axes, rows, strict=True):
        for axis, (model, title) in zip(line, models.items(), strict=True):
            _success_panel(axis, results, name, model, mode)
            axis.set_title(f"{name}, {MODE_LABELS[mode]}\n{title}", fontsize=8.5)
        line[0].set_ylabel("success rate")
    for axis in axes[-1]:
        axis.set_xlabel("horizon T [steps]")
    figure.legend(*axes[0, 0].get_legend_handles_labels(), loc="outside upper center", ncols=4)
    return figure


def _success_panel(axis: Axes, results: Results, name: str, model: str, mode: str) -> None:
    horizons = results["config"]["planning_horizons"]
    for control in CONTROL_LABELS:
        draw_control(axis, results, name, control, horizons)
    for planner, label in PLANNER_LABELS.items():
        metrics = [f"{name}/{model}/{planner}/{mode}/T={horizon}/success" for horizon in horizons]
        draw_line(axis, results, metrics, horizons, color=PLANNER_COLORS[planner], label=label)
    axis.set_ylim(-0.03, 1.03)
    axis.set_xticks(horizons)


def draw_control(axis: Axes, results: Results, name: str, control: str, horizons: Sequence[int]) -> None:
    """What frames the planners in an environment, over the horizon."""
    values = [mean_of(results, f"{name}/{control}/T={horizon}/success") for horizon in horizons]
    style = {"color": PLANNER_COLORS[control], "label": CONTROL_LABELS[control], "linewidth": 1.3}
    axis.plot(horizons, values, CONTROL_STYLES[control], **style)


def draw_line(
    axis: Axes, results: Results, metrics: Sequence[str], x: Sequence[float], color: str, label: str
) -> None:
    """A line through metrics with the band of their 95% intervals."""
    mean, low, high = _with_intervals(results, metrics)
    axis.plot(x, mean, marker="o", color=color, label=label)
    axis.fill_between(x, low, high, color=color, alpha=0.15, linewidth=0)


def draw_points(
    axis: Axes,
    results: Results,
    metrics: Sequence[str],
    positions: Sequence[float],
    color: str,
    label: str,
    lying: bool = False,
) -> None:
    """A dot a metric with a whisker of its 95% interval, for many side by side; or lying, in rows."""
    mean, low, high = _with_intervals(results, metrics)
    reach = np.abs([low - mean, high - mean])
    x, y, xerr, yerr = (mean, positions, reach, None) if lying else (positions, mean, None, reach)
    style = {"fmt": "o", "color": color, "markersize": 6, "elinewidth": 2, "label": label}
    axis.errorbar(x, y, yerr, xerr, **style)


def draw_bars(
    axis: Axes, results: Results, metrics: Sequence[str], positions: np.ndarray, width: float, **style: object
) -> None:
    """Bars of metrics with their 95% intervals."""
    mean, low, high = _with_intervals(results, metrics)
    axis.bar(positions, mean, width, yerr=np.abs([low - mean, high - mean]), capsize=2, **style)


def _with_intervals(results: Results, metrics: Sequence[str]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Means of metrics and the ends of their 95% intervals."""
    entries = [results["metrics"][metric] for metric in metrics]
    low, high = zip(*(interval_of(entry) for entry in entries), strict=True)
    return np.array([entry["mean"] for entry in entries]), np.array(low), np.array(high)


def interval_of(entry: Mapping[str, Any]) -> list[float]:
    """Over seeds and starts; of one seed over starts alone; the mean where there is neither."""
    return entry.get("interval95") or entry.get("starts95") or [entry["mean"]] * 2


# ----------------------------------------------------------------------------------------------
# The grid
# ----------------------------------------------------------------------------------------------


def draw_landscape(axis: Axes, position: np.ndarray, energy: np.ndarray, **colorbar: object) -> None:
    """The lowest energy of each cell over the states in it, with arrows to the lowest neighbouring cell."""
    columns, rows = position.max(0) + 1
    grid = np.full((rows, columns), np.inf)
    np.minimum.at(grid, (position[:, 1], position[:, 0]), energy)
    image = axis.imshow(np.where(np.isfinite(grid), grid, np.nan), cmap="viridis_r")
    axis.figure.colorbar(image, ax=axis, shrink=0.8, **colorbar)
    padded = np.pad(grid, 1, constant_values=np.inf)
    moves = np.array([(0, 0), (0, 1), (1, 0), (0, -1), (-1, 0)])
    around = np.stack([padded[1 + y : 1 + y + rows, 1 + x : 1 + x + columns] for y, x in moves])
    best = moves[around.argmin(0)]  # [rows, columns, 2]
    ys, xs = np.nonzero(np.isfinite(grid) & best.any(-1))
    step = best[ys, xs]
    axis.quiver(
        xs, ys, step[:, 1], step[:, 0], color="white", angles="xy", scale_units="xy", scale=2.2, width=0.006
    )
    axis.set_xlim(position[:, 0].min() - 0.5, position[:, 0].max() + 0.5)
    axis.set_ylim(position[:, 1].max() + 0.5, position[:, 1].min() - 0.5)
    axis.set_axis_off()


def draw_pairs(axis: Axes, arrays: Arrays, prefix: str, color: str) -> None:
    """The model's distance over the true steps, for the pairs of states kept under `prefix`."""
    steps = arrays[f"{prefix}/pairs/steps"]
    jitter = np.linspace(-0.3, 0.3, len(steps))
    axis.plot(
        steps + jitter, arrays[f"{prefix}/pairs/latent"][0], ".", color=color, markersize=2, alpha=0.35,
        rasterized=True,
    )  # fmt: skip


def draw_episode(arrays: Arrays, name: str, horizon: int, shown: Mapping[str, str]) -> Iterator[Figure]:
    """Closed loop from the reset state, side by side: the frames of an animation, one figure drawn anew.

    Args:
        arrays: of the run.
        name: environment.
        horizon: of the episodes.
        shown: {title: "model/planner"} of each panel.
    """
    episodes = [arrays[f"{name}/{planned}/closed/T={horizon}/states"][0, 0] for planned in shown.values()]
    last = max(int(np.flatnonzero(np.diff(states, prepend=-1))[-1]) for states in episodes)
    states_of, pixels = arrays[f"{name}/pictures/states"], arrays[f"{name}/pictures/pixels"]
    figure, axes = new_figure(1, len(shown), (2.2 * len(shown), 2.7))
    images = [axis.imshow(pixels[0]) for axis in axes[0]]
    heading = figure.suptitle("", fontsize=9)
    for axis, title in zip(axes[0], shown, strict=True):
        axis.set_axis_off()
        axis.set_title(title, fontsize=8)
    for time in range(last + 1):
        heading.set_text(f"{name}, closed loop, step {time}")
        for image, states in zip(images, episodes, strict=True):
            image.set_data(pixels[np.searchsorted(states_of, states[time])])
        yield figure
        figure.set_layout_engine("none")  # every frame is laid out as the first


# ----------------------------------------------------------------------------------------------
# Training
# ----------------------------------------------------------------------------------------------


def draw_training(
    arrays: Arrays, names: Sequence[str], terms: Mapping[str, str], variants: Mapping[str, tuple[str, str]]
) -> Figure:
    """Losses over optimiser steps, a row for each environment.

    Args:
        arrays: of the run.
        names: environments.
        terms: {term of the loss: title}, a column each.
        variants: {variant: (label, colour)}.
    """
    figure, axes = new_figure(len(names), len(terms), (3.3 * len(terms), 0.9 + 2.4 * len(names)))
    handles, widths = {}, np.linspace(2.8, 1.0, len(variants))  # what lies below another shows as its rim
    for line, name in zip(axes, names, strict=True):
        line[0].set_ylabel("term of the loss")
        for axis, (term, title) in zip(line, terms.items(), strict=True):
            for (variant, (label, color)), width in zip(variants.items(), widths, strict=True):
                key = f"{name}/{variant}/history/{term}"
                if key in arrays:
                    steps = arrays[f"{name}/{variant}/history/iteration"]
                    plot_band(axis, steps, arrays[key], label, color, marker="", linewidth=width)
            handles |= dict(zip(*axis.get_legend_handles_labels()[::-1], strict=True))
            axis.set_yscale("log")
            axis.set_title(f"{name}\n{title}", fontsize=9.5)
            axis.set_xlabel("optimiser steps")
    figure.legend(handles.values(), handles.keys(), loc="outside upper center", ncols=5)
    return figure
