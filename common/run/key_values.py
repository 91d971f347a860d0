"""Command lines of `key=value` pairs, as Hydra takes them, read as flags of a configuration."""

import difflib
from collections.abc import Iterable, Mapping, Sequence

from common.run.command_line import ConfigError


def split_pairs(args: Sequence[str]) -> tuple[dict[str, str], list[str]]:
    """The pairs among some arguments, a leading + taken off their keys, and the other arguments.

    Raises:
        ConfigError: a key without a value, or given twice.
    """
    pairs: dict[str, str] = {}
    others: list[str] = []
    for arg in args:
        key, equals, value = arg.partition("=")
        if not equals or arg.startswith("-"):
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


def flags_of(pairs: Mapping[str, str], fields: Mapping[str, str]) -> list[str]:
    """Flags that set the fields which some keys stand for; other keys are passed over.

    Args:
        pairs: values by key; several are separated by commas.
        fields: of the configuration, by key.
    """
    flags: list[str] = []
    for key, value in pairs.items():
        if key in fields:
            flags += [f"--{fields[key].replace('_', '-')}", *value.split(",")]
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
