"""The report of several experiments: one self-contained HTML page, read from their results folders."""

import base64
import html
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from string import Template
from typing import Any

from common.run.criteria import by_tier, count_verdicts, format_number, format_target, verdict
from common.run.results import load_results


@dataclass(frozen=True)
class Finished:
    """What one experiment left: its results.json and its figures."""

    name: str
    folder: Path
    results: Mapping[str, Any]
    figures: Sequence[Path]
    note: str = ""  # of how it was run

    @property
    def headline(self) -> Path | None:
        """The figure that says most: the one that the run names, else the first."""
        named = [path for path in self.figures if path.name == self.results.get("headline")]
        return next(iter([*named, *self.figures]), None)

    @property
    def title(self) -> str:
        """What the run says that it is about, else its name."""
        return str(self.results.get("title") or self.name)


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
:root { color-scheme: light dark; --ink: #222; --faint: #5c5c5c; --line: #ddd; --page: #fff;
  --good: #00694e; --bad: #a63c00; }
@media (prefers-color-scheme: dark) { :root { --ink: #e6e6e6; --faint: #a8a8a8; --line: #444; --page: #181818;
  --good: #5fc9a5; --bad: #ff9a62; } }
* { box-sizing: border-box; }
body { font: 16px/1.5 system-ui, sans-serif; color: var(--ink); background: var(--page);
  margin: 1.5rem auto; max-width: 72rem; padding: 0 1rem; overflow-wrap: anywhere; }
h1, h2, h3 { line-height: 1.25; } h3 { margin: .5rem 0; font-size: 1.05rem; } a { color: inherit; }
.cards { display: grid; gap: 1.5rem;
  grid-template-columns: repeat(auto-fill, minmax(min(100%, 20rem), 1fr)); }
.card, .scroll { border: 1px solid var(--line); border-radius: 6px; padding: .8rem; }
.scroll { overflow-x: auto; padding: 0; margin: 1rem 0; }
img { display: block; max-width: 100%; height: auto; background: #fff; border-radius: 4px; }
figure { margin: 1.5rem 0; } figcaption, .origin { color: var(--faint); font-size: 14px; }
table { border-collapse: collapse; width: 100%; font-size: 14px; }
th, td { text-align: left; padding: .3rem .6rem; border-bottom: 1px solid var(--line); vertical-align: top; }
td.number { text-align: right; font-variant-numeric: tabular-nums; white-space: nowrap; }
.passed { color: var(--good); } .failed { color: var(--bad); font-weight: bold; }
.absent { color: var(--faint); }
summary { cursor: pointer; } code { font-size: 13px; }
</style>
</head>
<body>
<h1>HELM: gradients through long computations</h1>
$body
</body>
</html>
""")

SAID = ("device", "date", "python", "torch", "numpy")  # of where the numbers come from
CSS = {True: "passed", False: "failed", None: "absent"}


def render_html(experiments: Sequence[Finished], failures: Mapping[str, str]) -> str:
    """The page: what failed to run; of each experiment its headline figure and how its claims came out; then
    each one's figures, provenance and criteria.

    Args:
        experiments: those that left results.
        failures: experiment -> why it left none.
    """
    parts = [
        f"<p class='failed'>{_text(name)} did not finish: {_text(reason)}</p>"
        for name, reason in failures.items()
    ]
    parts += ["<div class='cards'>", *map(_card_html, experiments), "</div>"]
    parts += [_experiment_html(finished) for finished in experiments]
    return _PAGE.substitute(body="\n".join(parts))


def _text(value: object) -> str:
    """A value as text of the page, whatever letters it holds."""
    return html.escape("".join(letter if letter.isprintable() else " " for letter in str(value)))


def _card_html(finished: Finished) -> str:
    """An experiment in a few lines: what it is about, its headline figure, its verdicts counted by tier."""
    counts = count_verdicts(finished.results["criteria"])
    rows = "".join(
        f"<tr><td>{_text(tier)}</td><td>"
        + ", ".join(f"{number} {_text(word)}" for word, number in sorted(verdicts.items()))
        + "</td></tr>"
        for tier, verdicts in counts.items()
    )
    picture = "" if finished.headline is None else _image_html(finished.headline)
    anchor = _text(finished.name)
    return (
        f"<div class='card'><a href='#{anchor}'>{picture}</a>"
        f"<h3><a href='#{anchor}'>{_text(finished.title)}</a></h3><table>{rows}</table></div>"
    )


def _experiment_html(finished: Finished) -> str:
    results = finished.results
    said = {key: _text(results["provenance"].get(key) or "unknown") for key in SAID}
    commit = _text(str(results["provenance"].get("git_commit") or "unknown")[:10])
    changes = " with local changes" if results["provenance"].get("git_dirty") else ""
    first = finished.headline
    figures = [path for path in (first, *(path for path in finished.figures if path != first)) if path]
    return f"""<h2 id='{_text(finished.name)}'>{_text(finished.title)}</h2>
<p class='origin'>{_text(finished.name)}, {_text(results["preset"])} preset,
seeds {_text(", ".join(map(str, results["seeds"])))}, {minutes(results):.1f} minutes on {said["device"]},
{said["date"]}, commit <code>{commit}{changes}</code>, Python {said["python"]}, torch {said["torch"]},
numpy {said["numpy"]}. {_text(finished.note)}</p>
{"".join(map(_figure_html, figures))}
{_criteria_html(results["criteria"])}"""


def _criteria_html(criteria: Sequence[Mapping[str, Any]]) -> str:
    """Every criterion in a table that a click unfolds."""
    rows = "\n".join(map(_criterion_row, by_tier(criteria)))
    return f"""<details><summary>All {len(criteria)} criteria with what was measured</summary>
<div class='scroll'><table><thead>
<tr><th>tier</th><th>claim</th><th>metric</th><th>target</th><th>measured</th><th></th></tr></thead>
<tbody>
{rows}
</tbody></table></div></details>"""


def _criterion_row(row: Mapping[str, Any]) -> str:
    return (
        f"<tr><td>{_text(row['tier'])}</td><td>{_text(row['claim'])}</td>"
        f"<td><code>{_text(row['metric'])}</code></td><td class='number'>{_text(format_target(row))}</td>"
        f"<td class='number'>{_text(format_number(row['measured'], row['log10']))}</td>"
        f"<td class='{CSS[row['passed']]}'>{_text(verdict(row))}</td></tr>"
    )


def _figure_html(path: Path) -> str:
    return f"<figure>{_image_html(path)}<figcaption>{_text(path.name)}</figcaption></figure>"


def _image_html(path: Path) -> str:
    data = base64.b64encode(path.read_bytes()).decode()
    return f"<img alt='{_text(path.name)}' src='data:image/{path.suffix.removeprefix('.')};base64,{data}'/>"
