"""What a run says while it works: log lines, and bars on a terminal; and how it is told to stop."""

import contextvars
import logging
import sys
import time
from typing import Any

from tqdm import tqdm

log = logging.getLogger(__name__)

# In a worker of `map_side_by_side`: set when its siblings have failed or the run is over.
STOP: contextvars.ContextVar[Any] = contextvars.ContextVar("STOP", default=None)


class Stopped(Exception):
    """The work beside failed or was interrupted; what is saved so far is enough."""


def configure_logging() -> None:
    """Log to stderr, one timestamped line a message. Called by entry points only."""
    if sys.stderr is not None:
        logging.basicConfig(
            level=logging.INFO, format="%(asctime)s %(message)s", datefmt="%H:%M:%S", stream=sys.stderr
        )
        logging.raiseExceptions = False  # a closed or full stderr loses messages, not the run


class Progress:
    """A tqdm bar on a terminal; elsewhere a log line every `every_s` seconds and one at the end.

    A line says how far it is, the last note and how long the rest may take.
    """

    def __init__(self, total: int, label: str, initial: int = 0, every_s: float = 15.0):
        self.total, self.label, self.every_s = total, label, every_s
        self.done, self.initial, self.note = initial, initial, ""
        self.started = self.last_line = time.monotonic()
        interactive = sys.stderr is not None and sys.stderr.isatty()
        self.bar = tqdm(total=total, initial=initial, desc=label, leave=False) if interactive else None

    def update(self, note: str = "") -> None:
        """One more is done.

        Raises:
            Stopped: in a thread whose siblings have failed.
        """
        if (stop := STOP.get()) is not None and stop.is_set():
            raise Stopped(self.label)
        self.done += 1
        self.note = note or self.note
        now = time.monotonic()
        if self.bar is not None:
            self.bar.update()
            if note:
                self.bar.set_postfix_str(note, refresh=False)
        elif now - self.last_line > self.every_s:
            self.last_line = now
            left = (self.total - self.done) * (now - self.started) / (self.done - self.initial)
            log.info("%s: %d/%d, %.0f s left %s", self.label, self.done, self.total, left, self.note)

    def close(self, note: str = "") -> None:
        """All is done."""
        if self.bar is not None:
            self.bar.close()
        log.info("%s: done in %.1f s %s", self.label, time.monotonic() - self.started, note)
