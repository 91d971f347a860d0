"""Cached steps side by side on the cores of a cpu.

Small operations do not fill two cores, and threads of one interpreter wait for each other between them. So on
Linux the steps are done in forked processes, which leave their results in the cache, where this one finds
them (benchmarks/bench_side_by_side.py has the ratios). Elsewhere a fork is not safe, and threads it is.
"""

import multiprocessing
import os
import pickle
import signal
import sys
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import FIRST_EXCEPTION, Future, ProcessPoolExecutor, ThreadPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from typing import Any

import torch

from common.run.files import let_go_of_locks
from common.run.progress import STOP

FEW = 2  # workers at once where nobody says otherwise
LOOK_EVERY = 2.0  # between two calls of what is done meanwhile [s]
_WORK: list[Callable[[Any], Any]] = []  # what a forked worker does; it cannot be sent, being a closure


def worker_count(items: int, device: torch.device) -> int:
    """How many items are worked on at once: one on an accelerator, on a cpu as many as torch has threads.

    More than FEW of them only where OMP_NUM_THREADS asks for more.
    """
    most = torch.get_num_threads() if "OMP_NUM_THREADS" in os.environ else min(FEW, torch.get_num_threads())
    return max(1, min(items, most)) if device.type == "cpu" else 1


def map_side_by_side(
    function: Callable[[Any], Any],
    items: Sequence[Any],
    device: torch.device,
    meanwhile: Callable[[], None] | None = None,
) -> list[Any]:
    """[function(item) for item in items], on a cpu as many at once as torch has cores.

    The first error, or an interrupt, stops the others.

    Args:
        function: keeps its result, so that called again in this process it only has to load it.
        items: what it is called with; sent to other processes.
        device: where the work is done.
        meanwhile: called here every few seconds while others work.
    """
    workers = worker_count(len(items), device)
    if workers <= 1:
        return [function(item) for item in items]
    if not _can_fork():
        return _in_threads(function, items, workers, meanwhile)
    _in_processes(function, items, workers, meanwhile)
    return [function(item) for item in items]


def do_side_by_side(function: Callable[[Any], None], items: Sequence[Any]) -> None:
    """`map_side_by_side` for what function(item) leaves in files, on a cpu."""
    workers = worker_count(len(items), torch.device("cpu"))
    if workers > 1 and _can_fork():
        _in_processes(function, items, workers)
    else:
        for item in items:
            function(item)


def _can_fork() -> bool:
    """macOS's libraries do not survive a fork, and other threads may hold a lock at that moment."""
    return sys.platform.startswith("linux") and threading.current_thread() is threading.main_thread()


def _in_threads(
    function: Callable, items: Sequence, workers: int, meanwhile: Callable[[], None] | None
) -> list[Any]:
    """In threads, which stop where they next report progress (common/run/progress.py)."""
    cores, stop = torch.get_num_threads(), threading.Event()

    def begin() -> None:
        torch.set_num_threads(max(1, cores // workers))
        STOP.set(stop)

    pool = ThreadPoolExecutor(workers, initializer=begin)
    try:
        return _results([pool.submit(function, item) for item in items], meanwhile)
    finally:
        stop.set()
        pool.shutdown(wait=True, cancel_futures=True)
        torch.set_num_threads(cores)


def _in_processes(
    function: Callable, items: Sequence, workers: int, meanwhile: Callable[[], None] | None = None
) -> None:
    """In forked processes, for what they leave behind; they end with this one, however it ends.

    Each has one thread: OpenMP's others do not come along through a fork.
    """
    before = set(multiprocessing.active_children())
    context = multiprocessing.get_context("fork")
    _WORK.append(function)
    pool = ProcessPoolExecutor(workers, mp_context=context, initializer=_begin, initargs=(os.getpid(),))
    own: set[multiprocessing.Process] = set()
    try:
        pool.submit(int).result()  # begins every worker, which none of the items has ended yet
        own = set(multiprocessing.active_children()) - before
        futures = [pool.submit(_work, item) for item in items]
        _results(futures, meanwhile)
    except BrokenProcessPool as error:
        pool.shutdown(wait=True)  # its thread ends them, and alone learns their exit codes
        codes = sorted({process.exitcode for process in own} - {0, -signal.SIGTERM})
        if -signal.SIGKILL in codes:
            raise MemoryError("the system ended a worker process") from error
        raise RuntimeError(f"a worker process ended with exit code {codes}") from error
    finally:
        _WORK.pop()
        for process in own:
            process.terminate()
        pool.shutdown(wait=True, cancel_futures=True)


def _results(futures: Sequence[Future], meanwhile: Callable[[], None] | None) -> list[Any]:
    """The results in order, or the first error as soon as there is one."""
    while True:
        done, working = wait(futures, LOOK_EVERY if meanwhile else None, return_when=FIRST_EXCEPTION)
        for future in futures:
            if future in done and future.exception() is not None:
                raise future.exception()
        if not working:
            return [future.result() for future in futures]
        meanwhile()


def _begin(parent: int) -> None:
    """In a forked worker: signals and locks are the parent's business, and its end is the worker's."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    let_go_of_locks()
    torch.set_num_threads(1)
    threading.Thread(target=_end_with, args=(parent,), daemon=True).start()


def _end_with(parent: int) -> None:
    """Files are whole at any moment, so a worker may end at any."""
    while os.getppid() == parent:
        time.sleep(0.5)
    os._exit(1)


def _work(item: Any) -> None:
    try:
        _WORK[-1](item)
    except Exception as error:
        try:
            pickle.loads(pickle.dumps(error))
        except Exception:  # one that cannot be sent
            raise RuntimeError(f"{type(error).__name__}: {error}") from None
        raise
