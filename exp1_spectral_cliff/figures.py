"""The figures of experiment 1, drawn from saved results alone.

Each function takes the arrays of arrays.npz and returns a Figure, or None where the run has nothing
to show in it (a system left out).
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from common.viz_utils import COLORS as SHARED_COLORS
from common.viz_utils import label_horizons, new_figure, plot_band

Arrays = Mapping[str, np.ndarray]

TARGET = 20.0  # the documents' bound on ||J||_F
CLIFF_TOP = {"lorenz": 8.5, "lorenz_dt033": 20.5}  # log10 of the largest norm shown; what leaves is annotated
JACOBIANS = {"state": r"\partial s_T/\partial s_0", "action": r"\partial s_T/\partial a"}
SWITCHED = ("flat", "helm", "cascade", "cascade_validated")  # variants in the figure of the switch
LABELS = {
    "true": "true system",
    "flat": "flat",
    "flat_long": "flat, trained longer",
    "spectral": "flat + spectral penalty",
    "spectral_published": "flat + penalty as published",
    "helm": "HELM",
    "helm_refined": "HELM, then flat",
    "cascade": "HELM cascade",
    "cascade_validated": "cascade, switches validated",
    "mollified_true": "mollified true system",
    "random": "random controls",
    "helm_n1": "stride N = 1",
    "helm_sigma0": "no noise",
    "helm_unbounded": "unbounded latent",
    "helm_one_step": "one-step loss",
    "helm_neither": "one-step loss, unbounded",
    "helm_blind": "HELM from a wrong start",
}
COLORS = SHARED_COLORS | {
    "flat_long": "#D55E00",
    "spectral_published": "#F0C060",
    "helm_blind": "#0072B2",
    "helm_refined": "#56B4E9",
    "cascade": "#009E73",
    "cascade_validated": "#882255",
    "mollified_true": "#CC79A7",
}

ABLATION_COLORS = {
    "helm": COLORS["helm"],
    "helm_n1": "#E69F00",
    "helm_sigma0": "#009E73",
    "helm_unbounded": "#CC79A7",
    "helm_one_step": "#D55E00",
    "helm_neither": "#999999",
}


def draw_figures(results: Mapping[str, Any], arrays: Arrays) -> dict[str, Figure]:
    """Every figure of a run, by file name."""
    parts = results["config"]["parts"]
    figures = _cliff_figures(results, arrays) if "cliff" in parts else {}
    chaotic = _chaotic(results)
    if "switch" in parts and chaotic:
        figures["exp1_switch.png"] = draw_switch(chaotic, results, arrays)
    for system in chaotic if "evaluations" in parts else ():
        figures[f"exp1_evaluations{_suffix(system)}.png"] = draw_evaluations(system, results)
    return figures


def _chaotic(results: Mapping[str, Any]) -> list[str]:
    """The systems but the linear one, whose figures are its own."""
    return [system for system in results["config"]["systems"] if system != "linear"]


def _suffix(system: str) -> str:
    """Of a system's files."""
    return "" if system == "lorenz" else f"_{system.removeprefix('lorenz_')}"


def _cliff_figures(results: Mapping[str, Any], arrays: Arrays) -> dict[str, Figure]:
    """Those of the part `cliff`."""
    horizons = np.array(results["config"]["horizons"])
    figures = {"exp1_training.png": draw_training(results, arrays)}
    chaotic = _chaotic(results)
    for system in results["config"]["systems"]:
        suffix = _suffix(system)
        if system == "linear":
            figures["exp1_linear_cliff.png"] = draw_linear_cliff(results, arrays, horizons)
            continue
        figures[f"exp1_spectral_cliff{suffix}.png"] = draw_cliff(system, results, arrays, horizons)
        if system == chaotic[0]:
            figures[f"exp1_gradient_agreement{suffix}.png"] = draw_gradient_agreement(system, results, arrays)
            figures[f"exp1_ablation{suffix}.png"] = draw_ablation(system, arrays, horizons)
            figures[f"exp1_rollouts{suffix}.png"] = draw_rollouts(system, arrays)
            figures[f"exp1_convergence_rate{suffix}.png"] = draw_convergence(system, results, arrays)
    if "lorenz" in results["config"]["systems"]:
        figures["exp1_pareto.png"] = draw_pareto(results, arrays, horizons)
    return figures


# ----------------------------------------------------------------------------------------------
# The cliff
# ----------------------------------------------------------------------------------------------


def _plot_variant(
    axis: Axes, arrays: Arrays, system: str, variant: str, quantity: str, x: np.ndarray
) -> None:
    values = arrays[f"{system}/{variant}/{quantity}"]
    style = {
        "true": {"linestyle": "--", "marker": ""},
        "helm_blind": {"linestyle": ":", "marker": "", "linewidth": 1.4},
        "flat_long": {"linestyle": "--", "marker": "", "linewidth": 1.2},
        "cascade": {"marker": "s", "markersize": 7, "markerfacecolor": "none", "linewidth": 1.0, "zorder": 3},
    }.get(variant, {})
    color = COLORS.get(variant) or ABLATION_COLORS[variant]
    plot_band(axis, x, values, LABELS[variant], color, **style)


def _target_line(axis: Axes) -> None:
    axis.axhline(np.log10(TARGET), color=COLORS["target"], linestyle=":", linewidth=1.2)
    axis.annotate(
        "target 20", (0.995, np.log10(TARGET)), xycoords=("axes fraction", "data"), ha="right", va="bottom",
        fontsize=8, color=COLORS["target"],
    )  # fmt: skip


def _norm_axis(axis: Axes, low: float, high: float) -> None:
    """A linear axis of log10 values, labelled as powers of ten."""
    axis.set_ylim(low, high)
    step = max(1, int(np.ceil((high - low) / 8)))
    ticks = np.arange(np.ceil(low), np.floor(high) + 1, step)
    axis.set_yticks(ticks, [f"$10^{{{int(tick)}}}$" for tick in ticks])


def _norm_panel(
    axis: Axes, arrays: Arrays, system: str, variants: Sequence[str], name: str, horizons: np.ndarray
) -> None:
    """Norms of a Jacobian over the horizon; flat ends far above the panel, which says where."""
    quantity = f"log10_jacobian_{name}"
    for variant in variants:
        _plot_variant(axis, arrays, system, variant, quantity, horizons)
    _target_line(axis)
    _norm_axis(axis, -3.2, CLIFF_TOP[system])
    axis.set_ylabel(rf"$\Vert {JACOBIANS[name]} \Vert_F$, median over start states")
    longest = arrays[f"{system}/flat/{quantity}"][-1].mean()
    axis.annotate(
        f"flat: $10^{{{longest:.0f}}}$ at T = {horizons[-1]}", (0.985, 0.75), xycoords="axes fraction",
        ha="right", va="top", color=COLORS["flat"], fontsize=9,
    )  # fmt: skip
    label_horizons(axis, horizons)


def _error_panel(axis: Axes, arrays: Arrays, system: str, variants: Sequence[str], x: np.ndarray) -> None:
    for variant in variants:
        if f"{system}/{variant}/nrmse" in arrays:
            _plot_variant(axis, arrays, system, variant, "nrmse", x)
    axis.axhline(1.0, color=COLORS["target"], linestyle=":", linewidth=1.2)
    axis.annotate(
        "predicting the mean", (0.01, 1.0), xycoords=("axes fraction", "data"), va="bottom", fontsize=8,
        color=COLORS["target"],
    )  # fmt: skip
    axis.set_ylim(0, 1.6)
    axis.set_ylabel("prediction error (NRMSE)")
    label_horizons(axis, x)


def draw_cliff(system: str, results: Mapping[str, Any], arrays: Arrays, horizons: np.ndarray) -> Figure:
    """The headline: both Jacobian norms over the horizon, and below them the prediction error."""
    variants = ("flat", "spectral_published", "spectral", "helm", "cascade")
    figure = Figure(figsize=(11.5, 8.2), layout="constrained")
    axes = figure.subplot_mosaic([["state", "action"], ["error", "error"]], height_ratios=(1.6, 1))
    for name in JACOBIANS:
        _norm_panel(axes[name], arrays, system, ("true", *variants), name, horizons)
        _plot_mollified(axes[name], arrays, system, f"log10_jacobian_{name}", horizons)
    _error_panel(axes["error"], arrays, system, (*variants, "flat_long", "helm_blind"), horizons)
    axes["state"].set_title("Start Jacobian (small: the start is forgotten)")
    axes["action"].set_title("Action Jacobian (what planning descends through)")
    axes["error"].set_title("A norm means nothing without the error beside it")
    axes["state"].legend(loc="upper left")
    axes["error"].legend(loc="lower right", ncols=2)
    shown = int(np.abs(horizons - 100).argmin())
    flat, helm = (
        10 ** arrays[f"{system}/{variant}/log10_jacobian_state"][shown].mean() for variant in ("flat", "helm")
    )
    figure.suptitle(
        f"{_system_title(system)}: at T = {horizons[shown]} the start Jacobian's norm is "
        f"{flat:.2g} in the flat model, {helm:.2g} in HELM",
        fontweight="bold",
    )
    return figure


def draw_switch(systems: Sequence[str], results: Mapping[str, Any], arrays: Arrays) -> Figure:
    """The cascade with switches chosen on unseen trajectories, beside the fixed one and its levels."""
    horizons = np.array(results["config"]["horizons"])
    figure, axes = new_figure(len(systems), 2, (11.0, 0.9 + 3.6 * len(systems)))
    for (norm, error), system in zip(axes, systems, strict=True):
        _norm_panel(norm, arrays, system, SWITCHED, "state", horizons)
        _error_panel(error, arrays, system, SWITCHED, horizons)
        norm.set_title(_system_title(system))
    figure.legend(*axes[0, 0].get_legend_handles_labels(), loc="outside lower center", ncols=4)
    said = [
        f"{_system_title(system).rpartition(', ')[2]}: " + " against ".join(
            f"{10 ** results['metrics'][f'{system}/{variant}/peak_log10_jacobian_state']['mean']:.3g}"
            for variant in ("cascade_validated", "cascade")
        )
        for system in systems
    ]  # fmt: skip
    figure.suptitle(
        "Largest norm of the cascade, switches validated against fixed, geometric mean over seeds:\n"
        + "; ".join(said),
        fontweight="bold",
    )
    return figure


def _plot_mollified(axis: Axes, arrays: Arrays, system: str, quantity: str, horizons: np.ndarray) -> None:
    prefix, color = f"{system}/mollified_true", COLORS["mollified_true"]
    if f"{prefix}/horizons" in arrays:
        short = arrays[f"{prefix}/horizons"]
        plot_band(axis, short, arrays[f"{prefix}/{quantity}"], LABELS["mollified_true"], color,
                  linestyle="--", marker="D")  # fmt: skip
    if f"{prefix}/log10_stein_bound" not in arrays:  # without noise there is nothing to bound
        return
    bound = arrays[f"{prefix}/log10_stein_bound"].mean(1)
    axis.plot(horizons, bound, color=color, linestyle=":", label="its Stein bound std/σ")


def _system_title(system: str) -> str:
    return {"lorenz": "Controlled Lorenz, dt 0.1", "lorenz_dt033": "Controlled Lorenz, dt 0.33"}[system]


def draw_linear_cliff(results: Mapping[str, Any], arrays: Arrays, horizons: np.ndarray) -> Figure:
    """The linear system, where every curve has a closed form."""
    figure, axes = new_figure(1, 2, (10.5, 4.4))
    for variant in ("true", "flat", "spectral_published", "spectral"):
        _plot_variant(axes[0, 0], arrays, "linear", variant, "log10_jacobian_action", horizons)
        if variant != "true":
            _plot_variant(axes[0, 1], arrays, "linear", variant, "nrmse", horizons)
    metrics = results["metrics"]
    if "linear/spectral/ridge_error/predicted/T=50" in metrics:
        for name, variant in (("flat/closed_form_error", "flat"), ("spectral/ridge_error", "spectral")):
            predicted = metrics[f"linear/{name}/predicted/T=50"]["mean"]
            axes[0, 0].plot(50, np.log10(predicted), "x", color="black", markersize=9, zorder=5,
                            label="closed form, T = 50" if variant == "flat" else None)  # fmt: skip
            axes[0, 0].annotate(f"{predicted:.0f}", (50, np.log10(predicted)), textcoords="offset points",
                                xytext=(-26, 8) if variant == "flat" else (6, -13), fontsize=9)  # fmt: skip
    _target_line(axes[0, 0])
    _norm_axis(axes[0, 0], 0, arrays["linear/true/log10_jacobian_action"].max() * 1.04)
    axes[0, 0].set_ylabel(r"$\Vert \partial s_T/\partial a \Vert_F$, median state")
    axes[0, 0].set_title("Action Jacobian")
    axes[0, 1].set_title("Prediction error")
    axes[0, 1].axhline(1.0, color=COLORS["target"], linestyle=":", linewidth=1.2)
    axes[0, 1].set_ylabel("prediction error (NRMSE)")
    for axis in axes[0]:
        label_horizons(axis, horizons)
        axis.legend(loc="upper left")
    figure.suptitle("Linear expansive system: the penalty is ridge regression", fontweight="bold")
    return figure


# ----------------------------------------------------------------------------------------------
# What does what
# ----------------------------------------------------------------------------------------------


def draw_ablation(system: str, arrays: Arrays, horizons: np.ndarray) -> Figure:
    """HELM with one part changed at a time: both norms and the error."""
    figure, axes = new_figure(1, 3, (14, 4.4))
    for axis, quantity in zip(
        axes[0], ("log10_jacobian_state", "log10_jacobian_action", "nrmse"), strict=True
    ):
        for variant in ABLATION_COLORS:
            _plot_variant(axis, arrays, system, variant, quantity, horizons)
        label_horizons(axis, horizons)
    for axis, symbol in zip(
        axes[0], (r"\partial s_T/\partial s_0", r"\partial s_T/\partial a"), strict=False
    ):
        _target_line(axis)
        _norm_axis(axis, -4.2, 2.5)
        axis.set_ylabel(rf"$\Vert {symbol} \Vert_F$, median state")
    axes[0, 2].axhline(1.0, color=COLORS["target"], linestyle=":", linewidth=1.2)
    axes[0, 2].set_yscale("log")
    axes[0, 2].set_ylim(0.04, 100)  # one-step loss without bound leaves it
    axes[0, 2].set_ylabel("prediction error (NRMSE, dotted: predicting the mean)")
    axes[0, 0].set_title("Start Jacobian")
    axes[0, 1].set_title("Action Jacobian")
    axes[0, 2].set_title("Prediction error")
    axes[0, 2].legend(loc="best")
    figure.suptitle(f"{_system_title(system)}: which part of HELM does what", fontweight="bold")
    return figure


def draw_pareto(results: Mapping[str, Any], arrays: Arrays, horizons: np.ndarray) -> Figure | None:
    """Stability against fidelity over the weight of the one-step penalty, with HELM, at T near 20 and 100."""
    config = results["config"]
    weights = {0.0: "flat", 1e-3: "spectral_published", config["lambda_spectral"]: "spectral"}
    weights |= {weight: f"spectral_{weight:g}" for weight in config["spectral_sweep"]}
    shown = [int(np.abs(horizons - horizon).argmin()) for horizon in (20, 100)]
    figure, axes = new_figure(1, 2, (11, 4.6), sharey=True)
    for axis, index in zip(axes[0], shown, strict=True):
        points = [
            _pareto_point(axis, arrays, f"lorenz/{weights[weight]}", index, COLORS["spectral"], "o")
            for weight in sorted(weights)
        ]
        axis.plot(
            *np.array(points).T, color=COLORS["spectral"], linewidth=1, label="one-step penalty, weight λ"
        )
        for number, (weight, point) in enumerate(zip(sorted(weights), points, strict=True)):
            offset = (6, 7 if number % 2 else -14)  # neighbours nearly coincide
            axis.annotate(f"λ = {weight:g}", point, xytext=offset, textcoords="offset points", fontsize=8)
        for variant, marker in (("helm", "s"), ("cascade", "D")):
            _pareto_point(axis, arrays, f"lorenz/{variant}", index, COLORS[variant], marker, LABELS[variant])
        axis.axvline(np.log10(TARGET), color=COLORS["target"], linestyle=":", linewidth=1.2)
        axis.axhline(1.0, color=COLORS["target"], linestyle=":", linewidth=1.2)
        axis.set_xlabel(r"$\log_{10} \Vert \partial s_T/\partial s_0 \Vert_F$ (dotted: target 20)")
        axis.set_title(f"T = {horizons[index]}")
    axes[0, 0].set_ylabel("prediction error (NRMSE; dotted: predicting the mean)")
    axes[0, 1].legend(loc="lower right")
    figure.suptitle(
        "The one-step penalty: stability against fidelity, with HELM beside it", fontweight="bold"
    )
    return figure


def _pareto_point(
    axis: Axes, arrays: Arrays, variant: str, index: int, color: str, marker: str, label: str | None = None
) -> tuple[float, float]:
    """Draw one variant with its spread over seeds; its mean norm and mean error."""
    x, y = arrays[f"{variant}/log10_jacobian_state"][index], arrays[f"{variant}/nrmse"][index]
    spread = [[[v.mean() - v.min()], [v.max() - v.mean()]] for v in (x, y)]
    axis.errorbar(
        x.mean(), y.mean(), xerr=spread[0], yerr=spread[1], color=color, marker=marker, capsize=2,
        label=label, linestyle="none",
    )  # fmt: skip
    return x.mean(), y.mean()


# ----------------------------------------------------------------------------------------------
# Gradients, planning, rollouts, training
# ----------------------------------------------------------------------------------------------


def draw_gradient_agreement(system: str, results: Mapping[str, Any], arrays: Arrays) -> Figure:
    """Cosine of action gradients under perturbation, over the horizon."""
    horizons = np.array(results["config"]["gradient_horizons"])
    figure, axes = new_figure(1, 1, (6.6, 4.4))
    axis = axes[0, 0]
    for variant in ("flat", "spectral", "helm"):
        _plot_variant(axis, arrays, system, variant, "gradient_cosine", horizons)
    label_horizons(axis, horizons)
    axis.axhline(0.0, color=COLORS["target"], linestyle=":", linewidth=1.2)
    axis.set_ylim(-0.35, 1.05)
    noise = results["config"]["gradient_noise"]
    axis.set_ylabel(f"cosine of action gradients, perturbation {noise:g}")
    axis.set_title(f"{_system_title(system)}: does an action gradient hold nearby?")
    axis.legend()
    return figure


def draw_convergence(system: str, results: Mapping[str, Any], arrays: Arrays) -> Figure:
    """True final distance over gradient steps at the longest common horizon, and over horizons."""
    config = results["config"]
    horizons = np.array(config["planning_horizons"])
    planners = ("flat", "spectral", "helm", "helm_refined")
    middle = int(np.abs(horizons - 48).argmin())
    figure, axes = new_figure(1, 3, (14, 4.5), sharey=True)
    steps = arrays[f"{system}/planning_curve_points"]
    for planner in planners:
        curve = arrays[f"{system}/{planner}/planning_curve"][middle]  # [C, S]
        plot_band(axes[0, 0], np.array(steps), curve, LABELS[planner], COLORS[planner])
        for axis, loop in zip(axes[0, 1:], ("open", "closed"), strict=True):
            values = arrays[f"{system}/{planner}/planning_distance/{loop}"]
            plot_band(axis, horizons, values, LABELS[planner], COLORS[planner])
    random = arrays[f"{system}/random/planning_distance/open"]
    for axis in axes[0, 1:]:
        plot_band(axis, horizons, random, LABELS["random"], COLORS["random"], linestyle="--")
        label_horizons(axis, horizons)
    axes[0, 0].set_xscale("symlog", linthresh=1)
    axes[0, 0].set_xlim(left=-0.15)
    axes[0, 0].set_xticks(steps, [str(step) for step in steps])
    axes[0, 0].minorticks_off()
    axes[0, 0].set_xlabel("gradient steps (Adam)")
    axes[0, 0].set_ylabel("true final distance to the goal, median [std of the state]")
    axes[0, 0].set_ylim(bottom=0)
    axes[0, 0].set_title(f"Open loop, T = {horizons[middle]}")
    axes[0, 1].set_title("Open loop")
    axes[0, 2].set_title(f"Closed loop, {config['replans']} plans")
    figure.legend(*axes[0, 2].get_legend_handles_labels(), loc="outside lower center", ncols=5)
    figure.suptitle(
        f"{_system_title(system)}: plans of each model, executed in the true system (oracle: 0)",
        fontweight="bold",
    )
    return figure


def draw_rollouts(system: str, arrays: Arrays) -> Figure:
    """One trajectory: true, flat and HELM, on the attractor and over time."""
    stride = int(arrays[f"{system}/rollout/stride"])
    figure, axes = new_figure(1, 2, (12, 4.4), width_ratios=(1, 1.7))
    for variant in ("true", "flat", "helm"):
        states = arrays[f"{system}/rollout/{variant}"]
        steps = np.arange(len(states)) * (stride if variant == "helm" else 1)
        line = {
            "color": COLORS[variant],
            "label": LABELS[variant],
            "linewidth": 1.2 if variant == "true" else 1.6,
        }
        line |= {"marker": "o", "markersize": 3} if variant == "helm" else {}
        axes[0, 0].plot(states[:, 0], states[:, 2], alpha=0.8, **line)
        axes[0, 1].plot(steps, states[:, 0], **line)
    axes[0, 0].set_xlabel("x [std]")
    axes[0, 0].set_ylabel("z [std]")
    axes[0, 0].set_title("On the attractor")
    axes[0, 1].set_xlabel("step")
    axes[0, 1].set_ylabel("x [std]")
    axes[0, 1].set_title("x over time")
    axes[0, 1].legend(loc="lower right", ncols=3)
    figure.suptitle(f"{_system_title(system)}: one open-loop rollout", fontweight="bold")
    return figure


def draw_training(results: Mapping[str, Any], arrays: Arrays) -> Figure:
    """Loss terms over training, flat variants and HELM variants side by side."""
    systems = results["config"]["systems"]
    figure, axes = new_figure(len(systems), 2, (11.5, 3.4 * len(systems)))
    for row, system in zip(axes, systems, strict=True):
        flat, helm = row
        for variant in ("flat", "spectral_published", "spectral"):
            steps = arrays[f"{system}/{variant}/history/iteration"]
            loss = arrays[f"{system}/{variant}/history/prediction"]
            plot_band(flat, steps, loss, LABELS[variant], COLORS[variant], marker="", linewidth=1.2)
        if f"{system}/spectral/history/spectral" in arrays:  # absent with a weight of 0
            spectral = arrays[f"{system}/spectral/history/spectral"]
            plot_band(flat, steps, spectral, "penalty term of the λ variant", COLORS["target"], marker="",
                      linewidth=1.0, linestyle="--")  # fmt: skip
        flat.set_title(f"{system}: flat models, one-step squared error")
        helm.set_title(f"{system}: HELM, squared error of the first macro step")
        for variant in (
            variant for variant in ABLATION_COLORS if f"{system}/{variant}/history/first" in arrays
        ):
            steps = arrays[f"{system}/{variant}/history/iteration"]
            loss = arrays[f"{system}/{variant}/history/first"]
            plot_band(helm, steps, loss, LABELS[variant], ABLATION_COLORS[variant], marker="", linewidth=1.2)
        for axis in row:
            axis.set_yscale("log")
            axis.set_xlabel("optimiser step")
            axis.set_ylabel("loss term [normalised units]")
            if axis.get_legend_handles_labels()[0]:
                axis.legend(loc="upper right")
            else:
                axis.set_axis_off()
                axis.set_title("")
                note = f"{system}: no HELM variant,\nsmoothing cannot change a linear map's Jacobian"
                axis.text(0.5, 0.5, note, ha="center", va="center", transform=axis.transAxes)
    figure.suptitle("Training", fontweight="bold")
    return figure


# ----------------------------------------------------------------------------------------------
# Equal evaluations
# ----------------------------------------------------------------------------------------------

PLANNED = {
    "flat": ("gradient, flat model", COLORS["flat"]),
    "helm": ("gradient, HELM", COLORS["helm"]),
    "helm_refined": ("gradient, HELM then flat", COLORS["helm_refined"]),
    "icem": ("iCEM, flat model", "#009E73"),
}


def draw_evaluations(system: str, results: Mapping[str, Any]) -> Figure:
    """True final distance over evaluations, and over replans without and with noise, at two horizons."""
    config = results["config"]
    budgets, replans = config["evaluation_sweep"], config["replan_sweep"]
    every = config["planning_horizons"]
    horizons = sorted({every[0], every[len(every) // 2]})  # two, that they can be read
    figure, axes = new_figure(len(horizons), 3, (11.5, 1.0 + 2.4 * len(horizons)), sharey="row")
    for line, horizon in zip(axes, horizons, strict=True):
        panels = (
            (line[0], budgets, "evaluations={:g}", "one plan"),
            (line[1], replans, "replans={}", f"replanning, {max(budgets):g} a step in all"),
            (line[2], replans, "noise/replans={}", f"actuator noise {config['actuator_noise']:g}"),
        )
        for axis, values, pattern, title in panels:
            for planner, (label, color) in PLANNED.items():
                prefix = f"{system}/{planner}/planning_distance"
                found = [
                    results["metrics"][f"{prefix}/{pattern.format(value)}/T={horizon}"]["values"]
                    for value in values
                ]
                plot_band(axis, np.arange(len(values)), np.array(found), label, color)
            axis.set_xticks(np.arange(len(values)), [f"{value:g}" for value in values])
            axis.set_title(f"T = {horizon}, {title}", fontsize=9.5)
        line[0].set_ylabel("true final distance")
    axes[-1, 0].set_xlabel("evaluations a step")
    for axis in axes[-1, 1:]:
        axis.set_xlabel("plans an episode")
    figure.legend(*axes[0, 0].get_legend_handles_labels(), loc="outside upper center", ncols=5)
    return figure
