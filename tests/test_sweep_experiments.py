"""Whole experiments whose training seeds are run apart: what they give together. Without Ray."""

import importlib
import sys
from dataclasses import replace

import numpy as np
import pytest

import reproduce
from common.config import EXP2_PRESETS
from common.report.html import read_finished, render_html
from common.run.command_line import parse_command_line
from common.run.files import ROOT
from common.run.results import load_results
from common.sweeps.experiments import finish, make_parts
from common.sweeps.trial import do_trial
from tests.toy_experiment import write_toy


@pytest.fixture
def toy(tmp_path, monkeypatch):
    """The toy experiment."""
    write_toy(tmp_path)
    monkeypatch.setenv("HELM_ROOT", str(ROOT))
    monkeypatch.syspath_prepend(str(tmp_path))
    yield importlib.import_module("exp9_toy.run_experiment").EXPERIMENT
    for name in [name for name in sys.modules if name.startswith("exp9_toy")]:
        del sys.modules[name]


def config_in(toy, folder, **changes):
    return replace(toy.presets["full"], output_dir=folder, cache_dir=folder / "cache", **changes)


def test_seeds_run_apart_are_judged_as_one_run_of_all(toy, tmp_path, one_thread):
    """Metrics and criteria; the figures are the first seed's, and the report says so."""
    parts = make_parts("exp9_toy", config_in(toy, tmp_path / "apart"), seed_by_seed=True)
    assert [task.config.seeds for task in parts.tasks] == [(0,), (1,), (2,)]
    apart = finish(parts, [do_trial(task, 1) for task in parts.tasks])
    toy.execute(config_in(toy, tmp_path / "whole"))
    whole = load_results(tmp_path / "whole" / "results")
    assert apart.results["seeds"] == whole["seeds"] == [0, 1, 2]
    assert apart.results["config"] == whole["config"] and apart.results["preset"] == "full"
    assert apart.results["metrics"].keys() >= whole["metrics"].keys()
    for name, entry in whole["metrics"].items():
        np.testing.assert_allclose(apart.results["metrics"][name]["values"], entry["values"], rtol=1e-6)
    verdicts = [[(row["id"], row["passed"]) for row in each["criteria"]] for each in (apart.results, whole)]
    assert verdicts[0] == verdicts[1] != []
    assert [path.name for path in apart.figures] == ["toy.png"]
    assert load_results(parts.pooled) == apart.results
    assert "seeds 0, 1, 2" in (page := render_html([apart], {})) and "the figures are of seed 0" in page


def test_an_experiment_in_one_piece_is_what_it_is_by_hand(toy, tmp_path):
    parts = make_parts("exp9_toy", config_in(toy, tmp_path / "a"), seed_by_seed=False)
    (task,) = parts.tasks
    finished = finish(parts, [do_trial(task, 1)])
    assert finished == read_finished("exp9_toy", tmp_path / "a") and finished.note == ""
    assert [path.name for path in finished.figures] == ["toy.png"]


def test_a_seed_that_fails_is_the_reason(toy, tmp_path):
    parts = make_parts("exp9_toy", config_in(toy, tmp_path, noise=3e38), seed_by_seed=True)
    with pytest.raises(ValueError, match="training toy/noisy: not finite"):
        finish(parts, [do_trial(task, 1) for task in parts.tasks])


# --- reproduce.py ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "args", [[], ["--preset", "full", "--seeds", "4", "5", "--device", "cpu", "--fresh"]]
)
def test_an_experiment_side_by_side_has_the_settings_that_it_has_in_turn(tmp_path, args):
    places = ["--output-dir", str(tmp_path / "out"), "--cache-dir", str(tmp_path / "cache")]
    config = parse_command_line(reproduce.PRESETS, [*args, *places, "--checkpoint-every", "7"])
    _, _, *flags = reproduce.command_of("exp2_funnel_heatmap", config)
    in_turn = parse_command_line(EXP2_PRESETS, flags)
    assert reproduce.settings_of("exp2_funnel_heatmap", config) == in_turn


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("--workers 0", "workers (--workers) = 0"),
        ("--workers 2 --replot", "replot (--replot) = True: allowed: without --workers and --address"),
        ("--address auto --preset full --update-reference", "one run of all seeds"),
    ],
)
def test_reproduce_refuses_what_cannot_be_side_by_side(line, words, capsys):
    with pytest.raises(SystemExit, match="2"):
        parse_command_line(reproduce.PRESETS, line.split())
    assert words in capsys.readouterr().err
