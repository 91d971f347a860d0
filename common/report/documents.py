"""Numbers in the documents, each written from a saved results.json.

A generated part of a Markdown file stands between `<!-- KIND: ARGUMENTS -->` and `<!-- end -->`, in a
line or over several. RUN is an experiment's name, for reference/RUN/results.json, or RUN/FILE for
reference/RUN/FILE.json, where FILE is any of the files beside it. Kinds:

    metric: RUN NAME [STYLE]      the mean, and the range over seeds where there are several
    ratio: RUN NAME OVER [STYLE]  one metric's mean over another's; STYLE log10 where both are powers of ten
    table: RUN PATTERN | ROWS | COLUMNS [| STYLE]
                                  metrics by rows and columns; PATTERN holds {row} and {column}, and
                                  ROWS and COLUMNS are comma-separated, an item `name: label` or `name`
                                  STYLE: `log10`, powers of ten; `interval`, the 95% interval over starts
                                  in brackets; `seeds`, that over training seeds (Student's t, from five on)
    criteria: RUN [TIERS]         the success tiers with what was measured; TIERS, comma-separated, of them
    verdict: RUN ID               how one claim came out, by its id: reproduced, not reproduced, met, ...
    run: RUN                      preset, seeds, minutes, machine
    gallery: RUN FILE ...         figures

A test regenerates every document and compares, so no number in them can drift from its file.
"""

import json
import re
from collections.abc import Callable, Mapping
from functools import cache, partial
from pathlib import Path
from typing import Any

from common.report.html import minutes
from common.run.criteria import TIERS, by_tier, format_number, format_target, verdict
from common.run.files import write_atomically

INTERVALS = {"interval": "interval95", "seeds": "ci95"}  # style: field of a metric
INLINE = ("metric", "ratio", "verdict", "run")  # kinds within a line
BLOCKS = ("table", "criteria", "gallery")  # kinds of lines of their own

_MARKER = re.compile(
    rf"(?P<begin><!-- (?P<kind>{'|'.join(INLINE + BLOCKS)}): (?P<arguments>.*?) -->)"
    r".*?(?P<end><!-- end -->)",
    re.DOTALL,
)


def document_paths(root: Path) -> list[Path]:
    """The Markdown files that may hold generated parts."""
    own = (root / name for name in ("README.md", "EXPECTED_RESULTS.md"))
    return [*own, *sorted(root.glob("exp[0-9]_*/README.md")), *sorted(root.glob("exp[0-9]_*/tables.md"))]


def update_documents(root: Path) -> None:
    """Rewrite the generated parts of every document from reference/."""
    for path in document_paths(root):
        if path.exists():
            text = regenerate(path.read_text(encoding="utf-8"), root, path.parent)
            write_atomically(path, lambda file, text=text: file.write(text.encode()))


def regenerate(text: str, root: Path, folder: Path) -> str:
    """The text with every generated part made anew.

    Args:
        text: a Markdown document.
        root: the repository, which holds reference/.
        folder: where the document lies, for links to figures.

    Raises:
        FileNotFoundError, KeyError: a marker names a run or a metric that reference/ does not hold.
    """
    up = "../" * len(folder.resolve().relative_to(root.resolve()).parts)
    kinds: dict[str, Callable[..., str]] = {
        "metric": _metric,
        "ratio": _ratio,
        "table": _table,
        "criteria": _criteria,
        "verdict": _verdict,
        "run": _run,
        "gallery": partial(_gallery, up=up),
    }

    read = cache(partial(reference_results, root))  # a document names a run hundreds of times

    def fill(match: re.Match) -> str:
        content = kinds[match["kind"]](match["arguments"], read)
        block = "" if match["kind"] in INLINE else "\n"
        return f"{match['begin']}{block}{content}{block}{match['end']}"

    return _MARKER.sub(fill, text)


def reference_results(root: Path, run: str) -> dict[str, Any]:
    """results.json of a reference run, or another file beside it: `NAME` or `NAME/FILE`."""
    name, _, file = run.partition("/")
    path = root / "reference" / name / f"{file or 'results'}.json"
    return json.loads(path.read_text(encoding="utf-8"))


Reader = Callable[[str], Mapping[str, Any]]


def metric_text(results: Mapping[str, Any], name: str, style: str = "") -> str:
    """A metric's mean; in brackets the range over seeds, where there are several, or the interval."""
    if style not in ("", "log10", *INTERVALS):
        raise ValueError(f"style {style!r} of {name}: allowed: log10, {', '.join(INTERVALS)}")
    entry, log10 = results["metrics"][name], style == "log10"
    if entry["mean"] is None:
        return "not finite"
    mean = format_number(entry["mean"], log10)
    if style in INTERVALS:  # of rates and their differences: what is below rounding is 0
        numbers = (entry["mean"], *entry[INTERVALS[style]])
        mean, low, high = (format_number(round(number, 9) + 0.0) for number in numbers)
        return f"{mean} [{low}, {high}]"
    low, high = min(entry["values"]), max(entry["values"])
    if low == high:
        return mean
    return f"{mean} ({format_number(low, log10)} to {format_number(high, log10)})"


def _metric(arguments: str, read: Reader) -> str:
    run, name, *style = arguments.split()
    return metric_text(read(run), name, *style)


def _ratio(arguments: str, read: Reader) -> str:
    run, name, over, *style = arguments.split()
    if style not in ([], ["log10"]):
        raise ValueError(f"style of {name} over {over}: {' '.join(style)}: allowed: log10")
    value, base = (read(run)["metrics"][metric]["mean"] for metric in (name, over))
    return format_number(value - base, log10=True) if style else format_number(value / base)


def _table(arguments: str, read: Reader) -> str:
    head, rows, columns, *style = (part.strip() for part in arguments.split("|"))
    run, pattern = head.split(maxsplit=1)
    results = read(run)
    row_items, column_items = _items(rows), _items(columns)
    lines = [
        "| | " + " | ".join(label for _, label in column_items) + " |",
        "|---" * (len(column_items) + 1) + "|",
    ]
    for row, label in row_items:
        names = [pattern.replace("{row}", row).replace("{column}", column) for column, _ in column_items]
        cells = [metric_text(results, name, *style) if name in results["metrics"] else "" for name in names]
        if not any(cells):
            raise KeyError(f"table row {row!r}: no metric like {names[0]}")
        lines.append(f"| {label} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def _items(text: str) -> list[tuple[str, str]]:
    """`a: label, b` -> (a, label), (b, b)."""
    pairs = [item.strip().partition(":") for item in text.split(",")]
    return [(name.strip(), label.strip() or name.strip()) for name, _, label in pairs]


def _criteria(arguments: str, read: Reader) -> str:
    run, _, tiers = arguments.strip().partition(" ")
    chosen = {tier.strip() for tier in tiers.split(",")} if tiers else set(TIERS)
    if not chosen <= set(TIERS):
        raise ValueError(f"tiers of {run}: {tiers}: allowed: {', '.join(TIERS)}")
    lines = ["| tier | claim | target | measured | |", "|---|---|---|---|---|"]
    for row in by_tier(read(run)["criteria"]):
        if row["tier"] not in chosen:
            continue
        target = format_target(row)
        measured = format_number(row["measured"], row["log10"])
        claim = row["claim"].replace("|", "\\|")
        said = verdict(row) + (f", lacking: {row['lacking']}" if row.get("lacking") else "")
        said = said.replace("|", "\\|")
        lines.append(f"| {row['tier']} | {claim} | {target} | {measured} | {said} |")
    return "\n".join(lines)


def _verdict(arguments: str, read: Reader) -> str:
    run, claim = arguments.split()
    rows = {row["id"]: row for row in read(run)["criteria"]}
    return verdict(rows[claim])


def _run(arguments: str, read: Reader) -> str:
    results = read(arguments.strip())
    origin, seeds = results["provenance"], results["seeds"]
    changed = results.get("changed", [])
    settings = f" with other {', '.join(changed)}" if changed else ""
    return (
        f"{results['preset']} preset{settings}, {len(seeds)} seed{'s' if len(seeds) > 1 else ''}, "
        f"{minutes(results):.1f} minutes on {origin['device']}, {origin['threads']} threads"
    )


def _gallery(arguments: str, read: Reader, up: str) -> str:
    run, *files = arguments.split()
    return "\n\n".join(f"![{file}]({up}reference/{run}/{file})" for file in files)
