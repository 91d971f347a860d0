"""The figures of experiment 3, drawn from saved results alone (see common/latent/figures.py)."""

from collections.abc import Iterator, Mapping, Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from common.latent.control_figures import draw_budgets, draw_peers
from common.latent.evaluation import PICTURE_TILE
from common.latent.figures import (
    MODE_LABELS,
    PLANNER_COLORS,
    PLANNER_LABELS,
    Arrays,
    Results,
    draw_bars,
    draw_episode,
    draw_landscape,
    draw_line,
    draw_pairs,
    draw_points,
    draw_success,
    draw_training,
    mean_of,
    measured_environments,
    shown_environment,
)
from common.viz_utils import COLORS, new_figure
from exp3_planning_efficiency.ladder import CONTROLS as LADDER_CONTROLS
from exp3_planning_efficiency.ladder import RUNGS

MODELS = {"flat": "flat model", "helm": "HELM's model", "oracle": "true dynamics"}
FLAT_TITLE = "flat model (HELM there: repeat-upsampling)"  # it has no jumpy level
COLORS_OF_MODELS = {"flat": COLORS["flat"], "helm": COLORS["helm"], "oracle": "#000000"}
FLAT_SHORT = "flat model,\nHELM by repeating"
VARIANTS = {"flat": "flat", "spectral": "+ spectral", "hf": "+ HF", "helm": "full HELM"}
EPISODES = {
    "flat gradient, as published\nflat model": "flat/flat_gradient",
    "HELM, coarse to fine\nHELM's model": "helm/helm",
    "CEM\nHELM's model": "helm/cem",
}
KNOWLEDGE = {
    "spearman": "Spearman",
    "accuracy_1": "right after 1 step",
    "accuracy_10": "after 10",
    "accuracy_50": "after 50",
}
LOSSES = {"reconstruction": "reconstruction", "dynamics": "dynamics", "spectral": "spectral penalty"}


def draw_figures(results: Results, arrays: Arrays) -> dict[str, Figure | Iterator[Figure]]:
    """Every figure of a run, by file name; exp3_episode.gif as its frames."""
    names, config = measured_environments(results), results["config"]
    parts, horizon = config["parts"], config["study_horizon"]
    variants = {variant: (label, COLORS[variant]) for variant, label in VARIANTS.items()}
    shown = shown_environment(names)
    figures: dict[str, Figure | Iterator[Figure]] = {
        "exp3_latent_topology.png": draw_topology(results, arrays, shown),
        "exp3_training.png": draw_training(arrays, names, LOSSES, variants),
    }
    if "comparison" in parts:
        titles = MODELS | {"flat": FLAT_TITLE}
        figures |= {
            "exp3_success_rate.png": draw_success(results, [shown], titles),
            "exp3_paths.png": draw_paths(results, arrays, shown),
            "exp3_episode.gif": draw_episode(arrays, names[0], horizon, EPISODES),
        }
        if studied := names[: config["study_environments"]]:
            figures["exp3_efficiency.png"] = draw_efficiency(results, studied)
            figures["exp3_ablation.png"] = draw_ablation(results, studied)
    if "peers" in parts:
        figures["exp3_peers.png"] = draw_peers(results, [shown], MODELS | {"flat": FLAT_SHORT}, horizon)
    if "budgets" in parts:
        planned = {label: MODELS[label] for label in ("helm", "oracle")}
        figures["exp3_budgets.png"] = draw_budgets(results, [shown], planned, horizon)
    if "ladder" in parts:
        figures["exp3_ladder.png"] = draw_ladder(results, names)
    return figures


# ----------------------------------------------------------------------------------------------
# Ladder
# ----------------------------------------------------------------------------------------------


def draw_ladder(results: Results, names: Sequence[str]) -> Figure:
    """Success from the published planner to the verified gradient: a panel for each environment."""
    figure, axes = new_figure(1, len(names), (1.6 + 3.2 * len(names), 3.9), sharex=True, sharey=True)
    positions, colors = np.arange(len(RUNGS))[::-1], (*COLORS_OF_MODELS.values(),)
    for axis, name in zip(axes[0], names, strict=True):
        for (model, title), color, shift in zip(MODELS.items(), colors, (0.2, 0.0, -0.2), strict=True):
            metrics = [f"ladder/{name}/{model}/{rung}/success" for rung in RUNGS]
            draw_points(axis, results, metrics, positions + shift, color, title, lying=True)
            for control, rung in LADDER_CONTROLS.items():
                height = positions[list(RUNGS).index(rung)] + shift
                value = mean_of(results, f"ladder/{name}/{model}/{control}/success")
                axis.plot(value, height, "o", color="white", markeredgecolor=color, markersize=6)
        axis.set_title(f"{name}\nopen loop, T = {results['config']['study_horizon']}", fontsize=9.5)
        axis.set_xlabel("success rate")
        axis.set_xlim(-0.03, 1.03)
    axes[0, 0].set_yticks(positions, RUNGS.values())
    axes[0, 0].plot([], [], "o", color="white", markeredgecolor="#555555", label="its gradient put to 0")
    figure.legend(*axes[0, 0].get_legend_handles_labels(), loc="outside upper center", ncols=2 * len(names))
    return figure


# ----------------------------------------------------------------------------------------------
# Budgets
# ----------------------------------------------------------------------------------------------


def draw_efficiency(results: Results, names: Sequence[str]) -> Figure:
    """Success over transition evaluations and over milliseconds a plan, on HELM's model, open loop."""
    figure, axes = new_figure(len(names), 2, (9.0, 0.9 + 2.7 * len(names)), sharey="row")
    horizon, budgets = results["config"]["study_horizon"], results["config"]["budget_sweep"]
    for line, name in zip(axes, names, strict=True):
        for planner, label in PLANNER_LABELS.items():
            swept = [f"sweep/{name}/budget={budget}/{planner}" for budget in budgets]
            evaluations = [mean_of(results, f"{prefix}/evaluations") for prefix in swept]
            milliseconds = [results["timings"][f"{prefix}/milliseconds"] for prefix in swept]
            success = [f"{prefix}/success" for prefix in swept]
            for axis, cost in zip(line, (evaluations, milliseconds), strict=True):
                draw_line(axis, results, success, cost, PLANNER_COLORS[planner], label)
        line[0].set_title(f"{name}, open loop, T = {horizon}")
        line[0].set_ylabel("success rate")
        random = mean_of(results, f"{name}/random_policy/T={horizon}/success")
        for axis in line:
            axis.axhline(
                random, color=PLANNER_COLORS["random_policy"], ls="--", label="random policy (exact)"
            )
            axis.set_ylim(-0.03, 1.03)
        ticks = [budget * horizon for budget in budgets]
        line[0].set_xscale("log")
        line[0].set_xticks(ticks, [f"{tick:,}" for tick in ticks])
        line[0].minorticks_off()
    axes[-1, 0].set_xlabel("transition evaluations a plan (a backward counts as two forwards)")
    axes[-1, 1].set_xlabel("milliseconds a plan, all episodes in one batch")
    figure.legend(*axes[0, 0].get_legend_handles_labels(), loc="outside upper center", ncols=3)
    return figure


# ----------------------------------------------------------------------------------------------
# Ablation
# ----------------------------------------------------------------------------------------------


def draw_ablation(results: Results, names: Sequence[str]) -> Figure:
    """Success of the four variants of the model, and what each changes in the model."""
    figure, axes = new_figure(len(names), 4, (13.5, 0.6 + 2.9 * len(names)))
    for line, name in zip(axes, names, strict=True):
        for axis, mode in zip(line, MODE_LABELS, strict=False):
            _ablation_bars(axis, results, name, mode)
        _norms(line[2], results, name)
        _model_bars(line[3], results, name, KNOWLEDGE)
        line[3].set_title("what the model knows")
        line[3].legend(ncols=2)
        line[3].set_ylim(0, 1.35)
    return figure


def _ablation_bars(axis: Axes, results: Results, name: str, mode: str) -> None:
    horizon = results["config"]["study_horizon"]
    positions = np.arange(len(VARIANTS))
    styles = {"unverified": (PLANNER_COLORS["flat_gradient"], "unverified (flat gradient)")}
    styles["verified"] = (PLANNER_COLORS["verified_gradient"], "verified gradient")
    for shift, (planner, (color, label)) in zip((-0.2, 0.2), styles.items(), strict=True):
        prefix = f"ablation/{name}/{mode}/T={horizon}"
        metrics = [f"{prefix}/{variant}/{planner}/success" for variant in VARIANTS]
        draw_bars(axis, results, metrics, positions + shift, 0.38, color=color, label=label)
    chance = mean_of(results, f"{name}/random_policy/T={horizon}/success")
    axis.axhline(chance, color=PLANNER_COLORS["random_policy"], ls="--", label="random policy (exact)")
    axis.set_title(f"{name}, {MODE_LABELS[mode]}, T = {horizon}")
    axis.set_ylabel("success rate")
    axis.set_ylim(0, 1.45)
    axis.set_xticks(positions, VARIANTS.values(), fontsize=8)
    axis.legend(loc="upper left")


def _norms(axis: Axes, results: Results, name: str) -> None:
    """The Jacobian's norm in each variant, dots for the training seeds; a bar has no foot on a log axis."""
    entries = [results["metrics"][f"{name}/{variant}/jacobian_50"] for variant in VARIANTS]
    positions = np.arange(len(VARIANTS))
    axis.plot(positions, [entry["mean"] for entry in entries], "o", color="#0072B2", markersize=9)
    axis.plot(positions, [entry["values"] for entry in entries], ".", color="black", markersize=4)
    axis.set_yscale("log")
    low, high = axis.get_ylim()
    axis.set_ylim(low / 2, high * 2)
    axis.set_xlim(-0.5, len(VARIANTS) - 0.5)
    axis.set_xticks(positions, VARIANTS.values(), fontsize=8)
    axis.set_title(r"$\|\partial z_{50}/\partial z_0\|_F$")


def _model_bars(axis: Axes, results: Results, name: str, metrics: Mapping[str, str]) -> None:
    width, colors = 0.8 / len(metrics), ("#0072B2", "#009E73", "#E69F00", "#CC79A7")
    positions = np.arange(len(VARIANTS))
    for index, (metric, label) in enumerate(metrics.items()):
        values = [mean_of(results, f"{name}/{variant}/{metric}") for variant in VARIANTS]
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
        draw_pairs(line[0], arrays, f"{name}/{model}", COLORS[model])
        rank = mean_of(results, f"{name}/{model}/spearman")
        line[0].set_title(f"{MODELS[model]}: Spearman {rank:.2f}")
        line[0].set_xlabel("true distance [steps]")
        line[0].set_ylabel("latent distance")
        energy = arrays[f"{name}/{model}/energy"][0]
        draw_landscape(line[1], position, energy, label="energy, lowest over headings")
        line[1].set_title("learned energy, and downhill")
        draw_landscape(line[2], position, distance, label="steps, fewest over headings")
        line[2].set_title("true steps to the goal")
    figure.suptitle(f"{name}: what latent distance knows of the steps to the goal")
    return figure


def draw_paths(results: Results, arrays: Arrays, name: str) -> Figure:
    """The paths that plans from the reset state took, open loop, on MiniGrid's picture."""
    horizon = results["config"]["study_horizon"]
    figure, axes = new_figure(len(MODELS), len(PLANNER_LABELS), (13.0, 0.2 + 2.4 * len(MODELS)))
    for line, model in zip(axes, MODELS, strict=True):
        for axis, planner in zip(line, PLANNER_LABELS, strict=True):
            states = arrays[f"{name}/{model}/{planner}/open/T={horizon}/states"][0, 0]
            reached = _draw_path(axis, arrays, name, states, PLANNER_COLORS[planner])
            axis.set_title(f"{PLANNER_LABELS[planner]}\n{MODELS[model]}: {reached}", fontsize=8)
    figure.suptitle(f"{name}, open loop, T = {horizon}, first seed", fontsize=9.5)
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
    return f"goal, {moved} moves" if left == 0 else f"{left:.0f} steps short"
