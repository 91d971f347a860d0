"""sweep.png: a metric over what was varied, every seed as a dot, drawn from the settings alone.

Shapes: N settings, A and B values of two fields.
"""

import math
import textwrap
from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from common.run.criteria import format_number
from common.sweeps.plan import label_of
from common.sweeps.summary import Pooled, is_within_spread, ranked
from common.viz_utils import COLORS, house_style, new_figure

MOST = 20  # settings of a list
DECADE = 10.0  # values whose largest is that many times the smallest are drawn on a logarithmic axis
WIDTH = 66  # of a line of a title [letters]


def draw_sweep(settings: Sequence[Pooled], fields: Sequence[str], metric: str, mode: str) -> Figure:
    """One field: the metric over it. Two on a grid: a heat map. Anything else: the settings in a list."""
    with house_style():
        shown = [each for each in settings if each.values(metric)]
        if len(fields) == 1:
            return _over_one_field(shown, fields[0], metric, mode)
        if len(fields) == 2 and _is_grid(settings, fields):
            return _heat_map(settings, fields, metric, mode)
        return _as_list(shown, metric, mode)


def _finding(settings: Sequence[Pooled], metric: str, mode: str) -> str:
    """What the figure shows, in a sentence that is broken into lines."""
    best, *others = ranked(settings, metric, mode)
    word, name = ("highest" if mode == "max" else "lowest"), label_of(best.setting)
    level = [is_within_spread(each, best, metric) for each in others]
    if not others:
        text = f"{metric} is {format_number(best.mean(metric))} with {name}"
    elif None in level:
        text = f"{metric} is {word} at {name}; the seeds' spread is unknown"
    elif any(level):
        text = f"{metric} is {word} at {name}, level with {sum(level)} of the {len(others)} others"
    else:
        text = f"{metric} is {word} at {name}, beyond the seeds' spread"
    return textwrap.fill(text, WIDTH)


def _over_one_field(settings: Sequence[Pooled], field: str, metric: str, mode: str) -> Figure:
    """Dots of every seed, joined by a thin line; the mean with its interval."""
    figure, axes = new_figure()
    axis = axes[0, 0]
    places = _place(axis, [each.setting[field] for each in settings])
    order = sorted(zip(places, settings, strict=True), key=lambda pair: pair[0])
    for seed in dict.fromkeys(seed for each in settings for seed in each.values(metric)):
        found = [(x, each.values(metric)[seed]) for x, each in order if seed in each.values(metric)]
        axis.plot(*zip(*found, strict=True), "o-", color=COLORS["random"], linewidth=0.6, alpha=0.7)
    for x, each in order:
        if (mean := each.mean(metric)) is not None:
            axis.errorbar(x, mean, _apart(each, metric), fmt="s", color=COLORS["helm"], capsize=4, zorder=3)
    axis.set(xlabel=field, ylabel=f"{metric} [{_unit(settings, metric)}]")
    axis.set_title(_finding(settings, metric, mode))
    axis.plot([], [], "o-", color=COLORS["random"], linewidth=0.6, label="a training seed")
    axis.errorbar([], [], [], fmt="s", color=COLORS["helm"], label="mean over seeds, 95% interval")
    figure.legend(loc="outside lower center", ncols=2)
    return figure


def _apart(setting: Pooled, metric: str) -> list[list[float]] | None:
    """How far the ends of the interval are from the mean, as error bars take it."""
    mean, interval = setting.mean(metric), setting.interval(metric)
    return None if interval is None else [[mean - interval[0]], [interval[1] - mean]]


def _place(axis: Axes, texts: Sequence[str]) -> list[float]:
    """Where values stand on the axis: numbers by size, logarithmic over a decade, words side by side."""
    try:
        numbers = [float(text) for text in texts]
    except ValueError:
        axis.set_xticks(range(len(texts)), texts)
        return list(range(len(texts)))
    if min(numbers) > 0 and max(numbers) >= DECADE * min(numbers):
        axis.set_xscale("log")
    if len(set(numbers)) <= 8:
        axis.set_xticks(numbers, texts)
        axis.minorticks_off()
    return numbers


def _is_grid(settings: Sequence[Pooled], fields: Sequence[str]) -> bool:
    """Whether most combinations of the two fields' values are there, as in a scan and not in a search."""
    counts = [len({each.setting[field] for each in settings}) for field in fields]
    return len(settings) > 0.5 * math.prod(counts) and min(counts) > 0


def _heat_map(settings: Sequence[Pooled], fields: Sequence[str], metric: str, mode: str) -> Figure:
    """Means as colours, with the numbers in the cells: mean and half of its interval."""
    rows, columns = (list(dict.fromkeys(each.setting[field] for each in settings)) for field in fields)
    grid = np.full((len(rows), len(columns)), np.nan)  # [A, B]
    figure, axes = new_figure(size=(max(7.0, 3.0 + 1.3 * len(columns)), 2.4 + 0.7 * len(rows)))
    axis = axes[0, 0]
    for each in settings:
        mean = each.mean(metric)
        grid[rows.index(each.setting[fields[0]]), columns.index(each.setting[fields[1]])] = (
            np.nan if mean is None else mean
        )
    image = axis.imshow(grid, cmap="viridis", aspect="auto")
    axis.grid(False)
    for each in settings:
        row, column = rows.index(each.setting[fields[0]]), columns.index(each.setting[fields[1]])
        dark = not image.norm(grid[row, column]) > 0.6
        axis.text(
            column, row, _cell(each, metric), ha="center", va="center", color="white" if dark else "black"
        )
    axis.set_xticks(range(len(columns)), columns)
    axis.set_yticks(range(len(rows)), rows)
    axis.set(xlabel=fields[1], ylabel=fields[0])
    axis.set_title(_finding(settings, metric, mode))
    if any(each.interval(metric) for each in settings):
        figure.supxlabel("±: half of the 95% interval of the mean", size="small")
    figure.colorbar(image, ax=axis, label=f"{metric} [{_unit(settings, metric)}]")
    return figure


def _cell(setting: Pooled, metric: str) -> str:
    mean, interval = setting.mean(metric), setting.interval(metric)
    if mean is None or interval is None:
        return format_number(mean)
    return f"{format_number(mean)}\n±{format_number((interval[1] - interval[0]) / 2)}"


def _as_list(settings: Sequence[Pooled], metric: str, mode: str) -> Figure:
    """The best settings from above, a line each: dots of every seed, the mean with its interval."""
    order = ranked(settings, metric, mode)[:MOST]
    figure, axes = new_figure(size=(8.0, 1.6 + 0.35 * len(order)))
    axis = axes[0, 0]
    for row, each in enumerate(order):
        values, mean = list(each.values(metric).values()), each.mean(metric)
        axis.plot(values, [row] * len(values), "o", color=COLORS["random"], alpha=0.7)
        if mean is not None:
            axis.errorbar(mean, row, xerr=_apart(each, metric), fmt="s", color=COLORS["helm"], capsize=4)
    axis.set_yticks(range(len(order)), [label_of(each.setting) for each in order])
    axis.invert_yaxis()
    axis.set_xlabel(f"{metric} [{_unit(settings, metric)}]")
    title = {"x": 0.02, "ha": "left", "size": "medium", "weight": "bold"}
    figure.suptitle(_finding(settings, metric, mode), **title)
    return figure


def _unit(settings: Sequence[Pooled], metric: str) -> str:
    return next((each.metrics[metric]["unit"] for each in settings if metric in each.metrics), "1")
