"""Penalties that shape a world model, each a pure function of tensors.

Shapes: ... leading dimensions (ensemble members), B batch, d state, d_a action, P probes.
"""

from torch import Tensor

from common.jacobian_utils import Step, step_jacobians, step_squared_norms_stochastic


def spectral_penalty(step: Step, states: Tensor, actions: Tensor) -> Tensor:
    """||df/dz||_F^2 + ||df/da||_F^2 of one step, exact and differentiable: [..., B].

    The original documents' spectral regulariser. On a linear model z' = W z + B a it is ridge
    regression. d_out reverse sweeps: the cheaper form for d_out <= 32 or so.
    """
    state_jacobian, action_jacobian = step_jacobians(step, states, actions, create_graph=True)
    return state_jacobian.square().sum((-2, -1)) + action_jacobian.square().sum((-2, -1))


def spectral_penalty_stochastic(step: Step, states: Tensor, actions: Tensor, probes: Tensor) -> Tensor:
    """Unbiased estimate of `spectral_penalty` from P random probes [P, ..., B, d_out]: [..., B]."""
    state, action = step_squared_norms_stochastic(step, states, actions, probes, create_graph=True)
    return state + action


def hf_invariance(centre: Tensor, perturbed: Tensor) -> Tensor:
    """(E(a) - E(a + delta))^2, the documents' L_HF, from the energies at a and at a + delta: [...].

    With weight lambda beside a squared error and delta ~ N(0, sigma^2 I) its minimiser damps the
    frequency w by H = 1 / (1 + 2 lambda (1 - exp(-w^2 sigma^2 / 2))), so never below 1 / (1 + 2 lambda).
    """
    return (centre - perturbed).square()


def second_difference(centre: Tensor, plus: Tensor, minus: Tensor) -> Tensor:
    """(E(a + delta) + E(a - delta) - 2 E(a))^2 from the three energies: [...].

    Zero on linear energies and small on quadratic ones, so it removes ripples and leaves the basin: with
    s = w^2 sigma^2 its minimiser damps w by H = 1 / (1 + lambda (6 - 8 exp(-s / 2) + 2 exp(-2 s))).
    """
    return (plus + minus - 2 * centre).square()
