"""Early stopping of trials that do badly, by a curve of their trainings (ASHA: Li et al., 2020).

For exploring alone: a trial that was stopped has no results, so what is left was chosen.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from common.run.tracking import Tracker

FACTOR = 3  # of steps between two comparisons; of the trials, one in so many goes on
FOREVER = 10**9  # steps that no training has: how long it is, the training says


@dataclass(frozen=True)
class Asha:
    """Trials are compared by a curve each time that a training has three times as many steps.

    The curve is one that a tracker shows, such as lorenz/helm/train/loss: a training's loss averaged over
    seeds, told as its checkpoints are written. A training that is found in the cache is told at once.
    """

    curve: str
    mode: str = "min"  # min or max: what is better
    first: int = 500  # steps before which no trial is stopped

    def scheduler(self) -> Any:
        """Ray's."""
        from ray.tune.schedulers import ASHAScheduler

        return ASHAScheduler(
            time_attr="step", metric="value", mode=self.mode, grace_period=self.first, max_t=FOREVER,
            reduction_factor=FACTOR,
        )  # fmt: skip

    def follow(self, tracker: Tracker) -> Tracker:
        """A tracker that tells Ray of the curve, and everything to another one."""
        return _Telling(tracker, self)


class _Telling:
    """A tracker that tells two: Ray, which may end the trial here, and another tracker."""

    def __init__(self, tracker: Tracker, asha: Asha):
        self._tracker, self._curve, self._next = tracker, asha.curve, asha.first

    def __getattr__(self, name: str) -> Any:
        return getattr(self._tracker, name)

    def scalars(self, group: str, values: Mapping[str, float], step: int) -> None:
        """Numbers of a training at one of its steps; Ray is told where it compares."""
        from ray import tune

        self._tracker.scalars(group, values, step)
        for name, value in values.items():
            if f"{group}/{name}" == self._curve and step >= self._next:
                self._next = FACTOR * step
                tune.report({"value": value, "step": step})
