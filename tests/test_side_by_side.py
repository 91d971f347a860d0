"""Cached steps in forked processes: results as in one process, the first error, an end with the parent."""

import os
import signal
import subprocess
import sys
import textwrap
import time
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from common.config import EXP1_PRESETS
from common.run import side_by_side
from common.run.files import ROOT, FolderInUse, let_go_of_locks, locked
from common.run.side_by_side import map_side_by_side
from exp1_spectral_cliff.run_experiment import execute

CPU = torch.device("cpu")
linux_only = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="elsewhere threads it is")
TINY = replace(
    EXP1_PRESETS["quick"], parts=("cliff",), systems=("lorenz",), horizons=(4, 8), num_trajectories=4,
    trajectory_length=60, num_jacobian_states=3, num_error_states=3, iterations=20, hidden_dim=8,
    d_latent=4, batch_size=8,
    coarse_stride=2, cascade_stride=4, macro_rollouts=(1, 2), mollified_samples=8, gradient_horizons=(5,),
    planning_horizons=(6,), num_problems=2, gd_steps=2, replans=2,
)  # fmt: skip


@pytest.fixture
def two_cores():
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


def kept_in(folder):
    """A function that leaves its result in a file, and where it was computed."""

    def function(item):
        path = Path(folder) / str(item)
        if not path.exists():
            path.write_text(str(os.getpid()))
        return item * 10, int(path.read_text())

    return function


@linux_only
def test_it_is_done_elsewhere_and_found_here(tmp_path, two_cores):
    found = map_side_by_side(kept_in(tmp_path), range(5), CPU)
    assert [result for result, _ in found] == [0, 10, 20, 30, 40]
    places = {place for _, place in found}
    assert os.getpid() not in places and 1 <= len(places) <= 2


@pytest.mark.parametrize("fork", [True, False])
def test_an_error_of_one_ends_the_others_soon(tmp_path, two_cores, monkeypatch, fork):
    monkeypatch.setattr(side_by_side, "_can_fork", lambda: fork and sys.platform.startswith("linux"))
    from common.run.progress import Progress

    def function(item):
        if item == 1:
            raise OSError(28, "No space left on device", "a file")
        progress = Progress(10_000, "long")
        while progress.done < 10_000:
            progress.update()
            time.sleep(0.01)

    began = time.monotonic()
    with pytest.raises(OSError, match=r"No space left on device: 'a file'"):
        map_side_by_side(function, range(2), CPU)
    assert time.monotonic() - began < 30
    assert torch.get_num_threads() == 2


class Unsendable(Exception):
    """Pickles, and does not come back."""

    def __init__(self, one, two):
        super().__init__(f"{one} and {two}")


@linux_only
def test_an_error_that_cannot_be_sent_is_told_by_its_text(tmp_path, two_cores):
    def function(item):
        raise Unsendable("this", item)

    with pytest.raises(RuntimeError, match="Unsendable: this and"):
        map_side_by_side(function, range(2), CPU)


@linux_only
def test_a_worker_that_is_ended_is_an_error_with_its_exit_code(two_cores):
    with pytest.raises(RuntimeError, match=r"exit code \[7\]"):
        map_side_by_side(lambda item: os._exit(7), range(2), CPU)
    with pytest.raises(MemoryError):
        map_side_by_side(lambda item: os.kill(os.getpid(), signal.SIGKILL), range(2), CPU)


@linux_only
def test_workers_have_one_thread_each_whatever_the_parent_used(tmp_path, monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "4")
    before = torch.get_num_threads()
    torch.set_num_threads(4)
    try:
        torch.randn(2000, 2000) @ torch.randn(2000, 2000)  # opens the parent's pool of threads

        def function(item):
            path = tmp_path / str(item)
            if not path.exists():
                large = torch.randn(1500, 1500)
                path.write_text(f"{torch.get_num_threads()} {float((large @ large).isfinite().all())}")
            return path.read_text()

        assert map_side_by_side(function, range(2), CPU) == ["1 1.0", "1 1.0"]
    finally:
        torch.set_num_threads(before)


def test_two_workers_at_most_where_nobody_says_otherwise(monkeypatch):
    before = torch.get_num_threads()
    torch.set_num_threads(4)
    try:
        monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
        assert side_by_side.worker_count(9, CPU) == 2
        monkeypatch.setenv("OMP_NUM_THREADS", "4")
        assert side_by_side.worker_count(9, CPU) == 4
        assert side_by_side.worker_count(9, torch.device("cuda")) == 1
    finally:
        torch.set_num_threads(before)


def test_one_thread_or_one_item_stays_here(tmp_path):
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        assert {place for _, place in map_side_by_side(kept_in(tmp_path), range(3), CPU)} == {os.getpid()}
    finally:
        torch.set_num_threads(before)


@linux_only
def test_an_experiment_is_the_same_to_the_bit_however_it_is_divided(tmp_path, two_cores, monkeypatch):
    def run(name):
        return execute(replace(TINY, output_dir=tmp_path / name, cache_dir=tmp_path / name)).metrics

    forked = run("forked")
    monkeypatch.setattr(side_by_side, "_can_fork", lambda: False)
    assert run("threads") == forked


@linux_only
def test_only_what_is_missing_goes_to_workers(tmp_path, two_cores, monkeypatch):
    """Of trainings as of measurements; what is finished is loaded here."""
    sent, real = [], side_by_side._in_processes

    def in_processes(function, items, *rest):
        sent.append(len(items))
        return real(function, items, *rest)

    monkeypatch.setattr(side_by_side, "_in_processes", in_processes)
    config = replace(TINY, output_dir=tmp_path, cache_dir=tmp_path / "cache")
    first = execute(config).metrics
    variants = sent[0]
    assert variants > 3 and len(sent) > 1
    sent.clear()
    assert execute(config).metrics == first and sent == []
    for name in ("flat", "helm"):
        (path,) = (tmp_path / "cache").glob(f"lorenz-{name}-??????????.pt")
        path.unlink()
    assert execute(config).metrics == first and sent == [2]


@linux_only
def test_workers_end_with_a_parent_that_was_killed(tmp_path):
    """And its lock is free then."""
    code = textwrap.dedent("""
        import os, sys, time
        sys.path.insert(0, sys.argv[1])
        from pathlib import Path
        import torch
        from common.run.files import locked
        from common.run.progress import Progress
        from common.run.side_by_side import map_side_by_side

        torch.set_num_threads(2)
        folder = Path(sys.argv[2])

        def function(item):
            (folder / f"worker-{os.getpid()}").touch()
            progress = Progress(10**9, "endless")
            while True:
                progress.update()
                time.sleep(0.01)

        with locked(folder):
            map_side_by_side(function, range(2), torch.device("cpu"))
    """)
    parent = subprocess.Popen(
        [sys.executable, "-c", code, str(ROOT), str(tmp_path)], stderr=subprocess.DEVNULL
    )
    try:
        workers = []
        while len(workers) < 2:
            assert parent.poll() is None
            workers = [int(path.name.partition("-")[2]) for path in tmp_path.glob("worker-*")]
            time.sleep(0.05)
    finally:
        parent.send_signal(signal.SIGKILL)
        parent.wait()
    with locked(tmp_path):
        pass
    for _ in range(400):
        alive = [worker for worker in workers if _runs(worker)]
        if not alive:
            return
        time.sleep(0.05)
    raise AssertionError(f"still running: {alive}")


def _runs(process):
    """Whether a process works; one that nobody waited for does not."""
    try:
        state = Path(f"/proc/{process}/stat").read_text().rpartition(") ")[2]
    except (FileNotFoundError, ProcessLookupError):
        return False
    return not state.startswith("Z")


def test_a_lock_is_let_go_of_for_the_parent_alone(tmp_path):
    with locked(tmp_path):
        if (child := os.fork() if hasattr(os, "fork") else 0) == 0 and hasattr(os, "fork"):
            let_go_of_locks()
            os._exit(0)
        if child:
            os.waitpid(child, 0)
        with pytest.raises(FolderInUse), locked(tmp_path):
            pass
