"""What goes wrong around a run: signals, full disks, damaged files, odd streams, folders and terminals.

Each fault is tried as its kind. Where it ends the run, that is one line on stderr and the documented code.
"""

import contextlib
import dataclasses
import io
import json
import os
import random
import resource
import shutil
import signal
import subprocess
import sys
import threading
import time
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import pytest
import torch

import reproduce
from common.config import Exp1Config
from common.report.html import Finished, read_finished, render_html
from common.run import results as results_module
from common.run import run as run_module
from common.run.cache import Checkpoint, reads_settings, seal, unseal
from common.run.command_line import ConfigError, DataError, parse_command_line
from common.run.files import FolderInUse, locked, remove_litter, write_atomically
from common.run.memory import memory_of_the_machine, require_memory
from common.run.results import checksum, load_results, provenance
from common.run.run import Run
from common.run.signals import Terminated, stoppable
from common.training.ensembles import EnsembleMLP
from exp1_spectral_cliff.run_experiment import EXPERIMENT as EXP1
from exp2_funnel_heatmap.run_experiment import EXPERIMENT as EXP2
from exp3_planning_efficiency.run_experiment import EXPERIMENT as EXP3
from exp4_contrastive_fix.run_experiment import EXPERIMENT as EXP4
from tests.experiment_runs import (
    ROOT,
    TinyRun,
    assert_same_results,
    measured,
    metrics_of,
    run_script,
    same_threads,
    start_interruptible,
    trained,
)

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="signals and limits of Unix")

TINY = (
    "--systems", "linear", "--horizons", "4", "8", "--num-trajectories", "4", "--trajectory-length", "40",
    "--num-jacobian-states", "4", "--num-error-states", "4", "--iterations", "12", "--hidden-dim", "8",
    "--d-latent", "4", "--batch-size", "16", "--coarse-stride", "2", "--cascade-stride", "4",
    "--macro-rollouts", "1", "2", "--checkpoint-every", "5", "--device", "cpu",
)  # fmt: skip
RUN = TinyRun("exp1_spectral_cliff", TINY, frozenset())
SCRIPT = RUN.folder / "run_experiment.py"


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A finished run of seconds."""
    folder = tmp_path_factory.mktemp("finished")
    RUN(folder)
    return folder


@pytest.fixture
def copied(finished, tmp_path):
    """The same in a folder that a test may damage."""
    return shutil.copytree(finished, tmp_path / "run")


def last_line(done):
    return done.stderr.strip().splitlines()[-1]


def assert_one_line(done, *words):
    """What ended the run stands in one line at the end of stderr."""
    assert "Traceback" not in done.stderr
    said = [line for line in done.stderr.splitlines() if "error: " in line]
    assert said == [last_line(done)], done.stderr
    assert all(word in said[0] for word in words), said


# --- signals (F3, F6) -----------------------------------------------------------------------------

CHILD = """
import signal, sys, time
from pathlib import Path
signal.signal(signal.SIGTERM, lambda *_: (Path(sys.argv[1]).write_text("told"), sys.exit(143)))
Path(sys.argv[1]).write_text("started")
time.sleep(600)
"""


@pytest.mark.parametrize(
    ("number", "raised"), [(signal.SIGINT, KeyboardInterrupt), (signal.SIGTERM, Terminated)]
)
def test_a_signal_to_reproduce_ends_its_experiment_too(tmp_path, monkeypatch, number, raised):
    said = tmp_path / "said"
    command = [sys.executable, "-c", CHILD, str(said)]
    monkeypatch.setattr(reproduce, "command_of", lambda experiment, config: command)

    def strike():
        while not said.exists() or said.read_text() != "started":
            time.sleep(0.01)
        os.kill(os.getpid(), number)

    before = [signal.getsignal(each) for each in (signal.SIGINT, signal.SIGTERM)]
    striker = threading.Thread(target=strike)
    striker.start()
    with pytest.raises(raised), stoppable():
        reproduce.run_one("exp1_spectral_cliff", reproduce.PRESETS["quick"])
    striker.join()
    assert said.read_text() == "told"
    assert [signal.getsignal(each) for each in (signal.SIGINT, signal.SIGTERM)] == before


def test_sigterm_to_reproduce_is_one_line_and_leaves_no_orphan(tmp_path):
    """As a process, with a real experiment under way: whoever still wrote there would hold the lock."""
    flags = ("--output-dir", tmp_path, "--cache-dir", tmp_path / "cache", "--checkpoint-every", "1")
    command = [
        sys.executable,
        ROOT / "reproduce.py",
        "--only",
        "exp1_spectral_cliff",
        "--device",
        "cpu",
        *flags,
    ]
    process = start_interruptible(list(map(str, command)))
    try:
        while process.poll() is None and not list(tmp_path.glob("cache/*/*.pt")):
            time.sleep(0.05)
        process.terminate()
        _, stderr = process.communicate(timeout=120)
    finally:
        process.kill()
    assert process.returncode == 143 and "Traceback" not in stderr
    said = [line for line in stderr.splitlines() if line.startswith("terminated: ")]
    assert said == ["terminated: the same command goes on from the last checkpoint"]
    with locked(tmp_path / "exp1_spectral_cliff" / "results"):
        pass


INT, TERM = (signal.SIGINT, 130), (signal.SIGTERM, 143)


@pytest.mark.parametrize(
    ("moment", "told"),
    [
        ("save_results", INT), ("save_results", TERM), ("save_figure", INT), ("save_figure", TERM),
        ("evaluate", INT), ("format_table", TERM), ("load_arrays", INT),
    ],
)  # fmt: skip
def test_an_interrupt_while_saving_or_drawing_is_one_line(copied, monkeypatch, moment, told):
    number, code = told
    real, calls = getattr(run_module, moment), []

    def interrupted(*args, **kwargs):
        if not calls:
            calls.append(moment)
            signal.raise_signal(number)
        return real(*args, **kwargs)

    monkeypatch.setattr(run_module, moment, interrupted)
    done = RUN(copied, code=code, rendered=True)
    assert calls and "Traceback" not in done.stderr
    word = "interrupted" if number == signal.SIGINT else "terminated"
    assert last_line(done) == f"{word}: the same command goes on from the last checkpoint"
    monkeypatch.undo()
    assert not trained(RUN(copied)), "which it does"


def test_what_an_interrupted_run_says_is_true(copied, monkeypatch):
    def interrupted(*args, **kwargs):
        raise KeyboardInterrupt

    monkeypatch.setattr(run_module, "save_figure", interrupted)
    begun_anew = RUN(copied, "--fresh", code=130, rendered=True)
    assert "the same command without --fresh goes on" in begun_anew.stderr
    replotted = RUN(copied, "--replot", code=130, rendered=True)
    assert last_line(replotted) == "interrupted: the same command draws the figures anew"
    monkeypatch.undo()
    assert not trained(RUN(copied)), "without --fresh it goes on"


def test_a_signal_that_is_ignored_stays_ignored():
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        with stoppable():
            signal.raise_signal(signal.SIGINT)
    finally:
        signal.signal(signal.SIGINT, before)


# --- disks and folders (F4, F5) -------------------------------------------------------------------


@contextlib.contextmanager
def full_disk(size):
    """No file may grow beyond so many bytes."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


@pytest.mark.parametrize("part", ["checkpoint", "results", "figure"])
def test_a_full_disk_is_one_line_and_loses_nothing(finished, tmp_path, part):
    """At the first file, at results.json, at a figure: what was there is still there, and nothing is half."""
    kept = {"checkpoint": (), "results": ("checkpoints",), "figure": ("checkpoints", "results")}[part]
    for folder in kept:
        shutil.copytree(finished / folder, tmp_path / folder)
    with full_disk(1000):
        done = RUN(tmp_path, *(["--replot"] if part == "figure" else []), code=1, rendered=True)
    assert_one_line(done, str(tmp_path), "File too large")
    assert not [path for path in tmp_path.rglob("*") if path.name.endswith(".tmp")]
    assert (tmp_path / "results" / "results.json").exists() == (part == "figure")
    RUN(tmp_path)
    assert_same_results(tmp_path, finished)


@pytest.mark.parametrize("part", ["results", "plots", "checkpoints", ""])
def test_a_file_where_a_folder_should_be_is_found_before_the_work(tmp_path, part):
    output = tmp_path / "out"
    if part:
        output.mkdir()
    (output / part).write_text("in the way")
    done = RUN(output, code=2)
    assert_one_line(done, str(output / part))
    assert len(done.stderr.splitlines()) == 1, "nothing was trained"


@pytest.mark.parametrize("part", ["results/results.json", "results/arrays.npz", "checkpoint", "figure"])
def test_a_folder_at_a_files_path_is_one_line(finished, tmp_path, part):
    names = {
        "checkpoint": next((finished / "checkpoints").glob("linear-flat-*.pt")).relative_to(finished),
        "figure": next((finished / "plots").glob("*.png")).relative_to(finished),
    }
    in_the_way = tmp_path / names.get(part, part)
    in_the_way.mkdir(parents=True)
    done = RUN(tmp_path, code=2 if part.startswith("results") else 1, rendered=part == "figure")
    assert_one_line(done, str(in_the_way))
    if part != "figure":  # a figure's name is known when it is drawn, after the results are saved
        assert not measured(done)


def test_litter_of_killed_writers_is_removed_and_that_of_others_kept(tmp_path):
    gone = subprocess.Popen([sys.executable, "-c", ""])
    gone.wait()
    here, old = os.uname().nodename, time.time() - 48 * 3600
    dead, alive = (
        tmp_path / f".a.pt.{here}-{gone.pid}.x1.tmp",
        tmp_path / f".a.pt.{here}-{os.getpid()}.x2.tmp",
    )
    elsewhere, forgotten = tmp_path / ".b.pt.elsewhere-1.x3.tmp", tmp_path / ".b.pt.elsewhere-1.x4.tmp"
    kept = [tmp_path / "a.pt", tmp_path / "notes.tmp", alive, elsewhere]
    for path in (*kept, dead, forgotten):
        path.write_text("half")
    os.utime(forgotten, (old, old))
    remove_litter(tmp_path)
    assert sorted(tmp_path.iterdir()) == sorted(kept)


def test_a_write_names_its_writer_so_that_its_litter_is_known(tmp_path):
    seen = []
    write_atomically(tmp_path / "a.pt", lambda file: seen.extend(tmp_path.glob(".*.tmp")))
    (name,) = [path.name for path in seen]
    assert f"{os.uname().nodename}-{os.getpid()}" in name and name.startswith(".a.pt.")


# --- sizes (F4) -----------------------------------------------------------------------------------

EXPERIMENTS = (EXP1, EXP2, EXP3, EXP4)


@pytest.mark.parametrize("experiment", EXPERIMENTS, ids=lambda experiment: experiment.name)
def test_a_size_that_cannot_fit_is_refused_by_its_name(experiment):
    for preset in experiment.presets.values():
        needed = experiment.memory(preset)
        assert all(0 <= size < 4e9 for size in needed.values()), "presets fit a laptop"
        for name in needed:
            value = getattr(preset, name)
            if isinstance(value, tuple):
                continue
            huge = dataclasses.replace(preset, train_map=True) if hasattr(preset, "train_map") else preset
            huge = dataclasses.replace(huge, **{name: 10**13})
            with pytest.raises(ConfigError, match=rf"{name} .* = 10000000000000: allowed: what fits .*B of"):
                require_memory(experiment.memory(huge), huge)


@pytest.mark.parametrize(
    ("experiment", "args", "words"),
    [
        (EXP1, ["--batch-size", "1000000000000"], "--batch-size"),
        (EXP1, ["--num-problems", "100000000000"], "--num-problems"),
        (EXP1, ["--hidden-dim", "10000000"], "--hidden-dim"),
        (EXP2, ["--grid-size", "1000000"], "--grid-size"),
        (EXP3, ["--num-walks", "100000000000"], "--num-walks"),
        (EXP3, ["--evaluations-per-step", "1000000000000"], "--evaluations-per-step"),
        (EXP4, ["--batch-size", "1000000000000"], "--batch-size"),
    ],
)
def test_impossible_sizes_are_one_line_before_anything_is_written(tmp_path, experiment, args, words):
    TinyRun(experiment.name, (), frozenset()).assert_refused(tmp_path / "new", args, words)


def test_the_machines_memory_is_known():
    assert memory_of_the_machine() > 1e8


@pytest.mark.parametrize(
    "error", [MemoryError("x"), RuntimeError("[enforce fail] can't allocate memory: 9 TB\nat")]
)
def test_memory_that_runs_out_after_all_is_one_line(copied, monkeypatch, error):
    def fail(*args, **kwargs):
        raise error

    monkeypatch.setattr(run_module, "save_results", fail)
    assert_one_line(RUN(copied, code=1), "out of memory", "--batch-size")


# --- checkpoints (F1, F7) -------------------------------------------------------------------------


def damaged(whole, trial, rng):
    """A file cut, with a bit flipped, with zeros in it, or with another byte in its pickle."""
    data, kind = bytearray(whole), trial % 4
    if kind == 0:
        return bytes(data[: rng.randrange(len(data))])
    at = rng.randrange(len(data))
    if kind == 1:
        data[at] ^= 1 << rng.randrange(8)
    elif kind == 2:
        data[at : at + 64] = bytes(len(data[at : at + 64]))
    else:
        at = whole.find(b"data.pkl") + rng.randrange(900)
        data[at] = rng.randrange(256)
    return bytes(data)


def test_no_damage_crashes_or_is_loaded(tmp_path, caplog):
    net = EnsembleMLP([0, 1], [2, 4, 1], "x")
    optimizer = torch.optim.Adam(net.parameters(), fused=True)
    net(torch.zeros(2, 3, 2)).sum().backward()
    optimizer.step()
    checkpoint = Checkpoint(tmp_path / "a.pt", "f" * 64)
    checkpoint.save({
        "module": net.state_dict(), "optimizer": optimizer.state_dict(),
        "draws": [torch.Generator().get_state()], "history": {"iteration": [1, 2]}, "iteration": 2,
    })  # fmt: skip
    whole, rng = checkpoint.path.read_bytes(), random.Random(0)
    wanted, refused = flattened(checkpoint.load()), 0
    for trial in range(1500):
        checkpoint.path.write_bytes(damaged(whole, trial, rng))
        found = checkpoint.load()
        refused += found is None
        assert found is None or flattened(found) == wanted, f"trial {trial}: loaded with other contents"
    assert refused > 1000
    assert all("weights_only" not in record.message for record in caplog.records)
    assert all("\n" not in record.message for record in caplog.records)


def flattened(state):
    """Nested state as a comparable text of every number in it."""
    if isinstance(state, torch.Tensor):
        return f"{state.dtype}{state.tolist()}"
    if isinstance(state, dict):
        return str([(key, flattened(value)) for key, value in state.items()])
    return str([flattened(value) for value in state]) if isinstance(state, (list, tuple)) else repr(state)


FOREIGN = {
    "a tensor": torch.ones(3),
    "a list": [1, 2],
    "no payload": {"fingerprint": None},
    "another fingerprint": {"fingerprint": "x", "payload": {}},
    "a tensor for a payload": {"fingerprint": None, "payload": torch.ones(3)},
    "an empty payload": {"fingerprint": None, "payload": {}},
    "a payload of another kind": {
        "fingerprint": None,
        "payload": {"arrays": 3, "seconds": "much", "module": 1},
    },
    "arrays that are none": {"fingerprint": None, "payload": {"arrays": {"a": 1}, "seconds": 1.0}},
}


def _opened(path):
    return torch.load(io.BytesIO(unseal(path.read_bytes())), weights_only=True)


def _put(path, content):
    """Any content under a checksum that is right."""
    packed = io.BytesIO()
    torch.save(content, packed)
    path.write_bytes(seal(packed.getvalue()))


def test_foreign_checkpoints_are_begun_anew(finished, copied):
    """Every file of the cache replaced, each by another stranger under the right name and fingerprint."""
    kinds = list(FOREIGN.values())
    paths = sorted((copied / "checkpoints").glob("*.pt"))
    assert len(paths) >= 5
    for shift in range(2):
        for number, path in enumerate(sorted((finished / "checkpoints").glob("*.pt"))):
            mark = _opened(path)["fingerprint"]
            content = kinds[(number + 4 * shift) % len(kinds)]
            if isinstance(content, dict) and content["fingerprint"] is None:
                content = content | {"fingerprint": mark}
            _put(copied / "checkpoints" / path.name, content)
        done = RUN(copied)
        assert "starting anew" in done.stderr and trained(done) and measured(done)
        assert_same_results(copied, finished)


def test_a_training_of_another_shape_or_a_pipe_is_begun_anew(finished, copied):
    """A right fingerprint over state of another size, and a FIFO that nobody writes to."""
    states = sorted((copied / "checkpoints").glob("linear-*flat*.pt")) or sorted(
        (copied / "checkpoints").glob("*.pt")
    )
    content = _opened(states[0])
    weights = content["payload"]["module"]
    content["payload"]["module"] = {name: value[..., :1].clone() for name, value in weights.items()}
    _put(states[0], content)
    pipe = next(path for path in sorted((copied / "checkpoints").glob("*.pt")) if path != states[0])
    pipe.unlink()
    os.mkfifo(pipe)
    RUN(copied)
    assert pipe.is_file()
    assert_same_results(copied, finished)


# --- saved results (F8, F15) ----------------------------------------------------------------------


def signed(content):
    """The content with the checksum that belongs to it, as another program might have written it."""
    return content | {"checksums": {"results.json": checksum(content)}}


def set_at(content, *path_and_value):
    *path, name, value = path_and_value
    part = content
    for key in path:
        part = part[key]
    if value is ...:
        del part[name]
    else:
        part[name] = value


def first_metric(content):
    return next(iter(content["metrics"]))


EDITS = {
    "text for a mean": lambda c: set_at(c, "metrics", first_metric(c), "mean", "<b>much</b>"),
    "a metric without values": lambda c: set_at(c, "metrics", first_metric(c), {"unit": "1"}),
    "text among the values": lambda c: set_at(c, "metrics", first_metric(c), "values", ["1"]),
    "an interval of texts": lambda c: set_at(c, "metrics", first_metric(c), "interval95", ["0", "1"]),
    "no criteria": lambda c: set_at(c, "criteria", ...),
    "a criterion without its claim": lambda c: set_at(c, "criteria", 0, "claim", ...),
    "a number for a tier": lambda c: set_at(c, "criteria", 0, "tier", 3),
    "an unknown tier": lambda c: set_at(c, "criteria", 0, "tier", "weak"),
    "text for what was measured": lambda c: set_at(c, "criteria", 0, "measured", "<i>"),
    "text for a verdict": lambda c: set_at(c, "criteria", 0, "passed", "yes"),
    "criteria as a mapping": lambda c: set_at(c, "criteria", {}),
    "texts for seeds": lambda c: set_at(c, "seeds", ["a"]),
    "no seeds": lambda c: set_at(c, "seeds", []),
    "text for a time": lambda c: set_at(c, "timings", "phase_seconds", "long"),
    "a list for a version": lambda c: set_at(c, "provenance", "python", [1]),
    "a number for the preset": lambda c: set_at(c, "preset", 1),
    "another experiment": lambda c: set_at(c, "experiment", "exp2_funnel_heatmap"),
    "another schema": lambda c: set_at(c, "schema", 99),
    "no systems": lambda c: set_at(c, "config", {}),
    "systems that were not run": lambda c: set_at(c, "config", "systems", ["lorenz"]),
}


@pytest.mark.parametrize("edit", EDITS)
def test_replot_of_results_that_no_run_wrote_is_one_line(copied, edit):
    path = copied / "results" / "results.json"
    content = load_results(copied / "results")
    EDITS[edit](content)
    shutil.rmtree(copied / "plots")
    for text in (json.dumps(content), json.dumps(signed(content))):
        path.write_text(text)
        done = RUN(copied, "--replot", code=2)
        assert_one_line(done, str(copied / "results"))
        assert len(done.stderr.splitlines()) == 1 and len(done.stderr) < 600


@pytest.mark.parametrize(
    "data", [b"", b"{", b"\xff\xfe\x00", b"[]", b"3", b'{"schema": NaN}', b"[" * 100_000, b'{"a":' * 50_000]
)
def test_replot_of_what_is_no_results_file_is_one_line(copied, data):
    path = copied / "results" / "results.json"
    path.write_bytes(data)
    done = RUN(copied, "--replot", code=2)
    assert_one_line(done, str(path))
    with pytest.raises(ValueError, match="results"):
        read_finished("exp1_spectral_cliff", copied)


@pytest.mark.parametrize("change", ["cut", "flipped", "foreign", "absent", "text"])
def test_replot_with_other_arrays_is_one_line(copied, change):
    path = copied / "results" / "arrays.npz"
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 4
    contents = {"cut": data[:100], "flipped": data, "text": b"junk", "foreign": b"PK\x05\x06" + bytes(18)}
    if change == "absent":
        path.unlink()
    else:
        path.write_bytes(contents[change])
    assert_one_line(RUN(copied, "--replot", code=2), "arrays.npz")


MARKUP = "<b>\"bold\"</b> & 'x' \x00\x1b"


def test_no_text_of_a_results_file_is_markup_in_the_report(finished):
    """Every text field of results.json filled with markup: the page shows it and obeys none of it."""

    def marked(value):
        if isinstance(value, dict):
            return {key: marked(item) for key, item in value.items()}
        if isinstance(value, list):
            return [marked(item) for item in value]
        return MARKUP if isinstance(value, str) else value

    content = load_results(finished / "results")
    rows = [marked(row) | {"tier": row["tier"]} for row in content["criteria"]]
    content = marked(content) | {"criteria": rows}
    page = render_html([Finished(MARKUP, finished, content, [])], {MARKUP: MARKUP})
    tree = ElementTree.fromstring(page)
    assert not list(tree.iter("b"))
    assert "".join(tree.itertext()).count('<b>"bold"</b> &') > 5


# --- streams, terminals, environments (F9, F12 and the cases u01 to u08) --------------------------


def test_stdout_that_is_full_or_closed(finished):
    """The results are saved by then; what cannot be printed is one line and code 1."""
    command = f"exec {sys.executable} {SCRIPT} --replot --output-dir {finished}"
    done = subprocess.run(
        ["sh", "-c", f"{command} > /dev/full"], capture_output=True, text=True, env=same_threads()
    )
    assert done.returncode == 1 and done.stderr.count("\n") == 1 and "standard output" in done.stderr


def test_stderr_that_is_closed_in_a_notebooks_environment(finished, tmp_path):
    """No message can be seen, and all else works: the figures, and what stdout gets."""
    output = shutil.copytree(finished, tmp_path / "run")
    shutil.rmtree(output / "plots")
    command = f"exec {sys.executable} {SCRIPT} --replot --output-dir {output} 2>&-"
    backend = "module://matplotlib_inline.backend_inline"
    done = subprocess.run(
        ["sh", "-c", command], capture_output=True, text=True, env=same_threads() | {"MPLBACKEND": backend}
    )
    assert done.returncode == 0 and "Criteria (" in done.stdout
    assert sorted(path.name for path in (output / "plots").iterdir()) == sorted(
        path.name for path in (finished / "plots").iterdir()
    )


@pytest.mark.parametrize(
    ("args", "redirection", "code", "said"),
    [
        ("--help", ">&-", 0, ""),
        ("--help", "2>&-", 0, ""),
        ("--help", ">/dev/full", 1, "standard output cannot be written to"),
        ("--nonsense", ">&-", 2, "--nonsense"),
        ("--nonsense", "2>&-", 2, ""),
        ("--nonsense", "2>/dev/full", 2, ""),
    ],
)
def test_closed_and_full_streams_of_a_command_line(args, redirection, code, said):
    command = f"exec {sys.executable} {ROOT / 'reproduce.py'} {args} {redirection}"
    done = subprocess.run(["sh", "-c", command], capture_output=True, text=True)
    assert done.returncode == code and "Traceback" not in done.stderr
    assert said in done.stderr and done.stderr.count("\n") == bool(said)


def test_a_console_of_another_encoding_takes_every_path(finished, tmp_path, monkeypatch):
    """A Windows console or a redirected file (cp1252), and an output folder that it has no letters for."""
    odd = shutil.copytree(finished, tmp_path / "結果 ü [1]")
    streams = {name: io.TextIOWrapper(io.BytesIO(), encoding="cp1252") for name in ("stdout", "stderr")}
    with contextlib.redirect_stdout(streams["stdout"]), contextlib.redirect_stderr(streams["stderr"]):
        monkeypatch.setattr(sys, "argv", [str(SCRIPT), *RUN.arguments(odd)])
        from common.run.command_line import _prepare_streams

        _prepare_streams()
        config = parse_command_line(EXP1.presets, RUN.arguments(odd))
        assert run_module.main(EXP1, config) == 0
        with pytest.raises(SystemExit) as help_:
            parse_command_line(EXP1.presets, ["--help"])
        with pytest.raises(SystemExit) as bad:
            parse_command_line(EXP1.presets, ["--device", "結果"])
    assert help_.value.code == 0 and bad.value.code == 2
    streams["stdout"].flush()
    printed = streams["stdout"].buffer.getvalue().decode("cp1252")
    assert "\\u7d50\\u679c ü [1]" in printed and "--lambda-spectral" in printed


def test_a_tilde_is_the_home_folder(finished, tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    shutil.copytree(finished, tmp_path / "out")
    done = run_script(SCRIPT, *TINY, "--output-dir=~/out", "--cache-dir=~/out/checkpoints")
    assert done.returncode == 0 and not trained(done)
    assert not (tmp_path / "~").exists()
    config = parse_command_line(reproduce.PRESETS, ["--output-dir=~/all", "--cache-dir=~/cache"])
    assert reproduce.folder_of("x", config) == tmp_path / "all" / "x"
    assert str(tmp_path / "cache" / "x") in reproduce.command_of("x", config)


@pytest.mark.parametrize("how", ["through a link", "as a module"])
def test_a_repository_at_an_odd_path_runs(tmp_path, how):
    """Spaces, umlauts, brackets; by a link from another folder, or with -m. Beside it, nothing is written."""
    odd = tmp_path / "My Drive [ü] x"
    parts = ("common", "exp1_spectral_cliff")
    for part in parts:
        left = shutil.ignore_patterns("__pycache__", "results", "plots", "checkpoints")
        shutil.copytree(ROOT / part, odd / part, ignore=left)
    (tmp_path / "link").symlink_to(odd)
    call = ["-m", "exp1_spectral_cliff.run_experiment"]
    if how == "through a link":
        call = [str(tmp_path / "link" / "exp1_spectral_cliff" / "run_experiment.py")]
    folder = odd if how == "as a module" else tmp_path
    done = subprocess.run(
        [sys.executable, *call, *TINY], cwd=folder, env=same_threads(), capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    own = odd / "exp1_spectral_cliff"
    assert (own / "results" / "results.json").exists() and list((own / "checkpoints").glob("*.pt"))
    assert load_results(own / "results")["provenance"]["git_commit"] is None
    assert {path.name for path in tmp_path.iterdir()} == {odd.name, "link"}


BAD_LINES = (
    "--seeds 0,1,2", "--seeds 1e3", "--seeds -1", "--seeds 0 0", "--seeds", "--iterations 1e5",
    "--iteration 5", "--environments", "--environments Empty-8x8 Empty-8x8", "--observation RGB",
    "--preset medium", "--device cuda:1", "--learning-rate nan", "--planning-horizons 20 10", "--output-dir",
    "foo", "--seeds 99999999999999999999", "--replot --fresh", "--preset=", "--iterations=0x10",
)  # fmt: skip


@pytest.mark.parametrize("terminal", [{}, {"COLUMNS": "40"}, {"FORCE_COLOR": "1", "TERM": "dumb"}])
@pytest.mark.parametrize("line", BAD_LINES)
def test_a_bad_command_line_is_one_line_on_any_terminal(line, terminal, monkeypatch, capsys):
    for name, value in terminal.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(SystemExit) as exit_:
        parse_command_line(EXP3.presets, line.split())
    said = capsys.readouterr()
    assert exit_.value.code == 2 and said.out == ""
    assert said.err.count("\n") == 1 and "\x1b" not in said.err and 20 < len(said.err) < 700
    assert not set("│╭╰─") & set(said.err)


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("--seeds 9223372036854775808", "--seeds"),
        ("--seeds -3", "--seeds"),
        ("--seeds", "at least one value"),
        ("--seeds 1 1", "each seed once"),
        ("--only exp1_spectral_cliff exp1_spectral_cliff", "each experiment once"),
        ("--only", "at least one of exp1_spectral_cliff"),
        ("--only exp0", "exp0"),
        ("--replot --fresh", "--fresh"),
        ("--checkpoint-every 0", "--checkpoint-every"),
        ("--update-reference --seeds 1", "--update-reference"),
        ("--update-reference --replot", "--update-reference"),
        ("--presets full", "--presets"),
    ],
)
def test_reproduce_refuses_what_its_experiments_would(line, words, capsys):
    with pytest.raises(SystemExit) as exit_:
        parse_command_line(reproduce.PRESETS, line.split())
    said = capsys.readouterr()
    assert exit_.value.code == 2 and said.out == ""
    assert said.err.count("\n") == 1 and words in said.err


def test_reproduce_hands_on_what_was_asked(tmp_path):
    args = [
        "--seeds",
        "3",
        "4",
        "--device",
        "cpu",
        "--fresh",
        "--cache-dir",
        str(tmp_path),
        "--preset",
        "full",
        "--tracker",
        "wandb",
    ]
    command = reproduce.command_of("exp2_funnel_heatmap", parse_command_line(reproduce.PRESETS, args))
    config = parse_command_line(EXP2.presets, command[2:])
    assert (config.seeds, config.device, config.fresh, config.preset) == ((3, 4), "cpu", True, "full")
    assert config.tracker == "wandb"
    assert config.cache_dir == tmp_path / "exp2_funnel_heatmap"
    assert config.output_dir == ROOT / "exp2_funnel_heatmap"
    plain = parse_command_line(EXP2.presets, reproduce.command_of("exp2", reproduce.PRESETS["quick"])[2:])
    assert plain.seeds == EXP2.presets["quick"].seeds and plain.cache_dir is None


def test_another_repositorys_commit_is_not_ours(tmp_path, monkeypatch):
    """A copy unpacked inside a foreign git repository, and a machine without git: unknown, not clean."""
    git = ["git", "-c", "user.name=t", "-c", "user.email=t@e"]
    subprocess.run([*git, "init", "-q"], cwd=tmp_path, check=True)
    subprocess.run([*git, "commit", "-q", "--allow-empty", "-m", "x"], cwd=tmp_path, check=True)
    (tmp_path / "helm").mkdir()
    monkeypatch.setattr(results_module, "ROOT", tmp_path / "helm")
    origin = provenance(torch.device("cpu"))
    assert origin["git_commit"] is None and origin["git_dirty"] is None
    monkeypatch.setattr(results_module, "ROOT", tmp_path)
    assert len(provenance(torch.device("cpu"))["git_commit"]) == 40
    monkeypatch.setenv("PATH", "")
    origin = provenance(torch.device("cpu"))
    assert origin["git_commit"] is None and origin["git_dirty"] is None


# --- the least of everything (u07), divergence (F12) ----------------------------------------------

LARGEST_SEED = str(2**63 - 1)
LEAST = {
    "exp1_spectral_cliff": (
        "--systems linear lorenz --horizons 1 --num-trajectories 1 --trajectory-length 40 "
        "--num-jacobian-states 1 --num-error-states 2 --iterations 1 --hidden-dim 1 --d-latent 1 "
        "--batch-size 1 --coarse-stride 1 --cascade-stride 1 --macro-rollouts 1 --mollified-samples 4 "
        "--gradient-horizons 1 --planning-horizons 1 --num-problems 1 --gd-steps 1 --replans 1 "
        "--evaluation-sweep 6 --replan-sweep 1"
    ),
    "exp2_funnel_heatmap": (
        "--iterations 1 --random-iterations 1 --function-iterations 1 --hidden-dim 2 --batch-size 1 "
        "--grid-size 2 --descent-steps 1 --plan-evaluations 400 --budget-sweep 400 --smooth-steps 1 "
        "--smooth-starts 1 --polish-steps 1 --hop-rounds 1 --smoothing-steps 1 --smoothing-starts 1 "
        "--plan-grid 2 --num-landscapes 1 --functions ackley --function-starts 1 --cma-starts 1 "
        "--map-lambdas 1 --map-sigmas 0.1"
    ),
    "exp3_planning_efficiency": (
        "--environments Empty-5x5 --num-walks 30 --walk-length 8 --iterations 1 --hidden-dim 1 --d-latent 2 "
        "--batch-size 2 --rollout-steps 1 --coarse-stride 2 --planning-horizons 1 --study-horizon 1 "
        "--evaluations-per-step 16 --budget-sweep 16 --stride-sweep 2 --replan-horizon 1 --replan-execute 1 "
        "--num-episodes 2 --gd-steps 1"
    ),
    "exp4_contrastive_fix": (
        "--environments Empty-5x5 --num-walks 30 --walk-length 8 --iterations 1 --hidden-dim 1 --d-latent 2 "
        "--batch-size 2 --rollout-steps 1 --coarse-stride 2 --planning-horizons 1 --pillar-horizons 1 "
        "--evaluations-per-step 16 --replan-horizon 1 --replan-execute 1 --num-episodes 2 --gd-steps 1 "
        "--pillar-objectives infonce --objective-environments 0"
    ),
}


@pytest.mark.filterwarnings("default:constrained_layout not applied")  # one horizon leaves no room to a panel
@pytest.mark.parametrize("experiment", LEAST)
def test_one_of_everything_runs_to_the_end(tmp_path, experiment):
    flags = (*LEAST[experiment].split(), "--seeds", LARGEST_SEED, "--device", "cpu")
    TinyRun(experiment, flags, frozenset())(tmp_path, rendered=True)
    assert load_results(tmp_path / "results")["seeds"] == [2**63 - 1] and list((tmp_path / "plots").iterdir())


@pytest.mark.parametrize("experiment", LEAST)
@pytest.mark.parametrize("rate", ["1e6", "1e30"])
def test_a_diverging_training_names_the_setting(tmp_path, experiment, rate):
    """It may end in numbers that are not finite or in losses far above the first: never without a word."""
    flags = (*LEAST[experiment].split(), "--iterations", "30", "--device", "cpu", "--learning-rate", rate)
    run = TinyRun(experiment, flags, frozenset())
    script = "train_flat.py" if experiment.startswith(("exp3", "exp4")) else "run_experiment.py"
    done = run_script(run.folder / script, *run.arguments(tmp_path))
    assert done.returncode in (0, 1) and "Traceback" not in done.stderr
    assert "--learning-rate" in done.stderr
    if done.returncode:
        assert_one_line(done, "--learning-rate", "not finite")


# --- two runs, two configurations (F10) -----------------------------------------------------------


def test_one_run_at_a_time_holds_a_folder(copied):
    before = metrics_of(copied)
    with locked(copied / "results"):
        done = RUN(copied, "--iterations", "13", code=2)
        assert_one_line(done, "another run is writing", str(copied / "results"))
        assert not trained(done) and metrics_of(copied) == before
        with pytest.raises(FolderInUse), locked(copied / "results"):
            pass
    RUN(copied, "--iterations", "13")


def test_the_lock_of_a_killed_run_is_free(tmp_path):
    code = (
        f"import sys, os; sys.path.insert(0, {str(ROOT)!r})\n"
        "from pathlib import Path\nfrom common.run.files import locked\n"
        f"with locked(Path({str(tmp_path)!r})):\n    print('held', flush=True)\n    os.kill(os.getpid(), 9)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stdout == "held\n" and done.returncode == -signal.SIGKILL
    with locked(tmp_path):
        pass


def tiny_config(output, **changes):
    args = RUN.arguments(output)
    return dataclasses.replace(parse_command_line(EXP1.presets, args), **changes)


@pytest.mark.parametrize("moves", range(5))
def test_setting_earlier_results_aside_goes_on_after_an_interrupt(copied, monkeypatch, moves):
    """Interrupted before the n-th move: the next run puts the rest beside it, in one folder, nothing lost."""
    files = {
        path.name: path.read_bytes()
        for part in ("results", "plots")
        for path in (copied / part).iterdir()
        if path.is_file() and not path.name.startswith(".")
    }
    assert len(files) >= 4
    real, done = shutil.move, []

    def interrupted(*args):
        if len(done) == moves:
            raise KeyboardInterrupt
        done.append(args)
        return real(*args)

    config = tiny_config(copied, iterations=99)
    monkeypatch.setattr(run_module.shutil, "move", interrupted)
    if moves < len(files):
        with pytest.raises(KeyboardInterrupt):
            Run(EXP1, config).set_earlier_results_aside()
    monkeypatch.undo()
    Run(EXP1, config).set_earlier_results_aside()
    (aside,) = (copied / "results").glob("earlier-*")
    assert {path.name: path.read_bytes() for path in aside.iterdir()} == files
    assert not list((copied / "plots").iterdir())


def test_results_set_aside_twice_are_in_two_folders(copied, finished):
    """Two earlier configurations whose files bear the same second."""
    path = copied / "results" / "results.json"
    stamp = path.stat().st_mtime
    Run(EXP1, tiny_config(copied, iterations=98)).set_earlier_results_aside()
    shutil.copyfile(finished / "results" / "results.json", path)
    os.utime(path, (stamp, stamp))
    Run(EXP1, tiny_config(copied, iterations=99)).set_earlier_results_aside()
    assert len(list((copied / "results").glob("earlier-*/results.json"))) == 2


@reads_settings("gd_steps")
def steps_of(offset, *, config, device):
    return {"steps": torch.tensor([config.gd_steps + offset])}


def test_a_name_measured_under_another_setting_is_another_measurement(tmp_path):
    """Within `having` the same name and inputs give the changed setting's result; after it, the old one's."""
    found = []

    def compute(run):
        found.append(run.measure(steps_of, "steps", 1)["steps"].item())
        with run.having(gd_steps=7):
            found.append(run.measure(steps_of, "steps", 1)["steps"].item())
            found.append(run.measure(steps_of, "steps", 2)["steps"].item())
        found.append(run.measure(steps_of, "steps", 1)["steps"].item())

    own = dataclasses.replace(EXP1, folder=Path(__file__).parent, compute=compute, criteria=())
    config = Exp1Config(gd_steps=50, output_dir=tmp_path, cache_dir=tmp_path / "cache", device="cpu")
    own.execute(config)
    own.execute(config)  # now from the cache
    assert found == [51, 8, 9, 51] * 2


# --- bad input and faults of ours -----------------------------------------------------------------


@reads_settings("gd_steps")
def read_folder(folder, *, config, device):
    if folder == "damaged":
        raise DataError("train.npy is not an array")
    raise ValueError("not enough values to unpack")


def run_that(compute, folder, **parts):
    """main() of an experiment that computes this."""
    own = dataclasses.replace(EXP1, folder=folder, compute=compute, criteria=(), draw=None, **parts)
    output = folder / "out"
    return run_module.main(own, Exp1Config(output_dir=output, cache_dir=output / "cache", device="cpu"))


def test_a_value_error_in_a_step_is_a_fault_and_shows_where(tmp_path):
    with pytest.raises(ValueError, match="unpack"):
        run_that(lambda run: run.measure(read_folder, "read", "whole"), tmp_path)


def test_a_value_error_between_two_steps_is_a_fault(tmp_path):
    def compute(run):
        run.measure(steps_of, "steps", 1)
        run.results.add("steps", [1.0, 2.0])

    with pytest.raises(ValueError, match="2 values for 1 seeds"):
        run_that(compute, tmp_path)


def refuse(*_):
    raise ValueError("environments: none has a goal")


@pytest.mark.parametrize(
    ("compute", "parts", "words"),
    [
        (lambda run: run.measure(read_folder, "read", "damaged"), {}, "train.npy is not an array"),
        (refuse, {}, "none has a goal"),
        (lambda run: None, {"check": refuse}, "none has a goal"),
    ],
)
def test_what_a_user_can_mend_is_one_line(tmp_path, capsys, compute, parts, words):
    assert run_that(compute, tmp_path, **parts) == 2
    said = [line for line in capsys.readouterr().err.splitlines() if "error:" in line]
    assert len(said) == 1 and words in said[0]
