"""The training seeds of several runs taken together, with the intervals that one run of all would have had.

What makes that possible: every success rate and every difference of two leaves its values start by start
in arrays.npz (see common.planner_comparison.record_success).
"""

import fnmatch
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch

from common.criteria import evaluate
from common.planner_comparison import STARTS, record_paired, record_success
from common.results import SCHEMA, Results

# Settings that say which parts of an experiment are run; in these alone may runs differ, beside their seeds.
SCOPE = {
    "seeds", "environments", "study_environments", "objective_environments", "pillar_environments",
    "pillar_objectives",
}  # fmt: skip


def pool(
    runs: Sequence[tuple[Mapping[str, Any], Mapping[str, np.ndarray]]], patterns: Sequence[str] = ("*",)
) -> dict[str, Any]:
    """The results.json of several runs' seeds taken together.

    Args:
        runs: results.json and arrays.npz of each.
        patterns: of metrics to pool, as in a shell; of these every one that all runs have is.

    Returns:
        content for common.results.to_json: metrics with the values of all seeds in the order of the runs,
        intervals where all runs kept their starts; `provenance` is a list, one entry a run.

    Raises:
        ValueError: runs of different experiments, settings or starts, of a seed twice, or without a metric
            in common.
    """
    contents = [content for content, _ in runs]
    _require_alike(contents)
    seeds = [seed for content in contents for seed in content["seeds"]]
    results = Results(contents[0]["experiment"], seeds)
    common = [name for name in contents[0]["metrics"] if all(name in c["metrics"] for c in contents)]
    for name in common:
        if any(fnmatch.fnmatchcase(name, pattern) for pattern in patterns):
            _pool_metric(results, name, runs)
    if not results.metrics:
        raise ValueError(f"no metric in common that matches {' '.join(patterns)}")
    return {
        "schema": SCHEMA,
        "experiment": results.experiment,
        "preset": contents[0]["preset"],
        "config": contents[0]["config"] | {"seeds": seeds},
        "changed": sorted({name for content in contents for name in content["changed"]} | {"seeds"}),
        "provenance": [content["provenance"] for content in contents],
        "seeds": seeds,
        "metrics": results.metrics,
        "timings": {},
        "criteria": evaluate(results.experiment, results.metrics),
    }


def _pool_metric(
    results: Results, name: str, runs: Sequence[tuple[Mapping[str, Any], Mapping[str, np.ndarray]]]
) -> None:
    entries = [content["metrics"][name] for content, _ in runs]
    values = [float("nan") if value is None else value for entry in entries for value in entry["values"]]
    kept = [arrays[name + STARTS] for _, arrays in runs if name + STARTS in arrays]
    if len(kept) < len(runs):
        results.add(name, values, entries[0]["unit"])
        return
    if len({array.shape[1] for array in kept}) > 1:
        raise ValueError(f"{name} was measured from different starts")
    starts = torch.from_numpy(np.concatenate(kept))
    record = record_success if starts.dtype == torch.bool else record_paired
    record(results, name, starts)


def _require_alike(contents: Sequence[Mapping[str, Any]]) -> None:
    first, seeds = contents[0], [seed for content in contents for seed in content["seeds"]]
    if len(contents) < 2:
        raise ValueError("one run alone: there is nothing to pool")
    if len(set(seeds)) < len(seeds):
        raise ValueError(f"seeds {' '.join(map(str, seeds))}: every seed may be in one run alone")
    for other in contents[1:]:
        if other["experiment"] != first["experiment"]:
            raise ValueError(f"runs of {first['experiment']} and of {other['experiment']}")
        names = first["config"].keys() | other["config"].keys()
        differing = sorted(
            name
            for name in names - SCOPE
            if name != "preset" and first["config"].get(name) != other["config"].get(name)
        )
        if differing:
            raise ValueError(f"runs with different settings: {', '.join(differing)}")
