"""Trials side by side through Ray Tune, on this machine or on the nodes of a cluster.

Ray decides where and when a trial runs, and runs it again where its node or its process was lost. What has
been done is decided by the trials' own records (common/sweeps/trial.py) and not by Ray's.

Ray's processes end with the sweep, however it ends; after SIGKILL two idle helpers do so a minute later.
Nothing leaves the machine: Ray sends no usage statistics and starts no dashboard, and the one that is started
here listens on loopback alone.
"""

import contextlib
import importlib.util
import io
import logging
import os
import re
import secrets
import shutil
import signal
import tempfile
import threading
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from common.run.command_line import ConfigError, reject
from common.run.files import ROOT, is_running
from common.run.signals import Terminated, stoppable
from common.sweeps.asha import Asha
from common.sweeps.search import Search
from common.sweeps.trial import FAILED, STOPPED, Record, Task, do_trial, ended, load_record

log = logging.getLogger(__name__)

ANSWER = 10.0  # a cluster takes a connection within that [s]
LOOK = 0.5  # between two looks for records [s]
ATTEMPTS = 3  # more, of a trial whose node or process was lost
OBJECT_STORE = 100 * 2**20  # for what Ray itself passes around; trials leave their results in files [bytes]
QUIET = {  # of Ray, read when it is imported
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_AIR_NEW_OUTPUT": "0",
    "RAY_CHDIR_TO_TRIAL_DIR": "0",
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",
    "TUNE_DISABLE_SIGINT_HANDLER": "1",
}
PREFIX = "helm-ray-"  # of folders for what Ray keeps on this machine while it runs
LOCAL = {  # of Ray where it is started here
    "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",  # on every system its switch for loopback alone
    "RAY_AUTH_MODE": "token",  # other users of the machine are not let in
    "RAY_worker_niceness": "0",  # a trial is as important as a run by hand
}


@dataclass(frozen=True)
class Machines:
    """Where trials run: on this machine, or on a cluster that is running."""

    workers: int | None = None  # trials at a time; none given: half the cores here, all that a cluster takes
    address: str | None = None  # of a cluster: auto, host:port or ray://host:port
    threads: int | None = (
        None  # of torch, and cores, for each trial; none given: cores / workers here, else 1
    )
    gpus: float = 0.0  # of each trial

    def __post_init__(self) -> None:
        for name, least in (("workers", 1), ("threads", 1), ("gpus", 0)):
            value = getattr(self, name)
            if value is not None and not value >= least:
                flag = "gpus_per_trial" if name == "gpus" else name
                reject(flag, value, f"numbers >= {least}")

    @property
    def at_once(self) -> int:
        """Trials at a time on this machine."""
        return self.workers or max(1, (os.cpu_count() or 1) // 2)

    @property
    def threads_each(self) -> int:
        """Threads of torch for each trial."""
        if self.threads is not None or self.address is not None:
            return self.threads or 1
        return max(1, (os.cpu_count() or 1) // self.at_once)

    def require(self) -> None:
        """Refuse what cannot be used, before anything is started.

        Raises:
            ConfigError: Ray is not installed, or nobody answers at the address.
        """
        require_packages("ray")
        if self.address not in (None, "auto"):
            require_packages("grpc")
            _require_answer(self.address)


def require_packages(*names: str) -> None:
    """Raise ConfigError for one that is not installed; none of them is imported."""
    for name in names:
        try:
            found = importlib.util.find_spec(name)
        except (ImportError, ValueError):
            found = None
        if found is None:
            raise ConfigError(f"{name} is not installed: pip install -r requirements-sweep.txt")


def _require_answer(address: str) -> None:
    """Refuse an address where nothing answers as Ray's servers do, which is by gRPC."""
    import grpc

    target = address.removeprefix("ray://")
    if not re.fullmatch(r"[^:/\s]+:\d+", target):
        reject("address", address, "auto, HOST:PORT or ray://HOST:PORT")
    with grpc.insecure_channel(target) as channel:
        try:
            grpc.channel_ready_future(channel).result(ANSWER)
        except grpc.FutureTimeoutError:
            reject("address", address, f"of a running cluster; none answers there within {ANSWER:.0f} s")


@contextlib.contextmanager
def cluster(machines: Machines, storage: Path) -> Iterator[Path]:
    """Ray within: started here for as long, or the cluster joined.

    Args:
        machines: where.
        storage: a folder for what Ray Tune keeps, seen by every node at the same path; it is gone afterwards.

    Raises:
        ConfigError: Ray is not installed, or there is no such cluster.
    """
    machines.require()
    with contextlib.ExitStack() as stack:
        stack.callback(shutil.rmtree, storage, ignore_errors=True)
        stack.enter_context(_ray(machines))
        received = stack.enter_context(stoppable())  # again: Ray has a handler of its own
        try:
            yield storage
        except KeyboardInterrupt:  # what Ray makes of any
            raise (Terminated if received == [signal.SIGTERM] else KeyboardInterrupt) from None


def run_tasks(
    tasks: Sequence[Task], machines: Machines, storage: Path, asha: Asha | None = None
) -> list[Record]:
    """Run trials side by side on a `cluster`; their records, in the order of the tasks.

    A trial that fails takes no other down. What interrupts stops all of them; what is done stays done.

    Args:
        tasks: with distinct folders, which every node sees at the same path.
        machines: where.
        storage: what `cluster` gave.
        asha: stops trials that do badly on the way; none given: every trial is run to its end.
    """
    from ray import tune

    if not tasks:
        return []
    for task in tasks:
        task.forget()
    work = tune.with_parameters(_work, tasks=list(tasks), threads=machines.threads_each, asha=asha)
    numbers = {"number": tune.grid_search(list(range(len(tasks))))}
    scheduler = None if asha is None else asha.scheduler()
    with _telling(tasks):
        results = _tune(work, numbers, machines, storage / "tasks", scheduler=scheduler)
    lost = {each.config["number"]: _last_line(each.error) for each in results if each.error is not None}
    return [_record_of(task, lost.get(number)) for number, task in enumerate(tasks)]


def run_search(search: Search, samples: int, machines: Machines, storage: Path) -> None:
    """Let Optuna choose settings and run them on a `cluster`, until there are as many with those before."""
    from ray import tune

    records = [[record for task in tasks if (record := ended(task))] for tasks in search.tried()]
    values = [(found[0].setting, search.value(found)) for found in records if found]
    known = [(setting, value) for setting, value in values if value is not None]
    if len(records) < samples:
        work = tune.with_parameters(_evaluate, search=search, threads=machines.threads_each)
        algorithm, left = search.algorithm(known), samples - len(records)
        _tune(work, {}, machines, storage / "search", search_alg=algorithm, num_samples=left)


def _tune(work: Any, space: Mapping[str, Any], machines: Machines, storage: Path, **options: Any) -> Any:
    """Ray's results of all trials."""
    from ray import tune

    tuner = tune.Tuner(
        tune.with_resources(work, {"cpu": machines.threads_each, "gpu": machines.gpus}),
        param_space=dict(space),
        tune_config=tune.TuneConfig(max_concurrent_trials=machines.workers, reuse_actors=True, **options),
        run_config=tune.RunConfig(
            name="tune", storage_path=str(storage), verbose=0,
            failure_config=tune.FailureConfig(max_failures=ATTEMPTS),
        ),
    )  # fmt: skip
    with contextlib.redirect_stdout(io.StringIO()):  # Ray's own lines; what is said of trials goes to stderr
        return tuner.fit()


def _evaluate(config: Mapping[str, Any], search: Search, threads: int) -> None:
    """In a worker: the trials of a setting that Optuna chose."""
    import ray
    from ray import tune

    value = search.evaluate(config, threads, ray.get_runtime_context().get_node_id())
    tune.report({"value": value})


def _work(config: Mapping[str, Any], tasks: Sequence[Task], threads: int, asha: Asha | None) -> None:
    """In a worker: one trial, unless an attempt before came to its end."""
    import ray

    task = tasks[config["number"]]
    if ended(task) is None:
        do_trial(task, threads, ray.get_runtime_context().get_node_id(), asha and asha.follow)


def _last_line(error: BaseException) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return (lines[-1] if lines else type(error).__name__)[:300]


def _record_of(task: Task, lost: str | None) -> Record:
    """A trial's record; written here for one that was stopped, or whose process was lost again and again."""
    record = load_record(task.folder)
    if record is not None and record.fingerprint == task.fingerprint:
        return record
    record = Record(
        task.id, STOPPED if lost is None else FAILED, task.fingerprint, dict(task.setting),
        tuple(task.config.seeds), lost or "stopped before its end",
    )  # fmt: skip
    record.save(task.folder)
    return record


@contextlib.contextmanager
def _ray(machines: Machines) -> Iterator[None]:
    """Ray, started here for as long, or the cluster joined."""
    local = machines.address is None
    own = QUIET | (LOCAL if local else {})
    os.environ.update(own)
    if local:
        os.environ.setdefault("RAY_AUTH_TOKEN", secrets.token_hex(32))  # of this sweep alone, in no file
    import ray

    _remove_left_behind()
    folder = Path(tempfile.mkdtemp(prefix=f"{PREFIX}{os.getpid()}-"))
    threads = {"OMP_NUM_THREADS": str(machines.threads_each), "OMP_WAIT_POLICY": "PASSIVE"}
    paths = {"PYTHONPATH": os.pathsep.join([str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])])}
    common = {
        "runtime_env": {"env_vars": threads | paths | own}, "log_to_driver": False, "logging_level": "ERROR",
    }  # fmt: skip
    try:
        with contextlib.chdir(
            ROOT
        ):  # workers import from where Ray is started before they look at PYTHONPATH
            if local:
                ray.init(
                    "local", num_cpus=machines.at_once * machines.threads_each, include_dashboard=False,
                    object_store_memory=OBJECT_STORE, _temp_dir=str(folder), **common,
                )  # fmt: skip
            else:
                _join(ray, machines.address, common)
        yield
    finally:
        ray.shutdown()
        shutil.rmtree(folder, ignore_errors=True)


def _join(ray: Any, address: str, common: Mapping[str, Any]) -> None:
    try:
        ray.init(address=address, **common)
    except (Exception, SystemExit) as error:  # of another version, without its token, or gone meanwhile
        reject("address", address, f"of a running cluster ({str(error).partition(chr(10))[0][:200]})")


def _remove_left_behind() -> None:
    """Delete what sweeps that were killed have left of Ray's files on this machine."""
    for folder in Path(tempfile.gettempdir()).glob(f"{PREFIX}*-*"):
        process = folder.name.removeprefix(PREFIX).partition("-")[0]
        if process.isdigit() and not is_running(int(process)):
            shutil.rmtree(folder, ignore_errors=True)


@contextlib.contextmanager
def _telling(tasks: Sequence[Task]) -> Iterator[None]:
    """Say within, in a line each, which trials have ended, as their records appear."""
    over = threading.Event()
    thread = threading.Thread(target=_tell, args=(list(tasks), over), daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


def _tell(waiting: list[Task], over: threading.Event) -> None:
    total, last = len(waiting), False
    while waiting and not last:
        last = over.wait(LOOK)
        for task in list(waiting):
            record = load_record(task.folder)
            if record is not None and record.fingerprint == task.fingerprint:
                waiting.remove(task)
                how = f"failed: {record.reason}" if record.state == FAILED else record.state
                done = total - len(waiting)
                log.info(
                    "[%d/%d] %s %s in %.1f s on %s", done, total, task.id, how, record.seconds, record.host
                )
