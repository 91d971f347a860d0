"""Timing of alternatives in one process, so that their ratios mean something on a noisy machine."""

import statistics
import time
from collections.abc import Callable, Mapping


def seconds_by_round(
    functions: Mapping[str, Callable[[], object]],
    repeats: int,
    clock: Callable[[], float] = time.perf_counter,
) -> dict[str, list[float]]:
    """Time of each function in each of `repeats` rounds [s]; called in turn, noise falls on all alike.

    `clock` is time.process_time where other programs share the machine.
    """
    times: dict[str, list[float]] = {name: [] for name in functions}
    for repeat in range(repeats + 1):
        for name, function in functions.items():
            began = clock()
            function()
            if repeat:  # the first round warms up
                times[name].append(clock() - began)
    return times


def median_seconds(
    functions: Mapping[str, Callable[[], object]],
    repeats: int,
    clock: Callable[[], float] = time.perf_counter,
) -> dict[str, float]:
    """Median of each function's rounds [s]."""
    rounds = seconds_by_round(functions, repeats, clock)
    return {name: statistics.median(seconds) for name, seconds in rounds.items()}
