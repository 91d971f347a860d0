"""Equal tuning: each planner has as many trials, all can be made, and what was chosen is the best of them."""

import dataclasses
import json

import pytest
import torch

from benchmarks.tune_planners import GRIDS, LAYOUT, PRESETS, RECORD, SPACES, best_trial, draw_trials
from common.config import EXP3_PRESETS, EXP4_PRESETS
from common.latent.comparison import configured_planner, measure_planner
from common.latent.tuned import TUNED, measure_settings
from common.minigrid.task import make_task
from common.run.files import ROOT
from exp7_unseen_layouts.dataset import HELD_OUT
from tests.experiment_runs import metrics_of, run_script

CONFIG = dataclasses.replace(
    EXP4_PRESETS["quick"], environments=("Empty-5x5",), num_walks=40, walk_length=20, num_episodes=4
)
CPU = torch.device("cpu")


@pytest.mark.parametrize("planner", SPACES)
def test_every_trial_is_another_planner_and_more_trials_begin_as_fewer_do(planner):
    trials = draw_trials(planner, 12)
    assert len(set(trials)) == 12 and draw_trials(planner, 4) == trials[:4]
    usual = configured_planner(planner, CONFIG)
    for settings in trials:
        assert dict(settings).keys() == SPACES[planner].keys()
        made = dataclasses.replace(usual, **dict(settings))
        assert all(getattr(made, name) == value for name, value in settings)


@pytest.mark.parametrize("planner", ["verified_gradient", "icem", "random_shooting"])
def test_without_changes_a_planner_does_what_it_always_does(planner):
    task, places = make_task("Empty-5x5", CONFIG), {"config": CONFIG, "device": CPU}
    usual = measure_planner(task, None, planner, "open", (5, 8), **places)
    found = measure_settings(task, None, planner, (), (5, 8), **places)
    assert found.keys() == {"T=5/success", "T=8/success"}
    assert all(torch.equal(values, usual[name]) for name, values in found.items())


def test_the_best_of_equal_trials_is_the_first():
    trials = [
        {"success": {"a": 0.5, "b": 0.1}},
        {"success": {"a": 0.2, "b": 0.5}},
        {"success": {"a": 0.35, "b": 0.35}},
    ]
    assert best_trial(trials) is trials[1]


def test_no_experiment_reports_where_planners_are_tuned():
    full = PRESETS["full"]
    presets = [preset for own in (EXP3_PRESETS, EXP4_PRESETS) for preset in own.values()]
    assert full.layout_seed not in {preset.layout_seed for preset in presets}
    assert full.layout_seed > HELD_OUT + 10**6, "experiment 7's layouts"
    assert (
        not set(full.seeds) & {seed for preset in presets for seed in preset.seeds} and min(full.seeds) >= 100
    )


def test_what_is_frozen_is_the_records_best():
    content = json.loads((ROOT / "benchmarks" / RECORD).read_text())
    assert content["layout_seed"] == LAYOUT and content["seeds"] == list(PRESETS["full"].seeds)
    record = content["trials"]
    assert record.keys() == SPACES.keys() == TUNED.keys()
    for planner, trials in record.items():
        assert all(trial["success"].keys() == set(GRIDS) for trial in trials)
        drawn = draw_trials(planner, PRESETS["full"].trials)
        assert [trial["settings"] for trial in trials] == as_json([dict(settings) for settings in drawn])
        assert as_json(TUNED[planner]) == best_trial(trials)["settings"]


def as_json(value):
    return json.loads(json.dumps(value))


def test_the_script_runs_and_writes_its_record(tmp_path):
    sizes = (
        "--environments", "Empty-5x5", "Empty-6x6", "--num-walks", "40", "--walk-length", "20",
        "--d-latent", "8",
        "--hidden-dim", "16", "--iterations", "12", "--batch-size", "16", "--num-episodes", "4",
        "--evaluations-per-step", "24", "--planning-horizons", "6", "--pillar-horizons", "6",
        "--gd-steps", "3", "--device", "cpu",
    )  # fmt: skip
    places = ("--output-dir", tmp_path, "--cache-dir", tmp_path / "cache")
    done = run_script(ROOT / "benchmarks" / "tune_planners.py", *sizes, *places)
    assert done.returncode == 0, done.stderr
    content = json.loads((tmp_path / "results" / RECORD).read_text())
    assert content["trials"].keys() == SPACES.keys()
    assert all(len(trials) == 2 for trials in content["trials"].values())
    metrics = metrics_of(tmp_path)
    for planner, trials in content["trials"].items():
        for index, trial in enumerate(trials):
            for name, success in trial["success"].items():
                expected = metrics[f"{planner}/trial={index}/{name}/success"]["mean"]
                assert success == pytest.approx(expected, abs=1e-4)
        gaps = [metrics[f"{planner}/best_minus_next/{name}/success"]["mean"] for name in trial["success"]]
        assert len(gaps) == 2 and sum(gaps) >= 0
    again = run_script(ROOT / "benchmarks" / "tune_planners.py", *sizes, *places)
    assert again.returncode == 0 and "measured in" not in again.stderr
    refused = run_script(ROOT / "benchmarks" / "tune_planners.py", "--trials", "0", *places)
    assert refused.returncode == 2 and "--trials" in refused.stderr
