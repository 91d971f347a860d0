"""An experiment run as a user would run it, at tiny sizes, and what every such run must show."""

import math
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from common.run.files import ROOT
from common.run.results import STARTS, load_arrays, load_results


@dataclass(frozen=True)
class TinyRun:
    """An experiment's folder, the flags that make it tiny, and the figures it must draw."""

    experiment: str
    flags: tuple[str, ...]
    figures: frozenset[str]
    least_side: int = 250  # of a figure [pixels]

    def arguments(self, output, *more):
        """Flags of the tiny run; its cache lies in the output folder too, so a test leaves nothing behind."""
        return [
            *self.flags,
            "--output-dir",
            str(output),
            "--cache-dir",
            str(Path(output) / "checkpoints"),
            *more,
        ]

    def command(self, output, *more, script="run_experiment.py"):
        """By the script's absolute path, from any folder."""
        return [sys.executable, str(ROOT / self.experiment / script), *self.arguments(output, *more)]

    def __call__(self, output, *more, script="run_experiment.py", code=0):
        """Run a script from inside the experiment's folder; `code` is the exit code that it must end with."""
        command = [sys.executable, script, *self.arguments(output, *more)]
        folder = ROOT / self.experiment
        done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=600)
        assert done.returncode == code, done.stderr
        return done

    def assert_figures(self, output):
        """Every figure is there, none beside, and none is blank."""
        plots = Path(output) / "plots"
        assert {path.name for path in plots.iterdir()} == self.figures
        for name in self.figures:
            with Image.open(plots / name) as image:
                shown = np.asarray(image.convert("L")) / 255
                assert min(shown.shape) > self.least_side and shown.std() > 0.05, name
                assert image.n_frames > 1 or not name.endswith(".gif"), name

    def assert_starts(self, output):
        """What has an interval over starts is in arrays.npz start by start, for pool_seeds.py."""
        folder = Path(output) / "results"
        metrics, arrays = load_results(folder)["metrics"], load_arrays(folder)
        with_interval = {name for name, entry in metrics.items() if "interval95" in entry}
        kept = {name.removesuffix(STARTS) for name in arrays if name.endswith(STARTS)}
        assert with_interval == kept != set()
        for name in with_interval:
            np.testing.assert_allclose(arrays[name + STARTS].mean(1), metrics[name]["values"], atol=1e-7)

    def assert_replot(self, output):
        """The same figures, byte for byte, from saved results alone."""
        plots = Path(output) / "plots"
        before = {path.name: path.read_bytes() for path in plots.iterdir()}
        for path in plots.iterdir():
            path.unlink()
        script = f"{self.experiment}/run_experiment.py"  # from the root, where the others start in its folder
        command = [sys.executable, script, "--replot", "--output-dir", str(output)]
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        assert not trained(done) and not measured(done)
        assert {path.name: path.read_bytes() for path in plots.iterdir()} == before

    def assert_refused(self, output, args, words):
        """One line on stderr, exit code 2, nothing written; with the experiment's own sizes."""
        script = str(ROOT / self.experiment / "run_experiment.py")
        command = [sys.executable, script, "--output-dir", str(output), *args]
        done = subprocess.run(command, capture_output=True, text=True)
        assert done.returncode == 2 and done.stdout == ""
        assert done.stderr.count("\n") == 1 and words in done.stderr
        assert not Path(output).exists()

    def trained_alone(self, output, script, *more):
        """The models that a training script leaves behind, without what tells configurations apart."""
        self(output, *more, script=script)
        return {path.name.rpartition("-")[0] for path in (Path(output) / "checkpoints").iterdir()}


def kill_at(command, output, counts):
    """Start the command again and again and kill it (SIGKILL) when it has left so many checkpoints.

    At least half of the starts must meet their end this way, and none may leave results.
    """
    kills = 0
    for wanted in counts:
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        while process.poll() is None and len(list(Path(output).glob("checkpoints/*.pt"))) < wanted:
            time.sleep(0.02)
        if process.poll() is None:
            process.kill()
            kills += 1
        process.wait()
    assert kills >= len(counts) / 2, "the run ended before it could be killed"
    assert not (Path(output) / "results" / "results.json").exists()


def trained(done):
    """Names of the models that a finished run trained."""
    return _named_beside(done, "loss=")


def measured(done):
    """Names of the phases that a finished run measured."""
    return _named_beside(done, "measured in")


def _named_beside(done, words):
    return [line.split()[1].removesuffix(":") for line in done.stderr.splitlines() if words in line]


def metrics_of(output):
    """{name: entry} of a run."""
    return load_results(Path(output) / "results")["metrics"]


def assert_promised(metrics, promised, seeds=2):
    """Each promised metric has a finite value for every seed; a rate lies in [0, 1]."""
    assert not promised - set(metrics)
    for name in promised:
        values = metrics[name]["values"]
        assert len(values) == seeds, name
        assert all(value is not None and math.isfinite(value) for value in values), name
        if name.rpartition("/")[2] in ("success", "spl", "coverage", "greedy") or "/accuracy_" in name:
            assert all(0.0 <= value <= 1.0 for value in values), name


def assert_same_results(first, second):
    """Two runs have the same metrics and arrays, to the bit."""
    assert metrics_of(first) == metrics_of(second)
    expected, found = (load_arrays(Path(folder) / "results") for folder in (first, second))
    assert expected.keys() == found.keys()
    assert all(np.array_equal(expected[name], found[name], equal_nan=True) for name in expected)
