"""Timing of alternatives in one process, so that their ratios mean something on a noisy machine."""

import statistics
import time
from collections.abc import Callable, Mapping


def median_seconds(functions: Mapping[str, Callable[[], object]], repeats: int) -> dict[str, float]:
    """Median time of each function over `repeats` calls [s]; called in turn, noise falls on all alike."""
    times: dict[str, list[float]] = {name: [] for name in functions}
    for repeat in range(repeats + 1):
        for name, function in functions.items():
            began = time.perf_counter()
            function()
            if repeat:  # the first round warms up
                times[name].append(time.perf_counter() - began)
    return {name: statistics.median(values) for name, values in times.items()}
