"""Run every experiment and write one report.

    python reproduce.py                          every experiment, quick preset: minutes
    python reproduce.py --preset full            what the README reports: see its table of minutes
    python reproduce.py --only exp1_spectral_cliff
    python reproduce.py --update-reference       copy the results to reference/, rewrite the documents

The report is report/index.html, self-contained. A failing experiment does not stop the others and
makes the exit code 1; a failed criterion is a finding and does not.
"""

import logging
import shutil
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from common.config import RunConfig
from common.report.documents import update_documents
from common.report.html import Finished, read_finished, render_html
from common.run.command_line import exit_with_error, parse_command_line, reject
from common.run.criteria import format_table
from common.run.devices import resolve_device
from common.run.progress import configure_logging

log = logging.getLogger("reproduce")

ROOT = Path(__file__).resolve().parent
EXPERIMENTS = tuple(sorted(path.parent.name for path in ROOT.glob("exp[0-9]_*/run_experiment.py")))
REFERENCE_LIMIT_MB = 7.0


@dataclass(frozen=True)
class ReproduceConfig(RunConfig):
    """Run every experiment as a subprocess and write report/index.html."""

    # experiments to run (default: all of them)
    only: tuple[Literal[EXPERIMENTS], ...] = ()
    # training seeds; none given: those of each experiment's preset
    seeds: tuple[int, ...] = ()
    # copy results.json and figures to reference/ and rewrite the generated parts of the documents
    update_reference: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        if any(seed < 0 for seed in self.seeds):
            reject("seeds", self.seeds, "whole numbers >= 0")
        if self.update_reference and (self.seeds or self.replot):
            reject("update_reference", True, "without --seeds and --replot: the reference is a whole preset")


PRESETS = {name: ReproduceConfig(preset=name) for name in ("quick", "full")}


def folder_of(experiment: str, config: ReproduceConfig) -> Path:
    """Where an experiment writes: its own folder, or one of its name below --output-dir."""
    return ROOT / experiment if config.output_dir is None else config.output_dir.resolve() / experiment


def run_one(experiment: str, config: ReproduceConfig) -> str | None:
    """Run one experiment with its output on this terminal; why it failed, or None."""
    command = [sys.executable, str(ROOT / experiment / "run_experiment.py"), "--preset", config.preset]
    command += ["--device", config.device, "--checkpoint-every", str(config.checkpoint_every)]
    command += ["--seeds", *map(str, config.seeds)] if config.seeds else []
    command += ["--output-dir", str(folder_of(experiment, config))]
    command += [flag for flag, given in (("--replot", config.replot), ("--fresh", config.fresh)) if given]
    done = subprocess.run(command, stdout=subprocess.DEVNULL)
    return None if done.returncode == 0 else f"exit code {done.returncode}"


def run_all(config: ReproduceConfig) -> tuple[list[Finished], dict[str, str]]:
    """Run the chosen experiments in turn: what each left, and why others left nothing."""
    chosen = config.only or EXPERIMENTS
    finished, failures = [], {}
    for number, experiment in enumerate(chosen, start=1):
        log.info("[%d/%d] %s (%s preset) ...", number, len(chosen), experiment, config.preset)
        began = time.monotonic()
        reason = run_one(experiment, config)
        state = f"failed: {reason}" if reason else "done"
        spent = (time.monotonic() - began) / 60
        log.info("[%d/%d] %s %s in %.1f min", number, len(chosen), experiment, state, spent)
        if reason:
            failures[experiment] = reason
        else:
            finished.append(read_finished(experiment, folder_of(experiment, config)))
    return finished, failures


def update_reference(finished: list[Finished]) -> None:
    """Copy full runs (results.json, figures) and quick runs (quick.json), then regenerate the documents."""
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
            shutil.copyfile(figure, target / figure.name)
        shutil.copyfile(results, target / "results.json")
    size = sum(path.stat().st_size for path in (ROOT / "reference").rglob("*") if path.is_file()) / 2**20
    log.info("reference/ holds %.1f MB (at most %.0f)", size, REFERENCE_LIMIT_MB)
    try:
        update_documents(ROOT)
    except FileNotFoundError as missing:
        log.warning("documents not rewritten: they also name a run that is not there (%s)", missing.filename)


def main() -> int:
    config = parse_command_line(PRESETS)
    configure_logging()
    report_dir = ROOT / "report" if config.output_dir is None else config.output_dir.resolve() / "report"
    try:
        resolve_device(config.device)
        report_dir.mkdir(parents=True, exist_ok=True)
    except (ValueError, OSError) as error:
        exit_with_error(str(error))
    finished, failures = run_all(config)
    (report_dir / "index.html").write_text(render_html(finished, failures), encoding="utf-8")
    for experiment in finished:
        results = experiment.results
        print(f"\n{experiment.name}")
        print(format_table(results["criteria"], results["preset"], results["seeds"]))
    for experiment, reason in failures.items():
        print(f"\n{experiment}: {reason}")
    print(f"\nReport: {report_dir / 'index.html'}")
    if config.update_reference:
        update_reference(finished)
    missed = any(row["passed"] is False for experiment in finished for row in experiment.results["criteria"])
    return 1 if failures or (config.strict and missed) else 0


if __name__ == "__main__":
    raise SystemExit(main())
