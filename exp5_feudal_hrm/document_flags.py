"""The founding document's command lines, read as settings of this experiment.

Its flags stand for settings, and every flag of run_experiment.py works beside them:

    --feudal-weight W        weight of the feudal loss, --feudal-loss-weight; 0 disables the loss
    --feudal-weights W ..    weights to compare, --weight-sweep
    --manager-periods P ..   periods to compare, --period-sweep [segments]
    --max-steps N            optimiser steps, --iterations
    --enable-wandb           curves in W&B, --tracker wandb

pretrain.py takes key=value pairs instead. Any setting is a key; so are epochs, enable_wandb and the
document's names, which are in KEYS.
"""

import dataclasses
import math
import sys
from collections.abc import Callable, Sequence
from typing import NoReturn, TypeVar

from common.config import EXP5_PRESETS, Exp5Config
from common.run.command_line import ConfigError, exit_with_error, prepare_process, read_flags, show

Read = TypeVar("Read")

FLAGS = {
    "--feudal-weight": "--feudal-loss-weight",
    "--feudal-weights": "--weight-sweep",
    "--manager-periods": "--period-sweep",
    "--max-steps": "--iterations",
}
SWEEP_TYPES = ("feudal_weight", "manager_period", "grid")
_LOSS, _HEAD = ("", "loss.", "arch.loss."), ("", "subgoal_head.", "arch.subgoal_head.")
# Keys of the document and of HRM's own pretrain.py, by setting.
KEYS = {
    **{f"{section}feudal_loss_weight": "feudal_loss_weight" for section in _LOSS},
    **{f"{section}{name}": name for name in ("manager_period", "goal_dim", "gating") for section in _HEAD},
    "max_steps": "iterations",
    "global_batch_size": "batch_size",
    "seed": "seeds",
    "data_path": "data_dir",
    "lr": "learning_rate",
    "lr_warmup_steps": "warmup",
    "puzzle_emb_lr": "table_learning_rate",
    "puzzle_emb_weight_decay": "table_weight_decay",
}
NO_LIMIT = 10**9  # optimiser steps, where the epochs alone decide


def read_command(read: Callable[[Sequence[str]], Read], description: str) -> Read:
    """What `read` makes of this process's arguments; bad ones end it: one line on stderr, exit code 2."""
    prepare_process()
    args = sys.argv[1:]
    if {"-h", "--help"} & set(args):
        raise SystemExit(show(description, __doc__))
    try:
        return read(args)
    except ConfigError as error:
        exit_with_error(str(error))


# ----------------------------------------------------------------------------------------------
# Flags
# ----------------------------------------------------------------------------------------------


def config_of(args: Sequence[str]) -> Exp5Config:
    """The configuration that flags of the document and of this experiment ask for.

    Raises:
        ConfigError: an unknown flag or a bad value, by the name that was given.
    """
    flags: list[str] = []
    given: dict[str, str] = {}
    for name, *values in _grouped(args):
        own = FLAGS.get(name, name)
        given[own] = name
        if own in ("--weight-sweep", "--period-sweep"):
            values = sorted(dict.fromkeys(values), key=_number)
        flags += ["--tracker", "wandb"] if name == "--enable-wandb" else [own, *values]
    try:
        return read_flags(EXP5_PRESETS, flags)
    except ConfigError as error:
        message = str(error)
        for own, name in given.items():
            message = message.replace(f"({own})", f"({name})")
        raise ConfigError(message) from error


def _grouped(args: Sequence[str]) -> list[list[str]]:
    """Each flag with its values; what comes before any flag is a group of its own."""
    groups: list[list[str]] = []
    for arg in args:
        if arg.startswith("--"):
            groups.append(arg.split("=", 1))
        elif groups:
            groups[-1].append(arg)
        else:
            groups.append([arg])
    return groups


def _number(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        return math.inf  # is refused where it is read


def sweep_of(args: Sequence[str]) -> tuple[Exp5Config, str]:
    """The configuration of a sweep, and its type, --sweep-type.

    Of the first two types the other setting stays as it is configured. In a grid, controls are trained at the
    compared weight and period that are nearest to the configured ones.

    Raises:
        ConfigError: an unknown flag or a bad value.
    """
    kind, rest = SWEEP_TYPES[0], []
    for group in _grouped(args):
        if group[0] == "--sweep-type":
            kind = " ".join(group[1:])
        else:
            rest += group
    if kind not in SWEEP_TYPES:
        raise ConfigError(f"sweep_type (--sweep-type) = {kind!r}: allowed: {', '.join(SWEEP_TYPES)}")
    config = config_of(rest)
    weight, period = config.feudal_loss_weight, config.manager_period
    if kind == "feudal_weight":
        return dataclasses.replace(config, period_sweep=(period,), sweep_grid=False), kind
    if kind == "manager_period":
        return dataclasses.replace(config, weight_sweep=(weight,), sweep_grid=False), kind
    weight = min(config.weight_sweep, key=lambda other: abs(other - weight))
    period = min(config.period_sweep, key=lambda other: abs(other - period))
    return dataclasses.replace(
        config, feudal_loss_weight=weight, manager_period=period, sweep_grid=True
    ), kind


# ----------------------------------------------------------------------------------------------
# Pairs
# ----------------------------------------------------------------------------------------------


def pretraining_of(args: Sequence[str]) -> tuple[Exp5Config, float]:
    """The configuration of key=value pairs, and the epochs after which the training ends.

    Raises:
        ConfigError: an unknown key or a bad value.
    """
    flags, given = [], {}
    settings = {spec.name: spec for spec in dataclasses.fields(Exp5Config)}
    for arg in args:
        key, _, value = arg.partition("=")
        if not key or not value:
            raise ConfigError(f"{arg!r}: allowed: key=value")
        given[key] = value
        name = KEYS.get(key, key)
        if name in settings:
            flags += _flag(key, settings[name], value)
        elif key == "enable_wandb":
            flags += ["--tracker", "wandb"] if _boolean(key, value) else []
        elif key != "epochs":
            _refuse_key(key)
    if "epochs" not in given:
        return read_flags(EXP5_PRESETS, flags), math.inf
    limit = [] if {"max_steps", "iterations"} & given.keys() else ["--iterations", str(NO_LIMIT)]
    return read_flags(EXP5_PRESETS, [*flags, *limit]), _epochs(given["epochs"])


def _flag(key: str, setting: dataclasses.Field, value: str) -> list[str]:
    """A setting's flag with its value; several values are separated by commas."""
    flag = setting.name.replace("_", "-")
    if setting.type is bool:
        wanted = _boolean(key, value)
        return [] if wanted == setting.default else [f"--{flag}" if wanted else f"--no-{flag}"]
    task = ["--tasks", "folder"] if key == "data_path" else []
    return [f"--{flag}", *value.split(","), *task]


def _boolean(key: str, value: str) -> bool:
    if value.lower() not in ("true", "false"):
        raise ConfigError(f"{key} = {value!r}: allowed: true, false")
    return value.lower() == "true"


def _epochs(value: str) -> float:
    epochs = _number(value)
    if not 0 < epochs < math.inf:
        raise ConfigError(f"epochs = {value!r}: allowed: finite numbers > 0")
    return epochs


def _refuse_key(key: str) -> NoReturn:
    known = ", ".join(["epochs", "enable_wandb", *KEYS])
    raise ConfigError(f"key {key!r}: allowed: {known}, and the settings of run_experiment.py")
