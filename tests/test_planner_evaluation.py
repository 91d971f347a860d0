"""The evaluation harness: exact controls, intervals, budgets, problems of several members in one batch."""

import dataclasses
import functools
import itertools
from dataclasses import dataclass
from typing import ClassVar

import pytest
import torch

from common.config import Exp3Config
from common.latent.comparison import configured_planner
from common.latent.model import LatentModel
from common.latent.planner_evaluation import Trial, evaluate_planner, random_policy_success
from common.latent.problems import LatentProblems, OracleProblems
from common.minigrid.task import make_task
from common.planners import PEERS, PLANNERS, make_planner
from common.planners.candidates import one_hot
from common.planners.problem import BudgetExceeded, Plan
from common.run.random import generators
from common.statistics import starts_interval, wilson_interval

CONFIG = Exp3Config(seeds=(0, 1), num_walks=60, walk_length=20, evaluations_per_step=64)
CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def task():
    return make_task("Empty-6x6", CONFIG)


@pytest.fixture(scope="module")
def model(task):
    features = task.observations.shape[-1]
    made = LatentModel((0, 1), features, 3, d_latent=8, hidden_dim=16, transition="concat", strides=(4,))
    return made.requires_grad_(False)


def noise(_=None):
    return torch.Generator().manual_seed(0)


def generators_of_seeds(_=None):
    return generators(CONFIG.seeds, "planning")


def evaluate(task, problems, planner, mode, horizon, **options):
    trial = Trial(task, problems, planner, CONFIG, generators_of_seeds, **options)
    return evaluate_planner(trial, mode, [horizon])[horizon]


def test_random_success_is_what_random_walks_show(task):
    exact = random_policy_success(task, [5, 15])[15].mean()
    draws, walkers = noise(), task.starts.repeat(400)
    for _ in range(15):
        walkers = task.world.next_state[walkers, torch.randint(3, walkers.shape, generator=draws)]
    assert abs(float(task.world.terminal[walkers].double().mean()) - float(exact)) < 0.01


def test_wilson_against_published_values():
    """Newcombe (1998), table I: 81 of 263 gives .2553 to .3662, 0 of 20 gives 0 to .1611."""
    assert wilson_interval(81, 263) == pytest.approx((0.2553, 0.3662), abs=1e-4)
    assert wilson_interval(0, 20) == pytest.approx((0.0, 0.1611), abs=1e-4)


def test_an_interval_over_starts_counts_a_start_once():
    first = torch.tensor([[1.0, 1.0, 0.0, 1.0]]).expand(3, -1)
    low, high = starts_interval(first)
    alone = starts_interval(first[:1])
    assert (low, high) == alone and (low + high) / 2 == pytest.approx(0.75)


@pytest.mark.parametrize("mode", ["open", "closed"])
def test_open_and_closed_loop_plan_at_temperatures_of_their_own(task, mode):
    oracle, asked = OracleProblems(task, 4, CPU), set()

    def recording(states, horizon, budget, over_time, temperature):
        asked.add(temperature)
        return oracle(states, horizon, budget, over_time, temperature)

    evaluate(task, recording, make_planner("random_shooting"), mode, 4)
    assert asked == {{"open": CONFIG.open_temperature, "closed": CONFIG.closed_temperature}[mode]}
    assert CONFIG.open_temperature != CONFIG.closed_temperature


@pytest.mark.parametrize("mode", ["open", "closed"])
def test_on_the_oracle_no_planner_beats_the_shortest_path_and_shooting_reaches_goals(task, mode):
    problems = OracleProblems(task, 4, CPU)
    found = evaluate(task, problems, make_planner("random_shooting"), mode, 12)
    shortest = task.distance[task.starts]
    assert (found["steps"] >= shortest)[found["success"] == 1].all()
    assert (found["spl"] <= found["success"]).all() and found["success"].mean() > 0.5
    assert torch.equal(found["final_distance"] == 0, found["success"] == 1)
    assert found["success"].shape == (2, len(task.starts)) and (found["evaluations"] > 0).all()
    if mode == "open":
        assert (found["evaluations"] == 64 * 12).all()


def test_shorter_closed_loops_are_the_beginning_of_longer_ones(task):
    problems, planner = OracleProblems(task, 4, CPU), make_planner("random_shooting")
    horizons = [5, 12, 14, 20]
    trial = Trial(task, problems, planner, CONFIG, generators_of_seeds)
    together = evaluate_planner(trial, "closed", horizons)
    for horizon in horizons:
        alone = evaluate(task, problems, planner, "closed", horizon)
        for name in ("success", "spl", "final_distance", "evaluations", "steps", "states"):
            assert torch.equal(together[horizon][name], alone[name]), (horizon, name)
    assert together[12]["success"].mean() < together[20]["success"].mean()


def test_an_ended_episode_stays_ended(task):
    problems = OracleProblems(task, 4, CPU)
    found = evaluate(task, problems, make_planner("cem"), "closed", 12)
    for states, steps in zip(found["states"].flatten(0, 1), found["steps"].flatten(), strict=True):
        assert (states[int(steps) :] == states[-1]).all()


@dataclass(frozen=True)
class Greedy:
    """Spends more than it may, or tells less than it spent."""

    over_time: ClassVar[str] = "softmin"
    extra: int = 0
    tell: int | None = None

    def __call__(self, problem, generator):
        actions = torch.zeros(problem.num_problems, problem.horizon, dtype=torch.int64)
        candidates = problem.budget // problem.horizon + self.extra
        plans = one_hot(actions[:, None].expand(-1, candidates, -1), problem.num_actions)
        energy = problem.rollout(plans)[:, 0]
        told = problem.evaluations if self.tell is None else self.tell
        return Plan(actions, energy, torch.zeros_like(energy), told, energy[None])


def test_a_planner_that_overspends_is_stopped_and_one_that_lies_is_told(task, model):
    for problems in (OracleProblems(task, 4, CPU), LatentProblems(model, task, 4, CPU)):
        evaluate(task, problems, Greedy(), "open", 5)
        with pytest.raises(BudgetExceeded):
            evaluate(task, problems, Greedy(extra=1), "open", 5)
        with pytest.raises(AssertionError, match="spent 320 of 320"):
            evaluate(task, problems, Greedy(tell=5), "open", 5)


def test_a_member_plans_in_its_own_model_however_many_problems_the_others_have(task, model):
    """Energies of an uneven batch equal those of each problem alone, fine and jumpy, with their gradients."""
    make = LatentProblems(model, task, 4, CPU)
    states = torch.tensor([[0, 3], [1, 5], [1, 9], [1, 2]])
    plans = torch.rand(4, 2, 9, 3, generator=noise()).softmax(-1)
    together = make(states, 9, 10**6, "softmin")
    for rollout in ("rollout", "coarse_rollout"):
        leaf = plans.clone().requires_grad_()
        energies = getattr(together, rollout)(leaf)
        energies.sum().backward()
        for row in range(4):
            alone = make(states[row : row + 1], 9, 10**6, "softmin")
            own = plans[row : row + 1].clone().requires_grad_()
            energy = getattr(alone, rollout)(own)
            energy.sum().backward()
            torch.testing.assert_close(energies[row : row + 1], energy)
            torch.testing.assert_close(leaf.grad[row], own.grad[0])
    start, chosen = make.latents[0, 3][None, None], plans[None, :1, 0]
    single = model.transition.rollout(start.expand(2, -1, -1), chosen.expand(2, -1, -1, -1))
    expected = model.energy(single, make.goals)[0, 0]  # member 0
    problem = make(states, 9, 10**6, "softmin")
    torch.testing.assert_close(problem._energies(plans)[0, 0], expected)


def test_rollouts_in_pieces_are_the_same(task, model, monkeypatch):
    make = LatentProblems(model, task, 4, CPU)
    states = torch.tensor([[0, 3], [1, 5]])
    plans = one_hot(torch.randint(3, (2, 10, 6), generator=noise()), 3)
    whole = make(states, 6, 10**6, "final").rollout(plans)
    monkeypatch.setattr("common.latent.problems.ROLLOUT_NUMBERS", 1)
    torch.testing.assert_close(make(states, 6, 10**6, "final").rollout(plans), whole)


def reachable(problem):
    """Everything that a planner could get at from a problem."""
    held, seen, found = [problem], set(), []
    while held:
        item = held.pop()
        if id(item) in seen or isinstance(item, (str, int, float, type, type(torch))):
            continue
        seen.add(id(item))
        found.append(item)
        if callable(item) and getattr(item, "__closure__", None):
            held += [cell.cell_contents for cell in item.__closure__]
        if hasattr(item, "__self__"):
            held.append(item.__self__)
        if isinstance(item, functools.partial):
            held += [item.func, *item.args, *item.keywords.values()]
        if hasattr(item, "__dict__"):
            held += list(vars(item).values())
        if isinstance(item, dict):
            held += list(item.values())
        if isinstance(item, (list, tuple, set)):
            held += list(item)
    return found


def leaks(problem, task):
    """The task, its world, a table of transitions, or true distances, under whatever name."""
    forbidden = [task.world.next_state, task.distance, task.distance[task.starts]]
    return [
        item
        for item in reachable(problem)
        if item is task or item is task.world
        or (torch.is_tensor(item) and any(item.shape == known.shape and torch.equal(item.to(known), known)
                                          for known in forbidden))
    ]  # fmt: skip


def test_a_planner_has_no_way_to_the_environment(task, model):
    make = LatentProblems(model, task, 4, CPU)
    states = torch.tensor([[0, 3]])
    assert not leaks(make(states, 5, 100, "softmin"), task)
    for planted in ({"task": task}, task.world.next_state.clone(), task.distance.clone().double()):
        make._ensemble.hidden = planted
        assert leaks(make(states, 5, 100, "softmin"), task), "a leak must be seen"


def planned_among(seeds, planner, mode, transition):
    """What evaluation finds for seed 0 among these seeds, every tensor [E, ...]."""
    config = dataclasses.replace(CONFIG, seeds=seeds, evaluations_per_step=24, num_episodes=5)
    task = make_task("Empty-5x5", config)
    features = task.observations.shape[-1]
    made = LatentModel(seeds, features, 3, d_latent=8, hidden_dim=16, transition=transition, strides=(4,))
    trial = Trial(
        task, LatentProblems(made.requires_grad_(False), task, 4, CPU), make_planner(planner), config,
        noise=lambda horizon: generators(seeds, f"planning/{horizon}"),
    )  # fmt: skip
    found = evaluate_planner(trial, mode, [5, 15])
    return [
        value[seeds.index(0)]
        for of_horizon in found.values()
        for name, value in of_horizon.items()
        if name != "milliseconds"
    ]


CASES = [*itertools.product(PLANNERS, ("open", "closed"), ("action_linear", "concat"))]
CASES += [(peer, "closed", "action_linear") for peer in PEERS]


@pytest.mark.parametrize(("planner", "mode", "transition"), CASES)
def test_seed_0_is_seed_0_in_any_company(planner, mode, transition):
    """To the bit: alone, first of three, between others; in closed loop their episodes end at other times."""
    alone = planned_among((0,), planner, mode, transition)
    for company in ((0, 1, 2), (2, 0, 1)):
        for own, beside in zip(alone, planned_among(company, planner, mode, transition), strict=True):
            assert torch.equal(own, beside), company


@pytest.mark.parametrize("candidates", [1, 3, 40])
@pytest.mark.parametrize("counts", [(3, 0, 5), (1, 2, 8), (2, 2, 2), (8, 4, 8), (8, 8, 8)])
def test_energies_of_a_member_are_the_same_to_the_bit_in_any_company(counts, candidates):
    """Where rounding would tell a padded batch of products from a member's own."""
    task = make_task("Empty-5x5", dataclasses.replace(CONFIG, seeds=(0, 1, 2)))
    made = LatentModel((0, 1, 2), task.observations.shape[-1], 3, d_latent=8, hidden_dim=16,
                       transition="action_linear", strides=(4,))  # fmt: skip
    make = LatentProblems(made.requires_grad_(False), task, 4, CPU)
    rows = [(member, 2 * place + member) for member, count in enumerate(counts) for place in range(count)]
    states = torch.tensor(rows)
    plans = torch.rand(len(rows), candidates, 8, 3, generator=noise()).softmax(-1).requires_grad_()
    for rollout in ("rollout", "coarse_rollout"):
        together = getattr(make(states, 8, 10**6, "softmin"), rollout)(plans)
        (slopes,) = torch.autograd.grad(together.sum(), plans)
        for member in states[:, 0].unique():
            own = states[:, 0] == member
            mine = plans.detach()[own].requires_grad_()
            alone = getattr(make(states[own], 8, 10**6, "softmin"), rollout)(mine)
            assert torch.equal(alone, together[own])
            assert torch.equal(torch.autograd.grad(alone.sum(), mine)[0], slopes[own])
            with torch.no_grad():
                chosen = one_hot(plans.argmax(-1), 3)
                discrete = [getattr(make(states[rows], 8, 10**6, "softmin"), rollout)(chosen[rows])
                            for rows in (own, own | True)]  # fmt: skip
            assert torch.equal(discrete[0], discrete[1][own])


def test_every_planner_and_peer_is_had_by_name_with_the_configurations_settings():
    config = dataclasses.replace(CONFIG, gumbel_tau=0.7)
    for name, planner in (PLANNERS | PEERS).items():
        made = configured_planner(name, config)
        assert type(made) is planner
        assert getattr(made, "tau", 0.7) == 0.7, name
    assert not PLANNERS.keys() & PEERS.keys()


def test_states_out_of_order_are_refused(task, model):
    with pytest.raises(ValueError, match="ordered by member"):
        LatentProblems(model, task, 4, CPU)(torch.tensor([[1, 3], [0, 5]]), 4, 100, "softmin")


def test_another_mode_is_refused(task):
    with pytest.raises(ValueError, match="mode"):
        evaluate(task, OracleProblems(task, 4, CPU), make_planner("cem"), "half-open", 4)
