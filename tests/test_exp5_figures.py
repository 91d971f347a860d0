"""What the figures of experiment 5 say: sentences by the interval, panels by what there is, boards."""

import math

import numpy as np
import pytest
from matplotlib.patches import Rectangle

from common.config import EXP5_PRESETS
from common.recursion.figures import draw_board, draw_differences, finding, interval_of, with_interval
from common.run.results import summarise
from common.statistics import mean_interval
from common.viz_utils import COLORS, house_style, new_figure, plot_seeds
from exp5_feudal_hrm.figures import (
    SHORT,
    VARIANTS,
    draw_figures,
    goals_finding,
    headline_finding,
    running_mean,
    sweep_cells,
)
from exp5_feudal_hrm.figures_recursion import halting_finding, recursion_finding

TASK = "sudoku_4x4"


def saved(**metrics):
    """Saved results of two seeds: {name with / as __: values, or (values, interval)}."""
    found = {}
    for name, given in metrics.items():
        values, interval = given if isinstance(given, tuple) else (given, None)
        entry = summarise(values, "1") | ({"interval95": list(interval)} if interval else {})
        found[name.replace("__", "/")] = entry
    config = {"tasks": [TASK], "larger_tasks": [], "segments": 3, "feudal_loss_weight": 0.1}
    return {"metrics": found, "config": config | {"manager_period": 4}}


def named(prefix, **metrics):
    return {f"{prefix}/{name}": value for name, value in metrics.items()}


# --- sentences -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("interval", "said"), [((0.1, 0.3), "above"), ((-0.3, -0.1), "below"), ((-0.1, 0.3), "around")]
)
def test_the_interval_chooses_the_sentence(interval, said):
    results = saved(gap=([0.1, 0.3], interval))
    text = finding(results, "gap", "above", "below", "around")
    assert text == f"{said}: +0.200 [{interval[0]:+.3f}, {interval[1]:+.3f}]"
    assert finding(results, "gap", "above", "below", "around", value=1.0).startswith("below")


def test_of_one_seed_no_sentence_claims_anything():
    results = {"metrics": {"gap": summarise([0.4], "1")}}
    assert finding(results, "gap", "above", "below", "around").startswith("One training seed cannot tell")
    assert interval_of(results, "gap") is None and with_interval(results, "gap") == "+0.400"


def test_an_interval_is_over_puzzles_too_where_there_is_one_else_over_seeds():
    assert interval_of(saved(gap=([0.1, 0.3], (0.0, 0.5))), "gap") == (0.0, 0.5)
    values = [0.1, 0.3, math.nan]  # a seed without a number
    assert interval_of(saved(gap=values), "gap") == mean_interval([0.1, 0.3])


def compared(baseline, head, random_goals):
    """Intervals of the differences between directional and its controls."""
    given = {"baseline": baseline, "head": head, "random_goals": random_goals}
    return saved(**{
        f"{TASK}/directional_minus_{name}/exact": ([sum(interval) / 2] * 2, interval)
        for name, interval in given.items()
    })  # fmt: skip


def test_the_headline_is_judged_by_the_strongest_control():
    above, around = (0.01, 0.05), (-0.03, 0.04)
    assert headline_finding(compared(above, above, above), TASK).startswith("Goals gain on every control")
    shown = headline_finding(compared(above, around, above), TASK)
    assert shown.startswith("No gain from goals is shown (against head")
    worse = headline_finding(compared((-0.09, -0.02), above, above), TASK)
    assert worse.startswith("Goals cost exact accuracy against baseline: -0.055")


@pytest.mark.parametrize(
    ("own", "said"),
    [
        ([0.80, 0.81], "Goals say little"),
        ([0.99, 0.995], "Goals tell puzzles apart"),
        ([0.8, 0.99], "Whether"),
    ],
)
def test_goals_are_judged_by_another_puzzles_goal(own, said):
    prefix = f"{TASK}/directional/feudal"
    results = saved(**named(prefix, cosine=own, cosine_swapped=[0.79, 0.8]))
    assert goals_finding(results, TASK).startswith(said)


def test_the_recursion_is_said_to_contract_only_where_it_does():
    prefix = f"{TASK}/baseline/recursion"
    contracts = saved(**{f"{prefix}/growth/solved": [-0.5, -0.51], f"{prefix}/wrong_fixed_point": [0.8, 1.0]})
    said = recursion_finding(contracts, TASK, "baseline")
    assert "contracts" in said and "90% of unsolved puzzles" in said
    unclear = saved(**{f"{prefix}/growth/solved": [-0.5, 0.1]})
    assert recursion_finding(unclear, TASK, "baseline").startswith(
        "Contraction on solved puzzles is not shown"
    )
    assert recursion_finding(saved(), TASK, "baseline") == "No puzzle is solved"


def test_halting_is_judged_against_the_q_head():
    prefix = f"{TASK}/baseline/halting"
    names = {
        f"{prefix}/residual_minus_q/exact": [0.1, 0.101],
        f"{prefix}/jacobian_minus_q/exact": [-0.1, 0.1],
    }
    said = halting_finding(saved(**names), TASK, "baseline")
    assert said.startswith("The residual halts better than the Q head: +0.1")
    assert "norm is not shown to differ" in said


# --- panels ----------------------------------------------------------------------------------------------


def exact_of(*variants):
    """Exact accuracy over three segments, and a training's history, of some variants."""
    metrics, arrays = {}, {}
    for name in variants:
        prefix = f"{TASK}/{name}"
        metrics |= {f"{prefix}/exact/segment={k}": [0.1 * k, 0.2 * k] for k in (1, 2, 3)}
        metrics[f"{prefix}/exact"] = [0.3, 0.6]
        arrays[f"{prefix}/history/iteration"] = np.arange(1, 4)
        for term in ("lm_loss", "exact_accuracy", "steps"):
            arrays[f"{prefix}/history/train/{term}"] = np.ones((3, 2))
    return metrics, arrays


def test_a_run_of_the_baseline_alone_has_its_two_figures():
    metrics, arrays = exact_of("baseline")
    with house_style():
        figures = draw_figures(saved(**metrics), arrays)
    assert figures.keys() == {"exp5_feudal_hrm.png", "exp5_training.png"}
    (axis,) = figures["exp5_feudal_hrm.png"].axes
    mean, *seeds = axis.lines
    np.testing.assert_allclose(mean.get_ydata(), [0.15, 0.3, 0.45])
    assert len(seeds) == 2 and mean.get_color() == COLORS["flat"]


def test_the_sweep_hatches_what_is_inside_the_seeds_noise():
    metrics, arrays = exact_of("baseline", "head")
    intervals = {(0.1, 1): (-0.2, -0.1), (0.1, 4): (-0.1, 0.1), (0.5, 4): (-0.4, -0.3), (0.5, 1): (-0.1, 0.2)}
    for (weight, period), interval in intervals.items():
        middle = sum(interval) / 2
        metrics[f"sweep/{weight:g}/{period}/exact"] = [0.4, 0.5]
        metrics[f"sweep/{weight:g}/{period}/minus_baseline/exact"] = ([middle] * 2, interval)
    results = saved(**metrics)
    assert set(sweep_cells(results)) == set(intervals)
    with house_style():
        figure = draw_figures(results, arrays)["exp5_sweep.png"]
    grid = next(axis for axis in figure.axes if axis.images)
    hatched = {patch.get_xy() for patch in grid.patches if patch.get_hatch()}
    assert hatched == {(-0.5, 0.5), (0.5, -0.5)}  # weight .1 at period 4, weight .5 at period 1
    shown = np.asarray(grid.images[0].get_array())
    np.testing.assert_allclose(shown, [[-0.15, 0.05], [0.0, -0.35]], atol=1e-12)  # a row a period


def test_differences_show_every_seed_the_mean_and_the_interval():
    results = saved(one=([0.0, 0.2], (-0.1, 0.3)), other=[0.5, 0.5])
    _, axes = new_figure()
    rows = {"one": ("a", "red"), "absent": ("b", "red"), "other": ("c", "red")}
    draw_differences(axes[0, 0], results, rows)
    drawn = [list(line.get_xdata()) for line in axes[0, 0].lines]
    assert drawn[:3] == [[0.0, 0.2], [-0.1, 0.3], [0.1]]
    assert [label.get_text() for label in axes[0, 0].get_yticklabels()] == ["a", "c"]


def test_a_mean_over_seeds_is_of_those_that_have_a_number():
    _, axes = new_figure()
    values = np.array([[1.0, 3.0], [np.nan, 5.0], [np.nan, np.nan]])
    plot_seeds(axes[0, 0], np.arange(3), values, "label", "red")
    np.testing.assert_array_equal(axes[0, 0].lines[0].get_ydata(), [2.0, 5.0, np.nan])


def test_a_running_mean_leaves_out_what_has_no_number():
    values = np.array([1.0, np.nan, 3.0, *[5.0] * 20])[:, None]
    found = running_mean(values)[:, 0]
    assert found[0] == pytest.approx((1 + 3 + 5 + 5) / 4)  # four steps on, none before
    assert found[12] == pytest.approx(5.0)
    assert np.isnan(running_mean(np.full((30, 1), np.nan))).all()


# --- boards ----------------------------------------------------------------------------------------------


def test_a_board_tells_given_right_and_wrong_cells_apart():
    """Of a 4x4 Sudoku, whose tokens are one more than the digits."""
    inputs, labels = np.ones(16, dtype=int), np.arange(16) % 4 + 2
    inputs[:4] = labels[:4]
    answers = labels.copy()
    answers[[3, 9]] = 5 - answers[[3, 9]] + 2  # another digit, in a given cell and in an asked one
    _, axes = new_figure()
    draw_board(axes[0, 0], inputs, labels, answers, digits=True)
    texts = axes[0, 0].texts
    assert [text.get_text() for text in texts] == [str(token - 1) for token in answers]
    assert [text.get_weight() == "bold" for text in texts] == [True] * 4 + [False] * 12
    wrong = [place for place, text in enumerate(texts) if text.get_color() == COLORS["unsolved"]]
    assert wrong == [3, 9]
    assert len([patch for patch in axes[0, 0].patches if isinstance(patch, Rectangle)]) == 16


def test_a_board_without_digits_marks_wrong_cells_alone():
    labels = np.array([1, 2, -100, 3])
    _, axes = new_figure()
    draw_board(axes[0, 0], np.ones(4, dtype=int), labels, np.array([1, 3, 4, 3]), digits=False)
    crosses = [line for line in axes[0, 0].lines if line.get_marker() == "x"]
    assert [(line.get_xdata()[0], line.get_ydata()[0]) for line in crosses] == [(1.5, 0.5)]
    assert not axes[0, 0].texts


def test_every_variant_of_the_configuration_has_a_label_and_a_colour():
    for preset in EXP5_PRESETS.values():
        assert {*preset.variants, *preset.larger_variants} <= VARIANTS.keys() == SHORT.keys()
