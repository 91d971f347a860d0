"""A run of one experiment: its folders, its phases, what it saves and what it says at the end."""

import contextlib
import dataclasses
import datetime
import logging
import os
import shutil
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from matplotlib.figure import Figure

from common.config import RunConfig
from common.run.cache import Checkpoint, ConfigView, fingerprint
from common.run.command_line import ConfigError, exit_with_error, parse_command_line
from common.run.criteria import Criterion, evaluate, format_table
from common.run.devices import map_in_threads, resolve_device, worker_count
from common.run.progress import configure_logging
from common.run.random import seed_everything
from common.run.results import SCHEMA, Results, load_arrays, load_results, provenance, save_results
from common.training.ensembles import count_parameters
from common.viz_utils import house_style, save_animation, save_figure

log = logging.getLogger(__name__)


class Run:
    """Runs phases, reuses what an earlier run with the same fingerprint left, and keeps the results."""

    def __init__(
        self,
        experiment: str,
        config: RunConfig,
        folder: Path,
        preset: RunConfig,
        criteria: Sequence[Criterion] = (),
    ):
        """`folder` is the experiment's own; config.output_dir replaces it for everything written."""
        self.experiment, self.config, self.criteria = experiment, config, criteria
        standard = preset.identity()
        self.changed = [name for name, value in config.identity().items() if value != standard[name]]
        self.output_dir = (config.output_dir or folder).resolve()
        self.results_dir = self.output_dir / "results"
        self.plots_dir = self.output_dir / "plots"
        self.checkpoints_dir = self.output_dir / "checkpoints"
        self.device = resolve_device(config.device)
        self.results = Results(experiment, config.seeds)
        self.fingerprints: dict[str, str] = {}
        self.measured: dict[str, dict[str, torch.Tensor]] = {}  # by phase name, in this process
        self.provenance = provenance(self.device)  # of the code that runs, whatever is committed meanwhile
        self.phase_seconds = 0.0  # of every phase so far, reused ones included

    # --- phases -----------------------------------------------------------------------------

    def _prepare(self, phase: Callable, name: str, inputs: Sequence[str]) -> tuple[ConfigView, Checkpoint]:
        view = ConfigView(self.config, phase.settings_read)
        mark = fingerprint(view, phase.__code__.co_filename, [name, *inputs])
        self.fingerprints[name] = mark
        stem = name.replace("/", "-")
        path = self.checkpoints_dir / f"{stem}-{mark[:10]}.pt"
        checkpoint = Checkpoint(path, mark, self.config.checkpoint_every)
        if self.config.fresh:
            checkpoint.discard()
        return view, checkpoint

    def train_variants(
        self, phase: Callable, prefix: str, *inputs: Any, variants: Mapping[str, Any], contents: str = ""
    ) -> dict[str, Any]:
        """Train every variant of a phase; small models on a cpu side by side, in threads.

        Calls `phase(*inputs, variant=, config=, device=, checkpoint=, label=) -> (model, history)` for each.
        An variant is what distinguishes a training from its siblings; its repr must tell all of it (a number,
        a frozen dataclass), and `contents` what of the inputs neither the prefix nor the configuration tells.
        Trainings share nothing, so the results do not depend on what runs beside.

        Returns:
            the trained modules by variant, their weights frozen.
        """
        told = [contents] if contents else []
        prepared = {
            variant: self._prepare(phase, f"{prefix}/{variant}", [repr(variants[variant]), *told])
            for variant in variants
        }

        def train(variant: str) -> tuple[torch.nn.Module, dict[str, torch.Tensor]]:
            view, checkpoint = prepared[variant]
            return phase(
                *inputs,
                variant=variants[variant],
                config=view,
                device=self.device,
                checkpoint=checkpoint,
                label=f"{prefix}/{variant}",
            )

        trained = dict(zip(variants, map_in_threads(train, list(variants), self.device), strict=True))
        for variant, (model, history) in trained.items():
            self._record_training(f"{prefix}/{variant}", model, history)
        seconds = [float(history["seconds"]) for _, history in trained.values()]
        beside = worker_count(len(variants), self.device)
        self.phase_seconds += max(*seconds, sum(seconds) / beside)  # wall clock when they ran side by side
        return {variant: model.requires_grad_(False) for variant, (model, _) in trained.items()}

    def _record_training(
        self, name: str, model: torch.nn.Module, history: Mapping[str, torch.Tensor]
    ) -> None:
        seconds, parameters = float(history["seconds"]), count_parameters(model, history["loss"].shape[-1])
        log.info("%s: %d parameters a seed, %.1f s of training", name, parameters, seconds)
        self.results.timings[f"{name}/train_seconds"] = seconds
        self.results.timings[f"{name}/parameters"] = parameters
        for term, values in history.items():
            if term == "seconds":
                continue
            self.results.add_array(f"{name}/history/{term}", values)
            if term != "iteration":
                last = values[-max(1, len(values) // 10) :].double().mean(0)
                # an ensemble over several tasks has members task by task: average these, seed by seed
                last = last.view(-1, len(self.config.seeds)).mean(0)
                self.results.add(f"{name}/training/{term}", last, "mean over the last tenth")

    def measure(
        self, phase: Callable, name: str, *inputs: Any, upstream: Sequence[str] = ()
    ) -> dict[str, torch.Tensor]:
        """Run a measurement phase `phase(*inputs, config=, device=) -> {name: tensor}`, or load its result.

        `upstream` names the phases whose products are among the inputs. A phase asked for twice is done once.
        """
        if name in self.measured:
            return self.measured[name]
        view, checkpoint = self._prepare(phase, name, [self.fingerprints[other] for other in upstream])
        saved = checkpoint.load()
        if saved is None:
            began = time.monotonic()
            arrays = phase(*inputs, config=view, device=self.device)
            arrays = {key: value.cpu().clone() for key, value in arrays.items()}  # a view would save its base
            saved = {"arrays": arrays, "seconds": time.monotonic() - began}
            checkpoint.save(saved)
            log.info("%s: measured in %.1f s", name, saved["seconds"])
        self.results.timings[f"{name}/seconds"] = saved["seconds"]
        self.phase_seconds += saved["seconds"]
        self.measured[name] = saved["arrays"]
        return saved["arrays"]

    @contextlib.contextmanager
    def having(self, **changes: Any) -> Iterator[None]:
        """Phases begun within see the configuration with these fields changed, and bear its fingerprint."""
        whole = self.config
        self.config = dataclasses.replace(whole, **changes)
        try:
            yield
        finally:
            self.config = whole

    # --- results ----------------------------------------------------------------------------

    def set_earlier_results_aside(self) -> None:
        """Move results and figures of a run with another configuration to results/earlier-DATE/."""
        if not (self.results_dir / "results.json").exists():
            return
        try:
            if load_results(self.results_dir)["config"] == _plain(self.config.identity()):
                return
        except (ValueError, KeyError, TypeError, AttributeError):
            log.warning("%s is unreadable: set aside", self.results_dir / "results.json")
        stamp = datetime.datetime.now(datetime.UTC).strftime("%Y%m%d-%H%M%S")
        taken = len(list(self.results_dir.glob(f"earlier-{stamp}*")))
        aside = self.results_dir / (f"earlier-{stamp}-{taken}" if taken else f"earlier-{stamp}")
        aside.mkdir()
        # results.json goes last: while it is there, an interrupted move is taken up again
        kept = [
            *self.plots_dir.glob("*.*"),
            *self.results_dir.glob("*.npz"),
            *self.results_dir.glob("*.json"),
        ]
        for path in kept:
            shutil.move(path, aside / path.name)
        log.info("an earlier run's results (another configuration) are now in %s", aside)

    def save(self) -> None:
        """Write results.json and arrays.npz."""
        timings = dict(self.results.timings)
        timings["phase_seconds"] = self.phase_seconds
        timings["peak_memory_mb"] = _peak_memory_mb(self.device)
        content = {
            "schema": SCHEMA,
            "experiment": self.experiment,
            "preset": self.config.preset,
            "config": _plain(self.config.identity()),
            "changed": self.changed,
            "provenance": self.provenance,
            "seeds": list(self.config.seeds),
            "metrics": self.results.metrics,
            "timings": timings,
            "criteria": evaluate(self.criteria, self.results.metrics),
        }
        save_results(self.results_dir, content, self.results.arrays)


def _plain(value: Any) -> Any:
    """A configuration as JSON gives it back: tuples as lists."""
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    return [_plain(item) for item in value] if isinstance(value, (tuple, list)) else value


def _peak_memory_mb(device: torch.device) -> float | None:
    """Peak memory of the accelerator, else of the process; None where the system does not say (Windows)."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 2**20
    if sys.platform == "win32":
        return None
    import resource  # Unix only

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / (2**20 if sys.platform == "darwin" else 2**10)


def start_run(
    experiment: str,
    folder: Path,
    presets: Mapping[str, RunConfig],
    args: Sequence[str] | None = None,
    check: Callable[[RunConfig], None] | None = None,
    criteria: Sequence[Criterion] = (),
) -> Run:
    """Parse the command line and open the run; what is wrong with either ends the program (exit code 2).

    `check` raises ValueError for what only the experiment can tell of its configuration; a replot has none
    of its own.
    """
    config = parse_command_line(presets, args)
    configure_logging()
    try:
        if check is not None and not config.replot:
            check(config)
        run = Run(experiment, config, folder, presets[config.preset], criteria)
        if config.replot:
            found = load_results(run.results_dir)["experiment"]
            load_arrays(run.results_dir)
            if found != experiment:
                exit_with_error(f"--replot needs {experiment}'s results, and {run.results_dir} has {found}'s")
        else:
            run.results_dir.mkdir(parents=True, exist_ok=True)
    except FileNotFoundError:
        exit_with_error(f"--replot needs the results of a run, and {run.results_dir} has none")
    except (ValueError, OSError) as error:
        exit_with_error(str(error))
    seed_everything(config.seeds[0])
    return run


def work(run: Run, compute: Callable[[Run], None]) -> None:
    """compute(run); an interrupt or a training that diverged ends the program at once, with one line.

    A training in another thread would be waited for at exit; checkpoints are atomic, so nothing is lost.
    """
    try:
        compute(run)
    except ConfigError as error:  # what shows only once the data are there
        exit_with_error(str(error))
    except KeyboardInterrupt:
        log.warning("interrupted: the same command goes on from the last checkpoint")
        os._exit(130)
    except FloatingPointError as error:
        log.error("%s", error)
        os._exit(1)


def run_training(
    experiment: str,
    folder: Path,
    presets: Mapping[str, RunConfig],
    train: Callable[[Run], None],
    check: Callable[[RunConfig], None] | None = None,
) -> None:
    """What every train_*.py does on its own: leave the checkpoints that run_experiment.py reuses."""
    run = start_run(experiment, folder, presets, check=check)
    if run.config.replot:
        exit_with_error("replot (--replot) = True: allowed: only with run_experiment.py")
    work(run, train)
    print(f"Checkpoints: {run.checkpoints_dir}")


def run_experiment(
    experiment: str,
    folder: Path,
    presets: Mapping[str, RunConfig],
    compute: Callable[[Run], None],
    draw: Callable[[dict[str, Any], dict[str, Any]], Mapping[str, Figure | Iterable[Figure]]],
    criteria: Sequence[Criterion],
    args: Sequence[str] | None = None,
    check: Callable[[RunConfig], None] | None = None,
) -> int:
    """What every run_experiment.py does: parse, compute, save, draw from what was saved, report.

    Args:
        experiment: its name, such as exp1_spectral_cliff.
        folder: the experiment's folder.
        presets: its configurations.
        compute: fills run.results.
        draw: (results.json, arrays) -> {file name: figure, or the frames of an animation}.
        criteria: what it claims.
        args: command line, by default the process's.
        check: raises ValueError for a configuration that cannot run, before anything is written.

    Returns:
        exit code: 0, or with --strict 1 where a criterion failed.
    """
    run = start_run(experiment, folder, presets, args, check, criteria)
    if not run.config.replot:
        work(run, compute)
        run.set_earlier_results_aside()
        run.save()
    saved = load_results(run.results_dir)
    with house_style():
        for name, figure in draw(saved, load_arrays(run.results_dir)).items():
            save = save_figure if isinstance(figure, Figure) else save_animation
            save(figure, run.plots_dir / name)
    print(format_table(saved["criteria"], saved["preset"], saved["seeds"]))
    print(f"\nFigures: {run.plots_dir}\nNumbers: {run.results_dir / 'results.json'}")
    failed = any(criterion["passed"] is False for criterion in saved["criteria"])
    return 1 if run.config.strict and failed else 0
