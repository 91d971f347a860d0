"""A whole sweep: which trials are left to run, and what is written when they have ended."""

import contextlib
import dataclasses
import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from common.run.command_line import ConfigError
from common.run.files import FolderInUse, locked, write_atomically
from common.run.results import SCHEMA, checksum, provenance, to_json
from common.run.run import plain
from common.sweeps.asha import Asha
from common.sweeps.engine import Machines, cluster, require_packages, run_search, run_tasks
from common.sweeps.figures import draw_sweep
from common.sweeps.plan import Plan
from common.sweeps.search import Search
from common.sweeps.summary import (
    format_settings,
    nearest_metrics,
    pool_settings,
    read_ended,
    to_content,
    to_csv,
)
from common.sweeps.tasks import TaskMaker
from common.sweeps.trial import DONE, FAILED, STOPPED, Record, Task, ended, load_record
from common.viz_utils import save_figure

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Request:
    """What is asked of a sweep beside its plan."""

    folder: Path  # of the sweep
    metric: str
    mode: str  # min or max: what is better
    machines: Machines
    figures: bool = False  # of each trial
    asha: Asha | None = None
    samples: int | None = None  # settings that a search tries; none: every combination is run


@dataclass(frozen=True)
class Report:
    """What a sweep has to say: texts, and whether everything was done and measured."""

    texts: Sequence[str]
    complete: bool


def run_sweep(plan: Plan, request: Request) -> Report:
    """Run the trials that have not ended, and write sweep.json, sweep.csv and sweep.png.

    Raises:
        ConfigError: the folder cannot be written to, or there is no such cluster.
        ValueError: a configuration cannot run.
    """
    with _held(request.folder):
        maker = TaskMaker(plan, request.folder / "trials", request.figures)
        run = _scan if request.samples is None else _search
        return _write(plan, request, run(maker, request))


@contextlib.contextmanager
def _held(folder: Path) -> Iterator[None]:
    """The sweep's folder for this process alone."""
    with contextlib.ExitStack() as stack:
        try:
            (folder / "trials").mkdir(parents=True, exist_ok=True)
            stack.enter_context(locked(folder))
        except FolderInUse:
            raise
        except OSError as error:
            raise ConfigError(f"{folder} cannot be written to: {error.strerror}") from error
        yield


def _scan(maker: TaskMaker, request: Request) -> list[Record]:
    """Every trial of the plan; those that have ended before are not run again."""
    tasks = [maker.task(trial) for trial in maker.plan.trials()]
    known = {task.id: record for task in tasks if (record := _ended(task, request)) is not None}
    left = [task for task in tasks if task.id not in known]
    log.info("%d trials, of which %d have ended before", len(tasks), len(known))
    if left:
        with cluster(request.machines, request.folder / "ray") as storage:
            new = run_tasks(left, request.machines, storage, request.asha)
        known |= {record.id: record for record in new}
    return [known[task.id] for task in tasks]


def _ended(task: Task, request: Request) -> Record | None:
    """A trial that was stopped has ended for a sweep that stops some."""
    record = ended(task)
    return None if record is not None and record.state == STOPPED and request.asha is None else record


def _search(maker: TaskMaker, request: Request) -> list[Record]:
    """Settings that Optuna chooses, until there are as many as were asked for."""
    require_packages("optuna")
    search = Search(maker, request.metric, request.mode)
    tried = search.tried()
    left = [task for tasks in tried for task in tasks if ended(task) is None]
    log.info("%d settings, of which %d have been tried before", request.samples, len(tried))
    if left or len(tried) < request.samples:
        with cluster(request.machines, request.folder / "ray") as storage:
            run_tasks(left, request.machines, storage)
            run_search(search, request.samples, request.machines, storage)
    return [record for tasks in search.tried() for task in tasks if (record := load_record(task.folder))]


def _write(plan: Plan, request: Request, records: Sequence[Record]) -> Report:
    """The three files, and what is said at the end."""
    trials = read_ended(records, request.folder / "trials")
    settings, fields = pool_settings(trials), [varied.field for varied in plan.compared]
    content = to_content(
        records, trials, settings, schema=SCHEMA, experiment=plan.experiment, preset=plan.base.preset,
        config=plain(plan.base.identity()), flags=list(plan.flags), varied=_varied(plan),
        metric=request.metric, mode=request.mode, provenance=provenance(torch.device("cpu")),
    )  # fmt: skip
    _write_text(request.folder / "sweep.json", to_json(content | {"checksum": checksum(content)}))
    _write_text(request.folder / "sweep.csv", to_csv(trials, fields))
    lost = [f"{each.id} {each.state}: {each.reason}" for each in records if each.state != DONE]
    texts, measured = (
        ["Not done:", *lost] if lost else [],
        [each for each in settings if each.values(request.metric)],
    )
    if measured:
        save_figure(draw_sweep(settings, fields, request.metric, request.mode), request.folder / "sweep.png")
        texts.append(format_settings(measured, request.metric, request.mode))
    elif settings:
        near = ", ".join(nearest_metrics(settings, request.metric))
        texts.append(f"No trial measured {request.metric}; there are metrics such as {near}")
    failed = any(each.state == FAILED for each in records)
    return Report([*texts, f"Results: {request.folder}"], bool(measured) and not failed)


def _varied(plan: Plan) -> dict[str, Any]:
    return {
        varied.field: list(varied.values) if varied.span is None else dataclasses.asdict(varied.span)
        for varied in plan.varied
    }


def _write_text(path: Path, text: str) -> None:
    write_atomically(path, lambda file: file.write(text.encode()))
