"""What a sweep says of its trials: seeds taken together, and differences judged by them, in every form."""

import csv
import io
import math

import numpy as np
import pytest
import torch

from common.run.results import SCHEMA, Results
from common.statistics import crossed_interval, mean_interval
from common.sweeps.figures import draw_sweep
from common.sweeps.summary import (
    Ended,
    difference,
    format_settings,
    is_within_spread,
    pool_settings,
    ranked,
    to_content,
    to_csv,
)
from common.sweeps.trial import DONE, Record

START = torch.rand(8, 30, generator=torch.Generator().manual_seed(0))


def trial(setting, seed, error, starts=None):
    """What a trial of one seed has left."""
    results = Results("exp9_toy", [seed])
    results.add("toy/error", [error], "m")
    if starts is not None:
        results.add_difference("toy/gain", starts[None], enumerated=False)
    content = {
        "schema": SCHEMA, "experiment": "exp9_toy", "preset": "quick", "changed": [], "seeds": [seed],
        "config": {"seeds": [seed], **setting}, "provenance": {}, "metrics": results.metrics, "timings": {},
        "criteria": [], "computed_by": [{"torch": "2"}],
    }  # fmt: skip
    label = ",".join(f"{name}={value}" for name, value in setting.items())
    return Ended(Record(f"{label},seed={seed}", DONE, "mark", setting, (seed,)), content, results.arrays)


def trials_of(**values):
    """{noise: errors by seed} as trials."""
    return [
        trial({"noise": noise.removeprefix("n")}, seed, error)
        for noise, errors in values.items()
        for seed, error in enumerate(errors)
    ]


CLEAR = {"n1": (0.1, 0.2, 0.3), "n2": (1.1, 1.25, 1.3), "n3": (0.11, 0.19, 0.31)}  # 1 and 3 are level


def test_seeds_are_taken_together_with_an_interval_over_them():
    settings = pool_settings(trials_of(**CLEAR))
    assert [each.setting for each in settings] == [{"noise": "1"}, {"noise": "2"}, {"noise": "3"}]
    assert settings[0].seeds == [0, 1, 2] and settings[0].values("toy/error") == {0: 0.1, 1: 0.2, 2: 0.3}
    assert settings[0].mean("toy/error") == pytest.approx(0.2)
    assert settings[0].interval("toy/error") == mean_interval([0.1, 0.2, 0.3])


def test_where_starts_are_shared_the_interval_is_over_starts_and_seeds():
    trials = [trial({}, seed, 0.0, START[seed]) for seed in range(4)]
    (setting,) = pool_settings(trials)
    expected = crossed_interval(START[:4].float().double(), enumerated=False)
    assert setting.interval("toy/gain") == pytest.approx(expected)


def test_one_seed_has_no_interval_and_no_verdict():
    one, two = pool_settings(trials_of(n1=(0.1,), n2=(0.2,)))
    assert one.interval("toy/error") is None and is_within_spread(one, two, "toy/error") is None
    assert "unknown" in format_settings([one, two], "toy/error", "min")


def test_a_difference_is_judged_seed_by_seed():
    one, two, three = pool_settings(trials_of(**CLEAR))
    assert difference(two, one, "toy/error") == mean_interval([1.0, 1.05, 1.0])
    assert is_within_spread(two, one, "toy/error") is False
    assert is_within_spread(three, one, "toy/error") is True


def test_the_table_ranks_and_says_which_differences_are_within_the_spread():
    settings = pool_settings(trials_of(**CLEAR))
    low = format_settings(settings, "toy/error", "min").splitlines()
    assert (
        low[1].startswith("  noise=1 ") and low[2].startswith("  noise=3") and low[3].startswith("  noise=2")
    )
    assert "inside the seeds' spread" in low[2] and "beyond the seeds' spread" in low[3]
    assert "chosen on these very seeds" in low[-1]
    high = format_settings(settings, "toy/error", "max").splitlines()
    assert high[1].startswith("  noise=2 ") and "highest first" in high[0]


def test_what_is_not_finite_ranks_last_and_is_no_number_anywhere():
    trials = trials_of(n1=(math.nan, 0.0), n2=(5.0, 6.0))
    settings = pool_settings(trials)
    assert [each.setting["noise"] for each in ranked(settings, "toy/error", "min")] == ["2", "1"]
    assert [each.setting["noise"] for each in ranked(settings, "toy/error", "max")] == ["2", "1"]
    assert to_csv(trials, ["noise"]).splitlines()[1].endswith(",0,toy/error,m,")
    format_settings(settings, "toy/error", "min")
    draw_sweep(settings, ["noise"], "toy/error", "min")


def test_rows_are_one_for_each_trial_seed_and_metric_and_exact():
    trials = trials_of(n1=(0.1, 1 / 3), n2=(1e-17, 2.0))
    rows = list(csv.DictReader(io.StringIO(to_csv(trials, ["noise"]))))
    assert [(row["noise"], int(row["seed"]), float(row["value"])) for row in rows] == [
        ("1", 0, 0.1), ("1", 1, 1 / 3), ("2", 0, 1e-17), ("2", 1, 2.0),
    ]  # fmt: skip
    assert {(row["metric"], row["unit"]) for row in rows} == {("toy/error", "m")}


def test_the_content_has_every_trial_and_every_metric_with_its_interval():
    trials = trials_of(**CLEAR)
    content = to_content([each.record for each in trials], trials, pool_settings(trials), metric="toy/error")
    assert len(content["trials"]) == 9 and content["metric"] == "toy/error"
    assert content["computed_by"] == [{"torch": "2"}]
    entry = content["settings"][0]["metrics"]["toy/error"]
    assert entry["values"] == [0.1, 0.2, 0.3] and entry["interval95"] == list(mean_interval([0.1, 0.2, 0.3]))


def test_the_figure_of_one_field_shows_what_the_table_says():
    settings = pool_settings(trials_of(**CLEAR))
    axis = draw_sweep(settings, ["noise"], "toy/error", "min").axes[0]
    lines = [np.array(line.get_xydata(), dtype=float) for line in axis.lines if len(line.get_xdata()) == 3]
    expected = [[[float(n[1:]), errors[seed]] for n, errors in CLEAR.items()] for seed in range(3)]
    for seed in expected:
        assert any(line.shape == (3, 2) and np.allclose(line, seed) for line in lines)
    means = {tuple(np.round(bar[0].get_xydata()[0], 9)) for bar in axis.containers if len(bar[0].get_xdata())}
    assert means == {(float(each.setting["noise"]), round(each.mean("toy/error"), 9)) for each in settings}
    assert "lowest at noise=1, level with 1 of the 2 others" in " ".join(axis.get_title(loc="left").split())


def test_two_fields_are_a_heat_map_with_the_numbers_in_its_cells():
    trials = [
        trial({"noise": noise, "width": width}, seed, float(noise) * float(width) + 0.1 * seed)
        for noise in ("1", "2") for width in ("3", "5", "7") for seed in (0, 1)
    ]  # fmt: skip
    settings = pool_settings(trials)
    axis = draw_sweep(settings, ["noise", "width"], "toy/error", "max").axes[0]
    (image,) = axis.images
    np.testing.assert_allclose(image.get_array(), [[3.05, 5.05, 7.05], [6.05, 10.05, 14.05]])
    cells = {text.get_position(): text.get_text() for text in axis.texts}
    assert cells[2, 1].startswith("14.1") and cells[0, 0].startswith("3.05") and len(cells) == 6
    assert axis.get_xlabel() == "width" and axis.get_ylabel() == "noise"
    assert "highest at noise=2, width=7" in axis.get_title(loc="left")


@pytest.mark.parametrize("fields", [[], ["noise", "width", "depth"], ["noise", "width"]])
def test_anything_else_is_a_list_from_the_best(fields):
    """No field, three, or two that a search has scattered."""
    scattered = [{name: str(0.1 * k * (k + n)) for n, name in enumerate(fields)} for k in range(1, 6)]
    trials = [
        trial(setting, seed, 10.0 - number + seed)
        for number, setting in enumerate(scattered[: 5 if fields else 1])
        for seed in (0, 1)
    ]
    axis = draw_sweep(pool_settings(trials), fields, "toy/error", "min").axes[0]
    labels = [label.get_text() for label in axis.get_yticklabels()]
    assert len(labels) == (5 if fields else 1) and not axis.images
    if fields:
        assert labels[0].startswith(f"noise={scattered[-1]['noise']}")  # the lowest error is on top
