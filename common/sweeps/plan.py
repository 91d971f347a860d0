"""What a sweep runs: fields of a configuration varied over values; every combination is a trial.

A varied field's values are texts, as its flag takes them: a trial is what run_experiment.py does with these
flags. Neither torch nor Ray is needed to make a plan, or to refuse one.
"""

import dataclasses
import difflib
import hashlib
import itertools
import json
import math
import re
import shlex
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from common.config import RunConfig
from common.run.command_line import read_flags, reject

SEEDS = "seeds"  # is varied like any field, but its values are taken together and not compared
RANGE = re.compile(r"([^:]+):([^:]+?)(:log)?")  # of a field that is searched: low:high or low:high:log
LABEL_LENGTH = 80  # letters of a trial's name that say its setting

Setting = Mapping[str, str]  # varied field -> its value as on the command line


@dataclass(frozen=True)
class Span:
    """The numbers from low to high, both included, on a logarithmic scale where `log` says so."""

    low: float
    high: float
    log: bool
    whole: bool


@dataclass(frozen=True)
class Varied:
    """A field and what it takes: values that are listed, or a span that is searched."""

    field: str
    values: tuple[str, ...] = ()
    span: Span | None = None

    def value(self, text: str) -> str | float:
        """A value as it is searched: a number of the span, or one of the texts."""
        if self.span is None:
            return text
        return int(text) if self.span.whole else float(text)


@dataclass(frozen=True)
class Trial:
    """One run of the experiment. `setting` has no seeds: trials that differ in them alone are pooled."""

    id: str
    setting: Setting
    config: RunConfig


@dataclass(frozen=True)
class Plan:
    """An experiment, the flags that go to every trial, and what is varied."""

    experiment: str
    presets: Mapping[str, RunConfig]
    flags: tuple[str, ...]
    varied: tuple[Varied, ...]
    base: RunConfig = field(repr=False)  # what the flags alone say

    @property
    def compared(self) -> tuple[Varied, ...]:
        """The varied fields whose values are compared: all but the seeds."""
        return tuple(varied for varied in self.varied if varied.field != SEEDS)

    @property
    def seeds(self) -> tuple[str, ...]:
        """The values of --vary seeds, of which each is a trial of its own; one that says nothing without."""
        given = [varied.values for varied in self.varied if varied.field == SEEDS]
        return given[0] if given else ("",)

    def trials_of(self, setting: Setting) -> list[Trial]:
        """The trials of one setting, one for each value of --vary seeds.

        Raises:
            ConfigError: the setting is not allowed.
        """
        return [self._trial(setting, seeds) for seeds in self.seeds]

    def _trial(self, setting: Setting, seeds: str) -> Trial:
        whole = {**setting, SEEDS: seeds} if seeds else dict(setting)
        more = itertools.chain.from_iterable(_flag(self.base, name, value) for name, value in whole.items())
        config = read_flags(self.presets, [*self.flags, *more])
        return Trial(_name_of(self.experiment, whole, config), dict(setting), config)

    def trials(self) -> list[Trial]:
        """Every combination of listed values.

        Raises:
            ConfigError: a value is not allowed, or two trials are the same run.
        """
        names = [varied.field for varied in self.compared]
        combinations = itertools.product(*(varied.values for varied in self.compared))
        trials = [
            trial
            for values in combinations
            for trial in self.trials_of(dict(zip(names, values, strict=True)))
        ]
        _require_distinct(trials)
        return trials


def make_plan(
    experiment: str,
    presets: Mapping[str, RunConfig],
    flags: Sequence[str],
    vary: Sequence[Sequence[str]],
    search: bool = False,
) -> Plan:
    """The plan that a command line asks for.

    Args:
        experiment: its name.
        presets: its configurations.
        flags: of the experiment, for every trial.
        vary: for each --vary the field and its values.
        search: whether ranges are searched; otherwise all combinations of values are run.

    Raises:
        ConfigError: which flag, what value, what is allowed.
    """
    base = read_flags(presets, flags)
    _require_a_run(base)
    varied = tuple(_varied(base, name, values, search) for name, *values in vary)
    names = [each.field for each in varied]
    if len(set(names)) < len(names):
        reject("vary", " ".join(names), "each field once")
    plan = Plan(experiment, presets, tuple(flags), varied, base)
    if search:
        _require_searchable(plan)
    return plan


def _require_a_run(config: RunConfig) -> None:
    """Refuse the flags that a sweep sets itself, or that mean nothing to it."""
    refused = {
        "output_dir": "--sweeps-dir: each trial has a folder of its own there",
        "replot": "the command without it draws sweep.png anew",
        "fresh": "without it: delete the sweep's folder to start anew",
        "strict": "only with run_experiment.py",
    }
    for name, allowed in refused.items():
        if getattr(config, name):
            reject(name, getattr(config, name), allowed)


def _varied(config: RunConfig, name: str, values: Sequence[str], search: bool) -> Varied:
    """One --vary, its field known and its values of the right form."""
    known = config.identity().keys()
    name = name.removeprefix("--").replace("-", "_")
    if name not in known:
        near = difflib.get_close_matches(name, known, 3) or sorted(known)[:3]
        kind = type(config).__name__
        reject(
            "vary", name, f"a setting of {kind}, such as {', '.join(each.replace('_', '-') for each in near)}"
        )
    if not values:
        reject("vary", name, "a field and at least one value")
    ranges = [RANGE.fullmatch(value) for value in values]
    kind = _type_of(config, name)
    if kind not in (int, float) or not any(ranges):
        return Varied(name, tuple(values))
    if not search or len(values) > 1:
        reject("vary", f"{name} {' '.join(values)}", "one range, and with --search; otherwise single values")
    return Varied(name, span=_span(name, values[0], ranges[0], kind))


def _span(name: str, text: str, found: re.Match, kind: type) -> Span:
    try:
        low, high = kind(found[1]), kind(found[2])
    except ValueError:
        reject("vary", f"{name} {text}", f"LOW:HIGH or LOW:HIGH:log, {kind.__name__}s")
    if not (math.isfinite(low) and math.isfinite(high) and low < high):
        reject("vary", f"{name} {text}", "LOW:HIGH with LOW < HIGH, both finite")
    if found[3] and low <= 0:
        reject("vary", f"{name} {text}", "LOW > 0 on a logarithmic scale")
    return Span(low, high, bool(found[3]), kind is int)


def _require_searchable(plan: Plan) -> None:
    if not any(varied.span for varied in plan.varied):
        reject("search", "optuna", "with a range to search, such as --vary lambda-spectral 1e-4:1e-1:log")
    ends = [
        tuple(map(repr, (each.span.low, each.span.high))) if each.span else each.values
        for each in plan.compared
    ]
    for number, each in enumerate(plan.compared):  # each value alone, beside the others' first
        for value in ends[number]:
            first = {other.field: texts[0] for other, texts in zip(plan.compared, ends, strict=True)}
            plan.trials_of(first | {each.field: value})


def _require_distinct(trials: Iterable[Trial]) -> None:
    seen: dict[str, Trial] = {}
    for trial in trials:
        mark = trial.id.rpartition("-")[2]
        if mark in seen:
            reject("vary", f"{seen[mark].id} and {trial.id}", "each trial once: these are the same run")
        seen[mark] = trial


def _type_of(config: RunConfig, name: str) -> Any:
    return next(spec.type for spec in dataclasses.fields(config) if spec.name == name)


def _flag(config: RunConfig, name: str, value: str) -> list[str]:
    """A field's flag with a value, which may be several words: "5 10" for a field of several numbers."""
    flag = name.replace("_", "-")
    if _type_of(config, name) is not bool:
        return [f"--{flag}", *shlex.split(value)]
    if value not in ("True", "False"):
        reject(name, value, "True, False")
    standard = next(spec.default for spec in dataclasses.fields(config) if spec.name == name)
    if str(standard) == value:
        return []
    return [f"--{flag}" if value == "True" else f"--no-{flag}"]


def _name_of(experiment: str, setting: Setting, config: RunConfig) -> str:
    """A name for people and for a folder: what is varied, and a mark of the whole configuration."""
    identity = json.dumps([experiment, config.identity()], sort_keys=True, default=str)
    mark = hashlib.sha256(identity.encode()).hexdigest()[:8]
    label = ",".join(f"{name}={value}" for name, value in setting.items()) or experiment
    return f"{re.sub(r'[^A-Za-z0-9_.,=+]', '_', label)[:LABEL_LENGTH]}-{mark}"


def label_of(setting: Setting) -> str:
    """A setting for people: lambda_spectral=0.1, iterations=50."""
    return ", ".join(f"{name}={value}" for name, value in setting.items()) or "as configured"
