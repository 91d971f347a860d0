"""One trial of a sweep, without Ray: its record, what counts as ended, what trials with one cache share."""

import importlib
import logging
import multiprocessing
import sys
import threading
from dataclasses import replace

import pytest

from common.run.cache import Checkpoint
from common.run.files import ROOT, is_taken, taken
from common.sweeps.plan import make_plan
from common.sweeps.tasks import TaskMaker
from common.sweeps.trial import DONE, FAILED, do_trial, ended, load_record
from tests.experiment_runs import assert_same_results
from tests.toy_experiment import write_toy

linux_only = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="forks")


@pytest.fixture
def toy(tmp_path, monkeypatch):
    """The toy experiment."""
    write_toy(tmp_path)
    monkeypatch.setenv("HELM_ROOT", str(ROOT))
    monkeypatch.syspath_prepend(str(tmp_path))
    yield importlib.import_module("exp9_toy.run_experiment").EXPERIMENT
    for name in [name for name in sys.modules if name.startswith("exp9_toy")]:
        del sys.modules[name]


def tasks_of(toy, place, *vary, flags=()):
    plan = make_plan(toy.name, toy.presets, ["--cache-dir", str(place / "cache"), *flags], vary)
    maker = TaskMaker(plan, place / "trials")
    return [maker.task(trial) for trial in plan.trials()]


def test_a_trial_leaves_what_the_experiment_does_by_hand_and_a_record(toy, tmp_path, one_thread):
    (task,) = tasks_of(toy, tmp_path, ["noise", "0.3"])
    record = do_trial(task, 1, "a node")
    by_hand = replace(task.config, output_dir=tmp_path / "mine", cache_dir=tmp_path / "other")
    toy.execute(by_hand)
    assert_same_results(tmp_path / "mine", task.config.output_dir)
    assert (record.state, record.setting, record.seeds, record.node) == (
        DONE,
        {"noise": "0.3"},
        (0,),
        "a node",
    )
    assert record == load_record(task.folder) == ended(task)
    assert "toy/clean: done in" in (task.folder / "log.txt").read_text()
    assert not (task.config.output_dir / "plots" / "toy.png").exists()
    do_trial(replace(task, figures=True), 1)
    assert (task.config.output_dir / "plots" / "toy.png").exists()


def test_a_trial_that_fails_says_why_in_a_line_and_raises_nothing(toy, tmp_path):
    (task,) = tasks_of(toy, tmp_path, ["noise", "3e38"])
    record = do_trial(task, 1)
    assert record.state == FAILED and "\n" not in record.reason
    assert record.reason.startswith("training toy/noisy: not finite at step")
    assert "Traceback" in (task.folder / "log.txt").read_text()
    assert ended(task) is None  # it is tried again


def test_only_what_is_whole_and_of_this_code_has_ended(toy, tmp_path):
    (task,) = tasks_of(toy, tmp_path, ["noise", "0.3"])
    assert ended(task) is None
    do_trial(task, 1)
    assert ended(task) and ended(replace(task, fingerprint="of other code")) is None
    record, results = task.folder / "trial.json", task.folder / "results.json"
    for path in (record, results):
        whole = path.read_text()
        path.write_text(whole.replace("0", "1", 1))
        assert ended(task) is None
        path.write_text(whole[: len(whole) // 2])
        assert ended(task) is None
        path.write_text(whole)
    assert ended(task)
    results.unlink()
    assert ended(task) is None


def test_settings_and_code_are_in_a_trials_mark(toy, tmp_path):
    first, second = tasks_of(toy, tmp_path, ["noise", "0.3", "0.4"])
    (more,) = tasks_of(toy, tmp_path, ["noise", "0.3"], flags=["--iterations", "41"])
    (same,) = tasks_of(toy, tmp_path / "elsewhere", ["noise", "0.3"], flags=["--checkpoint-every", "7"])
    assert len({first.fingerprint, second.fingerprint, more.fingerprint}) == 3
    assert same.fingerprint == first.fingerprint


# --- the cache that trials share ------------------------------------------------------------------


def _execute(toy, config, log):
    handler = logging.FileHandler(log)
    logging.getLogger().handlers[:] = [handler]
    logging.getLogger().setLevel(logging.INFO)
    toy.execute(config)


@linux_only
def test_two_runs_with_one_cache_do_each_step_once(toy, tmp_path, one_thread):
    config = replace(toy.presets["quick"], cache_dir=tmp_path / "cache", iterations=300)
    fork = multiprocessing.get_context("fork")
    runs = [
        fork.Process(target=_execute, args=(toy, replace(config, output_dir=tmp_path / name), log))
        for name, log in (("a", tmp_path / "a.log"), ("b", tmp_path / "b.log"))
    ]
    for run in runs:
        run.start()
    for run in runs:
        run.join()
    assert [run.exitcode for run in runs] == [0, 0]
    said = (tmp_path / "a.log").read_text() + (tmp_path / "b.log").read_text()
    for step in (
        "toy/clean: done in",
        "toy/noisy: done in",
        "error/clean: measured in",
        "error/noisy: measured",
    ):
        assert said.count(step) == 1, said
    assert_same_results(tmp_path / "a", tmp_path / "b")
    assert not list((tmp_path / "cache").glob(".*"))


def test_a_step_that_another_run_is_at_work_on_comes_last(toy, tmp_path, caplog):
    """Its lock is let go of when the run says that it waits for it."""
    caplog.set_level(logging.INFO)
    config = replace(toy.presets["quick"], output_dir=tmp_path / "a", cache_dir=tmp_path / "cache")
    toy.execute(config)
    clean, noisy = sorted((tmp_path / "cache").glob("toy-*.pt"))
    clean.unlink(), noisy.unlink(), caplog.clear()
    lock = Checkpoint(clean, "")._lock
    go = threading.Event()

    def hold():
        with taken(lock):
            go.wait(60)

    def let_go(record):
        if "another run" in record.getMessage():
            go.set()
        return True

    holder = threading.Thread(target=hold)
    holder.start()
    while not is_taken(lock):
        pass
    with caplog.filtering(let_go):
        toy.execute(config)
    holder.join()
    said = [line for line in caplog.messages if "done in" in line or "another run" in line]
    assert [line.partition(":")[0] for line in said] == ["toy/noisy", clean.name, "toy/clean"]


def test_a_file_is_held_by_one_and_gone_afterwards(tmp_path):
    path, order = tmp_path / "lock", []

    def work(number):
        with taken(path):
            assert is_taken(path)
            order.append(("in", number))
            order.append(("out", number))

    threads = [threading.Thread(target=work, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [number for _, number in order[::2]] == [number for _, number in order[1::2]]
    assert len(order) == 16 and not path.exists() and not is_taken(path)
