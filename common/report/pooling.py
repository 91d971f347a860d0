"""The training seeds of several runs taken together, with intervals computed as one run's of all would be.

What makes that possible: every success rate and every difference of two leaves its values start by start
in arrays.npz (see common.run.results.Results.add_rate). A planner's noise is drawn for all seeds of a
run at once, so one run of all seeds would draw other plans; nothing else differs.
"""

import fnmatch
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import torch

from common.run.criteria import Criterion, evaluate
from common.run.results import SCHEMA, STARTS, Results

# Settings that choose what a run measures, of which no number depends on another. In these, beside their
# seeds, runs may differ: what all of them measured is pooled.
SCOPE = {
    "seeds", "environments", "planning_horizons", "study_environments", "objective_environments",
    "pillar_environments", "pillar_objectives", "pillar_horizons", "parts", "penalty_sweep",
}  # fmt: skip

NEEDED = ("seeds", "preset", "changed", "config", "provenance")  # of a run's results.json

SavedRun = tuple[Mapping[str, Any], Mapping[str, np.ndarray]]  # results.json and arrays.npz


def pool(
    runs: Sequence[SavedRun], patterns: Sequence[str] = ("*",), criteria: Sequence[Criterion] = ()
) -> dict[str, Any]:
    """The metrics that all runs have, over the seeds of all.

    Args:
        runs: two or more.
        patterns: of metrics to pool, as in a shell.
        criteria: judged over all seeds, where their metrics are among the pooled; not those about the worst
            of several, unless all is pooled.

    Returns:
        schema, experiment, seeds, metrics and criteria as in results.json, values in the order of the runs,
        intervals where all runs kept their starts; `runs`, what each of them says of itself.

    Raises:
        ValueError: runs of different experiments, settings, models or numbers of starts, of a seed twice, or
            without a metric in common.
    """
    contents = [content for content, _ in runs]
    if not all(content.keys() >= set(NEEDED) for content in contents):
        raise ValueError(f"a results.json without {', '.join(NEEDED)} is not a run's")
    seeds = [seed for content in contents for seed in content["seeds"]]
    _require_alike(contents, seeds)
    results, everything = Results(contents[0]["experiment"], seeds), "*" in patterns
    for name in contents[0]["metrics"]:
        wanted = any(fnmatch.fnmatchcase(name, pattern) for pattern in patterns)
        if wanted and all(name in content["metrics"] for content in contents):
            _pool_metric(results, name, runs)
    if not results.metrics:
        raise ValueError(f"no metric in common that matches {' '.join(patterns)}")
    return {
        "schema": SCHEMA,
        "experiment": results.experiment,
        "seeds": seeds,
        "runs": [{key: content[key] for key in NEEDED} for content in contents],
        "metrics": results.metrics,
        "criteria": [
            row
            for row in evaluate(criteria, results.metrics)
            if row["passed"] is not None and (everything or "*" not in row["metric"])
        ],
    }


def pool_runs(runs: Sequence[SavedRun], criteria: Sequence[Criterion]) -> dict[str, Any]:
    """`pool`, as the results.json of one run of all seeds would be, the criteria judged over all of them.

    Timings are sums; what a run says of itself is the first one's.

    Raises:
        ValueError: as `pool`.
    """
    pooled, contents = pool(runs), [content for content, _ in runs]
    first, metrics = contents[0], pooled["metrics"]
    timings = {name: [each["timings"].get(name) for each in contents] for name in first["timings"]}
    return {
        "schema": SCHEMA,
        "experiment": pooled["experiment"],
        "title": first.get("title", ""),
        "headline": first.get("headline", ""),
        "preset": first["preset"],
        "config": first["config"] | {"seeds": pooled["seeds"]},
        "changed": first["changed"],
        "provenance": first["provenance"],
        "computed_by": _distinct(origin for each in contents for origin in each.get("computed_by", [])),
        "seeds": pooled["seeds"],
        "metrics": metrics,
        "timings": {name: sum(values) for name, values in timings.items() if None not in values},
        "criteria": evaluate(criteria, metrics),
    }


def _distinct(items: Iterable[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """Each once, in the order of their first."""
    return list({repr(sorted(item.items())): item for item in items}.values())


def _pool_metric(results: Results, name: str, runs: Sequence[SavedRun]) -> None:
    entries = [content["metrics"][name] for content, _ in runs]
    values = [float("nan") if value is None else value for entry in entries for value in entry["values"]]
    kept = [arrays[name + STARTS] for _, arrays in runs if name + STARTS in arrays]
    if len(kept) < len(runs):
        results.add(name, values, entries[0]["unit"])
        return
    if len({array.shape[1] for array in kept}) > 1:
        raise ValueError(f"{name} was measured from different numbers of starts")
    starts = torch.from_numpy(np.concatenate(kept))
    record = results.add_rate if starts.dtype == torch.bool else results.add_difference
    record(name, starts, bool(entries[0].get("enumerated")))


def _require_alike(contents: Sequence[Mapping[str, Any]], seeds: Sequence[int]) -> None:
    if len(contents) < 2:
        raise ValueError("one run alone: there is nothing to pool")
    if len(set(seeds)) < len(seeds):
        raise ValueError(f"seeds {' '.join(map(str, seeds))}: every seed may be in one run alone")
    first = contents[0]
    for other in contents[1:]:
        if other["experiment"] != first["experiment"]:
            raise ValueError(f"runs of {first['experiment']} and of {other['experiment']}")
        names = sorted((first["config"].keys() | other["config"].keys()) - SCOPE)
        differing = [name for name in names if first["config"].get(name) != other["config"].get(name)]
        if differing:
            raise ValueError(f"runs with different settings: {', '.join(differing)}")
        # an objective has a jumpy level, which training feels, only where it is planned with
        for name in sorted(first["timings"].keys() & other["timings"].keys()):
            if name.endswith("/parameters") and first["timings"][name] != other["timings"][name]:
                raise ValueError(f"{name.removesuffix('/parameters')} is a model of another size in each run")
