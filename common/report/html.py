"""The report of several experiments: one self-contained HTML page, read from their results folders."""

import base64
import html
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from string import Template
from typing import Any

from common.run.criteria import TIERS, format_number, format_target
from common.run.results import load_results


@dataclass(frozen=True)
class Finished:
    """What one experiment left: its results.json and its figures."""

    name: str
    folder: Path
    results: Mapping[str, Any]
    figures: Sequence[Path]
    note: str = ""  # of how it was run


def read_finished(name: str, folder: Path) -> Finished:
    """Read an experiment's results/ and list its plots/.

    Raises:
        FileNotFoundError, ValueError: as `common.run.results.load_results`, or they lack the run's time.
    """
    results = load_results(folder / "results")
    if not isinstance(results["timings"].get("phase_seconds"), (int, float)):
        raise ValueError(f"{folder / 'results' / 'results.json'} has no timing phase_seconds")
    figures = sorted(path for path in (folder / "plots").glob("*") if path.suffix in {".png", ".gif"})
    return Finished(name, folder, results, figures)


def minutes(results: Mapping[str, Any]) -> float:
    """Minutes of a run's trainings and measurements, those of interrupted sessions included."""
    return results["timings"]["phase_seconds"] / 60


# ----------------------------------------------------------------------------------------------
# HTML
# ----------------------------------------------------------------------------------------------

_PAGE = Template("""<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8"/>
<meta name="viewport" content="width=device-width, initial-scale=1"/>
<title>HELM: report</title>
<style>
body { font: 15px/1.5 system-ui, sans-serif; color: #222; }
body { margin: 2rem auto; max-width: 70rem; padding: 0 1rem; }
h1, h2 { line-height: 1.2; }
table { border-collapse: collapse; width: 100%; margin: 1rem 0; font-size: 14px; }
th, td { text-align: left; padding: .3rem .6rem; border-bottom: 1px solid #ddd; vertical-align: top; }
td.number { text-align: right; font-variant-numeric: tabular-nums; }
.passed { color: #00694e; } .failed { color: #a63c00; font-weight: bold; } .absent { color: #777; }
img { max-width: 100%; height: auto; border: 1px solid #eee; }
figure { margin: 1.5rem 0; } figcaption { color: #555; font-size: 13px; }
code { font-size: 13px; }
</style>
</head>
<body>
<h1>HELM: gradient-based planning in learned world models</h1>
$body
</body>
</html>
""")

SAID = ("device", "date", "python", "torch", "numpy")  # of where the numbers come from
VERDICTS = {True: ("passed", "passed"), False: ("failed", "failed"), None: ("absent", "not measured")}


def render_html(experiments: Sequence[Finished], failures: Mapping[str, str]) -> str:
    """The page: what failed to run, then each experiment's criteria, provenance, minutes and figures.

    Args:
        experiments: those that left results.
        failures: experiment -> why it left none.
    """
    parts = [
        f"<p><strong>{_text(name)} did not finish:</strong> {_text(reason)}</p>"
        for name, reason in failures.items()
    ]
    parts += [_experiment_html(finished) for finished in experiments]
    return _PAGE.substitute(body="\n".join(parts))


def _text(value: object) -> str:
    """A value as text of the page, whatever letters it holds."""
    return html.escape("".join(letter if letter.isprintable() else " " for letter in str(value)))


def _experiment_html(finished: Finished) -> str:
    results = finished.results
    rows = "\n".join(_criterion_row(row) for row in by_tier(results["criteria"]))
    said = {key: _text(results["provenance"].get(key) or "unknown") for key in SAID}
    commit = _text(str(results["provenance"].get("git_commit") or "unknown")[:10])
    changes = " with local changes" if results["provenance"].get("git_dirty") else ""
    figures = "\n".join(_figure_html(path) for path in finished.figures)
    return f"""<h2>{_text(finished.name)}</h2>
<p>{_text(results["preset"])} preset, seeds {_text(", ".join(map(str, results["seeds"])))},
{minutes(results):.1f} minutes on {said["device"]}, {said["date"]},
commit <code>{commit}{changes}</code>, Python {said["python"]}, torch {said["torch"]},
numpy {said["numpy"]}. {_text(finished.note)}</p>
<table><thead><tr><th>tier</th><th>claim</th><th>metric</th><th>target</th><th>measured</th><th></th></tr></thead>
<tbody>
{rows}
</tbody></table>
{figures}"""


def _criterion_row(row: Mapping[str, Any]) -> str:
    css, word = VERDICTS[row["passed"]]
    return (
        f"<tr><td>{_text(row['tier'])}</td><td>{_text(row['claim'])}</td>"
        f"<td><code>{_text(row['metric'])}</code></td><td class='number'>{_text(format_target(row))}</td>"
        f"<td class='number'>{_text(format_number(row['measured'], row['log10']))}</td>"
        f"<td class='{css}'>{word}</td></tr>"
    )


def _figure_html(path: Path) -> str:
    kind = path.suffix.removeprefix(".")
    data = base64.b64encode(path.read_bytes()).decode()
    name = _text(path.name)
    return (
        f"<figure><img alt='{name}' src='data:image/{kind};base64,{data}'/>"
        f"<figcaption>{name}</figcaption></figure>"
    )


def by_tier(rows: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """Criteria in the order of their tiers."""
    return sorted(rows, key=lambda row: TIERS.index(row["tier"]))
