"""Jacobians against closed forms and torch.func, at any horizon."""

import functools
import math

import numpy as np
import pytest
import torch
from torch import nn
from torch.func import functional_call, jacrev, stack_module_state, vmap

from common.jacobian_utils import (
    JacobianAccumulator,
    closed_form,
    frobenius_norm,
    jacobians,
    largest_singular_value,
    rollout_jacobian_norms,
    rollout_squared_norms_stochastic,
    singular_values,
    step_jacobians,
    step_squared_norms_stochastic,
    tangent_rollout,
)
from common.regularizers import spectral_penalty, spectral_penalty_stochastic
from common.run.run import count_parameters
from common.training.ensembles import EnsembleMLP
from exp1_spectral_cliff.dataset import linear_action_norm, make_system
from exp1_spectral_cliff.models import FlatModel, HelmModel, LinearModel

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
            [math.log10(torch.linalg.matrix_power(system.W, horizon).norm().item())] * 2, rel=1e-9
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


def tangent_norms(step, states, actions, tangents):
    """ln ||M_t v|| [T, P, ..., B] of a whole rollout."""
    return torch.stack([norms for _, norms in tangent_rollout(step, states, actions, tangents)])


def test_tangents_along_every_axis_give_the_rollouts_norm_at_every_horizon(step, inputs):
    states, actions = inputs
    axes = torch.eye(D, dtype=torch.float64)[:, None, None].expand(D, 2, B, D)
    found = torch.logsumexp(2 * tangent_norms(step, states, actions, axes), 1) / (2 * math.log(10))
    expected, _ = rollout_jacobian_norms(step, states, actions, range(1, 13))
    torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-9)


def test_a_tangent_rollout_passes_the_rollouts_states(step, inputs):
    states, actions = inputs
    visited = [state for state, _ in tangent_rollout(step, states, actions, states[None])]
    for state, action in zip(visited, actions.unbind(2), strict=True):
        states = step(states, action)
        torch.testing.assert_close(state, states)


@pytest.mark.parametrize("rate", [1e-3, 0.5, 2.0, 1e6])
def test_a_tangent_grows_by_ln_of_a_linear_steps_spectral_radius(rate):
    """Of a matrix that is far from normal, whose norm is 50 times its radius."""
    matrix = rate * torch.tensor([[1.0, 50.0, 0.0], [0.0, 0.9, 3.0], [0.0, 0.0, 0.2]], dtype=torch.float64)
    states, actions = torch.zeros(2, 3, dtype=torch.float64), torch.zeros(2, 200, 1, dtype=torch.float64)
    tangents = torch.randn(1, 2, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    norms = tangent_norms(lambda z, a: z @ matrix.mT, states, actions, tangents)
    growth = (norms[-1] - norms[99]) / 100
    torch.testing.assert_close(growth, torch.full_like(growth, math.log(rate)), rtol=1e-4, atol=1e-3)


def test_a_tangent_that_vanishes_has_norm_zero():
    nilpotent = torch.tensor([[0.0, 1.0], [0.0, 0.0]])
    tangent = torch.tensor([[[0.0, 1.0]]])
    norms = tangent_norms(lambda z, a: z @ nilpotent.mT, torch.zeros(1, 2), torch.zeros(1, 3, 1), tangent)
    assert norms.flatten().tolist() == [0.0, -math.inf, -math.inf]


def test_power_iteration_finds_the_largest_singular_value(step, inputs):
    states, actions = inputs[0], inputs[1][:, :, 0]
    start = torch.randn(2, B, D, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    exact = singular_values(step_jacobians(step, states, actions)[0])[..., 0]
    torch.testing.assert_close(largest_singular_value(step, states, actions, start, 300), exact)
    few = [largest_singular_value(step, states, actions, start, count) for count in (1, 2, 4, 8)]
    assert all((one <= more + 1e-12).all() for one, more in zip(few, (*few[1:], exact), strict=True))


def test_power_iteration_of_maps_without_a_jacobian_or_constant_in_it():
    states, actions = torch.randn(4, 3), torch.zeros(4, 1)
    assert largest_singular_value(lambda z, a: 0 * z, states, actions, states).tolist() == [0.0] * 4
    identity = largest_singular_value(lambda z, a: z, states, actions, states, 1)
    torch.testing.assert_close(identity, torch.ones(4))


def test_tangents_and_power_iteration_go_through_fused_attention():
    """Whose kernels have no second derivative."""
    attention = nn.TransformerEncoderLayer(8, 2, 16, dropout=0.0, batch_first=True).double()

    def attend(states, actions):
        return attention(states.unflatten(-1, (4, 8))).flatten(-2)

    draw = torch.Generator().manual_seed(0)
    states = torch.randn(3, 32, generator=draw, dtype=torch.float64)
    actions = torch.zeros(3, 2, 1, dtype=torch.float64)
    (jacobian,) = jacobians(lambda z: attend(z, None), states)
    found = largest_singular_value(attend, states, actions[:, 0], states, 300)
    torch.testing.assert_close(found, singular_values(jacobian)[..., 0], rtol=1e-6, atol=0)
    _, norms = next(tangent_rollout(attend, states, actions, states[None]))
    expected = (jacobian @ states[..., None])[..., 0].norm(dim=-1).log()
    torch.testing.assert_close(norms[0], expected)


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


# --- every kind of step -----------------------------------------------------------------------


def rollout_inputs(steps=6, batch=4, dim=3):
    draw = torch.Generator().manual_seed(6)
    return torch.randn(batch, dim, generator=draw), torch.randn(batch, steps, dim, generator=draw)


def norms(step, **options):
    return rollout_jacobian_norms(step, *rollout_inputs(), (2, 6), **options)


def one_step(measure, **options):
    """A measurement of one step, as a function of the step alone."""
    states, actions = rollout_inputs()
    return lambda step: measure(step, states, actions[:, 0], **options)


PROBES = torch.ones(2, 4, 3)
MEASUREMENTS = {
    "jacobians": one_step(jacobians),
    "step_jacobians": one_step(step_jacobians),
    "step_squared_norms_stochastic": one_step(step_squared_norms_stochastic, probes=PROBES),
    "rollout_jacobian_norms": norms,
    "rollout_squared_norms_stochastic": lambda step: rollout_squared_norms_stochastic(
        step, *rollout_inputs(), PROBES
    ),
    "largest_singular_value": one_step(largest_singular_value, start=PROBES[0]),
    "tangent_rollout": lambda step: next(tangent_rollout(step, *rollout_inputs(), PROBES))[1:],
}
PENALTIES = {
    "spectral_penalty": one_step(spectral_penalty),
    "spectral_penalty_stochastic": one_step(spectral_penalty_stochastic, probes=PROBES),
}
EVERY = MEASUREMENTS | PENALTIES
every = pytest.mark.parametrize("measure", EVERY.values(), ids=list(EVERY))
every_measurement = pytest.mark.parametrize("measure", MEASUREMENTS.values(), ids=list(MEASUREMENTS))


def assert_refused(error, *words):
    message = str(error.value)
    assert "\n" not in message and all(word in message for word in words), message


@every
def test_a_step_that_returns_a_tuple_is_refused_in_one_line(measure):
    cell = nn.LSTMCell(3, 3)
    with pytest.raises(TypeError) as error:
        measure(lambda h, a: cell(a, (h, h)))
    assert_refused(error, "tuple", "one tensor")


@every
def test_a_step_that_changes_the_batch_is_refused_in_one_line(measure):
    with pytest.raises(ValueError) as error:
        measure(lambda z, a: (z + a).sum(0))
    assert_refused(error, "(3,)", "(4, 3)")


@every
def test_a_step_that_works_in_place_counts_as_its_copy(measure):
    def in_place(z, a):
        z *= 0.5
        a *= 2
        z += a
        return z

    found, expected = measure(in_place), measure(lambda z, a: 0.5 * z + 2 * a)
    torch.testing.assert_close(found, expected)


def test_a_step_that_works_in_place_leaves_the_callers_tensors():
    state, actions = rollout_inputs()
    before = state.clone(), actions.clone()
    rollout_jacobian_norms(lambda z, a: z.add_(a.mul_(2)), state, actions, (6,))
    rollout_squared_norms_stochastic(lambda z, a: z.add_(a.mul_(2)), state, actions, PROBES)
    assert torch.equal(state, before[0]) and torch.equal(actions, before[1])


def test_a_step_without_a_graph_has_jacobian_zero_and_says_so():
    codebook = rollout_inputs()[0]
    step = lambda z, a: codebook[torch.cdist(z, codebook).argmin(-1)]  # noqa: E731
    for name, measure in MEASUREMENTS.items():
        with pytest.warns(UserWarning, match="no graph"):
            found = measure(step)
        expected = -math.inf if "rollout" in name else 0.0
        assert all((value == expected).all() for value in found)
    with pytest.warns(UserWarning, match="no graph"):
        state, action = MEASUREMENTS["step_jacobians"](step)
    assert state.shape == action.shape == (4, 3, 3)


@pytest.mark.parametrize("penalty", PENALTIES.values(), ids=list(PENALTIES))
def test_a_penalty_without_a_graph_is_refused(penalty):
    with pytest.raises(ValueError, match="no graph"):
        penalty(lambda z, a: torch.zeros_like(z))


def test_inference_mode_is_refused_in_one_line_and_no_grad_is_fine():
    for measure in EVERY.values():
        with torch.inference_mode(), pytest.raises(ValueError, match="inference_mode"):
            measure(lambda z, a: 0.5 * z + a)
    with torch.no_grad():
        torch.testing.assert_close(norms(lambda z, a: 0.5 * z + a)[0][0], torch.full((4,), -0.3635).double(),
                                   atol=1e-4, rtol=0)  # fmt: skip


@pytest.mark.parametrize("make", [list, tuple, np.array, torch.tensor, lambda values: np.array(values, "i2")])
def test_horizons_come_in_any_sequence_of_whole_numbers(make):
    step = lambda z, a: 0.5 * z + a  # noqa: E731
    found = rollout_jacobian_norms(step, *rollout_inputs(), make([5, 1, 5]))[0]
    torch.testing.assert_close(found[:, 0], torch.tensor([0.5**5, 0.5, 0.5**5]).double().mul(3**0.5).log10())


@pytest.mark.parametrize("horizons", [(), 5, (0,), (7,), (1.5,), np.array([1.0]), "ab", None], ids=str)
def test_horizons_that_are_none_are_refused_in_one_line(horizons):
    with pytest.raises(ValueError) as error:
        rollout_jacobian_norms(lambda z, a: z + a, *rollout_inputs(), horizons)
    assert_refused(error, "horizons", "from 1 to 6")


@pytest.mark.parametrize(
    ("state", "actions", "word"),
    [((3,), (6, 3), "state[None]"), ((4, 3), (6, 3), "actions"), ((4, 3), (5, 6, 3), "actions")],
)
def test_states_and_actions_that_do_not_fit_are_refused_in_one_line(state, actions, word):
    for measure in (
        lambda *inputs: rollout_jacobian_norms(*inputs, (1,)),
        lambda *inputs: rollout_squared_norms_stochastic(*inputs, torch.ones(1, *state)),
    ):
        with pytest.raises(ValueError) as error:
            measure(lambda z, a: z + a, torch.zeros(state), torch.zeros(actions))
        assert_refused(error, word, "must be")


@pytest.mark.parametrize("chunk", [0, -1, 1.5])
def test_a_chunk_that_is_no_number_of_steps_is_refused(chunk):
    with pytest.raises(ValueError, match=f"chunk = {chunk}"):
        norms(lambda z, a: z + a, chunk=chunk)


@pytest.mark.parametrize("shape", [(4, 3), (0, 4, 3), (2, 3, 4), (2, 4, 2), (1, 2, 4, 3)], ids=str)
def test_probes_of_another_shape_are_refused_in_one_line(shape):
    state, actions = rollout_inputs()
    for measure, plan in (
        (rollout_squared_norms_stochastic, actions),
        (step_squared_norms_stochastic, actions[:, 0]),
        (spectral_penalty_stochastic, actions[:, 0]),
    ):
        with pytest.raises(ValueError) as error:
            measure(lambda z, a: z + a, state, plan, torch.ones(shape))
        assert_refused(error, "probes", str(shape), "(4, 3)")


def test_a_step_with_a_context_of_each_element_works_with_chunk_1_alone():
    context = rollout_inputs()[0]
    step = lambda z, a: 0.5 * z + a * context  # noqa: E731
    with pytest.raises(ValueError) as error:
        norms(step)
    assert_refused(error, "chunk=1", "24 rows")
    action = norms(step, chunk=1)[1]
    expected = context.norm(dim=-1) * sum(0.25**t for t in range(6)) ** 0.5
    torch.testing.assert_close(action[1], expected.double().log10(), atol=1e-6, rtol=0)


class Counter:
    """A step whose rate grows with its calls."""

    def __init__(self):
        self.calls = 0

    def __call__(self, z, a):
        self.calls += 1
        return (0.5 + 0.1 * self.calls) * z + a


ROLLOUTS = [
    pytest.param(lambda step, chunk=chunk: norms(step, chunk=chunk), id=f"chunk {chunk}")
    for chunk in (None, 1, 2)
] + [pytest.param(MEASUREMENTS["rollout_squared_norms_stochastic"], id="stochastic")]


@pytest.mark.parametrize("measure", ROLLOUTS)
@pytest.mark.parametrize(
    "step",
    [
        Counter(),
        lambda z, a: z + a * torch.randn_like(a),
        lambda z, a: nn.functional.dropout(z + a, 0.5),
    ],
    ids=["counts its calls", "random", "dropout by function"],
)
def test_a_step_that_answers_differently_a_second_time_is_refused(step, measure):
    with pytest.raises(ValueError) as error:
        measure(step)
    assert_refused(error, "second call", ".eval()")


def test_a_few_elements_that_round_to_the_other_side_are_no_reason_to_refuse():
    first_call = [True]

    def step(z, a):
        after = 0.5 * z + a
        if first_call[0]:
            first_call[0], after[0] = False, 7.0  # one row of 24
        return after

    assert torch.isfinite(norms(step)[0]).all()


def test_a_rollout_that_overflows_is_reported_as_it_is_and_not_refused():
    state, _ = norms(lambda z, a: 1e30 * z * z + a)
    assert not torch.isfinite(state[1]).any()


# --- layers in training mode ------------------------------------------------------------------


def make_network(layer):
    torch.manual_seed(0)
    network = nn.Sequential(nn.Linear(6, 16), layer, nn.Tanh(), nn.Linear(16, 3))
    return network.train(), lambda z, a: network(torch.cat((z, a), -1))


class Attention(nn.Module):
    """A step through attention; `forward` and a method of another name."""

    def __init__(self, dropout=0.0):
        super().__init__()
        self.embed = nn.Linear(1, 8)
        self.attend = nn.TransformerEncoderLayer(8, 2, 16, dropout=dropout, batch_first=True)
        self.read = nn.Linear(8, 1)

    def forward(self, z, a):
        tokens = self.embed(torch.cat((z, a), -1)[..., None])
        return z + self.read(self.attend(tokens))[..., : z.shape[-1], 0]

    def advance(self, z, a):
        return self(z, a)


@every_measurement
@pytest.mark.parametrize("layer", [nn.BatchNorm1d(16), nn.Dropout(0.3), nn.AlphaDropout(0.1)], ids=str)
def test_layers_in_training_mode_are_refused_before_they_run(layer, measure):
    network, step = make_network(layer)
    before = {name: value.clone() for name, value in network.state_dict().items()}
    with pytest.raises(ValueError) as error:
        measure(step)
    assert_refused(error, type(layer).__name__, ".eval()")
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())
    network.eval()
    assert all(torch.isfinite(value).all() for value in measure(step))
    torch.testing.assert_close(measure(step), measure(step))


@pytest.mark.parametrize(
    "wrap",
    [
        lambda module: module,
        lambda module: module.advance,
        lambda module: lambda z, a: module(z, a),
        lambda module: functools.partial(lambda model, z, a: model(z, a), module),
    ],
    ids=["module", "method", "closure", "partial"],
)
def test_attention_that_drops_out_is_found_wherever_it_hides(wrap):
    module = Attention(dropout=0.2)
    with pytest.raises(ValueError) as error:
        norms(wrap(module))
    assert_refused(error, "training mode", ".eval()")
    assert torch.isfinite(norms(wrap(module.eval()))[0]).all()
    assert torch.isfinite(norms(wrap(Attention(dropout=0.0).train()))[0]).all()  # drops nothing


@pytest.mark.parametrize("penalty", PENALTIES.values(), ids=list(PENALTIES))
def test_a_penalty_through_fused_attention_has_a_gradient_of_every_parameter(penalty):
    module = Attention()
    penalty(module).mean().backward()
    gradients = {name: parameter.grad for name, parameter in module.named_parameters()}
    if penalty is PENALTIES["spectral_penalty"]:
        assert all(gradient is not None for gradient in gradients.values())
    found = [gradient for gradient in gradients.values() if gradient is not None]
    assert all(gradient.isfinite().all() for gradient in found) and gradients["read.weight"].any()


def test_jacobians_with_a_graph_go_through_fused_attention():
    module = Attention()
    for measure in (one_step(jacobians, create_graph=True),
                    one_step(step_squared_norms_stochastic, probes=PROBES, create_graph=True)):  # fmt: skip
        sum(value.square().sum() for value in measure(module)).backward()
        assert module.embed.weight.grad.isfinite().all() and module.embed.weight.grad.any()


# --- steps that others write --------------------------------------------------------------------


def test_a_gru_cell_equals_jacrev():
    torch.manual_seed(0)
    cell, (state, actions) = nn.GRUCell(3, 3).double(), (value.double() for value in rollout_inputs())

    def roll(z, plan):
        for action in plan:
            z = cell(action[None], z[None])[0]
        return z

    found = rollout_jacobian_norms(lambda z, a: cell(a, z), state, actions, (6,), chunk=4)
    expected = vmap(jacrev(roll, argnums=(0, 1)))(state, actions)
    for norm, jacobian in zip(found, expected, strict=True):
        torch.testing.assert_close(norm[0], jacobian.flatten(1).norm(dim=1).log10(), atol=1e-12, rtol=0)


def test_a_functional_ensemble_on_views_that_are_not_contiguous():
    torch.manual_seed(0)
    members = [nn.Linear(5, 3) for _ in range(4)]
    parameters, _ = stack_module_state(members)
    apply = vmap(lambda weights, inputs: functional_call(members[0], weights, inputs))
    state, actions = torch.randn(6, 4, 3).transpose(0, 1), torch.randn(4, 9, 6, 2).transpose(1, 2)
    found, _ = rollout_jacobian_norms(
        lambda z, a: apply(parameters, torch.cat((z, a), -1)), state, actions, (9, 1), chunk=4
    )
    for norm, power in zip(found, (9, 1), strict=True):
        maps = [torch.linalg.matrix_power(m.weight[:, :3].detach().double(), power) for m in members]
        expected = torch.stack([each.norm().log10() for each in maps])
        torch.testing.assert_close(norm, expected[:, None].expand(4, 6), atol=1e-4, rtol=0)


@pytest.mark.parametrize(
    ("dtype", "tolerance"), [(torch.float64, 1e-12), (torch.bfloat16, 0.02), (torch.float16, 3e-3)]
)
def test_every_dtype_at_a_long_horizon(dtype, tolerance):
    torch.manual_seed(0)
    layer = nn.Linear(5, 3).to(dtype)
    step = lambda z, a: layer(torch.cat((z, a), -1))  # noqa: E731
    state = rollout_jacobian_norms(step, torch.randn(2, 3, dtype=dtype), torch.randn(2, 3000, 2, dtype=dtype),
                                   (3000,))[0]  # fmt: skip
    radius = torch.linalg.eigvals(layer.weight[:, :3].detach().double()).abs().max().log10()
    assert abs(state[0, 0] / 3000 - radius) < tolerance + 1e-3


def test_the_rows_that_a_step_sees_fall_with_its_width():
    """Memory: the Jacobians of a chunk stay below 40 MB at any width, and a narrow step gets many steps."""
    seen = []

    def step(z, a):
        seen.append(len(z))
        return 0.5 * z + 0 * a[..., :1]

    for dim in (4, 128):
        seen.clear()
        rollout_jacobian_norms(step, torch.ones(64, dim), torch.ones(64, 16, 1), (16,))
        assert max(seen) * dim * (dim + 1) * 4 < 40e6
        assert (max(seen) == 64 * 16) == (dim == 4)


# --- the accumulator ----------------------------------------------------------------------------


def test_the_accumulator_may_be_read_at_any_time_and_more_maps_than_wait_may_come():
    draw = torch.Generator().manual_seed(7)
    steps = JacobianAccumulator.MOST_WAITING * 2 + 5
    A = torch.randn(steps, 2, 3, 3, generator=draw, dtype=torch.float64) * 0.7
    B = torch.randn(steps, 2, 3, 2, generator=draw, dtype=torch.float64)
    M, G = torch.eye(3, dtype=torch.float64), torch.zeros(3, 3, dtype=torch.float64)
    often, once = JacobianAccumulator((2,), 3), JacobianAccumulator((2,), 3)
    for t in range(steps):
        with_action = B[t] if t % 5 else None
        M, G = A[t] @ M, A[t] @ G @ A[t].mT
        G = G if with_action is None else G + B[t] @ B[t].mT
        for accumulator in (often, once):
            accumulator.push(A[t], with_action)
        if t % 3 == 0:
            state, action = often.log10_norms()
            torch.testing.assert_close(state, frobenius_norm(M).log10(), atol=1e-10, rtol=0)
            trace = G.diagonal(dim1=-2, dim2=-1).sum(-1)
            torch.testing.assert_close(action, (0.5 * trace.log10()).expand(2), atol=1e-10, rtol=0)
    torch.testing.assert_close(often.log10_norms(), once.log10_norms(), atol=1e-10, rtol=0)


def test_steps_of_extreme_norm_and_of_zero_keep_what_is_left():
    eye = torch.eye(2, dtype=torch.float64)[None]
    accumulator = JacobianAccumulator((1,), 2)
    for scale, gain in ((1e18, 1e-18), (1e18, 1e18), (1e18, 0.0)) * 10:
        accumulator.push(scale * eye, gain * eye)
    state, action = accumulator.log10_norms()
    half = 0.5 * math.log10(2)
    assert state.item() == pytest.approx(540 + half) and action.item() == pytest.approx(522 + 18 + half - 18)
    accumulator.push(0 * eye, 3 * eye)  # forgets everything but its own action
    state, action = accumulator.log10_norms()
    assert state.item() == -math.inf and action.item() == pytest.approx(math.log10(3) + half)
    accumulator.push(1e-100 * eye)
    state, action = accumulator.log10_norms()
    assert state.item() == -math.inf and action.item() == pytest.approx(math.log10(3) + half - 100)


# --- closed forms -------------------------------------------------------------------------------

MODELS = {
    "flat": lambda: (FlatModel((0, 1), 3, 2, 16, "test"), 3, 2),
    "linear": lambda: (LinearModel((0, 1), 3, 2, "test"), 3, 2),
    "helm": lambda: (HelmModel((0, 1), 3, 2, 6, 16, 2, True, "test"), 6, 4),
    "helm, unbounded": lambda: (HelmModel((0, 1), 3, 2, 6, 16, 2, False, "test"), 6, 4),
}


@pytest.mark.parametrize("name", MODELS)
def test_the_closed_form_of_a_models_step_equals_autograd(name):
    model, dim, d_action = MODELS[name]()
    model.double()
    draw = torch.Generator().manual_seed(8)
    states, actions = (torch.randn(2, 7, n, generator=draw, dtype=torch.float64) for n in (dim, d_action))

    def generic(z, a):
        return model.step(z, a)

    assert closed_form(model.step) is not None and closed_form(generic) is None
    torch.testing.assert_close(
        step_jacobians(model.step, states, actions), jacobians(generic, states, actions), atol=1e-12, rtol=0
    )
    plans = torch.randn(2, 7, 9, d_action, generator=draw, dtype=torch.float64)
    torch.testing.assert_close(
        rollout_jacobian_norms(model.step, states, plans, (1, 9)),
        rollout_jacobian_norms(generic, states, plans, (1, 9)),
        atol=1e-10,
        rtol=0,
    )


@pytest.mark.parametrize("name", MODELS)
def test_the_penalty_in_closed_form_has_the_value_and_gradients_of_autograd(name):
    model, dim, d_action = MODELS[name]()
    model.double()
    draw = torch.Generator().manual_seed(9)
    states, actions = (torch.randn(2, 7, n, generator=draw, dtype=torch.float64) for n in (dim, d_action))
    states.requires_grad_()
    parameters = [*model.parameters(), states]
    weights = torch.rand(2, 7, generator=draw, dtype=torch.float64)  # so that no symmetry hides an error
    found, expected = (
        spectral_penalty(step, states, actions) for step in (model.step, lambda z, a: model.step(z, a))
    )
    torch.testing.assert_close(found, expected, atol=1e-10, rtol=0)
    gradients = [
        torch.autograd.grad((weights * value).sum(), parameters, allow_unused=True, materialize_grads=True)
        for value in (found, expected)
    ]
    torch.testing.assert_close(*gradients, atol=1e-10, rtol=0)
    assert max(float(gradient.abs().max()) for gradient in gradients[0]) > 0.1


@pytest.mark.parametrize("activation", [nn.functional.silu, torch.tanh, nn.functional.gelu])
@pytest.mark.parametrize("sizes", [(5, 3), (5, 16, 3), (3, 16, 16, 5)], ids=str)
def test_the_jacobian_of_a_perceptron_of_any_depth_and_activation(sizes, activation):
    network = EnsembleMLP((0, 1), sizes, "test", activation).double()
    inputs = torch.randn(2, 4, 6, sizes[0], generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    (expected,) = jacobians(network, inputs)
    assert expected.shape == (2, 4, 6, sizes[-1], sizes[0])
    with torch.no_grad():
        torch.testing.assert_close(network.jacobian(inputs), expected, atol=1e-12, rtol=0)
    found = network.jacobian(inputs)
    torch.testing.assert_close(found, expected, atol=1e-12, rtol=0)
    (with_graph,) = jacobians(network, inputs, create_graph=True)
    gradients = [
        torch.autograd.grad(value.square().sum(), list(network.parameters()), allow_unused=True,
                            materialize_grads=True)
        for value in (found, with_graph)
    ]  # fmt: skip
    torch.testing.assert_close(*gradients, atol=1e-10, rtol=0)


def test_a_subclass_with_another_step_does_not_inherit_the_closed_form():
    class Damped(FlatModel):
        def step(self, latents, blocks):
            return 0.1 * super().step(latents, blocks)

    model = Damped((0,), 3, 2, 8, "test").double()
    states, actions = torch.randn(1, 4, 3).double(), torch.randn(1, 4, 2).double()
    expected = jacobians(lambda z, a: model.step(z, a), states, actions)
    assert closed_form(model.step) is None
    torch.testing.assert_close(step_jacobians(model.step, states, actions), expected)


def test_any_step_may_offer_its_closed_form_and_measurements_use_it():
    def step(z, a):
        return 0.5 * z + a

    step.jacobians = lambda z, a: ((7 * torch.eye(3)).expand(len(z), 3, 3), torch.zeros(len(z), 3, 3))
    state, action = norms(step)
    torch.testing.assert_close(state[0], torch.full((4,), math.log10(49 * 3**0.5)).double())
    assert (action == -math.inf).all()
    assert one_step(spectral_penalty)(step).tolist() == pytest.approx([49 * 3] * 4)


def wrapped(step):
    @functools.wraps(step)
    def slower(z, a):
        return 0.1 * step(z, a)

    return slower


class Delegate:
    """Stands for a step, does something else, and passes every other attribute on."""

    def __init__(self, step):
        self.inner = step

    def __call__(self, z, a):
        return 0.1 * self.inner(z, a)

    def __getattr__(self, name):
        return getattr(self.inner, name)


@pytest.mark.parametrize("around", [wrapped, Delegate])
def test_what_wraps_a_step_does_not_pass_on_its_closed_form(around):
    def function(z, a):
        return 0.5 * z + a

    function.jacobians = lambda z, a: (torch.full((4, 3, 3), 7.0), torch.zeros(4, 3, 3))
    for step, inputs in (
        (function, (torch.ones(4, 3), torch.ones(4, 3))),
        (MODELS["flat"]()[0].step, (torch.ones(2, 4, 3), torch.ones(2, 4, 2))),
    ):
        outer = around(step)
        assert closed_form(step) is not None and closed_form(outer) is None
        expected = jacobians(outer, *inputs)
        torch.testing.assert_close(step_jacobians(outer, *inputs), expected)
        squares = sum(jacobian.square().sum((-2, -1)) for jacobian in expected)
        torch.testing.assert_close(spectral_penalty(outer, *inputs), squares)


def test_measured_closed_forms_keep_no_graph():
    model, dim, d_action = MODELS["flat"]()
    states, actions = torch.randn(2, 4, dim), torch.randn(2, 4, d_action)
    assert not any(value.requires_grad for value in step_jacobians(model.step, states, actions))
    graph = step_jacobians(model.step, states, actions, create_graph=True)
    assert all(value.requires_grad for value in graph)


def test_parameters_are_counted_for_ensembles_and_plain_modules():
    assert count_parameters(EnsembleMLP((0, 1, 2), (4, 8, 2), "test"), members=3) == 5 * 8 + 9 * 2
    assert count_parameters(nn.Linear(4, 8)) == 5 * 8
    with pytest.raises(ValueError, match="members = 7"):
        count_parameters(nn.Linear(4, 8), members=7)
