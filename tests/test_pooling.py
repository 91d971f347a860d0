"""Pooled runs are what one run of all their seeds would have recorded, and unlike runs are not pooled."""

import copy
import json
import subprocess
import sys

import pytest
import torch

from common.report.pooling import pool
from common.run.criteria import Criterion
from common.run.files import ROOT
from common.run.results import SCHEMA, Results, save_results
from tests.experiment_runs import run_script

SUCCESS = torch.rand(5, 40, generator=torch.Generator().manual_seed(0)) < 0.6
OTHER = torch.rand(5, 40, generator=torch.Generator().manual_seed(1)) < 0.3


def run_of(seeds, size=100, **config):
    """What a run of some of the five seeds would save."""
    chosen = list(seeds)
    results = Results("exp4_contrastive_fix", chosen)
    results.add_rate("env/success", SUCCESS[chosen], enumerated=False)
    results.add_difference(
        "env/difference", SUCCESS[chosen].double() - OTHER[chosen].double(), enumerated=False
    )
    results.add("env/spearman", [0.1 * seed for seed in chosen])
    content = {
        "schema": SCHEMA, "experiment": results.experiment, "preset": "quick", "changed": [],
        "config": {"iterations": 10, "seeds": chosen, **config}, "provenance": {"git_commit": str(chosen)},
        "seeds": chosen, "metrics": results.metrics, "timings": {"env/qrl/parameters": size}, "criteria": [],
    }  # fmt: skip
    return content, results.arrays


def test_the_pool_is_what_one_run_of_all_seeds_records():
    whole, _ = run_of(range(5))
    pooled = pool([run_of([0, 1]), run_of([2, 3, 4], environments=["more"])])
    assert pooled["metrics"] == whole["metrics"] and pooled["seeds"] == [0, 1, 2, 3, 4]
    assert "interval95" in pooled["metrics"]["env/difference"] and "ci95" in pooled["metrics"]["env/success"]
    assert [run["provenance"]["git_commit"] for run in pooled["runs"]] == ["[0, 1]", "[2, 3, 4]"]


def test_criteria_are_judged_over_all_seeds_where_they_were_measured():
    criteria = (
        Criterion("low", "beyond", "some of it", "env/success", ">=", 0.3),
        Criterion("high", "beyond", "nearly all", "env/success", ">=", 0.9),
        Criterion("other", "beyond", "another", "env/elsewhere", ">=", 0.9),
        Criterion("worst", "beyond", "the worst of all", "env/s*", ">=", 0.0),
    )
    pooled = pool([run_of([0, 1]), run_of([2, 3, 4])], criteria=criteria)
    assert {row["id"]: row["passed"] for row in pooled["criteria"]} == {
        "low": True, "high": False, "worst": True,
    }  # fmt: skip
    assert pooled["criteria"][0]["measured"] == pytest.approx(SUCCESS.double().mean().item())
    chosen = pool([run_of([0, 1]), run_of([2, 3, 4])], ["env/spearman"], criteria)
    assert set(chosen["metrics"]) == {"env/spearman"} and not chosen["criteria"], "that is not all of them"


def test_patterns_choose():
    assert set(pool([run_of([0]), run_of([1])], ["*/spearman"])["metrics"]) == {"env/spearman"}


def test_what_is_not_finite_stays_so():
    first, second = run_of([0]), run_of([1])
    first[0]["metrics"]["env/spearman"]["values"] = [None]
    entry = pool([first, second])["metrics"]["env/spearman"]
    assert entry["values"] == [None, 0.1] and entry["mean"] is None


def test_without_the_starts_of_every_run_there_is_no_interval():
    first, second = run_of([0]), run_of([1])
    entry = pool([first, (second[0], {})])["metrics"]["env/success"]
    assert "interval95" not in entry and len(entry["values"]) == 2


def other_starts():
    content, arrays = run_of([1])
    return content, {name: values[:, :-1] for name, values in arrays.items()}


def other_experiment():
    content, arrays = copy.deepcopy(run_of([1]))
    return content | {"experiment": "exp3_planning_efficiency"}, arrays


@pytest.mark.parametrize(
    ("others", "words"),
    [
        ([run_of([0])], "every seed may be in one run alone"),
        ([run_of([1], iterations=11)], "different settings: iterations"),
        ([run_of([1], episodes=3)], "different settings: episodes"),
        ([run_of([1], preset="full")], "different settings: preset"),
        ([run_of([1], size=101)], "env/qrl is a model of another size"),
        ([({"metrics": {}}, {})], "without seeds, preset"),
        ([other_starts()], "different numbers of starts"),
        ([other_experiment()], "exp4_contrastive_fix and of exp3_planning_efficiency"),
        ([], "nothing to pool"),
    ],
)
def test_unlike_runs_are_refused(others, words):
    with pytest.raises(ValueError, match=words):
        pool([run_of([0]), *others])


@pytest.fixture
def saved(tmp_path):
    """The folders of two runs."""
    for name, seeds in (("a", [0, 1]), ("b", [2])):
        (tmp_path / name / "results").mkdir(parents=True)
        save_results(tmp_path / name / "results", *run_of(seeds))
    return tmp_path / "a", tmp_path / "b"


def test_the_command_writes_what_was_asked_for(saved, tmp_path):
    output = tmp_path / "pooled.json"
    call = [sys.executable, "pool_seeds.py", *saved, "--output", output, "--only", "env/d*"]
    done = subprocess.run(list(map(str, call)), cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0 and "1 metrics of seeds 0 1 2" in done.stdout, done.stderr
    assert "different code" in done.stderr  # the fixture's commits differ
    assert set(json.loads(output.read_text())["metrics"]) == {"env/difference"}


@pytest.mark.parametrize("damage", ["missing", "alone", "no output", "junk", "cut"])
def test_what_cannot_be_pooled_ends_with_one_line_and_writes_nothing(saved, tmp_path, damage):
    first, second = saved
    archive, output = second / "results" / "arrays.npz", tmp_path / "pooled.json"
    args, words = [first, second, "--output", output], "arrays.npz"
    if damage == "missing":
        args[1], words = tmp_path / "c", "c/results"
    elif damage == "alone":
        args, words = [first, "--output", output], "nothing to pool"
    elif damage == "no output":
        args, words = [first, second], "--output"
    elif damage == "junk":
        archive.write_text("junk")
    else:
        archive.write_bytes(archive.read_bytes()[:100])
    done = run_script(ROOT / "pool_seeds.py", *args)
    assert done.returncode == 2 and words in done.stderr and len(done.stderr.splitlines()) == 1, done.stderr
    assert not output.exists()
