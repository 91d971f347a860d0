"""The figures of experiment 5, drawn from saved results alone; what a run did not measure is left out.

A title states what was found; the interval chooses the sentence. Dots and thin lines are training seeds.
"""

from collections.abc import Iterator, Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Patch, Rectangle

from common.recursion.figures import (
    Arrays,
    Results,
    draw_differences,
    finding,
    mean_of,
    side_of,
    values_of,
)
from common.viz_utils import COLORS, new_figure, plot_band, plot_seeds
from exp5_feudal_hrm.figures_recursion import draw_recursion_figures, task_title

# Label, colour and line of each variant: the line says how far back gradients go, or that halting is off.
VARIANTS = {
    "baseline": ("baseline", COLORS["flat"], "-"),
    "head": ("goal head, weight 0", "#117733", "-"),
    "random_goals": ("random goals", COLORS["random"], "-"),
    "directional": ("feudal, directional", COLORS["helm"], "-"),
    "predict": ("feudal, predict", "#CC79A7", "-"),
    "naive": ("feudal, naive", "#8B4513", "-"),
    "baseline_segment": ("baseline, gradient through the segment", COLORS["flat"], "--"),
    "directional_segment": ("feudal, gradient through the segment", COLORS["helm"], "--"),
    "baseline_fixed": ("baseline, fixed number of segments", COLORS["flat"], ":"),
    "directional_fixed": ("feudal, fixed number of segments", COLORS["helm"], ":"),
    "predict_segment": ("predict, gradient through the segment", "#CC79A7", "--"),
    "contrastive": ("feudal, contrastive", "#6A3D9A", "-"),
    "contrastive_segment": ("contrastive, gradient through the segment", "#6A3D9A", "--"),
    "detached": ("predict, manager detached", "#B2A000", "-"),
    "cells": ("predict, a goal for each cell", "#00A0C0", "-"),
}
GROUPS = {  # panels; the baseline is in each
    "One-step gradient": ("head", "random_goals", "directional", "predict", "naive"),
    "Gradient through the segment": (
        "baseline_segment", "directional_segment", "predict_segment", "contrastive_segment",
    ),
    "Further formulations": (
        "contrastive", "detached", "cells", "baseline_fixed", "directional_fixed",
    ),
}  # fmt: skip
DIFFERENCES = (  # (variant, what it is compared with)
    ("head", "baseline"), ("random_goals", "baseline"), ("directional", "baseline"), ("predict", "baseline"),
    ("naive", "baseline"), ("contrastive", "baseline"), ("detached", "baseline"), ("cells", "baseline"),
    ("directional", "head"), ("directional", "random_goals"), ("baseline_segment", "baseline"),
    ("directional_segment", "baseline_segment"), ("predict_segment", "baseline_segment"),
    ("contrastive_segment", "baseline_segment"), ("directional_fixed", "baseline_fixed"),
)  # fmt: skip
SHORT = {  # where there is little room; long: gradients through the segment
    "baseline": "baseline", "head": "head, weight 0", "random_goals": "random goals",
    "directional": "directional", "predict": "predict", "naive": "naive",
    "baseline_segment": "baseline, long", "directional_segment": "directional, long",
    "baseline_fixed": "baseline, fixed", "directional_fixed": "directional, fixed",
    "predict_segment": "predict, long", "contrastive": "contrastive",
    "contrastive_segment": "contrastive, long", "detached": "detached", "cells": "goals of cells",
}  # fmt: skip


def draw_figures(results: Results, arrays: Arrays) -> dict[str, Figure | Iterator[Figure]]:
    """Every figure of a run, by file name; exp5_puzzle.gif as its frames."""
    tasks = measured_tasks(results)
    figures: dict[str, Figure | Iterator[Figure]] = {}
    for position, task in enumerate(tasks):
        suffix = f"_{task}" if position else ""
        figures[f"exp5_feudal_hrm{suffix}.png"] = draw_headline(results, task)
        figures[f"exp5_training{suffix}.png"] = draw_training(results, arrays, task)
        figures |= draw_recursion_figures(results, arrays, task, suffix)
        if with_goals(results, task):
            figures[f"exp5_goals{suffix}.png"] = draw_goals(results, task)
    if len(sweep_cells(results)) > 1:
        figures["exp5_sweep.png"] = draw_sweep(results, tasks[0])
    return figures


def measured_tasks(results: Results) -> list[str]:
    """The tasks of a run, in the order of its configuration."""
    config = results["config"]
    asked = (*config["tasks"], *config["larger_tasks"])
    return [task for task in asked if measured_variants(results, task)]


def measured_variants(results: Results, task: str, among: Sequence[str] = tuple(VARIANTS)) -> list[str]:
    """Those of some variants that a task was trained with."""
    return [name for name in among if f"{task}/{name}/exact" in results["metrics"]]


def with_goals(results: Results, task: str) -> list[str]:
    """The variants that have goals."""
    return [name for name in VARIANTS if f"{task}/{name}/feudal/cosine" in results["metrics"]]


# ----------------------------------------------------------------------------------------------
# The headline
# ----------------------------------------------------------------------------------------------


def draw_headline(results: Results, task: str) -> Figure:
    """Exact accuracy over segments, and the paired differences between variants."""
    groups = {title: measured_variants(results, task, names) for title, names in GROUPS.items()}
    groups = {title: names for title, names in groups.items() if names}
    groups = groups or {"Over segments": []}
    pairs = {f"{task}/{one}_minus_{other}/exact": (one, other) for one, other in DIFFERENCES}
    pairs = {name: pair for name, pair in pairs.items() if name in results["metrics"]}
    panels = len(groups) + bool(pairs)
    rows, columns = (2, 2) if panels == 4 else (1, panels)
    figure, axes = new_figure(rows, columns, (1.0 + 4.6 * columns, 0.6 + 4.3 * rows))
    axes = axes.flat
    for axis, (title, names) in zip(axes, groups.items(), strict=False):
        _segments_panel(axis, results, task, [*measured_variants(results, task, ("baseline",)), *names])
        axis.set_title(title)
    if pairs:
        labels = {
            name: (f"{SHORT[one]} − {SHORT[other]}", VARIANTS[one][1]) for name, (one, other) in pairs.items()
        }
        draw_differences(axes[panels - 1], results, labels)
        axes[panels - 1].tick_params(axis="y", labelsize=7.5)
        axes[panels - 1].set_xlabel("difference in exact accuracy, paired; 95% interval")
        axes[panels - 1].set_title("Differences (long: gradient through the segment)", fontsize=9.5)
    figure.suptitle(f"{task_title(task)}. {headline_finding(results, task)}", fontweight="bold")
    return figure


def headline_finding(results: Results, task: str) -> str:
    """What goals do to exact accuracy, against the control that they gain least on."""
    controls = [
        f"{task}/directional_minus_{control}/exact" for control in ("baseline", "head", "random_goals")
    ]
    if f"{task}/directional_segment/exact" in results["metrics"] and controls[0] not in results["metrics"]:
        controls = [f"{task}/directional_segment_minus_baseline_segment/exact"]
    measured = [name for name in controls if name in results["metrics"]]
    if not measured:
        return "Exact accuracy over segments"
    hardest = min(measured, key=lambda name: mean_of(results, name))
    against = SHORT[hardest.split("_minus_")[1].removesuffix("/exact")]
    return finding(
        results, hardest,
        f"Goals gain on every control, least on {against}",
        f"Goals cost exact accuracy against {against}",
        f"No gain from goals is shown (against {against})",
    )  # fmt: skip


def _segments_panel(axis: Axes, results: Results, task: str, names: Sequence[str]) -> None:
    segments = range(1, results["config"]["segments"] + 1)
    for name in names:
        label, color, line = VARIANTS[name]
        exact = np.stack([values_of(results, f"{task}/{name}/exact/segment={k}") for k in segments])
        plot_seeds(axis, np.array(segments), exact, label, color, linestyle=line, marker="o")
    axis.set_xlabel("segment")
    axis.set_xticks(list(segments)[:: 1 + len(segments) // 9])
    axis.set_ylabel("exact accuracy on held-out puzzles")
    axis.set_ylim(-0.02, 1.02)
    axis.legend(loc="lower right", fontsize=7.5)


# ----------------------------------------------------------------------------------------------
# Sweeps
# ----------------------------------------------------------------------------------------------


def draw_sweep(results: Results, task: str) -> Figure:
    """Exact accuracy over the loss's weight and the manager's period, and the grid of both."""
    config, cells = results["config"], sweep_cells(results)
    weights, periods = (sorted({cell[axis] for cell in cells}) for axis in (0, 1))
    kept = {"weight": config["feudal_loss_weight"], "period": config["manager_period"]}
    panels = {
        f"Weight, period {kept['period']}": [(w, kept["period"]) for w in weights],
        f"Period, weight {kept['weight']:g}": [(kept["weight"], p) for p in periods],
    }
    panels = {
        title: present
        for title, line in panels.items()
        if len(present := [cell for cell in line if cell in cells]) > 1
    }
    grid = len(weights) > 1 and len(periods) > 1
    columns = max(1, len(panels) + grid)
    figure, axes = new_figure(1, columns, (1.0 + 4.3 * columns, 4.6))
    for axis, (title, line) in zip(axes[0], panels.items(), strict=False):
        _sweep_line(axis, results, task, line, by=0 if title.startswith("Weight") else 1)
        axis.set_title(title)
    if panels:
        axes[0, 0].legend(loc="lower right", fontsize=7.5)
    if grid:
        _sweep_grid(axes[0, -1], results, weights, periods, cells)
    figure.suptitle(_sweep_finding(results), fontweight="bold")
    return figure


def sweep_cells(results: Results) -> list[tuple[float, int]]:
    """The (weight, period) pairs of a run's sweep."""
    names = [name.split("/") for name in results["metrics"] if name.startswith("sweep/")]
    return [(float(parts[1]), int(parts[2])) for parts in names if len(parts) == 4 and parts[3] == "exact"]


def _sweep_finding(results: Results) -> str:
    sentences = []
    for what in ("weight", "period"):
        name, against = f"sweep/best_{what}/gain", {"weight": "weight 0", "period": "the other periods"}[what]
        if name in results["metrics"]:
            sentences.append(
                finding(
                    results, name,
                    f"The best {what}, chosen on other seeds, gains on {against}",
                    f"The best {what}, chosen on other seeds, loses to {against}",
                    f"No best {what} is shown: chosen on other seeds its gain on {against}",
                )
            )  # fmt: skip
    return "\n".join(sentences) or "Weight and period of the goals"


def _sweep_line(axis: Axes, results: Results, task: str, cells: Sequence[tuple[float, int]], by: int) -> None:
    """Exact accuracy of some settings over their weight (by=0) or period (by=1), and the controls' bands."""
    x = np.array([cell[by] for cell in cells], dtype=float)
    for control in measured_variants(results, task, ("baseline", "head", "random_goals")):
        label, color, _ = VARIANTS[control]
        values = values_of(results, f"{task}/{control}/exact")
        axis.axhspan(values.min(), values.max(), color=color, alpha=0.14, linewidth=0)
        axis.axhline(values.mean(), color=color, linewidth=1.0, label=f"{label} (band: seeds)")
    exact = np.stack([values_of(results, f"sweep/{w:g}/{p}/exact") for w, p in cells])
    plot_seeds(axis, x, exact, "feudal, directional", VARIANTS["directional"][1], marker="o")
    axis.set_xscale("log")
    axis.set_xticks(x, [f"{value:g}" for value in x])
    axis.minorticks_off()
    axis.set_xlabel(("weight of the feudal loss", "manager's period [segments]")[by])
    axis.set_ylabel("exact accuracy on held-out puzzles")


def _sweep_grid(
    axis: Axes,
    results: Results,
    weights: Sequence[float],
    periods: Sequence[int],
    cells: Sequence[tuple[float, int]],
) -> None:
    """Paired differences from the baseline; hatched where the interval includes 0."""
    shown = np.full((len(periods), len(weights)), np.nan)
    for weight, period in cells:
        row, column = periods.index(period), weights.index(weight)
        name = f"sweep/{weight:g}/{period}/minus_baseline/exact"
        shown[row, column] = mean_of(results, name)
        if not side_of(results, name):
            place = (column - 0.5, row - 0.5)
            axis.add_patch(Rectangle(place, 1, 1, fill=False, hatch="///", edgecolor="#777777", linewidth=0))
        axis.text(
            column, row, f"{round(shown[row, column], 2) + 0.0:+.2f}", ha="center", va="center", fontsize=8.5,
            bbox={"facecolor": "white", "edgecolor": "none", "alpha": 0.75, "pad": 1.0},
        )  # fmt: skip
    most = max(0.05, float(np.nanmax(np.abs(shown))))
    image = axis.imshow(shown, cmap="RdBu", vmin=-most, vmax=most, aspect="auto", origin="lower")
    axis.figure.colorbar(image, ax=axis, label="exact accuracy minus the baseline's, paired")
    axis.set_xticks(range(len(weights)), [f"{weight:g}" for weight in weights])
    axis.set_yticks(range(len(periods)), [str(period) for period in periods])
    axis.set_xlabel("weight of the feudal loss")
    axis.set_ylabel("manager's period [segments]")
    axis.grid(False)
    axis.set_title("Both")
    note = "interval includes 0" + (" (blank: not trained)" if np.isnan(shown).any() else "")
    axis.legend(
        handles=[Patch(facecolor="white", hatch="///", edgecolor="#777777", label=note)],
        loc="upper center", bbox_to_anchor=(0.5, -0.14),
    )  # fmt: skip


# ----------------------------------------------------------------------------------------------
# Goals
# ----------------------------------------------------------------------------------------------

COSINES = {  # of the worker's displacement, or state, with ..
    "cosine": ("the puzzle's own goal", "o"),
    "cosine_swapped": ("another puzzle's goal", "s"),
    "cosine_constant": ("the mean goal", "^"),
    "cosine_best_constant": ("the best constant direction", "v"),
    "cosine_centred": ("its own goal, both less their means", "D"),
}


def draw_goals(results: Results, task: str) -> Figure:
    """What goals say of a puzzle, what becomes of answers with other goals, and the gate."""
    names = with_goals(results, task)
    height = max(4.8, 1.5 + 0.4 * len(names))
    figure, axes = new_figure(1, 3, (15.5, height), width_ratios=(1.7, 1.1, 0.9))
    _cosine_panel(axes[0, 0], results, task, names)
    rows = {
        f"{task}/{name}/{way}_minus_own/exact": (
            f"{SHORT[name]}: {'swapped' if way == 'swapped' else 'none'}",
            VARIANTS[name][1],
        )
        for name in names
        for way in ("swapped", "off")
    }
    draw_differences(axes[0, 1], results, rows)
    axes[0, 1].tick_params(axis="y", labelsize=7.5)
    axes[0, 1].set_xlabel("exact accuracy with other goals, minus with its own")
    axes[0, 1].set_title("Another puzzle's goals, or none")
    _gate_panel(axes[0, 2], results, task, names)
    figure.suptitle(f"{task_title(task)}. {goals_finding(results, task)}", fontweight="bold")
    return figure


def goals_finding(results: Results, task: str) -> str:
    """By how much a displacement is nearer its own puzzle's goal than another's, over seeds."""
    name = "directional" if f"{task}/directional/feudal/cosine" in results["metrics"] else None
    name = name or with_goals(results, task)[0]
    own, swapped = (
        values_of(results, f"{task}/{name}/feudal/{which}") for which in ("cosine", "cosine_swapped")
    )
    apart = {"metrics": {"gap": {"values": list(own - swapped)}}}
    return finding(
        apart, "gap",
        "Goals tell puzzles apart: the cosine with the own goal exceeds another's by more than 0.1",
        "Goals say little of the puzzle: the cosine with the own goal exceeds another's by less than 0.1",
        "Whether goals tell puzzles apart is not shown: the own goal's cosine less another's",
        value=0.1,
    )  # fmt: skip


def _cosine_panel(axis: Axes, results: Results, task: str, names: Sequence[str]) -> None:
    for index, name in enumerate(names):
        for offset, (quantity, (label, marker)) in enumerate(COSINES.items()):
            values = values_of(results, f"{task}/{name}/feudal/{quantity}")
            x, color = index + 0.15 * (offset - 2), VARIANTS[name][1]
            axis.plot(np.full(len(values), x), values, marker, color=color, markersize=3, alpha=0.4)
            axis.plot(
                x, values.mean() if len(values) else np.nan, marker, color=color, markersize=8,
                markeredgecolor="white",
            )  # fmt: skip
            if index == 0:
                axis.plot([], [], marker, color="#555555", label=label)
    axis.axhline(0, color=COLORS["target"], linestyle=":", linewidth=1.2)
    labels = [SHORT[name] for name in names]
    axis.set_xticks(range(len(names)), labels, fontsize=7.5, rotation=30, ha="right")
    axis.set_ylim(-0.25, 1.45)
    axis.set_yticks(np.arange(-0.2, 1.01, 0.2))
    axis.set_ylabel("cosine of the worker's displacement with ..")
    axis.set_title("Where the worker moves")
    axis.legend(loc="upper left", ncols=2, fontsize=7.5)


def _gate_panel(axis: Axes, results: Results, task: str, names: Sequence[str]) -> None:
    """Cosine over gate: who lowers a loss by closing the gate is at the upper left."""
    for name in names:
        _, color, line = VARIANTS[name]
        gate, cosine = (values_of(results, f"{task}/{name}/feudal/{which}") for which in ("gate", "cosine"))
        face = color if line == "-" else "white"
        axis.plot(gate, cosine, "o", color=color, markerfacecolor=face, markersize=6, label=SHORT[name])
    axis.set_xlim(-0.03, 1.03)
    axis.set_ylim(-0.85, 1.05)
    axis.set_xlabel("gate: share of a goal that is let through")
    axis.set_ylabel("cosine with the own goal")
    axis.set_title("The gate")
    axis.legend(loc="lower left", fontsize=7.5, ncols=2)


# ----------------------------------------------------------------------------------------------
# Training
# ----------------------------------------------------------------------------------------------

TERMS = {
    "train/lm_loss": ("Cost of the answer", "cross-entropy a cell [nats]"),
    "train/exact_accuracy": ("Exact accuracy", "share of halted puzzles"),
    "train/steps": ("Segments until a puzzle halts", "segments"),
    "train/feudal_loss": ("Feudal loss", "loss, unweighted"),
    "train/gate": ("Gate", "share of a goal let through"),
    "train/cosine": ("Cosine with the goal", "cosine"),
}


# A term's number is of nothing where this one is 0: no puzzle has halted yet, or has a goal at this step.
COUNTED = {
    "train/exact_accuracy": "train/steps",
    "train/steps": "train/steps",
    "train/feudal_loss": "train/gate",
    "train/gate": "train/gate",
    "train/cosine": "train/gate",
}
WINDOW = 9  # recorded steps of a running mean


def running_mean(values: np.ndarray) -> np.ndarray:
    """Over WINDOW steps around each, of those that have a number: [L, S] -> [L, S]."""
    known = np.isfinite(values)
    ones = np.ones(WINDOW)

    def total(column: np.ndarray) -> np.ndarray:
        return np.convolve(column, ones)[WINDOW // 2 :][: len(column)]

    sums = np.apply_along_axis(total, 0, np.where(known, values, 0.0))
    counts = np.apply_along_axis(total, 0, known.astype(float))
    return np.where(counts > 0.5, sums / np.maximum(counts, 1), np.nan)


def draw_training(results: Results, arrays: Arrays, task: str) -> Figure:
    """Losses and counts over optimiser steps, each a running mean; bands are seeds.

    What is counted over puzzles has no number while there are none: `COUNTED` says whose 0 tells.
    """
    shown = {
        term: title
        for term, title in TERMS.items()
        if any(f"{task}/{name}/history/{term}" in arrays for name in VARIANTS)
    }
    rows = 1 + (len(shown) > 3)
    figure, axes = new_figure(rows, 3, (13.5, 0.9 + 3.2 * rows))
    handles: dict[str, object] = {}
    for axis, (term, (title, unit)) in zip(axes.flat, shown.items(), strict=False):
        for name, (label, color, line) in VARIANTS.items():
            key = f"{task}/{name}/history/{term}"
            if key in arrays:
                steps = arrays[f"{task}/{name}/history/iteration"]
                style = {"marker": "", "linestyle": line, "linewidth": 1.2}
                values = arrays[key]
                if term in COUNTED:
                    count = arrays[f"{task}/{name}/history/{COUNTED[term]}"]
                    values = np.where(count > 0, values, np.nan)
                plot_band(axis, steps, running_mean(values), label, color, **style)
        handles |= dict(zip(*axis.get_legend_handles_labels()[::-1], strict=True))
        axis.set_title(title)
        axis.set_ylabel(unit)
        axis.set_xlabel("optimiser steps")
    for axis in axes.flat[len(shown) :]:
        axis.set_axis_off()
    figure.legend(handles.values(), handles.keys(), loc="outside lower center", ncols=4, handlelength=3)
    figure.suptitle(f"{task_title(task)}. {training_finding(results, task)}", fontweight="bold")
    return figure


def training_finding(results: Results, task: str) -> str:
    """Whether the feudal loss falls in training, which it should if it were what is learned."""
    name = f"{task}/directional/feudal/loss_change"
    if name not in results["metrics"]:
        return "Training"
    return finding(
        results, name,
        "The feudal loss rises in training (directional)",
        "The feudal loss falls in training (directional)",
        "The feudal loss neither falls nor rises beyond noise (directional)",
    )  # fmt: skip
