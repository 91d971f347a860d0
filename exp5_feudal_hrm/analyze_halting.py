"""When to stop: does the recursion's residual or its Jacobian foretell a right answer, and halt better than the
Q head?

Three signals rise as an answer becomes more trustworthy: what the Q head says (q), less the relative residual
(residual), less log10 ||dz_k/dz_0||_F (jacobian). A puzzle halts at the first segment whose signal reaches a
threshold. Thresholds are chosen on training puzzles: for each budget the largest at which these spend no more
than it, on average. What they then spend, and how many answers are right, is measured on held-out puzzles.

Shapes: S seeds, E puzzles, K segments, C budgets.
"""

import math
from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor

from common.recursion.carry import Halting
from common.recursion.rollout import halting_segment
from common.run.results import Results
from common.statistics import auroc
from exp5_feudal_hrm.analyze_recursion import log10_jacobian, reported

SIGNALS = ("q", "residual", "jacobian")
STEPS_A_SEGMENT = 4  # budgets from one number of segments to the next


def signals_of(measured: Mapping[str, Tensor], segments: int, size: int, halting: Halting) -> dict[str, Tensor]:
    """The signals of a followed recursion's first K segments, each [S, E, K]."""
    q = measured["q"][:, :, :segments]
    return {
        "q": q[..., 0] - q[..., 1] if halting.with_continuation else q[..., 0],
        "residual": -measured["residual"][:, :, :segments],
        "jacobian": -log10_jacobian(measured["log_tangent"][:, :, :segments], size),
    }


def halted_at(signal: Tensor, thresholds: Tensor) -> Tensor:
    """The first segment, from 1, whose signal reaches the threshold, K if none: [E, K], [C] -> [C, E] int64."""
    reached = signal >= thresholds[:, None, None]
    reached[..., -1] = True
    return reached.long().argmax(-1) + 1


def choose_thresholds(signal: Tensor, budgets: Tensor) -> Tensor:
    """For each budget the largest threshold at which puzzles halt within it on average: [E, K], [C] -> [C].

    From -inf, which halts everything after one segment, to inf, which halts nothing.
    """
    ends = signal.new_tensor([-math.inf, math.inf])
    candidates = torch.cat([ends[:1], signal.flatten().unique(), ends[1:]])
    spent = halted_at(signal, candidates).double().mean(-1)  # rises with the threshold
    return candidates[torch.searchsorted(spent, budgets, right=True) - 1]


def halting_curve(
    training: Tensor, held_out: Tensor, exact: Tensor, budgets: Tensor
) -> tuple[Tensor, Tensor]:
    """Mean segments and share of right answers of held-out puzzles, at thresholds for budgets: two [C].

    Args:
        training, held_out: a signal, [E, K] each.
        exact: whether a held-out puzzle's answer is right after each segment, [E, K] bool.
        budgets: mean segments to spend, from 1 to K, [C].
    """
    at = halted_at(held_out, choose_thresholds(training, budgets))  # [C, E]
    right = exact[None].expand(len(at), -1, -1).gather(-1, at[..., None] - 1)[..., 0]
    return at.double().mean(-1), right.double().mean(-1)


def record_foretelling(
    results: Results, prefix: str, measured: Mapping[str, Tensor], segments: int, size: int, halting: Halting
) -> None:
    """Metrics {prefix}/auroc/{signal}/{final,now}/segment={k}: of a signal at segment k, as a foretelling of
    the answer after the last followed segment, and of the answer at k itself; arrays [K, S].
    """
    exact = {"final": measured["exact"][:, :, -1:].expand(-1, -1, segments), "now": measured["exact"]}
    for name, signal in signals_of(measured, segments, size, halting).items():
        for when, right in exact.items():
            areas = torch.tensor(
                [
                    [auroc(one[:, k], truth[:, k]) for one, truth in zip(signal, right, strict=True)]
                    for k in range(segments)
                ]
            )
            results.add_array(f"{prefix}/auroc/{name}/{when}", areas)
            for k in reported(segments):
                results.add(f"{prefix}/auroc/{name}/{when}/segment={k}", areas[k - 1])


def record_halting(
    results: Results,
    prefix: str,
    training: Mapping[str, Tensor],
    held_out: Mapping[str, Tensor],
    segments: int,
    size: int,
    halting: Halting,
) -> None:
    """Metrics {prefix}/halting/{signal,fixed}/exact/segments={b}: accuracy where b segments are spent on
    average (two thresholds in turn, where none spends just b), and .../exact: the mean over b from 2 to K - 1;
    {signal}_minus_q and {signal}_minus_fixed; q_rule/{exact,segments}: where the Q head itself would halt.

    `fixed` halts every puzzle after the same number of segments. Arrays {signal}/{segments,exact} [C, S].
    """
    budgets = torch.linspace(1, segments, STEPS_A_SEGMENT * (segments - 1) + 1, dtype=torch.float64)
    exact = held_out["exact"][:, :, :segments]
    learned, shown = (signals_of(found, segments, size, halting) for found in (training, held_out))
    between, at_equal = range(2, segments), {}
    for name in SIGNALS:
        pairs = [halting_curve(*each, budgets) for each in zip(learned[name], shown[name], exact, strict=True)]
        spent, right = (torch.stack(values, 1) for values in zip(*pairs, strict=True))  # [C, S]
        results.add_array(f"{prefix}/halting/{name}/segments", spent)
        results.add_array(f"{prefix}/halting/{name}/exact", right)
        at_equal[name] = torch.tensor(
            [np.interp(between, *curve) for curve in zip(spent.T.numpy(), right.T.numpy(), strict=True)]
        )  # [S, b]
    at_equal["fixed"] = exact.double().mean(1)[:, 1:-1]
    for name, right in at_equal.items():
        compared = {name: right} | {
            f"{name}_minus_{other}": right - at_equal[other] for other in ("q", "fixed") if name not in (other, "fixed")
        }
        for label, values in compared.items():
            results.add(f"{prefix}/halting/{label}/exact", values.mean(1))
            for b, value in zip(between, values.T, strict=True):
                results.add(f"{prefix}/halting/{label}/exact/segments={b}", value)
    _record_q_rule(results, prefix, held_out["q"][:, :, :segments], exact, halting)


def _record_q_rule(results: Results, prefix: str, q: Tensor, exact: Tensor, halting: Halting) -> None:
    at = halting_segment(q, halting)  # [S, E]
    results.add(f"{prefix}/halting/q_rule/segments", at.double().mean(1), "segments")
    results.add(f"{prefix}/halting/q_rule/exact", exact.gather(-1, at[..., None] - 1)[..., 0].double().mean(1))
