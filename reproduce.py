"""Run every experiment and write one report.

    python reproduce.py                          every experiment, quick preset: minutes
    python reproduce.py --preset full            what the README reports: see its table of minutes
    python reproduce.py --only exp1_spectral_cliff
    python reproduce.py --workers 4              side by side (pip install -r requirements-sweep.txt)
    python reproduce.py --update-reference       copy the results to reference/, rewrite the documents

The report is report/index.html, self-contained. A failing experiment does not stop the others and
makes the exit code 1; a failed criterion is a finding and does not, unless --strict is given. Bad input ends
with code 2, Ctrl-C with 130 and SIGTERM with 143; the experiment under way then ends too.
"""

import json
import logging
import math
import shutil
import subprocess
import sys
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from common.config import RunConfig
from common.run.command_line import bounded, exit_with_error, parse_command_line, reject, say, show
from common.run.signals import Terminated, stoppable

if TYPE_CHECKING:
    from common.report.html import Finished
    from common.sweeps.trial import Task

log = logging.getLogger("reproduce")

ROOT = Path(__file__).resolve().parent
EXPERIMENTS = tuple(sorted(path.parent.name for path in ROOT.glob("exp[0-9]_*/run_experiment.py")))
REFERENCE_LIMIT_MB = 9.0
INTERRUPTED = (130, 143)  # exit codes of an experiment that has said how to go on
GRACE = 60.0  # an experiment that is told to stop may take until it is ended [s]


@dataclass(frozen=True)
class ReproduceConfig(RunConfig):
    """Run every experiment as a subprocess and write report/index.html."""

    # experiments to run, each once
    only: tuple[Literal[EXPERIMENTS], ...] = EXPERIMENTS
    # training seeds; none given: those of each experiment's preset
    seeds: tuple[int, ...] | None = bounded(None, low=0, high=2**63 - 1)
    # folder that gets report/ and a folder for each experiment; none given: the repository
    output_dir: Path | None = None
    # folder that gets a cache folder for each experiment; none given: checkpoints/ in each experiment's own
    cache_dir: Path | None = None
    # run experiments, and training seeds of the full preset, side by side through Ray: so many at a time;
    # none given: one after the other
    workers: int | None = bounded(None, low=1)
    # run them on this Ray cluster: auto, HOST:PORT or ray://HOST:PORT
    address: str | None = None
    # copy results.json and figures to reference/ and rewrite the generated parts of the documents
    update_reference: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.only:
            reject("only", self.only, f"at least one of {', '.join(EXPERIMENTS)}")
        self._require_distinct("only", "each experiment once")
        if self.update_reference and (self.seeds or self.replot):
            reject("update_reference", True, "without --seeds and --replot: the reference is a whole preset")
        if self.side_by_side and self.replot:
            reject("replot", True, "without --workers and --address")
        if self.side_by_side and self.update_reference and self.preset == "full":
            reject("update_reference", True, "without --workers and --address: one run of all seeds")

    @property
    def side_by_side(self) -> bool:
        """Whether experiments run side by side, through Ray."""
        return self.workers is not None or self.address is not None


PRESETS = {name: ReproduceConfig(preset=name) for name in ("quick", "full")}


def folder_of(experiment: str, config: ReproduceConfig) -> Path:
    """Where an experiment writes: its own folder, or one of its name below --output-dir."""
    return _below(config.output_dir or ROOT, experiment)


def _below(folder: Path, name: str) -> Path:
    return folder.expanduser().resolve() / name


def command_of(experiment: str, config: ReproduceConfig) -> list[str]:
    """The command line that runs one experiment."""
    command = [sys.executable, str(ROOT / experiment / "run_experiment.py"), "--preset", config.preset]
    command += ["--device", config.device, "--checkpoint-every", str(config.checkpoint_every)]
    command += ["--tracker", config.tracker]
    command += ["--seeds", *map(str, config.seeds)] if config.seeds else []
    command += ["--output-dir", str(folder_of(experiment, config))]
    command += ["--cache-dir", str(_below(config.cache_dir, experiment))] if config.cache_dir else []
    return command + [flag for flag in ("--replot", "--fresh") if getattr(config, flag.removeprefix("--"))]


def run_one(experiment: str, config: ReproduceConfig) -> str | None:
    """Run one experiment with its output on this terminal; why it failed, or None."""
    with subprocess.Popen(command_of(experiment, config), stdout=subprocess.DEVNULL) as process:
        try:
            code = process.wait()
        except KeyboardInterrupt as interrupt:
            _end(process)
            if process.returncode in INTERRUPTED:
                raise type(interrupt)("said") from None
            raise
    return None if code == 0 else f"exit code {code}"


def _end(process: subprocess.Popen) -> None:
    """Tell a process to stop, and end it if it takes too long."""
    process.terminate()
    try:
        process.wait(GRACE)
    except subprocess.TimeoutExpired:
        process.kill()


def run_all(config: ReproduceConfig) -> tuple[list["Finished"], dict[str, str]]:
    """Run the chosen experiments in turn: what each left, and why others left nothing."""
    from common.report.html import read_finished

    finished, failures = [], {}
    for number, experiment in enumerate(config.only, start=1):
        log.info("[%d/%d] %s (%s preset) ...", number, len(config.only), experiment, config.preset)
        began = time.monotonic()
        reason = run_one(experiment, config)
        try:
            if reason is None:
                finished.append(read_finished(experiment, folder_of(experiment, config)))
        except (ValueError, OSError) as error:
            reason = str(error)
        state = f"failed: {reason}" if reason else "done"
        spent = (time.monotonic() - began) / 60
        log.info("[%d/%d] %s %s in %.1f min", number, len(config.only), experiment, state, spent)
        if reason:
            failures[experiment] = reason
    return finished, failures


def run_side_by_side(config: ReproduceConfig) -> tuple[list["Finished"], dict[str, str]]:
    """`run_all` with all experiments at once, and of the full preset all seeds."""
    from common.sweeps.engine import Machines, cluster, run_tasks
    from common.sweeps.experiments import finish, make_parts

    machines = Machines(config.workers, config.address)
    machines.require()
    parts = [make_parts(name, settings_of(name, config), config.preset == "full") for name in config.only]
    tasks = sorted((task for part in parts for task in part.tasks), key=_usual_seconds, reverse=True)
    log.info("%d experiments as %d trials ...", len(parts), len(tasks))
    with cluster(machines, folder_of("report", config) / "ray") as storage:
        records = {record.id: record for record in run_tasks(tasks, machines, storage)}
    finished, failures = [], {}
    for part in parts:
        try:
            finished.append(finish(part, [records[task.id] for task in part.tasks]))
        except (ValueError, OSError) as error:
            failures[part.name] = str(error)
    return finished, failures


def settings_of(experiment: str, config: ReproduceConfig) -> RunConfig:
    """The configuration that `command_of` asks for."""
    from common.sweeps.trial import find_experiment

    preset = find_experiment(experiment).presets[config.preset]
    cache = _below(config.cache_dir, experiment) if config.cache_dir else None
    given = {name: getattr(config, name) for name in ("device", "checkpoint_every", "fresh", "tracker")}
    return replace(
        preset, **given, seeds=config.seeds or preset.seeds, output_dir=folder_of(experiment, config),
        cache_dir=cache,
    )  # fmt: skip


def _usual_seconds(task: "Task") -> float:
    """How long the reference run of a task's experiment took: the longest go first."""
    try:
        path = ROOT / "reference" / task.experiment / "quick.json"
        return float(json.loads(path.read_text(encoding="utf-8"))["timings"]["phase_seconds"])
    except (OSError, ValueError, KeyError, TypeError):
        return math.inf


def update_reference(finished: list["Finished"]) -> None:
    """Copy full runs (results.json, figures) and quick runs (quick.json), then regenerate the documents."""
    from common.report.documents import update_documents

    for experiment in finished:
        target = ROOT / "reference" / experiment.name
        target.mkdir(parents=True, exist_ok=True)
        results = experiment.folder / "results" / "results.json"
        if experiment.results["preset"] == "quick":
            shutil.copyfile(results, target / "quick.json")
            continue
        for old in (*target.glob("*.png"), *target.glob("*.gif")):
            old.unlink()
        for figure in experiment.figures:
            if not figure.name.endswith("_training.png"):  # large, and any run draws them
                shutil.copyfile(figure, target / figure.name)
        shutil.copyfile(results, target / "results.json")
    size = sum(path.stat().st_size for path in (ROOT / "reference").rglob("*") if path.is_file()) / 2**20
    log.info("reference/ holds %.1f MB (at most %.0f)", size, REFERENCE_LIMIT_MB)
    try:
        update_documents(ROOT)
    except FileNotFoundError as missing:
        log.warning("documents not rewritten: they also name a run that is not there (%s)", missing.filename)
    except (KeyError, ValueError) as error:
        log.warning("documents not rewritten: they name what these results do not hold (%s)", error)


def reproduce(config: ReproduceConfig) -> int:
    """Run the experiments, write the report and print the verdicts; the exit code."""
    from common.report.html import render_html
    from common.run.criteria import format_table
    from common.run.devices import resolve_device
    from common.run.files import write_atomically
    from common.run.progress import configure_logging

    configure_logging()
    page = folder_of("report", config) / "index.html"
    try:
        resolve_device(config.device)
        page.parent.mkdir(parents=True, exist_ok=True)
    except (ValueError, OSError) as error:
        exit_with_error(str(error))
    try:
        finished, failures = run_side_by_side(config) if config.side_by_side else run_all(config)
    except ValueError as error:
        exit_with_error(str(error))
    html = render_html(finished, failures)
    write_atomically(page, lambda file: file.write(html.encode()))
    tables = [
        f"\n{done.name}\n{format_table(*(done.results[part] for part in ('criteria', 'preset', 'seeds')))}"
        for done in finished
    ]
    reasons = [f"\n{experiment}: {reason}" for experiment, reason in failures.items()]
    unseen = show(*tables, *reasons, f"\nReport: {page}")
    if config.update_reference:
        update_reference(finished)
    missed = any(row["passed"] is False for experiment in finished for row in experiment.results["criteria"])
    return 1 if unseen or failures or (config.strict and missed) else 0


def main() -> int:
    """The command line's end: what interrupts or fails is one line on stderr and an exit code."""
    config = parse_command_line(PRESETS)
    try:
        with stoppable():
            return reproduce(config)
    except KeyboardInterrupt as interrupt:
        terminated = isinstance(interrupt, Terminated)
        if not interrupt.args:  # the experiment under way has not said so
            word = "terminated" if terminated else "interrupted"
            say(f"{word}: the same command goes on from the last checkpoint")
        return 143 if terminated else 130
    except OSError as error:
        say(f"reproduce.py: error: {error}")
        return 1


if __name__ == "__main__":
    raise SystemExit(main())
