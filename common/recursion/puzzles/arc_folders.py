"""Tasks of the Abstraction and Reasoning Corpus from folders of its JSON files."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from common.recursion.puzzles.arc import ArcTask, Pair
from common.run.command_line import DataError

COLOURS = 10
LARGEST_GRID = 30  # rows or columns
CHALLENGES, SOLUTIONS = "challenges", "solutions"  # in the names of a pair of files


def read_arc_folder(folder: Path) -> list[ArcTask]:
    """Every task below a folder, by name.

    Two formats, which may lie side by side: a file a task, `{"train": [{"input": .., "output": ..}, ..],
    "test": [..]}`; and Kaggle's pairs, `*challenges*.json` with all tasks and `*solutions*.json` beside it
    with the outputs of their tests.

    Raises:
        DataError: there is no such folder, it has no task, or a file is not what it should be; the message
            names the file and the fault.
    """
    if not folder.is_dir():
        raise DataError(f"{folder}: no such folder; allowed: one with ARC's JSON files")
    tasks: dict[str, ArcTask] = {}
    for path in sorted(folder.rglob("*.json")):
        if SOLUTIONS in path.name:
            continue
        for task in _read_file(path):
            if task.name in tasks:
                raise DataError(f"{path}: task {task.name} is there twice")
            tasks[task.name] = task
    if not tasks:
        raise DataError(f"{folder}: no JSON file with a task in it")
    return [tasks[name] for name in sorted(tasks)]


def _read_file(path: Path) -> Iterator[ArcTask]:
    content = _read_json(path)
    if CHALLENGES not in path.name:
        yield _task(path, path.stem, content)
        return
    solutions_path = path.with_name(path.name.replace(CHALLENGES, SOLUTIONS))
    solutions = _read_json(solutions_path)
    for name, task in content.items():
        if not isinstance(solutions.get(name), list):
            raise DataError(f"{solutions_path}: no outputs for the tests of task {name}")
        yield _task(path, name, _with_solutions(solutions_path, name, task, solutions[name]))


def _with_solutions(path: Path, name: str, task: Any, outputs: list) -> dict:
    """A challenge with the outputs of its tests put in."""
    tests = task.get("test") if isinstance(task, dict) else None
    if not isinstance(tests, list) or len(tests) != len(outputs):
        raise DataError(f"{path}: task {name} has {len(outputs)} outputs, not one for each test")
    answered = [
        {"input": test.get("input") if isinstance(test, dict) else None, "output": output}
        for test, output in zip(tests, outputs, strict=True)
    ]
    return {"train": task.get("train"), "test": answered}


def _read_json(path: Path) -> dict:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise DataError(f"{path}: no such file") from None
    except (json.JSONDecodeError, UnicodeDecodeError, RecursionError) as error:
        raise DataError(f"{path}: not JSON ({error})") from error
    if not isinstance(content, dict):
        raise DataError(f"{path}: holds a {type(content).__name__}, not an object")
    return content


def _task(path: Path, name: str, content: Any) -> ArcTask:
    parts = {}
    for part in ("train", "test"):
        pairs = content.get(part) if isinstance(content, dict) else None
        if not isinstance(pairs, list) or not pairs:
            raise DataError(f'{path}: task {name} has no list "{part}" of pairs')
        parts[part] = tuple(_pair(f"{path}: task {name}, {part} {i}", pair) for i, pair in enumerate(pairs))
    return ArcTask(name, parts["train"], parts["test"])


def _pair(where: str, pair: Any) -> Pair:
    if not isinstance(pair, dict) or not {"input", "output"} <= pair.keys():
        raise DataError(f'{where}: no object with "input" and "output"')
    return _grid(f"{where}, input", pair["input"]), _grid(f"{where}, output", pair["output"])


def _grid(where: str, rows: Any) -> np.ndarray:
    if not isinstance(rows, list) or not rows or not all(isinstance(row, list) and row for row in rows):
        raise DataError(f"{where}: no list of rows")
    if len({len(row) for row in rows}) > 1:
        raise DataError(f"{where}: rows of different lengths")
    if max(len(rows), len(rows[0])) > LARGEST_GRID:
        raise DataError(f"{where}: {len(rows)} x {len(rows[0])} cells; allowed: up to {LARGEST_GRID}")
    cells = [cell for row in rows for cell in row]
    if not all(type(cell) is int and 0 <= cell < COLOURS for cell in cells):
        raise DataError(f"{where}: a cell is no colour; allowed: whole numbers from 0 to {COLOURS - 1}")
    return np.array(rows, dtype=np.int64)
