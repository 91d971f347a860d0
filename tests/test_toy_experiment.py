"""A new experiment is one new folder and its dataclass: nothing else that is shared is edited."""

import importlib
import json
import os
import subprocess
import sys
from dataclasses import replace

import pytest
import torch
from PIL import Image

from common.run.files import ROOT
from common.run.results import load_arrays, load_results
from tests.toy_experiment import write_toy


@pytest.fixture
def toy(tmp_path, monkeypatch):
    """The toy's folder, in a place of its own."""
    folder = write_toy(tmp_path)
    monkeypatch.setenv("HELM_ROOT", str(ROOT))
    monkeypatch.syspath_prepend(str(tmp_path))
    yield folder
    for name in [name for name in sys.modules if name.startswith("exp9_toy")]:
        del sys.modules[name]


def load(name="run_experiment"):
    return importlib.import_module(f"exp9_toy.{name}")


def test_it_runs_whole_from_its_own_folder(toy):
    command = [sys.executable, "run_experiment.py", "--seeds", "0", "1", "--strict"]
    done = subprocess.run(command, cwd=toy, capture_output=True, text=True, env=os.environ, timeout=300)
    assert done.returncode == 0, done.stderr
    results = load_results(toy / "results")
    assert results["experiment"] == "exp9_toy" and results["seeds"] == [0, 1]
    assert results["criteria"][0]["passed"] is True and "the line is found" in done.stdout
    with Image.open(toy / "plots" / "toy.png") as image:
        assert min(image.size) > 300
    assert {path.name.rpartition("-")[0] for path in (toy / "checkpoints").iterdir()} == {
        "toy-clean", "toy-noisy", "error-clean", "error-noisy",
    }  # fmt: skip


def test_execute_needs_no_command_line_and_leaves_the_caller_alone(toy, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["a caller with", "--arguments", "of its own"])
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    results = load().execute(load("config").PRESETS["full"])
    assert torch.equal(torch.rand(3), expected)  # the caller's random numbers
    assert results.metrics["toy/clean/error"]["mean"] < 0.5
    assert set(load_arrays(toy / "results")) >= {"toy/clean/history/loss"}
    assert json.loads((toy / "results" / "results.json").read_text())["preset"] == "full"


def test_results_say_by_what_each_step_was_computed(toy):
    load().execute(load("config").PRESETS["quick"])
    results = load_results(toy / "results")
    (origin,) = results["computed_by"]
    assert set(origin) == {"device", "cpu", "cpu_capability", "torch", "git_commit"}
    assert origin == {name: results["provenance"][name] for name in origin}


def test_starting_anew_keeps_what_it_has_computed(toy):
    load().execute(replace(load("config").PRESETS["quick"], fresh=True))
    assert len(list((toy / "checkpoints").glob("*.pt"))) == 4


def test_a_second_run_trains_nothing_and_agrees(toy, caplog):
    first = load().execute(load("config").PRESETS["quick"])
    caplog.clear()
    second = load().execute(load("config").PRESETS["quick"])
    assert first.metrics == second.metrics
    assert not [line for line in caplog.messages if "done in" in line or "measured in" in line]


def test_a_diverging_training_is_an_exception_and_the_caller_lives(toy):
    config = replace(load("config").PRESETS["quick"], noise=3e38)
    with pytest.raises(FloatingPointError, match="toy/noisy: not finite"):
        load().execute(config)
    assert not (toy / "results" / "results.json").exists()


def test_a_bad_setting_is_refused_before_anything_is_written(toy):
    with pytest.raises(ValueError, match=r"noise \(--noise\) = -1.0: allowed: finite numbers >= 0"):
        load("config").ToyConfig(noise=-1.0)
    assert not (toy / "results").exists()
