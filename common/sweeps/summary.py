"""What a sweep found: its trials' results by setting, seeds taken together, as rows, as a table, as JSON.

Shapes: S seeds of a setting.
"""

import csv
import difflib
import io
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from common.report.pooling import pool
from common.run.criteria import format_number
from common.run.results import load_arrays, load_results
from common.statistics import mean_interval
from common.sweeps.plan import Setting, label_of
from common.sweeps.trial import DONE, Record

SHOWN = 10  # settings of the printed table


@dataclass(frozen=True)
class Ended:
    """A trial that was done: its record, its results.json and its arrays."""

    record: Record
    results: Mapping[str, Any]
    arrays: Mapping[str, np.ndarray]


@dataclass(frozen=True)
class Pooled:
    """One setting, with the seeds of all its trials that were done."""

    setting: Setting
    seeds: Sequence[int]
    metrics: Mapping[str, Mapping[str, Any]]  # as in results.json

    def values(self, metric: str) -> dict[int, float]:
        """The finite values of a metric by seed."""
        values = self.metrics.get(metric, {}).get("values", [])
        return {seed: value for seed, value in zip(self.seeds, values, strict=False) if value is not None}

    def mean(self, metric: str) -> float | None:
        """Over all seeds; None where one has no finite value."""
        return self.metrics.get(metric, {}).get("mean")

    def interval(self, metric: str) -> tuple[float, float] | None:
        """95% of the mean: over starts and training seeds where starts are shared, else over seeds.

        None for one seed, of which no retraining can be known.
        """
        entry, values = self.metrics.get(metric, {}), self.values(metric)
        if "interval95" in entry:
            return tuple(entry["interval95"])
        return mean_interval(list(values.values())) if len(values) > 1 else None


def read_ended(records: Sequence[Record], folder: Path) -> list[Ended]:
    """What the trials that were done have left below a folder, one of its name for each."""
    done = [record for record in records if record.state == DONE]
    places = [folder / record.id / "results" for record in done]
    return [
        Ended(record, load_results(place), load_arrays(place))
        for record, place in zip(done, places, strict=True)
    ]


def pool_settings(trials: Sequence[Ended]) -> list[Pooled]:
    """The settings in the order of their first trials, each with its seeds taken together.

    Raises:
        ValueError: trials of one setting cannot be pooled.
    """
    by_setting: dict[tuple, list[Ended]] = {}
    for trial in trials:
        by_setting.setdefault(tuple(trial.record.setting.items()), []).append(trial)
    return [_pool(dict(setting), found) for setting, found in by_setting.items()]


def _pool(setting: Setting, trials: Sequence[Ended]) -> Pooled:
    if len(trials) == 1:
        return Pooled(setting, trials[0].results["seeds"], trials[0].results["metrics"])
    pooled = pool([(trial.results, trial.arrays) for trial in trials])
    return Pooled(setting, pooled["seeds"], pooled["metrics"])


def to_csv(trials: Sequence[Ended], fields: Sequence[str]) -> str:
    """One row a trial, seed and metric; a value that is not finite is empty."""
    file = io.StringIO()
    writer = csv.writer(file, lineterminator="\n")
    writer.writerow(["trial", *fields, "seed", "metric", "unit", "value"])
    for trial in trials:
        setting = [trial.record.setting.get(field, "") for field in fields]
        for metric, entry in trial.results["metrics"].items():
            for seed, value in zip(trial.results["seeds"], entry["values"], strict=True):
                shown = "" if value is None else repr(value)
                writer.writerow([trial.record.id, *setting, seed, metric, entry["unit"], shown])
    return file.getvalue()


def ranked(settings: Sequence[Pooled], metric: str, mode: str) -> list[Pooled]:
    """Settings from the best to the worst; those without a finite mean at the end."""

    def key(setting: Pooled) -> float:
        mean = setting.mean(metric)
        return math.inf if mean is None else mean if mode == "min" else -mean

    return sorted(settings, key=key)


def difference(setting: Pooled, other: Pooled, metric: str) -> tuple[float, float] | None:
    """95% interval of the difference of two settings, seed by seed; None without two seeds in common."""
    first, second = setting.values(metric), other.values(metric)
    both = [first[seed] - second[seed] for seed in first if seed in second]
    return mean_interval(both) if len(both) > 1 else None


def is_within_spread(setting: Pooled, other: Pooled, metric: str) -> bool | None:
    """Whether two settings differ by no more than seeds do; None where that cannot be known."""
    apart = difference(setting, other, metric)
    return None if apart is None else apart[0] <= 0.0 <= apart[1]


def format_settings(settings: Sequence[Pooled], metric: str, mode: str) -> str:
    """The best settings as a plain-text table: mean, interval, and the difference to the best."""
    best, *others = order = ranked(settings, metric, mode)
    kind = "highest" if mode == "max" else "lowest"
    lines = [f"{metric}, {kind} first; 95% intervals"]
    width = max(len(label_of(each.setting)) for each in order[:SHOWN])
    for each in order[:SHOWN]:
        said = "" if each is best else f"  {_compared(each, best, metric)}"
        lines.append(
            f"  {label_of(each.setting):<{width}}  {_number_with_interval(each, metric):<32}"
            f"  {len(each.seeds)} seed{'s' if len(each.seeds) > 1 else ''}{said}"
        )
    if len(order) > SHOWN:
        lines.append(f"  and {len(order) - SHOWN} more, in sweep.csv")
    if others:
        lines.append("The best was chosen on these very seeds: what is reported of it, take from others.")
    return "\n".join(lines)


def _compared(setting: Pooled, best: Pooled, metric: str) -> str:
    apart = difference(setting, best, metric)
    if apart is None:
        return "difference to the best: unknown, with fewer than two seeds in common"
    words = "inside the seeds' spread" if apart[0] <= 0.0 <= apart[1] else "beyond the seeds' spread"
    return f"difference to the best: {_interval(apart)}, {words}"


def _number_with_interval(setting: Pooled, metric: str) -> str:
    interval = setting.interval(metric)
    return format_number(setting.mean(metric)) + (f" {_interval(interval)}" if interval else "")


def _interval(interval: tuple[float, float]) -> str:
    return f"[{format_number(interval[0])}, {format_number(interval[1])}]"


def nearest_metrics(settings: Sequence[Pooled], metric: str) -> list[str]:
    """Metrics that there are, the likeliest to be meant first."""
    known = sorted({name for setting in settings for name in setting.metrics})
    return difflib.get_close_matches(metric, known, 3, 0.3) or known[:3]


def to_content(
    records: Sequence[Record], trials: Sequence[Ended], settings: Sequence[Pooled], **about: Any
) -> dict[str, Any]:
    """sweep.json: what was asked for (`about`), how each trial ended, and every metric by setting."""
    ran = [asdict(record) | {"seeds": list(record.seeds)} for record in records]
    made = {str(sorted(origin.items())): origin for each in trials for origin in each.results["computed_by"]}
    found = [
        {"setting": dict(each.setting), "seeds": list(each.seeds), "metrics": _with_intervals(each)}
        for each in settings
    ]
    return {**about, "trials": ran, "computed_by": list(made.values()), "settings": found}


def _with_intervals(setting: Pooled) -> dict[str, Any]:
    """The metrics, each with its interval."""
    return {
        name: {**entry, "interval95": list(interval)} if (interval := setting.interval(name)) else dict(entry)
        for name, entry in setting.metrics.items()
    }
