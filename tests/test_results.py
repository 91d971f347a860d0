"""results.json is strict, complete and honest about what is not finite; criteria read it."""

import importlib
import json
import math

import numpy as np
import pytest
import torch

from common.run.criteria import TIERS, Criterion, evaluate, format_number, format_table
from common.run.results import SCHEMA, Results, load_arrays, load_results, save_results, summarise, to_json
from reproduce import EXPERIMENTS


def test_summary_of_seeds():
    entry = summarise([1.0, 2.0, 3.0], "steps")
    assert entry == {"unit": "steps", "values": [1.0, 2.0, 3.0], "mean": 2.0}


def test_t_interval_from_five_seeds_on():
    entry = summarise([1.0, 2.0, 3.0, 4.0, 5.0], "1")
    half = 2.7764 * math.sqrt(2.5 / 5)  # Student's t, 4 degrees of freedom, 97.5%
    assert entry["ci95"] == pytest.approx([3 - half, 3 + half], rel=1e-3)
    assert "ci95" not in summarise([1.0] * 4, "1")
    many = summarise([0.0, 1.0] * 200, "1")["ci95"]  # 1.966 standard errors of 0.5 / sqrt(399)
    assert many == pytest.approx([0.5 - 0.0492, 0.5 + 0.0492], rel=0.005)


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_what_is_not_finite_is_null_with_a_reason(bad):
    entry = summarise([1.0, bad], "1")
    assert entry["values"] == [1.0, None] and entry["mean"] is None
    assert "1 of 2" in entry["reason"] and repr(bad) in entry["reason"]
    json.dumps(entry, allow_nan=False)


def test_a_metric_has_one_value_a_seed_and_is_recorded_once():
    results = Results("test", (0, 1))
    with pytest.raises(ValueError, match="2 seeds"):
        results.add("a", [1.0])
    results.add("a", torch.tensor([1.0, 2.0]))
    with pytest.raises(ValueError, match="twice"):
        results.add("a", [1.0, 2.0])


def whole(found):
    """A results.json with these metrics."""
    return {
        "schema": SCHEMA, "experiment": "e", "preset": "quick", "config": {}, "provenance": {}, "seeds": [0],
        "metrics": found, "timings": {}, "criteria": [],
    }  # fmt: skip


def change_metrics(folder):
    text = (folder / "results.json").read_text()
    (folder / "results.json").write_text(text.replace("1.5", "2.5"))


def change_arrays(folder):
    other = {"x/y": np.arange(4.0)}
    np.savez_compressed(folder / "arrays.npz", **other)


def flip_a_bit(folder):
    data = bytearray((folder / "arrays.npz").read_bytes())
    data[len(data) // 2] ^= 1
    (folder / "arrays.npz").write_bytes(bytes(data))


@pytest.mark.parametrize("change", [change_metrics, change_arrays, flip_a_bit])
def test_what_was_changed_after_the_run_is_refused(tmp_path, change):
    save_results(tmp_path, whole({"a": summarise([1.5], "1")}), {"x/y": np.arange(3.0)})
    change(tmp_path)
    with pytest.raises(ValueError, match=r"(results\.json|arrays\.npz).*checksum does not match"):
        load_results(tmp_path)
        load_arrays(tmp_path)


@pytest.mark.parametrize("missing", ["experiment", "config", "seeds", "metrics", "criteria", "timings"])
def test_results_that_lack_a_part_are_refused_with_their_path(tmp_path, missing):
    content = whole({})
    del content[missing]
    (tmp_path / "results.json").write_text(json.dumps(content))
    with pytest.raises(ValueError, match=f"results.json has no {missing}"):
        load_results(tmp_path)


@pytest.mark.parametrize("text", [b"\xff\xfe", b"[" * 100_000, b"{", b"[]", b""])
def test_what_is_no_results_file_is_refused_with_its_path(tmp_path, text):
    (tmp_path / "results.json").write_bytes(text)
    with pytest.raises(ValueError, match=r"results\.json is not"):
        load_results(tmp_path)


def test_a_rate_has_an_interval_over_seeds_and_starts_and_one_seed_none():
    success = torch.rand(3, 40, generator=torch.Generator().manual_seed(0)) < 0.4
    several, one = Results("e", (0, 1, 2)), Results("e", (0,))
    several.add_rate("m", success, enumerated=False)
    one.add_rate("m", success[:1], enumerated=False)
    low, high = several.metrics["m"]["interval95"]
    assert low < several.metrics["m"]["mean"] < high
    assert "interval95" not in one.metrics["m"] and len(one.metrics["m"]["starts95"]) == 2
    np.testing.assert_array_equal(several.arrays["m/starts"], success.numpy())
    claim = Criterion("i", "beyond", "c", "m", ">", 0.0, bound="low")
    row = evaluate([claim], one.metrics)[0]
    assert row["passed"] is None and row["absent"] == "not measured with one seed"
    assert evaluate([claim], several.metrics)[0]["passed"] is True


def test_round_trip_and_refusal_of_nan(tmp_path):
    content = whole({"a": summarise([1.5], "1")})
    save_results(tmp_path, content, {"x/y": np.arange(3.0)})
    assert {key: value for key, value in load_results(tmp_path).items() if key != "checksums"} == content
    assert load_arrays(tmp_path)["x/y"].tolist() == [0.0, 1.0, 2.0]
    with pytest.raises(ValueError):
        save_results(tmp_path, {"schema": SCHEMA, "a": math.nan}, {})
    assert load_results(tmp_path)["metrics"] == content["metrics"], "a refused save leaves the old file"
    (tmp_path / "results.json").write_text('{"schema": 1, "a": NaN}')
    with pytest.raises(ValueError, match="NaN"):
        load_results(tmp_path)
    (tmp_path / "results.json").write_text('{"schema": 99}')
    with pytest.raises(ValueError, match="schema"):
        load_results(tmp_path)


def test_every_float32_survives_and_every_metric_has_a_line():
    numbers = torch.rand(1000, generator=torch.Generator().manual_seed(0)) * 10.0 ** torch.arange(
        -20, 20
    ).repeat(25)
    content = {
        "schema": SCHEMA,
        "seeds": [0, 1],
        "metrics": {f"m/{index}": {"values": [float(number)]} for index, number in enumerate(numbers)},
        "timings": {},
    }
    text = to_json(content)
    read = json.loads(text)
    assert torch.equal(torch.tensor([entry["values"][0] for entry in read["metrics"].values()]), numbers)
    assert {**read, "metrics": None} == {**content, "metrics": None}
    assert text.count("\n") < len(numbers) + 20


# --- criteria -------------------------------------------------------------------------------------


def metrics(**values):
    return {
        name.replace("__", "/").replace("_eq_", "="): summarise([value], "1")
        for name, value in values.items()
    }


def test_a_pattern_takes_the_worst_value_for_the_claim():
    measured = metrics(a__T_eq_1=1.0, a__T_eq_2=3.0)
    below = Criterion("i", "beyond", "c", "a/T=*", "<", 2.0)
    above = Criterion("i", "beyond", "c", "a/T=*", ">", 2.0)
    assert [evaluate([c], measured)[0]["measured"] for c in (below, above)] == [3.0, 1.0]
    assert not evaluate([below], measured)[0]["passed"]
    assert not evaluate([above], measured)[0]["passed"]


def test_the_end_of_an_interval_counts_and_without_one_nothing_is_measured():
    measured = {"a": summarise([1.0], "1") | {"interval95": [-0.5, 2.5]}, "b": summarise([1.0], "1")}
    ends = [Criterion("i", "beyond", "c", "a", ">", 0.0, bound=bound) for bound in ("low", "mean", "high")]
    assert [evaluate([end], measured)[0]["measured"] for end in ends] == [-0.5, 1.0, 2.5]
    row = evaluate([Criterion("i", "beyond", "c", "b", ">", 0.0, bound="low")], measured)[0]
    assert row["measured"] is None and row["passed"] is None


def test_a_difference_pairs_what_the_stars_stand_for():
    measured = metrics(a__T_eq_1=1.0, a__T_eq_2=3.0, b__T_eq_1=0.5, b__T_eq_2=1.0)
    row = evaluate([Criterion("i", "beyond", "c", "a/T=*", "<=", 1.0, minus="b/T=*")], measured)[0]
    assert row["measured"] == 2.0 and row["passed"] is False


def test_absent_is_not_measured_and_not_finite_fails():
    criterion = Criterion("i", "beyond", "c", "a", "<", 2.0)
    row = evaluate([criterion], {})[0]
    assert row["passed"] is None and row["measured"] is None
    row = evaluate([criterion], {"a": summarise([-math.inf], "1")})[0]
    assert row["passed"] is False and row["measured"] is None


def test_a_criterion_that_requires_others():
    criteria = [
        Criterion("x", "beyond", "c", "a", "<", 2.0),
        Criterion("y", "beyond", "c", "b", "<", 2.0),
        Criterion("both", "beyond", "c", requires=("x", "y")),
    ]
    assert evaluate(criteria, metrics(a=1.0, b=1.0))[2]["passed"] is True
    assert evaluate(criteria, metrics(a=1.0, b=3.0))[2]["passed"] is False
    assert evaluate(criteria, metrics(a=1.0))[2]["passed"] is None


@pytest.mark.parametrize("experiment", EXPERIMENTS)
def test_criteria_are_well_formed(experiment):
    criteria = importlib.import_module(f"{experiment}.criteria").CRITERIA
    ids = [criterion.id for criterion in criteria]
    assert len(set(ids)) == len(ids)
    for criterion in criteria:
        assert criterion.tier in TIERS
        assert set(criterion.requires) <= set(ids)
        assert criterion.metric or criterion.requires


def test_the_table_says_what_was_found_and_leaves_out_what_was_not_measured():
    rows = [
        {"id": name, "tier": tier, "claim": f"claim {name}", "metric": "m", "op": "<", "target": 1.0,
         "measured": None if passed is None else 0.5, "passed": passed, "log10": False, "absent": ""}
        for name, tier, passed in (
            ("a", "published", False), ("b", "strong", True), ("c", "beyond", False), ("d", "beyond", None),
            ("e", "published", False),
        )
    ]  # fmt: skip
    lines = format_table(rows, "quick", (0,)).splitlines()
    assert lines[:5] == [
        "Criteria (quick preset, 1 seed)",
        "  of the documents' claims 1 of 3 reproduced; not: claim a, and 1 more",
        "  of our own 0 of 1 met; not: claim c",
        "  1 of 5 claims were not measured by this run",
        "",
    ]
    assert [line.split()[-3:] for line in lines[5:]] == [
        ["b", "0.5", "reproduced"], ["0.5", "NOT", "REPRODUCED"], ["0.5", "NOT", "REPRODUCED"],
        ["0.5", "NOT", "MET"],
    ]  # fmt: skip
    assert "claim d" not in "".join(lines)


def test_numbers_of_the_table():
    assert format_number(3.0, log10=True) == "1e+03" and format_number(30.0, log10=True) == "10^30.0"


def test_arrays_are_checked_against_results_that_are_loaded(tmp_path, monkeypatch):
    """results.json is parsed once."""
    save_results(tmp_path, whole({}), {"a": np.arange(3)})
    results = load_results(tmp_path)
    monkeypatch.setattr(json, "loads", None)
    np.testing.assert_array_equal(load_arrays(tmp_path, results)["a"], np.arange(3))
    results["checksums"]["arrays.npz"] = "another"
    with pytest.raises(ValueError, match="checksum does not match"):
        load_arrays(tmp_path, results)
