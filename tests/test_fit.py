"""Training: any module, optimiser and schedule, members that feel no other, resumed to the bit."""

import copy

import pytest
import torch
from torch import nn

from common.run.cache import Checkpoint
from common.training.ensembles import EnsembleMLP
from common.training.fit import clip_gradients_per_member, fit
from common.training.stacked import StackedModules

SEEDS = (0, 1)


def train(checkpoint, stop_at=None, seeds=SEEDS, iterations=60):
    """Fit a noisy regression; `stop_at` kills the training there, between two checkpoints."""
    module = EnsembleMLP(seeds, (2, 8, 1), "test")

    def loss(iteration, draws):
        if iteration == stop_at:
            raise KeyboardInterrupt
        inputs = torch.stack([torch.randn(16, 2, generator=draw) for draw in draws])
        error = (module(inputs) - inputs.sum(-1, keepdim=True).sin()).square().mean((1, 2))
        return {"loss": error}

    history = fit(
        module, loss, seeds=seeds, iterations=iterations, learning_rate=1e-2, label="test", stream="test",
        clip_norm=1.0, checkpoint=checkpoint,
    )  # fmt: skip
    return module.state_dict(), history


@pytest.mark.parametrize("stop_at", [3, 10, 37, 59])
def test_an_interrupted_training_resumes_to_the_bit(tmp_path, stop_at):
    expected, expected_history = train(None)
    checkpoint = Checkpoint(tmp_path / "a.pt", "mark", every=10)
    with pytest.raises(KeyboardInterrupt):
        train(checkpoint, stop_at)
    weights, history = train(checkpoint)
    assert all(torch.equal(weights[name], expected[name]) for name in expected)
    assert torch.equal(history["loss"], expected_history["loss"])
    again, _ = train(checkpoint, stop_at=0)  # a finished training is not entered again
    assert all(torch.equal(again[name], expected[name]) for name in expected)


def test_a_member_does_not_feel_its_neighbours():
    together, _ = train(None)
    alone, _ = train(None, seeds=(1,))
    for name, weights in alone.items():
        torch.testing.assert_close(weights[0], together[name][1], rtol=1e-4, atol=1e-5)


def test_gradients_are_clipped_member_by_member():
    module = EnsembleMLP(SEEDS, (2, 1), "test")
    for parameter, value in zip(module.parameters(), (3.0, 4.0), strict=True):
        parameter.grad = torch.zeros_like(parameter)
        parameter.grad[0].fill_(value)
        parameter.grad[1].fill_(value * 1e-3)
    clip_gradients_per_member(module, 1.0)
    norms = torch.stack([p.grad.flatten(1).square().sum(1) for p in module.parameters()]).sum(0).sqrt()
    assert norms[0].item() == pytest.approx(1.0)
    assert norms[1].item() == pytest.approx(1e-3 * (2 * 9 + 16) ** 0.5)


def test_a_loss_that_is_not_finite_is_an_error():
    module = EnsembleMLP(SEEDS, (2, 1), "test")
    with pytest.raises(FloatingPointError, match="step 1"):
        fit(
            module,
            lambda iteration, draws: {"loss": module(torch.full((2, 1, 2), float("nan"))).sum((1, 2))},
            seeds=SEEDS,
            iterations=3,
            learning_rate=1e-2,
            label="test",
            stream="test",
        )


# --- any module, optimiser and schedule -----------------------------------------------------------


class Average:
    """An exponential moving average of a module's weights."""

    def __init__(self, module):
        self.module, self.weights = module, copy.deepcopy(module.state_dict())

    def update(self, iteration):
        for name, value in self.module.state_dict().items():
            self.weights[name].lerp_(value, 0.1)

    def state_dict(self):
        return self.weights

    def load_state_dict(self, state):
        self.weights = state


class Carry:
    """What a loss remembers from step to step."""

    def __init__(self):
        self.value = torch.zeros(1)

    def state_dict(self):
        return {"value": self.value}

    def load_state_dict(self, state):
        self.value = state["value"]


def train_plain(checkpoint, stop_at=None):
    """An ordinary module with two optimisers, a constant rate for one, a carry, an average, evaluations."""
    torch.manual_seed(0)
    module = nn.Sequential(nn.Linear(2, 8), nn.Tanh(), nn.Linear(8, 1))
    average, carry = Average(module), Carry()

    def loss(iteration, draws):
        if iteration == stop_at:
            raise KeyboardInterrupt
        inputs = torch.randn(16, 2, generator=draws[0]) + carry.value
        error = (module(inputs) - inputs.sum(-1, keepdim=True)).square().mean()
        carry.value = 0.5 * carry.value + 0.1 * error.detach().tanh()
        return {"loss": error}

    def after_step(iteration):
        average.update(iteration)
        weights = average.weights["0.weight"]
        return {"norm": weights.norm()} if iteration % 20 == 0 else None

    def optimizers(module):
        return torch.optim.SGD(module[0].parameters(), lr=0.05), torch.optim.AdamW(
            module[2].parameters(), lr=1e-2
        )

    def schedule(optimizer):
        adam = isinstance(optimizer, torch.optim.AdamW)
        return torch.optim.lr_scheduler.StepLR(optimizer, 20, 0.5) if adam else None

    history = fit(
        module, loss, seeds=(0,), iterations=60, learning_rate=1e-2, label="test", stream="test",
        clip_norm=1.0, checkpoint=checkpoint, optimizer=optimizers, schedule=schedule,
        extra_state={"average": average, "carry": carry}, after_step=after_step,
    )  # fmt: skip
    return {**module.state_dict(), **{f"average {name}": v for name, v in average.weights.items()}}, history


@pytest.mark.parametrize("stop_at", [3, 37])
def test_everything_that_a_training_remembers_is_resumed_to_the_bit(tmp_path, stop_at):
    expected, expected_history = train_plain(None)
    checkpoint = Checkpoint(tmp_path / "a.pt", "mark", every=10)
    with pytest.raises(KeyboardInterrupt):
        train_plain(checkpoint, stop_at)
    weights, history = train_plain(checkpoint)
    assert all(torch.equal(weights[name], expected[name]) for name in expected)
    assert all(torch.equal(history[name], expected_history[name]) for name in history if name != "seconds")
    assert history["evaluation"].tolist() == [20, 40, 60] and history["norm"].shape == (3, 1)


def test_a_gradient_of_a_plain_module_is_clipped_as_a_whole():
    module, norms = nn.Linear(2, 1), []

    def optimizers(module):
        optimizer = torch.optim.SGD(module.parameters(), lr=0.0)
        optimizer.register_step_pre_hook(
            lambda *_: norms.append(nn.utils.get_total_norm([p.grad for p in module.parameters()]).item())
        )
        return optimizer

    fit(
        module, lambda iteration, draws: {"loss": 100 * module(torch.ones(4, 2)).square().mean()}, seeds=(0,),
        iterations=3, learning_rate=1.0, label="test", stream="test", clip_norm=0.5, optimizer=optimizers,
    )  # fmt: skip
    assert norms == pytest.approx([0.5] * 3, rel=1e-4)


def test_a_parameter_of_one_number_a_seed_is_clipped_with_the_rest():
    class Tempered(nn.Module):
        def __init__(self):
            super().__init__()
            self.net, self.log_t = EnsembleMLP(SEEDS, (2, 4, 1), "x"), nn.Parameter(torch.zeros(2))

    module = Tempered()
    module.log_t.grad = torch.tensor([30.0, 0.3])
    clip_gradients_per_member(module, 1.0)
    torch.testing.assert_close(module.log_t.grad, torch.tensor([1.0, 0.3]))


def test_a_checkpoint_of_another_length_is_refused_in_a_line(tmp_path):
    checkpoint = Checkpoint(tmp_path / "a.pt", "mark", every=5)
    train(checkpoint, iterations=20)
    with pytest.raises(ValueError, match="of 20 iterations, not of 40; allowed") as refused:
        train(checkpoint, iterations=40)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize("part", ["module", "optimizers", "schedules", "draws", "history", "iteration"])
def test_a_payload_of_another_shape_begins_anew(tmp_path, part):
    """Whole, and as if it had never been: nothing of it stays in the module or the generators."""
    expected, _ = train(None)
    checkpoint = Checkpoint(tmp_path / "a.pt", "mark", every=10)
    with pytest.raises(KeyboardInterrupt):
        train(checkpoint, stop_at=37)
    payload = checkpoint.load()
    payload[part] = {
        "module": {"x": torch.ones(1)},
        "history": {"iteration": [1], "loss": []},
        "iteration": -3,
    }.get(part, [])
    checkpoint.save(payload)
    weights, _ = train(checkpoint)
    assert all(torch.equal(weights[name], expected[name]) for name in expected)


def test_a_loss_that_rises_far_says_so(caplog):
    module = nn.Linear(1, 1, bias=False)
    nn.init.constant_(module.weight, 1.0)
    fit(
        module, lambda iteration, draws: {"loss": (module.weight.square()).sum()}, seeds=(0,), iterations=5,
        learning_rate=1.0, label="test", stream="test", schedule=lambda _: None,
        optimizer=lambda module: torch.optim.SGD(module.parameters(), lr=2.0),
    )  # fmt: skip
    assert "a lower --learning-rate may help" in caplog.text


def test_ordinary_modules_stacked_train_as_each_alone():
    """An ensemble that vmap makes of modules that were not written as one."""

    def make(seed):
        torch.manual_seed(seed)
        return nn.Sequential(nn.Linear(2, 8), nn.GELU(), nn.Linear(8, 1))

    def trained(modules, seeds):
        stacked = StackedModules(modules)

        def loss(iteration, draws):
            inputs = torch.stack([torch.randn(16, 2, generator=draw) for draw in draws])
            return {"loss": (stacked(inputs) - inputs.sum(-1, keepdim=True)).square().mean((1, 2))}

        fit(
            stacked, loss, seeds=seeds, iterations=20, learning_rate=1e-2, label="test", stream="test",
            clip_norm=1.0,
        )  # fmt: skip
        return stacked.state_dict()

    together = trained([make(0), make(1)], (0, 1))
    for index in (0, 1):
        alone = trained([make(index)], (index,))
        for name, value in alone.items():
            torch.testing.assert_close(value[0], together[name][index], rtol=1e-4, atol=1e-5)


def test_stacked_modules_give_what_each_gives():
    modules = [nn.Sequential(nn.Linear(3, 4), nn.LayerNorm(4)) for _ in range(3)]
    stacked, inputs = StackedModules(modules), torch.randn(3, 5, 3)
    expected = torch.stack([module(one) for module, one in zip(modules, inputs, strict=True)])
    torch.testing.assert_close(stacked(inputs), expected)
    assert sum(p.numel() for p in stacked.parameters()) == sum(
        p.numel() for m in modules for p in m.parameters()
    )


def test_stacked_modules_follow_training_and_evaluation_mode():
    stacked = StackedModules([nn.Sequential(nn.Linear(3, 64), nn.Dropout(0.5)) for _ in range(2)])
    inputs = torch.randn(2, 5, 3)
    assert (stacked(inputs) == 0).any()
    stacked.eval()
    torch.testing.assert_close(stacked(inputs), stacked(inputs))
    assert not (stacked(inputs) == 0).any()


def train_until(checkpoint, last, clip_norm=None):
    """Fit until a step; the norms that were seen before clipping, and how far it came."""
    module, seen = EnsembleMLP(SEEDS, (2, 1), "test"), []

    def loss(iteration, draws):
        inputs = torch.stack([torch.randn(4, 2, generator=draw) for draw in draws])
        return {"loss": 1e3 * module(inputs).square().mean((1, 2))}

    def record():
        seen.append(float(module.layers[0].weight.grad.norm()))

    history = fit(
        module, loss, seeds=SEEDS, iterations=9, learning_rate=1e-2, label="test", stream="test",
        clip_norm=clip_norm, checkpoint=checkpoint, after_backward=record, stop=lambda step: step == last,
    )  # fmt: skip
    return module.state_dict(), history, seen


def test_a_stopped_training_is_finished(tmp_path):
    checkpoint = Checkpoint(tmp_path / "a.pt", "mark", every=5)
    weights, history, seen = train_until(checkpoint, last=4)
    assert history["iteration"][-1] == 4 and len(seen) == 4
    again, history, seen = train_until(checkpoint, last=None)
    assert not seen and history["iteration"][-1] == 4
    assert all(torch.equal(again[name], value) for name, value in weights.items())


def test_gradients_are_seen_before_they_are_clipped():
    assert min(train_until(None, last=None, clip_norm=1e-3)[2]) > 1.0
