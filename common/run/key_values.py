"""Command lines of `key=value` pairs, as Hydra takes them, read as flags of a configuration."""

import dataclasses
import difflib
from collections.abc import Iterable, Mapping, Sequence

from common.run.command_line import ConfigError


def split_pairs(args: Sequence[str]) -> tuple[dict[str, str], list[str]]:
    """The pairs among some arguments, a leading + taken off their keys, and the other arguments.

    A value that follows a flag (`--output-dir a=b`) is no pair.

    Raises:
        ConfigError: a key without a value, or given twice.
    """
    pairs: dict[str, str] = {}
    others: list[str] = []
    for arg in args:
        key, equals, value = arg.partition("=")
        follows_flag = bool(others) and others[-1].startswith("--") and "=" not in others[-1]
        if not equals or arg.startswith("-") or (follows_flag and "." not in key and not key.startswith("+")):
            others.append(arg)
            continue
        key = key.removeprefix("+")
        if not key or not value:
            raise ConfigError(f"{arg!r}: allowed: key=value")
        if key in pairs:
            raise ConfigError(f"key {key!r} is given twice")
        pairs[key] = value
    return pairs, others


def refuse_unknown(pairs: Iterable[str], known: Iterable[str]) -> None:
    """Raise the ConfigError of the first key that is not known."""
    known = sorted(known)
    for key in pairs:
        if key not in known:
            near = difflib.get_close_matches(key, known, 3) or known
            raise ConfigError(f"key {key!r}: no such key; allowed: {', '.join(near)}")


def flags_of(pairs: Mapping[str, str], fields: Mapping[str, str], config: type) -> list[str]:
    """Flags that set the fields which some keys stand for.

    Args:
        pairs: values by key; keys that stand for no field are passed over.
        fields: of the configuration, by key.
        config: its dataclass.
    """
    kinds = {spec.name: spec.type for spec in dataclasses.fields(config)}
    flags: list[str] = []
    for key, value in pairs.items():
        if key not in fields:
            continue
        flag = fields[key].replace("_", "-")
        if kinds[fields[key]] is bool:
            flags.append(f"--{flag}" if boolean(key, value) else f"--no-{flag}")
        else:
            flags += [f"--{flag}", *value.split(",")]
    return flags


def boolean(key: str, value: str) -> bool:
    """`true` or `false`, in any case."""
    if value.lower() not in ("true", "false"):
        raise ConfigError(f"{key} = {value!r}: allowed: true, false")
    return value.lower() == "true"


def number(key: str, value: str) -> float:
    """A positive number."""
    try:
        found = float(value)
    except ValueError:
        found = 0.0
    if not 0 < found < float("inf"):
        raise ConfigError(f"{key} = {value!r}: allowed: numbers > 0")
    return found
