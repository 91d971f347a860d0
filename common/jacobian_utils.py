"""Jacobians of a world model z' = f(z, a): of one step, and of a whole rollout at any horizon.

Shapes
    ...  leading dimensions (ensemble members, seeds); may be absent
    B    batch; a step must map each batch element on its own
    T    steps of the rollout
    d    state dimension, d_out its image's, d_a action dimension

The rollout Jacobians of z_T with respect to the start z_0 and to all actions a = (a_1 .. a_T) follow
from the step Jacobians A_t = df/dz, B_t = df/da at (z_{t-1}, a_t) by the chain rule,

    M_t = A_t M_{t-1},                     M_0 = I         (M_t = dz_t/dz_0)
    G_t = A_t G_{t-1} A_t^T + B_t B_t^T,   G_0 = 0         (G_t = (dz_t/da)(dz_t/da)^T),

so that ||dz_T/da||_F^2 = tr G_T: one forward pass gives the norms at EVERY horizon, and the
[d, T d_a] Jacobian is never formed. G is the finite-horizon controllability Gramian of the
linearisation (e.g. Kailath, Linear Systems, 1980, section 9.2). Both are carried in float64 with
their exponents apart, so no horizon overflows.
"""

import math
from collections.abc import Callable, Iterator, Sequence

import torch
from torch import Tensor

from common.run.devices import measurement_device, to_float64

Step = Callable[[Tensor, Tensor], Tensor]  # (states [..., B, d], actions [..., B, d_a]) -> [..., B, d_out]

LN10 = math.log(10.0)

# ----------------------------------------------------------------------------------------------
# One step
# ----------------------------------------------------------------------------------------------


def jacobians(
    function: Callable[..., Tensor], *inputs: Tensor, create_graph: bool = False
) -> tuple[Tensor, ...]:
    """Exact Jacobians of a map with respect to each input, by one reverse sweep an output dimension.

    Args:
        function: takes the inputs; must map each batch element on its own (a sweep sums over the batch).
        inputs: each [..., B, d_i].
        create_graph: keep the graph, to differentiate a penalty on the Jacobians.

    Returns:
        for each input [..., B, d_out, d_i]; zero where the map ignores it.
    """
    inputs = _require_gradients(inputs, create_graph)
    with torch.enable_grad():
        outputs = function(*inputs)
        assert outputs.shape[:-1] == inputs[0].shape[:-1], "the map must keep the batch"
        rows = [
            torch.autograd.grad(
                output.sum(), inputs, retain_graph=True, create_graph=create_graph, materialize_grads=True
            )
            for output in outputs.unbind(-1)
        ]
    return tuple(torch.stack(gradients, -2) for gradients in zip(*rows, strict=True))


def _require_gradients(inputs: tuple[Tensor, ...], create_graph: bool) -> tuple[Tensor, ...]:
    """Inputs to differentiate by: leaves of their own, unless a penalty's graph runs back through them."""
    return tuple(
        value if create_graph and value.requires_grad else value.detach().requires_grad_() for value in inputs
    )


def step_jacobians(
    step: Step, states: Tensor, actions: Tensor, create_graph: bool = False
) -> tuple[Tensor, Tensor]:
    """df/dz [..., B, d_out, d] and df/da [..., B, d_out, d_a] of one step (see `jacobians`)."""
    state_jacobian, action_jacobian = jacobians(step, states, actions, create_graph=create_graph)
    return state_jacobian, action_jacobian


def frobenius_norm(jacobians: Tensor) -> Tensor:
    """Frobenius norm of each matrix: [..., d_out, d] -> [...]."""
    return torch.linalg.matrix_norm(jacobians)


def singular_values(jacobians: Tensor) -> Tensor:
    """Singular values in descending order: [..., d_out, d] -> [..., min(d_out, d)]."""
    return torch.linalg.svdvals(jacobians)


def step_squared_norms_stochastic(
    step: Step, states: Tensor, actions: Tensor, probes: Tensor, create_graph: bool = False
) -> tuple[Tensor, Tensor]:
    """Hutchinson's unbiased estimate of ||df/dz||_F^2 and ||df/da||_F^2 (Hutchinson, 1990).

    E_v ||v^T J||^2 = ||J||_F^2 for probes v with E v v^T = I. The cost is one reverse sweep a
    probe, whatever the state's width. A FIXED v, such as the v = 1 of `autograd.grad(outputs.sum(), ..)`,
    is not an estimate: it measures one direction of the output space.

    Args:
        step: maps each batch element on its own.
        states: [..., B, d].
        actions: [..., B, d_a].
        probes: [P, ..., B, d_out], independent, zero mean, unit variance (normal or Rademacher).
        create_graph: keep the graph, to differentiate a penalty.

    Returns:
        two tensors [..., B], averaged over the P probes.
    """
    states, actions = _require_gradients((states, actions), create_graph)
    with torch.enable_grad():
        outputs = step(states, actions)
        sweeps = [
            torch.autograd.grad(
                outputs,
                (states, actions),
                probe,
                retain_graph=True,
                create_graph=create_graph,
                materialize_grads=True,
            )
            for probe in probes
        ]
    state_grads, action_grads = (torch.stack(grads) for grads in zip(*sweeps, strict=True))
    return state_grads.square().sum(-1).mean(0), action_grads.square().sum(-1).mean(0)


# ----------------------------------------------------------------------------------------------
# A rollout
# ----------------------------------------------------------------------------------------------


class JacobianAccumulator:
    """Carries M = dz_t/dz_0 and the Gramian G of dz_t/da along a rollout (module docstring).

    Both are stored as mantissa times exp(log scale), float64. They are rescaled every
    `RESCALE_EVERY` steps, which is safe for step Jacobians of norm up to 1e18.
    """

    RESCALE_EVERY = 8

    def __init__(self, batch_shape: Sequence[int], dim: int, device: torch.device | str = "cpu"):
        self.device = device = measurement_device(torch.device(device))
        self.state_map = torch.eye(dim, dtype=torch.float64, device=device).repeat(*batch_shape, 1, 1)
        self.gramian = torch.zeros_like(self.state_map)
        self.state_log_scale = torch.zeros(tuple(batch_shape), dtype=torch.float64, device=device)
        self.gramian_log_scale = torch.zeros_like(self.state_log_scale)  # of G^(1/2)
        self._since_rescale = 0

    def push(self, state_jacobian: Tensor, action_jacobian: Tensor | None = None) -> None:
        """Append one map: A [..., B, d_out, d] and, where it takes an action, B [..., B, d_out, d_a]."""
        jacobian = to_float64(state_jacobian.detach(), self.device)
        self.state_map = jacobian @ self.state_map
        self.gramian = jacobian @ self.gramian @ jacobian.mT
        if action_jacobian is not None:
            scaled = to_float64(action_jacobian.detach(), self.device)
            scaled = scaled * torch.exp(-self.gramian_log_scale)[..., None, None]
            self.gramian = self.gramian + scaled @ scaled.mT
        self._since_rescale += 1
        if self._since_rescale == self.RESCALE_EVERY:
            self._rescale()

    def _rescale(self) -> None:
        """Move the mantissas' magnitude into the log scales; a zero mantissa stays as it is."""
        self._since_rescale = 0
        norm = _norm_or_one(self.state_map)
        self.state_map = self.state_map / norm[..., None, None]
        self.state_log_scale = self.state_log_scale + norm.log()
        # The Gramian's scale never falls far below 1: the next B B^T must not overflow against it.
        root = _norm_or_one(self.gramian).sqrt()
        root = torch.maximum(root, torch.exp(-300.0 - self.gramian_log_scale))
        self.gramian = self.gramian / root.square()[..., None, None]
        self.gramian_log_scale = self.gramian_log_scale + root.log()

    def log10_norms(self, readout: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """log10 of ||dz_t/dz_0||_F and of ||dz_t/da||_F, each [..., B]; -inf where a norm is zero.

        Args:
            readout: Jacobian of a decoder applied to z_t, [..., B, d_out, d]; the norms are then
                those of its output, and the rollout may go on in z.
        """
        state_map, gramian = self.state_map, self.gramian
        if readout is not None:
            readout = to_float64(readout.detach(), self.device)
            state_map, gramian = readout @ state_map, readout @ gramian @ readout.mT
        state = frobenius_norm(state_map).log() + self.state_log_scale
        trace = gramian.diagonal(dim1=-2, dim2=-1).sum(-1).clamp(min=0.0)
        action = 0.5 * trace.log() + self.gramian_log_scale
        return state / LN10, action / LN10


def _norm_or_one(matrices: Tensor) -> Tensor:
    norm = frobenius_norm(matrices)
    return torch.where(norm > 0, norm, torch.ones_like(norm))


def accumulate_rollout(
    accumulator: JacobianAccumulator, step: Step, state: Tensor, actions: Tensor, chunk: int = 50
) -> Iterator[tuple[int, Tensor]]:
    """Roll a step out, pushing each step's Jacobians; yields (t, z_t) after step t = 1 .. T.

    The step Jacobians of `chunk` consecutive steps are taken in one batch.

    Args:
        accumulator: its batch shape is [..., B].
        step: the model's transition.
        state: z_0 [..., B, d].
        actions: [..., B, T, d_a].
        chunk: steps per batch of Jacobians; memory grows with chunk * B.
    """
    batch = state.shape[-2]
    action_list = actions.unbind(-2)
    for first in range(0, len(action_list), chunk):
        block = action_list[first : first + chunk]
        states = [state]
        with torch.no_grad():
            for action in block:
                states.append(step(states[-1], action))
        state_jacobians, action_jacobians = step_jacobians(
            step, torch.cat(states[:-1], -2), torch.cat(block, -2)
        )  # [..., chunk * B, d, d], [..., chunk * B, d, d_a]
        pairs = zip(state_jacobians.split(batch, -3), action_jacobians.split(batch, -3), strict=True)
        for offset, (state_jacobian, action_jacobian) in enumerate(pairs, start=1):
            accumulator.push(state_jacobian, action_jacobian)
            yield first + offset, states[offset]
        state = states[-1]


def rollout_jacobian_norms(
    step: Step, state: Tensor, actions: Tensor, horizons: Sequence[int], chunk: int = 50
) -> tuple[Tensor, Tensor]:
    """log10 Frobenius norms of dz_T/dz_0 and dz_T/da for every T in `horizons`, in one pass.

    Args:
        step: the model's transition.
        state: z_0 [..., B, d].
        actions: [..., B, T_max, d_a] with T_max >= max(horizons).
        horizons: steps, in any order, each from 1 to T_max.
        chunk: as in `accumulate_rollout`.

    Returns:
        two float64 tensors [H, ..., B], in the order of `horizons`.

    Raises:
        ValueError: a horizon outside 1 .. T_max.
    """
    available = actions.shape[-2]
    if not horizons or min(horizons) < 1 or max(horizons) > available:
        raise ValueError(f"horizons {tuple(horizons)}: each must be from 1 to {available}, the actions given")
    accumulator = JacobianAccumulator(state.shape[:-1], state.shape[-1], state.device)
    norms = {}
    for t, _ in accumulate_rollout(accumulator, step, state, actions[..., : max(horizons), :], chunk):
        if t in horizons:
            norms[t] = accumulator.log10_norms()
    state_norms, action_norms = zip(*(norms[t] for t in horizons), strict=True)
    return torch.stack(state_norms), torch.stack(action_norms)


def rollout_squared_norms_stochastic(
    step: Step, state: Tensor, actions: Tensor, probes: Tensor
) -> tuple[Tensor, Tensor]:
    """Natural log of unbiased estimates of ||dz_T/dz_0||_F^2 and ||dz_T/da||_F^2, for wide states.

    An adjoint sweep carries lambda_t = v^T dz_T/dz_t for each probe v instead of the d x d products;
    the cost is one rollout and one reverse sweep a probe. lambda is rescaled at every step, so no
    horizon overflows. (exp of the result is unbiased; the log itself is not.)

    Args:
        step: the model's transition.
        state: z_0 [..., B, d].
        actions: [..., B, T, d_a].
        probes: [P, ..., B, d], as in `step_squared_norms_stochastic`.

    Returns:
        two tensors [..., B].
    """
    states, action_list = [state], actions.unbind(-2)
    with torch.no_grad():
        for action in action_list:
            states.append(step(states[-1], action))
    log_state, log_action = [], []
    for adjoint in probes:
        log_scale = torch.zeros(adjoint.shape[:-1], dtype=adjoint.dtype, device=adjoint.device)
        total = torch.full_like(log_scale, -math.inf)  # log of the sum over t of ||lambda_t B_t||^2
        for previous, action in zip(reversed(states[:-1]), reversed(action_list), strict=True):
            previous, action = _require_gradients((previous, action), create_graph=False)
            with torch.enable_grad():
                outputs = step(previous, action)
            adjoint, to_action = torch.autograd.grad(
                outputs, (previous, action), adjoint, materialize_grads=True
            )
            total = torch.logaddexp(total, to_action.square().sum(-1).log() + 2 * log_scale)
            norm = adjoint.norm(dim=-1)
            norm = torch.where(norm > 0, norm, torch.ones_like(norm))
            adjoint, log_scale = adjoint / norm[..., None], log_scale + norm.log()
        log_state.append(adjoint.square().sum(-1).log() + 2 * log_scale)
        log_action.append(total)
    mean = math.log(len(probes))
    return (
        torch.logsumexp(torch.stack(log_state), 0) - mean,
        torch.logsumexp(torch.stack(log_action), 0) - mean,
    )
