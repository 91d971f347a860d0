"""The success tiers as data, and their evaluation from the metrics of results.json.

Tiers: `minimum viable`, `strong` and `exceptional` are the original documents' success criteria,
`published` their figures, `beyond` this repository's own. A failed criterion is a finding: it is
printed, and changes an exit code only with --strict.
"""

import fnmatch
import math
import operator
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

TIERS = ("minimum viable", "strong", "exceptional", "published", "beyond")
OURS = "beyond"  # the tier that the documents do not have

_COMPARE = {"<": operator.lt, "<=": operator.le, ">": operator.gt, ">=": operator.ge}


@dataclass(frozen=True)
class Criterion:
    """One claim: reduce(metric) - reduce(minus), averaged over seeds, compared with a target.

    `metric` is a metric's name, or a pattern with `*` of which the worst value for the claim counts
    (the largest for < and <=, the smallest for > and >=). With `minus` the names that match both
    patterns' stars are subtracted pair by pair first. `log10` says that measured and target are
    log10 values to be printed as powers of ten. A criterion with `requires` passes only where the
    named ones, which stand before it, do as well: a norm or a tie says nothing without the fit beside
    it. Without a metric of its own it passes where they do.
    """

    id: str
    tier: str
    claim: str
    metric: str = ""
    op: str = "<"
    target: float = 0.0
    minus: str = ""
    log10: bool = False
    requires: tuple[str, ...] = ()
    bound: str = "mean"  # "low" or "high": that end of the metric's interval95 counts; "worst": that seed


def with_whole(parts: Sequence[Criterion], name: str, claim: str) -> tuple[Criterion, ...]:
    """The parts of a claim, and after them the claim itself, which holds where all of them do."""
    return (*parts, Criterion(name, parts[0].tier, claim, requires=tuple(part.id for part in parts)))


def evaluate(criteria: Sequence[Criterion], metrics: Mapping[str, Mapping[str, Any]]) -> list[dict[str, Any]]:
    """The criteria with what was measured, one row each; a criterion that requires others comes after them.

    id, tier, claim, metric, op, target, log10, measured, passed; the last two None where a metric is absent,
    and `absent` says why; `lacking` is the first claim that one with a metric requires and does not have.
    A claim over retraining needs an interval over training seeds: one seed gives none.

    Raises:
        ValueError: a criterion requires one that does not stand before it.
    """
    rows: dict[str, dict[str, Any]] = {}
    for criterion in criteria:
        if missing := [name for name in criterion.requires if name not in rows]:
            raise ValueError(f"{criterion.id} requires {missing[0]}, which does not stand before it")
        required = [rows[name] for name in criterion.requires]
        verdicts = [row["passed"] for row in required]
        measured = None
        if criterion.metric:
            measured = _measure(criterion, metrics)
            own = None if measured is None else bool(_COMPARE[criterion.op](measured, criterion.target))
            verdicts.append(own)
            measured = measured if measured is not None and math.isfinite(measured) else None
        passed = False if False in verdicts else None if None in verdicts else True
        lacking = [row["claim"] for row in required if not row["passed"]]
        metric = criterion.metric + (f" - {criterion.minus}" if criterion.minus else "")
        rows[criterion.id] = {
            "id": criterion.id,
            "tier": criterion.tier,
            "claim": criterion.claim,
            "metric": metric or " and ".join(criterion.requires),
            "op": criterion.op,
            "target": criterion.target,
            "measured": measured,
            "passed": passed,
            "log10": criterion.log10,
            "absent": _why_absent(criterion, metrics) if passed is None else "",
            "lacking": lacking[0] if lacking and criterion.metric and passed is False else "",
        }
    return list(rows.values())


def _measure(criterion: Criterion, metrics: Mapping[str, Mapping[str, Any]]) -> float | None:
    """The criterion's value; None where a metric or its interval is absent, infinite (a failure) where one
    has no mean.
    """
    names = sorted(fnmatch.filter(metrics, criterion.metric))
    worst = max if criterion.op.startswith("<") else min
    values = []
    for name in names:
        value = metrics[name]["mean"]
        if criterion.bound == "worst":
            value = None if value is None else worst(metrics[name]["values"])
        elif criterion.bound != "mean":
            if "interval95" not in metrics[name]:
                return None
            value = metrics[name]["interval95"][criterion.bound == "high"]
        if criterion.minus:
            other = _partner(name, criterion)
            if other not in metrics:
                return None
            reference = metrics[other]["mean"]
            value = None if value is None or reference is None else value - reference
        values.append(value)
    bad = math.inf if worst is max else -math.inf
    return worst((bad if value is None else value for value in values), default=None)


def _why_absent(criterion: Criterion, metrics: Mapping[str, Mapping[str, Any]]) -> str:
    """Why a criterion has no verdict."""
    found = [metrics[name] for name in fnmatch.filter(metrics, criterion.metric)]
    if criterion.bound != "mean" and found and all(len(entry["values"]) == 1 for entry in found):
        return "not measured with one seed"
    return "not measured"


def verdict(row: Mapping[str, Any]) -> str:
    """How a claim came out: the documents' are reproduced or not, our own are met or not; or why neither."""
    if row["passed"] is None:
        return row.get("absent") or "not measured"
    word = "met" if row["tier"] == OURS else "reproduced"
    return word if row["passed"] else f"not {word}"


def _partner(name: str, criterion: Criterion) -> str:
    """The name that `minus` gives when its star stands for what the metric's star matched."""
    if "*" not in criterion.metric:
        return criterion.minus
    head, _, tail = criterion.metric.partition("*")
    return criterion.minus.replace("*", name[len(head) : len(name) - len(tail)])


def format_target(row: Mapping[str, Any]) -> str:
    """A row's operator and target; "all" for one that has no metric (in its place stand others' ids)."""
    return "all" if " and " in row["metric"] else f"{row['op']} {format_number(row['target'], row['log10'])}"


def format_number(value: float | None, log10: bool = False) -> str:
    """A measured value for people: log10 values as the number, or as 10^x beyond 10^5 and below 10^-3."""
    if value is None:
        return "-"
    if log10:
        return f"10^{value:.1f}" if not -3 <= value <= 5 else f"{10**value:.3g}"
    return f"{value:.3g}"


def count_verdicts(rows: Sequence[Mapping[str, Any]]) -> dict[str, Counter[str]]:
    """How often each verdict was given, by tier, in the tiers' order; tiers without a verdict are left out.

    A row that was not measured, whatever the reason, counts as `not measured`.
    """
    counts: dict[str, Counter[str]] = {}
    for tier in TIERS:
        own = [row for row in rows if row["tier"] == tier]
        if any(row["passed"] is not None for row in own):
            counts[tier] = Counter("not measured" if row["passed"] is None else verdict(row) for row in own)
    return counts


def format_findings(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """What was found, in at most three lines: the documents' claims, our own, and what was not measured."""
    judged = [row for row in rows if row["passed"] is not None]
    parts = (
        ("the documents' claims", "reproduced", [row for row in judged if row["tier"] != OURS]),
        ("our own", "met", [row for row in judged if row["tier"] == OURS]),
    )
    lines = []
    for whose, word, own in parts:
        missed = [row["claim"] for row in own if not row["passed"]]
        said = f"of {whose} {len(own) - len(missed)} of {len(own)} {word}"
        lines += [f"  {said}" + (f"; not: {_first(missed)}" if missed else "")] if own else []
    if len(judged) < len(rows):
        lines.append(f"  {len(rows) - len(judged)} of {len(rows)} claims were not measured by this run")
    return lines


def _first(claims: Sequence[str]) -> str:
    return claims[0] + (f", and {len(claims) - 1} more" if len(claims) > 1 else "")


def format_table(rows: Sequence[Mapping[str, Any]], preset: str, seeds: Sequence[int]) -> str:
    """What was found, then the criteria that were measured, as plain text: one line each."""
    lines = [f"Criteria ({preset} preset, {len(seeds)} seed{'s' if len(seeds) > 1 else ''})"]
    lines += [*format_findings(rows), ""]
    judged = [row for row in rows if row["passed"] is not None]
    width = max((len(row["claim"]) for row in judged), default=0)
    for row in by_tier(judged):
        said = verdict(row) if row["passed"] else verdict(row).upper()
        measured = format_number(row["measured"], row["log10"])
        said += f" (lacking: {row['lacking']})" if row.get("lacking") else ""
        lines.append(f"  {row['tier']:<15} {row['claim']:<{width}}  {measured:>9}  {said}")
    return "\n".join(lines)


def by_tier(rows: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """Criteria in the order of their tiers."""
    return sorted(rows, key=lambda row: TIERS.index(row["tier"]))
