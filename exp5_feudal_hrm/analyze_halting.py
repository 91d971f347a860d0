"""When to stop: do the residual or the Jacobian foretell a right answer, and halt better than the Q head?

Three signals are to rise as an answer becomes trustworthy: what the Q head says (q), less the relative
residual (residual), less log10 ||dz_k/dz_0||_F (jacobian). A puzzle halts at the first segment whose signal
reaches a threshold. Thresholds are chosen on training puzzles: for each budget the largest at which these
spend no more than it, on average. What they then spend, and how many answers are right, is measured on
held-out puzzles.

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
from exp5_feudal_hrm.evaluate_recursion import log10_jacobian, reported

STEPS_A_SEGMENT = 4  # budgets from one number of segments to the next

Signals = Mapping[str, Tensor]  # by name, [S, E, K] each


def signals_of(measured: Mapping[str, Tensor], segments: int, size: int, halting: Halting) -> Signals:
    """The signals of a followed recursion's first K segments; `size` is its states' d."""
    q = measured["q"][:, :, :segments]
    return {
        "q": q[..., 0] - q[..., 1] if halting.with_continuation else q[..., 0],
        "residual": -measured["residual"][:, :, :segments],
        "jacobian": -log10_jacobian(measured["log_tangent"][:, :, :segments], size),
    }


def halted_at(signal: Tensor, thresholds: Tensor) -> Tensor:
    """The first segment, from 1, whose signal reaches each threshold, or K: [E, K], [C] -> [C, E] int64."""
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


# ----------------------------------------------------------------------------------------------
# From arrays to metrics
# ----------------------------------------------------------------------------------------------


def record_foretelling(results: Results, prefix: str, signals: Signals, exact: Tensor) -> None:
    """Metrics {prefix}/auroc/{signal}/{final,now}/segment={k}, and arrays [K, S].

    How well a signal at segment k tells puzzles whose answer is right from others: the answer after the last
    followed segment (final), or at k itself (now). No metric where in no seed some are right and some wrong.
    """
    answers = {"final": exact[:, :, -1:].expand_as(exact), "now": exact}
    for name, signal in signals.items():
        segments = signal.shape[2]
        for when, right in answers.items():
            areas = [
                [auroc(one[:, k], truth[:, k]) for one, truth in zip(signal, right, strict=True)]
                for k in range(segments)
            ]
            results.add_array(f"{prefix}/auroc/{name}/{when}", np.array(areas))
            for k in reported(segments):
                if not np.isnan(areas[k - 1]).all():
                    results.add(f"{prefix}/auroc/{name}/{when}/segment={k}", areas[k - 1])


def record_halting(
    results: Results, prefix: str, training: Signals, held_out: Signals, exact: Tensor
) -> None:
    """Metrics {prefix}/halting/{signal}/exact/segments={b}, .../exact, and arrays {signal}/{segments,exact}.

    Accuracy where held-out puzzles spend b segments on average, by two thresholds in turn where none spends
    just b; .../exact is its mean over b from 2 to K - 1. `fixed` halts every puzzle after the same number of
    segments. {signal}_minus_q and {signal}_minus_fixed: the differences. The arrays are [C, S].

    Args:
        results: where to.
        prefix: before every name.
        training, held_out: signals of training and of held-out puzzles.
        exact: of held-out puzzles, [S, E, K] bool.
    """
    segments = exact.shape[2]
    between = range(2, segments)
    budgets = torch.linspace(1, segments, STEPS_A_SEGMENT * (segments - 1) + 1, dtype=torch.float64)
    at_equal = {"fixed": exact.double().mean(1)[:, 1:-1]}  # [S, b] each
    for name, signal in held_out.items():
        pairs = [halting_curve(*each, budgets) for each in zip(training[name], signal, exact, strict=True)]
        spent, right = (torch.stack(values, 1) for values in zip(*pairs, strict=True))  # [C, S]
        results.add_array(f"{prefix}/halting/{name}/segments", spent)
        results.add_array(f"{prefix}/halting/{name}/exact", right)
        curves = zip(spent.T.numpy(), right.T.numpy(), strict=True)
        at_equal[name] = torch.from_numpy(np.stack([np.interp(between, *curve) for curve in curves]))
    compared = dict(at_equal)
    for name in held_out:
        for other in {"q", "fixed"} - {name}:
            compared[f"{name}_minus_{other}"] = at_equal[name] - at_equal[other]
    for name, values in compared.items():
        results.add(f"{prefix}/halting/{name}/exact", values.mean(1))
        for b, value in zip(between, values.T, strict=True):
            results.add(f"{prefix}/halting/{name}/exact/segments={b}", value)


def record_q_rule(results: Results, prefix: str, q: Tensor, exact: Tensor, halting: Halting) -> None:
    """Metrics {prefix}/halting/q_rule/{segments,exact}: where the Q head itself would halt.

    Args:
        results: where to.
        prefix: before every name.
        q: [S, E, K, 2].
        exact: [S, E, K] bool.
        halting: the rule.
    """
    at = halting_segment(q, halting)  # [S, E]
    right = exact.gather(-1, at[..., None] - 1)[..., 0]
    results.add(f"{prefix}/halting/q_rule/segments", at.double().mean(1), "segments")
    results.add(f"{prefix}/halting/q_rule/exact", right.double().mean(1))
