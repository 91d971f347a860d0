"""The command line, generated from the configuration dataclasses, and what it refuses.

An entry point parses before it imports torch: `--help` and a bad flag answer at once, and how OpenMP waits is
decided when torch is loaded.
"""

import contextlib
import dataclasses
import io
import math
import os
import re
import sys
from collections.abc import Mapping, Sequence
from dataclasses import field
from pathlib import Path
from typing import Any, NoReturn, TypeVar, get_args

from common.run.signals import stop_without_words

Config = TypeVar("Config")


class ConfigError(ValueError):
    """A configuration value that is not allowed; the message names field, value and what is allowed.

    What ends a run as bad input, exit code 2, in one line. A ValueError of another kind is a fault.
    """


class DataError(ConfigError):
    """A file or folder that a run was given cannot be used: raise it wherever it is read.

    The message names the file and what is wrong with it.
    """


def bounded(
    default: Any,
    low: float = -math.inf,
    high: float = math.inf,
    *,
    above: float = -math.inf,
    rising: bool = False,
) -> Any:
    """A field (or a tuple of values) within [low, high] and > above; `rising`: strictly increasing."""
    return field(default=default, metadata={"low": low, "high": high, "above": above, "rising": rising})


def reject(name: str, value: Any, allowed: str) -> NoReturn:
    """Raise the ConfigError for one field."""
    raise ConfigError(f"{name} (--{name.replace('_', '-')}) = {value!r}: allowed: {allowed}")


def validate_field(spec: dataclasses.Field, value: Any) -> None:
    """Raise the ConfigError for a value outside what `bounded` declared of its field."""
    if not spec.metadata or (value is None and spec.default is None):
        return
    low, high, above = (spec.metadata[key] for key in ("low", "high", "above"))
    whole = _holds_int(spec.type)
    kind = "whole numbers" if whole else "finite numbers"
    limits = [f"> {above:g}" if above > -math.inf else "", f">= {low:g}" if low > -math.inf else ""]
    limits.append(f"<= {high:g}" if high < math.inf else "")
    allowed = " ".join([kind, " and ".join(limit for limit in limits if limit)]).strip()
    many = isinstance(value, (tuple, list))
    if many and not value:
        reject(spec.name, value, f"at least one value, {allowed}")
    for item in value if many else (value,):
        number = isinstance(item, int if whole else (int, float)) and not isinstance(item, bool)
        if not number or not math.isfinite(item) or not low <= item <= high or not item > above:
            reject(spec.name, value, allowed)
    if spec.metadata["rising"] and list(value) != sorted(set(value)):
        reject(spec.name, value, f"{allowed}, strictly increasing")


def _holds_int(kind: Any) -> bool:
    """Whether a type is int, or made of it: tuple[int, ...] | None."""
    return kind is int or any(_holds_int(part) for part in get_args(kind))


def parse_command_line(presets: Mapping[str, Config], args: Sequence[str] | None = None) -> Config:
    """The configuration of a run: a preset, with the flags laid over it.

    An unknown flag or a bad value ends the program: one line on stderr, exit code 2.

    Args:
        presets: by name; "quick" is the default.
        args: the flags; none given: those of this process, which is prepared for a run.
    """
    if args is None:
        prepare_process()
    try:
        return read_flags(presets, sys.argv[1:] if args is None else args)
    except ConfigError as error:
        exit_with_error(str(error))


def read_flags(presets: Mapping[str, Config], args: Sequence[str]) -> Config:
    """`parse_command_line` for a caller that goes on after a bad flag; --help ends the program.

    Raises:
        ConfigError: an unknown flag or a bad value, in one line.
    """
    import tyro  # a third of a second, which library users of this file do not need to wait

    default = presets.get(_named_preset(args), presets["quick"])
    box = io.StringIO()
    try:
        with contextlib.redirect_stderr(box):
            return tyro.cli(
                type(default),
                default=default,
                args=list(args),
                description=f"{type(default).__doc__} Defaults shown are those of --preset {default.preset}.",
                config=(tyro.conf.FlagCreatePairsOff,),
            )
    except OSError as error:  # the reader of --help has gone
        raise SystemExit(give_up_stdout(error)) from None
    except SystemExit as exit_:
        if exit_.code in (0, None):
            raise SystemExit(show()) from None
        raise ConfigError(_first_paragraph(box.getvalue())) from None


def prepare_process() -> None:
    """Streams that take any text, and at most two threads, which sleep while they wait.

    OpenMP's threads spin otherwise: with another job on the cores that costs up to 25 times the time.
    """
    _prepare_streams()
    stop_without_words()
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    os.environ.setdefault("OMP_NUM_THREADS", str(min(2, os.cpu_count() or 1)))
    os.environ.pop("MPLBACKEND", None)  # figures are drawn without a display, whatever a notebook asks for


def _prepare_streams() -> None:
    """Lead closed streams nowhere; else the next file opened would take their number, and their text."""
    for number, name in enumerate(("stdin", "stdout", "stderr")):
        if getattr(sys, name) is None:
            with contextlib.suppress(OSError):
                os.fstat(number)
                continue
            os.open(os.devnull, os.O_RDWR)  # takes the lowest free number, which is this one
            setattr(sys, name, open(number, "r" if number == 0 else "w", closefd=False))  # noqa: SIM115
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # a console may know fewer letters than a path has
            stream.reconfigure(errors="backslashreplace")


def show(*texts: str) -> int:
    """Print, and flush; exit code 0, or 1 after a line on stderr where stdout takes no more (disk full)."""
    try:
        if sys.stdout is not None:
            for text in texts:
                print(text)
            sys.stdout.flush()
    except (OSError, ValueError) as error:
        return give_up_stdout(error)
    return 0


def give_up_stdout(error: Exception) -> int:
    """Say in a line that stdout takes no more, and lead it nowhere, or Python would complain at its exit."""
    say(f"{Path(sys.argv[0]).name}: error: standard output cannot be written to: {error}")
    with contextlib.suppress(OSError, ValueError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return 1


def say(message: str) -> None:
    """One line on stderr, if there is one that takes it."""
    if sys.stderr is not None:
        with contextlib.suppress(OSError, ValueError):
            print(message, file=sys.stderr, flush=True)


def _named_preset(args: Sequence[str]) -> str:
    named = "quick"
    for position, arg in enumerate(args):
        name, _, value = arg.partition("=")
        if name == "--preset":  # the last one counts, as for every flag
            named = value or (args[position + 1] if position + 1 < len(args) else "")
    return named


def _first_paragraph(box: str) -> str:
    """The message of tyro's error box without its frame, on one line."""
    lines = [line.strip("│╭╮╰╯─ ") for line in box.splitlines()]
    body = lines[1:] if len(lines) > 1 else lines
    message = body[: body.index("")] if "" in body else body
    return re.sub(r"^Error parsing \w+Config: ", "", " ".join(message)) or "bad command line"


def exit_with_error(message: str) -> NoReturn:
    """End the program as for any bad input: one line on stderr, exit code 2."""
    say(f"{Path(sys.argv[0]).name}: error: {message}")
    raise SystemExit(2)
