"""One style for every figure: arrays in, Figure out. Drawn without a display.

Colours are Okabe & Ito's, distinguishable with the common forms of colour blindness; a model keeps
its colour in every figure of the repository.
"""

import contextlib
from collections.abc import Iterable, Sequence
from pathlib import Path

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from PIL import Image  # comes with matplotlib

from common.run.files import write_atomically

# What these words mean has one colour in every figure of the repository.
COLORS = {
    "true": "#000000",
    "flat": "#D55E00",
    "spectral": "#E69F00",
    "helm": "#0072B2",
    "hf": "#56B4E9",
    "random": "#999999",
    "target": "#777777",
    "solved": "#009E73",
    "unsolved": "#882255",
}

STYLE = {
    "font.size": 10.0,
    "axes.titlesize": 11.0,
    "axes.titlelocation": "left",
    "axes.titleweight": "bold",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.alpha": 0.25,
    "grid.linewidth": 0.6,
    "lines.linewidth": 1.8,
    "lines.markersize": 4.5,
    "legend.frameon": False,
    "legend.fontsize": 8.5,
    "figure.dpi": 110,
    "savefig.dpi": 130,
    "svg.hashsalt": "helm",
}


def house_style() -> contextlib.AbstractContextManager:
    """The style, within which figures are drawn and saved."""
    return matplotlib.rc_context(STYLE)


def new_figure(
    rows: int = 1, columns: int = 1, size: tuple[float, float] = (7.0, 4.5), **subplots: object
) -> tuple[Figure, np.ndarray]:
    """A figure and its axes, always as an array [rows, columns]. No pyplot: no global state, no display."""
    figure = Figure(figsize=size, layout="constrained")
    return figure, figure.subplots(rows, columns, squeeze=False, **subplots)


def save_figure(figure: Figure, path: Path) -> None:
    """Write a PNG of 256 colours, a third of the size, atomically; without dates: equal files if equal."""
    small = _reduce_colours(Image.fromarray(_pixels(figure, matplotlib.rcParams["savefig.dpi"])), 256)
    write_atomically(path, lambda file: small.save(file, format="PNG", optimize=True))


def save_animation(frames: Iterable[Figure], path: Path, seconds_a_frame: float = 0.25) -> None:
    """Write figures of one size as an animated GIF that repeats, its last frame for two seconds longer.

    All frames share a palette, so what does not move is stored once.
    """
    drawn = [_pixels(figure, figure.dpi) for figure in frames]
    some = np.concatenate([*drawn[:: max(1, len(drawn) // 8)], drawn[-1]])
    palette = _reduce_colours(Image.fromarray(some), 64)
    images = [Image.fromarray(frame).quantize(palette=palette, dither=Image.Dither.NONE) for frame in drawn]
    durations = [int(1000 * seconds_a_frame)] * len(images)
    durations[-1] += 2000
    first, *others = images
    timing = {"append_images": others, "duration": durations, "loop": 0}
    write_atomically(
        path, lambda file: first.save(file, format="GIF", save_all=True, optimize=True, **timing)
    )


def _pixels(figure: Figure, dpi: float | str) -> np.ndarray:
    """What `savefig` draws, in one pass where that takes two: [height, width, 3] uint8.

    `dpi`: dots per inch; "figure" for the figure's own.
    """
    before = figure.dpi
    figure.set_dpi(before if dpi == "figure" else dpi)
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    figure.set_dpi(before)
    return np.asarray(canvas.buffer_rgba())[..., :3].copy()


def _reduce_colours(image: Image.Image, colours: int) -> Image.Image:
    """The image with a palette of its own: a third of the size.

    Covering the colours that occur keeps the rare ones, which a figure tells its lines apart by.
    """
    method, dither = Image.Quantize.MAXCOVERAGE, Image.Dither.NONE
    return image.convert("RGB").quantize(colours, method, kmeans=2, dither=dither)


def plot_band(axis: Axes, x: np.ndarray, values: np.ndarray, label: str, color: str, **line: object) -> None:
    """A line through the mean over seeds with a band from the smallest to the largest.

    Args:
        axis: where to draw.
        x: [N].
        values: [N, S]; NaN where there is nothing to show.
        label: legend entry.
        color: of line and band.
        line: further properties of the line.
    """
    line = {"marker": "o", **line}
    axis.plot(x, values.mean(1), label=label, color=color, **line)
    if values.shape[1] > 1:
        axis.fill_between(x, values.min(1), values.max(1), color=color, alpha=0.18, linewidth=0)


def plot_seeds(axis: Axes, x: np.ndarray, values: np.ndarray, label: str, color: str, **line: object) -> None:
    """A line through the mean over seeds, and a thin one of every seed.

    Args:
        axis: where to draw.
        x: [N].
        values: [N, S]; NaN where there is nothing to show: a mean is of the seeds that have a number.
        label: legend entry.
        color: of all lines.
        line: further properties of the mean's line.
    """
    counted = np.isfinite(values).sum(1)
    mean = np.where(counted > 0, np.nansum(values, 1) / np.maximum(counted, 1), np.nan)
    axis.plot(x, mean, label=label, color=color, **line)
    if values.shape[1] > 1:
        axis.plot(x, values, color=color, linewidth=0.6, alpha=0.5, linestyle=line.get("linestyle", "-"))


def label_horizons(axis: Axes, horizons: Sequence[int], text: str = "horizon T [steps]") -> None:
    """A logarithmic horizon axis with the horizons themselves as ticks."""
    axis.set_xscale("log")
    axis.set_xticks(list(horizons), [str(horizon) for horizon in horizons])
    axis.minorticks_off()
    axis.set_xlabel(text)
