"""Device, seeds, logging and progress: what a run needs of the machine."""

import hashlib
import logging
import random
import sys
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

import torch
from torch import Tensor, nn
from tqdm import tqdm

log = logging.getLogger(__name__)

Movable = TypeVar("Movable", Tensor, nn.Module)


def resolve_device(name: str) -> torch.device:
    """The torch device for 'auto' (cuda, then mps, then cpu), 'cpu', 'cuda' or 'mps'.

    Raises:
        ValueError: the named device is not available on this machine.
    """
    available = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available(), "cpu": True}
    if name == "auto":
        name = next(device for device, present in available.items() if present)
    if not available.get(name, False):
        present = ", ".join(device for device, there in available.items() if there)
        raise ValueError(f"device (--device) = {name!r}: not available here, allowed: auto, {present}")
    return torch.device(name)


def measurement_device(device: torch.device) -> torch.device:
    """Where float64 measurements run: the device itself, or the cpu where it has no float64 (mps)."""
    return torch.device("cpu") if device.type == "mps" else device


def to_float64(value: Movable, device: torch.device) -> Movable:
    """A tensor or module in float64 on the device: moved first, because mps can hold no float64."""
    return value.to(device).to(torch.float64)


def generator(seed: int, stream: str) -> torch.Generator:
    """A CPU generator for one purpose of one seed: streams of different names are independent."""
    digest = hashlib.sha256(f"{seed}/{stream}".encode()).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest[:8], "big") >> 1)


def generators(seeds: Sequence[int], stream: str) -> list[torch.Generator]:
    """One generator a seed, for draws of an ensemble."""
    return [generator(seed, stream) for seed in seeds]


def seed_everything(seed: int) -> None:
    """Seed the global generators. Experiments draw from explicit ones; this covers a library's own draws."""
    random.seed(seed)
    torch.manual_seed(seed)


def configure_logging() -> None:
    """Log to stderr, one timestamped line a message. Called by entry points only."""
    logging.basicConfig(
        level=logging.INFO, format="%(asctime)s %(message)s", datefmt="%H:%M:%S", stream=sys.stderr
    )


def worker_count(items: int, device: torch.device) -> int:
    """Threads that `map_in_threads` uses: as many as torch has cores on a cpu, one on an accelerator."""
    return max(1, min(items, torch.get_num_threads())) if device.type == "cpu" else 1


def map_in_threads(function: Callable, items: Sequence, device: torch.device) -> list:
    """[function(item) for item in items], on a cpu in as many threads as it has cores.

    Small operations leave most of a core's second half idle; torch releases the interpreter lock while it
    computes, so two trainings side by side take about 0.7 of the time of one after the other.
    """
    cores, workers = torch.get_num_threads(), worker_count(len(items), device)
    if workers <= 1:
        return [function(item) for item in items]
    threads_each = max(1, cores // workers)
    pool = ThreadPoolExecutor(workers, initializer=torch.set_num_threads, initargs=(threads_each,))
    try:
        return list(pool.map(function, items))
    finally:  # on an error or an interrupt, do not wait for the others
        pool.shutdown(wait=False, cancel_futures=True)
        torch.set_num_threads(cores)


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
