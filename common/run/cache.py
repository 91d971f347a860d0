"""The cache: what lets an interrupted run go on. Files are atomic, checked, fingerprinted, weights only.

A cached step (one training, one measurement) is a function that says which settings it reads:

    @reads_settings("seeds", "hidden_dim", "iterations")
    def train_flat(system, config, ...): ...

It is handed a view of the configuration that holds those settings and no others, so one that it forgot to
name is an error and not a stale result. Its result is kept under a fingerprint (common/run/fingerprint.py).
"""

import contextlib
import errno
import hashlib
import io
import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from common.run.files import is_taken, taken, write_atomically

log = logging.getLogger(__name__)


def reads_settings(*fields: str) -> Callable[[Callable], Callable]:
    """Declare the configuration fields that a cached step may read."""

    def declare(function: Callable) -> Callable:
        function.settings_read = fields
        return function

    return declare


class ConfigView(Mapping[str, Any]):
    """The fields of a configuration that a cached step declared; reading another is an error."""

    def __init__(self, config: Any, fields: Sequence[str]):
        self._values = {field: getattr(config, field) for field in sorted(fields)}

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_"):
            raise AttributeError(name)
        if name not in self._values:
            raise AttributeError(f"setting {name!r} is not declared in this step's @reads_settings(...)")
        return self._values[name]

    def __getitem__(self, name: str) -> Any:
        return self._values[name]

    def __iter__(self):
        return iter(self._values)

    def __len__(self) -> int:
        return len(self._values)


SEAL = b"HELM checkpoint, sha256 "  # begins a file; then 64 hexadecimal digits, a line's end, the content


def seal(content: bytes) -> bytes:
    """Content with its checksum before it."""
    return SEAL + hashlib.sha256(content).hexdigest().encode() + b"\n" + content


def unseal(data: bytes) -> bytes:
    """The content of what `seal` returned.

    Raises:
        ValueError: it is no such thing, or was changed.
    """
    start = len(SEAL) + 65
    content = data[start:]
    if not data.startswith(SEAL):
        raise ValueError("it does not begin with a checksum")
    if data[:start] != seal(content)[:start]:
        raise ValueError("its checksum does not match")
    return content


@dataclass(frozen=True)
class Checkpoint:
    """One cached step's file. What was saved under another fingerprint is not loaded."""

    path: Path
    fingerprint: str
    every: int = 500  # optimiser steps between two saves of a training
    origin: str = ""  # where and by what it is computed: kept with it
    origins: set[str] = field(default_factory=set)  # gets that of what is saved or loaded
    saved: Callable[[], None] | None = None  # called after each save

    def save(self, payload: dict[str, Any]) -> None:
        """Write atomically; `payload` holds tensors and plain Python values."""
        content = io.BytesIO()  # written by us, so that a full disk is an OSError and no error of torch's
        torch.save({"fingerprint": self.fingerprint, "origin": self.origin, "payload": payload}, content)
        self.origins.add(self.origin)
        write_atomically(self.path, lambda file: file.write(seal(content.getvalue())))
        if self.saved is not None:
            self.saved()

    def load(self) -> dict[str, Any] | None:
        """The payload, or None where there is none for this fingerprint or the file is damaged.

        Its checksum is verified first, as torch.load does not do; no pickled code is executed.

        Raises:
            IsADirectoryError: a folder stands where the file belongs, so nothing could be saved either.
        """
        if self.path.is_dir():
            raise IsADirectoryError(
                errno.EISDIR, "a folder stands where a checkpoint belongs", str(self.path)
            )
        if not self.path.is_file():  # nor a pipe that nobody writes to
            return None
        try:
            data = unseal(self.path.read_bytes())
            content = torch.load(io.BytesIO(data), map_location="cpu", weights_only=True)
            matches = content["fingerprint"] == self.fingerprint
            payload = content["payload"] if matches else {}
            if not isinstance(payload, dict):
                raise TypeError("its payload is no mapping")
        except Exception as error:  # a damaged file can fail in any way, and all mean the same
            self.warn(error)
            return None
        if matches and (origin := content.get("origin")):
            self.origins.add(str(origin))
        return payload if matches else None

    def warn(self, error: Exception) -> None:
        """Say in a line that the file cannot be used."""
        reason = str(error).partition("\n")[0].partition(". ")[0]
        log.warning(
            "%s is not a readable checkpoint (%s: %s): starting anew",
            self.path.name,
            type(error).__name__,
            reason[:120],
        )

    @contextlib.contextmanager
    def held(self) -> Iterator[None]:
        """Hold it while its step is done, so that of several runs one does it and the others find it done."""
        if self.is_held():
            log.info("%s: another run is at work on it: waiting", self.path.name)
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with taken(self._lock):
            yield

    def is_held(self) -> bool:
        """Whether another run is at work on it."""
        return is_taken(self._lock)

    @property
    def _lock(self) -> Path:
        return self.path.with_name(f".{self.path.name}.lock")

    def discard(self) -> None:
        """Delete the file, if there is one."""
        self.path.unlink(missing_ok=True)
