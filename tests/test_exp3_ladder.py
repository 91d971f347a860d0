"""The ladder from the published planner to the verified gradient: what each rung changes, nothing else."""

import dataclasses

import pytest
import torch

from common.config import Exp3Config
from common.planners import make_planner
from common.planners.adam import Adam
from common.planners.candidates import Noise, one_hot
from common.planners.straight_through import Chain
from common.planners.table_model import TableModel
from exp3_planning_efficiency.ladder import CONTROLS, RUNGS, RelaxedGradient, rungs

CONFIG = Exp3Config()
STARTS = torch.tensor([0, 3])
HORIZON, BUDGET = 6, 320 * 6


def corridor():
    """Ten places in a row, the goal at the end: left, right, stay."""
    place = torch.arange(10)
    following = torch.stack([(place - 1).clamp(min=0), (place + 1).clamp(max=9), place], 1)
    return TableModel(following, (9 - place).float())


def generator():
    return torch.Generator().manual_seed(0)


def planned(planner, budget=BUDGET):
    problem = corridor().problem(STARTS, HORIZON, budget, over_time=planner.over_time)
    return planner(problem, generator()), problem


def test_the_ends_of_the_ladder_are_the_planners_that_they_are_named_after():
    made = rungs(CONFIG)
    assert set(made) == {*RUNGS, *CONTROLS} and set(CONTROLS.values()) <= set(RUNGS)
    assert made["published"] == make_planner("flat_gradient")
    assert made["verified_gradient"] == make_planner("verified_gradient")


def test_each_rung_between_changes_one_setting():
    made = rungs(CONFIG)
    changed = {
        "softmin": {"over_time"}, "full_budget": {"gd_steps"}, "scored": {"scores_argmax"},
        "sampled": {"hard_samples"}, "sampled_zeroed": {"zeroed"},
    }  # fmt: skip
    below = dataclasses.asdict(made["scaled_adam"])
    for rung, fields in changed.items():
        here = dataclasses.asdict(made[rung])
        assert {name for name in here if here[name] != below[name]} == fields
        below = here
    assert {made[rung].rate for rung in ("scaled_adam", *changed)} == {0.16}, "steps stay as long"
    last = dataclasses.asdict(made["verified_gradient"]), dataclasses.asdict(made["discrete"])
    assert {name for name in last[0] if last[0][name] != last[1][name]} == {"pull_back"}


@pytest.mark.parametrize("rung", [*RUNGS, *CONTROLS])
def test_no_rung_spends_more_than_the_budget(rung):
    planner = rungs(CONFIG)[rung]
    for budget in (planner.least_rollouts * HORIZON, BUDGET):
        plan, problem = planned(planner, budget)
        assert 0 < plan.evaluations == problem.evaluations <= budget
    if rung in ("scaled_adam", "softmin"):
        assert plan.evaluations == (3 * CONFIG.gd_steps + 1) * HORIZON, "what the published planner spends"
    if rung == "full_budget":
        assert plan.evaluations > 0.98 * BUDGET


def steps_of(planner, steps):
    """The logits after so many steps of a planner that scores nothing, from what it draws."""
    problem, noise = corridor().problem(STARTS, HORIZON, BUDGET, over_time="final"), generator()
    chain = Chain(torch.zeros(2, HORIZON, 3))
    adam, passed = Adam(chain.logits, planner.rate, planner.betas), []
    for _ in range(steps):
        passed.append(chain.logits.clone())
        slope = planner._sample_slope(problem.rollout, chain, Noise.of(noise, 2))
        adam.step(chain.logits, slope / problem.energy_scale[:, None, None])
    return [*passed, chain.logits]


def energies_of(plans):
    return corridor().problem(STARTS, HORIZON, BUDGET, over_time="final").rollout(one_hot(plans, 3))


def test_an_unverified_rung_returns_the_last_argmax_whatever_its_energy():
    planner = RelaxedGradient(gd_steps=3)
    plan, _ = planned(planner)
    assert torch.equal(plan.actions, steps_of(planner, 3)[-1].argmax(-1))
    torch.testing.assert_close(plan.energy, energies_of(plan.actions[:, None])[:, 0])


def test_a_scored_rung_returns_the_best_argmax_on_its_way():
    planner = RelaxedGradient(gd_steps=9, scores_argmax=True)
    plan, _ = planned(planner)
    passed = torch.stack([logits.argmax(-1) for logits in steps_of(planner, 9)[:9]], 1)
    torch.testing.assert_close(plan.energy, energies_of(passed).amin(1))


def test_a_sampled_rung_returns_the_best_that_it_scored(monkeypatch):
    seen, offer = [], Chain.offer

    def spy(chain, actions, energies):
        seen.append(energies)
        offer(chain, actions, energies)

    monkeypatch.setattr(Chain, "offer", spy)
    plan, _ = planned(rungs(CONFIG)["sampled"])
    assert torch.equal(plan.energy, torch.cat(seen, 1).amin(1)) and seen[0].shape[1] == 5


def test_the_zeroed_control_stays_where_it_began():
    zeroed = rungs(CONFIG)["sampled_zeroed"]
    problem = corridor().problem(STARTS, HORIZON, BUDGET, over_time="softmin")
    slope = zeroed._sample_slope(problem.rollout, Chain(torch.zeros(2, HORIZON, 3)), generator())
    assert (slope == 0).all() and problem.evaluations == 3 * HORIZON, "paid for"


def test_the_relaxed_slope_is_the_energys_derivative():
    """Against central differences of the energy of softmax(logits + g), g drawn anew from the same state."""
    planner, table = RelaxedGradient(), corridor()
    problem = table.problem(STARTS, HORIZON, 10**6, over_time="softmin")
    logits = torch.randn(2, HORIZON, 3, generator=generator())

    def energy(values):
        noise = torch.Generator().manual_seed(5)
        draws = torch.empty(values.shape).exponential_(generator=noise).log().neg()
        return problem.rollout(torch.softmax(values + draws, -1)[:, None])[:, 0].double()

    slope = planner._sample_slope(problem.rollout, Chain(logits), torch.Generator().manual_seed(5))
    for step, action in ((0, 0), (2, 1), (5, 2)):
        apart = torch.zeros_like(logits)
        apart[:, step, action] = 1e-2
        numeric = (energy(logits + apart) - energy(logits - apart)) / 2e-2
        torch.testing.assert_close(slope[:, step, action].double(), numeric, atol=2e-3, rtol=2e-2)


def test_the_whole_ladder_climbs_in_a_corridor():
    """In exact dynamics the last rung arrives; a check that rungs plan at all, not of their order."""
    made = rungs(CONFIG)
    plan, _ = planned(made["verified_gradient"])
    assert plan.actions[1].tolist() == [1] * HORIZON, "six steps from place 3 to place 9"
