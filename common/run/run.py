"""A run of one experiment: its folders, its cached steps, what it saves and what it says at the end."""

import contextlib
import dataclasses
import datetime
import importlib
import inspect
import itertools
import json
import logging
import random
import shutil
import sys
import time
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from matplotlib.figure import Figure
from torch import Tensor, nn

from common.config import RunConfig
from common.run.cache import Checkpoint, ConfigView
from common.run.command_line import ConfigError, DataError, say, show
from common.run.criteria import Criterion, evaluate, format_table
from common.run.devices import resolve_device
from common.run.files import locked, remove_litter
from common.run.fingerprint import Measured, Sources, fingerprint, import_root, mark_trained
from common.run.memory import require_memory
from common.run.progress import configure_logging
from common.run.random import seed_everything
from common.run.results import SCHEMA, Results, load_arrays, load_results, provenance, save_results
from common.run.side_by_side import do_side_by_side, map_side_by_side, worker_count
from common.run.signals import Terminated, stoppable
from common.run.tracking import Curves, NoTracker, Tracker, tracked
from common.viz_utils import house_style, save_animation, save_figure

log = logging.getLogger(__name__)

ORIGIN = ("device", "cpu", "cpu_capability", "torch", "git_commit")  # of the provenance, kept with each step

Draw = Callable[[dict[str, Any], dict[str, Any]], Mapping[str, Figure | Iterable[Figure]]]


@dataclass(frozen=True)
class Experiment:
    """What every run_experiment.py says of itself.

    `compute` fills a run's results. `draw` maps results.json and its arrays to {file name: figure, or the
    frames of an animation}. `check` raises ValueError for a configuration that cannot run, before anything
    is written; so may `compute` before its first step, later ConfigError (or DataError) alone, since another
    ValueError is then a fault. `memory` estimates the largest bytes that a setting asks for, by setting.
    """

    name: str
    folder: Path
    presets: Mapping[str, RunConfig]
    compute: Callable[["Run"], None]
    draw: Draw | None = None  # none: a training script's own
    criteria: Sequence[Criterion] = ()
    check: Callable[[RunConfig], None] | None = None
    memory: Callable[[Any], Mapping[str, float]] | None = None
    headline: str = ""  # file name of the figure that says most; none: the experiment's own name

    def validate(self, config: RunConfig) -> None:
        """Raise ConfigError for a configuration that cannot run on this machine."""
        if self.check is not None:
            with _bad_input():
                self.check(config)
        if self.memory is not None:
            require_memory(self.memory(config), config)

    def execute(self, config: RunConfig, tracker: Tracker | None = None) -> Results:
        """Run the experiment in this process and save what it measured: no command line, no exit, no figures.

        Args:
            config: its settings.
            tracker: what follows it; none given: the configuration's, which ends with it.

        Raises:
            ConfigError: a configuration that cannot run.
            FloatingPointError: a training diverged.
            OSError: a file cannot be written, or another run holds the folder.
        """
        if tracker is None:
            with tracked(config.tracker) as own:
                return self.execute(config, own)
        run = Run(self, config, tracker)
        with run.held(), _own_random_numbers(config.seeds[0]):
            run.compute()
            run.set_earlier_results_aside()
            run.save()
        return run.results

    def plot(self, config: RunConfig, tracker: Tracker | None = None) -> dict[str, Any]:
        """Draw every figure from the saved results, which are returned; a tracker gets the figures.

        Raises:
            FileNotFoundError: there are none.
            DataError: they are damaged, another experiment's, or lack what is drawn.
        """
        folders = Folders.of(self, config)
        saved = load_results(folders.results)
        arrays = load_arrays(folders.results, saved)
        if saved["experiment"] != self.name:
            raise DataError(f"{folders.results} holds {saved['experiment']}'s results, not {self.name}'s")
        folders.plots.mkdir(parents=True, exist_ok=True)
        try:
            with locked(folders.results), house_style():
                figures = self.draw(saved, arrays) if self.draw else {}

                def save(name: str) -> None:
                    write = save_figure if isinstance(figures[name], Figure) else save_animation
                    write(figures[name], folders.plots / name)

                do_side_by_side(save, list(figures))
                for name in figures if tracker is not None else ():
                    tracker.figure(folders.plots / name)
        except OSError:
            raise
        except Exception as error:  # whatever a foreign or an older file may lack
            if not config.replot:
                raise
            reason = f"{type(error).__name__}: {error}".partition("\n")[0][:200]
            raise DataError(f"{folders.results} lacks what the figures are drawn from ({reason})") from error
        return saved


@dataclass(frozen=True)
class Folders:
    """Where a run writes, and where it keeps the results of cached steps."""

    output: Path
    cache: Path

    @property
    def results(self) -> Path:
        return self.output / "results"

    @property
    def plots(self) -> Path:
        return self.output / "plots"

    @classmethod
    def of(cls, experiment: Experiment, config: RunConfig) -> "Folders":
        """The configuration's, or the experiment's own."""
        output = (config.output_dir or experiment.folder).expanduser().resolve()
        cache = (config.cache_dir or experiment.folder / "checkpoints").expanduser().resolve()
        return cls(output, cache)


@dataclass(frozen=True)
class Training:
    """Trainings that share their inputs and differ in their variant: `{prefix}/{variant}` each.

    `step(*inputs, variant=, config=, device=, checkpoint=, label=) -> (module, history)`. A variant is what
    tells a training from its siblings: a number, a frozen dataclass. Those of `longest` are begun first, so
    that no core waits for them at the end.
    """

    step: Callable
    prefix: str
    inputs: tuple[Any, ...]
    variants: Mapping[str, Any]
    longest: Collection[str] = ()


class Run:
    """Does cached steps, reuses what has the same fingerprint, and keeps the results."""

    def __init__(self, experiment: Experiment, config: RunConfig, tracker: Tracker | None = None):
        """Raises ConfigError for a configuration that cannot run; writes nothing."""
        self.experiment, self.config = experiment, config
        experiment.validate(config)
        standard = experiment.presets[config.preset].identity()
        self.changed = [name for name, value in config.identity().items() if value != standard[name]]
        self.folders = Folders.of(experiment, config)
        self.device = resolve_device(config.device)
        self.results = Results(experiment.name, config.seeds)
        self.provenance = provenance(self.device)  # of the code that runs, whatever is committed meanwhile
        self.sources = Sources()
        self.sources.add(import_root(experiment.folder / "run_experiment.py"))
        self.step_seconds = 0.0  # of every step so far, reused ones included
        self._measured: dict[str, Measured] = {}  # by fingerprint, in this process
        self._has_begun = False  # its first step
        self._begun_anew: set[Path] = set()  # files that --fresh has discarded
        self._origin = json.dumps({name: self.provenance[name] for name in ORIGIN})
        self._origins: set[str] = set()  # of every step whose result this run has
        self.tracker = NoTracker() if tracker is None else tracker
        self._curves = Curves(self.tracker, config.seeds)

    @contextlib.contextmanager
    def held(self) -> Iterator[None]:
        """Make the folders and hold the output's while the run writes.

        Raises:
            ConfigError: a folder cannot be made, such as where a file stands.
            FolderInUse: another run holds the output's.
        """
        for folder in (self.folders.results, self.folders.plots, self.folders.cache):
            try:
                folder.mkdir(parents=True, exist_ok=True)
                remove_litter(folder)
            except OSError as error:
                raise ConfigError(f"{folder} cannot be written to: {error.strerror}") from error
        for path in (self.folders.results / "results.json", self.folders.results / "arrays.npz"):
            if path.is_dir():
                raise ConfigError(f"{path} cannot be written to: it is a folder")
        with locked(self.folders.results):
            settings = plain(self.config.identity()) | {"git_commit": self.provenance["git_commit"]}
            self.tracker.begin(self.folders.output, self.experiment.name, settings)
            yield

    def compute(self) -> None:
        """Do what the experiment computes.

        Raises:
            ConfigError: also for a ValueError before the first step, as of an environment that has no goal.
        """
        with _bad_input(unless=lambda: self._has_begun):
            self.experiment.compute(self)

    # --- cached steps -----------------------------------------------------------------------

    def _prepare(self, step: Callable, name: str, inputs: Sequence[Any]) -> tuple[ConfigView, Checkpoint]:
        self._has_begun = True
        view = ConfigView(self.config, step.settings_read)
        mark = fingerprint(step, view, inputs, self.sources)
        path = self.folders.cache / f"{name.replace('/', '-')[:80]}-{mark[:10]}.pt"
        checkpoint = Checkpoint(
            path, mark, self.config.checkpoint_every, self._origin, self._origins, self._curves.look
        )
        if self.config.fresh and path not in self._begun_anew:
            self._begun_anew.add(path)
            checkpoint.discard()
        return view, checkpoint

    def train(self, *trainings: Training) -> dict[str, nn.Module]:
        """Train every variant of some trainings; on a cpu side by side.

        They share nothing, so the results do not depend on what runs beside.

        Returns:
            the trained modules by variant, their weights frozen; each bears its step's fingerprint.
        """
        tasks = [(part, variant) for part in trainings for variant in part.variants]
        prepared = [
            self._prepare(part.step, f"{part.prefix}/{variant}", [*part.inputs, part.variants[variant]])
            for part, variant in tasks
        ]
        self._curves.follow({
            f"{part.prefix}/{variant}": checkpoint
            for (part, variant), (_, checkpoint) in zip(tasks, prepared, strict=True)
        })  # fmt: skip

        def train_one(index: int) -> tuple[nn.Module, dict[str, Tensor]]:
            (part, variant), (view, checkpoint) = tasks[index], prepared[index]
            _seed_by(checkpoint.fingerprint)
            return part.step(
                *part.inputs,
                variant=part.variants[variant],
                config=view,
                device=self.device,
                checkpoint=checkpoint,
                label=f"{part.prefix}/{variant}",
            )

        checkpoints = [checkpoint for _, checkpoint in prepared]
        missing = [index for index, checkpoint in enumerate(checkpoints) if not _is_trained(checkpoint)]
        missing.sort(key=lambda index: tasks[index][1] not in tasks[index][0].longest)
        if missing:
            importlib.import_module("torch._dynamo")  # for any optimiser: once here, not once a worker
        trained = dict(zip(missing, self._do_each(train_one, missing, checkpoints), strict=True))
        models = {}
        for index, (part, variant) in enumerate(tasks):
            model, history = trained[index] = trained.get(index) or train_one(index)
            self._record_training(f"{part.prefix}/{variant}", model, history)
            models[variant] = mark_trained(model.requires_grad_(False), checkpoints[index].fingerprint)
        self._count_seconds([float(history["seconds"]) for _, history in trained.values()])
        return models

    def _do_each(
        self, function: Callable[[int], Any], indices: Sequence[int], checkpoints: Sequence[Checkpoint]
    ) -> list[Any]:
        """function(index) for each, side by side, while its checkpoint is held.

        One at a time, those come first that no other run is at work on.
        """

        def do(index: int) -> Any:
            with checkpoints[index].held():
                return function(index)

        if worker_count(len(indices), self.device) > 1:
            return map_side_by_side(do, indices, self.device, self._curves.look)
        done, left = {}, list(indices)
        while left:
            index = next((index for index in left if not checkpoints[index].is_held()), left[0])
            left.remove(index)
            done[index] = do(index)
        return [done[index] for index in indices]

    def _count_seconds(self, seconds: Sequence[float]) -> None:
        """Wall clock of steps that ran side by side."""
        if seconds:
            beside = worker_count(len(seconds), self.device)
            self.step_seconds += max(*seconds, sum(seconds) / beside, 0.0)

    def _record_training(self, name: str, model: nn.Module, history: Mapping[str, Tensor]) -> None:
        seconds, parameters = float(history["seconds"]), count_parameters(model, history["loss"].shape[-1])
        log.info("%s: %d parameters a seed, %.1f s of training", name, parameters, seconds)
        self.results.timings[f"{name}/train_seconds"] = seconds
        self.results.timings[f"{name}/parameters"] = parameters
        self._curves.tell(name, history)
        for term, values in history.items():
            if term == "seconds":
                continue
            self.results.add_array(f"{name}/history/{term}", values)
            members = values.shape[-1] if values.dim() > 1 else 0
            if term != "evaluation" and members and members % len(self.config.seeds) == 0:
                last = values[-max(1, len(values) // 10) :].double().mean(0)
                # an ensemble over several tasks has members task by task: average these, seed by seed
                last = last.view(-1, len(self.config.seeds)).mean(0)
                self.results.add(f"{name}/training/{term}", last, "mean over the last tenth")

    def measure(self, step: Callable, name: str, *inputs: Any) -> Measured:
        """Do a measurement `step(*inputs, config=, device=) -> {name: tensor}`, or load its result.

        What a result depends on is read from the inputs; the same step of the same inputs is done once.
        """
        return self.measure_all([(step, name, *inputs)])[0]

    def measure_all(self, steps: Sequence[tuple]) -> list[Measured]:
        """`measure` for each of (step, name, *inputs), on a cpu side by side."""
        prepared = [self._prepare(step, name, inputs) for step, name, *inputs in steps]
        marks = [checkpoint.fingerprint for _, checkpoint in prepared]
        first = {
            mark: index for index, mark in reversed(list(enumerate(marks))) if mark not in self._measured
        }
        new = sorted(first.values())
        there = {index for index in new if prepared[index][1].path.is_file()}
        found = {index: _checked_measurement(prepared[index][1]) for index in new}

        def load_or_do(index: int) -> tuple[dict[str, Tensor], float]:
            (step, name, *inputs), (view, checkpoint) = steps[index], prepared[index]
            saved = _checked_measurement(checkpoint)
            if saved is None:
                _seed_by(checkpoint.fingerprint)
                began = time.monotonic()
                arrays = step(*inputs, config=view, device=self.device)
                arrays = {key: value.cpu().clone() for key, value in arrays.items()}  # a view saves its base
                saved = arrays, time.monotonic() - began
                checkpoint.save({"arrays": arrays, "seconds": saved[1]})
                log.info("%s: measured in %.1f s", name, saved[1])
            return saved

        missing = [index for index in new if found[index] is None]
        for index in there.intersection(missing):
            prepared[index][1].discard()  # what could not be read is said once
        done = self._do_each(load_or_do, missing, [checkpoint for _, checkpoint in prepared])
        found |= zip(missing, done, strict=True)
        for index in new:
            arrays, seconds = found[index]
            self.results.timings[f"{steps[index][1]}/seconds"] = seconds
            self._measured[marks[index]] = Measured(arrays, marks[index])
        self._count_seconds([found[index][1] for index in new])
        return [self._measured[mark] for mark in marks]

    @contextlib.contextmanager
    def having(self, **changes: Any) -> Iterator[None]:
        """Steps begun within see the configuration with these fields changed, and bear its fingerprint."""
        whole = self.config
        self.config = dataclasses.replace(whole, **changes)
        try:
            yield
        finally:
            self.config = whole

    # --- results ----------------------------------------------------------------------------

    def set_earlier_results_aside(self) -> None:
        """Move results and figures of a run with another configuration to results/earlier-DATE/."""
        results, plots = self.folders.results, self.folders.plots
        if not (results / "results.json").exists():
            return
        try:
            if load_results(results)["config"] == plain(self.config.identity()):
                return
        except (ValueError, KeyError, TypeError, AttributeError):
            log.warning("%s is unreadable: set aside", results / "results.json")
        aside = _folder_for_earlier(results)
        # results.json goes last: while it is there, an interrupted move is taken up again, to the same folder
        for path in (*plots.glob("*.*"), *results.glob("*.npz"), results / "results.json"):
            shutil.move(path, aside / path.name)
        log.info("an earlier run's results (another configuration) are now in %s", aside)

    def save(self) -> None:
        """Write results.json and arrays.npz."""
        timings = dict(self.results.timings)
        timings["phase_seconds"] = self.step_seconds
        timings["peak_memory_mb"] = _peak_memory_mb(self.device)
        self._say_what_is_not_finite()
        metrics, criteria = self.results.metrics, evaluate(self.experiment.criteria, self.results.metrics)
        content = {
            "schema": SCHEMA,
            "experiment": self.experiment.name,
            "title": (inspect.getdoc(type(self.config)) or "").partition("\n")[0],
            "headline": self.experiment.headline or f"{self.experiment.name}.png",
            "preset": self.config.preset,
            "config": plain(self.config.identity()),
            "changed": self.changed,
            "provenance": self.provenance,
            "computed_by": [json.loads(text) for text in sorted(self._origins)],
            "seeds": list(self.config.seeds),
            "metrics": metrics,
            "timings": timings,
            "criteria": criteria,
        }
        save_results(self.folders.results, content, self.results.arrays)
        means = {name: entry["mean"] for name, entry in metrics.items() if entry["mean"] is not None}
        self.tracker.outcome(means, criteria)

    def _say_what_is_not_finite(self) -> None:
        odd = [name for name, entry in self.results.metrics.items() if entry["mean"] is None]
        if odd:
            log.warning(
                "%d of %d metrics are not finite in every seed, such as %s: there was nothing to measure, or"
                " a model diverged (a lower --learning-rate, more --iterations)",
                len(odd), len(self.results.metrics), odd[0],
            )  # fmt: skip


def count_parameters(module: nn.Module, members: int = 1) -> int:
    """Parameters of one member where a module holds `members` of them side by side; all of them for 1.

    Raises:
        ValueError: the parameters do not divide into so many members.
    """
    total = sum(parameter.numel() for parameter in module.parameters())
    if members < 1 or total % members:
        raise ValueError(f"members = {members}: must be at least 1 and divide the {total} parameters")
    return total // members


def _folder_for_earlier(results: Path) -> Path:
    """results/earlier-DATE, named after when results.json was written."""
    written = datetime.datetime.fromtimestamp((results / "results.json").stat().st_mtime, datetime.UTC)
    stamp = written.strftime("earlier-%Y%m%d-%H%M%S")
    for name in itertools.chain([stamp], (f"{stamp}-{number}" for number in itertools.count(1))):
        if not (results / name / "results.json").exists():
            (results / name).mkdir(exist_ok=True)
            return results / name
    raise AssertionError


def _seed_by(fingerprint: str) -> None:
    """Global generators of a step, for a library's own draws: by what it is, not by what ran before."""
    seed_everything(int(fingerprint[:15], 16))


def _is_trained(checkpoint: Checkpoint) -> bool:
    """Whether `fit` (common/training/fit.py) has finished what is saved; what cannot be read is deleted."""
    there = checkpoint.path.is_file()
    saved = checkpoint.load()
    if there and saved is None and not checkpoint.is_held():
        checkpoint.discard()  # so that it is said once
    whole = saved is not None and saved.get("iteration") == saved.get("iterations", ...)
    return whole or (saved is not None and saved.get("stopped") is True)


def _checked_measurement(checkpoint: Checkpoint) -> tuple[dict[str, Tensor], float] | None:
    """A saved measurement; None where there is none, or what there is has another shape."""
    saved = checkpoint.load()
    if saved is None:
        return None
    try:
        arrays, seconds = saved["arrays"], float(saved["seconds"])
        if not all(isinstance(value, Tensor) for value in arrays.values()):
            raise TypeError("a measurement holds tensors")
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        checkpoint.warn(error)
        return None
    return arrays, seconds


@contextlib.contextmanager
def _bad_input(unless: Callable[[], bool] = lambda: False) -> Iterator[None]:
    """A ValueError within is the configuration's."""
    try:
        yield
    except ConfigError:
        raise
    except ValueError as error:
        if unless():
            raise
        raise ConfigError(str(error)) from error


@contextlib.contextmanager
def _own_random_numbers(seed: int) -> Iterator[None]:
    """Seed the global generators for what is done within, and give the caller's back."""
    python = random.getstate()
    try:
        with torch.random.fork_rng(devices=[]):
            seed_everything(seed)
            yield
    finally:
        random.setstate(python)


def plain(value: Any) -> Any:
    """A configuration as JSON gives it back: tuples as lists, paths as text."""
    if isinstance(value, dict):
        return {key: plain(item) for key, item in value.items()}
    if isinstance(value, (tuple, list)):
        return [plain(item) for item in value]
    return str(value) if isinstance(value, Path) else value


def _peak_memory_mb(device: torch.device) -> float | None:
    """Peak memory of the accelerator, else of the largest process; None where nothing says (Windows)."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 2**20
    if sys.platform == "win32":
        return None
    import resource  # Unix only

    peak = max(resource.getrusage(who).ru_maxrss for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    return peak / (2**20 if sys.platform == "darwin" else 2**10)


# ----------------------------------------------------------------------------------------------
# Entry points
# ----------------------------------------------------------------------------------------------


def main(experiment: Experiment, config: RunConfig) -> int:
    """What every run_experiment.py does with its command line: compute, save, draw, report.

    Returns:
        exit code: 0; 1 where the run failed, or with --strict where a criterion failed; 2 for bad input; 130
        after an interrupt. What went wrong is one line on stderr.
    """

    def work() -> int:
        with tracked(config.tracker) as tracker:
            if not config.replot:
                experiment.execute(config, tracker)
            saved = experiment.plot(config, tracker)
        folders = Folders.of(experiment, config)
        unseen = show(
            format_table(saved["criteria"], saved["preset"], saved["seeds"]),
            f"\nFigures: {folders.plots}\nNumbers: {folders.results / 'results.json'}",
        )
        failed = any(criterion["passed"] is False for criterion in saved["criteria"])
        return 1 if unseen or (config.strict and failed) else 0

    return _reported(work, config)


def main_training(experiment: Experiment, config: RunConfig) -> int:
    """What every train_*.py does on its own: leave the checkpoints that run_experiment.py reuses."""

    def work() -> int:
        if config.replot:
            raise ConfigError("replot (--replot) = True: allowed: only with run_experiment.py")
        with tracked(config.tracker) as tracker:
            run = Run(experiment, config, tracker)
            with run.held(), _own_random_numbers(config.seeds[0]):
                run.compute()
        return show(f"Checkpoints: {run.folders.cache}")

    return _reported(work, config)


def _reported(work: Callable[[], int], config: RunConfig) -> int:
    """work()'s exit code; an error that a user can mend becomes one line and its code."""
    configure_logging()
    try:
        with stoppable():
            return work()
    except KeyboardInterrupt as interrupt:
        terminated = isinstance(interrupt, Terminated)
        say(f"{'terminated' if terminated else 'interrupted'}: {_how_to_go_on(config)}")
        return 143 if terminated else 130
    except (ValueError, OSError, ArithmeticError, MemoryError, RuntimeError) as error:
        message, code = what_went_wrong(error, config)
        say(f"{Path(sys.argv[0]).name}: error: {message}")
        return code


def _how_to_go_on(config: RunConfig) -> str:
    if config.replot:
        return "the same command draws the figures anew"
    return f"the same command {'without --fresh ' if config.fresh else ''}goes on from the last checkpoint"


def what_went_wrong(error: Exception, config: RunConfig) -> tuple[str, int]:
    """An error's line and exit code: 2 for bad input, 1 for what came up. Raises what is a fault of ours."""
    if isinstance(error, FileNotFoundError) and config.replot:
        return f"--replot needs the results of a run: {error.filename} is not there", 2
    if isinstance(error, OSError):
        named = f"{error.filename}: {error.strerror}" if error.filename and error.strerror else str(error)
        return named, getattr(error, "exit_code", 1)
    if isinstance(error, ConfigError):
        return str(error), 2
    if isinstance(error, FloatingPointError):
        return f"{error}; a lower --learning-rate may help", 1
    if _is_memory(error):
        first = str(error).partition("\n")[0][:200]
        return f"out of memory ({first}): try a smaller --batch-size or fewer --seeds", 1
    raise error


def _is_memory(error: Exception) -> bool:
    words = ("can't allocate memory", "out of memory", "not enough memory")
    return isinstance(error, MemoryError) or any(word in str(error).lower() for word in words)
