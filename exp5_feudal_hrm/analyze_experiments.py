"""Tables of experiment files, which the other scripts write.

    python analyze_experiments.py experiments/*.json --format markdown

prints for each training: exact accuracy on held-out puzzles, its difference from the baseline over the same
puzzles and seeds, each with its 95% interval over training seeds and puzzles (of several seeds), and the
document's training metrics, means over the last tenth of the steps.
"""

import argparse
import csv
import io
import json
import math
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NoReturn

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from common.run.command_line import exit_with_error, show

FORMATS = ("table", "csv", "markdown")
SCHEMA = 1  # of experiment files (experiment_files.py)
METRICS = ("exact", "exact_minus_baseline")
TERMS = ("train/lm_loss", "train/feudal_loss", "train/accuracy", "train/exact_accuracy", "train/steps")
COLUMNS = (
    "file", "run", "weight", "period", "steps", "seeds",
    *(f"{metric}{end}" for metric in METRICS for end in ("", "_low", "_high")), *TERMS,
)  # fmt: skip


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        exit_with_error(message)


def parse(args: Sequence[str] | None = None) -> argparse.Namespace:
    """The command line; a bad one ends with one line on stderr and code 2."""
    parser = _Parser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("files", nargs="+", type=Path, help="experiment files")
    parser.add_argument("--format", choices=FORMATS, default="table", help="of the output")
    return parser.parse_args(args)


# ----------------------------------------------------------------------------------------------
# Files and their rows
# ----------------------------------------------------------------------------------------------


def read_experiment(path: Path) -> dict[str, Any]:
    """An experiment file.

    Raises:
        ValueError: it is none; one line says why.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ValueError(f"{path}: {error.strerror}") from error
    except ValueError as error:
        raise ValueError(f"{path}: no JSON: {str(error).partition(chr(10))[0]}") from error
    if not isinstance(content, dict) or content.get("schema") != SCHEMA or not content.get("runs"):
        raise ValueError(f"{path}: no experiment file of schema {SCHEMA}")
    try:
        format_experiments({path.stem: content}, "csv")
        format_experiments({path.stem: content}, "table")
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise ValueError(f"{path}: no experiment file: {type(error).__name__}: {error}") from error
    return content


def rows_of(name: str, content: Mapping[str, Any]) -> list[dict[str, Any]]:
    """A row for each run of an experiment file: numbers, None where there is none."""
    rows = []
    for label, found in content["runs"].items():
        row = {"file": name, "run": label, "weight": found["weight"], "period": found["period"]}
        row |= {"steps": content["config"]["iterations"], "seeds": len(content["seeds"])}
        for metric in METRICS:
            entry = found[metric] or {}
            low, high = entry.get("interval95", (None, None))
            row |= {metric: entry.get("mean"), f"{metric}_low": low, f"{metric}_high": high}
        row |= {term: sum(values) / len(values) for term, values in found["training"].items()}
        rows.append(row)
    return rows


def verdict(name: str, rows: Sequence[Mapping[str, Any]], choices: Mapping[str, Any]) -> str:
    """Which runs beat the baseline beyond the noise of seeds and puzzles, and what a sweep's choice gains.

    Of many settings some lie above by chance; what is chosen on other seeds does not.
    """
    judged = [row for row in rows if row["exact_minus_baseline_low"] is not None]
    better = [row["run"] for row in judged if row["exact_minus_baseline_low"] > 0]
    sentence = f"{name}: above the baseline beyond its interval: {', '.join(better) or 'none'}"
    if not judged:
        sentence = f"{name}: no verdict, which needs a baseline and several seeds"
    for metric, entry in choices.items():
        low, high = entry.get("interval95", (math.nan, math.nan))
        sentence += (
            f"\n{name}: {metric}, chosen on the other seeds: {entry['mean']:.3f} [{low:.3f}, {high:.3f}]"
        )
    return sentence


# ----------------------------------------------------------------------------------------------
# Formats
# ----------------------------------------------------------------------------------------------


def format_experiments(experiments: Mapping[str, Mapping[str, Any]], form: str) -> str:
    """Experiments by name in one of FORMATS. csv has a column for each number and no verdict."""
    by_name = {name: rows_of(name, content) for name, content in experiments.items()}
    rows = [row for rows in by_name.values() for row in rows]
    columns = [column for column in COLUMNS if any(row.get(column) is not None for row in rows)]
    if form == "csv":
        text = io.StringIO()
        writer = csv.DictWriter(text, columns, extrasaction="ignore", lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
        return text.getvalue().rstrip("\n")
    shown = [column for column in columns if not column.endswith(("_low", "_high"))]
    cells = [shown, *([_cell(row, column) for column in shown] for row in rows)]
    verdicts = [
        verdict(name, of_one, experiments[name].get("choices", {})) for name, of_one in by_name.items()
    ]
    table = _markdown(cells) if form == "markdown" else _aligned(cells)
    return "\n".join([table, "", *verdicts])


def _cell(row: Mapping[str, Any], column: str) -> str:
    value, low = row.get(column), row.get(f"{column}_low")
    if value is None or isinstance(value, str):
        return value or "-"
    interval = "" if low is None else f" [{low:.3f}, {row[f'{column}_high']:.3f}]"
    return (f"{value:.3f}" if isinstance(value, float) and column != "weight" else f"{value:g}") + interval


def _aligned(cells: Sequence[Sequence[str]]) -> str:
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip()
        for line in cells
    )


def _markdown(cells: Sequence[Sequence[str]]) -> str:
    head, *rest = [f"| {' | '.join(line)} |" for line in cells]
    return "\n".join([head, "|" + " --- |" * len(cells[0]), *rest])


def main() -> int:
    given = parse()
    stems = [path.stem for path in given.files]
    names = [
        stem if stems.count(stem) == 1 else str(path) for stem, path in zip(stems, given.files, strict=True)
    ]
    try:
        experiments = {name: read_experiment(path) for name, path in zip(names, given.files, strict=True)}
    except ValueError as error:
        exit_with_error(str(error))
    return show(format_experiments(experiments, given.format))


if __name__ == "__main__":
    raise SystemExit(main())
