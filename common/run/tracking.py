"""Trackers: a run's curves, figures and results in TensorBoard or W&B, for those who use one.

A tracker is told by one process, the run's own. Workers leave their histories in the cache, from where
`Curves` follows them while they train. The packages come with requirements-sweep.txt and are imported when
they are asked for.
"""

import contextlib
import datetime
import json
import logging
import math
import os
import threading
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import torch
from PIL import Image
from torch import Tensor

from common.run.cache import Checkpoint
from common.run.command_line import ConfigError, reject
from common.run.criteria import verdict

log = logging.getLogger(__name__)


class Tracker(Protocol):
    """What a run tells: begin once, then scalars and figures, the outcome, finish."""

    def begin(self, folder: Path, name: str, settings: Mapping[str, Any]) -> None:
        """An experiment starts with these settings; all that is written goes below the folder.

        Raises:
            ConfigError: the tracker cannot begin.
        """

    def scalars(self, group: str, values: Mapping[str, float], step: int) -> None:
        """Numbers of a group, such as a training, at one of its steps."""

    def figure(self, path: Path) -> None:
        """A figure that was drawn: a PNG, or a GIF of an animation."""

    def outcome(self, metrics: Mapping[str, float], criteria: Sequence[Mapping[str, Any]]) -> None:
        """The final metrics, averaged over seeds, and the criteria's rows (common/run/criteria.py)."""

    def finish(self, failed: bool) -> None:
        """Nothing more will come; also where `begin` never did."""


@contextlib.contextmanager
def tracked(name: str) -> Iterator[Tracker]:
    """The tracker of this name, which is finished at the end.

    Raises:
        ConfigError: its package is not installed, or W&B has no login.
    """
    try:
        tracker = TRACKERS[name]()
    except ImportError as error:
        reject("tracker", name, f"after pip install -r requirements-sweep.txt ({error})")
    failed = True
    try:
        yield tracker
        failed = False
    finally:
        tracker.finish(failed)


class NoTracker:
    """Follows nothing."""

    def begin(self, folder: Path, name: str, settings: Mapping[str, Any]) -> None:
        """Nothing, as all that follows."""

    def scalars(self, group: str, values: Mapping[str, float], step: int) -> None:
        """Nothing."""

    def figure(self, path: Path) -> None:
        """Nothing."""

    def outcome(self, metrics: Mapping[str, float], criteria: Sequence[Mapping[str, Any]]) -> None:
        """Nothing."""

    def finish(self, failed: bool) -> None:
        """Nothing."""


class TensorBoard:
    """Event files in <output>/tensorboard/DATE/, a folder for each run: `tensorboard --logdir <output>`."""

    def __init__(self):
        from torch.utils.tensorboard import SummaryWriter

        self._make_writer, self._writer = SummaryWriter, None

    def begin(self, folder: Path, name: str, settings: Mapping[str, Any]) -> None:
        """Open the log, and write the settings as text."""
        date = datetime.datetime.now(datetime.UTC).strftime("%Y%m%d-%H%M%S-%f")
        self._writer = self._make_writer(folder / "tensorboard" / date, flush_secs=5)
        self._settings = {key: _plain_value(value) for key, value in settings.items()}
        self._writer.add_text("config", _as_code(json.dumps(self._settings, indent=1)))

    def scalars(self, group: str, values: Mapping[str, float], step: int) -> None:
        """A curve for each name."""
        for name, value in values.items():
            self._writer.add_scalar(f"{group}/{name}", value, step)

    def figure(self, path: Path) -> None:
        """The file as it is, so that an animation moves."""
        from tensorboard.compat.proto.summary_pb2 import Summary

        with Image.open(path) as picture:
            width, height = picture.size
        image = Summary.Image(
            width=width, height=height, colorspace=4, encoded_image_string=path.read_bytes()
        )
        value = Summary.Value(tag=f"figures/{path.name}", image=image)
        self._writer.file_writer.add_summary(Summary(value=[value]), 0)

    def outcome(self, metrics: Mapping[str, float], criteria: Sequence[Mapping[str, Any]]) -> None:
        """Metrics as curves of one point; the criteria as text, and beside the settings in HPARAMS."""
        self.scalars("metrics", metrics, 0)
        rows = [f"{verdict(row)}: {row['claim']} ({row['id']}: {row['measured']})" for row in criteria]
        self._writer.add_text("criteria", _as_code("\n".join(rows)))
        self._writer.add_hparams(self._settings, _measured(criteria), run_name=".")

    def finish(self, failed: bool) -> None:
        """Close the file."""
        if self._writer is not None:
            self._writer.close()


class WeightsAndBiases:
    """A W&B run, written to <output>/wandb/ and sent while it runs; WANDB_MODE=offline sends nothing."""

    def __init__(self):
        import wandb

        self._wandb, self._run, self._groups = wandb, None, set()
        self._environment = contextlib.ExitStack()
        if os.environ.get("WANDB_MODE") in ("offline", "dryrun", "disabled"):
            return
        try:
            known = wandb.run is not None or wandb.login(prompt=False)
        except wandb.Error as error:
            raise _refused(error) from error
        if not known:
            reject("tracker", "wandb", "after `wandb login`, or with WANDB_MODE=offline in the environment")

    def begin(self, folder: Path, name: str, settings: Mapping[str, Any]) -> None:
        """Begin a run; what W&B keeps beside it stays in the output folder too."""
        own = folder / "wandb"
        own.mkdir(exist_ok=True)
        self._environment.enter_context(_environment(own))
        quiet = self._wandb.Settings(
            silent=True, console="off", disable_git=True, disable_code=True, x_disable_stats=True
        )
        try:
            self._run = self._wandb.init(
                project=os.environ.get("WANDB_PROJECT", "helm"), name=os.environ.get("WANDB_NAME", name),
                dir=folder, config=dict(settings), reinit="create_new", settings=quiet,
            )  # fmt: skip
        except self._wandb.Error as error:
            raise _refused(error) from error
        log.info("W&B: %s", self._run.dir if self._run.offline else self._run.url)

    def scalars(self, group: str, values: Mapping[str, float], step: int) -> None:
        """Curves over the steps of their own group: W&B's step counts calls."""
        if group not in self._groups:
            self._groups.add(group)
            self._run.define_metric(f"{group}/step", hidden=True)
            self._run.define_metric(f"{group}/*", step_metric=f"{group}/step")
        self._run.log({f"{group}/{name}": value for name, value in values.items()} | {f"{group}/step": step})

    def figure(self, path: Path) -> None:
        """The file as it is."""
        self._run.log({f"figures/{path.name}": self._wandb.Image(str(path))})

    def outcome(self, metrics: Mapping[str, float], criteria: Sequence[Mapping[str, Any]]) -> None:
        """In the run's summary."""
        passed = {f"criteria/{row['id']}/passed": row["passed"] for row in criteria}
        self._run.summary.update({f"metrics/{name}": value for name, value in metrics.items()})
        self._run.summary.update(_measured(criteria) | passed)

    def finish(self, failed: bool) -> None:
        """Send the rest; a run that failed is marked as such."""
        if self._run is not None:
            self._run.finish(exit_code=int(failed))
        self._environment.close()


TRACKERS = {"none": NoTracker, "tensorboard": TensorBoard, "wandb": WeightsAndBiases}


@contextlib.contextmanager
def _environment(folder: Path) -> Iterator[None]:
    """W&B's variables: its caches in the folder, no reports to its makers; what a user has set stays."""
    wanted = {name: str(folder) for name in ("WANDB_CACHE_DIR", "WANDB_DATA_DIR")}
    wanted["WANDB_ERROR_REPORTING"] = "false"
    new = {name: value for name, value in wanted.items() if name not in os.environ}
    os.environ.update(new)
    try:
        yield
    finally:
        for name in new:
            os.environ.pop(name, None)


def _refused(error: Exception) -> ConfigError:
    first = str(error).partition("\n")[0]
    return ConfigError(
        f"tracker (--tracker) = 'wandb': {first}; allowed: after `wandb login`, or with WANDB_MODE=offline"
    )


def _measured(criteria: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    return {f"criteria/{row['id']}": row["measured"] for row in criteria if row["measured"] is not None}


def _plain_value(value: Any) -> bool | int | float | str:
    """A setting as TensorBoard's tables take it."""
    return value if isinstance(value, (bool, int, float, str)) else str(value)


def _as_code(text: str) -> str:
    return "\n".join(f"    {line}" for line in text.splitlines())


class Curves:
    """Tells a tracker the histories of trainings, each point once, as their checkpoints grow."""

    def __init__(self, tracker: Tracker, seeds: Sequence[int]):
        self.tracker, self.seeds = tracker, seeds
        self._wanted = not isinstance(tracker, NoTracker)
        self._checkpoints: Mapping[str, Checkpoint] = {}  # of the trainings under way
        self._told: Counter[tuple[str, str]] = Counter()  # points, by training and group
        self._stamps: dict[str, int] = {}  # of the checkpoints when they were looked at
        self._home = os.getpid(), threading.get_ident()

    def follow(self, checkpoints: Mapping[str, Checkpoint]) -> None:
        """Look at these trainings from now on."""
        self._checkpoints = checkpoints

    def look(self) -> None:
        """Tell what the checkpoints hold by now; in a worker nothing, the run's own process does it."""
        if not self._wanted or (os.getpid(), threading.get_ident()) != self._home:
            return
        for name, checkpoint in self._checkpoints.items():
            stamp = checkpoint.path.stat().st_mtime_ns if checkpoint.path.is_file() else None
            if stamp is not None and stamp != self._stamps.get(name):
                self._stamps[name] = stamp
                self.tell(name, (checkpoint.load() or {}).get("history", {}))

    def tell(self, name: str, history: Mapping[str, Any]) -> None:
        """Tell a training's history (common/training/fit.py), as far as it is not told."""
        for group, steps, terms in _groups_of(history) if self._wanted else ():
            for index in range(self._told[name, group], len(steps)):
                values = {}
                for term, points in terms.items():
                    values |= self._by_seed(term, points[index])
                self.tracker.scalars(f"{name}/{group}", values, int(steps[index]))
            self._told[name, group] = max(self._told[name, group], len(steps))

    def _by_seed(self, term: str, point: Tensor | Sequence[float]) -> dict[str, float]:
        """The mean over seeds, and of several seeds each; an ensemble over tasks is averaged seed by seed."""
        values = torch.as_tensor(point, dtype=torch.float64).reshape(-1)
        found = {term: float(values.mean())}
        if len(self.seeds) > 1 and len(values) % len(self.seeds) == 0:
            each = values.view(-1, len(self.seeds)).mean(0).tolist()
            found |= {f"{term}/seed={seed}": value for seed, value in zip(self.seeds, each, strict=True)}
        return {key: value for key, value in found.items() if math.isfinite(value)}


def _groups_of(history: Mapping[str, Any]) -> list[tuple[str, Sequence, dict[str, Any]]]:
    """(group, its steps, its terms) of a history: `train` at `iteration`, `evaluation` at its own steps.

    Where there are as many evaluations as recorded losses, the history names its evaluations last.
    """
    steps, evaluated = history.get("iteration", []), history.get("evaluation", [])
    train, evaluation, later = {}, {}, False
    for name, points in history.items():
        if name == "evaluation":
            later = True
        elif name not in ("iteration", "seconds"):
            own = len(points) == len(evaluated) and (later or len(points) != len(steps))
            (evaluation if own else train)[name] = points
    return [("train", steps, train), ("evaluation", evaluated, evaluation)]
