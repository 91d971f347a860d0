"""Jacobians against closed forms and torch.func, at any horizon."""

import math

import pytest
import torch
from torch.func import jacrev, vmap

from common.jacobian_utils import (
    JacobianAccumulator,
    frobenius_norm,
    rollout_jacobian_norms,
    rollout_squared_norms_stochastic,
    singular_values,
    step_jacobians,
    step_squared_norms_stochastic,
)
from common.regularizers import spectral_penalty, spectral_penalty_stochastic
from common.training.ensembles import EnsembleMLP
from exp1_spectral_cliff.dataset import linear_action_norm, linear_state_norm, make_system

B, D, A = 5, 3, 2


@pytest.fixture
def step():
    """A nonlinear step of two ensemble members, float64: [2, B, D], [2, B, A] -> [2, B, D]."""
    network = EnsembleMLP((0, 1), (D + A, 16, 16, D), "test").double().requires_grad_(False)
    for parameter in network.parameters():
        parameter *= 2.0  # far enough from the identity that its Jacobian varies
    return lambda states, actions: states + network(torch.cat((states, actions), -1))


@pytest.fixture
def inputs():
    draw = torch.Generator().manual_seed(0)
    states = torch.randn(2, B, D, generator=draw, dtype=torch.float64)
    return states, torch.randn(2, B, 12, A, generator=draw, dtype=torch.float64)


def reference_rollout_norms(step, states, actions, horizon):
    """Norms from torch.func.jacrev over the whole rollout, member by member."""

    def last_state(start, plan, member):
        # The step sees the whole ensemble; only `member` is read.
        state = start.expand(2, 1, D)
        for action in plan:
            state = step(state, action.expand(2, 1, A))
        return state[member, 0]

    norms = []
    for member in range(2):
        jacobians = vmap(jacrev(lambda s, a, m=member: last_state(s, a, m), argnums=(0, 1)))(
            states[member], actions[member, :, :horizon]
        )
        norms.append([jacobian.flatten(1).norm(dim=1).log10() for jacobian in jacobians])
    return tuple(torch.stack(values) for values in zip(*norms, strict=True))


def test_step_jacobians_equal_jacrev(step, inputs):
    states, actions = inputs[0], inputs[1][:, :, 0]
    state_jacobian, action_jacobian = step_jacobians(step, states, actions)
    for member in range(2):
        expected = vmap(
            jacrev(lambda s, a, m=member: step(s.expand(2, 1, D), a.expand(2, 1, A))[m, 0], argnums=(0, 1))
        )(states[member], actions[member])
        torch.testing.assert_close(state_jacobian[member], expected[0], rtol=1e-9, atol=1e-12)
        torch.testing.assert_close(action_jacobian[member], expected[1], rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("chunk", [1, 5, 50])
def test_rollout_norms_equal_jacrev_at_every_horizon(step, inputs, chunk):
    horizons = (12, 1, 7)  # in any order
    state, action = rollout_jacobian_norms(step, *inputs, horizons, chunk=chunk)
    for index, horizon in enumerate(horizons):
        expected = reference_rollout_norms(step, *inputs, horizon)
        torch.testing.assert_close(state[index], expected[0], rtol=1e-9, atol=1e-9)
        torch.testing.assert_close(action[index], expected[1], rtol=1e-9, atol=1e-9)


def test_linear_map_has_its_closed_form_at_every_horizon():
    system = make_system("linear")
    horizons = (1, 4, 50, 800)
    starts, actions = torch.zeros(2, 8, dtype=torch.float64), torch.zeros(2, 800, 2, dtype=torch.float64)
    state, action = rollout_jacobian_norms(system.step, starts, actions, horizons)
    for index, horizon in enumerate(horizons):
        assert state[index].tolist() == pytest.approx(
            [math.log10(linear_state_norm(system.W, horizon))] * 2, rel=1e-9
        )
        expected = math.log10(linear_action_norm(system.W, system.B, horizon))
        assert action[index].tolist() == pytest.approx([expected] * 2, rel=1e-9)
    assert 10 ** action[2][0].item() == pytest.approx(1712.0, rel=1e-9)  # the published figure


@pytest.mark.parametrize("rate", [1e-3, 0.5, 2.0, 1e6])
def test_no_horizon_overflows_or_vanishes(rate):
    """s' = rate s + a: ||ds_T/ds_0|| = rate^T sqrt(d), even at 10^4800."""
    horizon = 800
    starts, actions = torch.ones(1, D, dtype=torch.float64), torch.ones(1, horizon, D, dtype=torch.float64)
    # The Jacobian is what must not overflow; the state is kept bounded by the detached division.
    state, action = rollout_jacobian_norms(
        lambda s, a: rate * (s - s.detach()) + a, starts, actions, (horizon,)
    )
    assert state.item() == pytest.approx(horizon * math.log10(rate) + 0.5 * math.log10(D), rel=1e-9, abs=1e-9)
    log_rate = math.log(rate)
    # log of sum_{k<T} rate^(2k) d, without overflow
    terms = torch.arange(horizon, dtype=torch.float64) * 2 * log_rate
    expected = 0.5 * (torch.logsumexp(terms, 0).item() + math.log(D)) / math.log(10)
    assert action.item() == pytest.approx(expected, rel=1e-9, abs=1e-9)


def test_true_system_at_dt_033_is_finite_at_800():
    system = make_system("lorenz_dt033")
    starts = torch.tensor([[0.1, 0.2, 0.3]], dtype=torch.float64)
    actions = torch.zeros(1, 800, 1, dtype=torch.float64)
    state, action = rollout_jacobian_norms(system.step, starts, actions, (100, 800))
    assert torch.isfinite(state).all() and torch.isfinite(action).all()
    assert state[1] > 60  # 10^60 and more: the cliff


def test_accumulator_reads_out_through_a_decoder():
    draw = torch.Generator().manual_seed(1)
    A1, A2, B2, E, R = (
        torch.randn(4, *shape, generator=draw, dtype=torch.float64)
        for shape in ((6, 6), (6, 6), (6, 2), (6, 3), (3, 6))
    )
    accumulator = JacobianAccumulator((4,), 3)
    for maps in ((E,), (A1, B2), (A2, B2)):
        accumulator.push(*maps)
    state, action = accumulator.log10_norms(R)
    expected_action = torch.cat((R @ A2 @ B2, R @ B2), -1)
    torch.testing.assert_close(state, frobenius_norm(R @ A2 @ A1 @ E).log10())
    torch.testing.assert_close(action, frobenius_norm(expected_action).log10())


def test_a_map_that_ignores_its_actions_has_norm_zero():
    _, action = rollout_jacobian_norms(
        lambda s, a: 2 * s, torch.ones(1, 2).double(), torch.ones(1, 9, 1).double(), (9,)
    )
    assert action.item() == -math.inf


def test_singular_values_and_norm_agree():
    matrices = torch.randn(7, 3, 5, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    torch.testing.assert_close(singular_values(matrices).square().sum(-1).sqrt(), frobenius_norm(matrices))


def test_horizons_out_of_range_are_refused(step, inputs):
    with pytest.raises(ValueError, match="from 1 to 12"):
        rollout_jacobian_norms(step, *inputs, (13,))


# --- stochastic estimators ------------------------------------------------------------------------


def within_sampling_error(samples: torch.Tensor, exact: torch.Tensor) -> bool:
    """Whether the mean over the first dimension lies within 4.5 standard errors of the exact values."""
    error = samples.std(0) / math.sqrt(len(samples))
    return bool(((samples.mean(0) - exact).abs() < 4.5 * error + 1e-12).all())


def test_hutchinson_is_unbiased_and_the_summed_output_is_not(step, inputs):
    states, actions = inputs[0], inputs[1][:, :, 0]
    exact_state, exact_action = (
        jacobian.square().sum((-2, -1)) for jacobian in step_jacobians(step, states, actions)
    )
    draw = torch.Generator().manual_seed(3)
    probes = torch.randn(1000, *states.shape, generator=draw, dtype=torch.float64)
    singles = [step_squared_norms_stochastic(step, states, actions, probe[None]) for probe in probes]
    state, action = (torch.stack(values) for values in zip(*singles, strict=True))
    assert within_sampling_error(state, exact_state)
    assert within_sampling_error(action, exact_action)

    # The documents' snippet: autograd of the SUMMED output. It is one fixed probe, v = 1.
    leaf = states.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(step(leaf, actions).sum(), leaf)
    snippet = gradient.square().sum(-1)
    fixed, _ = step_squared_norms_stochastic(step, states, actions, torch.ones_like(states)[None])
    torch.testing.assert_close(snippet, fixed)
    assert not within_sampling_error(torch.stack([snippet, snippet]), exact_state)
    ratio = snippet / exact_state
    assert ratio.min() < 0.8 and ratio.max() > 1.2  # wrong by state, in both directions


def test_rollout_estimator_is_unbiased(step, inputs):
    exact_state, exact_action = (10 ** (2 * norm[0]) for norm in rollout_jacobian_norms(step, *inputs, (12,)))
    draw = torch.Generator().manual_seed(4)
    probes = torch.randn(400, *inputs[0].shape, generator=draw, dtype=torch.float64)
    singles = [rollout_squared_norms_stochastic(step, *inputs, probe[None]) for probe in probes]
    state, action = (torch.stack(values).exp() for values in zip(*singles, strict=True))
    assert within_sampling_error(state, exact_state)
    assert within_sampling_error(action, exact_action)


def test_rollout_estimator_does_not_overflow():
    starts, actions = torch.ones(1, 2).double(), torch.ones(1, 800, 2).double()
    probes = torch.ones(1, 1, 2, dtype=torch.float64)
    state, action = rollout_squared_norms_stochastic(
        lambda s, a: 10.0 * (s - s.detach()) + a, starts, actions, probes
    )
    assert state.item() == pytest.approx(1600 * math.log(10) + math.log(2), rel=1e-9)
    assert math.isfinite(action.item())


# --- penalties ------------------------------------------------------------------------------------


def test_penalty_of_a_linear_map_is_its_squared_norms():
    system = make_system("linear")
    states, actions = torch.randn(4, 8).double(), torch.randn(4, 2).double()
    expected = system.W.square().sum() + system.B.square().sum()
    torch.testing.assert_close(spectral_penalty(system.step, states, actions), expected.expand(4))


def test_penalty_gradient_reaches_the_weights_and_the_estimate_agrees(inputs):
    network = EnsembleMLP((0, 1), (D + A, 8, D), "test").double()

    def step(states, actions):
        return network(torch.cat((states, actions), -1))

    states, actions = inputs[0], inputs[1][:, :, 0]
    weight = network.layers[0].weight
    (exact,) = torch.autograd.grad(spectral_penalty(step, states, actions).sum(), weight)
    probes = torch.randn(1000, *states.shape, dtype=torch.float64, generator=torch.Generator().manual_seed(5))
    (estimate,) = torch.autograd.grad(
        spectral_penalty_stochastic(step, states, actions, probes).sum(), weight
    )
    assert (estimate - exact).norm() < 0.1 * exact.norm()
    assert exact.norm() > 0
