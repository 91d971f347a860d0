"""The files experiments/*.json: what a comparison, a sweep or one training found, for analyze_experiments.py.

An experiment file is strict JSON with the keys

    schema, experiment, kind, task, config, seeds, provenance
    runs     by name: weight and period, null without goals; exact, and exact_minus_baseline, null without a
             baseline, as metrics of results.json; the document's training metrics: `training`, by seed the
             mean over the last tenth of the steps, and `history`, over the steps
    choices  of a sweep: what the weight, and the period, gains that is best on the other seeds
"""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from common.config import Exp5Config
from common.run.command_line import show
from common.run.files import write_atomically
from common.run.results import to_json
from common.run.run import Run
from exp5_feudal_hrm.analyze_experiments import SCHEMA, TERMS, format_experiments
from exp5_feudal_hrm.feudal import FeudalVariant
from exp5_feudal_hrm.train_baseline import BASELINES, BaselineVariant
from exp5_feudal_hrm.train_feudal import feudal_variants

log = logging.getLogger(__name__)

TOO_FEW_STEPS = 600  # with fewer, no model solves puzzles that it has not seen


@dataclass(frozen=True)
class Recorded:
    """Where a run's results hold what was found of one training."""

    variant: FeudalVariant | BaselineVariant
    training: str  # its name, such as sudoku_4x4/directional
    exact: str  # a metric
    difference: str = ""  # a metric: exact less the baseline's


def recorded_variants(config: Exp5Config, task: str, names: Sequence[str]) -> dict[str, Recorded]:
    """Of the named variants, as run_experiment.py records them."""
    variants = BASELINES | feudal_variants(config)
    return {
        name: Recorded(
            variants[name], f"{task}/{name}", f"{task}/{name}/exact", f"{task}/{name}_minus_baseline/exact"
        )
        for name in names
    }


def warn_of_few_steps(steps: int) -> None:
    """Say so where a comparison cannot tell anything yet."""
    if steps < TOO_FEW_STEPS:
        log.warning(
            "%d steps: nothing can be told yet, below about %d no variant solves held-out puzzles",
            steps,
            TOO_FEW_STEPS,
        )


def settings_of(config: Exp5Config) -> dict[str, Any]:
    """A configuration as JSON takes it."""
    settings = config.identity()
    return {key: str(value) if isinstance(value, Path) else value for key, value in settings.items()}


def leave_experiment(run: Run, kind: str, name: str, task: str, recorded: Mapping[str, Recorded]) -> None:
    """Write experiments/{kind}_{name}.json in the run's output folder, print it as a table, tell the tracker.

    Args:
        run: with its results.
        kind: of experiment, such as sweep.
        name: what tells it from others of its kind.
        task: the puzzles.
        recorded: its trainings by name.
    """
    metrics = run.results.metrics
    content = {
        "schema": SCHEMA,
        "experiment": run.experiment.name,
        "kind": kind,
        "task": task,
        "config": settings_of(run.config),
        "seeds": list(run.config.seeds),
        "provenance": run.provenance,
        "runs": {label: _found(run, each) for label, each in recorded.items()},
        "choices": {key: entry for key, entry in metrics.items() if key.startswith("sweep/best_")},
    }
    path = run.folders.output / "experiments" / f"{kind}_{name}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(path, lambda file: file.write(to_json(content).encode()))
    means = {key: entry["mean"] for key, entry in metrics.items() if entry["mean"] is not None}
    run.tracker.outcome(means, ())
    show(format_experiments({path.stem: content}, "table"), f"\nExperiment: {path}")


def _found(run: Run, recorded: Recorded) -> dict[str, Any]:
    metrics, arrays, variant = run.results.metrics, run.results.arrays, recorded.variant
    terms = [term for term in TERMS if f"{recorded.training}/history/{term}" in arrays]
    goals = isinstance(variant, FeudalVariant)
    return {
        "weight": variant.weight if goals else None,
        "period": variant.period if goals else None,
        "exact": metrics[recorded.exact],
        "exact_minus_baseline": metrics.get(recorded.difference),
        "training": {term: metrics[f"{recorded.training}/training/{term}"]["values"] for term in terms},
        "history": {
            term: arrays[f"{recorded.training}/history/{term}"].tolist() for term in ("iteration", *terms)
        },
    }
