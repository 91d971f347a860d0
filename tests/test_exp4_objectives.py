"""Experiment 4's objectives against closed forms, reference implementations and known distances."""

import itertools
import math

import pytest
import torch
import torch.nn.functional as F

from common.objectives import (
    METRIC_GROUP_SIZE,
    info_nce,
    lagrangian,
    qrl_spread,
    qrl_violation,
    quasimetric,
)
from common.run.random import generator
from common.statistics import factorial_effects
from exp4_contrastive_fix.models import METRIC_GROUPS
from exp4_contrastive_fix.objectives import expectile_loss, straightening


def normal(*shape, stream="test"):
    return torch.randn(*shape, generator=generator(0, stream))


def test_info_nce_is_the_cross_entropy_of_cosines():
    queries, keys = normal(2, 5, 8), normal(2, 7, 8, stream="keys")
    positives = torch.tensor([[0, 3, 6, 1, 2], [5, 5, 0, 4, 1]])
    cosine = F.cosine_similarity(queries[:, :, None], keys[:, None], dim=-1)
    expected = F.cross_entropy((cosine / 0.3).flatten(0, 1), positives.flatten(), reduction="none")
    torch.testing.assert_close(info_nce(queries, keys, positives, 0.3).flatten(), expected)


def test_info_nce_of_one_collapsed_latent_is_log_k():
    collapsed = torch.ones(6, 4)
    loss = info_nce(collapsed, collapsed, torch.arange(6), 0.1)
    torch.testing.assert_close(loss, torch.full((6,), math.log(6)))


def test_keys_that_are_not_allowed_do_not_count():
    queries, keys = normal(1, 4, 8), normal(1, 6, 8, stream="keys")
    positives = torch.tensor([[0, 1, 2, 3]])
    allowed = torch.tensor([[True, True, True, True, False, False]])
    masked = info_nce(queries, keys, positives, 0.2, allowed)
    torch.testing.assert_close(masked, info_nce(queries, keys[:, :4], positives, 0.2))


def masked_by_loop(queries, keys, positives, temperature, allowed):
    """Each query's loss over its own key and the keys that its row of `allowed` [B, K] names."""
    losses = []
    for query, positive, row in zip(queries, positives.tolist(), allowed, strict=True):
        logits = F.cosine_similarity(query[None], keys, dim=-1) / temperature
        kept = [key for key in range(len(keys)) if row[key] or key == positive]
        losses.append(logits[kept].logsumexp(0) - logits[positive])
    return torch.stack(losses)


@pytest.mark.parametrize("share", [0.0, 0.3, 0.7, 1.0])
def test_a_querys_own_key_counts_whatever_the_mask_says(share):
    queries, keys, positives = normal(5, 8), normal(7, 8, stream="keys"), torch.tensor([0, 6, 3, 3, 1])
    draw = generator(1, "masks")
    for shape in ((7,), (5, 7)):  # one for all queries, one for each
        allowed = torch.rand(shape, generator=draw) < share
        expected = masked_by_loop(queries, keys, positives, 0.2, allowed.expand(5, 7))
        torch.testing.assert_close(info_nce(queries, keys, positives, 0.2, allowed), expected)
        both = info_nce(
            queries.expand(2, 5, 8),
            keys.expand(2, 7, 8),
            positives.expand(2, 5),
            0.2,
            allowed.expand(2, *shape),
        )
        torch.testing.assert_close(both, expected.expand(2, 5))


@pytest.mark.parametrize("shape", [(6,), (4, 7), (2, 5, 7), (7, 5)], ids=str)
def test_a_mask_of_another_shape_is_refused_in_one_line(shape):
    with pytest.raises(ValueError) as error:
        info_nce(normal(5, 8), normal(7, 8), torch.arange(5), 0.2, torch.ones(shape, dtype=torch.bool))
    assert "\n" not in str(error.value) and str(shape) in str(error.value) and "(5, 7)" in str(error.value)


def test_a_mask_of_numbers_and_a_temperature_of_zero_are_refused():
    with pytest.raises(ValueError, match="bool"):
        info_nce(normal(5, 8), normal(7, 8), torch.arange(5), 0.2, torch.ones(7))
    for temperature in (0.0, -1.0, math.nan):
        with pytest.raises(ValueError, match="temperature"):
            info_nce(normal(5, 8), normal(7, 8), torch.arange(5), temperature)


LOSSES = {
    "info_nce": lambda x: info_nce(x, normal(5, 4, stream="keys").to(x), torch.tensor([1, 0, 2]), 0.3),
    "expectile_loss": lambda x: expectile_loss(x, 0.1),
    "straightening": straightening,
    "qrl_spread": lambda x: qrl_spread(x, 8.0, 0.6),
    "qrl_violation": qrl_violation,
    "lagrangian": lambda x: lagrangian(x, x.square(), x.new_tensor(0.3), 0.1),
}


@pytest.mark.parametrize("name", LOSSES)
def test_every_loss_keeps_its_inputs_dtype_and_has_the_gradient_of_its_value(name):
    inputs = normal(3, 4).double()
    for dtype in (torch.float64, torch.float32, torch.bfloat16, torch.float16):
        assert LOSSES[name](inputs.to(dtype)).dtype == dtype
    assert torch.autograd.gradcheck(LOSSES[name], inputs.requires_grad_())


def test_the_expectiles_weights_have_the_precision_of_the_errors():
    errors = torch.tensor([1.0, -2.0, 3.0], dtype=torch.float64)
    expected = torch.tensor([0.1 * 1.0, (1 - 0.1) * 4.0, 0.1 * 9.0], dtype=torch.float64)
    assert torch.equal(expectile_loss(errors, 0.1), expected)


def test_losses_at_their_edges():
    zeros = torch.zeros(1, 3, requires_grad=True)  # a batch of one that has no direction
    loss = info_nce(zeros, torch.zeros(5, 3), torch.tensor([0]), 0.1)
    loss.sum().backward()
    assert float(loss.detach()) == pytest.approx(math.log(5)) and zeros.grad.isfinite().all()
    assert straightening(normal(2, 3)).shape == (0,)  # one transition has no angle


def test_the_quasimetric_is_one():
    points = normal(12, METRIC_GROUPS * METRIC_GROUP_SIZE)
    distance = quasimetric(points[:, None], points[None])
    assert (distance >= 0).all() and (distance.diagonal() == 0).all()
    around = distance[:, :, None] + distance[None]  # d(x, y) + d(y, z)
    assert (distance[:, None] <= around + 1e-5).all()
    assert (distance - distance.T).abs().max() > 1  # not symmetric


def learn_ring(states, steps=1500):
    """Free embeddings of a one-way ring, trained by quasimetric RL alone."""
    points = (0.1 * normal(states, METRIC_GROUPS * METRIC_GROUP_SIZE)).requires_grad_()
    log_weight = torch.zeros((), requires_grad=True)
    optimizer = torch.optim.Adam([{"params": [points], "lr": 0.01}, {"params": [log_weight], "lr": 0.02}])
    here = torch.arange(states)
    violations, weights = [], []
    for _ in range(steps):
        spread = qrl_spread(quasimetric(points[:, None], points[None]), 10.0, 0.4).mean()
        violation = qrl_violation(quasimetric(points, points[(here + 1) % states])).mean()
        optimizer.zero_grad()
        lagrangian(spread, violation, log_weight, 0.001).backward()
        optimizer.step()
        violations.append(float(violation.detach()))
        weights.append(float(log_weight.detach().exp()))
    return quasimetric(points[:, None], points[None]).detach(), violations, weights


def test_quasimetric_rl_finds_the_distances_of_a_one_way_ring():
    """True distance from i to j: (j - i) mod n. No symmetric distance can have both 1 and n - 1."""
    states = 6
    learned, violations, weights = learn_ring(states)
    here = torch.arange(states)
    true = ((here[None] - here[:, None]) % states).float()
    assert (learned - true).abs().max() < 0.35
    assert max(weights) > 3 and violations[-1] < 0.005  # the multiplier rose until the constraint held


def test_the_multiplier_grows_while_the_constraint_is_violated_and_shrinks_else():
    for violation, sign in ((0.5, -1.0), (0.01, 1.0)):
        log_weight = torch.tensor(0.7, requires_grad=True)
        lagrangian(torch.tensor(0.0), torch.tensor(violation), log_weight, 0.1).backward()
        assert torch.sign(log_weight.grad) == sign  # descent goes against it
    slack = torch.tensor(0.3, requires_grad=True)
    value = lagrangian(torch.tensor(2.0), slack, torch.tensor(math.log(5.0)), 0.1)
    value.backward()
    assert float(value.detach()) == pytest.approx(2 + 5 * 0.2) and float(slack.grad) == pytest.approx(5.0)


def test_admissible_steps_do_not_violate():
    torch.testing.assert_close(
        qrl_violation(torch.tensor([0.2, 1.0, 1.5, 3.0])), torch.tensor([0, 0, 0.25, 4.0])
    )


def test_spread_is_minus_the_distance_below_the_offset_and_flat_above():
    distance = torch.tensor([0.0, 1.0, 60.0, 61.0])
    spread = qrl_spread(distance, 30.0, 1.0)
    assert float(spread[0] - spread[1]) == pytest.approx(1.0, abs=1e-4)
    assert float(spread[2] - spread[3]) == pytest.approx(0.0, abs=1e-4)


@pytest.mark.parametrize("expectile", [0.1, 0.3, 0.5])
def test_the_expectile_of_two_values_is_between_them(expectile):
    """Stationary where e (b - m) = (1 - e) (m - a), so at m = e b + (1 - e) a."""
    observed, low, high = torch.tensor([4.0, 10.0]), 4.0, 10.0
    predicted = torch.tensor(expectile * high + (1 - expectile) * low, requires_grad=True)
    expectile_loss(observed - predicted, expectile).sum().backward()
    assert float(predicted.grad) == pytest.approx(0.0, abs=1e-5)


def test_straightening_by_closed_form():
    line = torch.tensor([[0.0, 0.0], [1.0, 2.0], [1.5, 3.0], [4.5, 9.0]])  # straight, at varying speed
    torch.testing.assert_close(straightening(line), torch.zeros(2), atol=1e-6, rtol=0)
    corner = torch.tensor([[0.0, 0.0], [1.0, 0.0], [1.0, 3.0], [1.0, 1.0]])  # a right angle, and back
    torch.testing.assert_close(straightening(corner), torch.tensor([1.0, 2.0]))


def test_standing_still_has_no_direction_and_no_gradient():
    path = torch.tensor([[0.0, 0.0], [0.0, 0.0], [1.0, 0.0]], requires_grad=True)
    loss = straightening(path)
    loss.sum().backward()
    assert float(loss.detach()) == 0.0 and torch.equal(path.grad, torch.zeros_like(path))


def test_effects_of_a_design_whose_answer_is_known():
    """Success .1 + .2 spectral + .5 metric + .1 of both together."""
    values = [0.1 + 0.2 * s + 0.5 * m + 0.1 * s * m for m, s in itertools.product((0, 1), repeat=2)]
    none, spectral, metric, both = (torch.full((2, 3), value, dtype=torch.float64) for value in values)
    effects = factorial_effects(none, spectral, metric, both)
    expected = {"main_spectral": 0.25, "main_metric": 0.55, "interaction": 0.1}
    expected |= {"both_minus_spectral": 0.6, "both_minus_metric": 0.3}
    for name, value in expected.items():
        torch.testing.assert_close(effects[name], torch.full((2, 3), value, dtype=torch.float64))
