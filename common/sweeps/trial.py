"""One trial in this process: the experiment's own `execute`, and a record of how it ended.

A trial's folder holds what a run writes; log.txt and trial.json, its record, lie in its results/ too. The
record is written last, whole and with a checksum: a trial that has none, or one of other code, is run again.
"""

import contextlib
import datetime
import importlib
import json
import logging
import os
import socket
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch

from common.config import RunConfig
from common.run.files import FolderInUse, write_atomically
from common.run.fingerprint import Sources, fingerprint, import_root
from common.run.results import checksum, load_results
from common.run.run import Experiment, what_went_wrong
from common.run.tracking import Tracker, tracked

log = logging.getLogger(__name__)

RECORD = "trial.json"
PATIENCE = 60.0  # a killed sweep's process may hold a trial's folder as long as that [s]
Follow = Callable[[Tracker], Tracker]
DONE, FAILED, STOPPED = "done", "failed", "stopped"


@dataclass(frozen=True)
class Task:
    """What a worker needs to run a trial. The configuration's output folder is the trial's own."""

    id: str
    experiment: str
    config: RunConfig
    fingerprint: str  # of the experiment's code and the configuration
    setting: Mapping[str, str] = field(default_factory=dict)
    figures: bool = False  # whether the experiment's figures are drawn too

    @property
    def folder(self) -> Path:
        """Its results/."""
        return self.config.output_dir / "results"

    def forget(self) -> None:
        """Delete its record."""
        (self.folder / RECORD).unlink(missing_ok=True)


@dataclass(frozen=True)
class Record:
    """How a trial ended: `done`, `failed` with its reason, or `stopped` before its end."""

    id: str
    state: str
    fingerprint: str
    setting: Mapping[str, str]
    seeds: tuple[int, ...]
    reason: str = ""
    host: str = ""
    node: str = ""  # of a cluster
    began: str = ""
    seconds: float = 0.0

    def save(self, folder: Path) -> None:
        """Write it to a results folder."""
        content = asdict(self) | {"seeds": list(self.seeds)}
        text = json.dumps(content | {"checksum": checksum(content)}, indent=1) + "\n"
        write_atomically(folder / RECORD, lambda file: file.write(text.encode()))


def load_record(folder: Path) -> Record | None:
    """The record in a results folder; None where there is none or it is damaged."""
    try:
        content = json.loads((folder / RECORD).read_text(encoding="utf-8"))
        expected = content.pop("checksum")
        record = Record(**content | {"seeds": tuple(content["seeds"])})
        return record if expected == checksum(content) else None
    except (OSError, ValueError, TypeError, KeyError, AttributeError):
        return None


def ended(task: Task) -> Record | None:
    """The record of a trial that is not to be run again; None for every other.

    It is done or stopped, by today's code, and what it left is whole.
    """
    record = load_record(task.folder)
    if record is None or record.fingerprint != task.fingerprint or record.state == FAILED:
        return None
    if record.state == DONE:
        try:
            load_results(task.folder)
        except (OSError, ValueError):
            return None
    return record


def find_experiment(name: str) -> Experiment:
    """The experiment of this name.

    Raises:
        ImportError: there is none.
    """
    return vars(importlib.import_module(f"{name}.run_experiment"))["EXPERIMENT"]


def mark_of(experiment: Experiment, config: RunConfig) -> str:
    """A fingerprint of everything that a trial's results depend on: its configuration and the code."""
    sources = Sources()
    sources.add(import_root(experiment.folder / "run_experiment.py"))
    return fingerprint(experiment.compute, config.identity(), [], sources)


def do_trial(task: Task, threads: int, node: str = "", follow: Follow | None = None) -> Record:
    """Run a trial in this thread and leave its record, which is returned; what goes wrong is its reason.

    Args:
        task: the trial.
        threads: that torch may use.
        node: where this is, for the record.
        follow: makes of the run's tracker one that also follows the trial.
    """
    task.folder.mkdir(parents=True, exist_ok=True)
    torch.set_num_threads(threads)
    began, clock = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"), time.monotonic()
    with _logging_to(task.folder / "log.txt"):
        reason = _execute(task, follow or (lambda tracker: tracker))
    record = Record(
        task.id, FAILED if reason else DONE, task.fingerprint, dict(task.setting), tuple(task.config.seeds),
        reason, socket.gethostname(), node, began, time.monotonic() - clock,
    )  # fmt: skip
    record.save(task.folder)
    return record


def _execute(task: Task, follow: Follow) -> str:
    """Run the experiment; why it failed in a line, or ''."""
    try:
        experiment = find_experiment(task.experiment)
        with tracked(task.config.tracker) as tracker:
            _when_free(lambda: experiment.execute(task.config, follow(tracker)))
            if task.figures:
                experiment.plot(task.config, tracker)
    except Exception as error:  # whatever it is, the other trials go on
        log.exception("trial %s failed", task.id)
        return _reason(error, task.config)
    return ""


def _when_free(work: Callable[[], Any]) -> None:
    """Do it as soon as no other process holds the trial's folder, such as one that is about to be ended."""
    deadline = time.monotonic() + PATIENCE
    while True:
        try:
            work()
            return
        except FolderInUse:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.5)


def _reason(error: Exception, config: RunConfig) -> str:
    try:
        message = what_went_wrong(error, config)[0]
    except Exception:  # a fault of ours: it is raised again
        message = f"{type(error).__name__}: {error}"
    return message.partition("\n")[0][:300] or type(error).__name__


@contextlib.contextmanager
def _logging_to(path: Path) -> Iterator[None]:
    """Let the log of what is done within go to a file."""
    handler, root = logging.FileHandler(path, encoding="utf-8"), logging.getLogger()
    handler.setFormatter(logging.Formatter("%(asctime)s %(message)s", "%H:%M:%S"))
    level = root.level
    root.addHandler(handler)
    root.setLevel(logging.INFO)
    log.info("process %d on %s", os.getpid(), socket.gethostname())
    try:
        yield
    finally:
        root.setLevel(level)
        root.removeHandler(handler)
        handler.close()
