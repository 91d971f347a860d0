"""Sweeps through Ray as a user runs them: the same numbers as by hand, killed at any moment, on two nodes.

Ray takes seconds to start, so what can shares one.
"""

import contextlib
import csv
import dataclasses
import importlib
import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import pytest

pytest.importorskip("ray")
pytest.importorskip("optuna")

from PIL import Image

from common.run.files import ROOT
from common.run.results import load_results
from common.sweeps import engine
from common.sweeps.trial import load_record
from tests.experiment_runs import assert_same_results, run_script, start_interruptible
from tests.toy_experiment import write_toy

pytestmark = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="looks at processes in /proc")
GRID = ("--vary", "noise", "0.1", "0.5", "1.0", "--vary", "seeds", "0", "1", "2", "3")
METRIC = ("--metric", "toy/noisy/error")


@pytest.fixture(scope="module")
def toy(tmp_path_factory):
    """The toy experiment, for this process and those that it starts."""
    place = tmp_path_factory.mktemp("toy")
    write_toy(place)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HELM_ROOT", str(ROOT))
        patch.setenv("PYTHONPATH", str(place))
        patch.setenv("OMP_NUM_THREADS", "1")
        patch.syspath_prepend(str(place))
        yield importlib.import_module("exp9_toy.run_experiment").EXPERIMENT
        for name in [name for name in sys.modules if name.startswith("exp9_toy")]:
            del sys.modules[name]


@dataclass(frozen=True)
class Sweep:
    """A sweep of the toy in a folder of its own, with its own cache."""

    place: Path
    flags: tuple[str, ...]
    name: str = "it"

    @property
    def folder(self):
        return self.place / self.name

    @property
    def command(self):
        places = ("--sweeps-dir", self.place, "--name", self.name, "--cache-dir", self.place / "cache")
        return [str(part) for part in (sys.executable, ROOT / "sweep.py", "exp9_toy", *places, *self.flags)]

    def start(self):
        return start_interruptible(self.command)

    def run(self, code=0):
        done = subprocess.run(self.command, cwd=self.place, capture_output=True, text=True, timeout=900)
        assert done.returncode == code, done.stderr
        return done

    def ended(self):
        """{id: (when its record was written, the record)}."""
        paths = self.folder.glob("trials/*/results/trial.json")
        return {
            path.parents[1].name: (path.stat().st_mtime_ns, load_record(path.parent))
            for path in paths
            if load_record(path.parent)
        }

    def until(self, process, reached, timeout=600):
        """Wait until reached(the records so far)."""
        deadline = time.monotonic() + timeout
        while not reached([record for _, record in self.ended().values()]):
            assert process.poll() is None, process.stderr.read()
            assert time.monotonic() < deadline
            time.sleep(0.05)


def rays_of(process):
    """Ray's processes of a sweep that was started here: their output goes to its folder.

    Not the two that end a minute later: they try for so long to tell a Ray that is no more that it is.
    """
    found = []
    for link in Path("/proc").glob("[0-9]*/fd/1"):
        with contextlib.suppress(OSError):
            own = f"{engine.PREFIX}{process}-" in str(link.readlink())
            if own and b"Agent" not in (link.parents[1] / "cmdline").read_bytes():
                found.append(link)
    return found


def wait_until(reached, timeout=300):
    deadline = time.monotonic() + timeout
    while not reached():
        assert time.monotonic() < deadline
        time.sleep(0.1)


@pytest.fixture(scope="module")
def whole(toy, tmp_path_factory):
    """A sweep of twelve trials on two workers, and what it said."""
    sweep = Sweep(tmp_path_factory.mktemp("whole"), (*GRID, *METRIC, "--workers", "2"))
    return sweep, sweep.run()


def test_twelve_trials_are_what_each_gives_by_hand(whole, toy, tmp_path, one_thread):
    sweep, done = whole
    content = json.loads((sweep.folder / "sweep.json").read_text())
    assert len(content["trials"]) == 12 and {trial["state"] for trial in content["trials"]} == {"done"}
    expected = []
    for trial in content["trials"]:
        noise, (seed,) = trial["setting"]["noise"], trial["seeds"]
        config = dataclasses.replace(toy.presets["quick"], noise=float(noise), seeds=(seed,))
        mine = tmp_path / trial["id"]
        toy.execute(dataclasses.replace(config, output_dir=mine, cache_dir=tmp_path / "cache"))
        assert_same_results(mine, sweep.folder / "trials" / trial["id"])
        for metric, entry in load_results(mine / "results")["metrics"].items():
            expected.append([trial["id"], noise, str(seed), metric, entry["unit"], repr(entry["values"][0])])
    with (sweep.folder / "sweep.csv").open() as file:
        header, *rows = csv.reader(file)
    assert header == ["trial", "noise", "seed", "metric", "unit", "value"] and rows == expected
    assert done.stdout.count("4 seeds") == 3 and "95% intervals" in done.stdout
    with Image.open(sweep.folder / "sweep.png") as image:
        assert min(image.size) > 300


def test_nothing_is_left_behind_and_a_second_command_runs_nothing(whole):
    sweep, _ = whole
    before, data = sweep.ended(), (sweep.folder / "sweep.csv").read_bytes()
    assert not (sweep.folder / "ray").exists()
    done = sweep.run()
    assert sweep.ended() == before and (sweep.folder / "sweep.csv").read_bytes() == data
    assert "12 trials, of which 12 have ended before" in done.stderr


def test_killed_and_interrupted_it_ends_as_if_it_had_not_been(whole, tmp_path):
    """No trial that has ended runs again, Ray's processes end by themselves, and sweep.csv is the same."""
    undisturbed, _ = whole
    sweep, before = Sweep(tmp_path, undisturbed.flags), {}
    for moment, number, code in ((1, signal.SIGKILL, -signal.SIGKILL), (6, signal.SIGINT, 130)):
        process = sweep.start()
        sweep.until(process, lambda records, moment=moment: len(records) >= moment)
        assert rays_of(process.pid)
        process.send_signal(number)
        assert process.wait(600) == code
        said = process.stderr.read()
        process.stderr.close()
        wait_until(lambda process=process: not rays_of(process.pid))
        assert before.items() <= sweep.ended().items()
        before = sweep.ended()
    assert said.endswith("interrupted: the same command goes on; what is done stays done\n")
    assert len(before) < 12
    sweep.run()
    assert before.items() <= sweep.ended().items() and len(sweep.ended()) == 12
    assert (sweep.folder / "sweep.csv").read_bytes() == (undisturbed.folder / "sweep.csv").read_bytes()
    assert not list(Path(tempfile.gettempdir()).glob(f"{engine.PREFIX}{process.pid}-*"))


# --- a cluster ------------------------------------------------------------------------------------


def free_port():
    with socket.socket() as found:
        found.bind(("", 0))
        return found.getsockname()[1]


def start_node(log, *flags):
    """A node of a cluster with one core, in a process group of its own; it has started when this returns."""
    call = [sys.executable, "-m", "ray.scripts.scripts", "start", "--num-cpus", "1", "--block", *flags]
    quick = {"period_ms": "500", "timeout_ms": "5000", "failure_threshold": "4", "initial_delay_ms": "0"}
    environment = {f"RAY_health_check_{name}": value for name, value in quick.items()}
    with log.open("wb") as file:
        node = subprocess.Popen(
            [*call, "--object-store-memory", str(100 * 2**20)], env={**os.environ, **environment},
            start_new_session=True, stdout=file, stderr=subprocess.STDOUT,
        )  # fmt: skip
    wait_until(lambda: b"Ray runtime started" in log.read_bytes() or node.poll() is not None)
    assert node.poll() is None, log.read_text()
    return node


def kill_node(process):
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


@pytest.fixture(scope="module")
def cluster(tmp_path_factory):
    """The address of a cluster of two nodes, and the second of them."""
    place, port = tmp_path_factory.mktemp("cluster"), str(free_port())
    with (
        contextlib.ExitStack() as stack,
        tempfile.TemporaryDirectory(prefix="helm-test-", ignore_cleanup_errors=True) as folder,
        pytest.MonkeyPatch.context() as patch,
    ):
        for name, value in (("USAGE_STATS_ENABLED", "0"), ("AUTH_MODE", "token"), ("AUTH_TOKEN", "5" * 64)):
            patch.setenv(f"RAY_{name}", value)
        own = ("--port", port, "--temp-dir", folder, "--include-dashboard", "false")
        stack.callback(kill_node, start_node(place / "head.log", "--head", *own))
        second = start_node(place / "second.log", "--address", f"127.0.0.1:{port}")
        stack.callback(kill_node, second)
        yield f"127.0.0.1:{port}", second


def test_a_node_that_is_killed_takes_no_trial_with_it(toy, cluster, tmp_path):
    address, second = cluster
    sweep = Sweep(tmp_path, (*GRID, *METRIC, "--address", address, "--iterations", "600"))
    process = sweep.start()
    sweep.until(process, lambda records: len({record.node for record in records}) == 2)
    on_both = {record.node for _, record in sweep.ended().values()}
    kill_node(second)
    assert len(sweep.ended()) < 12
    assert process.wait(600) == 0, process.stderr.read()
    process.stderr.close()
    records = [record for _, record in sweep.ended().values()]
    assert len(records) == 12 and {record.state for record in records} == {"done"}
    assert {record.node for record in records} == on_both
    assert (sweep.folder / "sweep.png").exists()


def test_a_failing_trial_is_reported_and_the_others_end(toy, cluster, tmp_path):
    vary = ("--vary", "noise", "0.1", "3e38", "--vary", "iterations", "20", "30")
    done = Sweep(tmp_path, (*vary, *METRIC, "--address", cluster[0])).run(code=1)
    lines = [line for line in done.stdout.splitlines() if " failed: " in line]
    assert len(lines) == 2 and all("training toy/noisy: not finite at step" in line for line in lines)
    assert done.stdout.count("1 seed") == 2 and "Traceback" not in done.stderr + done.stdout


def test_a_search_tries_as_many_settings_as_asked_and_goes_on_with_what_it_knows(toy, cluster, tmp_path):
    vary = ("--vary", "noise", "0.01:10:log", "--vary", "seeds", "0", "1", "--search", "optuna")
    first = Sweep(tmp_path, (*vary, *METRIC, "--address", cluster[0], "--samples", "3"))
    first.run()
    before = first.ended()
    more = Sweep(tmp_path, (*first.flags[:-1], "5"))
    more.run()
    assert before.items() <= more.ended().items()
    tried = [record.setting["noise"] for _, record in more.ended().values()]
    assert len(tried) == 10 and len(set(tried)) == 5 and all(tried.count(noise) == 2 for noise in tried)
    assert all(0.01 <= float(noise) <= 10 for noise in tried)


def test_hopeless_trials_are_stopped_on_the_way(toy, cluster, tmp_path):
    """Of four that differ in their noise alone, those whose loss is large do not come to their end."""
    vary = ("--vary", "noise", "0.01", "100", "200", "300", "--iterations", "90", "--checkpoint-every", "10")
    sweep = Sweep(tmp_path, (*vary, *METRIC, "--address", cluster[0], "--asha", "toy/noisy/train/loss"))
    done = sweep.run()
    states = {record.setting["noise"]: record.state for _, record in sweep.ended().values()}
    assert states["0.01"] == "done" and "stopped" in states.values()
    assert "stopped before its end" in done.stdout


def test_reproduce_runs_the_seeds_of_the_full_preset_side_by_side(toy, cluster, tmp_path, monkeypatch):
    """The toy's three; its report holds one criterion, over all of them; a figure, also in the summary."""
    call = [
        "import reproduce, dataclasses, pathlib, sys",
        "config = dataclasses.replace(reproduce.PRESETS['full'], only=('exp9_toy',), address=sys.argv[1],"
        " output_dir=pathlib.Path(sys.argv[2]), cache_dir=pathlib.Path(sys.argv[2]) / 'cache')",
        "raise SystemExit(reproduce.reproduce(config))",
    ]
    done = subprocess.run(
        [sys.executable, "-c", "; ".join(call), cluster[0], str(tmp_path)],
        cwd=ROOT, capture_output=True, text=True, timeout=900,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    page = (tmp_path / "report" / "index.html").read_text()
    assert page.count("the line is found") == 1 and "seeds 0, 1, 2" in page and page.count("<img") == 2
    assert load_results(tmp_path / "exp9_toy" / "results" / "pooled")["seeds"] == [0, 1, 2]
    assert "exp9_toy, seed 2 done in" in done.stderr and "the line is found" in done.stdout


# --- what is refused ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("args", "words"),
    [
        (["exp9_tuy"], "experiment = 'exp9_tuy': allowed: exp1_spectral_cliff"),
        (["exp9_toy", "--vary", "nois", "1"], "such as noise"),
        (["exp9_toy", "--vary", "noise", "-1"], "noise (--noise) = -1.0: allowed"),
        (["exp9_toy", "--vary", "noise", "2:1", "--search", "optuna"], "LOW < HIGH"),
        (["exp9_toy", "--iterations", "x"], "--iterations"),
        (["exp9_toy", "--workers", "0"], "workers (--workers) = 0"),
        (["exp9_toy", "--gpus-per-trial", "-1"], "gpus_per_trial (--gpus-per-trial) = -1.0"),
        (["exp9_toy", "--name", "../x"], "name (--name) = '../x'"),
        (["exp9_toy", "--samples", "0"], "samples (--samples) = 0"),
        (["exp9_toy", "--search", "grid"], "--search"),
        (["exp9_toy", "--address", "nobody"], "address (--address) = 'nobody': allowed: auto, HOST:PORT"),
        (["exp9_toy", "--address", "127.0.0.1:9"], "none answers there"),
        (["exp9_toy", "--address", "ray://127.0.0.1:9"], "none answers there"),
        ([], "experiment"),
    ],
)
def test_bad_input_ends_with_one_line_and_code_2(toy, tmp_path, monkeypatch, args, words):
    monkeypatch.setattr(engine, "ANSWER", 0.5)
    places = ("--sweeps-dir", tmp_path / "sweeps") if args else ()
    done = run_script(ROOT / "sweep.py", *args, *places, *(METRIC if args else ()))
    said = [line for line in done.stderr.splitlines() if "have ended before" not in line]
    assert done.returncode == 2 and len(said) == 1 and words in said[0], done.stderr
    assert not list(tmp_path.glob("sweeps/*/trials/*"))


def test_a_metric_has_to_be_named_and_a_folder_to_be_a_folder(toy, tmp_path):
    done = run_script(ROOT / "sweep.py", "exp9_toy", "--vary", "noise", "1")
    assert done.returncode == 2 and "metric (--metric) = None" in done.stderr
    (tmp_path / "file").write_text("")
    for place in (tmp_path / "file", tmp_path):
        done = run_script(ROOT / "sweep.py", "exp9_toy", *METRIC, "--sweeps-dir", place, "--name", "file")
        assert done.returncode == 2 and done.stderr.count("\n") == 1 and "cannot be written to" in done.stderr


def test_the_list_of_trials_needs_no_ray(toy, monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    done = run_script(ROOT / "sweep.py", "exp9_toy", *GRID, "--list")
    assert done.returncode == 0 and len(done.stdout.splitlines()) == 12
