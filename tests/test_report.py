"""The report is well-formed and self-contained; the documents hold what reference/ holds."""

import base64
import json
import re
import shutil
import subprocess
import xml.etree.ElementTree as ElementTree
from dataclasses import replace

import pytest
from PIL import Image

import reproduce
from common.report.documents import document_paths, reference_results, regenerate
from common.report.html import Finished, render_html
from common.run.files import ROOT
from common.run.results import SCHEMA, save_results, summarise
from tests.experiment_runs import TinyRun, run_script

PIXEL = base64.b64decode(
    "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg=="
)


def content(**changes):
    """A small results.json."""
    row = {
        "id": "a", "tier": "strong", "claim": "x < 1 & y", "metric": "m/T=5", "op": "<", "target": 1.0,
        "measured": 0.5, "passed": True, "log10": False,
    }  # fmt: skip
    origin = {
        "python": "3.11", "torch": "2", "numpy": "2", "device": "cpu (x)", "threads": 2, "git_commit": None,
        "git_dirty": False, "date": "2026-01-01T00:00:00+00:00",
    }  # fmt: skip
    return {
        "schema": SCHEMA, "experiment": "exp9_test", "preset": "full", "config": {}, "provenance": origin,
        "seeds": [0, 1], "timings": {"phase_seconds": 90.0}, "criteria": [row],
        "metrics": {
            "m/T=5": summarise([1.0, 2.0], "1"), "m/T=9": summarise([3.0, 3.0], "log10"),
            "m/rate": summarise([0.4, 0.6], "1") | {"interval95": [0.25, 0.75], "ci95": [0.2, 0.8]},
        },
    } | changes  # fmt: skip


@pytest.fixture
def finished(tmp_path):
    figure = tmp_path / "plots" / "a <b>.png"
    figure.parent.mkdir()
    figure.write_bytes(PIXEL)
    return Finished("exp9_test", tmp_path, content(), [figure])


def test_the_page_is_well_formed_and_self_contained(finished):
    page = render_html([finished], {"exp8_test": "exit code 1 <bad>"})
    tree = ElementTree.fromstring(page)
    sources = [element.get("src") for element in tree.iter("img")]
    assert sources and all(source.startswith("data:image/") for source in sources)
    assert not re.search(r"https?://|<script|<link", page)
    text = "".join(tree.itertext())
    for word in ("x < 1 & y", "reproduced", "1.5 minutes", "exp8_test did not finish", "exit code 1 <bad>"):
        assert word in text


def test_pictures_come_first_and_the_table_is_folded(finished):
    """The page opens with the headline figure of each experiment and its verdicts, counted."""
    other = finished.figures[0].with_name("headline.png")
    other.write_bytes(PIXEL)
    named = content(headline="headline.png", title="Experiment 9: what it asks")
    tree = ElementTree.fromstring(
        render_html([replace(finished, results=named, figures=[*finished.figures, other])], {})
    )
    assert [image.get("alt") for image in tree.iter("img")] == ["headline.png", "headline.png", "a <b>.png"]
    order = [element.tag for element in tree.iter() if element.tag in ("img", "table", "details", "h2")]
    assert order == ["img", "table", "h2", "img", "img", "details", "table"]
    card = next(element for element in tree.iter("div") if element.get("class") == "card")
    assert "Experiment 9: what it asks" in "".join(card.itertext()) and "1 reproduced" in "".join(
        card.itertext()
    )


CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
OVERFLOW = """<script>
const whole = [...document.querySelectorAll('body *')].filter(e => !e.parentElement.closest('.scroll'));
const right = document.documentElement.clientWidth + 1;
parent.postMessage(whole.filter(e => e.getBoundingClientRect().right > right).length, '*');
</script>"""
FRAME = """<body style='margin: 0'>
<iframe style='border: 0' width='{width}' height='1500' src='page.html'></iframe>
<script>onmessage = message => document.title = 'overflowing: ' + message.data;</script></body>"""


def chromium(page, *flags):
    command = [
        CHROMIUM,
        "--headless",
        "--no-sandbox",
        "--disable-gpu",
        "--hide-scrollbars",
        *flags,
        page.as_uri(),
    ]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, check=True).stdout


@pytest.mark.skipif(CHROMIUM is None, reason="needs Chromium")
@pytest.mark.parametrize("width", [400, 1300])
def test_no_element_leaves_a_narrow_or_a_wide_window(finished, tmp_path, width):
    """Chromium's own layout, in a frame of that width: its windows are wider than a telephone."""
    figure = tmp_path / "plots" / "wide.png"
    Image.effect_noise((2400, 900), 80).save(figure)
    long = content()["criteria"][0] | {"id": "b", "metric": "lorenz/" + "long_name/" * 30}
    results = content(criteria=[*content()["criteria"], long], title="word" * 60)
    run = replace(finished, figures=[figure], results=results)
    page = render_html([run, run], {}).replace("<details>", "<details open='open'>")
    (tmp_path / "page.html").write_text(page.replace("</body>", OVERFLOW + "</body>"), encoding="utf-8")
    frame = tmp_path / "frame.html"
    frame.write_text(FRAME.format(width=width))
    size = ("--window-size=1400,1500", "--virtual-time-budget=5000")
    assert "<title>overflowing: 0</title>" in chromium(frame, *size, "--dump-dom")
    shot = tmp_path / "shot.png"
    chromium(frame, *size, f"--screenshot={shot}")
    with Image.open(shot) as picture:
        colours = picture.convert("L").crop((0, 0, width, 1500)).getcolors()
    assert len(colours) > 20, "blank"


# --- reproduce.py ---------------------------------------------------------------------------------


def run_reproduce(*args, code):
    """reproduce.py in this process; its experiments are processes of their own."""
    done = run_script(ROOT / "reproduce.py", *args)
    assert done.returncode == code, done.stderr
    return done


def test_a_failing_experiment_is_reported_and_makes_the_exit_code_1(tmp_path):
    done = run_reproduce("--only", "exp1_spectral_cliff", "--replot", "--output-dir", tmp_path, code=1)
    page = (tmp_path / "report" / "index.html").read_text(encoding="utf-8")
    assert "exp1_spectral_cliff did not finish" in "".join(ElementTree.fromstring(page).itertext())
    assert "exp1_spectral_cliff: exit code 2" in done.stdout


def test_the_report_holds_criteria_and_figures_of_a_run(tmp_path):
    flags = (
        "--systems", "linear", "--horizons", "5", "50", "--iterations", "20", "--num-error-states", "8",
        "--device", "cpu",
    )  # fmt: skip
    TinyRun("exp1_spectral_cliff", flags, frozenset())(tmp_path / "exp1_spectral_cliff")
    done = run_reproduce("--only", "exp1_spectral_cliff", "--replot", "--output-dir", tmp_path, code=0)
    tree = ElementTree.fromstring((tmp_path / "report" / "index.html").read_text(encoding="utf-8"))
    assert len(list(tree.iter("img"))) == 3  # the headline figure twice
    assert "Criteria (quick preset, 1 seed)" in done.stdout


@pytest.mark.parametrize("args", [["--only", "exp0"], ["--seeds", "-3"], ["--presets", "full"]])
def test_a_bad_command_line_of_reproduce_is_one_line(args):
    done = run_reproduce(*args, code=2)
    assert done.stdout == "" and done.stderr.count("\n") == 1


@pytest.mark.parametrize("part", ["results.json", "phase_seconds"])
def test_results_that_cannot_be_read_are_that_experiments_failure_alone(tmp_path, monkeypatch, part):
    """What a foreign program left is found when it is read, and the other experiments' report is written."""
    for name in ("exp1_spectral_cliff", "exp2_funnel_heatmap"):
        save_results(tmp_path / name / "results", content(), {})
    path = tmp_path / "exp1_spectral_cliff" / "results" / "results.json"
    other = content(timings={}) if part == "phase_seconds" else content(criteria=[{"tier": "<b>"}])
    path.write_text(json.dumps(other))
    monkeypatch.setattr(reproduce, "run_one", lambda experiment, config: None)
    config = reproduce.ReproduceConfig(
        only=("exp1_spectral_cliff", "exp2_funnel_heatmap"), output_dir=tmp_path
    )
    assert reproduce.reproduce(config) == 1
    page = (tmp_path / "report" / "index.html").read_text(encoding="utf-8")
    text = "".join(ElementTree.fromstring(page).itertext())
    assert f"exp1_spectral_cliff did not finish: {path}" in text and "x < 1 & y" in text


# --- documents ------------------------------------------------------------------------------------


@pytest.fixture
def root(tmp_path):
    folder = tmp_path / "reference" / "exp9_test"
    save_results(folder, content(), {})
    shutil.copyfile(folder / "results.json", folder / "quick.json")
    (tmp_path / "exp9_test").mkdir()
    return tmp_path


def test_markers_are_filled_from_the_reference(root):
    text = (
        "a <!-- metric: exp9_test m/T=5 -->old<!-- end --> "
        "b <!-- metric: exp9_test/quick m/T=9 log10 --><!-- end -->"
    )
    once = regenerate(text, root, root)
    assert "-->1.5 (1 to 2)<!-- end -->" in once and "-->1e+03<!-- end -->" in once
    assert regenerate(once, root, root) == once


def test_tables_criteria_and_galleries(root):
    text = "\n".join([
        "<!-- table: exp9_test m/{column} | m: model | T=5, T=9: nine -->", "<!-- end -->",
        "<!-- criteria: exp9_test -->", "<!-- end -->",
        "<!-- verdict: exp9_test a --><!-- end -->",
        "<!-- run: exp9_test --><!-- end -->",
        "<!-- gallery: exp9_test a.png -->", "<!-- end -->",
    ])  # fmt: skip
    filled = regenerate(text, root, root / "exp9_test")
    assert "| | T=5 | nine |" in filled and "| model | 1.5 (1 to 2) | 3 |" in filled
    assert "| strong | x < 1 & y | < 1 | 0.5 | reproduced |" in filled
    assert "<!-- verdict: exp9_test a -->reproduced<!-- end -->" in filled
    chosen = regenerate("<!-- criteria: exp9_test beyond, strong --><!-- end -->", root, root)
    assert "x < 1" in chosen
    assert "x < 1" not in regenerate("<!-- criteria: exp9_test beyond --><!-- end -->", root, root)
    assert "full preset, 2 seeds, 1.5 minutes on cpu (x), 2 threads" in filled
    assert "![a.png](../reference/exp9_test/a.png)" in filled


def test_intervals_stand_in_square_brackets(root):
    text = "\n".join([
        "<!-- metric: exp9_test m/rate interval --><!-- end -->",
        "<!-- metric: exp9_test m/rate seeds --><!-- end -->",
        "<!-- table: exp9_test m/{column} | m: model | rate | interval -->", "<!-- end -->",
    ])  # fmt: skip
    filled = regenerate(text, root, root)
    assert "-->0.5 [0.2, 0.8]<!-- end -->" in filled
    assert "-->0.5 [0.25, 0.75]<!-- end -->" in filled and "| model | 0.5 [0.25, 0.75] |" in filled


def test_ratios_of_numbers_and_of_powers_of_ten(root):
    text = "<!-- ratio: exp9_test m/T=9 m/T=5 {}--><!-- end -->"
    assert "-->2<!-- end -->" in regenerate(text.format(""), root, root)
    assert "-->31.6<!-- end -->" in regenerate(text.format("log10 "), root, root)


@pytest.mark.parametrize(("name", "error"), [("none", KeyError), ("m/rate log2", ValueError)])
def test_what_is_not_saved_or_not_known_is_an_error(root, name, error):
    with pytest.raises(error):
        regenerate(f"<!-- metric: exp9_test {name} --><!-- end -->", root, root)


@pytest.mark.parametrize("path", document_paths(ROOT), ids=lambda path: path.relative_to(ROOT).as_posix())
def test_every_generated_number_is_the_reference_runs(path):
    text = path.read_text(encoding="utf-8")
    assert regenerate(text, ROOT, path.parent) == text, "run: python reproduce.py --update-reference"
    assert text.count("<!-- end -->") == len(
        re.findall(r"<!-- (?:metric|ratio|table|criteria|verdict|run|gallery): ", text)
    )


def test_figures_named_in_the_documents_exist():
    for path in document_paths(ROOT):
        for link in re.findall(r"!\[[^]]*\]\(([^)]+)\)", path.read_text(encoding="utf-8")):
            assert (path.parent / link).exists(), f"{path.name}: {link}"


def test_the_reference_is_small_and_strict():
    folders = [path for path in (ROOT / "reference").iterdir() if path.is_dir()]
    assert folders
    for folder in folders:
        assert reference_results(ROOT, f"{folder.name}/quick")["preset"] == "quick"
        if (folder / "results.json").exists():
            assert reference_results(ROOT, folder.name)["preset"] == "full"
    size = sum(path.stat().st_size for path in (ROOT / "reference").rglob("*") if path.is_file())
    assert size < reproduce.REFERENCE_LIMIT_MB * 2**20
