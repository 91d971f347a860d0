"""The figures of the recursion: convergence, gradients, halting, one puzzle; from saved results alone.

Solid lines are of models trained with the one-step gradient, dashed ones of gradients through the segment.
"""

from collections.abc import Iterator, Mapping, Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from common.recursion.figures import (
    Arrays,
    Results,
    draw_board,
    draw_differences,
    finding,
    mean_of,
    side_of,
    values_of,
    with_interval,
)
from common.viz_utils import COLORS, new_figure, plot_seeds

LINES = {"baseline": "-", "baseline_segment": "--"}
LABELS = {"baseline": "one-step gradient", "baseline_segment": "gradient through the segment"}
GROUPS = ("solved", "unsolved")
SIGNALS = {
    "q": ("Q head", "#332288"),
    "residual": ("residual", "#44AA99"),
    "jacobian": ("Jacobian's norm", "#AA4499"),
}
LENGTHS = {
    "segment": ("through the segment", "#DDAA33"),
    "all": ("through all segments so far", "#004488"),
}
TINY = 1e-8  # residuals are shown from here on: float32 has no smaller ones that mean anything
BOARDS = 6


def draw_recursion_figures(
    results: Results, arrays: Arrays, task: str, suffix: str
) -> dict[str, Figure | Iterator[Figure]]:
    """Of a task, by file name; none of what was not measured."""
    figures: dict[str, Figure | Iterator[Figure]] = {}
    followed = [name for name in LINES if f"{task}/{name}/recursion/solved" in results["metrics"]]
    if followed:
        figures[f"exp5_recursion{suffix}.png"] = draw_recursion(results, arrays, task, followed)
        figures[f"exp5_halting{suffix}.png"] = draw_halting(results, arrays, task, followed)
    compared = [name for name in LINES if f"{task}/{name}/gradient_cosine/all" in arrays]
    if compared:
        figures[f"exp5_gradients{suffix}.png"] = draw_gradients(results, arrays, task, compared)
    if followed and shown_puzzles(arrays, task, followed[0]):
        figures[f"exp5_puzzle{suffix}.png"] = draw_puzzle(arrays, task, followed[0])
        figures[f"exp5_puzzle{suffix}.gif"] = animate_puzzle(arrays, task, followed[0])
    return figures


def task_title(task: str) -> str:
    """As in titles."""
    words = task.split("_")
    return f"{words[1]} Sudoku" if words[0] == "sudoku" else {"arc": "ARC", "maze": "Mazes"}.get(task, task)


# ----------------------------------------------------------------------------------------------
# The recursion as a rollout
# ----------------------------------------------------------------------------------------------


def draw_recursion(results: Results, arrays: Arrays, task: str, names: Sequence[str]) -> Figure:
    """Residual and Jacobian over segments, growth beside one segment's norm, what longer gradients change."""
    figure, axes = new_figure(2, 2, (12.0, 8.4))
    _followed_panel(axes[0, 0], arrays, task, names, "residual")
    axes[0, 0].set_yscale("log")
    axes[0, 0].set_ylabel(r"residual $\Vert z_k - z_{k-1} \Vert / \Vert z_k \Vert$, median puzzle")
    axes[0, 0].set_title("How far a segment still moves")
    _followed_panel(axes[0, 1], arrays, task, names, "log10_jacobian")
    axes[0, 1].set_ylabel(r"$\log_{10} \Vert \partial z_k / \partial z_0 \Vert_F / \sqrt{d}$, median puzzle")
    axes[0, 1].set_title("What is left of the start")
    axes[0, 1].legend(loc="lower left", fontsize=8)
    _growth_panel(axes[1, 0], results, task, names)
    _longer_panel(axes[1, 1], results, arrays, task)
    figure.suptitle(f"{task_title(task)}. {recursion_finding(results, task, names[0])}", fontweight="bold")
    return figure


def recursion_finding(results: Results, task: str, name: str) -> str:
    """Whether tangents shrink on solved puzzles, and where unsolved ones end."""
    prefix, said = f"{task}/{name}/recursion", "No puzzle is solved"
    if f"{prefix}/growth/solved" in results["metrics"]:
        said = finding(
            results, f"{prefix}/growth/solved",
            "On solved puzzles the recursion expands, in nats a segment",
            "On solved puzzles the recursion contracts, in nats a segment",
            "Contraction on solved puzzles is not shown, in nats a segment",
        )  # fmt: skip
    wrong = mean_of(results, f"{prefix}/wrong_fixed_point")
    return said if np.isnan(wrong) else f"{said};\n{wrong:.0%} of unsolved puzzles end at a wrong fixed point"


def _followed_panel(axis: Axes, arrays: Arrays, task: str, names: Sequence[str], quantity: str) -> None:
    for name in names:
        for group in GROUPS:
            values = arrays[f"{task}/{name}/recursion/{quantity}/{group}"]  # [K, S]
            if quantity == "residual":
                values = np.maximum(values, TINY)
            label = f"{group}, {LABELS[name]}"
            plot_seeds(
                axis, np.arange(1, len(values) + 1), values, label, COLORS[group], linestyle=LINES[name]
            )
    axis.set_xlabel("segment k")


def _growth_panel(axis: Axes, results: Results, task: str, names: Sequence[str]) -> None:
    """Growth of a tangent per segment, beside ln of the largest singular value of one segment."""
    rows = [(name, group) for name in names for group in GROUPS]
    for row, (name, group) in enumerate(rows):
        prefix = f"{task}/{name}/recursion"
        quantities = {"growth": values_of(results, f"{prefix}/growth/{group}")}
        quantities["norm"] = np.log(values_of(results, f"{prefix}/singular_value/{group}"))
        for quantity, marker in (("growth", "o"), ("norm", "s")):
            values = quantities[quantity]
            axis.plot(values, np.full(len(values), row), marker, color=COLORS[group], alpha=0.7)
    for marker, label in (("o", "growth over the second half"), ("s", "ln of its largest singular value")):
        axis.plot([], [], marker, color="#555555", label=label)
    axis.axvline(0, color=COLORS["target"], linestyle=":", linewidth=1.2)
    axis.set_yticks(range(len(rows)), [f"{group},\n{LABELS[name]}" for name, group in rows], fontsize=8)
    axis.set_ylim(len(rows) - 0.4, -1.1)
    axis.set_xlabel("nats a segment")
    axis.set_title("One segment can stretch although rollouts shrink")
    axis.legend(loc="upper left", ncols=2, fontsize=8)


def _longer_panel(axis: Axes, results: Results, arrays: Arrays, task: str) -> None:
    prefix = f"{task}/baseline_segment_minus_baseline/recursion"
    if f"{prefix}/growth" not in results["metrics"]:  # one of the two was not followed, or solves none
        axis.set_axis_off()
        return
    for quantity, label, color in (
        ("log10_residual", "residual", SIGNALS["residual"][1]),
        ("log10_jacobian", "Jacobian's norm", SIGNALS["jacobian"][1]),
    ):
        values = arrays[f"{prefix}/{quantity}"]
        plot_seeds(axis, np.arange(1, len(values) + 1), values, label, color)
    axis.axhline(0, color=COLORS["target"], linestyle=":", linewidth=1.2)
    axis.set_xlabel("segment k")
    axis.set_ylabel("log10, long gradients minus one-step gradient")
    axis.legend(loc="best", fontsize=8)
    after = _longer_at(results, prefix)
    axis.set_title(
        finding(
            results, f"{prefix}/log10_residual/segment={after}",
            f"Longer gradients converge slower (residual, k = {after})",
            f"Longer gradients converge faster (residual, k = {after})",
            f"Longer gradients: no difference shown (residual, k = {after})",
        ).replace(": +", ":\n+").replace(": -", ":\n-"),
        fontsize=9.5,
    )  # fmt: skip


def _longer_at(results: Results, prefix: str) -> int:
    """The segment at which models are compared: where training ends, or the nearest reported one."""
    start = f"{prefix}/log10_residual/segment="
    reported = [int(name.removeprefix(start)) for name in results["metrics"] if name.startswith(start)]
    return min(reported, key=lambda k: abs(k - results["config"]["segments"]))


# ----------------------------------------------------------------------------------------------
# Gradients
# ----------------------------------------------------------------------------------------------


def draw_gradients(results: Results, arrays: Arrays, task: str, names: Sequence[str]) -> Figure:
    """The one-step gradient against longer ones, in direction and length, and what longer ones are worth."""
    worth = f"{task}/baseline_segment_minus_baseline/exact"
    columns = 2 + (worth in results["metrics"])
    figure, axes = new_figure(1, columns, (1.0 + 4.3 * columns, 4.6))
    segments = gradient_segments(results, task, names[0])
    for axis, quantity in zip(axes[0], ("cosine", "ratio"), strict=False):
        for name in names:
            for length, (label, color) in LENGTHS.items():
                values = arrays[f"{task}/{name}/gradient_{quantity}/{length}"]  # [K', S]
                said = f"gradient {label}; model trained by {LABELS[name]}"
                plot_seeds(axis, np.array(segments), values, said, color, linestyle=LINES[name], marker="o")
        axis.set_xticks(segments)
        axis.set_xlabel("segment whose answer is judged")
    axes[0, 0].set_ylim(min(0.0, axes[0, 0].get_ylim()[0]), 1.03)
    axes[0, 0].set_ylabel("cosine with the one-step gradient")
    axes[0, 0].set_title("Direction")
    axes[0, 1].set_yscale("log")
    axes[0, 1].set_ylabel("norm over the one-step gradient's")
    axes[0, 1].set_title("Length")
    if columns == 3:
        rows = {worth: ("gradient through\nthe segment", COLORS["flat"])}
        rows[f"{task}/directional_segment_minus_baseline_segment/exact"] = ("goals, on top", COLORS["helm"])
        draw_differences(axes[0, 2], results, rows)
        axes[0, 2].set_xlabel("gain in exact accuracy, 95% interval")
        axes[0, 2].set_title("Worth in training")
    figure.legend(
        *axes[0, 0].get_legend_handles_labels(), loc="outside lower center", ncols=columns - 1, handlelength=3
    )
    figure.suptitle(f"{task_title(task)}. {gradients_finding(results, task, names[0])}", fontweight="bold")
    return figure


def gradient_segments(results: Results, task: str, name: str) -> list[int]:
    """The segments at which gradients were compared."""
    start = f"{task}/{name}/gradient_cosine/all/segment="
    return [int(name.removeprefix(start)) for name in results["metrics"] if name.startswith(start)]


def gradients_finding(results: Results, task: str, name: str) -> str:
    """How far the one-step gradient points elsewhere, and what longer gradients gain in training."""
    last = gradient_segments(results, task, name)[-1]
    cosine = mean_of(results, f"{task}/{name}/gradient_cosine/all/segment={last}")
    said = f"At segment {last} the one-step gradient has cosine {cosine:.2f} with that of all segments"
    worth = f"{task}/baseline_segment_minus_baseline/exact"
    if worth not in results["metrics"]:
        return said
    gain = finding(
        results, worth,
        "training through the segment gains exact accuracy",
        "training through the segment costs exact accuracy",
        "no gain from training through the segment is shown",
    )  # fmt: skip
    return f"{said};\n{gain}"


# ----------------------------------------------------------------------------------------------
# Halting
# ----------------------------------------------------------------------------------------------


def draw_halting(results: Results, arrays: Arrays, task: str, names: Sequence[str]) -> Figure:
    """Accuracy over mean segments spent, and how well each signal tells right answers from wrong ones."""
    columns = len(names)
    figure, axes = new_figure(2, columns, (max(1.0 + 5.4 * columns, 9.5), 8.4))
    for column, name in enumerate(names):
        _spending_panel(axes[0, column], results, arrays, task, name)
        axes[0, column].set_title(f"Trained by {LABELS[name]}")
        _foretelling_panel(axes[1, column], arrays, task, name)
    figure.suptitle(f"{task_title(task)}\n{halting_finding(results, task, names[0])}", fontweight="bold")
    return figure


def halting_finding(results: Results, task: str, name: str) -> str:
    """Whether residual or Jacobian halt better than the Q head, at the same mean segments."""
    prefix, said = f"{task}/{name}/halting", []
    for signal in ("residual", "jacobian"):
        metric = f"{prefix}/{signal}_minus_q/exact"
        words = {1: "halts better than", -1: "halts worse than"}.get(
            side_of(results, metric), "is not shown to differ from"
        )
        said.append(f"the {SIGNALS[signal][0]} {words} the Q head: {with_interval(results, metric)}")
    text = ";\n".join(said)
    return text[0].upper() + text[1:]


def _spending_panel(axis: Axes, results: Results, arrays: Arrays, task: str, name: str) -> None:
    prefix, segments = f"{task}/{name}/halting", results["config"]["segments"]
    grid = np.linspace(1, segments, 4 * (segments - 1) + 1)
    fixed = np.stack([
        values_of(results, f"{task}/{name}/halting/fixed/exact/segments={k}") for k in range(2, segments)
    ]) if segments > 2 else np.empty((0, 0))  # fmt: skip
    if len(fixed):
        plot_seeds(axis, np.arange(2, segments), fixed, "the same number for all", COLORS["target"])
    for signal, (label, color) in SIGNALS.items():
        spent, exact = (arrays[f"{prefix}/{signal}/{part}"] for part in ("segments", "exact"))  # [C, S]
        curves = [np.interp(grid, *curve) for curve in zip(spent.T, exact.T, strict=True)]
        plot_seeds(axis, grid, np.stack(curves, 1), label, color)
    rule = (values_of(results, f"{prefix}/q_rule/{part}") for part in ("segments", "exact"))
    axis.plot(*rule, "D", color=SIGNALS["q"][1], markersize=6, markeredgecolor="white", label="Q head's rule")
    axis.set_xlabel("mean segments spent on held-out puzzles")
    axis.set_ylabel("exact accuracy where halted")
    axis.set_ylim(-0.02, 1.02)
    axis.legend(loc="lower right", fontsize=8)


def _foretelling_panel(axis: Axes, arrays: Arrays, task: str, name: str) -> None:
    """Colours as in the panel above."""
    for signal, (label, color) in SIGNALS.items():
        for when, line in (("now", "-"), ("final", ":")):
            areas = arrays[f"{task}/{name}/auroc/{signal}/{when}"]  # [K, S]
            x = np.arange(1, len(areas) + 1)
            plot_seeds(axis, x, areas, label, color, linestyle=line, marker="o")
    axis.axhline(0.5, color=COLORS["target"], linestyle=":", linewidth=1.2)
    axis.set_ylim(0, 1.03)
    axis.set_xlabel("segment k")
    axis.set_ylabel("AUROC for a right answer")
    axis.set_title("What it knows of the answer at k (solid), in the end (dotted)", fontsize=9.5)


# ----------------------------------------------------------------------------------------------
# A puzzle
# ----------------------------------------------------------------------------------------------


def shown_puzzles(arrays: Arrays, task: str, name: str) -> list[str]:
    """Which of the two kept puzzles there are, on a square grid."""
    kept = [group for group in GROUPS if f"{task}/{name}/puzzle/{group}/answers" in arrays]
    return [group for group in kept if _is_square(arrays[f"{task}/{name}/puzzle/{group}/inputs"].size)]


def _is_square(cells: int) -> bool:
    return round(cells**0.5) ** 2 == cells


def _puzzle(arrays: Arrays, task: str, name: str, group: str) -> Mapping[str, np.ndarray]:
    parts = ("inputs", "labels", "answers", "residual")
    return {part: arrays[f"{task}/{name}/puzzle/{group}/{part}"] for part in parts}


def _wrong(puzzle: Mapping[str, np.ndarray]) -> np.ndarray:
    """Number of wrong cells after each segment [K]."""
    asked = puzzle["labels"] >= 0
    return ((puzzle["answers"] != puzzle["labels"]) & asked).sum(1)


def draw_puzzle(arrays: Arrays, task: str, name: str) -> Figure:
    """One puzzle's answer at six segments, as far as it takes."""
    group = shown_puzzles(arrays, task, name)[0]
    puzzle = _puzzle(arrays, task, name, group)
    wrong = _wrong(puzzle)
    last = len(wrong)
    if group == "solved":
        last = int(np.flatnonzero(wrong)[-1]) + 2 if wrong.any() else 1
    segments = np.unique(np.linspace(1, min(max(last, BOARDS), len(wrong)), BOARDS).round().astype(int))
    figure, axes = new_figure(1, len(segments), (2.1 * len(segments), 2.75))
    for axis, k in zip(axes[0], segments, strict=True):
        answers = puzzle["answers"][k - 1]
        draw_board(axis, puzzle["inputs"], puzzle["labels"], answers, task.startswith("sudoku"))
        residual = f"{puzzle['residual'][k - 1]:.1g}"
        axis.set_title(f"segment {k}: {wrong[k - 1]} wrong\nresidual {residual}", fontsize=8.5)
    end = f"right from segment {last} on" if last <= len(wrong) and group == "solved" else "still wrong"
    figure.suptitle(f"One held-out puzzle, first seed: {end} (green right, purple wrong)", fontweight="bold")
    return figure


def animate_puzzle(arrays: Arrays, task: str, name: str) -> Iterator[Figure]:
    """A solved and an unsolved puzzle, side by side, segment after segment: frames of one figure."""
    groups = shown_puzzles(arrays, task, name)
    puzzles = {group: _puzzle(arrays, task, name, group) for group in groups}
    figure, axes = new_figure(1, len(groups), (3.2 * len(groups), 3.9))
    heading = figure.suptitle(" ", fontweight="bold", fontsize=11)
    for k in range(1, 1 + len(puzzles[groups[0]]["answers"])):
        heading.set_text(f"after segment {k}")
        for axis, (group, puzzle) in zip(axes[0], puzzles.items(), strict=True):
            answers = puzzle["answers"][k - 1]
            draw_board(axis, puzzle["inputs"], puzzle["labels"], answers, task.startswith("sudoku"))
            residual = f"{puzzle['residual'][k - 1]:.1e}"
            axis.set_title(
                f"{group} in the end: {_wrong(puzzle)[k - 1]} wrong\nresidual {residual}", fontsize=9
            )
        yield figure
        figure.set_layout_engine("none")  # every frame is laid out as the first
