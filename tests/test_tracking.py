"""Trackers: what a run tells, once and in order, and files that the packages' own readers open."""

import dataclasses
import json
import os
import subprocess
import sys
import time
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch

from common.config import EXP1_PRESETS, RunConfig
from common.run import side_by_side, tracking
from common.run.cache import reads_settings
from common.run.command_line import ConfigError, bounded
from common.run.criteria import Criterion
from common.run.files import ROOT
from common.run.results import load_arrays, load_results
from common.run.run import Experiment, Training, main
from common.training.ensembles import EnsembleMLP
from common.training.fit import fit
from common.viz_utils import new_figure
from tests.experiment_runs import same_threads


@dataclass(frozen=True)
class LineConfig(RunConfig):
    """A line through noise."""

    # optimiser steps
    iterations: int = bounded(12, low=1)


@reads_settings("seeds", "iterations")
def train_line(waits_for, *, variant, config, device, checkpoint=None, label="line"):
    """It waits at its tenth step for a file, if it is given one."""
    model = EnsembleMLP(config.seeds, (1, 1), "line").to(device)

    def loss(iteration, draws):
        while iteration == 10 and waits_for and not Path(waits_for).exists():
            time.sleep(0.01)
        x = torch.stack([torch.randn(8, 1, generator=draw) for draw in draws])
        error = (model(x) - variant * x).square().mean((1, 2))
        return {"loss": error, "half": error / 2}

    def after_step(iteration):
        return {"largest": model.layers[0].weight.abs().amax((1, 2))} if iteration % 4 == 0 else None

    history = fit(
        model, loss, seeds=config.seeds, iterations=config.iterations, learning_rate=0.1, label=label,
        stream="line", checkpoint=checkpoint, after_step=after_step,
    )  # fmt: skip
    return model, history


def experiment_in(folder, waits_for=""):
    def compute(run):
        models = run.train(Training(train_line, "line", (waits_for,), {"up": 1.0, "down": -1.0}))
        weight = models["up"].layers[0].weight.detach().flatten(1).mean(1)
        run.results.add("line/weight", weight)
        run.results.add("line/odd", weight / 0)

    def draw(results, arrays):
        figure, axes = new_figure()
        axes[0, 0].plot(arrays["line/up/history/iteration"], arrays["line/up/history/loss"])
        return {"line.png": figure}

    claims = (
        Criterion("line/up", "strong", "the line rises", "line/weight", ">", -100.0),
        Criterion("line/missing", "strong", "is not measured", "line/nothing"),
    )
    presets = {"quick": LineConfig(), "full": LineConfig(preset="full")}
    return Experiment("exp9_line", folder, presets, compute, draw, claims)


class Recorder:
    """A tracker that notes what it is told."""

    def __init__(self, heard=None):
        self.calls, self.curves, self.heard = [], defaultdict(list), heard

    def begin(self, folder, name, settings):
        self.calls.append("begin")
        self.folder, self.name, self.settings = folder, name, settings

    def scalars(self, group, values, step):
        assert os.getpid() == PROCESS
        self.calls.append("scalars")
        for name, value in values.items():
            self.curves[f"{group}/{name}"].append((step, value))
        if self.heard:
            Path(self.heard).touch()

    def figure(self, path):
        self.calls.append("figure")
        assert path.stat().st_size > 1000

    def outcome(self, metrics, criteria):
        self.calls.append("outcome")
        self.metrics, self.criteria = metrics, criteria

    def finish(self, failed):
        self.calls.append(f"finish {failed}")


PROCESS = os.getpid()


@pytest.fixture
def recorder(monkeypatch):
    """What stands for TensorBoard."""
    one = Recorder()
    monkeypatch.setitem(tracking.TRACKERS, "tensorboard", lambda: one)
    return one


@pytest.fixture
def two_cores(monkeypatch):
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    monkeypatch.setattr(side_by_side, "LOOK_EVERY", 0.05)
    yield
    torch.set_num_threads(before)


def config_in(folder, **changes):
    settings = {"output_dir": folder, "cache_dir": folder / "cache", "tracker": "tensorboard"} | changes
    return LineConfig(**settings, device="cpu", checkpoint_every=5)


def expected_curves(folder, seeds):
    """From the arrays that the run saved, under a tracker's names."""
    arrays, expected = load_arrays(folder / "results"), {}
    for name in ("line/up", "line/down"):
        terms = {"loss": "train", "half": "train", "largest": "evaluation"}
        for term, group in terms.items():
            steps = arrays[f"{name}/history/{'iteration' if group == 'train' else group}"]
            values = arrays[f"{name}/history/{term}"]
            of = {term: values.mean(1)}
            if len(seeds) > 1:
                of |= {f"{term}/seed={seed}": values[:, place] for place, seed in enumerate(seeds)}
            for key, points in of.items():
                expected[f"{name}/{group}/{key}"] = list(zip(steps.tolist(), points.tolist(), strict=True))
    return expected


def assert_same_curves(found, expected, rel=1e-6):
    assert found.keys() == expected.keys()
    for name, points in expected.items():
        assert [step for step, _ in found[name]] == [step for step, _ in points], name
        assert [value for _, value in found[name]] == pytest.approx(
            [value for _, value in points], rel=rel
        ), name


# --- what is told ---------------------------------------------------------------------------------


@pytest.mark.parametrize("seeds", [(0,), (3, 1)])
def test_every_point_is_told_once_then_the_outcome_and_the_figures(tmp_path, recorder, seeds, capsys):
    config = config_in(tmp_path, seeds=seeds)
    assert main(experiment_in(tmp_path), config) == 0
    points = len([call for call in recorder.calls if call == "scalars"])
    assert points == 2 * (12 + 3)
    assert recorder.calls == ["begin", *["scalars"] * points, "outcome", "figure", "finish False"]
    assert_same_curves(recorder.curves, expected_curves(tmp_path, seeds))
    assert recorder.folder == tmp_path and recorder.name == "exp9_line"
    assert recorder.settings["iterations"] == 12 and recorder.settings["seeds"] == list(seeds)
    assert set(recorder.metrics) >= {"line/weight", "line/up/training/loss"}
    assert "line/odd" not in recorder.metrics, "it is not finite"
    assert [row["passed"] for row in recorder.criteria] == [True, None]


def test_what_comes_from_the_cache_is_told_as_well(tmp_path, recorder):
    experiment = experiment_in(tmp_path)
    experiment.execute(config_in(tmp_path, tracker="none"))
    assert not recorder.calls
    experiment.execute(config_in(tmp_path))
    assert recorder.calls[0] == "begin" and recorder.calls[-2:] == ["outcome", "finish False"]
    assert_same_curves(recorder.curves, expected_curves(tmp_path, (0,)))


@pytest.mark.parametrize("how", ["in workers", "in threads", "here"])
def test_curves_are_told_while_it_trains(tmp_path, recorder, two_cores, monkeypatch, how):
    """Each training waits for the tracker to hear of its first five steps."""
    if how == "here":
        torch.set_num_threads(1)
    if how == "in threads":
        monkeypatch.setattr(side_by_side, "_can_fork", lambda: False)
    recorder.heard = tmp_path / "heard"
    experiment_in(tmp_path, str(recorder.heard)).execute(config_in(tmp_path))
    assert_same_curves(recorder.curves, expected_curves(tmp_path, (0,)))


def test_a_run_that_fails_says_so(tmp_path, recorder):
    broken = dataclasses.replace(experiment_in(tmp_path), compute=lambda run: run.train(None))
    with pytest.raises(AttributeError):
        broken.execute(config_in(tmp_path))
    assert recorder.calls == ["begin", "finish True"]


def test_a_refused_configuration_begins_nothing(tmp_path, recorder):
    def refuse(config):
        raise ConfigError("no")

    with pytest.raises(ConfigError):
        dataclasses.replace(experiment_in(tmp_path), check=refuse).execute(config_in(tmp_path / "out"))
    assert recorder.calls == ["finish True"] and not (tmp_path / "out").exists()


def test_evaluations_are_told_at_their_own_steps():
    """Of as many points as losses, too."""
    seen = Recorder()
    curves = tracking.Curves(seen, (0,))
    history = {"iteration": [1, 3], "loss": [[1.0], [2.0]], "evaluation": [2, 4], "accuracy": [[0.1], [0.2]]}
    curves.tell("one", history)
    curves.tell("one", history)
    assert seen.curves == {
        "one/train/loss": [(1, 1.0), (3, 2.0)],
        "one/evaluation/accuracy": [(2, 0.1), (4, 0.2)],
    }


def test_a_tracker_does_not_make_another_run():
    quick = EXP1_PRESETS["quick"]
    assert dataclasses.replace(quick, tracker="wandb").identity() == quick.identity()
    with pytest.raises(ConfigError, match="--tracker"):
        dataclasses.replace(quick, tracker="tensorboard", replot=True)


# --- without a package, without a login -----------------------------------------------------------


@pytest.mark.parametrize("name", ["tensorboard", "wandb"])
def test_a_missing_package_is_one_line_before_anything_is_written(tmp_path, monkeypatch, capsys, name):
    monkeypatch.setitem(sys.modules, name, None)
    monkeypatch.delitem(sys.modules, "torch.utils.tensorboard", raising=False)
    folder = tmp_path / "out"
    assert main(experiment_in(tmp_path), config_in(folder, tracker=name)) == 2
    said = capsys.readouterr().err
    assert said.count("\n") == 1 and "requirements-sweep.txt" in said and name in said
    assert not folder.exists()


def test_without_a_tracker_no_package_is_needed(tmp_path, monkeypatch):
    for name in ("tensorboard", "wandb", "ray", "optuna"):
        monkeypatch.setitem(sys.modules, name, None)
    assert main(experiment_in(tmp_path), config_in(tmp_path, tracker="none")) == 0
    assert {path.name for path in tmp_path.iterdir()} == {"cache", "results", "plots"}


# --- the packages' own readers --------------------------------------------------------------------


def test_tensorboard_reads_it_back(tmp_path):
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    assert main(experiment_in(tmp_path), config_in(tmp_path, seeds=(0, 1))) == 0
    (folder,) = (tmp_path / "tensorboard").iterdir()
    log = EventAccumulator(str(folder), size_guidance={"scalars": 0, "images": 0}).Reload()
    found = {tag: [(event.step, event.value) for event in log.Scalars(tag)] for tag in log.Tags()["scalars"]}
    expected = expected_curves(tmp_path, (0, 1))
    assert_same_curves({name: found[name] for name in expected}, expected)
    ((_, weight),) = found["metrics/line/weight"]
    assert found["criteria/line/up"][0][1] == weight and "criteria/line/missing" not in found
    (image,) = log.Images("figures/line.png")
    assert image.encoded_image_string == (tmp_path / "plots" / "line.png").read_bytes()
    (text,) = log.Tensors("config/text_summary")
    assert b'"iterations": 12' in text.tensor_proto.string_val[0]
    (text,) = log.Tensors("criteria/text_summary")
    assert b": the line rises (line/up: " in text.tensor_proto.string_val[0]
    assert log.summary_metadata["_hparams_/experiment"]


_SCRIPT = """
import sys
from pathlib import Path
sys.path.insert(0, sys.argv[1])
from common.run.command_line import parse_command_line
from common.run.run import main
from tests.test_tracking import experiment_in
experiment = experiment_in(Path(sys.argv[2]))
sys.exit(main(experiment, parse_command_line(experiment.presets, sys.argv[3:])))
"""


def offline_run(folder):
    """The experiment as a user would run it with W&B offline, in a home of its own; and its environment."""
    places = {name: str(folder / name) for name in ("HOME", "TMPDIR", "MPLCONFIGDIR")}
    for place in places.values():
        Path(place).mkdir()
    environment = {name: value for name, value in same_threads().items() if not name.startswith("WANDB")}
    environment |= places | {"WANDB_MODE": "offline"}
    output = folder / "out"
    flags = ["--tracker", "wandb", "--output-dir", str(output), "--cache-dir", str(output / "cache")]
    done = subprocess.run(
        [sys.executable, "-c", _SCRIPT, str(ROOT), str(folder), "--device", "cpu", *flags],
        cwd=folder, env=environment, capture_output=True, text=True, timeout=300,
    )  # fmt: skip
    return done, environment


def records_of(folder, environment):
    """A W&B run's records, as W&B's own reader prints them."""
    command = [sys.executable, "-m", "wandb", "leet", "inspect", "--json", str(folder)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True, timeout=300)
    return [json.loads(line) for line in done.stdout.splitlines()]


def test_wandb_reads_it_back_and_leaves_nothing_elsewhere(tmp_path):
    pytest.importorskip("wandb")
    done, environment = offline_run(tmp_path)
    assert done.returncode == 0, done.stderr
    output = tmp_path / "out"
    assert not [path for path in tmp_path.rglob("*wandb*") if not path.is_relative_to(output)]
    assert not processes_with(str(tmp_path)), "a process is left"
    (folder,) = (output / "wandb").glob("offline-run-*")
    kept = defaultdict(list)
    for record in records_of(folder, environment):
        kept[record["type"]].append(record[record["type"]])
    assert kept["run"][0]["config"]["update"]["iterations"] == 12
    found = defaultdict(list)
    for item in (entry["item"] for entry in kept["history"]):
        for name in item:
            group = name.rpartition("/")[0]
            if f"{group}/step" in item and not name.endswith("/step"):
                found[name].append((item[f"{group}/step"], item[name]))
    assert_same_curves(found, expected_curves(output, (0,)))
    summary = {name: value for part in kept["summary"] for name, value in part["update"].items()}
    weight = load_results(output / "results")["metrics"]["line/weight"]["mean"]
    assert summary["metrics/line/weight"] == pytest.approx(weight)
    assert summary["criteria/line/up"] == summary["metrics/line/weight"]
    assert summary["criteria/line/up/passed"] is True
    (picture,) = (folder / "files" / "media").rglob("*.png")
    assert picture.read_bytes() == (output / "plots" / "line.png").read_bytes()
    assert kept["exit"][0]["exit_code"] == 0


def processes_with(text):
    """Command lines and environments of this machine's processes that hold a text; Linux alone knows."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            told = (process / "cmdline").read_bytes() + (process / "environ").read_bytes()
        except OSError:
            continue
        if text.encode() in told:
            found.append(process.name)
    return found


def test_wandb_without_a_login_is_one_line_and_no_question(tmp_path, monkeypatch, capsys):
    pytest.importorskip("wandb")
    for name in [name for name in os.environ if name.startswith("WANDB")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    folder = tmp_path / "out"
    assert main(experiment_in(tmp_path), config_in(folder, tracker="wandb")) == 2
    said = capsys.readouterr()
    assert said.out == "" and said.err.count("\n") == 1 and "WANDB_MODE=offline" in said.err
    assert not list(tmp_path.iterdir())
