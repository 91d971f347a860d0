"""The figures of experiment 4, drawn from saved results alone (see common/latent/figures.py).

Beside the arrays named there: plane [S, N, 2], a model's states on two principal axes.
"""

from collections.abc import Iterator, Mapping, Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from common.latent.control_figures import draw_budgets, draw_peers, draw_tuned
from common.latent.figures import (
    MODE_LABELS,
    PLANNER_COLORS,
    PLANNER_LABELS,
    Arrays,
    Results,
    draw_bars,
    draw_control,
    draw_episode,
    draw_landscape,
    draw_line,
    draw_pairs,
    draw_points,
    draw_success,
    draw_training,
    mean_of,
    measured_environments,
    short_label,
    shown_environment,
)
from common.viz_utils import new_figure
from exp4_contrastive_fix.controls import PLANNED, SHAPES
from exp4_contrastive_fix.evaluate_planners import COMPARED, DESIGNS, PILLAR_PLANNERS
from exp4_contrastive_fix.train_helm import penalised

MODELS = {
    "baseline": "baseline",
    "unified_published": "unified as published",
    "unified": "unified",
}
OBJECTIVES = {
    "reconstruction": ("reconstruction", "#D55E00"),
    "infonce": ("InfoNCE, next state (published)", "#E69F00"),
    "infonce_geometric": ("InfoNCE, geometric positives", "#F0C060"),
    "next_state": ("InfoNCE of the prediction", "#CC79A7"),
    "straightening": ("straightening", "#999999"),
    "temporal_distance": ("temporal distance, expectile", "#56B4E9"),
    "qrl_symmetric": ("QRL, symmetric", "#009E73"),
    "qrl": ("QRL, quasimetric", "#0072B2"),
}
MODEL_COLORS = {"baseline": "#D55E00", "unified_published": "#E69F00", "unified": "#0072B2"}
CORNERS = {"none": "#999999", "spectral": "#E69F00", "metric": "#56B4E9", "both": "#0072B2"}
TRAINED = OBJECTIVES | {
    "unified": ("unified", "#000000"),
    "unified_published": ("unified as published", "#8B4513"),
}
EFFECTS = {"main_spectral": "#E69F00", "main_metric": "#56B4E9", "interaction": "#CC79A7"}
METRICS = {"qrl_symmetric": "metric = symmetric QRL", "infonce": "metric = published InfoNCE"}
LOSSES = {
    "dynamics": "dynamics",
    "contrast": "InfoNCE",
    "violation": "violation of d(s, s') <= 1",
    "weight": "its multiplier",
    "spectral": "spectral penalty",
}
PENALISED = {"accuracy_50": "right after 50 steps", "spearman": "Spearman", "gradient_fidelity": "fidelity"}
SHAPE_LABELS = {
    "reconstruction": "reconstruction,\nsquared distance",
    "reconstruction_sqrt": "the same model,\ndistance",
    "frozen_qrl": "the same latents,\nquasimetric head",
    "qrl_penalty=0": "quasimetric RL,\nend to end",
}
EPISODES = {
    "baseline\nflat gradient": "baseline/flat_gradient",
    "unified as published\nverified gradient": "unified_published/verified_gradient",
    "unified\nverified gradient": "unified/verified_gradient",
    "unified\nHELM": "unified/helm",
}


def draw_figures(results: Results, arrays: Arrays) -> dict[str, Figure | Iterator[Figure]]:
    """Every figure of a run, by file name; exp4_episode.gif as its frames."""
    names, parts = measured_environments(results), results["config"]["parts"]
    figures: dict[str, Figure | Iterator[Figure]] = {
        "exp4_latent_space.png": draw_latent_space(results, arrays, names[0]),
        "exp4_training.png": draw_training(arrays, names, LOSSES, TRAINED),
    }
    if "comparison" in parts:
        figures |= _comparison_figures(results, arrays, names)
    horizon = shown_horizon(results["config"]["planning_horizons"])
    planned, shown = {"unified": MODELS["unified"], "oracle": "true dynamics"}, [shown_environment(names)]
    if "peers" in parts:
        figures["exp4_peers.png"] = draw_peers(results, shown, planned, horizon)
    if "tuned" in parts:
        learned = {"unified": MODELS["unified"]}  # settings were chosen in a learned model
        figures["exp4_tuned.png"] = draw_tuned(results, shown, learned, horizon)
    if "budgets" in parts:
        figures["exp4_budgets.png"] = draw_budgets(results, shown, planned, horizon)
    if "penalty" in parts:
        figures["exp4_penalty.png"] = draw_penalty(results, shown)
    if "shape" in parts:
        figures["exp4_shape.png"] = draw_shape(results, shown)
    return figures


def _comparison_figures(
    results: Results, arrays: Arrays, names: Sequence[str]
) -> dict[str, Figure | Iterator[Figure]]:
    """Those of the part `comparison`."""
    config, titles = results["config"], MODELS | {"oracle": "true dynamics"}
    horizon = shown_horizon(config["planning_horizons"])
    figures: dict[str, Figure | Iterator[Figure]] = {
        "exp4_contrastive_fix.png": draw_headline(results, arrays, names[0]),
        "exp4_success_rate.png": draw_success(results, [shown_environment(names)], titles),
        "exp4_gradient_fidelity.png": draw_fidelity(results, names),
        "exp4_episode.gif": draw_episode(arrays, names[0], horizon, EPISODES),
    }
    if config["objective_environments"]:
        figures["exp4_metric_alignment.png"] = draw_alignment(results, arrays, names[0])
    studied = names[: config["pillar_environments"]]
    if studied and config["pillar_objectives"]:
        figures["exp4_two_pillars.png"] = draw_two_pillars(results, studied)
        if len(config["pillar_horizons"]) > 1:
            figures["exp4_pillars_over_horizon.png"] = draw_pillars_over_horizon(results, studied)
    return figures


def shown_horizon(horizons: Sequence[int]) -> int:
    """The horizon of single-horizon figures: 50, where it was measured."""
    return 50 if 50 in horizons else max(horizons)


# ----------------------------------------------------------------------------------------------
# The headline
# ----------------------------------------------------------------------------------------------


def draw_headline(results: Results, arrays: Arrays, name: str) -> Figure:
    """Energy over the grid with its descent field, true and learned; the way to the goal, step by step."""
    figure, axes = new_figure(2, 3, (12.0, 7.2))
    position, distance = arrays[f"{name}/task/position"], arrays[f"{name}/task/distance"]
    panels = {"true steps to the goal\n(breadth-first search)": (distance, "steps, fewest over headings")}
    for label, title in MODELS.items():
        greedy = mean_of(results, f"{name}/{COMPARED[label]}/greedy")
        energy = arrays[f"{name}/{COMPARED[label]}/energy"][0]
        heading = f"{title}, first seed\n(descent arrives: {greedy:.1%} of starts)"
        panels[heading] = energy, "energy, lowest over headings"
    for axis, (heading, (values, label)) in zip(axes.flat, panels.items(), strict=False):
        draw_landscape(axis, position, values, label=label)
        axis.set_title(heading, fontsize=9.5)
    _distance_panel(axes[1, 1], arrays, name, shown_horizon(results["config"]["planning_horizons"]))
    _success_bars(axes[1, 2], results, name)
    return figure


def _distance_panel(axis: Axes, arrays: Arrays, name: str, horizon: int) -> None:
    """Euclidean distance to the goal along the path from the reset, in cells."""
    position, goals = arrays[f"{name}/task/position"], arrays[f"{name}/task/goals"][0]
    shown = {
        "baseline": ("flat_gradient", "open"),
        "unified_published": ("verified_gradient", "closed"),
        "unified": ("verified_gradient", "closed"),
    }
    for model, (planner, mode) in shown.items():
        states = arrays[f"{name}/{model}/{planner}/{mode}/T={horizon}/states"][0, 0]
        away = np.linalg.norm(position[states][:, None] - position[goals][None], axis=-1).min(1)
        label = f"{MODELS[model]}: {short_label(planner)}, {mode}"
        axis.plot(away, color=MODEL_COLORS[model], label=label)
        axis.plot(len(away) - 1, away[-1], "o", color=MODEL_COLORS[model])
    axis.set_xlabel("executed steps")
    axis.set_ylabel("distance to the goal [cells]")
    axis.set_title("the path from the reset state, first seed", fontsize=9.5)
    axis.set_ylim(-0.3, 1.3 * axis.get_ylim()[1])
    axis.legend(fontsize=7.5, loc="upper right")


def _success_bars(axis: Axes, results: Results, name: str) -> None:
    horizon = shown_horizon(results["config"]["planning_horizons"])
    shown = (("flat_gradient", "open"), ("flat_gradient", "closed"), ("verified_gradient", "closed"))
    shown += (("helm", "closed"),)
    positions = np.arange(len(shown))
    for index, model in enumerate(MODELS):
        metrics = [f"{name}/{model}/{planner}/{mode}/T={horizon}/success" for planner, mode in shown]
        where, style = positions + 0.27 * (index - 1), {"color": MODEL_COLORS[model], "label": MODELS[model]}
        draw_bars(axis, results, metrics, where, 0.25, **style)
    chance = mean_of(results, f"{name}/random_policy/T={horizon}/success")
    axis.axhline(chance, color="#777777", ls="--", label="random policy")
    ticks = [f"{short_label(planner)}\n{mode}".replace(" ", "\n") for planner, mode in shown]
    axis.set_xticks(positions, ticks, fontsize=7.5)
    axis.set_ylim(0, 1.35)
    axis.set_ylabel("success rate")
    axis.set_title(f"success from all evaluated starts, T = {horizon}", fontsize=9.5)
    axis.legend(fontsize=7, ncols=2, loc="upper left")


# ----------------------------------------------------------------------------------------------
# Alignment
# ----------------------------------------------------------------------------------------------


def draw_alignment(results: Results, arrays: Arrays, name: str) -> Figure:
    """The model's distance over the true steps, a panel for each objective."""
    figure, axes = new_figure(2, 4, (13.0, 6.0), sharex=True)
    for axis, (objective, (label, color)) in zip(axes.flat, OBJECTIVES.items(), strict=True):
        draw_pairs(axis, arrays, f"{name}/{objective}", color)
        numbers = {key: mean_of(results, f"{name}/{objective}/{key}") for key in ("spearman", "greedy")}
        after = mean_of(results, f"{name}/{objective}/accuracy_50")
        axis.set_title(
            f"{label}\nSpearman {numbers['spearman']:.2f}, greedy {numbers['greedy']:.2f},"
            f" 50 steps {after:.2f}",
            fontsize=8.5,
        )
    for axis in axes[-1]:
        axis.set_xlabel("true distance [steps]")
    for axis in axes[:, 0]:
        axis.set_ylabel("distance in the model")
    return figure


def draw_latent_space(results: Results, arrays: Arrays, name: str) -> Figure:
    """States on the first two principal axes of where distances are taken, coloured by steps to the goal."""
    shown = {
        "reconstruction": "baseline",
        "unified_published": "unified as published",
        "qrl_symmetric": "QRL, symmetric",
        "unified": "unified",
    }
    shown = {variant: title for variant, title in shown.items() if f"{name}/{variant}/plane" in arrays}
    figure, axes = new_figure(1, len(shown), (1.0 + 3.0 * len(shown), 3.6))
    distance = arrays[f"{name}/task/distance"]
    for axis, (variant, title) in zip(axes[0], shown.items(), strict=True):
        plane = arrays[f"{name}/{variant}/plane"][0]
        points = axis.scatter(plane[:, 0], plane[:, 1], c=distance, s=14, cmap="viridis_r")
        axis.set_title(
            f"{title}: Spearman {mean_of(results, f'{name}/{variant}/spearman'):.2f}", fontsize=9.5
        )
        axis.set_xlabel("first principal axis")
    axes[0, 0].set_ylabel("second principal axis")
    figure.colorbar(points, ax=axes[0, -1], label="true steps to the goal")
    return figure


def draw_fidelity(results: Results, names: Sequence[str]) -> Figure:
    """Gradient fidelity over the horizon, and beside the success of gradient planners."""
    figure, axes = new_figure(len(names), 3, (13.0, 0.6 + 3.4 * len(names)))
    horizon = shown_horizon(results["config"]["planning_horizons"])
    for line, name in zip(axes, names, strict=True):
        for objective, (label, color) in TRAINED.items():
            found = [
                (int(metric.rpartition("=")[2]), entry["mean"])
                for metric, entry in results["metrics"].items()
                if metric.startswith(f"{name}/{objective}/gradient_fidelity/T=")
            ]
            if found:
                line[0].plot(*zip(*sorted(found), strict=True), marker="o", color=color, label=label)
        line[0].set_title(f"{name}: random plans", fontsize=9.5)
        line[0].set_xlabel("horizon of the plan [steps]")
        line[0].set_ylabel("gradient fidelity")
        line[0].set_ylim(-0.08, 1.0)
        for axis, planner in zip(line[1:], ("flat_gradient", "verified_gradient"), strict=True):
            _fidelity_scatter(axis, results, name, planner, horizon)
    plain = {"ls": "", "color": "#555555", "markersize": 8}
    marks = [
        Line2D([], [], marker="o", label="closed loop", **plain),
        Line2D([], [], marker="o", markerfacecolor="white", label="open loop", **plain),
        Line2D([], [], marker="s", label="corner of the 2x2 with the penalty", **plain),
    ]
    handles = axes[0, 0].get_legend_handles_labels()[0] + marks
    figure.legend(handles=handles, loc="outside upper center", ncols=4)
    return figure


def _fidelity_scatter(axis: Axes, results: Results, name: str, planner: str, horizon: int) -> None:
    """Success of a planner over the gradient fidelity of its models, at about the horizon of its plans."""
    prefixes = {variant: (f"{name}/{label}", "success") for label, variant in COMPARED.items()}
    for objective, design in DESIGNS.items():
        if objective in results["config"]["pillar_objectives"]:
            prefixes["reconstruction_spectral"] = (f"{design}/{name}", "spectral")
            prefixes[objective] = (f"{design}/{name}", "metric")
            prefixes[f"{objective}_spectral"] = (f"{design}/{name}", "both")
    for variant, (prefix, quantity) in prefixes.items():
        objective = variant.removesuffix("_spectral")
        color, marker = TRAINED[objective][1], "o" if variant == objective else "s"
        for mode, steps, face in (("open", 50, "white"), ("closed", 10, color)):
            fidelity = mean_of(results, f"{name}/{variant}/gradient_fidelity/T={steps}")
            success = mean_of(results, f"{prefix}/{planner}/{mode}/T={horizon}/{quantity}")
            if np.isnan(success):
                continue
            axis.plot(fidelity, success, marker, color=color, markerfacecolor=face, markersize=8)
    axis.set_title(f"{name}: {PLANNER_LABELS[planner]}, T = {horizon}", fontsize=9.5)
    axis.set_xlabel("gradient fidelity, plans of 10 (closed) or 50 steps")
    axis.set_ylabel("success rate")
    axis.set_ylim(-0.08, 1.08)


# ----------------------------------------------------------------------------------------------
# Planning
# ----------------------------------------------------------------------------------------------


def draw_two_pillars(results: Results, names: Sequence[str]) -> Figure:
    """The corners of the 2x2 and its effects, for each planner: a row for each environment and mode.

    Bars: means with their 95% intervals; dots: training seeds.
    """
    rows = [(name, mode) for name in names for mode in MODE_LABELS]
    objectives = results["config"]["pillar_objectives"]
    columns = 2 * len(objectives)
    figure, axes = new_figure(len(rows), columns, (1.0 + 3.2 * columns, 0.8 + 2.7 * len(rows)))
    horizon = shown_horizon(results["config"]["pillar_horizons"])
    for line, (name, mode) in zip(axes, rows, strict=True):
        for index, objective in enumerate(objectives):
            prefix = f"{DESIGNS[objective]}/{name}"
            bars, effects = line[2 * index : 2 * index + 2]
            _pillar_bars(bars, results, prefix, mode, horizon, CORNERS)
            chance = mean_of(results, f"{name}/random_policy/T={horizon}/success")
            bars.axhline(chance, color="#777777", ls="--", label="random policy")
            bars.set_title(f"{name}, {MODE_LABELS[mode]}, T = {horizon}\n{METRICS[objective]}", fontsize=9)
            bars.set_ylabel("success rate")
            bars.set_ylim(0, 1.05)
            _pillar_bars(effects, results, prefix, mode, horizon, EFFECTS)
            effects.set_title("effects on success", fontsize=9)
            effects.axhline(0, color="black", linewidth=0.8)
            effects.set_ylim(-0.75, 0.95)
    wide = len(objectives) > 1
    legends = (("left", 5 if wide else 3, "success"), ("right", 3 if wide else 1, "effects"))
    for axis, (side, ncols, title) in zip(axes[0], legends, strict=False):
        handles = axis.get_legend_handles_labels()
        figure.legend(*handles, loc=f"outside upper {side}", ncols=ncols, title=title)
    over = "training seeds and starts" if len(results["seeds"]) > 1 else "starts, of one training seed"
    figure.supxlabel(f"whiskers: 95% interval over {over}; dots: training seeds", fontsize=9)
    return figure


def draw_pillars_over_horizon(results: Results, names: Sequence[str]) -> Figure:
    """The corners of the first 2x2 over the horizon, a column for each planner. Bands: 95% intervals."""
    rows = [(name, mode) for name in names for mode in MODE_LABELS]
    size = (12.5, 0.9 + 2.3 * len(rows))
    figure, axes = new_figure(len(rows), len(PILLAR_PLANNERS), size, sharex=True, sharey=True)
    horizons, design = results["config"]["pillar_horizons"], results["config"]["pillar_objectives"][0]
    for line, (name, mode) in zip(axes, rows, strict=True):
        for axis, planner in zip(line, PILLAR_PLANNERS, strict=True):
            for corner, color in CORNERS.items():
                prefix = f"{DESIGNS[design]}/{name}/{planner}/{mode}"
                metrics = [f"{prefix}/T={horizon}/{corner}" for horizon in horizons]
                draw_line(axis, results, metrics, horizons, color, corner)
            draw_control(axis, results, name, "random_policy", horizons)
            axis.set_title(f"{name}, {MODE_LABELS[mode]}\n{PLANNER_LABELS[planner]}", fontsize=9)
            axis.set_xticks(horizons)
            axis.set_ylim(-0.03, 1.03)
        line[0].set_ylabel("success rate")
    for axis in axes[-1]:
        axis.set_xlabel("horizon T [steps]")
    handles = axes[0, 0].get_legend_handles_labels()
    figure.legend(*handles, loc="outside upper center", ncols=5, title=METRICS[design])
    return figure


def _pillar_bars(
    axis: Axes, results: Results, prefix: str, mode: str, horizon: int, shown: Mapping[str, str]
) -> None:
    positions, width = np.arange(len(PILLAR_PLANNERS)), 0.8 / len(shown)
    for index, (quantity, color) in enumerate(shown.items()):
        metrics = [f"{prefix}/{planner}/{mode}/T={horizon}/{quantity}" for planner in PILLAR_PLANNERS]
        where = positions + width * (index - (len(shown) - 1) / 2)
        label = quantity.replace("main_", "main effect, ")
        draw_bars(axis, results, metrics, where, 0.92 * width, color=color, label=label)
        seeds = [results["metrics"][metric]["values"] for metric in metrics]
        axis.plot(where, seeds, ".", color="black", markersize=2.5)
    ticks = [short_label(planner).replace(" ", "\n") for planner in PILLAR_PLANNERS]
    axis.set_xticks(positions, ticks, fontsize=8)


# ----------------------------------------------------------------------------------------------
# Controls
# ----------------------------------------------------------------------------------------------


def draw_penalty(results: Results, names: Sequence[str]) -> Figure:
    """Success over the penalty's weight on quasimetric RL, and what the penalty does to the model."""
    config = results["config"]
    horizon, weights = shown_horizon(config["planning_horizons"]), config["penalty_sweep"]
    figure, axes = new_figure(len(names), 3, (12.0, 1.0 + 2.8 * len(names)))
    positions = np.arange(len(weights))
    for line, name in zip(axes, names, strict=True):
        for axis, mode in zip(line, MODE_LABELS, strict=False):
            for planner in PLANNED:
                prefix = f"two_pillars_qrl/{name}/{planner}/{mode}/T={horizon}"
                metrics = [f"{prefix}/lambda={weight:g}" for weight in weights]
                style = {"color": PLANNER_COLORS[planner], "label": short_label(planner)}
                draw_line(axis, results, metrics, positions, **style)
            axis.set_title(f"{name}, {MODE_LABELS[mode]}, T = {horizon}", fontsize=9.5)
            axis.set_ylabel("success rate")
            axis.set_ylim(-0.03, 1.03)
        variants = [penalised(config["unified_spectral"], weight) for weight in weights]
        for (metric, label), color in zip(PENALISED.items(), ("#0072B2", "#009E73", "#CC79A7"), strict=True):
            own = [f"{name}/{variant}/{metric}" for variant in variants]
            draw_line(line[2], results, own, positions, color=color, label=label)
        norms = [mean_of(results, f"{name}/{variant}/jacobian_50") for variant in variants]
        line[2].set_title("norm at T = 50: " + ", ".join(f"{norm:.2g}" for norm in norms), fontsize=9.5)
        line[2].set_ylim(-0.03, 1.03)
        for axis in line:
            axis.set_xticks(positions, [f"{weight:g}" for weight in weights])
            axis.set_xlabel("weight of the spectral penalty")
        line[2].legend(fontsize=7.5)
    figure.legend(*axes[0, 0].get_legend_handles_labels(), loc="outside upper center", ncols=5)
    return figure


def draw_shape(results: Results, names: Sequence[str]) -> Figure:
    """Success by the energy's shape and by its metric: a panel for each environment and mode."""
    horizon = shown_horizon(results["config"]["planning_horizons"])
    columns = [(name, mode) for name in names for mode in MODE_LABELS]
    figure, axes = new_figure(1, len(columns), (1.8 + 2.6 * len(columns), 3.9), sharex=True, sharey=True)
    positions = np.arange(len(SHAPES))[::-1]
    shifts = np.linspace(0.3, -0.3, len(PLANNED))
    for axis, (name, mode) in zip(axes[0], columns, strict=True):
        for planner, shift in zip(PLANNED, shifts, strict=True):
            metrics = [f"{name}/{model}/{planner}/{mode}/T={horizon}/success" for model in SHAPES]
            style = {"color": PLANNER_COLORS[planner], "label": short_label(planner), "lying": True}
            draw_points(axis, results, metrics, positions + shift, **style)
        axis.set_title(f"{name}, {MODE_LABELS[mode]}", fontsize=9.5)
        axis.set_xlabel(f"success rate, T = {horizon}")
        axis.set_xlim(-0.03, 1.03)
    axes[0, 0].set_yticks(positions, [SHAPE_LABELS[model] for model in SHAPES])
    figure.legend(*axes[0, 0].get_legend_handles_labels(), loc="outside upper center", ncols=5)
    return figure
