"""Equal tuning: each planner has as many trials, all can be made, and what was chosen is the best of them."""

import dataclasses
import json

import pytest
import torch

from benchmarks.tune_planners import GRIDS, PRESETS, RECORD, SPACES, best_trial, draw_trials
from common.config import EXP4_PRESETS
from common.latent.comparison import configured_planner, measure_planner
from common.latent.tuned import TUNED, measure_settings
from common.minigrid.task import make_task
from common.run.files import ROOT
from tests.experiment_runs import run_script

CONFIG = dataclasses.replace(
    EXP4_PRESETS["quick"], environments=("Empty-5x5",), num_walks=40, walk_length=20, num_episodes=4
)
CPU = torch.device("cpu")


@pytest.mark.parametrize("planner", SPACES)
def test_every_trial_is_a_planner_and_more_trials_begin_as_fewer_do(planner):
    trials = draw_trials(planner, 16)
    assert trials[0] == () and len(set(trials)) > 10 and draw_trials(planner, 4) == trials[:4]
    usual = configured_planner(planner, CONFIG)
    for settings in trials[1:]:
        assert dataclasses.replace(usual, **dict(settings)) is not usual
        assert dict(settings).keys() == SPACES[planner].keys()


@pytest.mark.parametrize("planner", ["verified_gradient", "icem", "random_shooting"])
def test_without_changes_a_planner_does_what_it_always_does(planner):
    task, places = make_task("Empty-5x5", CONFIG), {"config": CONFIG, "device": CPU}
    usual = measure_planner(task, None, planner, "open", (5, 8), **places)
    found = measure_settings(task, None, planner, (), (5, 8), **places)
    assert found.keys() == {"T=5/success", "T=8/success"}
    assert all(torch.equal(values, usual[name]) for name, values in found.items())


def test_the_best_of_equal_trials_is_the_first():
    trials = [{"success": {"a": 0.5, "b": 0.2}}, {"success": {"a": 0.2, "b": 0.5}}, {"success": {"a": 0.0}}]
    assert best_trial(trials) is trials[0]


def test_no_table_reports_where_planners_are_tuned():
    full = PRESETS["full"]
    assert full.environments == GRIDS and not set(GRIDS) & set(EXP4_PRESETS["full"].environments)
    assert min(full.seeds) >= 100


def test_what_is_frozen_is_the_records_best():
    record = json.loads((ROOT / "benchmarks" / RECORD).read_text())
    assert record.keys() == SPACES.keys() == TUNED.keys()
    for planner, trials in record.items():
        assert [trial["settings"] for trial in trials] == json.loads(
            json.dumps([dict(settings) for settings in draw_trials(planner, len(trials))])
        )
        assert len(trials) == PRESETS["full"].trials
        assert json.loads(json.dumps(dict(TUNED[planner]))) == best_trial(trials)["settings"]


def test_the_script_runs_and_writes_its_record(tmp_path):
    sizes = (
        "--environments", "Empty-5x5", "--num-walks", "40", "--walk-length", "20", "--d-latent", "8",
        "--hidden-dim", "16", "--iterations", "12", "--batch-size", "16", "--num-episodes", "4",
        "--evaluations-per-step", "24", "--planning-horizons", "6", "--pillar-horizons", "6",
        "--device", "cpu",
    )  # fmt: skip
    places = ("--output-dir", tmp_path, "--cache-dir", tmp_path / "cache")
    done = run_script(ROOT / "benchmarks" / "tune_planners.py", *sizes, *places)
    assert done.returncode == 0, done.stderr
    record = json.loads((tmp_path / RECORD).read_text())
    assert all(len(trials) == 2 for trials in record.values()) and record.keys() == SPACES.keys()
    again = run_script(ROOT / "benchmarks" / "tune_planners.py", *sizes, *places)
    assert again.returncode == 0 and "measured in" not in again.stderr
    refused = run_script(ROOT / "benchmarks" / "tune_planners.py", "--trials", "0", *places)
    assert refused.returncode == 2 and "--trials" in refused.stderr
