"""Files that let an interrupted run go on: atomic, fingerprinted, weights only.

A phase (one training, one measurement) is a function that says which configuration fields it reads:

    @reads_settings("seeds", "hidden_dim", "iterations")
    def train_flat(system, config, ...): ...

It is handed a view of the configuration that holds those fields and no others, so a field that it
forgot to name is an error and not a stale result. The fingerprint of a phase is a hash of these
fields, of the source of every project file that its module imports, of the phases it builds on, and of
the versions of the packages that compute.
Left out are common/config.py, whose values are in the fields, so that editing a default of one phase
does not retrain another, and the files that organise a run but compute nothing of it.
"""

import ast
import hashlib
import importlib.metadata
import json
import logging
import os
import pickle
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import torch

log = logging.getLogger(__name__)

ROOT = Path(__file__).resolve().parents[2]
COMPUTING = ("torch", "numpy", "gymnasium", "minigrid", "cma")  # packages whose versions count
NOT_FINGERPRINTED = {
    "common/config.py", "common/run/command_line.py", "common/run/run.py", "common/run/results.py"
}  # fmt: skip


def reads_settings(*fields: str) -> Callable[[Callable], Callable]:
    """Declare the configuration fields that a phase may read."""

    def declare(function: Callable) -> Callable:
        function.settings_read = fields
        return function

    return declare


class ConfigView:
    """The fields of a configuration that a phase declared; reading another is an error."""

    def __init__(self, config: Any, fields: Sequence[str]):
        self._values = {field: getattr(config, field) for field in fields}

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__") or name == "_values":
            raise AttributeError(name)
        if name not in self._values:
            raise AttributeError(
                f"configuration field {name!r} is not declared in this phase's @reads_settings(...)"
            )
        return self._values[name]

    def items(self) -> list[tuple[str, Any]]:
        return sorted(self._values.items())


@dataclass(frozen=True)
class Checkpoint:
    """One phase's file. What was saved under another fingerprint is not loaded."""

    path: Path
    fingerprint: str
    every: int = 500  # optimiser steps between two saves of a training

    def save(self, payload: dict[str, Any]) -> None:
        """Write atomically; `payload` holds tensors and plain Python values."""
        content = {"fingerprint": self.fingerprint, "payload": payload}
        write_atomically(self.path, lambda file: torch.save(content, file))

    def load(self) -> dict[str, Any] | None:
        """The payload, or None where there is none for this fingerprint. No pickled code is executed."""
        if not self.path.exists():
            return None
        try:
            content = torch.load(self.path, map_location="cpu", weights_only=True)
            matches = content["fingerprint"] == self.fingerprint
        except (RuntimeError, pickle.UnpicklingError, EOFError, KeyError, TypeError, OSError) as error:
            log.warning("%s is not a readable checkpoint (%s): starting anew", self.path.name, error)
            return None
        return content["payload"] if matches else None

    def discard(self) -> None:
        self.path.unlink(missing_ok=True)


def write_atomically(path: Path, write: Callable[[Any], None]) -> None:
    """Write a file so that it is at any moment either the old one or the new one, whole."""
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=".tmp")
    try:
        with os.fdopen(descriptor, "wb") as file:
            write(file)
            file.flush()
            os.fsync(file.fileno())
        Path(name).chmod(0o644)
        Path(name).replace(path)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise


def fingerprint(view: ConfigView, source: str, upstream: Sequence[str] = ()) -> str:
    """Hash of a phase's fields, its module's sources, the phases that it builds on and the packages."""
    fields = {name: str(value) for name, value in view.items()}
    sources = {name: _file_hash(ROOT / name) for name in imported_project_files(source)}
    text = json.dumps([fields, sources, list(upstream), _versions()], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()


@cache
def _versions() -> list[str]:
    return [importlib.metadata.version(name) for name in COMPUTING]


@cache
def _file_hash(path: Path) -> str:
    return hashlib.sha256(path.read_bytes().replace(b"\r\n", b"\n")).hexdigest()


@cache
def imported_project_files(source: str) -> tuple[str, ...]:
    """A module's file and every project file it imports, directly or not, relative to the root."""
    found: set[str] = set()
    pending = [Path(source).resolve().relative_to(ROOT).as_posix()]
    while pending:
        name = pending.pop()
        if name in found or name in NOT_FINGERPRINTED:
            continue
        found.add(name)
        for module in imported_modules(ROOT / name):
            path = Path(*module.split("."))
            candidates = (path.with_suffix(".py"), path / "__init__.py")
            pending += [file.as_posix() for file in candidates if (ROOT / file).is_file()]
    return tuple(sorted(found))


def imported_modules(path: Path) -> set[str]:
    """Dotted names that a Python file imports: `from a.b import c` gives a.b and a.b.c.

    Relative ones are told from the root of the repository.
    """
    modules: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            modules.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            folder = path.resolve().relative_to(ROOT).parts[: -node.level] if node.level else ()
            module = ".".join((*folder, *([node.module] if node.module else [])))
            modules.add(module)
            modules.update(f"{module}.{alias.name}" for alias in node.names)
    return modules
