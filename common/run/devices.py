"""Where a run computes: devices, float64 beside them, threads."""

import threading
from collections.abc import Callable, Sequence
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from typing import TypeVar

import torch
from torch import Tensor, nn

from common.run.progress import STOP

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


def worker_count(items: int, device: torch.device) -> int:
    """Threads that `map_in_threads` uses: as many as torch has cores on a cpu, one on an accelerator."""
    return max(1, min(items, torch.get_num_threads())) if device.type == "cpu" else 1


def map_in_threads(function: Callable, items: Sequence, device: torch.device) -> list:
    """[function(item) for item in items], on a cpu in as many threads as it has cores.

    Small operations leave most of a core's second half idle; torch releases the interpreter lock while it
    computes, so two trainings side by side take about 0.7 of the time of one after the other. The first
    error, or an interrupt, stops the others where they next report progress (common/run/progress.py).
    """
    cores, workers = torch.get_num_threads(), worker_count(len(items), device)
    if workers <= 1:
        return [function(item) for item in items]
    threads_each, stop = max(1, cores // workers), threading.Event()

    def prepare() -> None:
        torch.set_num_threads(threads_each)
        STOP.set(stop)

    pool = ThreadPoolExecutor(workers, initializer=prepare)
    try:
        futures = [pool.submit(function, item) for item in items]
        done, _ = wait(futures, return_when=FIRST_EXCEPTION)
        failed = [future for future in futures if future in done and future.exception() is not None]
        for future in failed:
            future.result()
        return [future.result() for future in futures]
    finally:
        stop.set()
        pool.shutdown(wait=True, cancel_futures=True)
        torch.set_num_threads(cores)
