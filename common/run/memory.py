"""Sizes that cannot fit are refused before hours of work, not after."""

import dataclasses
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from common.run.command_line import reject


def require_memory(estimates: Mapping[str, float], config: Any) -> None:
    """Raise the ConfigError of the setting that asks for more memory than the machine has.

    Of several it is the one that is most times its default: the arrays of one grow with the other too.

    Args:
        estimates: setting -> bytes that the largest array which it shapes takes.
        config: where the settings' values are.
    """
    limit = memory_of_the_machine()
    beyond = [name for name, needed in estimates.items() if limit is not None and needed > limit]
    if beyond:
        name = max(beyond, key=lambda name: _times_its_default(config, name))
        fits = f"what fits {format_bytes(limit)} of memory; this needs {format_bytes(estimates[name])}"
        reject(name, getattr(config, name), fits)


def _times_its_default(config: Any, name: str) -> float:
    default = next(spec.default for spec in dataclasses.fields(config) if spec.name == name)
    return _size(getattr(config, name)) / max(1.0, _size(default))


def _size(value: float | Sequence) -> float:
    return float(len(value)) if isinstance(value, Sequence) else float(value)


def memory_of_the_machine() -> float | None:
    """Bytes of memory, those of the container if it has fewer; None where the system does not say."""
    try:
        machine = float(os.sysconf("SC_PHYS_PAGES")) * os.sysconf("SC_PAGE_SIZE")
    except (AttributeError, ValueError, OSError):
        return None
    try:
        return min(machine, float(Path("/sys/fs/cgroup/memory.max").read_text(encoding="ascii")))
    except (OSError, ValueError):  # no container, or "max"
        return machine


def format_bytes(count: float) -> str:
    """Bytes for people: 1.5 GB."""
    for unit in ("B", "kB", "MB", "GB", "TB", "PB"):
        if count < 1000 or unit == "PB":
            return f"{count:.3g} {unit}"
        count /= 1000
    raise AssertionError
