"""Goals: when they are made, what they add, what each form of the loss moves, and what the numbers say."""

import dataclasses

import pytest
import torch
import torch.nn.functional as F

from common.config import EXP5_PRESETS
from common.recursion.model import HRM, Sizes, States
from common.recursion.rollout import everyone, roll_out
from common.run.cache import Checkpoint
from common.run.results import Results
from exp5_feudal_hrm.dataset import make_task
from exp5_feudal_hrm.evaluate_sweep import record_sweep, sweep_cells
from exp5_feudal_hrm.evaluate_variants import EvaluationGoals, goal_numbers, measure_variant, record_history
from exp5_feudal_hrm.feudal import CellFeudal, Feudal, FeudalVariant, GoalHead, make_feudal, random_goals
from exp5_feudal_hrm.models import FeudalHRM
from exp5_feudal_hrm.train_baseline import BaselineVariant, train_baseline
from exp5_feudal_hrm.train_feudal import feudal_variants, train_feudal

SIZES = Sizes(
    vocabulary=6, grid=(4, 4), width=8, heads=2, inner_multiple=8, layers_H=1, layers_L=1, position_axes=2
)
CONFIG = dataclasses.replace(
    EXP5_PRESETS["quick"], seeds=(0, 1), width=8, inner_multiple=8, iterations=8, batch_size=8, segments=4,
    manager_period=2, train_puzzles=24, test_puzzles=10, warmup=2,
)  # fmt: skip
CPU = torch.device("cpu")
ROWS = 5


@pytest.fixture(scope="module")
def task():
    return make_task("sudoku_4x4", CONFIG)


def head_of(width=8, goal_dim=8, gating=True):
    return GoalHead((0, 1), width, goal_dim, gating)


def states_of(stream, width=8):
    draw = torch.Generator().manual_seed(stream)
    return States(*torch.randn(2, 2, ROWS, 17, width, generator=draw))


def costs(stream):
    return torch.rand(2, ROWS, generator=torch.Generator().manual_seed(stream))


def random_weights(head):
    """A head whose every weight differs from zero, V included."""
    draw = torch.Generator().manual_seed(7)
    with torch.no_grad():
        for weight in head.parameters():
            weight.copy_(torch.randn(weight.shape, generator=draw))
    return head


def test_the_head_has_the_number_of_parameters_it_says():
    """W_g with bias, V, and the gate with bias; of one seed."""
    width, goal_dim = 32, 8
    counted = {
        gating: sum(p.numel() for p in GoalHead((0,), width, goal_dim, gating).parameters())
        for gating in (True, False)
    }
    assert counted[False] == goal_dim * (width + 1) + goal_dim * width
    assert counted[True] - counted[False] == width + 1
    assert sum(p.numel() for p in GoalHead((0,), 32, 32, True).parameters()) == 2113


def test_goals_are_unit_vectors_and_gates_lie_between_0_and_1():
    head, manager = random_weights(head_of(goal_dim=3)), states_of(0).z_H[:, :, 0]
    torch.testing.assert_close(head.goals(manager).norm(dim=-1), torch.ones(2, ROWS))
    gates = head.gates(manager)
    assert 0 < gates.min() < gates.max() < 1
    assert torch.equal(head_of(gating=False).gates(manager), torch.ones(2, ROWS))


def test_a_head_that_has_learned_nothing_changes_nothing():
    """V is zero at the start, so HRM with goals is HRM to the bit."""
    plain, feudal = HRM((0, 1), SIZES), FeudalHRM((0, 1), SIZES, 8, True)
    tokens = torch.randint(6, (2, ROWS, 16), generator=torch.Generator().manual_seed(0))
    goals = EvaluationGoals(feudal, "test", FeudalVariant(period=2), (0, 1), "own").begin(ROWS)
    ends = [
        list(roll_out(plain, plain.embed(tokens), 4)),
        list(roll_out(feudal, feudal.embed(tokens), 4, goals)),
    ]
    for own, guided in zip(*ends, strict=True):
        assert all(map(torch.equal, own, guided))


@pytest.mark.parametrize(("period", "made"), [(1, [1, 2, 3, 4, 5, 6]), (2, [1, 3, 5]), (4, [1, 5]), (9, [1])])
def test_a_goal_is_made_after_segment_1_and_every_period_from_there(period, made):
    feudal = Feudal(head_of(), period, ROWS)
    found = []
    for segment in range(1, 7):
        before = feudal.manager
        feudal.emit(states_of(segment), costs(segment))
        if not torch.equal(before, feudal.manager):
            found.append(segment)
            assert torch.equal(feudal.manager, states_of(segment).z_H[:, :, 0])
            assert torch.equal(feudal.anchor, states_of(segment).z_L.mean(2))
            assert torch.equal(feudal.cost, costs(segment))
    assert found == made
    assert torch.equal(feudal.emissions, torch.full((2, ROWS), len(made)))
    assert torch.equal(feudal.consumed, torch.full((2, ROWS), 5))


def test_a_new_puzzle_has_no_goal_and_its_period_begins_anew():
    feudal = Feudal(random_weights(head_of()), 2, ROWS)
    for segment in (1, 2):
        feudal.emit(states_of(segment), costs(segment))
    fresh = torch.zeros(2, ROWS, dtype=torch.bool)
    fresh[:, 0] = True
    feudal.reset(fresh)
    guide = feudal.guide()
    assert guide[:, 0].abs().max() == 0 and guide[:, 1:].abs().amin((0, 2)).min() > 0
    feudal.emit(states_of(3), costs(3))  # segment 1 of the first row, 3 of the others: a goal for all
    assert feudal.emissions[0].tolist() == [1, 2, 2, 2, 2] and feudal.consumed[0].tolist() == [0, 2, 2, 2, 2]
    feudal.emit(states_of(4), costs(4))
    assert torch.equal(feudal.manager, states_of(3).z_H[:, :, 0])


def after_one_segment(head, form_of_goals="own", period=4):
    feudal = Feudal(head, period, ROWS, goals=form_of_goals)
    feudal.emit(states_of(1), costs(1))
    return feudal


def test_what_both_levels_get_is_gate_times_V_times_goal(float64):
    head = random_weights(head_of(goal_dim=3))
    feudal = after_one_segment(head)
    goal, gate = head.goals(states_of(1).z_H[:, :, 0]), head.gates(states_of(1).z_H[:, :, 0])
    expected = gate[..., None] * torch.einsum("sbg,sgd->sbd", goal, head.inject.weight)
    torch.testing.assert_close(feudal.guide()[:, :, 0], expected)
    swapped, off = after_one_segment(head, "swapped"), after_one_segment(head, "off")
    expected = gate[..., None] * torch.einsum("sbg,sgd->sbd", goal.roll(1, 1), head.inject.weight)
    torch.testing.assert_close(swapped.guide()[:, :, 0], expected)
    assert off.guide() is None


def test_goals_have_gradients_from_the_answer_alone(task):
    """W_g, the gate and V learn from cross-entropy, for the goal is worked out anew in every segment."""
    model = FeudalHRM((0, 1), SIZES, 8, True)
    random_weights(model.head)
    batch = everyone(task.test, 2, CPU)
    feudal = Feudal(model.head, 4, len(task.test))
    states = model.initial(len(task.test))
    for _ in range(3):  # the goal of segment 1 is used in a second and a third segment
        model.zero_grad()
        states = model.segment(states, model.embed(batch.inputs), feudal.guide())
        logits, _ = model.read(states)
        loss = F.cross_entropy(logits.flatten(0, 2), batch.labels.flatten())
        if feudal.held.any():
            loss.backward()
            for weight in (model.head.goal.weight, model.head.gate, model.head.inject.weight):
                assert weight.grad.flatten(1).norm(dim=1).min() > 1e-6
        feudal.emit(states, feudal.cost)


def slopes(form, name):
    """Gradient of a form's loss by a named quantity, or None."""
    head = random_weights(head_of())
    feudal = after_one_segment(head)
    ended = States(*(state.requires_grad_() for state in states_of(2)))
    feudal.losses(ended, costs(2), form)["feudal_loss"].sum().backward()
    return {"worker": ended.z_L, "manager": head.goal.weight, "gate": head.gate}[name].grad


@pytest.mark.parametrize(
    ("form", "moved"),
    [
        ("directional", {"worker", "manager"}),
        ("predict", {"manager"}),
        ("naive", {"worker", "manager", "gate"}),
        ("contrastive", {"manager"}),
    ],
)
def test_each_form_moves_what_it_says(form, moved):
    for name in ("worker", "manager", "gate"):
        slope = slopes(form, name)
        assert (slope is not None and slope.abs().max() > 0) == (name in moved), name


def test_the_directional_loss_is_its_formula(float64):
    head = random_weights(head_of(goal_dim=3))
    feudal = after_one_segment(head)
    feudal.held[:, 0] = False
    before, after = states_of(1), states_of(2)
    manager = before.z_H[:, :, 0]
    goal, gate = head.goals(manager), head.gates(manager)
    moved = torch.einsum("sbd,sdg->sbg", after.z_L.mean(2) - before.z_L.mean(2), head.projection)
    cosine = (F.normalize(moved, dim=-1) * goal).sum(-1)[:, 1:]
    drop = (costs(1) - costs(2))[:, 1:]
    advantage = (drop - drop.mean(1, keepdim=True)) / drop.std(1, keepdim=True, correction=0)
    expected = (gate[:, 1:] * (1 - cosine) - 0.1 * advantage * cosine).mean(1)
    found = feudal.losses(after, costs(2), "directional")
    torch.testing.assert_close(found["feudal_loss"], expected)
    torch.testing.assert_close(found["cosine"], cosine.mean(1))


def test_the_contrastive_loss_is_a_classification_of_puzzles(float64):
    """Cross-entropy over cosines, of the rows that have a goal; one goal for all costs log B."""
    head = random_weights(head_of())
    feudal = after_one_segment(head)
    feudal.held[:, 0] = False
    goal = head.goals(states_of(1).z_H[:, :, 0])[:, 1:]
    moved = F.normalize(states_of(2).z_L.mean(2) - states_of(1).z_L.mean(2), dim=-1)[:, 1:]
    likeness = torch.einsum("sig,sjg->sij", goal, moved) / 0.1
    expected = torch.stack([F.cross_entropy(member, torch.arange(ROWS - 1)) for member in likeness])
    found = feudal.losses(states_of(2), costs(2), "contrastive")["feudal_loss"]
    torch.testing.assert_close(found, expected)
    head.goal.weight.data.zero_()
    moved_alike = States(states_of(2).z_H, feudal.anchor[:, :, None] + torch.ones(8))
    found = feudal.losses(moved_alike, costs(2), "contrastive")["feudal_loss"]
    torch.testing.assert_close(found, torch.full((2,), ROWS - 1.0).log())


def test_a_detached_goal_leaves_the_manager_to_its_own_loss():
    head = random_weights(head_of())
    feudal = make_feudal(head, FeudalVariant(detached=True), ROWS, 17)
    feudal.emit(states_of(1), costs(1))
    goal = head.goals(states_of(1).z_H[:, :, 0])
    torch.testing.assert_close(feudal.goal()[0], goal)
    feudal.guide().square().sum().backward()
    assert head.goal.weight.grad is None and head.inject.weight.grad.abs().max() > 0
    feudal.losses(states_of(2), costs(2), "predict")["feudal_loss"].sum().backward()
    assert head.goal.weight.grad.abs().max() > 0


@pytest.mark.parametrize("way", ["own", "swapped"])
def test_goals_of_cells_are_goals_of_puzzles_of_one_position(way):
    """Position n of every puzzle behaves as a puzzle whose only position it is."""
    head = random_weights(head_of())
    variant = FeudalVariant(period=2, form="predict", cells=True)
    cells = make_feudal(head, variant, ROWS, 17, way)
    assert isinstance(cells, CellFeudal)
    singles = [Feudal(head, 2, ROWS, goals=way) for _ in range(17)]
    fresh = torch.zeros(2, ROWS, dtype=torch.bool)
    fresh[0, 3] = True
    for segment in range(1, 5):
        states = states_of(segment)
        parts = [States(*(state[:, :, n : n + 1] for state in states)) for n in range(17)]
        loss = cells.losses(states, costs(segment), "predict")["feudal_loss"]
        each = [one.losses(part, costs(segment), "predict") for one, part in zip(singles, parts, strict=True)]
        torch.testing.assert_close(loss, torch.stack([one["feudal_loss"] for one in each]).mean(0))
        cells.emit(states, costs(segment))
        for one, part in zip(singles, parts, strict=True):
            one.emit(part, costs(segment))
        if segment == 2:
            for one in (cells, *singles):
                one.reset(fresh)
        torch.testing.assert_close(cells.guide(), torch.cat([one.guide() for one in singles], 2))
    for name, count in cells.counts().items():
        assert torch.equal(count, singles[0].counts()[name])


def test_without_goals_there_is_no_loss():
    feudal = Feudal(head_of(), 4, ROWS)
    found = feudal.losses(states_of(1), costs(1), "directional")
    assert all(torch.equal(value, torch.zeros(2)) for value in found.values())


def test_following_a_goal_lowers_the_directional_loss():
    feudal = after_one_segment(random_weights(head_of()))
    goal, _ = feudal.goal()
    anchor = states_of(1).z_L

    def loss(direction):
        ended = States(states_of(1).z_H, anchor + direction * goal[:, :, None])
        return feudal.losses(ended, costs(1), "directional")["feudal_loss"]

    assert (loss(1.0) < 1e-5).all() and (loss(-1.0) > 0.1).all()


def test_goals_that_nobody_chose_are_the_same_in_any_company():
    together, alone = random_goals((0, 1), "test", 4, 8), random_goals((1,), "test", 4, 8)
    assert torch.equal(together[1:], alone)
    torch.testing.assert_close(together.norm(dim=-1), torch.ones(2, 4))


def test_a_memory_goes_on_from_its_state():
    feudal = after_one_segment(random_weights(head_of()))
    other = Feudal(feudal.head, 4, ROWS)
    other.load_state_dict(feudal.state_dict())
    for each in (feudal, other):
        each.emit(states_of(2), costs(2))
    assert torch.equal(feudal.guide(), other.guide())
    assert torch.equal(feudal.consumed, other.consumed)


# --- what the numbers say --------------------------------------------------------------------------


def record_of(goal, moved):
    return {"goal": [goal], "moved": [moved], "gate": [torch.ones(goal.shape[:2])]}


def test_goals_that_tell_puzzles_apart_are_told_from_one_goal_for_all():
    draw = torch.Generator().manual_seed(0)
    own = F.normalize(torch.randn(2, 200, 8, generator=draw), dim=-1)
    found = goal_numbers(record_of(own, 3 * own))
    assert found["cosine"].min() > 0.999 and found["cosine_centred"].min() > 0.9
    assert found["cosine_swapped"].abs().max() < 0.1 and found["spread"].min() > 0.8
    one = F.normalize(torch.ones(2, 200, 8) + 0.1 * torch.randn(2, 200, 8, generator=draw), dim=-1)
    moved = torch.ones(2, 200, 8) + 0.1 * torch.randn(2, 200, 8, generator=draw)
    found = goal_numbers(record_of(one, moved))
    assert found["cosine"].min() > 0.95 and (found["cosine"] - found["cosine_swapped"]).abs().max() < 0.01
    assert (found["cosine_constant"] >= found["cosine"]).all()
    assert found["cosine_centred"].abs().max() < 0.1 and found["spread"].max() < 0.05


# --- trainings -------------------------------------------------------------------------------------


def weights_equal(first, second):
    pairs = zip(first.state_dict().values(), second.state_dict().values(), strict=True)
    return all(torch.equal(*pair) for pair in pairs)


@pytest.mark.parametrize("name", ["directional", "random_goals", "naive"])
def test_a_killed_training_goes_on_to_the_bit(task, tmp_path, one_thread, monkeypatch, name):
    variant = feudal_variants(CONFIG)[name]
    expected, history = train_feudal(task, variant=variant, config=CONFIG, device=CPU)
    checkpoint = Checkpoint(tmp_path / "a.pt", "mark", every=3)
    losses, calls = Feudal.losses, []

    def dying(self, *inputs):
        calls.append(0)
        if len(calls) == 6:
            raise KeyboardInterrupt
        return losses(self, *inputs)

    monkeypatch.setattr(Feudal, "losses", dying)
    with pytest.raises(KeyboardInterrupt):
        train_feudal(task, variant=variant, config=CONFIG, device=CPU, checkpoint=checkpoint)
    found, own = train_feudal(task, variant=variant, config=CONFIG, device=CPU, checkpoint=checkpoint)
    assert weights_equal(found, expected)
    assert all(torch.equal(own[term], history[term]) for term in history if term != "seconds")


@pytest.mark.parametrize("name", ["directional", "random_goals"])
def test_seed_0_is_seed_0_in_any_company_to_the_bit(one_thread, task, name):
    config = dataclasses.replace(CONFIG, width=32, inner_multiple=32, batch_size=16, iterations=4)
    variant = feudal_variants(config)[name]
    together, alone = (
        train_feudal(task, variant=variant, config=dataclasses.replace(config, seeds=seeds), device=CPU)[0]
        for seeds in ((2, 0, 1), (0,))
    )
    for (name, whole), own in zip(together.state_dict().items(), alone.state_dict().values(), strict=True):
        assert torch.equal(whole[1], own[0]), name


def test_variants_begin_alike_and_see_the_same_puzzles(task):
    """Before V has moved, an untrained goal changes nothing: the first losses are the baseline's."""
    one = dataclasses.replace(CONFIG, iterations=1)
    _, plain = train_baseline(task, variant=BaselineVariant(), config=one, device=CPU)
    for name, variant in feudal_variants(CONFIG).items():
        _, history = train_feudal(task, variant=variant, config=one, device=CPU)
        assert torch.equal(history["train/lm_loss"], plain["train/lm_loss"]), name


def test_history_has_the_documents_names(task):
    _, history = train_feudal(task, variant=feudal_variants(CONFIG)["directional"], config=CONFIG, device=CPU)
    for name in ("lm_loss", "feudal_loss", "accuracy", "exact_accuracy", "steps", "emissions", "consumed"):
        assert history[f"train/{name}"].shape == (8, 2), name
    weighted = history["train/lm_loss"] + 0.5 * history["train/q_loss"] + 0.1 * history["train/feudal_loss"]
    torch.testing.assert_close(history["loss"], weighted)


def test_a_measurement_has_every_number_of_goals(task):
    model = FeudalHRM((0, 1), SIZES, 8, True)
    random_weights(model.head)
    variant = FeudalVariant(period=2)
    found = measure_variant(task, model, variant, config=CONFIG, device=CPU)
    assert found["exact"].shape == (2, 10, 4) and found["steps"].shape == (2, 10)
    plain = measure_variant(task, model, BaselineVariant(), config=CONFIG, device=CPU)
    assert torch.equal(plain["exact"][..., -1], found["exact_off"])
    for name in ("cosine", "cosine_centred", "cosine_constant", "cosine_swapped", "gate"):
        assert torch.isfinite(found[f"goals/{name}"]).all()


def test_small_goals_train_through_a_fixed_projection(task):
    config = dataclasses.replace(CONFIG, goal_dim=3, gating=False)
    before = GoalHead(config.seeds, 8, 3, False).projection
    model, _ = train_feudal(task, variant=feudal_variants(config)["directional"], config=config, device=CPU)
    assert torch.equal(model.head.projection, before) and model.head.gate is None


# --- the sweep's verdict ---------------------------------------------------------------------------


def sweep_of(exact_of):
    """Recorded gains where settings have these exact accuracies."""
    config = dataclasses.replace(
        EXP5_PRESETS["quick"], seeds=tuple(range(6)), weight_sweep=(0.01, 0.1, 0.5), period_sweep=(1, 4, 8)
    )
    draw = torch.Generator().manual_seed(1)

    def answers(mean):
        seeds = (mean + 0.02 * torch.randn(6, 1, generator=draw)).clamp(0, 1)
        return (torch.rand(6, 400, generator=draw) < seeds).float()

    results = Results("test", config.seeds)
    measured = {name: {"exact": answers(0.5)[..., None]} for name in ("baseline", "head")}
    record_sweep(results, config, {cell: answers(exact_of(cell)) for cell in sweep_cells(config)}, measured)
    return results.metrics


def test_a_best_setting_is_found_where_there_is_one_and_not_in_noise():
    real = sweep_of(lambda cell: 0.7 if cell == (0.1, 4) else 0.5)
    assert real["sweep/best_weight/gain"]["interval95"][0] > 0.1
    assert real["sweep/best_period/gain"]["interval95"][0] > 0.1
    noise = sweep_of(lambda cell: 0.5)
    assert noise["sweep/best_weight/gain"]["interval95"][0] < 0
    assert noise["sweep/best_period/gain"]["interval95"][0] < 0


def test_the_change_of_the_feudal_loss_leaves_out_steps_without_goals():
    """Ten points a tenth; in every second early one no row has a goal, and the loss is recorded as 0."""
    results = Results("test", (0, 1))
    points = torch.arange(100)
    gate = torch.ones(100, 2)
    gate[:10:2] = 0
    loss = torch.where(points[:, None] < 50, torch.tensor([0.8, 0.6]), torch.tensor([0.5, 0.7])) * (gate > 0)
    for name, weight in (("directional", 1.0), ("head", 0.0)):
        history = {"feudal_loss": loss * weight, "gate": gate, "emissions": gate, "consumed": gate}
        for term, values in history.items():
            results.add_array(f"task/{name}/history/train/{term}", values)
    record_history(results, "task", ["baseline", "directional", "head"])
    expected = pytest.approx([-0.3, 0.1])
    assert results.metrics["task/directional/feudal/loss_change"]["values"] == expected
    assert results.metrics["task/directional_minus_head/feudal/loss_change"]["values"] == expected
    assert results.metrics["task/head/feudal/consumed"]["values"] == [1.0, 1.0]
