"""The figures of experiment 7, drawn from saved results alone."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import NullFormatter

from common.latent.figures import draw_points, mean_of
from common.viz_utils import COLORS, new_figure, plot_band

Arrays = Mapping[str, np.ndarray]
Results = Mapping[str, Any]

PLANNERS = {  # label and colour
    "belief": ("belief, growing horizon", "#009E73"),
    "belief_whole": ("belief on all states", "#0072B2"),
    "belief_ungrown": ("belief, horizon T throughout", "#56B4E9"),
    "belief_uncapped": ("belief, horizon grows to T", "#CC6677"),
    "belief_verified": ("verified gradient, same model", "#999933"),
    "oracle": ("belief in the true dynamics", "#332288"),
    "greedy": ("following V", "#000000"),
    "cem": ("CEM", "#CC79A7"),
    "cem_growing": ("CEM, states and horizons of belief", "#882255"),
    "cem_equal_time": ("CEM, about equal time", "#AA4499"),
    "random_shooting": ("random shooting", "#E69F00"),
    "random_policy": ("random policy", "#999999"),
    "verified_gradient": ("verified gradient, flat latent", "#D55E00"),
    "flat_gradient": ("flat gradient, flat latent", "#8B3A00"),
}
MODELS = {"spatial": ("flat, unsnapped", COLORS["flat"]), "snapped": ("HELM's, snapped", COLORS["helm"])}
ACCURACIES = (1, 2, 5, 10, 20, 50)
TERMS = {"dynamics": "squared error of latents", "contrast": "InfoNCE"}
KERNEL_TERMS = {"moves": "moves", "changes": "changes of the map", "goals": "goals"}
WALL, LAVA, GOAL_CELL = 2, 9, 8  # MiniGrid's numbers of objects, drawn in a colour of their own
CLAIMED = ("FourRooms", "SimpleCrossingS9N3", "DoorKey-8x8", "KeyCorridorS3R1")  # shown where room is short
WIDEST_LEGEND = 9.5  # inches that a legend of four columns takes
PANELS = 9  # of a figure at most


def draw_figures(results: Results, arrays: Arrays) -> dict[str, Figure | Iterator[Figure]]:
    """Every figure of a run, by file name; exp7_episode.gif as its frames."""
    every = results["config"]["families"]
    families, claimed = every[:PANELS], [env for env in CLAIMED if env in every] or every[: len(CLAIMED)]
    return {
        "exp7_unseen_layouts.png": draw_success(results, families),
        "exp7_gradient_fidelity.png": draw_fidelity(results, every),
        "exp7_layouts.png": draw_layouts(results, arrays),
        "exp7_rollout_accuracy.png": draw_accuracy(results, claimed),
        "exp7_efficiency.png": draw_efficiency(results, claimed),
        "exp7_episode.gif": draw_episode(results, arrays),
        "exp7_training.png": draw_training(arrays),
    }


def draw_success(results: Results, families: Sequence[str]) -> Figure:
    """Success at each horizon on held-out layouts, open loop, a panel for each family; 95% intervals."""
    columns = min(len(families), 3)
    rows = -(-len(families) // columns)
    size = max(1.0 + 3.6 * columns, WIDEST_LEGEND), 1.4 + 3.0 * rows
    figure, axes = new_figure(rows, columns, size, sharey=True)
    horizons, metrics = results["config"]["planning_horizons"], results["metrics"]
    shown = [name for name in PLANNERS if f"{families[0]}/{name}/open/T={horizons[0]}/success" in metrics]
    for axis, env in zip(axes.flat, families, strict=False):
        for index, planner in enumerate(shown):
            label, color = PLANNERS[planner]
            names = [f"{env}/{planner}/open/T={horizon}/success" for horizon in horizons]
            aside = 0.7 * (index / max(len(shown) - 1, 1) - 0.5)
            if all(name in metrics for name in names):
                draw_points(axis, results, names, np.arange(len(names)) + aside, color, label)
        last = horizons[-1]
        belief, cem = (mean_of(results, f"{env}/{name}/open/T={last}/success") for name in ("belief", "cem"))
        beside = "" if np.isnan(cem) else f", CEM {cem:.2f}"
        axis.set_title(f"{env}\nT = {last}: belief {belief:.2f}{beside}", fontsize=9.5)
        axis.set_xticks(range(len(horizons)), [f"T = {horizon}" for horizon in horizons])
        for border in range(1, len(horizons)):
            axis.axvline(border - 0.5, color="0.85", linewidth=1)
        axis.grid(False, axis="x")
        axis.set_ylim(-0.03, 1.03)
    for axis in axes.flat[len(families) :]:
        axis.set_axis_off()
    for line in axes:
        line[0].set_ylabel("success rate, held-out layouts, open loop", fontsize=9)
    figure.legend(*axes[0, 0].get_legend_handles_labels(), loc="outside upper center", ncols=4)
    return figure


def draw_fidelity(results: Results, families: Sequence[str]) -> Figure:
    """Gradient fidelity against success: one point a family and gradient planner."""
    figure, axes = new_figure(1, 1, (7.2, 4.6))
    axis, config, metrics = axes[0, 0], results["config"], results["metrics"]
    horizons, latent = config["planning_horizons"], config["latent_horizon"]
    horizon = latent if latent in horizons else max(horizons)
    points = [("belief", planner, horizon) for planner in ("belief", "belief_ungrown", "belief_verified")]
    points += [("spatial", planner, latent) for planner in ("verified_gradient", "flat_gradient")]
    for model, planner, steps in points:
        label, color = PLANNERS[planner]
        names = {
            f"{env}/{model}/gradient_fidelity": f"{env}/{planner}/open/T={steps}/success" for env in families
        }
        shown = [[mean_of(results, name) for name in pair] for pair in names.items() if pair[1] in metrics]
        if shown:
            axis.plot(*np.array(shown).T, "o", color=color, label=f"{label}, T = {steps}", alpha=0.8)
    axis.set_xlabel("gradient fidelity: correlation of predicted and true effects of single actions")
    axis.set_ylabel("success rate, open loop, held out")
    axis.set_xlim(-1.05, 1.05)
    axis.set_ylim(-0.03, 1.03)
    found = []
    for model, words in (("belief", "belief model"), ("spatial", "flat latent")):
        values = [mean_of(results, f"{env}/{model}/gradient_fidelity") for env in families]
        if np.isfinite(values).any():
            found.append(f"{np.nanmean(values):.2f} in the {words}")
    axis.set_title(f"Mean gradient fidelity: {', '.join(found)}")
    axis.legend(loc="center left", fontsize=8)
    return figure


def draw_layouts(results: Results, arrays: Arrays) -> Figure:
    """Held-out layouts: V as heat, a blurred plan's belief as it spreads, the executed path."""
    env = results["config"]["families"][0]
    maps, value = arrays[f"{env}/pictures/object"], arrays[f"{env}/pictures/value"]
    belief, path = arrays[f"{env}/pictures/belief"], arrays[f"{env}/pictures/path"]
    figure, axes = new_figure(2, len(maps), (3.2 * len(maps), 6.2))
    for index in range(len(maps)):
        _draw_map(axes[0, index], maps[index])
        image = axes[0, index].imshow(np.ma.masked_invalid(value[index]), cmap="viridis_r")
        figure.colorbar(image, ax=axes[0, index], shrink=0.7, label="V [steps to go]")
        axes[0, index].plot(*path[index].T, color="white", linewidth=2)
        axes[0, index].plot(*path[index, 0], "o", color="white")
        ends = "at the goal" if arrays[f"{env}/pictures/success"][index] else "short of the goal"
        axes[0, index].set_title(f"{env}, held out:\nblind plan ends {ends}", fontsize=9)
        _draw_map(axes[1, index], maps[index])
        when = min(12, len(belief[index]) - 1)
        mass = np.ma.masked_less(belief[index, when], 1e-4)
        axes[1, index].imshow(mass, cmap="magma_r", vmin=0)
        axes[1, index].set_title(f"belief after {when} steps,\nhalf of the actions random", fontsize=9)
    return figure


def _draw_map(axis: Axes, objects: np.ndarray) -> None:
    """Walls grey, goal green, lava orange."""
    picture = np.ones((*objects.shape, 3))
    for kind, color in ((WALL, (0.55, 0.55, 0.55)), (GOAL_CELL, (0.5, 0.9, 0.5)), (LAVA, (1.0, 0.6, 0.2))):
        picture[objects == kind] = color
    axis.imshow(picture)
    axis.set_axis_off()


def draw_accuracy(results: Results, families: Sequence[str]) -> Figure:
    """The share of rollouts whose whole map is exact, over model steps, with and without snapping."""
    size = max(1.0 + 2.9 * len(families), WIDEST_LEGEND), 3.6
    figure, axes = new_figure(1, len(families), size, sharey=True)
    for axis, env in zip(axes[0], families, strict=True):
        for model, (label, color) in MODELS.items():
            for prefix, style, where in (("", "-", "held out"), ("train_layouts/", ":", "training")):
                values = [mean_of(results, f"{prefix}{env}/{model}/accuracy_{steps}") for steps in ACCURACIES]
                axis.plot(ACCURACIES, values, style, marker="o", color=color, label=f"{label}, {where}")
        last = mean_of(results, f"{env}/snapped/accuracy_50")
        axis.set_title(f"{env}: {last:.2f} after 50", fontsize=9.5)
        axis.set_xscale("log")
        axis.set_xticks(ACCURACIES, ACCURACIES)
        axis.minorticks_off()
        axis.set_xlabel("model steps")
        axis.set_ylim(-0.03, 1.03)
    axes[0, 0].set_ylabel("whole map exact [share of rollouts]")
    figure.legend(*axes[0, 0].get_legend_handles_labels(), loc="outside upper center", ncols=4)
    return figure


def draw_efficiency(results: Results, families: Sequence[str]) -> Figure:
    """Success over evaluations and over milliseconds a plan, at the longest horizon, held-out layouts.

    Lines join the budgets of one planner; a planner that has one alone is a point.
    """
    figure, axes = new_figure(len(families), 2, (9.0, 1.0 + 2.6 * len(families)), sharey=True)
    horizon = max(results["config"]["planning_horizons"])
    for line, env in zip(axes, families, strict=True):
        for planner, (label, color) in PLANNERS.items():
            points = _costs(results, env, planner)
            for axis, cost in zip(line, ("evaluations", "milliseconds"), strict=True):
                if points[cost]:
                    success, marker = points["success"], "s" if planner == "greedy" else "o"
                    axis.plot(points[cost], success, marker=marker, color=color, label=label, markersize=5)
        for axis in line:
            axis.set_xscale("log")
            axis.xaxis.set_minor_formatter(NullFormatter())  # within a decade they would cover each other
            axis.set_ylim(-0.03, 1.03)
        line[0].set_title(f"{env}, open loop, T = {horizon}", fontsize=9.5)
        line[0].set_ylabel("success rate")
    axes[-1, 0].set_xlabel("transition evaluations a plan")
    axes[-1, 1].set_xlabel("milliseconds a plan")
    figure.legend(*axes[0, 0].get_legend_handles_labels(), loc="outside upper center", ncols=4)
    return figure


def _costs(results: Results, env: str, planner: str) -> dict[str, list[float]]:
    """Evaluations, milliseconds and success of a planner at each of its budgets, or at its only one."""
    horizon = max(results["config"]["planning_horizons"])
    prefixes = [f"{env}/{planner}/budgets/{each}" for each in results["config"]["budget_sweep"]]
    if not any(f"{prefix}/success" in results["metrics"] for prefix in prefixes):
        prefixes = [f"{env}/{planner}/open/T={horizon}"] * (planner != "random_policy")
    prefixes = [prefix for prefix in prefixes if f"{prefix}/success" in results["metrics"]]
    return {
        "evaluations": [mean_of(results, f"{prefix}/evaluations") for prefix in prefixes],
        "milliseconds": [results["timings"].get(f"{prefix}/milliseconds", np.nan) for prefix in prefixes],
        "success": [mean_of(results, f"{prefix}/success") for prefix in prefixes],
    }


def draw_episode(results: Results, arrays: Arrays) -> Iterator[Figure]:
    """The executed path and the belief, step by step, in the first held-out layouts."""
    env = results["config"]["families"][0]
    maps, belief = arrays[f"{env}/pictures/object"], arrays[f"{env}/pictures/belief"]
    path = arrays[f"{env}/pictures/path"]
    moving = [np.flatnonzero(np.diff(own, axis=0).any(1)) for own in path]
    last = max([int(steps[-1]) + 1 for steps in moving if len(steps)] or [1])
    figure, axes = new_figure(1, len(maps), (2.8 * len(maps), 3.2))
    for axis, objects in zip(axes[0], maps, strict=True):
        _draw_map(axis, objects)
    images = [axis.imshow(belief[0, 0], cmap="magma_r", alpha=0.7) for axis in axes[0]]
    agents = [axis.plot([], [], "o", color="#0072B2", markersize=8)[0] for axis in axes[0]]
    heading = figure.suptitle("", fontsize=10)
    for step in range(last + 1):
        heading.set_text(
            f"{env}, layouts never seen, step {step}:\nthe agent, and the belief of a blurred plan"
        )
        for index, (image, agent) in enumerate(zip(images, agents, strict=True)):
            mass = belief[index, step]
            image.set_data(np.ma.masked_less(mass, 1e-4))
            image.set_clim(0, max(float(mass.max()), 1e-3))
            agent.set_data(*path[index, step : step + 1].T)
        yield figure
        figure.set_layout_engine("none")  # every frame is laid out as the first


def draw_training(arrays: Arrays) -> Figure:
    """Losses over optimiser steps: the two spatial models, and the kernel."""
    figure, axes = new_figure(1, 3, (11.0, 3.4))
    for axis, (term, title) in zip(axes[0], TERMS.items(), strict=False):
        for model, (label, color) in MODELS.items():
            steps = arrays[f"layouts/{model}/history/iteration"]
            plot_band(axis, steps, arrays[f"layouts/{model}/history/{term}"], label, color, marker="")
        axis.set_title(title)
    for (term, label), color in zip(KERNEL_TERMS.items(), ("#0072B2", "#D55E00", "#009E73"), strict=True):
        steps, values = (arrays[f"layouts/kernel/history/{name}"] for name in ("iteration", term))
        plot_band(axes[0, 2], steps, values, label, color, marker="")
    axes[0, 2].set_title("cross-entropy of the kernel")
    for axis in axes[0]:
        axis.set_yscale("log")
        axis.set_xlabel("optimiser steps")
        axis.legend()
    return figure
