"""Experiment 8's claims: they pass for what they mean, and planted degenerate models fail them."""

import pytest

from common.run.criteria import evaluate
from exp8_two_pillars.criteria import CRITERIA, GRADIENT, HELD_OUT, LOOP, SEARCH

SCENE = "s/lorenz"


def planted(none, spectral, metric, both, width=0.05, scene=SCENE):
    """Metrics of a 2x2 with these success rates and intervals of this half width."""
    corners = {"none": none, "spectral": spectral, "metric": metric, "both": both}
    metrics = {f"{scene}/{policy}_policy/success": entry(0.05, width) for policy in ("random", "straight")}
    for planner in (SEARCH, GRADIENT):
        for corner, rate in corners.items():
            metrics[f"{scene}/{corner}/{planner}/{LOOP}/success"] = entry(rate, width)
        effects = {
            "both_minus_spectral": both - spectral, "both_minus_metric": both - metric,
            "main_spectral": ((spectral - none) + (both - metric)) / 2,
            "main_metric": ((metric - none) + (both - spectral)) / 2,
            "interaction": (both - metric) - (spectral - none),
        }  # fmt: skip
        for effect, value in effects.items():
            metrics[f"{scene}/{planner}/{LOOP}/{effect}"] = entry(value, width)
    return metrics


def entry(value, width):
    return {"values": [value, value], "mean": value, "interval95": [value - width, value + width]}


def verdicts(metrics):
    return {row["id"]: row["passed"] for row in evaluate(CRITERIA, metrics)}


def test_the_central_claim_passes_for_what_it_means():
    found = verdicts(planted(0.1, 0.2, 0.15, 0.9))
    assert found["exp8/s_lorenz/necessary"] and found["exp8/s_lorenz/sufficient"]
    assert found["exp8/s_lorenz/central"]


@pytest.mark.parametrize(
    ("rates", "necessary", "sufficient"),
    [
        ((0.0, 0.0, 0.0, 0.0), False, False),  # models that answer the same whatever is asked
        ((1.0, 1.0, 1.0, 1.0), False, True),  # tasks that everything solves
        ((0.1, 0.1, 0.9, 0.9), False, True),  # the metric alone suffices
        ((0.1, 0.9, 0.1, 0.9), False, True),  # the spectral pillar alone suffices
        ((0.1, 0.2, 0.2, 0.3), False, False),  # effects that add up, and lead nowhere
        ((0.1, 0.3, 0.3, 0.6), True, False),  # needed and not enough
        ((0.6, 0.6, 0.6, 0.9), False, True),  # no corner fails
    ],
)
def test_degenerate_corners_fail(rates, necessary, sufficient):
    found = verdicts(planted(*rates))
    assert found["exp8/s_lorenz/necessary"] is necessary
    assert found["exp8/s_lorenz/sufficient"] is sufficient
    assert found["exp8/s_lorenz/central"] is (necessary and sufficient)


@pytest.mark.parametrize("policy", ["random", "straight"])
def test_where_a_policy_without_a_model_reaches_the_goal_there_is_no_skill(policy):
    metrics = planted(0.1, 0.2, 0.15, 0.9)
    metrics[f"{SCENE}/{policy}_policy/success"] = entry(0.8, 0.05)
    assert verdicts(metrics)["exp8/s_lorenz/sufficient"] is False


def test_wide_intervals_prove_nothing_and_one_seed_has_none():
    assert verdicts(planted(0.1, 0.2, 0.15, 0.9, width=0.9))["exp8/s_lorenz/necessary"] is False
    metrics = planted(0.1, 0.2, 0.15, 0.9)
    for value in metrics.values():
        del value["interval95"]
    assert verdicts(metrics)["exp8/s_lorenz/necessary"] is None


def test_one_planner_that_fails_is_enough():
    metrics = planted(0.1, 0.2, 0.15, 0.9)
    metrics[f"{SCENE}/both/{GRADIENT}/{LOOP}/success"] = entry(0.5, 0.05)
    assert verdicts(metrics)["exp8/s_lorenz/sufficient"] is False


@pytest.mark.parametrize(
    ("rates", "vanishes"),
    [
        ((0.2, 0.2, 0.9, 0.9), True),
        ((0.0, 0.0, 0.0, 0.0), False),  # nothing could be seen
        ((0.2, 0.6, 0.5, 0.9), False),  # an effect that stays
    ],
)
def test_an_effect_vanishes_only_where_something_succeeds(rates, vanishes):
    found = verdicts(planted(*rates, scene="s/off"))
    assert found[f"exp8/vanish/s/off/{SEARCH}/main_spectral"] is vanishes


@pytest.mark.parametrize("effect", [0.0, -0.08, -0.45])
def test_an_interval_that_leaves_an_effect_open_does_not_make_it_vanish(effect):
    metrics = planted(0.2, 0.2, 0.9, 0.9, scene="s/off")
    metrics[f"s/off/{SEARCH}/{LOOP}/main_spectral"] = entry(effect, 0.6)
    assert verdicts(metrics)[f"exp8/vanish/s/off/{SEARCH}/main_spectral"] is False


def test_training_longer_is_no_control_where_nothing_succeeds():
    def longer(both):
        metrics = planted(0.0, 0.0, 0.0, both)
        metrics[f"long/metric/times=4/{SEARCH}/{LOOP}/success"] = entry(0.1, 0.05)
        return verdicts(metrics)[f"exp8/long/{SEARCH}/times=4"]

    assert longer(0.9) is True and longer(0.0) is False


def test_forgetting_the_wind_costs_only_where_the_goal_asks_for_it():
    def forgetting(blind):
        metrics = {
            "wind_goal/straight_policy/success": entry(blind, 0.05),
            f"wind_goal/{SEARCH}/{LOOP}/main_spectral": entry(-0.3, 0.1),
        }
        return verdicts(metrics)["exp8/wind_goal/forgetting_costs"]

    assert forgetting(0.1) is True and forgetting(1.0) is False


def test_held_out_scenes_are_claimed_as_the_first_one():
    found = verdicts(planted(0.1, 0.2, 0.15, 0.9, scene=HELD_OUT[1]))
    assert found["exp8/held_out/s_roessler/central"] and found["exp8/s_lorenz/central"] is None


def test_a_gradient_is_the_cause_only_where_search_succeeds():
    def with_true_values(search, gradient, tamed):
        metrics = {}
        for corner, reached in (("metric", gradient), ("both", tamed)):
            prefix = f"cause/{corner}/true_value"
            metrics |= {
                f"{prefix}/{SEARCH}/{LOOP}/success": entry(search, 0.05),
                f"{prefix}/{GRADIENT}/{LOOP}/success": entry(reached, 0.05),
                f"{prefix}/{SEARCH}_minus_{GRADIENT}/{LOOP}/success": entry(search - reached, 0.05),
            }
        return verdicts(metrics)["exp8/gradient/T=20/is_the_cause"]

    assert with_true_values(0.8, 0.2, 0.8) is True
    assert with_true_values(0.1, 0.1, 0.1) is False  # worse predictions, or distances, explain it
    assert with_true_values(0.8, 0.8, 0.8) is False
    assert with_true_values(0.8, 0.2, 0.2) is False  # the first pillar's gradient is no better
    assert with_true_values(0.8, 0.77, 0.8) is False  # too little, though beyond doubt


def test_a_part_suffices_only_where_its_pillar_was_wanting():
    def with_part(alone, part, chance=0.05, width=0.05):
        variant, case = "multi_step_alone+metric", f"{SEARCH}/{LOOP}/success"
        metrics = {
            f"{SCENE}/metric/{case}": entry(alone, 0.05), f"ablation/{variant}/{case}": entry(part, width),
            f"{SCENE}/random_policy/success": entry(chance, 0.05),
        }  # fmt: skip
        return verdicts(metrics)[f"exp8/ablation/{variant}/{SEARCH}/suffices"]

    assert with_part(0.2, 0.9) is True
    assert with_part(0.2, 0.7) is False and with_part(0.0, 0.0) is False
    assert with_part(0.2, 0.9, chance=0.85) is False  # so does a model that knows nothing
    assert with_part(0.2, 0.81, width=0.5) is False
    assert with_part(0.9, 0.95) is False  # everything is solved, with the part and without


def test_a_part_is_needed_only_where_both_succeed_and_beyond_doubt():
    def without(both, part, width=0.02):
        variant = f"ablation/without_noise+metric/{SEARCH}/{LOOP}"
        metrics = {
            f"{SCENE}/both/{SEARCH}/{LOOP}/success": entry(both, width),
            f"{variant}/success": entry(part, width), f"{variant}/below_both": entry(both - part, width),
        }  # fmt: skip
        return verdicts(metrics)[f"exp8/ablation/without_noise/{SEARCH}/needed"]

    assert without(0.9, 0.5) is True
    assert without(0.9, 0.9) is False and without(0.9, 0.7, width=0.3) is False
    assert without(0.98, 0.9) is False  # less, and still enough
    assert without(0.1, 0.02) is False  # of a failure nothing is needed


def test_ids_are_distinct():
    ids = [criterion.id for criterion in CRITERIA]
    assert len(set(ids)) == len(ids)
