"""What a run says while it works: log lines, and bars on a terminal."""

import logging
import sys
import time

from tqdm import tqdm

log = logging.getLogger(__name__)


def configure_logging() -> None:
    """Log to stderr, one timestamped line a message. Called by entry points only."""
    logging.basicConfig(
        level=logging.INFO, format="%(asctime)s %(message)s", datefmt="%H:%M:%S", stream=sys.stderr
    )


class Progress:
    """A tqdm bar on a terminal; elsewhere a log line every `every_s` seconds and one at the end."""

    def __init__(self, total: int, label: str, initial: int = 0, every_s: float = 15.0):
        self.total, self.label, self.every_s = total, label, every_s
        self.done = initial
        self.started = self.last_line = time.monotonic()
        interactive = sys.stderr.isatty()
        self.bar = tqdm(total=total, initial=initial, desc=label, leave=False) if interactive else None

    def update(self, note: str = "") -> None:
        self.done += 1
        if self.bar is not None:
            self.bar.update()
            if note:
                self.bar.set_postfix_str(note, refresh=False)
        elif time.monotonic() - self.last_line > self.every_s:
            self.last_line = time.monotonic()
            log.info("%s: %d/%d %s", self.label, self.done, self.total, note)

    def close(self, note: str = "") -> None:
        if self.bar is not None:
            self.bar.close()
        log.info("%s: done in %.1f s %s", self.label, time.monotonic() - self.started, note)
