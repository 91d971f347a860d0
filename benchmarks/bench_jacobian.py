"""Exact rollout Jacobian norms: how much faster than torch.func.jacrev under vmap, and equal to it.

    python benchmarks/bench_jacobian.py

prints ratios of medians measured in one process, alternating, one thread; absolute times are noise.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import torch
from torch import Tensor
from torch.func import jacrev, vmap

from benchmarks.timing import median_seconds
from common.jacobian_utils import rollout_jacobian_norms
from exp1_spectral_cliff.models import FlatModel

BATCH, HIDDEN, REPEATS = 64, 128, 5
SETTINGS = ((3, 50), (3, 200), (3, 800), (32, 50), (32, 200))  # (d_state, T)


def reference_norms(model: FlatModel, starts: Tensor, actions: Tensor) -> tuple[Tensor, Tensor]:
    """log10 norms from vmap(jacrev) of the whole rollout: [B, d], [B, T, d_a] -> two [B]."""

    def last_state(start: Tensor, plan: Tensor) -> Tensor:
        state = start[None, None]
        for action in plan.unbind(0):
            state = model.step(state, action[None, None])
        return state[0, 0]

    jacobians = vmap(jacrev(last_state, argnums=(0, 1)))(starts, actions)
    return tuple(jacobian.flatten(1).norm(dim=1).log10() for jacobian in jacobians)


def main() -> None:
    torch.set_num_threads(1)
    print(f"batch {BATCH}, hidden {HIDDEN}, float32, one thread, median of {REPEATS}")
    print(f"{'d_state':>8} {'T':>5} {'ours [ms]':>10} {'jacrev [ms]':>12} {'ratio':>6}  difference (log10)")
    for d_state, horizon in SETTINGS:
        model = FlatModel((0,), d_state, 1, HIDDEN, "benchmark").requires_grad_(False)
        starts, actions = torch.randn(BATCH, d_state), torch.rand(BATCH, horizon, 1) * 2 - 1

        def ours(model=model, starts=starts, actions=actions, horizon=horizon) -> tuple[Tensor, Tensor]:
            return rollout_jacobian_norms(model.step, starts[None], actions[None], (horizon,))

        def jacrev_norms(model=model, starts=starts, actions=actions) -> tuple[Tensor, Tensor]:
            return reference_norms(model, starts, actions)

        seconds = median_seconds({"ours": ours, "jacrev": jacrev_norms}, REPEATS)
        model.double()
        exact = ours(model, starts.double(), actions.double())
        expected = reference_norms(model, starts.double(), actions.double())
        difference = max((a[0, 0] - b).abs().max().item() for a, b in zip(exact, expected, strict=True))
        ratio = seconds["jacrev"] / seconds["ours"]
        print(
            f"{d_state:>8} {horizon:>5} {seconds['ours'] * 1e3:>10.1f} {seconds['jacrev'] * 1e3:>12.1f} "
            f"{ratio:>6.2f}  {difference:.1e}"
        )


if __name__ == "__main__":
    main()
