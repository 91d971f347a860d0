"""Experiment 1's systems, hierarchy and measurements against closed forms."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from common.config import Exp1Config
from common.run.random import generator, generators
from exp1_spectral_cliff import dataset
from exp1_spectral_cliff.analyze_spectrum import (
    growth_rate,
    measure_lyapunov,
    measure_spectrum,
    mollified_squared_norms,
    prediction_error,
    rollout_norms,
    stein_bound,
)
from exp1_spectral_cliff.dataset import Trajectories, draw_windows, evaluation_trajectories, make_system
from exp1_spectral_cliff.models import FlatModel, HelmModel, TrueLevel, cascade_levels, rollout, segments

TINY = Exp1Config(
    horizons=(1, 4, 7, 60, 120),
    gradient_horizons=(5,),
    num_trajectories=4,
    trajectory_length=200,
    num_jacobian_states=3,
    num_error_states=8,
)
CPU = torch.device("cpu")


@pytest.fixture(params=["lorenz", "lorenz_dt033"])
def lorenz(request):
    return make_system(request.param)


# --- systems --------------------------------------------------------------------------------------


def test_lorenz_step_agrees_with_a_much_finer_integration(lorenz, monkeypatch):
    draw = generator(0, "test")
    states = torch.randn(50, 3, generator=draw, dtype=torch.float64)
    actions = 2 * torch.rand(50, 1, generator=draw, dtype=torch.float64) - 1
    coarse = lorenz.step(states, actions)
    monkeypatch.setattr(dataset, "INNER_STEP", 0.001)
    assert (coarse - lorenz.step(states, actions)).abs().max() < 5e-3


def test_lorenz_fixed_points_stay_fixed():
    system = dataset.LorenzSystem("raw", 0.1, 50.0)
    root = math.sqrt(8 / 3 * 27)
    points = torch.tensor([[0.0, 0, 0], [root, root, 27], [-root, -root, 27]], dtype=torch.float64)
    torch.testing.assert_close(system.step(points, torch.zeros(3, 1).double()), points, atol=1e-9, rtol=0)


def test_control_acts_on_x_with_its_gain():
    system = dataset.LorenzSystem("raw", 1e-4, 50.0)
    state = torch.tensor([[1.0, 2.0, 3.0]], dtype=torch.float64)
    push = system.step(state, torch.ones(1, 1).double()) - system.step(state, torch.zeros(1, 1).double())
    assert push[0].tolist() == pytest.approx([50e-4, 0, 0], abs=2e-5)


def test_lorenz_states_are_normalised(lorenz):
    states, actions = dataset.simulate(lorenz, 256, 100, [generator(1, "test")])
    assert states.mean((0, 1, 2)).abs().max() < 0.1
    assert (states.std((0, 1, 2)) - 1).abs().max() < 0.1
    assert actions.abs().max() <= 1


def test_controls_are_held_for_one_to_eight_steps():
    actions = make_system("lorenz").sample_actions(200, 100, generator(0, "test"))[..., 0]
    changes = actions[:, 1:] != actions[:, :-1]
    longest = 0
    for row in changes:
        at = row.nonzero()[:, 0]
        longest = max(longest, int(at.diff().max()))
    assert longest == dataset.LONGEST_HOLD
    assert changes.double().mean().item() == pytest.approx(1 / 4.5, rel=0.1)  # mean hold 4.5 steps


def test_linear_system_is_as_stated():
    system = make_system("linear")
    torch.testing.assert_close(system.W, system.W.mT)
    torch.testing.assert_close(
        torch.linalg.eigvalsh(system.W), torch.linspace(1.02, 1.15, 8, dtype=torch.float64)
    )
    assert dataset.linear_action_norm(system.W, system.B, 50) == pytest.approx(1712.0)


def test_seeds_have_their_own_data_whatever_runs_beside():
    system = make_system("lorenz")
    together = evaluation_trajectories(system, Exp1Config(seeds=(0, 1), horizons=(5,), num_error_states=3))
    alone = evaluation_trajectories(system, Exp1Config(seeds=(1,), horizons=(5,), num_error_states=3))
    assert torch.equal(together.states[1], alone.states[0])
    assert not torch.equal(together.states[0], together.states[1])


def test_windows_are_pieces_of_the_trajectories():
    states = torch.arange(2 * 3 * 11.0).view(2, 3, 11, 1)
    data = Trajectories(states, states[:, :, :-1] + 0.5)
    windows, actions = draw_windows(data, generators((0, 1), "test"), batch=64, length=6, stride=3)
    assert windows.shape == (2, 64, 3, 1) and actions.shape == (2, 64, 6, 1)
    assert (windows.diff(dim=2) == 3).all() and (actions.diff(dim=2) == 1).all()
    assert torch.equal(actions[:, :, 0], windows[:, :, 0] + 0.5)
    starts = windows[0, :, 0, 0] % 11
    assert starts.min() == 0 and starts.max() == 4  # the last window that fits is reached


# --- hierarchy ------------------------------------------------------------------------------------


class Stride:
    def __init__(self, stride):
        self.stride = stride


@given(st.integers(1, 2000), st.sets(st.integers(2, 32), max_size=3))
def test_segments_cover_every_horizon(horizon, strides):
    levels = [Stride(1), *map(Stride, strides)]
    parts = segments(levels, horizon)
    assert sum(level.stride * count for level, count in parts) == horizon
    assert [level.stride for level, _ in parts] == sorted(level.stride for level, _ in parts)  # finest first
    coarsest = max(level.stride for level in levels)
    taken = sum(count for level, count in parts if level.stride == coarsest)
    assert taken == horizon // coarsest


def test_of_equal_strides_the_last_level_counts():
    levels = [Stride(1), Stride(1)]
    assert segments(levels, 7) == [(levels[1], 7)]


def test_the_cascade_adds_a_level_beyond_each_switch():
    levels = ["flat", "helm", "coarse"]
    used = [len(cascade_levels(levels, horizon, (20, 400))) for horizon in (1, 20, 21, 400, 401)]
    assert used == [1, 1, 2, 2, 3]


def test_rollout_of_the_true_level_is_the_true_rollout():
    system = make_system("lorenz")
    data = evaluation_trajectories(system, TINY)
    final = rollout([TrueLevel(system)], data.states[:, :, 0], data.actions[:, :, :60])
    torch.testing.assert_close(final, data.states[:, :, 60])


def test_norms_through_a_hierarchy_equal_autograd():
    flat = FlatModel((0, 1), 3, 1, 16, "test").double()
    helm = HelmModel((0, 1), 3, 1, 8, 16, 4, True, "test").double()
    draw = generator(0, "test")
    states = torch.randn(2, 5, 3, generator=draw, dtype=torch.float64)
    actions = torch.randn(2, 5, 14, 1, generator=draw, dtype=torch.float64)
    state, action = rollout_norms([flat, helm], states, actions)
    states.requires_grad_(), actions.requires_grad_()
    final = rollout([flat, helm], states, actions)
    rows = [torch.autograd.grad(final[..., i].sum(), (states, actions), retain_graph=True) for i in range(3)]
    to_state, to_action = (torch.stack(grads).square().sum(0) for grads in zip(*rows, strict=True))
    torch.testing.assert_close(state, 0.5 * to_state.sum(-1).log10())
    torch.testing.assert_close(action, 0.5 * to_action.sum((-2, -1)).log10())


# --- measurements ---------------------------------------------------------------------------------


def test_prediction_error_is_one_for_the_mean_and_zero_for_the_truth():
    true = torch.randn(2, 50, 3, generator=generator(0, "test"))
    torch.testing.assert_close(
        prediction_error(true.mean(1, keepdim=True).expand_as(true), true), torch.ones(2)
    )
    assert (prediction_error(true, true) == 0).all()


def test_measured_norms_of_the_linear_system_are_the_closed_form():
    system = make_system("linear")
    data = evaluation_trajectories(system, TINY)
    measured = measure_spectrum(system, {}, "true", data, config=TINY, device=CPU)
    for index, horizon in enumerate(TINY.horizons):
        expected = math.log10(dataset.linear_action_norm(system.W, system.B, horizon))
        assert measured["log10_jacobian_action"][index].flatten().tolist() == pytest.approx([expected] * 3)


def test_growth_and_lyapunov_of_the_linear_system_are_its_largest_eigenvalue():
    system = make_system("linear")
    data = evaluation_trajectories(system, TINY)
    exponent = measure_lyapunov(system, data, config=TINY, device=CPU)["lyapunov_exponent"]
    measured = measure_spectrum(system, {}, "true", data, config=TINY, device=CPU)
    rate = growth_rate(measured["log10_jacobian_state"], TINY.horizons)
    assert rate.item() == pytest.approx(math.log10(1.15), rel=0.02)
    assert exponent.item() == pytest.approx(math.log10(1.15), rel=0.05)


def test_mollified_norms_of_a_linear_map_are_its_own():
    """Smoothing cannot change a linear map's Jacobian: Stein's estimate must find it, without bias."""
    system = make_system("linear")
    data = evaluation_trajectories(system, TINY)
    starts, actions = data.states[:, :3, 0], data.actions[:, :3, :7]
    draws = generators((0,), "test")
    estimates = [mollified_squared_norms(system, starts, actions, 0.05, 1000, draws) for _ in range(30)]
    for horizon in (1, 7):
        exact = (
            torch.linalg.matrix_power(system.W, horizon).norm().item() ** 2,
            dataset.linear_action_norm(system.W, system.B, horizon) ** 2,
        )
        for which in (0, 1):
            values = torch.stack([estimate[which][horizon - 1] for estimate in estimates]).flatten()
            error = values.std() / math.sqrt(len(values))
            assert (values.mean() - exact[which]).abs() < 4 * error
            assert error < 0.1 * exact[which], "the test must be able to fail"


def test_stein_bound_holds_for_a_map_whose_own_jacobian_exceeds_it():
    """F(x) = sign(x): Jacobian unbounded, smoothed Jacobian at 0 is sqrt(2/pi)/sigma < std/sigma."""

    class Sign:
        def step(self, states, actions):
            return states.sign() + 0 * actions

    sigma = 0.1
    zeros = torch.zeros(1, 1, 1, dtype=torch.float64)
    state, _ = mollified_squared_norms(
        Sign(), zeros, zeros[..., None], sigma, 40000, generators((0,), "test")
    )
    norm = state[0, 0, 0].sqrt().item()
    assert norm == pytest.approx(math.sqrt(2 / math.pi) / sigma, rel=0.02)
    images = torch.tensor([-1.0, 1.0]).repeat(500)[None, :, None]
    assert norm < stein_bound(images, sigma).item() == pytest.approx(10.0, rel=1e-2)
