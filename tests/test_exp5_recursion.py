"""The recursion as a rollout, its gradients and its halting against closed forms and brute force."""

import dataclasses
import itertools
import math

import pytest
import torch
from torch import nn

from common.config import EXP5_PRESETS
from common.recursion.carry import Halting
from common.recursion.losses import cross_entropy
from common.recursion.model import HRM, RecursiveModel, Sizes, States
from common.recursion.rollout import evaluate, everyone
from common.run.results import Results
from exp5_feudal_hrm import evaluate_recursion
from exp5_feudal_hrm.analyze_halting import (
    choose_thresholds,
    halted_at,
    halting_curve,
    record_foretelling,
    record_halting,
    record_q_rule,
    signals_of,
)
from exp5_feudal_hrm.analyze_recursion import (
    median_over,
    record_gradients,
    record_longer_gradients,
    record_recursion,
)
from exp5_feudal_hrm.dataset import make_task
from exp5_feudal_hrm.evaluate_recursion import (
    choose_puzzles,
    cost_gradient,
    first_puzzles,
    growth,
    log10_jacobian,
    measure_gradients,
    measure_recursion,
    measure_singular_values,
    reported,
    sample_puzzles,
    segment_step,
    state_size,
)
from exp5_feudal_hrm.evaluate_variants import make_goals
from exp5_feudal_hrm.feudal import FeudalVariant
from exp5_feudal_hrm.models import FeudalHRM
from exp5_feudal_hrm.train_baseline import BaselineVariant

SIZES = Sizes(
    vocabulary=6, grid=(4, 4), width=8, heads=2, inner_multiple=8, layers_H=1, layers_L=1, position_axes=2
)
CONFIG = dataclasses.replace(
    EXP5_PRESETS["quick"], seeds=(0, 1), recursion_puzzles=6, gradient_puzzles=4, tangents=2, segments=4,
    train_puzzles=12, test_puzzles=8,
)  # fmt: skip
GIVEN = {"config": CONFIG, "device": torch.device("cpu")}
RADIUS = 0.8
PLAIN = BaselineVariant()


@pytest.fixture(scope="module")
def task():
    return make_task("sudoku_4x4", CONFIG)


class LinearRecursion(RecursiveModel):
    """z -> A z in every member, with a matrix whose norm is well above its spectral radius."""

    def _make_levels(self, draws):
        size = 2 * (self.sizes.prefix + self.sizes.cells) * self.sizes.width
        draw = torch.Generator().manual_seed(3)
        values = RADIUS * torch.cat([torch.ones(1), 0.9 * torch.rand(size - 1, generator=draw)])
        matrix = torch.diag(values) + torch.triu(torch.randn(size, size, generator=draw), 1) / size
        matrix[0, -1] = 3.0
        self.matrix = nn.Parameter(matrix.double())

    def segment(self, states, injected, guide=None, gradient="one_step"):
        flat = states.flatten()
        return States.unflatten(flat @ self.matrix.mT.to(flat.dtype), self.sizes.width)


@pytest.fixture
def linear(float64):
    return LinearRecursion((0, 1), SIZES).requires_grad_(False)


def hrm(kind=HRM, *more, **changes):
    return kind((0, 1), dataclasses.replace(SIZES, **changes), *more).requires_grad_(False)


# --- the recursion as a rollout ------------------------------------------------------------------------


def test_a_linear_recursion_has_its_closed_form(task, linear):
    config = dataclasses.replace(CONFIG, tangents=30, recursion_puzzles=4)
    measured = measure_recursion(task, linear, PLAIN, "test", 9, config=config, device=torch.device("cpu"))
    power, state, size = torch.eye(state_size(linear)), linear.initial(4).flatten(), state_size(linear)
    found = log10_jacobian(measured["log_tangent"], size).mean(1)  # [S, K]
    for k in range(9):
        before, state, power = state, state @ linear.matrix.mT, linear.matrix @ power
        residual = (state - before).norm(dim=-1) / state.norm(dim=-1)
        torch.testing.assert_close(measured["residual"][:, :, k], residual)
        exact = math.log10(float(power.norm()) / size**0.5)
        torch.testing.assert_close(found[:, k], torch.full((2,), exact), atol=0.03, rtol=0)


def test_growth_tends_to_ln_of_the_spectral_radius(task, linear):
    measured = measure_recursion(task, linear, PLAIN, "test", 80, **GIVEN)
    found = growth(measured["log_tangent"])
    torch.testing.assert_close(found, torch.full_like(found, math.log(RADIUS)), atol=0.01, rtol=0)


def test_a_linear_recursion_has_its_matrix_largest_singular_value(task, linear):
    found = measure_singular_values(task, linear, PLAIN, (1, 3), **GIVEN)["singular_value"]
    exact = float(torch.linalg.matrix_norm(linear.matrix, 2))
    assert exact > 1 > RADIUS
    assert found.shape == (2, 4, 2)
    torch.testing.assert_close(found, torch.full_like(found, exact), rtol=0.02, atol=0)


@pytest.mark.parametrize(
    "variant", [PLAIN, FeudalVariant(period=2, random_goals=True), FeudalVariant(period=2, cells=True)]
)
def test_the_followed_recursion_gives_the_answers_of_the_evaluation(task, variant):
    model = hrm() if variant is PLAIN else hrm(FeudalHRM, 8, True)
    if variant is not PLAIN:
        model.head.inject.weight.copy_(torch.randn(2, 8, 8, generator=torch.Generator().manual_seed(0)))
    goals = make_goals(task, model, variant, CONFIG.seeds)
    batch = everyone(task.test.select(torch.arange(6)), 2, torch.device("cpu"))
    expected = evaluate(model, batch, 5, goals and goals.begin)
    found = measure_recursion(task, model, variant, "test", 5, **GIVEN)
    assert torch.equal(found["exact"], expected["exact"])
    torch.testing.assert_close(found["q"], expected["q"])


def test_a_seed_measures_the_same_in_every_company_and_block(task, monkeypatch):
    model, config = hrm(), dataclasses.replace(CONFIG, seeds=(1,))
    whole = measure_recursion(task, model, PLAIN, "test", 3, **GIVEN)
    monkeypatch.setattr(evaluate_recursion, "AT_ONCE", 1)
    blocks = measure_recursion(task, model, PLAIN, "test", 3, **GIVEN)
    alone = HRM((1,), SIZES).requires_grad_(False)
    single = measure_recursion(task, alone, PLAIN, "test", 3, config=config, device=torch.device("cpu"))
    for name, values in whole.items():
        torch.testing.assert_close(blocks[name], values)
        torch.testing.assert_close(single[name], values[1:])


# --- gradients -------------------------------------------------------------------------------------------


def test_the_one_step_gradient_is_the_segments_where_a_segment_is_one_step(task):
    model = hrm(cycles_H=1, cycles_L=1)
    measured = measure_gradients(task, model, (1, 3), **GIVEN)
    ones = torch.ones(2)
    for quantity in ("cosine", "ratio"):
        for values in (*measured[f"{quantity}/segment"], measured[f"{quantity}/all"][0]):
            torch.testing.assert_close(values, ones)
        assert not torch.allclose(measured[f"{quantity}/all"][1], ones, atol=0.05)


def test_the_gradient_through_all_segments_is_the_derivative(task, float64):
    """Against a central difference along a random direction; the one-step gradient is not."""
    model = hrm().requires_grad_(True)
    batch = first_puzzles(task, "train", 3, model, torch.device("cpu"))
    draw = torch.Generator().manual_seed(0)
    directions = [torch.randn(weight.shape, generator=draw) for weight in model.parameters()]

    @torch.no_grad()
    def cost(step):
        """[S], after three segments, with the weights moved by so much."""
        for weight, direction in zip(model.parameters(), directions, strict=True):
            weight += step * direction
        states, injected = model.initial(3), model.embed_puzzles(batch.inputs, batch.identifiers)
        for _ in range(3):
            states = model.segment(states, injected)
        found = cross_entropy(model.read(states)[0], batch.labels).mean(1)
        for weight, direction in zip(model.parameters(), directions, strict=True):
            weight -= step * direction
        return found

    slope = (cost(1e-6) - cost(-1e-6)) / 2e-6
    flat = torch.cat([direction.flatten(1) for direction in directions], 1)
    along = {
        gradient: (cost_gradient(model, batch, 3, gradient) * flat).sum(1) for gradient in ("all", "one_step")
    }
    torch.testing.assert_close(along["all"], slope, rtol=1e-4, atol=1e-6)
    assert ((along["one_step"] - slope).abs() > 1e-3).all()


# --- puzzles to look at ----------------------------------------------------------------------------------


def test_the_shown_puzzles_are_one_solved_late_and_one_unsolved():
    exact = torch.tensor([[0, 1, 1], [0, 0, 0], [0, 0, 1], [1, 0, 1]], dtype=torch.bool)
    assert choose_puzzles(exact) == {"solved": 2, "unsolved": 1}
    assert choose_puzzles(exact[:1]) == {"solved": 0}
    assert choose_puzzles(exact[1:2]) == {"unsolved": 0}


def test_a_shown_puzzle_has_its_answers_after_every_segment(task):
    model = hrm()
    measured = measure_recursion(task, model, PLAIN, "test", 4, **GIVEN)
    found = sample_puzzles(task, model, measured, **GIVEN)
    row = choose_puzzles(measured["exact"][0])["unsolved"]
    assert torch.equal(found["unsolved/labels"], task.test.labels[row])
    assert found["unsolved/answers"].shape == found["unsolved/probabilities"].shape == (4, 16)
    right = (found["unsolved/answers"] == found["unsolved/labels"]).all(-1)
    assert torch.equal(right, measured["exact"][0, row])
    assert 1 / 6 <= found["unsolved/probabilities"].min() < found["unsolved/probabilities"].max() <= 1


# --- when to halt ----------------------------------------------------------------------------------------


def random_signal(seed, puzzles=12, segments=5):
    """Whole numbers, so with ties."""
    draw = torch.Generator().manual_seed(seed)
    return torch.randint(7, (puzzles, segments), generator=draw).double()


def test_a_puzzle_halts_where_its_signal_first_reaches_the_threshold():
    signal = torch.tensor([[0.0, 2.0, 1.0], [1.0, 0.0, 0.0], [0.0, 0.0, 0.0]])
    at = halted_at(signal, torch.tensor([-math.inf, 1.0, 2.0, math.inf]))
    assert at.tolist() == [[1, 1, 1], [2, 1, 3], [2, 3, 3], [3, 3, 3]]


def test_a_threshold_is_the_largest_within_the_budget():
    signal, budgets = random_signal(0), torch.linspace(1, 5, 17, dtype=torch.float64)
    chosen = choose_thresholds(signal, budgets)
    for threshold, budget in zip(chosen, budgets, strict=True):
        assert halted_at(signal, threshold[None]).double().mean() <= budget
        above = [float(value) for value in (*signal.flatten(), math.inf) if value > threshold]
        if above:
            assert halted_at(signal, torch.tensor([min(above)])).double().mean() > budget
    assert chosen[0] == -math.inf or halted_at(signal, chosen[:1]).double().mean() == 1
    assert chosen[-1] == math.inf


def test_the_curve_is_of_held_out_puzzles_at_thresholds_of_training_puzzles():
    training, held_out = random_signal(1), random_signal(2)
    exact = random_signal(3) > 3
    budgets = torch.tensor([1.0, 2.5, 5.0], dtype=torch.float64)
    spent, right = halting_curve(training, held_out, exact, budgets)
    for index, threshold in enumerate(choose_thresholds(training, budgets)):
        at = [next((k for k in range(4) if row[k] >= threshold), 4) for row in held_out]
        assert float(spent[index]) == pytest.approx(sum(at) / 12 + 1)
        assert float(right[index]) == pytest.approx(sum(bool(exact[e, k]) for e, k in enumerate(at)) / 12)
    assert (spent[0], spent[-1]) == (1, 5)


def recorded_halting(signal, exact):
    results = Results("test", (0, 1))
    record_halting(results, "p", {"q": signal}, {"q": signal}, exact)
    return {name: entry["mean"] for name, entry in results.metrics.items()}


def test_a_signal_that_knows_beats_a_fixed_number_and_noise_does_not():
    """Half of the puzzles are right from segment 2 on, the others only at the last of 6."""
    exact = torch.zeros(2, 40, 6, dtype=torch.bool)
    exact[:, :20, 1:], exact[:, :, 5] = True, True
    knowing = recorded_halting(exact.double(), exact)
    assert knowing["p/halting/fixed/exact/segments=4"] == 0.5
    assert knowing["p/halting/q/exact/segments=4"] == 1.0  # half at 2 and half at 6
    assert knowing["p/halting/q_minus_fixed/exact"] > 0.2
    draw = torch.Generator().manual_seed(0)
    noise = recorded_halting(torch.rand(2, 40, 6, generator=draw), exact)
    assert abs(noise["p/halting/q_minus_fixed/exact"]) < 0.12


def test_a_signal_that_counts_segments_is_the_fixed_number():
    exact = torch.rand(2, 30, 5, generator=torch.Generator().manual_seed(0)) < 0.5
    counting = torch.arange(5.0).expand(2, 30, 5)
    found = recorded_halting(counting, exact)
    assert found["p/halting/q_minus_fixed/exact"] == pytest.approx(0, abs=1e-12)


def test_signals_and_the_q_heads_own_rule():
    q = torch.tensor([[[[-1.0, 0.0], [1.0, 0.0], [2.0, 0.0]], [[-1.0, 0.0]] * 3]])  # [1, 2, 3, 2]
    exact = torch.tensor([[[False, False, True], [False, False, True]]])
    measured = {"q": q, "residual": torch.ones(1, 2, 3), "log_tangent": torch.zeros(1, 2, 3, 1)}
    signals = signals_of(measured, 2, 100, Halting(3, with_continuation=True))
    assert torch.equal(signals["q"], q[:, :, :2, 0])
    assert torch.equal(signals["residual"], -torch.ones(1, 2, 2))
    torch.testing.assert_close(signals["jacobian"], torch.ones(1, 2, 2))  # a norm of 1 / sqrt(100)
    results = Results("test", (0,))
    record_q_rule(results, "p", q, exact, Halting(3, with_continuation=True))
    assert results.metrics["p/halting/q_rule/segments"]["mean"] == 2.5
    assert results.metrics["p/halting/q_rule/exact"]["mean"] == 0.5


def test_foretelling_is_of_the_final_answer_and_of_the_present_one():
    exact = torch.zeros(1, 4, 3, dtype=torch.bool)
    exact[0, :2, 2] = exact[0, 2, 0] = True  # two are right in the end, a third at the start alone
    signal = torch.tensor([4.0, 3.0, 9.0, 1.0])[None, :, None].expand(1, 4, 2)
    results = Results("test", (0,))
    record_foretelling(results, "p", {"q": signal}, exact)
    found = {name: entry["mean"] for name, entry in results.metrics.items()}
    assert found["p/auroc/q/final/segment=1"] == 0.5  # above one of two in each case
    assert found["p/auroc/q/now/segment=1"] == 1.0
    assert "p/auroc/q/now/segment=2" not in found  # none is right


# --- from arrays to metrics ------------------------------------------------------------------------------


def followed(solved, residual, slope, segments=8):
    """A measurement of puzzles whose tangents grow by `slope` a segment, of one seed."""
    count = len(solved)
    exact = torch.tensor(solved)[None, :, None].expand(1, count, segments)
    log_tangent = torch.tensor(slope)[None, :, None] * torch.arange(1.0, segments + 1)
    return {
        "exact": exact,
        "residual": torch.tensor(residual)[None, :, None].expand(1, count, segments),
        "log_tangent": log_tangent[..., None],
    }


def test_medians_are_over_the_chosen_puzzles():
    values, rows = torch.tensor([[[1.0], [5.0], [3.0], [9.0]]]), torch.tensor([[True, True, True, False]])
    assert median_over(values, rows).tolist() == [[3.0]]
    assert math.isnan(float(median_over(values, torch.zeros(1, 4, dtype=torch.bool))))


def test_solved_and_unsolved_puzzles_are_told_apart():
    residuals, slopes = [0.0, 0.0, 1e-4, 1e-4, 0.5], [-1.0, -1.0, -0.5, -0.5, -0.5]
    measured = followed([True, True, False, False, False], residuals, slopes)
    singular = torch.tensor([2.0, 2.0, 3.0, 4.0, 5.0])[None, :, None].expand(1, 5, 3)
    results = Results("test", (0,))
    record_recursion(results, "p", measured, 1, singular)
    found = {name.removeprefix("p/recursion/"): entry["mean"] for name, entry in results.metrics.items()}
    assert found["solved"] == pytest.approx(0.4)
    assert (found["growth/solved"], found["growth/unsolved"]) == (-1.0, -0.5)
    assert (found["fixed_point"], found["wrong_fixed_point"]) == (1.0, pytest.approx(2 / 3))
    assert found["residual/unsolved/segment=8"] == pytest.approx(1e-4)
    assert found["log10_jacobian/unsolved_minus_solved/T=4"] == pytest.approx(2 / math.log(10))
    assert (found["singular_value/solved"], found["singular_value/unsolved"]) == (2.0, 4.0)
    assert found["singular_value/segment=4"] == 3.0


def test_where_all_puzzles_are_solved_the_unsolved_have_no_number():
    results = Results("test", (0,))
    measured = followed([True, True], [0.0, 0.0], [-1.0, -1.0])
    record_recursion(results, "p", measured, 1, torch.ones(1, 2, 3))
    assert "p/recursion/growth/solved" in results.metrics
    assert not [name for name in results.metrics if "unsolved" in name or "wrong" in name]


def test_longer_gradients_are_compared_where_both_models_solve():
    short = followed([True, True, False], [1e-2, 1e-2, 1.0], [-0.5, -0.5, 3.0])
    longer = followed([True, False, True], [1e-4, 1.0, 1.0], [-1.0, 3.0, 3.0])
    results = Results("test", (0,))
    record_longer_gradients(results, "t", short, longer, 1)
    prefix = "t/baseline_segment_minus_baseline/recursion"
    assert results.metrics[f"{prefix}/log10_residual/segment=8"]["mean"] == pytest.approx(-2, abs=1e-5)
    assert results.metrics[f"{prefix}/growth"]["mean"] == pytest.approx(-0.5)
    jacobian = results.metrics[f"{prefix}/log10_jacobian/segment=4"]["mean"]
    assert jacobian == pytest.approx(-2 / math.log(10), rel=1e-5)


def test_gradients_are_recorded_by_segment_and_seed():
    rows = {
        f"{a}/{b}": torch.rand(2, 3) for a, b in itertools.product(("cosine", "ratio"), ("segment", "all"))
    }
    results = Results("test", (0, 1, 2))
    record_gradients(results, "t/baseline", rows, (1, 4))
    values = results.metrics["t/baseline/gradient_cosine/all/segment=4"]["values"]
    assert values == pytest.approx(rows["cosine/all"][1].tolist())


def test_reported_segments_end_with_the_last():
    assert reported(48) == [1, 2, 4, 8, 16, 32, 48]
    assert reported(6) == [1, 2, 4, 6]
    assert reported(1) == [1]


def test_a_segments_flat_step_is_the_models_segment(task):
    model = hrm()
    batch = first_puzzles(task, "test", 3, model, torch.device("cpu"))
    injected, states = model.embed_puzzles(batch.inputs, batch.identifiers), model.initial(3)
    flat = segment_step(model)(states.flatten(), injected.flatten(2))
    assert torch.equal(flat, model.segment(states, injected).flatten())
