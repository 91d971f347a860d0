"""Carry and halting, losses, the average of weights, and a training of them all: resumed to the bit."""

import dataclasses

import pytest
import torch
import torch.nn.functional as F

from common.config import RecursionConfig
from common.recursion.average import WeightAverage
from common.recursion.carry import Carry, Halting
from common.recursion.losses import cross_entropy, halting_loss, judge, log_stablemax
from common.recursion.model import HRM, Sizes
from common.recursion.puzzles.task import Batch
from common.recursion.rollout import evaluate, halting_segment
from common.recursion.training import SegmentRunner, Tally, fit_recursive, halting_of
from common.run.cache import Checkpoint
from common.run.random import generators

SIZES = Sizes(
    vocabulary=5, grid=(2, 3), width=16, heads=2, inner_multiple=16, layers_H=1, layers_L=1, position_axes=2
)
CONFIG = RecursionConfig(
    seeds=(0, 1), segments=4, batch_size=16, iterations=20, width=16, inner_multiple=16, warmup=5,
    learning_rate=1e-2,
)  # fmt: skip


def next_token(draws, batch, identifiers=1):
    """Puzzles whose answer is each cell's next token."""
    inputs = torch.stack([torch.randint(5, (batch, 6), generator=draw) for draw in draws])
    which = torch.stack([torch.randint(identifiers, (batch,), generator=draw) for draw in draws])
    return Batch(inputs, (inputs + 1) % 5, which)


def constant_batch(token, members=2, batch=3):
    grid = torch.full((members, batch, 6), token)
    return Batch(grid, grid, torch.full((members, batch), token))


# --- losses ----------------------------------------------------------------------------------------


def test_stablemax_is_its_formula(float64):
    logits = torch.tensor([-3.0, -0.5, 0.0, 2.0])
    grown = torch.tensor([1 / 4, 1 / 1.5, 1.0, 3.0])
    torch.testing.assert_close(log_stablemax(logits), (grown / grown.sum()).log())


def test_stablemax_has_finite_gradients_everywhere(float64):
    logits = torch.tensor([-1e6, -1.0, 0.0, 1.0, 1e6], requires_grad=True)
    assert torch.autograd.gradcheck(log_stablemax, torch.tensor([-3.0, -0.5, 0.5, 2.0], requires_grad=True))
    log_stablemax(logits)[2].backward()
    assert torch.isfinite(logits.grad).all()


def test_stablemax_keeps_its_digits_at_large_logits():
    """In float32 a probability beside 3000 is off in its first digits where the sum is taken of many."""
    logits = torch.tensor([3000.0, 3000.1, -3000.0])
    grown = torch.tensor([3001.0, 3001.1, 1 / 3001], dtype=torch.float64)
    found = log_stablemax(logits)
    assert found.dtype == torch.float64
    torch.testing.assert_close(found, (grown / grown.sum()).log(), rtol=1e-6, atol=0)


def test_cross_entropy_is_the_mean_over_the_cells_asked_about(float64):
    logits = torch.randn(1, 2, 3, 4, generator=torch.Generator().manual_seed(0))
    labels = torch.tensor([[[1, -100, 3], [-100, -100, -100]]])
    expected = -(log_stablemax(logits)[0, 0, 0, 1] + log_stablemax(logits)[0, 0, 2, 3]) / 2
    torch.testing.assert_close(
        cross_entropy(logits, labels), torch.stack([expected, torch.tensor(0.0)])[None]
    )


def test_an_answer_is_exact_where_every_cell_asked_about_is_right():
    labels = torch.tensor([[[1, 2, -100], [1, 2, 0], [-100, -100, -100]]])
    answers = torch.tensor([[[1, 2, 3], [1, 2, 3], [1, 2, 3]]])
    judged = judge(F.one_hot(answers, 4).float(), labels)
    torch.testing.assert_close(judged.accuracy, torch.tensor([[1.0, 2 / 3, 0.0]]))
    assert judged.exact.tolist() == [[True, False, False]]  # nothing asked is nothing solved


def test_halting_learns_whether_the_answer_is_exact():
    q, exact = torch.tensor([[[2.0, -1.0]]]), torch.tensor([[True]])
    halt = F.softplus(torch.tensor(-2.0))
    torch.testing.assert_close(halting_loss(q, exact), halt[None, None])
    going_on = 0.25 * F.softplus(torch.tensor(1.0)) + 0.75 * F.softplus(torch.tensor(-1.0))
    found = halting_loss(q, exact, torch.tensor([[0.25]]))
    torch.testing.assert_close(found, (halt + going_on)[None, None])


# --- carry -----------------------------------------------------------------------------------------


def carry_of(halting, batch=3):
    model = HRM((0, 1), SIZES)
    return model, Carry(model, batch, halting)


def q_of(wanting):
    """Logits with which these rows want to halt."""
    halt = torch.tensor(wanting).float() * 2 - 1
    return torch.stack([halt, torch.zeros_like(halt)], -1)


NO_EXPLORATION = Halting(most_segments=3, exploration=0.0)
NEVER, FIRST = [[False] * 3] * 2, [[True, False, False]] * 2


def test_new_puzzles_go_into_halted_rows_alone():
    _, carry = carry_of(NO_EXPLORATION)
    assert carry.refill(constant_batch(1)).all()  # every row begins halted
    carry.advance(carry.states, q_of(FIRST), generators((0, 1), "test"))
    fresh = carry.refill(constant_batch(2))
    assert fresh.tolist() == FIRST
    assert carry.inputs[:, :, 0].tolist() == carry.labels[:, :, 0].tolist() == [[2, 1, 1]] * 2
    assert carry.identifiers.tolist() == [[2, 1, 1]] * 2
    assert carry.steps.tolist() == [[0, 1, 1]] * 2


def test_whatever_else_a_batch_has_is_carried_along():
    @dataclasses.dataclass(frozen=True)
    class WithContext(Batch):
        context: torch.Tensor

    _, carry = carry_of(NO_EXPLORATION)
    for value in (1.0, 2.0):
        batch = constant_batch(1)
        carry.refill(WithContext(batch.inputs, batch.labels, batch.identifiers, torch.full((2, 3, 4), value)))
        carry.advance(carry.states, q_of(FIRST), generators((0, 1), "test"))
    assert carry.data["context"][..., 0].tolist() == [[2.0, 1.0, 1.0]] * 2


def test_a_halted_row_begins_again_from_the_initial_states():
    model, carry = carry_of(NO_EXPLORATION)
    carry.refill(constant_batch(1))
    states = model.segment(carry.states, model.embed(carry.inputs))
    carry.advance(states, q_of(FIRST), generators((0, 1), "test"))
    assert not carry.states.z_H.requires_grad
    carry.refill(constant_batch(2))
    for own, initial, ended in zip(carry.states, model.initial(3), states, strict=True):
        assert torch.equal(own[:, 0], initial[:, 0])
        assert torch.equal(own[:, 1:], ended[:, 1:])


def test_a_row_halts_when_it_wants_to_and_at_the_most_segments():
    _, carry = carry_of(NO_EXPLORATION)
    draws = generators((0, 1), "test")
    for expected in (NEVER, NEVER, [[True] * 3] * 2):
        carry.refill(constant_batch(1))
        assert carry.advance(carry.states, q_of(NEVER), draws).tolist() == expected
    carry.refill(constant_batch(1))
    assert carry.advance(carry.states, q_of(FIRST), draws).tolist() == FIRST


def test_going_on_is_weighed_against_halting_in_hrm_alone():
    q = torch.tensor([[[1.0, 2.0], [-1.0, -2.0], [1.0, 0.5]]])
    assert Halting(with_continuation=True).wants_to_halt(q).tolist() == [[False, True, True]]
    assert Halting(with_continuation=False).wants_to_halt(q).tolist() == [[True, False, True]]


def test_exploration_puts_halting_off_at_its_rate():
    halting = Halting(most_segments=4, exploration=0.3)
    _, carry = carry_of(halting, batch=4000)
    carry.refill(constant_batch(1, batch=4000))
    halted = carry.advance(carry.states, q_of([[True] * 4000] * 2), generators((0, 1), "test"))
    assert halted.float().mean().item() == pytest.approx(0.7, abs=0.02)  # a least number is 2 at least


def test_a_fixed_number_of_segments_does_not_ask_the_head():
    _, carry = carry_of(Halting(most_segments=2, adaptive=False))
    carry.refill(constant_batch(1))
    for expected in (False, True):
        halted = carry.advance(carry.states, q_of([[True] * 3] * 2), generators((0, 1), "test"))
        assert halted.tolist() == [[expected] * 3] * 2


def test_labels_are_the_running_puzzles_and_not_the_coming_batchs():
    """A batch that comes in while every row runs changes nothing of the loss."""
    model = HRM((0, 1), SIZES)
    losses = []
    for coming in (1, 4):
        runner = SegmentRunner(model, dataclasses.replace(CONFIG, batch_size=3, exploration=0.0))
        draws = generators((0, 1), "test")
        for token in (2, coming):
            runner.carry.refill(constant_batch(token))
            segment = runner.run(draws)
        losses.append(segment.lm_loss)
    assert torch.equal(*losses)


def test_the_value_of_going_on_is_the_next_segments(float64):
    model = HRM((0, 1), SIZES)
    with torch.no_grad():
        model.halt.copy_(torch.randn(model.halt.shape, generator=torch.Generator().manual_seed(0)))
    runner = SegmentRunner(model, dataclasses.replace(CONFIG, halting="hrm", segments=2, batch_size=3))
    draws = generators((0, 1), "test")
    runner.carry.refill(constant_batch(2))
    injected = model.embed_puzzles(runner.carry.inputs, runner.carry.identifiers)
    for last in (False, True):
        segment = runner.run(draws)
        _, q = model.read(model.segment(segment.states, injected))
        value = torch.sigmoid(q[..., 0] if last else q.amax(-1))
        torch.testing.assert_close(
            segment.q_loss, halting_loss(segment.q, segment.judged.exact, value.detach())
        )
        runner.carry.halted = torch.zeros_like(runner.carry.halted)


def test_counts_are_of_halted_rows():
    tally = Tally()
    halted = torch.tensor([[True, False, True]])
    found = tally.update(halted, {"steps": torch.tensor([[2, 100, 4]])})
    assert found["steps"].tolist() == [3.0]
    found = tally.update(~halted, {"steps": torch.tensor([[100, 8, 100]])})
    assert found["steps"].item() == pytest.approx((0.9 * 6 + 8) / (0.9 * 2 + 1))
    assert (
        tally.update(torch.zeros(1, 3, dtype=torch.bool), {"steps": torch.ones(1, 3)})["steps"]
        == found["steps"]
    )


def test_counts_go_on_on_the_device_of_the_rows():
    """A checkpoint is read to the CPU, whatever it was written on."""
    tally, rows = Tally(), torch.ones(1, 3, dtype=torch.bool)
    tally.update(rows, {"steps": torch.ones(1, 3)})
    resumed = Tally()
    resumed.load_state_dict(tally.state_dict())
    assert resumed.update(rows.to("meta"), {"steps": torch.ones(1, 3, device="meta")})["steps"].is_meta


# --- average of weights ----------------------------------------------------------------------------


def test_the_average_of_constant_weights_is_these_weights():
    module = torch.nn.Linear(3, 2)
    average = WeightAverage(module, 0.999)
    expected = {name: value.clone() for name, value in module.named_parameters()}
    for _ in range(3):
        average.update()
    for name, value in average.weights().items():
        torch.testing.assert_close(value, expected[name])


def test_the_average_is_exponential_and_unbiased(float64):
    module = torch.nn.Linear(1, 1, bias=False)
    average = WeightAverage(module, 0.9)
    seen = [5.0, -1.0, 2.0]
    for value in seen:
        module.weight.data.fill_(value)
        average.update()
    shares = torch.tensor([0.81, 0.9, 1.0])
    expected = (shares @ torch.tensor(seen)) / shares.sum()
    torch.testing.assert_close(average.weights()["weight"][0, 0], expected)
    with average.applied():
        torch.testing.assert_close(module.weight[0, 0], expected)
    assert module.weight.item() == 2.0


def test_an_average_of_nothing_is_refused():
    with pytest.raises(ValueError, match="update"):
        WeightAverage(torch.nn.Linear(1, 1), 0.9).weights()


# --- a training ------------------------------------------------------------------------------------


def train(config=CONFIG, checkpoint=None, stop_at=None, identifiers=0, gradient="one_step"):
    """Learn the next token; `stop_at` kills the training there."""
    model = HRM(config.seeds, dataclasses.replace(SIZES, identifiers=identifiers))
    runner = SegmentRunner(model, config)

    def loss(iteration, draws):
        if iteration == stop_at:
            raise KeyboardInterrupt
        runner.carry.refill(next_token(draws, config.batch_size, max(1, identifiers)))
        segment = runner.run(draws, gradient=gradient)
        lm_loss = segment.lm_loss.mean(1)
        counts = runner.counts(segment)
        return {"loss": lm_loss + 0.5 * segment.q_loss.mean(1), "train/lm_loss": lm_loss, **counts}

    history = fit_recursive(
        model, loss, config, label="test", stream="test", checkpoint=checkpoint,
        extra_state=runner.extra_state,
    )  # fmt: skip
    return model, history


@pytest.mark.parametrize(("stop_at", "halting"), [(7, "trm"), (10, "hrm"), (19, "trm")])
def test_a_killed_training_goes_on_to_the_bit(tmp_path, one_thread, stop_at, halting):
    config = dataclasses.replace(CONFIG, halting=halting)
    expected, expected_history = train(config, identifiers=3)
    checkpoint = Checkpoint(tmp_path / "a.pt", "mark", every=10)
    with pytest.raises(KeyboardInterrupt):
        train(config, checkpoint, stop_at, identifiers=3)
    found, history = train(config, checkpoint, identifiers=3)
    again, _ = train(config, checkpoint, stop_at=0, identifiers=3)  # finished: loaded, not entered
    for model in (found, again):
        for name, value in expected.state_dict().items():
            assert torch.equal(model.state_dict()[name], value), name
    for name in expected_history.keys() - {"seconds"}:
        assert torch.equal(history[name], expected_history[name]), name
    assert expected.table.rows.abs().max() > 0


def test_a_member_trains_the_same_in_any_company(one_thread):
    together, history = train()
    alone, own_history = train(dataclasses.replace(CONFIG, seeds=(1,)))
    torch.testing.assert_close(history["loss"][:, 1:], own_history["loss"], rtol=1e-5, atol=1e-5)
    for (name, whole), own in zip(together.state_dict().items(), alone.state_dict().values(), strict=True):
        torch.testing.assert_close(whole[1], own[0], rtol=1e-4, atol=1e-4, msg=name)


def test_it_learns_and_then_halts_early():
    """Steps are all that there are while q stays at its bias, and fewer once most answers are exact."""
    config = dataclasses.replace(CONFIG, iterations=90, average_decay=0.9)
    model, history = train(config)
    steps, exact = history["train/steps"].mean(1), history["train/exact_accuracy"].mean(1)
    assert steps[config.segments] == config.segments
    assert exact[-1] > 0.8 > 0.1 > exact[4] and steps[-1] < config.segments
    batch = next_token(generators(config.seeds, "held out"), 64)
    found = evaluate(model, batch, config.segments)
    assert found["exact"].shape == (2, 64, 4) and found["exact"][..., -1].float().mean() > 0.5
    halting = halting_segment(found["q"], halting_of(config))
    assert halting.float().mean() < config.segments


def test_the_halting_segment_is_the_first_that_asks_for_it():
    q = torch.tensor([[[-1.0, 0], [1, 0], [-1, 0]], [[-1, 0], [-1, 0], [-1, 0]]])
    assert halting_segment(q, Halting(with_continuation=False)).tolist() == [2, 3]
