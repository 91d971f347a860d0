"""What figures of recursive models share: findings in words, differences with their seeds, puzzles as boards.

Everything is drawn from saved results alone.

Shapes: S seeds, L cells of a grid of n rows and columns.
"""

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.patches import Rectangle

from common.statistics import mean_interval
from common.viz_utils import COLORS

Arrays = Mapping[str, np.ndarray]
Results = Mapping[str, Any]

BOXES = {4: (2, 2), 6: (2, 3), 9: (3, 3)}  # rows and columns of a Sudoku's boxes, by n


def values_of(results: Results, name: str) -> np.ndarray:
    """A metric's numbers [S], nan for a seed that has none; empty where it was not measured."""
    entry = results["metrics"].get(name, {"values": []})
    return np.array([math.nan if value is None else value for value in entry["values"]], dtype=float)


def mean_of(results: Results, name: str) -> float:
    """The mean of the seeds that have a number; nan where none has."""
    values = values_of(results, name)
    values = values[np.isfinite(values)]
    return float(values.mean()) if len(values) else math.nan


def interval_of(results: Results, name: str) -> tuple[float, float] | None:
    """A metric's 95% interval: over seeds and puzzles where it has one, else over seeds; None of one seed."""
    entry = results["metrics"].get(name, {})
    found = entry.get("interval95") or entry.get("ci95")
    if found:
        return tuple(found)
    values = values_of(results, name)
    values = values[np.isfinite(values)]
    return mean_interval(values) if len(values) > 1 else None


def side_of(results: Results, name: str, value: float = 0.0) -> int | None:
    """1 where a metric's interval lies above a value, -1 below, 0 around it; None without an interval."""
    interval = interval_of(results, name)
    if interval is None:
        return None
    return int(interval[0] > value) - int(interval[1] < value)


def with_interval(results: Results, name: str, digits: int = 3) -> str:
    """A metric as `+0.012 [-0.003, +0.027]`, or its mean alone."""
    interval = interval_of(results, name)
    mean = f"{mean_of(results, name):+.{digits}f}"
    return mean if interval is None else f"{mean} [{interval[0]:+.{digits}f}, {interval[1]:+.{digits}f}]"


def finding(results: Results, name: str, above: str, below: str, around: str, value: float = 0.0) -> str:
    """The sentence that a metric's interval chooses, with its numbers; of one seed that it is one."""
    words = {1: above, -1: below, 0: around, None: f"One training seed cannot tell ({around})"}
    return f"{words[side_of(results, name, value)]}: {with_interval(results, name)}"


def draw_differences(axis: Axes, results: Results, rows: Mapping[str, tuple[str, str]]) -> None:
    """Metrics that are differences, a row each: mean with its 95% interval, and every seed as a dot.

    Args:
        axis: where to draw.
        results: of the run.
        rows: {metric: (label, colour)}, from above; those that were not measured are left out.
    """
    shown = {name: style for name, style in rows.items() if name in results["metrics"]}
    for row, (name, (_, color)) in enumerate(shown.items()):
        values, mean = values_of(results, name), mean_of(results, name)
        axis.plot(values, np.full(len(values), row), "o", color=color, markersize=3, alpha=0.45, zorder=2)
        interval = interval_of(results, name) or (mean, mean)
        axis.plot(interval, (row, row), color=color, linewidth=2.2, zorder=3, solid_capstyle="butt")
        axis.plot(mean, row, "D", color=color, markersize=6, markeredgecolor="white", zorder=4)
    axis.axvline(0, color=COLORS["target"], linestyle=":", linewidth=1.2)
    axis.set_yticks(range(len(shown)), [label for label, _ in shown.values()])
    axis.set_ylim(len(shown) - 0.4, -0.6)


# ----------------------------------------------------------------------------------------------
# Boards
# ----------------------------------------------------------------------------------------------


def draw_board(axis: Axes, inputs: np.ndarray, labels: np.ndarray, answers: np.ndarray, digits: bool) -> None:
    """A square puzzle with an answer: what is given, and what is answered right or wrong, by colour.

    Args:
        axis: where to draw; cleared first.
        inputs: [L] tokens; with digits 1 is an empty cell and others one more than the digit.
        labels: [L] tokens, below 0 where nothing is asked.
        answers: [L] tokens.
        digits: whether tokens are digits; otherwise they are colours.
    """
    axis.clear()
    size = math.isqrt(len(inputs))
    axis.set_xlim(0, size)
    axis.set_ylim(size, 0)
    axis.set_aspect("equal")
    axis.set_axis_off()
    if not digits:
        shown = np.where(labels < 0, inputs, answers).reshape(size, size)
        axis.imshow(shown, extent=(0, size, size, 0), cmap="Pastel1", vmin=0, vmax=max(labels.max(), 8))
    for cell in range(len(inputs)):
        _draw_cell(axis, divmod(cell, size), inputs[cell], labels[cell], answers[cell], digits)
    rows, columns = BOXES.get(size, (size, size)) if digits else (size, size)
    for line in range(size + 1):
        axis.plot((line, line), (0, size), color="black", linewidth=1.6 if line % columns == 0 else 0.4)
        axis.plot((0, size), (line, line), color="black", linewidth=1.6 if line % rows == 0 else 0.4)


def _draw_cell(axis: Axes, place: tuple[int, int], given: int, label: int, answer: int, digits: bool) -> None:
    row, column = place
    right = label < 0 or answer == label
    color = COLORS["solved"] if right else COLORS["unsolved"]
    if not digits:
        if not right:
            axis.plot(column + 0.5, row + 0.5, "x", color=color, markersize=4)
        return
    if given > 1:
        axis.add_patch(Rectangle((column, row), 1, 1, color="#DCDCDC", linewidth=0))
        color = "black" if right else color
    else:
        axis.add_patch(Rectangle((column, row), 1, 1, color=color, alpha=0.2, linewidth=0))
    weight = "bold" if given > 1 else "normal"
    text = str(answer - 1) if answer > 0 else "?"
    axis.text(column + 0.5, row + 0.53, text, ha="center", va="center", color=color, weight=weight)
