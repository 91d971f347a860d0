"""Rollout Jacobian norms beside torch.func.jacrev under vmap: time, memory, and that both are equal.

    python benchmarks/bench_jacobian.py [--settings 3x50 128x50]

prints ratios of median CPU times measured in one process, alternating, one thread; absolute times are noise.
Peak memory is that of a process of its own for each way, over what it had before. Ours by the model's closed
form, ours by autograd (what a model without one gets), and, from ESTIMATED_FROM dimensions on, the unbiased
estimator in place of the exact norms. The difference is the largest of the batch, in float64; that of an
estimate is the median.
"""

import argparse
import multiprocessing
import sys
import time
from collections.abc import Callable
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import torch
from torch import Tensor
from torch.func import jacrev, vmap

from benchmarks.timing import median_seconds
from common.jacobian_utils import LN10, rollout_jacobian_norms, rollout_squared_norms_stochastic
from common.run.random import generator
from exp1_spectral_cliff.models import FlatModel

BATCH, HIDDEN, REPEATS, PROBES = 64, 128, 5, 16
SETTINGS = ("3x50", "3x200", "3x800", "8x200", "32x50", "32x200", "128x50", "512x10")  # d_state x T
ESTIMATED_FROM = 512  # dimensions
Norms = Callable[[], tuple[Tensor, Tensor]]  # log10 ||dz_T/dz_0||, log10 ||dz_T/da||, each [B]


def reference_norms(model: FlatModel, starts: Tensor, actions: Tensor) -> tuple[Tensor, Tensor]:
    """log10 norms from vmap(jacrev) of the whole rollout: [B, d], [B, T, d_a] -> two [B]."""

    def last_state(start: Tensor, plan: Tensor) -> Tensor:
        state = start[None, None]
        for action in plan.unbind(0):
            state = model.step(state, action[None, None])
        return state[0, 0]

    jacobians = vmap(jacrev(last_state, argnums=(0, 1)))(starts, actions)
    return tuple(jacobian.flatten(1).norm(dim=1).log10() for jacobian in jacobians)


def ways(d_state: int, horizon: int, dtype: torch.dtype = torch.float32) -> dict[str, Norms]:
    """What is compared on one random model: name -> norms."""
    draw = generator(0, "benchmark")
    model = FlatModel((0,), d_state, 1, HIDDEN, "benchmark").to(dtype).requires_grad_(False)
    starts = torch.randn(BATCH, d_state, generator=draw).to(dtype)
    actions = (torch.rand(BATCH, horizon, 1, generator=draw) * 2 - 1).to(dtype)
    probes = torch.randn(PROBES, 1, BATCH, d_state, generator=draw).to(dtype)

    def exact(step: Callable[[Tensor, Tensor], Tensor]) -> tuple[Tensor, Tensor]:
        return tuple(n[0, 0] for n in rollout_jacobian_norms(step, starts[None], actions[None], (horizon,)))

    def estimate() -> tuple[Tensor, Tensor]:
        logs = rollout_squared_norms_stochastic(model.step, starts[None], actions[None], probes)
        return tuple(log[0] / (2 * LN10) for log in logs)

    reference = {"jacrev": lambda: reference_norms(model, starts, actions)}
    if d_state >= ESTIMATED_FROM:
        return reference | {f"estimate, {PROBES} probes": estimate}
    return reference | {
        "closed form": lambda: exact(model.step),
        "autograd": lambda: exact(lambda states, actions: model.step(states, actions)),
    }


def peak_memory_mb(d_state: int, horizon: int, name: str) -> float:
    """What one call adds to this process at its peak, on Linux."""

    def resident(quantity: str) -> float:
        status = Path("/proc/self/status").read_text(encoding="ascii")
        return int(status.partition(f"{quantity}:")[2].split()[0]) / 2**10

    torch.set_num_threads(1)
    ways(d_state, 1)[name]()  # loads what torch loads at its first call
    function = ways(d_state, horizon)[name]
    before = resident("VmRSS")
    Path("/proc/self/clear_refs").write_text("5", encoding="ascii")  # forgets the peak so far
    function()
    return resident("VmHWM") - before


def memory(d_state: int, horizon: int, name: str) -> str:
    """`peak_memory_mb` in a fresh process; '-' where it cannot be read."""
    if sys.platform != "linux":
        return "-"
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        return f"{pool.apply(peak_memory_mb, (d_state, horizon, name)):.0f}"


def compare(d_state: int, horizon: int) -> None:
    """One line a way."""
    functions = ways(d_state, horizon)
    repeats = REPEATS if d_state < 100 else 2
    seconds = median_seconds(functions, repeats, clock=time.process_time)
    if d_state < ESTIMATED_FROM:  # equality is judged in float64
        functions = ways(d_state, horizon, torch.float64)
    expected = functions["jacrev"]()
    for name, function in functions.items():
        found = function()
        differences = torch.stack([(a - b).abs() for a, b in zip(found, expected, strict=True)])
        difference = differences.median() if name.startswith("estimate") else differences.max()
        ratio, peak = seconds["jacrev"] / seconds[name], memory(d_state, horizon, name)
        print(
            f"{d_state:>7} {horizon:>4}  {name:<20} {seconds[name] * 1e3:>8.1f} {ratio:>6.2f} {peak:>8}  "
            f"{difference:.1e}",
            flush=True,
        )


def main() -> None:
    parser = argparse.ArgumentParser(description="Rollout Jacobian norms beside vmap(jacrev).")
    parser.add_argument("--settings", nargs="+", default=SETTINGS, help="d_state x T, as 3x50")
    torch.set_num_threads(1)
    print(f"batch {BATCH}, hidden {HIDDEN}, float32, one thread, median of up to {REPEATS}")
    print(f"d_state    T  {'way':<20} {'CPU [ms]':>8} {'ratio':>6} {'peak MB':>8}  difference (log10)")
    for setting in parser.parse_args().settings:
        compare(*map(int, setting.split("x")))


if __name__ == "__main__":
    main()
