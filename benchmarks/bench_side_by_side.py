"""Trainings one after the other, in threads and in forked processes: wall-clock, as ratios in one process.

    python benchmarks/bench_side_by_side.py

takes four of experiment 1's HELM trainings, 200 steps each, on two cores.
"""

import os
import sys
import tempfile
from dataclasses import replace
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

import torch

from benchmarks.timing import median_seconds
from common.config import EXP1_PRESETS
from common.run import side_by_side
from common.run.cache import Checkpoint
from exp1_spectral_cliff.dataset import make_system, training_trajectories
from exp1_spectral_cliff.train_helm import helm_variants, train_helm

CPU = torch.device("cpu")
NAMES = ("helm", "helm_n1", "helm_sigma0", "helm_unbounded")


def main() -> None:
    config = replace(EXP1_PRESETS["quick"], iterations=200)
    system = make_system("lorenz")
    data, variants = training_trajectories(system, config), helm_variants(config)

    def train(kept: tuple[Path, str]) -> None:
        folder, name = kept
        checkpoint = Checkpoint(folder / name, name)
        train_helm(system, data, variant=variants[name], config=config, device=CPU, checkpoint=checkpoint)

    def timed(threads: int, fork: bool) -> None:
        torch.set_num_threads(threads)
        side_by_side._can_fork = lambda: fork
        with tempfile.TemporaryDirectory() as folder:
            side_by_side.map_side_by_side(train, [(Path(folder), name) for name in NAMES], CPU)

    ways = {
        "one after the other, one thread": lambda: timed(1, False),
        "two threads": lambda: timed(2, False),
        "two processes": lambda: timed(2, True),
    }
    seconds = median_seconds(ways, 3)
    for name, value in seconds.items():
        ratio = value / seconds["one after the other, one thread"]
        print(f"{name:34} {value:6.2f} s   {ratio:.2f}")


if __name__ == "__main__":
    main()
