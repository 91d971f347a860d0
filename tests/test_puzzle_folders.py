"""Data folders in HRM's format: what is written is read, and what is wrong is said in one line."""

import dataclasses
import json

import numpy as np
import pytest
import torch

from common.recursion.puzzles.folders import read_folder, read_split, read_sudoku_csv, write_folder
from common.recursion.puzzles.mazes import maze_puzzles
from common.recursion.puzzles.sudoku import sudoku_puzzles
from common.recursion.puzzles.task import IGNORE, PuzzleSampler
from common.run.random import generator, generators


@pytest.fixture(scope="module")
def split():
    return sudoku_puzzles(4, train=12, test=5, givens=(4, 6), test_share=0.3, seed=0)


@pytest.fixture
def folder(tmp_path, split):
    write_folder(tmp_path / "data", *split)
    return tmp_path / "data"


def test_what_is_written_is_read(folder, split):
    for read, written in zip(read_folder(folder), split, strict=True):
        order = written.groups.argsort(stable=True)
        assert torch.equal(read.inputs.long(), written.inputs[order])
        assert torch.equal(read.labels.long(), written.labels[order])
        assert torch.equal(read.groups, written.groups[order])
        assert (read.vocabulary, read.grid, read.num_identifiers) == (6, (4, 4), 1)


def test_files_are_of_the_published_kinds(folder):
    described = json.loads((folder / "train" / "dataset.json").read_text())
    assert described == {
        "pad_id": 0, "ignore_label_id": 0, "blank_identifier_id": 0, "vocab_size": 6, "seq_len": 16,
        "num_puzzle_identifiers": 1, "total_groups": described["total_groups"], "mean_puzzle_examples": 1,
        "sets": ["all"],
    }  # fmt: skip
    kinds = {path.name: np.load(path).dtype for path in (folder / "train").glob("*.npy")}
    assert kinds == {
        "all__inputs.npy": np.uint8, "all__labels.npy": np.uint8, "all__puzzle_identifiers.npy": np.int32,
        "all__puzzle_indices.npy": np.int32, "all__group_indices.npy": np.int32,
    }  # fmt: skip
    assert json.loads((folder / "identifiers.json").read_text()) == ["<blank>"]


def test_a_puzzle_of_several_examples_lends_them_its_identifier_and_group(folder):
    """Two groups: puzzles of 3 examples and 1, and one of 8, as in folders of ARC."""
    part = folder / "train"
    np.save(part / "all__puzzle_indices.npy", np.array([0, 3, 4, 12], np.int32))
    np.save(part / "all__group_indices.npy", np.array([0, 2, 3], np.int32))
    np.save(part / "all__puzzle_identifiers.npy", np.array([1, 2, 3], np.int32))
    edit(part / "dataset.json", num_puzzle_identifiers=4)
    puzzles = read_split(part)
    assert puzzles.identifiers.tolist() == [1] * 3 + [2] + [3] * 8
    assert puzzles.groups.tolist() == [0] * 4 + [1] * 8 and puzzles.num_identifiers == 4


def test_several_sets_are_one_after_the_other(folder):
    part = folder / "train"
    once = read_split(part)
    for path in part.glob("all__*.npy"):
        np.save(part / path.name.replace("all", "more"), np.load(path))
    edit(part / "dataset.json", sets=["all", "more"])
    twice = read_split(part)
    assert torch.equal(twice.inputs, torch.cat([once.inputs] * 2))
    assert torch.equal(twice.groups, torch.cat([once.groups, once.groups + once.groups.max() + 1]))


def test_padding_is_not_asked_about(folder, split):
    labels = split[0].labels.clone()
    labels[:, 3] = IGNORE
    write_folder(folder, dataclasses.replace(split[0], labels=labels), split[1])
    read = read_split(folder / "train")
    assert (read.labels[:, 3] == IGNORE).all() and (read.labels >= 0).float().mean() == 15 / 16
    edit(folder / "train" / "dataset.json", ignore_label_id=None)
    assert (read_split(folder / "train").labels >= 0).all()


def test_a_folder_of_mazes_is_read_and_sampled(tmp_path):
    train, test = maze_puzzles(5, train=6, test=2, loops=1, shortest=4, test_share=0.3, seed=0)
    write_folder(tmp_path, train, test)
    sampler = PuzzleSampler(read_folder(tmp_path)[0], (0,), torch.device("cpu"), augment=True)
    batch = sampler.draw(0, generators((0,), "test"), 6)
    assert sorted(batch.inputs[0].tolist()) == sorted(train.inputs.tolist())


# --- what is wrong --------------------------------------------------------------------------------


def edit(path, **changes):
    """Change keys of a JSON file; ... takes one away."""
    content = json.loads(path.read_text()) | changes
    path.write_text(json.dumps({key: value for key, value in content.items() if value is not ...}))


def put(name, make):
    """A fault: an array of the training split replaced by what `make` makes of it."""

    def spoil(part):
        np.save(part / name, make(np.load(part / name)))

    return spoil


def describe(**changes):
    return lambda part: edit(part / "dataset.json", **changes)


def without(name):
    return lambda part: (part / name).unlink()


def with_value(value):
    def make(array):
        array = array.astype(np.int32)
        array.flat[3] = value
        return array

    return make


MALFORMED = {
    "no split": (lambda part: part.rename(part.parent / "elsewhere"), "dataset.json: No such file"),
    "no description": (lambda part: (part / "dataset.json").unlink(), "dataset.json: No such file"),
    "no JSON": (lambda part: (part / "dataset.json").write_text("{"), "dataset.json: no JSON"),
    "no object": (lambda part: (part / "dataset.json").write_text("[1]"), "dataset.json: list; allowed"),
    **{
        f"no {key}": (describe(**{key: ...}), f"dataset.json: the key {key} is missing")
        for key in ("pad_id", "ignore_label_id", "blank_identifier_id", "vocab_size", "seq_len",
                    "num_puzzle_identifiers", "sets")
    },
    "seq_len of text": (describe(seq_len="16"), "seq_len = '16'; allowed: whole numbers >= 1"),
    "vocabulary of none": (describe(vocab_size=0), "vocab_size = 0; allowed"),
    "a huge vocabulary": (describe(vocab_size=1000), "vocab_size = 1000; allowed: <= 127"),
    "ignored text": (describe(ignore_label_id="pad"), "ignore_label_id = 'pad'; allowed"),
    "no sets": (describe(sets=[]), r"sets = \[\]; allowed: a list of names"),
    "an unknown set": (describe(sets=["some"]), "some__inputs.npy: No such file"),
    **{
        f"no {name}": (without(f"all__{name}.npy"), f"all__{name}.npy: No such file")
        for name in ("inputs", "labels", "puzzle_identifiers", "puzzle_indices", "group_indices")
    },
    "no array": (lambda part: (part / "all__inputs.npy").write_text("1 2 3"), "all__inputs.npy: no array"),
    "an empty file": (lambda part: (part / "all__inputs.npy").write_bytes(b""), "all__inputs.npy: no array"),
    "floats": (put("all__inputs.npy", lambda array: array / 2), "inputs.npy: float64; allowed: integers"),
    "objects": (put("all__labels.npy", lambda array: array.astype(object)), "labels.npy: no array of numpy"),
    "flat": (put("all__inputs.npy", np.ravel), "inputs.npy: shape .*; allowed: 2 dimensions"),
    "short rows": (put("all__inputs.npy", lambda array: array[:, 1:]), "rows of 15; allowed: seq_len, 16"),
    "few labels": (put("all__labels.npy", lambda array: array[1:]), "labels.npy: 11 rows; allowed: 12"),
    "a large token": (put("all__inputs.npy", with_value(6)), "inputs.npy: 1 to 6; allowed: 0 to 5, by vocab"),
    "a negative token": (put("all__labels.npy", with_value(-1)), "labels.npy: -1 to 5; allowed: 0 to 5"),
    "an unknown identifier": (
        put("all__puzzle_identifiers.npy", with_value(1)), "0 to 1; allowed: 0 to 0, by num_puzzle_ident"),
    "few puzzles": (put("all__puzzle_indices.npy", lambda array: array[1:]), "12 numbers; allowed: 13"),
    "puzzles from 1": (put("all__puzzle_indices.npy", lambda array: array + 1), "rising from 0 to 12, the"),
    "falling": (put("all__puzzle_indices.npy", with_value(1)), "rising from 0 to 12, the number of examples"),
    "groups beyond": (put("all__group_indices.npy", lambda array: array + (array == array.max())),
                      "group_indices.npy: allowed: rising from 0 to 12, the number of puzzles"),
    "no groups": (put("all__group_indices.npy", lambda array: array[:1]), "group_indices.npy: allowed: ris"),
}  # fmt: skip


@pytest.mark.parametrize("fault", MALFORMED)
def test_what_is_wrong_is_said_in_one_line(folder, fault):
    spoil, message = MALFORMED[fault]
    spoil(folder / "train")
    with pytest.raises(ValueError, match=message) as refused:
        read_folder(folder)
    assert "\n" not in str(refused.value) and str(folder / "train") in str(refused.value)


def test_splits_of_different_tasks_are_refused(folder):
    edit(folder / "test" / "dataset.json", vocab_size=7)
    with pytest.raises(ValueError, match="vocabulary is 6 in train and 7 in test; allowed: the same"):
        read_folder(folder)


# --- CSV ------------------------------------------------------------------------------------------

ANSWER = "".join(str((3 * row + row // 3 + column) % 9 + 1) for row in range(9) for column in range(9))


def test_sudoku_csv(tmp_path):
    path = tmp_path / "train.csv"
    path.write_text(f"source,q,a,rating\nmade,..0{ANSWER[3:]},{ANSWER},7\n")
    puzzles = read_sudoku_csv(path, 5, generator(0, "test"))
    assert (puzzles.labels[0] - 1).tolist() == [int(digit) for digit in ANSWER]
    assert puzzles.inputs[0, :3].tolist() == [1] * 3 and torch.equal(
        puzzles.inputs[0, 3:], puzzles.labels[0, 3:]
    )
    assert puzzles.vocabulary == 11 and puzzles.symmetries.order == 3359232


def test_so_many_of_a_csv_are_drawn(tmp_path):
    path = tmp_path / "train.csv"
    lines = [f"made,{'.' * hidden}{ANSWER[hidden:]},{ANSWER},0" for hidden in range(1, 21)]
    path.write_text("\n".join(["source,q,a,rating", *lines]))
    drawn = [read_sudoku_csv(path, 8, generator(seed, "test")) for seed in (0, 0, 1)]
    hidden = [(puzzles.inputs == 1).sum(1).tolist() for puzzles in drawn]
    assert len(set(hidden[0])) == 8 and hidden[0] == hidden[1] != hidden[2]


@pytest.mark.parametrize(
    "text, message",
    [
        ("source,q,rating\n", "the column a is missing"),
        ("source,q,a,rating\n", "no puzzles"),
        (f"source,q,a,rating\nmade,{ANSWER[1:]},{ANSWER},1\n", "line 2: allowed: 81 digits"),
        (f"source,q,a,rating\nmade,{ANSWER},{ANSWER[:-1]}.,1\n", "line 2: allowed: 81 digits"),
        (f"source,q,a,rating\nmade,{ANSWER}\n", "line 2: allowed: 81 digits"),
        (None, "No such file"),
    ],
)
def test_a_wrong_csv_is_said_in_one_line(tmp_path, text, message):
    path = tmp_path / "train.csv"
    if text is not None:
        path.write_text(text)
    with pytest.raises(ValueError, match=message) as refused:
        read_sudoku_csv(path, 5, generator(0, "test"))
    assert "\n" not in str(refused.value) and str(path) in str(refused.value)
