"""Settings that Optuna chooses (TPE: Bergstra et al., 2011) instead of a grid, through Ray Tune.

Which settings have been tried is read from the trials' records, so a search that was killed goes on with what
it knows; which ones follow depends on the order in which trials end.
"""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from common.run.command_line import ConfigError
from common.sweeps.plan import Plan, Setting, Varied
from common.sweeps.summary import pool_settings, read_ended
from common.sweeps.tasks import TaskMaker
from common.sweeps.trial import DONE, RECORD, Record, Task, do_trial, ended, load_record

log = logging.getLogger(__name__)

DIGITS = 4  # significant, of a number that is chosen


@dataclass(frozen=True)
class Search:
    """What is searched, for what."""

    maker: TaskMaker
    metric: str
    mode: str

    @property
    def plan(self) -> Plan:
        return self.maker.plan

    def space(self) -> dict[str, Any]:
        """Optuna's distribution of each field."""
        return {varied.field: _distribution(varied) for varied in self.plan.compared}

    def algorithm(self, known: Sequence[tuple[Setting, float]]) -> Any:
        """Ray's wrapper of Optuna's sampler, told what is known."""
        from optuna.samplers import TPESampler
        from ray.tune.search.optuna import OptunaSearch

        told = {}
        if known:
            told["points_to_evaluate"] = [self._numbers(setting) for setting, _ in known]
            told["evaluated_rewards"] = [value for _, value in known]
        return OptunaSearch(
            self.space(), metric="value", mode=self.mode, sampler=TPESampler(seed=len(known)), **told
        )

    def setting_of(self, chosen: Mapping[str, Any]) -> Setting:
        """Optuna's choice as flags take it."""
        return {varied.field: _text(varied, chosen[varied.field]) for varied in self.plan.compared}

    def _numbers(self, setting: Setting) -> dict[str, Any]:
        """A setting as Optuna knows it."""
        return {varied.field: varied.value(setting[varied.field]) for varied in self.plan.compared}

    def tasks_of(self, setting: Setting) -> list[Task]:
        """A setting's trials, one for each of --vary seeds.

        Raises:
            ConfigError: fields that are allowed each, but not together.
        """
        return [self.maker.task(trial) for trial in self.plan.trials_of(setting)]

    def value(self, records: Sequence[Record]) -> float | None:
        """The metric of one setting, over all its seeds; None where it was not measured."""
        (found,) = pool_settings(read_ended(records, self.maker.trials)) or (None,)
        return None if found is None else found.mean(self.metric)

    def evaluate(self, chosen: Mapping[str, Any], threads: int, node: str) -> float:
        """In a worker: run a setting's trials in turn, but those that have ended; the metric, or nan."""
        try:
            tasks = self.tasks_of(self.setting_of(chosen))
        except ValueError as error:
            log.info("%s: not allowed: %s", dict(chosen), error)
            return float("nan")
        records = [ended(task) or do_trial(task, threads, node) for task in tasks]
        value = self.value(records) if all(record.state == DONE for record in records) else None
        return float("nan") if value is None else value

    def tried(self) -> list[list[Task]]:
        """The trials of each setting of this search of which there is a record, whatever it says."""
        found: dict[tuple, list[Task]] = {}
        for path in sorted(self.maker.trials.glob(f"*/results/{RECORD}"), key=_written):
            record = load_record(path.parent)
            if record is None or not self._covers(record.setting):
                continue
            try:
                tasks = self.tasks_of(record.setting)
            except ConfigError:
                continue
            if record.id in {task.id for task in tasks}:
                found.setdefault(tuple(record.setting.items()), tasks)
        return list(found.values())

    def _covers(self, setting: Setting) -> bool:
        """Whether a setting is one that this search could choose."""
        if setting.keys() != {varied.field for varied in self.plan.compared}:
            return False
        return all(
            setting[varied.field] in varied.values
            if varied.span is None
            else varied.span.low <= float(setting[varied.field]) <= varied.span.high
            for varied in self.plan.compared
        )


def _written(path: Path) -> tuple[int, str]:
    return path.stat().st_mtime_ns, str(path)


def _distribution(varied: Varied) -> Any:
    from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

    if varied.span is None:
        return CategoricalDistribution(varied.values)
    kind = IntDistribution if varied.span.whole else FloatDistribution
    return kind(varied.span.low, varied.span.high, log=varied.span.log)


def _text(varied: Varied, value: Any) -> str:
    """As a flag; a number rounded, but not out of its span."""
    if varied.span is None or varied.span.whole:
        return str(value)
    rounded = float(f"{value:.{DIGITS}g}")
    return repr(min(max(rounded, varied.span.low), varied.span.high))
