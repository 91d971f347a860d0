"""A new experiment is one new folder and its dataclass: nothing else that is shared is edited."""

import importlib
import json
import os
import subprocess
import sys
import textwrap
from dataclasses import replace

import pytest
import torch
from PIL import Image

from common.run.files import ROOT
from common.run.results import load_arrays, load_results

FILES = {
    "__init__.py": '"""A toy: how well does a line fit a noisy line?"""\n',
    "config.py": '''
        """Its settings; a real experiment's stand in common/config.py."""
        from dataclasses import dataclass
        from common.config import RunConfig
        from common.run.command_line import bounded

        @dataclass(frozen=True)
        class ToyConfig(RunConfig):
            """A toy: how well does a line fit a noisy line?"""
            # optimiser steps
            iterations: int = bounded(40, low=1)
            # standard deviation of the noise
            noise: float = bounded(0.1, low=0.0)

        PRESETS = {"quick": ToyConfig(), "full": ToyConfig(preset="full", seeds=(0, 1, 2))}
        ''',
    "models.py": '''
        """A line for every seed."""
        import torch
        from common.training.ensembles import EnsembleMLP

        def make_model(seeds):
            return EnsembleMLP(seeds, (1, 1), "toy")

        def squared_error(predicted, wanted):
            return (predicted - wanted).square().mean((1, 2))
        ''',
    "train_line.py": '''
        """Train the lines."""
        import torch
        from common.run.cache import reads_settings
        from common.run.run import Training
        from common.training.fit import fit
        from exp9_toy.models import make_model, squared_error

        @reads_settings("seeds", "iterations", "noise")
        def train_line(slope, *, variant, config, device, checkpoint=None, label="line"):
            model = make_model(config.seeds).to(device)

            def loss(iteration, draws):
                x = torch.stack([torch.randn(8, 1, generator=draw) for draw in draws])
                noise = torch.stack([torch.randn(8, 1, generator=draw) for draw in draws])
                return {"loss": squared_error(model(x), slope * x + variant * config.noise * noise)}

            def after_step(iteration):
                return {"largest": model.layers[0].weight.abs().max()} if iteration % 20 == 0 else None

            history = fit(model, loss, seeds=config.seeds, iterations=config.iterations, learning_rate=0.1,
                          label=label, stream="toy", checkpoint=checkpoint, after_step=after_step)
            return model, history

        def line_trainings(slope):
            return Training(train_line, "toy", (slope,), {"clean": 0.0, "noisy": 1.0})
        ''',
    "criteria.py": '''
        """What the toy claims."""
        from common.run.criteria import Criterion

        CRITERIA = (Criterion("toy/fits", "strong", "the line is found", "toy/clean/error", "<", 0.5),)
        ''',
    "figures.py": '''
        """Drawn from saved results alone."""
        from common.viz_utils import new_figure

        def draw_figures(results, arrays):
            figure, axes = new_figure()
            axes[0, 0].plot(arrays["toy/clean/history/iteration"], arrays["toy/clean/history/loss"])
            return {"toy.png": figure}
        ''',
    "run_experiment.py": '''
        """A toy: how well does a line fit a noisy line?"""
        import os
        import sys
        from pathlib import Path

        sys.path[:0] = [str(Path(__file__).resolve().parents[1]), os.environ["HELM_ROOT"]]

        from exp9_toy.config import PRESETS
        from common.run.command_line import parse_command_line

        CONFIG = parse_command_line(PRESETS) if __name__ == "__main__" else None

        import torch
        from common.run.cache import reads_settings
        from common.run.run import Experiment, main
        from exp9_toy.criteria import CRITERIA
        from exp9_toy.figures import draw_figures
        from exp9_toy.models import squared_error
        from exp9_toy.train_line import line_trainings

        @reads_settings("seeds")
        def measure_error(model, slope, *, config, device):
            x = torch.linspace(-1, 1, 11).view(1, -1, 1).expand(len(config.seeds), -1, -1)
            return {"error": squared_error(model(x), slope * x)}

        def compute(run):
            models = run.train(line_trainings(2.0))
            for name, model in models.items():
                measured = run.measure(measure_error, f"error/{name}", model, 2.0)
                run.results.add(f"toy/{name}/error", measured["error"])

        EXPERIMENT = Experiment("exp9_toy", Path(__file__).parent, PRESETS, compute, draw_figures, CRITERIA)
        execute = EXPERIMENT.execute

        if __name__ == "__main__":
            raise SystemExit(main(EXPERIMENT, CONFIG))
        ''',
}


@pytest.fixture
def toy(tmp_path, monkeypatch):
    """The toy's folder, in a place of its own."""
    folder = tmp_path / "exp9_toy"
    folder.mkdir()
    for name, text in FILES.items():
        (folder / name).write_text(textwrap.dedent(text).lstrip())
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
