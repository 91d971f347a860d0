"""An experiment run as a user would run it, at tiny sizes, and what every such run must show."""

import contextlib
import importlib
import io
import logging
import math
import os
import runpy
import signal
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch
from matplotlib.figure import Figure
from PIL import Image

from common.run import run as run_module
from common.run.files import ROOT
from common.run.results import STARTS, load_arrays, load_results
from common.run.signals import HANDLED
from common.viz_utils import house_style
from tests.legibility import unreadable


def _holds_data(axis):
    """Whether an axis shows a finite number, a picture, a surface or a table."""
    lines = [np.asarray(line.get_ydata(), dtype=float) for line in axis.lines]
    drawn = any(np.isfinite(values).any() for values in lines)
    return drawn or bool(axis.images or axis.collections or axis.patches or axis.tables)


@dataclass(frozen=True)
class Done:
    """How a script ended, and what it said."""

    returncode: int
    stdout: str
    stderr: str


def same_threads():
    """The environment of a process that computes in as many threads as this one, so to the bit the same."""
    return {**os.environ, "OMP_NUM_THREADS": str(torch.get_num_threads())}


@contextlib.contextmanager
def unrendered():
    """Figures and frames are made, their files are empty: rendering takes a third of a tiny run's time."""
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(run_module, "save_figure", lambda figure, path: path.touch())
        patched.setattr(run_module, "save_animation", lambda frames, path: (list(frames), path.touch()))
        yield


def run_script(path: Path, *args: str, rendered: bool = True) -> Done:
    """A script as `python path args` would run it, in this process: seconds faster, as torch is there.

    What it does to the process (signals, environment, logging) is undone.
    """
    stdout, stderr = io.StringIO(), io.StringIO()
    handler, root = logging.StreamHandler(stderr), logging.getLogger()
    handler.setFormatter(logging.Formatter("%(asctime)s %(message)s", "%H:%M:%S"))
    before = {number: signal.getsignal(number) for number in HANDLED}
    level, environment, argv = root.level, dict(os.environ), sys.argv
    root.addHandler(handler)
    root.setLevel(logging.INFO)
    sys.argv = [str(path), *map(str, args)]
    try:
        with (
            contextlib.redirect_stdout(stdout),
            contextlib.redirect_stderr(stderr),
            contextlib.nullcontext() if rendered else unrendered(),
        ):
            runpy.run_path(str(path), run_name="__main__")
        code = 0
    except SystemExit as exit_:
        code = exit_.code or 0
    finally:
        sys.argv = argv
        root.removeHandler(handler)
        root.setLevel(level)
        os.environ.clear()
        os.environ.update(environment)
        for number, former in before.items():
            signal.signal(number, former)
    return Done(code, stdout.getvalue(), stderr.getvalue())


@dataclass(frozen=True)
class TinyRun:
    """An experiment's folder, the flags that make it tiny, and the figures it must draw."""

    experiment: str
    flags: tuple[str, ...]
    figures: frozenset[str]
    least_side: int = 250  # of a figure [pixels]

    @property
    def folder(self) -> Path:
        return ROOT / self.experiment

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
        return [sys.executable, str(self.folder / script), *self.arguments(output, *more)]

    def __call__(self, output, *more, script="run_experiment.py", code=0, rendered=False):
        """Run a script in this process; `code` is the exit code that it must end with."""
        done = run_script(self.folder / script, *self.arguments(output, *more), rendered=rendered)
        assert done.returncode == code, done.stderr
        return done

    def as_a_process(self, output, *more, script="run_experiment.py", code=0):
        """Run a script as a user would, from inside the experiment's folder."""
        command = [sys.executable, script, *self.arguments(output, *more)]
        done = subprocess.run(
            command, cwd=self.folder, env=same_threads(), capture_output=True, text=True, timeout=600
        )
        assert done.returncode == code, done.stderr
        return Done(done.returncode, done.stdout, done.stderr)

    def assert_figures(self, output):
        """Every figure is there, none beside, and in none is an axis empty."""
        plots = Path(output) / "plots"
        assert {path.name for path in plots.iterdir()} == self.figures
        for name in self.figures:
            with Image.open(plots / name) as image:
                shown = np.asarray(image.convert("L")) / 255
                assert min(shown.shape) > self.least_side and shown.std() > 0.05, name
                assert image.n_frames > 1 or not name.endswith(".gif"), name
        self._assert_drawn_from_results(output)

    def _assert_drawn_from_results(self, output):
        """Every panel of every figure holds data, and something says what it shows."""
        experiment = vars(importlib.import_module(f"{self.experiment}.run_experiment"))["EXPERIMENT"]
        folder = Path(output) / "results"
        with house_style():
            drawn = dict(experiment.draw(load_results(folder), load_arrays(folder)))
        assert drawn.keys() == self.figures
        for name, figures in drawn.items():
            for figure in [figures] if isinstance(figures, Figure) else figures:
                shown = [axis for axis in figure.axes if axis.axison or _holds_data(axis)]
                assert shown, name
                for axis in shown:
                    assert _holds_data(axis), f"{name}: an empty panel, {axis.get_title(loc='left')!r}"
                said = [figure.get_suptitle(), *(axis.get_title(loc="left") for axis in shown)]
                assert any(said), f"{name}: nothing says what it shows"
                faults = unreadable(figure)
                assert not faults, f"{name}: {faults}"

    def assert_starts(self, output):
        """What has an interval over starts is in arrays.npz start by start, for pool_seeds.py."""
        folder = Path(output) / "results"
        metrics, arrays = load_results(folder)["metrics"], load_arrays(folder)
        with_interval = {name for name, entry in metrics.items() if "interval95" in entry}
        kept = {name.removesuffix(STARTS) for name in arrays if name.endswith(STARTS)}
        assert with_interval == {name for name in kept if metrics[name]["mean"] is not None} != set()
        for name in with_interval:
            np.testing.assert_allclose(arrays[name + STARTS].mean(1), metrics[name]["values"], atol=1e-7)

    def assert_replot(self, output):
        """The same figures, byte for byte, from saved results alone."""
        plots = Path(output) / "plots"
        before = {path.name: path.read_bytes() for path in plots.iterdir()}
        for path in plots.iterdir():
            path.unlink()
        done = run_script(self.folder / "run_experiment.py", "--replot", "--output-dir", output)
        assert done.returncode == 0, done.stderr
        assert not trained(done) and not measured(done)
        assert {path.name: path.read_bytes() for path in plots.iterdir()} == before

    def assert_refused(self, output, args, words):
        """One line on stderr, exit code 2, nothing written; with the experiment's own sizes."""
        places = ("--output-dir", output, "--cache-dir", Path(output) / "checkpoints")
        done = run_script(self.folder / "run_experiment.py", *places, *args)
        assert done.returncode == 2 and done.stdout == ""
        assert done.stderr.count("\n") == 1 and words in done.stderr
        assert not Path(output).exists()

    def trained_alone(self, output, script, *more):
        """The models that a training script leaves behind, without what tells configurations apart."""
        self(output, *more, script=script)
        return {path.name.rpartition("-")[0] for path in (Path(output) / "checkpoints").iterdir()}


# Imports once, then forks: a child runs the script until it kills itself (SIGKILL), in the middle of writing
# a checkpoint or between two, at the moments that its parent tells.
_KILLED = """
import os, runpy, signal, sys
script, moments, sys.argv = sys.argv[1], sys.argv[2].split(","), sys.argv[1:2] + sys.argv[3:]
sys.path.insert(0, os.path.dirname(os.path.dirname(script)))
runpy.run_path(script, run_name="imported")
from common.run import cache

def dying(count, halfway, write_atomically):
    left = [count]
    def write(path, write):
        left[0] -= 1
        def write_and_die(file):
            write(file)
            if halfway and not left[0]:
                file.seek(file.tell() // 2)
                file.truncate()
                os.kill(os.getpid(), signal.SIGKILL)
        write_atomically(path, write_and_die)
        if not left[0]:
            os.kill(os.getpid(), signal.SIGKILL)
    return write

for moment in moments:
    child = os.fork()
    if not child:
        cache.write_atomically = dying(int(moment.rstrip("h")), moment.endswith("h"), cache.write_atomically)
        try:
            runpy.run_path(script, run_name="__main__")
        finally:
            os._exit(3)  # it came to an end before it could be killed
    _, status = os.waitpid(child, 0)
    if status != signal.SIGKILL:
        raise SystemExit(f"not killed at {moment}: status {status}")
"""


def start_interruptible(command):
    """A process that Ctrl-C reaches, even if these tests run in the background of a script.

    There SIGINT is ignored, and a child inherits that.
    """
    return subprocess.Popen(
        command, env=same_threads(), stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True,
        preexec_fn=None if os.name == "nt" else lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )  # fmt: skip


def kill_at(command, output, moments):
    """Start the command again and again; each start is killed (SIGKILL) at its n-th write of a checkpoint.

    Args:
        command: a Python script's.
        output: its output folder; none of the starts may leave results there.
        moments: for each start "n", after its n-th write, or "nh", halfway through it.
    """
    _, script, *args = command
    call = [sys.executable, "-c", _KILLED, script, ",".join(moments), *args]
    done = subprocess.run(call, env=same_threads(), capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr
    assert not (Path(output) / "results" / "results.json").exists()
    litter = list(Path(output).glob("checkpoints/.*.tmp"))
    assert len(litter) == moments[-1].endswith("h"), "each start clears what the one before left"


def trained(done):
    """Names of the models that a finished run trained."""
    return _named_beside(done, "loss=")


def measured(done):
    """Names of the steps that a finished run measured."""
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
