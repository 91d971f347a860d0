"""The campaign's jobs as data and the decision tree as a function."""

import itertools

import pytest

from exp6_encoder_trm.decision_tree import MEANING, ORDERS, VERDICTS, decide, is_hopeless
from exp6_encoder_trm.jobs import JOBS, PHASES, hypothesis_held

FIRST = {"E0": 0.95, "E1": 0.4, "E_diag1": 0.6, "E_zero": 0.2}
THIRD = {"E4": 0.5, "E5": 0.5, "E7": 0.5, "E6": 0.5}
SECOND = {"E2": 0.3, "E3": 0.3}


def test_every_job_of_the_document_is_there_and_differs_from_the_others():
    document = {"E0", "E1", "E_diag1", "E2", "E3", "E4", "E5", "E6", "E7"}
    assert document <= set(JOBS)
    review = {"E_zero", "E_identity", "E_diag2", "E11", "E_warmup", "E2+E4", "E3+E5", "E_cls", "tokens"}
    assert review <= set(JOBS)
    changes = [job.changes for name, job in JOBS.items() if name != "E_diag2"]  # which is E1, looked into
    assert len(set(changes)) == len(changes)
    assert JOBS["E_diag2"].changes == JOBS["E1"].changes
    assert {name for names in PHASES.values() for name in names} <= set(JOBS)


def test_combined_job_is_its_parts():
    parts = [JOBS[name].changes for name in ("E4", "E5", "E7")]
    combined = JOBS["E6"].changes
    assert (combined.lr_scale, combined.grad_clip_norm, combined.context) == (
        parts[0].lr_scale, parts[1].grad_clip_norm, parts[2].context,
    )  # fmt: skip


CASES = {
    "E0 fails": ({"E0": 0.5}, "DEBUG_BASELINE", ["E0"]),
    "E1 succeeds": (FIRST | {"E1": 0.9}, "SUCCESS", ["E0", "E1"]),
    "frozen is no better than nothing": (
        FIRST | {"E_diag1": 0.3}, "FIX_INTERFACE", ["E0", "E1", "E_diag1"],
    ),
    "a hyperparameter helps": (
        FIRST | THIRD | {"E6": 0.9}, "SUCCESS", ["E0", "E1", "E_diag1", "hyperparameters"],
    ),
    "an architecture helps": (
        FIRST | THIRD | SECOND | {"E2": 0.9}, "SUCCESS",
        ["E0", "E1", "E_diag1", "hyperparameters", "architecture"],
    ),
    "nothing helps": (
        FIRST | THIRD | SECOND, "REDESIGN_ENCODER",
        ["E0", "E1", "E_diag1", "hyperparameters", "architecture"],
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", CASES)
def test_every_leaf_is_reached_by_its_path(case):
    exact, verdict, path = CASES[case]
    decision = decide(exact)
    assert (decision.verdict, [step.node for step in decision.trace]) == (verdict, path)
    assert decision.needs == () and verdict in decision.explain() and MEANING[verdict] in decision.explain()


def test_all_leaves_are_tested():
    assert {verdict for _, verdict, _ in CASES.values()} == set(VERDICTS)


def test_phases_come_in_the_order_of_the_diagram_or_of_the_text():
    assert decide(FIRST).needs == PHASES["hyperparameters"]
    assert decide(FIRST, "text").needs == PHASES["architecture"]
    either = FIRST | THIRD | SECOND
    orders = {order: [step.node for step in decide(either, order).trace[3:]] for order in ORDERS}
    assert orders["diagram"] == orders["text"][::-1] == ["hyperparameters", "architecture"]
    assert {decide(either, order).verdict for order in ORDERS} == {"REDESIGN_ENCODER"}


def test_it_asks_for_what_the_path_needs_and_no_more():
    assert decide({}).needs == ("E0", "E1", "E_diag1", "E_zero")
    assert decide({"E0": 0.95}).needs == ("E1", "E_diag1", "E_zero")
    assert decide({"E0": 0.2}).verdict == "DEBUG_BASELINE"
    results, order = {}, []
    truth = FIRST | THIRD | SECOND
    while (decision := decide(results)).verdict is None:
        assert decision.needs and not set(decision.needs) & set(results)
        order += decision.needs
        results |= {name: truth[name] for name in decision.needs}
    assert order == [*PHASES["overfit"], *PHASES["hyperparameters"], *PHASES["architecture"]]


def test_no_better_result_makes_a_verdict_worse():
    levels = (0.1, 0.5, 0.88)
    names = ("E1", "E6", "E2")
    for values in itertools.product(levels, repeat=3):
        exact = FIRST | THIRD | SECOND | dict(zip(names, values, strict=True))
        for name in names:
            better = VERDICTS[decide(exact | {name: 0.95}).verdict]
            assert better >= VERDICTS[decide(exact).verdict]


def test_the_reviews_rule_stops_what_is_hopeless_at_half_time():
    assert is_hopeless(0.1, share_done=0.5, least=0.2, at=0.5)
    assert not is_hopeless(0.1, share_done=0.4, least=0.2, at=0.5)
    assert not is_hopeless(0.2, share_done=0.9, least=0.2, at=0.5)


def test_a_hypothesis_is_judged_against_the_table():
    assert hypothesis_held(JOBS["E1"], 0.9, table=0.95) and not hypothesis_held(JOBS["E1"], 0.8, 0.95)
    assert hypothesis_held(JOBS["E_zero"], 0.2, 0.95) and not hypothesis_held(JOBS["E_zero"], 0.5, 0.95)
    assert hypothesis_held(JOBS["E_identity"], 1.0, 0.95) and not hypothesis_held(
        JOBS["E_identity"], 1.01, 0.95
    )
    assert hypothesis_held(JOBS["E_diag2"], 0.5, 0.95) and not hypothesis_held(JOBS["E_diag2"], 0.01, 0.95)


def test_a_change_that_does_nothing_confirms_no_hypothesis():
    assert JOBS["E5"].over == JOBS["E_cls"].over == JOBS["E_scale"].over == "E1"
    assert hypothesis_held(JOBS["E5"], 0.95, 0.95, other=0.6)
    assert not hypothesis_held(JOBS["E5"], 0.95, 0.95, other=0.95)
    assert hypothesis_held(JOBS["E2"], 0.7, 0.95, other=0.6) and JOBS["E2"].over == "E1"


def test_what_has_learned_nothing_confirms_no_hypothesis():
    assert not any(
        hypothesis_held(job, share, table=0.1) for job in JOBS.values() for share in (0.0, 0.5, 1.0)
    )
