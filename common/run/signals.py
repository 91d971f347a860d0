"""How a run is told to stop: Ctrl-C, and SIGTERM as a cluster or a service sends it."""

import contextlib
import signal
import threading
from collections.abc import Iterator
from types import FrameType
from typing import NoReturn

HANDLED = (signal.SIGINT, signal.SIGTERM)


class Terminated(KeyboardInterrupt):
    """The process was asked to end (SIGTERM)."""


def stop_without_words() -> None:
    """Let Ctrl-C end the process at once, for the seconds in which it imports; what is ignored stays so."""
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, signal.SIG_DFL)


@contextlib.contextmanager
def stoppable() -> Iterator[list[int]]:
    """Within, SIGINT raises KeyboardInterrupt and SIGTERM Terminated, in the main thread.

    What follows the first of them is ignored, but for Ctrl-C, which ends the process at once. A signal that
    the process ignores, as in the background of a script, stays ignored. It yields a list that gets the
    signal's number: a library may make another exception of ours.
    """
    received: list[int] = []
    if threading.current_thread() is not threading.main_thread():
        yield received
        return
    before = {number: signal.getsignal(number) for number in HANDLED}

    def stop(number: int, frame: FrameType | None) -> NoReturn:
        if before[signal.SIGTERM] != signal.SIG_IGN:
            signal.signal(signal.SIGTERM, signal.SIG_IGN)
        if before[signal.SIGINT] != signal.SIG_IGN:
            signal.signal(signal.SIGINT, signal.SIG_DFL)
        received.append(number)
        raise KeyboardInterrupt if number == signal.SIGINT else Terminated

    try:
        for number, handler in before.items():
            if handler != signal.SIG_IGN:
                signal.signal(number, stop)
        yield received
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
