"""Data folders in the format of HRM (github.com/sapientinc/HRM), read and written; Sudoku as CSV.

A split is a folder with dataset.json and, for each SET named there, five arrays: SET__inputs.npy and
SET__labels.npy (one example a row), SET__puzzle_identifiers.npy (one a puzzle), SET__puzzle_indices.npy
(where the examples of each puzzle begin, and the end) and SET__group_indices.npy (where the puzzles of each
group begin, and the end).

Shapes: E examples, L cells, Z puzzles, G groups. The examples are the N puzzles of `Puzzles`.
"""

import csv
import json
import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from common.recursion.puzzles.sudoku import sudoku_symmetries
from common.recursion.puzzles.symmetries import identity
from common.recursion.puzzles.task import IGNORE, Puzzles
from common.run.command_line import DataError

LARGEST_VOCABULARY = 127  # tokens are kept as int8, which holds IGNORE too
NUMBERS = ("pad_id", "blank_identifier_id", "vocab_size", "seq_len", "num_puzzle_identifiers")


# ----------------------------------------------------------------------------------------------
# Reading
# ----------------------------------------------------------------------------------------------


def read_folder(folder: Path) -> tuple[Puzzles, Puzzles]:
    """The splits `train` and `test` of a data folder.

    Raises:
        DataError: a file or a key is missing or wrong; one line says which.
    """
    train, test = (read_split(folder / name) for name in ("train", "test"))
    for name in ("vocabulary", "grid", "num_identifiers"):
        if getattr(train, name) != getattr(test, name):
            raise DataError(
                f"{folder}: {name} is {getattr(train, name)} in train and {getattr(test, name)} in test;"
                " allowed: the same"
            )
    return train, test


def read_split(folder: Path) -> Puzzles:
    """One split. The grid is a square where the number of cells is one, else a line; no symmetry is assumed.

    Tokens are int8, an eighth of what int64 takes: the published folders have millions of examples.

    Raises:
        DataError: a file or a key is missing or wrong; one line says which.
    """
    described = _described(folder / "dataset.json")
    parts = [_read_set(folder, name, described) for name in described["sets"]]
    inputs, labels, identifiers = (torch.cat([part[index] for part in parts]) for index in range(3))
    groups, begin = [], 0
    for _, _, _, of_part in parts:
        groups.append(of_part + begin)
        begin = int(groups[-1][-1]) + 1
    cells, vocabulary = described["seq_len"], described["vocab_size"]
    side = math.isqrt(cells)
    grid = (side, side) if side**2 == cells else (1, cells)
    return Puzzles(
        inputs, labels, identifiers, torch.cat(groups), vocabulary, described["num_puzzle_identifiers"], grid,
        identity(*grid, vocabulary),
    )  # fmt: skip


def _described(path: Path) -> dict[str, Any]:
    """dataset.json, checked."""
    try:
        described = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise DataError(f"{path}: {error.strerror}: needed in each split of a data folder") from error
    except ValueError as error:
        raise DataError(f"{path}: no JSON: {str(error).partition(chr(10))[0]}") from error
    if not isinstance(described, dict):
        raise DataError(f"{path}: {type(described).__name__}; allowed: an object")
    for key in (*NUMBERS, "ignore_label_id", "sets"):
        if key not in described:
            raise DataError(f"{path}: the key {key} is missing")
    for key in NUMBERS:
        least = 0 if key.endswith("_id") else 1
        if type(described[key]) is not int or described[key] < least:
            raise DataError(f"{path}: {key} = {described[key]!r}; allowed: whole numbers >= {least}")
    if described["vocab_size"] > LARGEST_VOCABULARY:
        raise DataError(f"{path}: vocab_size = {described['vocab_size']}; allowed: <= {LARGEST_VOCABULARY}")
    ignored, sets = described["ignore_label_id"], described["sets"]
    if ignored is not None and type(ignored) is not int:
        raise DataError(f"{path}: ignore_label_id = {ignored!r}; allowed: a whole number or null")
    if not isinstance(sets, list) or not sets or not all(isinstance(name, str) for name in sets):
        raise DataError(f"{path}: sets = {sets!r}; allowed: a list of names")
    return described


def _read_set(folder: Path, name: str, described: Mapping[str, Any]) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Inputs and labels [E, L], identifiers and groups [E] of one set."""
    tokens = {}
    for kind in ("inputs", "labels"):
        path = folder / f"{name}__{kind}.npy"
        tokens[kind] = _integers(path, 2)
        if tokens[kind].shape[1] != described["seq_len"]:
            raise DataError(
                f"{path}: rows of {tokens[kind].shape[1]}; allowed: seq_len, {described['seq_len']}"
            )
        _require_below(path, tokens[kind], described["vocab_size"], "vocab_size")
    examples = len(tokens["inputs"])
    if len(tokens["labels"]) != examples:
        raise DataError(
            f"{folder / f'{name}__labels.npy'}: {len(tokens['labels'])} rows; allowed: {examples}, as many as"
            " inputs"
        )
    path = folder / f"{name}__puzzle_identifiers.npy"
    identifiers = _integers(path, 1)
    _require_below(path, identifiers, described["num_puzzle_identifiers"], "num_puzzle_identifiers")
    of_puzzle = _lengths(folder / f"{name}__puzzle_indices.npy", examples, "examples", len(identifiers))
    of_group = _lengths(folder / f"{name}__group_indices.npy", len(identifiers), "puzzles")
    groups = np.repeat(np.repeat(np.arange(len(of_group)), of_group), of_puzzle)
    inputs, labels = (torch.from_numpy(tokens[kind].astype(np.int8)) for kind in ("inputs", "labels"))
    if described["ignore_label_id"] is not None:
        labels = labels.masked_fill(labels == described["ignore_label_id"], IGNORE)
    identifiers = torch.from_numpy(np.repeat(identifiers, of_puzzle).astype(np.int64))
    return inputs, labels, identifiers, torch.from_numpy(groups)


def _integers(path: Path, dimensions: int) -> np.ndarray:
    """An array of a file, checked to hold whole numbers in so many dimensions, at least one of them."""
    try:
        array = np.load(path, allow_pickle=False)
    except OSError as error:
        raise DataError(f"{path}: {error.strerror or error}: needed by dataset.json") from error
    except (ValueError, EOFError) as error:
        raise DataError(f"{path}: no array of numpy: {str(error).partition(chr(10))[0]}") from error
    if not np.issubdtype(array.dtype, np.integer):
        raise DataError(f"{path}: {array.dtype}; allowed: integers")
    if array.ndim != dimensions or array.size == 0:
        raise DataError(f"{path}: shape {array.shape}; allowed: {dimensions} dimensions, not empty")
    return array


def _require_below(path: Path, array: np.ndarray, bound: int, key: str) -> None:
    if array.min() < 0 or array.max() >= bound:
        raise DataError(f"{path}: {array.min()} to {array.max()}; allowed: 0 to {bound - 1}, by {key}")


def _lengths(path: Path, total: int, what: str, count: int | None = None) -> np.ndarray:
    """How many each has, of a file with where each begins and the end: rising from 0 to `total`."""
    begins = _integers(path, 1).astype(np.int64)
    if count is not None and len(begins) != count + 1:
        raise DataError(f"{path}: {len(begins)} numbers; allowed: {count + 1}, one more than puzzles")
    if len(begins) < 2 or begins[0] != 0 or begins[-1] != total or (np.diff(begins) < 1).any():
        raise DataError(f"{path}: allowed: rising from 0 to {total}, the number of {what}")
    return np.diff(begins)


# ----------------------------------------------------------------------------------------------
# Writing
# ----------------------------------------------------------------------------------------------


def write_folder(folder: Path, train: Puzzles, test: Puzzles) -> None:
    """Write both splits, and identifiers.json with a name for each identifier."""
    for name, puzzles in (("train", train), ("test", test)):
        write_split(folder / name, puzzles)
    names = ["<blank>", *(f"puzzle {index}" for index in range(1, train.num_identifiers))]
    (folder / "identifiers.json").write_text(json.dumps(names), encoding="utf-8")


def write_split(folder: Path, puzzles: Puzzles) -> None:
    """Write one split, group by group, each puzzle with one example; IGNORE becomes the padding 0."""
    order = puzzles.groups.argsort(stable=True)
    count, groups = len(puzzles), torch.bincount(puzzles.groups)
    labels = puzzles.labels[order]
    arrays = {
        "inputs": puzzles.inputs[order].numpy().astype(np.uint8),
        "labels": labels.masked_fill(labels == IGNORE, 0).numpy().astype(np.uint8),
        "puzzle_identifiers": puzzles.identifiers[order].numpy().astype(np.int32),
        "puzzle_indices": np.arange(count + 1, dtype=np.int32),
        "group_indices": np.concatenate([[0], groups.cumsum(0).numpy()]).astype(np.int32),
    }
    described = {
        "pad_id": 0,
        "ignore_label_id": 0,
        "blank_identifier_id": 0,
        "vocab_size": puzzles.vocabulary,
        "seq_len": puzzles.inputs.shape[1],
        "num_puzzle_identifiers": puzzles.num_identifiers,
        "total_groups": len(groups),
        "mean_puzzle_examples": 1,
        "sets": ["all"],
    }
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "dataset.json").write_text(json.dumps(described), encoding="utf-8")
    for name, array in arrays.items():
        np.save(folder / f"all__{name}.npy", array)


# ----------------------------------------------------------------------------------------------
# Sudoku as CSV
# ----------------------------------------------------------------------------------------------


def read_sudoku_csv(path: Path, most: int, draw: torch.Generator) -> Puzzles:
    """9x9 puzzles of a file with the columns q and a: 81 digits each, `.` or 0 in q for an empty cell.

    Args:
        path: read twice and never held whole: Sudoku-Extreme has millions of lines.
        most: so many of the puzzles, drawn by `draw`.

    Raises:
        DataError: a column is missing or a line is wrong; one line says which.
    """
    count = sum(1 for _ in _csv_lines(path))
    if not count:
        raise DataError(f"{path}: no puzzles")
    chosen = set(torch.randperm(count, generator=draw)[:most].tolist())
    rows = [
        _csv_tokens(f"{path}, line {index + 2}", line)
        for index, line in enumerate(_csv_lines(path))
        if index in chosen
    ]
    tokens = torch.tensor(rows, dtype=torch.int8)  # [N, 2, L]
    none, symmetries = torch.zeros(len(rows), dtype=torch.int64), sudoku_symmetries(9)
    groups = torch.arange(len(rows))
    return Puzzles(tokens[:, 0], tokens[:, 1], none, groups, symmetries.vocabulary, 1, (9, 9), symmetries)


def _csv_lines(path: Path) -> Iterator[dict[str, str | None]]:
    try:
        with path.open(newline="", encoding="utf-8") as file:
            reader = csv.DictReader(file)
            missing = {"q", "a"} - set(reader.fieldnames or ())
            if missing:
                raise DataError(f"{path}: the column {min(missing)} is missing")
            yield from reader
    except OSError as error:
        raise DataError(f"{path}: {error.strerror}") from error


def _csv_tokens(place: str, line: Mapping[str, str | None]) -> list[list[int]]:
    question, answer = (line["q"] or "").replace(".", "0"), line["a"] or ""
    digits = set("0123456789")
    if len(question) != 81 or len(answer) != 81 or not set(question + answer) <= digits or "0" in answer:
        raise DataError(f"{place}: allowed: 81 digits in q, with . for empty cells, and 81 in a")
    return [[int(digit) + 1 for digit in text] for text in (question, answer)]
