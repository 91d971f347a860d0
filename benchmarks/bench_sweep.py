"""Eight equal trials on two workers against one, and what Ray's start costs: wall-clock, in one process tree.

    python benchmarks/bench_sweep.py

takes experiment 1 at a small size, a training seed each, one thread a worker; needs requirements-sweep.txt.
The worker processes' own start (torch is imported) is part of each side's time.
"""

import os
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
os.environ["OMP_NUM_THREADS"] = "1"
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

from benchmarks.timing import median_seconds
from common.config import EXP1_PRESETS
from common.sweeps.engine import Machines, cluster, run_tasks
from common.sweeps.plan import make_plan
from common.sweeps.tasks import TaskMaker

TRIALS, ROUNDS = 8, 3
SMALL = [
    *(
        "--systems",
        "lorenz",
        "--iterations",
        "300",
        "--horizons",
        "4",
        "8",
        "16",
        "--num-jacobian-states",
        "8",
    ),
    *("--num-error-states", "8", "--mollified-samples", "16", "--gradient-horizons", "20"),
    *("--planning-horizons", "20", "--num-problems", "4", "--gd-steps", "10", "--spectral-sweep", "1"),
]


def main() -> None:
    seeds = ["seeds", *map(str, range(TRIALS))]

    def run(workers: int) -> None:
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name)
            plan = make_plan(
                "exp1_spectral_cliff", EXP1_PRESETS, [*SMALL, "--cache-dir", str(folder / "cache")], [seeds]
            )
            maker = TaskMaker(plan, folder / "trials")
            tasks = [maker.task(trial) for trial in plan.trials()]
            records = run_tasks(tasks, Machines(workers=workers, threads=1), folder / "ray")
            assert {record.state for record in records} == {"done"}

    with tempfile.TemporaryDirectory() as folder:
        began = time.perf_counter()
        with cluster(Machines(workers=2, threads=1), Path(folder) / "ray"):
            print(f"Ray's start                {time.perf_counter() - began:6.1f} s")
            seconds = median_seconds({"one worker": lambda: run(1), "two workers": lambda: run(2)}, ROUNDS)
    for name, value in seconds.items():
        print(f"{TRIALS} trials, {name:16} {value:6.1f} s   {value / seconds['one worker']:.2f}")


if __name__ == "__main__":
    main()
