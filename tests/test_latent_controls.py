"""What a gradient buys: evaluations that are needed, forms that fit, and what is recorded of them."""

import math

import pytest
import torch

from common.config import Exp3Config
from common.latent.control_figures import LABELS, ROWS
from common.latent.controls import BUDGETED, ENOUGH, evaluations_needed, form_for, record_budgets
from common.planners import PEERS, PLANNERS
from common.run.results import Results

CONFIG = Exp3Config()


class Task:
    all_starts = True


@pytest.mark.parametrize(
    ("success", "target", "needed"),
    [
        ({2: 0.9, 8: 1.0}, 0.5, 2.0),  # the smallest is enough
        ({2: 0.0, 8: 1.0}, 0.5, 4.0),  # half way by the logarithm
        ({2: 0.0, 8: 0.5, 32: 0.5}, 0.5, 8.0),
        ({2: 0.0, 8: 0.4}, 0.5, math.inf),
        ({2: 0.0, 8: 0.4}, math.nan, math.nan),  # nothing to count for
        ({8: 1.0, 2: 0.0}, 1.0, 8.0),  # whatever their order
        ({2: 0.0, 8: 0.6, 32: 0.2, 128: 1.0}, 0.5, 2 * 4 ** (5 / 6)),  # where it first has as much
    ],
)
def test_evaluations_needed(success, target, needed):
    assert evaluations_needed(success, target) == pytest.approx(needed, nan_ok=True)


def test_forms_fit_their_budget_or_there_is_none():
    for planner in BUDGETED:
        for budget in CONFIG.small_budgets:
            fitting = form_for(planner, budget, CONFIG)
            assert fitting is None or fitting.least_rollouts <= budget
        assert form_for(planner, 320, CONFIG) is not None
    assert form_for("verified_gradient", 2, CONFIG) is None
    assert form_for("random_shooting", 2, CONFIG) is not None


def test_records_of_budgets():
    results = Results("test", (0, 1))
    all_, none, half = torch.ones(2, 4), torch.zeros(2, 4), torch.tensor([[1.0, 1, 0, 0]] * 2)
    rates = {
        ("cem", 2): none, ("cem", 8): all_,
        ("helm", 2): all_, ("helm", 8): all_,
        ("icem", 2): none, ("icem", 8): half,
    }  # fmt: skip
    record_budgets(results, Task, "budgets/grid/model", "open/T=5", rates, 0.05)
    metrics = results.metrics
    assert metrics["budgets/grid/model/helm/open/T=5/budget=2/success"]["mean"] == 1.0
    assert metrics["budgets/grid/model/helm/open/T=5/evaluations_needed"]["values"] == [2.0, 2.0]
    needed = metrics["budgets/grid/model/cem/open/T=5/evaluations_needed"]["mean"]
    assert needed == pytest.approx(2 * 4**ENOUGH)
    assert metrics["budgets/grid/model/icem/open/T=5/evaluations_needed"]["mean"] is None, "never as much"
    record_budgets(results, Task, "budgets/grid/model", "open/T=9", rates, 0.95)
    every = [metrics[f"budgets/grid/model/{name}/open/T=9/evaluations_needed"] for name in ("cem", "helm")]
    assert all(entry["mean"] is None for entry in every), "CEM is no better than chance"


def test_figures_name_every_planner():
    assert set(ROWS) == set(PLANNERS) - {"flat_gradient"} | set(PEERS)
    assert set(ROWS) | set(BUDGETED) <= set(LABELS)
    assert len(set(LABELS.values())) == len(LABELS)
