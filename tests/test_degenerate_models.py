"""Claims of experiments 1 to 4 on planted models that know nothing: none passes."""

import fnmatch
import importlib
import json

import pytest

from common.run.criteria import Criterion, evaluate
from common.run.files import ROOT

EXPERIMENTS = (
    "exp1_spectral_cliff", "exp2_funnel_heatmap", "exp3_planning_efficiency", "exp4_contrastive_fix"
)  # fmt: skip
CHANCE = 0.1  # success of the random policy

# What a degenerate model measures, by patterns of metrics' names; the first that matches counts.
CONSTANT = {  # answers the mean whatever it is asked; planners see no difference between plans
    "*_minus_*": 0.0, "*log10_jacobian*": -12.0, "*synergy*": 0.0, "*far_nrmse": 1.0, "*nrmse*": 1.0,
    "*growth_rate_error": 1.0,
    "*closed_form_error*": 1.0, "*ridge_error*": 1.0, "*r2": 0.0, "*gain_error": 1.0,
    "*relative_error": 1.0, "*shrink": 0.0, "*coverage": 0.0, "*interaction": 0.0,
    "*spearman": 0.0, "*greedy": CHANCE, "*accuracy*": 0.01, "*final_distance": 7.0, "*success": CHANCE,
}  # fmt: skip
UNTRAINED = CONSTANT | {  # a random net: its norm is whatever its weights make it
    "*log10_jacobian*": 6.0, "*far_nrmse": 1.5, "*nrmse*": 1.5, "*r2": -0.05, "*coverage": 0.02,
}  # fmt: skip
# Predicts one macro step and answers the mean beyond, where flat explodes.
FORGETS = {"*nrmse/T=4": 0.2, "*/flat/log10_jacobian*": 15.0} | CONSTANT
# Perfect models on a task so easy that random shooting arrives in every one of them.
CEILING = {"*random_policy*": 0.2, "*accuracy*": 1.0} | CONSTANT | {"*success": 1.0, "*final_distance": 0.0}
FLOOR = CEILING | {"*random_policy*": 0.0, "*success": 0.0}  # and on one that nobody solves: ties everywhere
MODELS = {"constant": CONSTANT, "untrained": UNTRAINED, "forgets": FORGETS, "floor": FLOOR}
# What a perfect model may claim whatever the task.
OF_THE_MODEL = ("*accuracy_1", "*accuracy_50", "*nrmse/T=4")
CASES = [(experiment, rules) for experiment in EXPERIMENTS for rules in MODELS.values()]
CASES += [(experiment, CEILING) for experiment in EXPERIMENTS[2:]]  # where random shooting may arrive as well


def planted(names, rules):
    """Metrics by these names, every seed alike."""
    found = {}
    for name in names:
        value = next(value for pattern, value in rules.items() if fnmatch.fnmatch(name, pattern))
        found[name] = {"values": [value] * 3, "mean": value, "interval95": [value, value]}
    return found


def names_of(criteria):
    """Every metric that the criteria look at, at some horizon."""
    named = {name for each in criteria for name in (each.metric, each.minus) if name}
    return {name.replace("*", "100") for name in named}


@pytest.mark.parametrize(("experiment", "rules"), CASES)
def test_no_claim_holds_of_a_model_that_knows_nothing(experiment, rules):
    criteria = importlib.import_module(f"{experiment}.criteria").CRITERIA
    rows = evaluate(criteria, planted(names_of(criteria), rules))
    passed = [
        row["id"]
        for row in rows
        if row["passed"] and not any(fnmatch.fnmatch(row["metric"], own) for own in OF_THE_MODEL)
    ]
    assert not passed


@pytest.mark.parametrize("experiment", EXPERIMENTS)
def test_the_claims_can_be_met_and_the_reference_has_their_verdicts(experiment):
    """Saved verdicts are those of today's claims on the saved numbers, and a third of them holds."""
    criteria = importlib.import_module(f"{experiment}.criteria").CRITERIA
    for path in sorted((ROOT / "reference" / experiment).glob("*.json")):
        saved = json.loads(path.read_text(encoding="utf-8"))
        if "criteria" not in saved:
            continue
        rows = evaluate(criteria, saved["metrics"])
        kept = {row["id"]: row["passed"] for row in saved["criteria"]}
        assert kept == {row["id"]: row["passed"] for row in rows}, path.name
        if path.name == "results.json":
            judged = [row["passed"] for row in rows if row["passed"] is not None]
            assert sum(judged) > len(judged) / 3


def test_a_claim_with_a_metric_needs_what_it_requires_as_well():
    metrics = {"norm": {"mean": 1.0}, "error": {"mean": 1.0}}
    fit = Criterion("fit", "beyond", "predicts", "error", "<", 0.5)
    small = Criterion("small", "beyond", "small", "norm", "<", 2.0, requires=("fit",))
    assert [row["passed"] for row in evaluate((fit, small), metrics)] == [False, False]
    metrics["error"]["mean"] = 0.1
    assert [row["passed"] for row in evaluate((fit, small), metrics)] == [True, True]
    assert evaluate((fit, small), metrics)[1]["measured"] == 1.0
    del metrics["error"]
    assert [row["passed"] for row in evaluate((fit, small), metrics)] == [None, None]
    with pytest.raises(ValueError, match="small requires fit, which does not stand before it"):
        evaluate((small, fit), metrics)


def test_the_worst_seed_can_be_asked_for():
    metrics = {"success": {"mean": 0.7, "values": [0.9, 0.2, 1.0]}}
    low = Criterion("low", "beyond", "every seed", "success", ">", 0.5, bound="worst")
    high = Criterion("high", "beyond", "every seed", "success", "<", 0.9, bound="worst")
    rows = evaluate((low, high), metrics)
    assert [row["measured"] for row in rows] == [0.2, 1.0] and not any(row["passed"] for row in rows)
