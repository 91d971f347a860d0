"""Files that are whole at any moment, what killed writers leave, and folders that one run at a time holds."""

import contextlib
import os
import socket
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]  # of the repository
_HELD: list[Any] = []  # files that this process has locked
POLL = 0.1  # between two looks at what another process holds [s]
LITTER_AGE = 24 * 3600.0  # after which another machine's unfinished write counts as given up [s]


def write_atomically(path: Path, write: Callable[[Any], None]) -> None:
    """Write a file so that it is at any moment either the old one or the new one, whole.

    Raises:
        OSError: naming the file, where the disk is full or the place is not to be written.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    writer = f".{path.name}.{socket.gethostname()}-{os.getpid()}."
    descriptor, name = tempfile.mkstemp(dir=path.parent, prefix=writer, suffix=".tmp")
    try:
        with os.fdopen(descriptor, "wb") as file:
            write(file)
            file.flush()
            os.fsync(file.fileno())
        Path(name).chmod(0o666 & ~_umask())
        Path(name).replace(path)
    except BaseException as error:
        Path(name).unlink(missing_ok=True)
        if isinstance(error, OSError):
            raise OSError(error.errno, error.strerror or str(error), str(path)) from error
        raise


def _umask() -> int:
    """The process's umask; reading it is setting it."""
    mask = os.umask(0)
    os.umask(mask)
    return mask


def remove_litter(folder: Path) -> None:
    """Delete the unfinished files of writers that were killed (see `write_atomically`)."""
    here = socket.gethostname()
    for path in folder.glob(".*.tmp"):
        writer = path.name.removesuffix(".tmp").rpartition(".")[0].rpartition("-")
        process = writer[2]
        own = writer[0].endswith(f".{here}") and process.isdigit()
        try:
            old = time.time() - path.stat().st_mtime > LITTER_AGE
        except FileNotFoundError:  # its writer has finished
            continue
        if old or (own and not is_running(int(process))):
            path.unlink(missing_ok=True)


def is_running(process: int) -> bool:
    """Whether this machine has a process of this number; taken for granted where that cannot be asked."""
    if os.name == "nt":  # where signal 0 would end it
        return True
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


class FolderInUse(OSError):
    """Another run writes to this folder."""

    exit_code = 2


@contextlib.contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Hold a folder for this process; the system lets go of it when the process ends, however it ends.

    Raises:
        FolderInUse: another process holds it.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / ".lock").open("a+b") as file:
        try:
            _lock(file)
        except BlockingIOError:
            raise FolderInUse(
                f"another run is writing to {folder}: wait for it, or take another folder"
            ) from None
        _HELD.append(file)
        try:
            yield
        finally:
            _HELD.remove(file)


@contextlib.contextmanager
def taken(path: Path) -> Iterator[None]:
    """Hold a file for this thread alone, as soon as nobody else does; it is gone afterwards.

    The system lets go of it when the process ends, however it ends.
    """
    with contextlib.ExitStack() as stack:
        while (file := _take(path, stack)) is None:
            time.sleep(POLL)
        _HELD.append(file)
        try:
            yield
        finally:
            _HELD.remove(file)
            with contextlib.suppress(OSError):  # Windows deletes no open file
                path.unlink()


def is_taken(path: Path) -> bool:
    """Whether somebody holds this file (see `taken`)."""
    try:
        with path.open("r+b") as file:
            _lock(file)
    except FileNotFoundError:
        return False
    except BlockingIOError:
        return True
    return False


def _take(path: Path, stack: contextlib.ExitStack) -> Any:
    """The locked file, or None where another holds it or has just deleted it."""
    file = path.open("a+b")
    with contextlib.suppress(BlockingIOError, FileNotFoundError):
        _lock(file)
        if os.path.samestat(os.fstat(file.fileno()), path.stat()):
            return stack.enter_context(file)
    file.close()
    return None


def let_go_of_locks() -> None:
    """In a forked process: close what it shares with its parent, so that a lock ends with the parent."""
    for file in _HELD:
        os.close(file.fileno())
    _HELD.clear()


def _lock(file: Any) -> None:
    """Take the whole file, or raise BlockingIOError; a file system without locks is taken as it is."""
    try:
        if os.name == "nt":
            import msvcrt

            msvcrt.locking(file.fileno(), msvcrt.LK_NBLCK, 1)
        else:
            import fcntl

            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except PermissionError as error:  # what Windows calls a held lock
        raise BlockingIOError(str(error)) from error
    except BlockingIOError:
        raise
    except OSError:
        return
