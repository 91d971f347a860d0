"""Penalties that shape a world model, each a pure function of tensors.

This file needs torch alone and imports nothing of this repository: copy it into your own project.

Shapes: ... leading dimensions (ensemble members), B batch, d state, d_a action, d_out output, P probes.

A step maps (states [..., B, d], actions [..., B, d_a]) to [..., B, d_out], each batch element on its own (so
not through a BatchNorm in training mode; Dropout is differentiated as it fell). Where it offers its Jacobians
in closed form, as an attribute `jacobians` (see jacobian_utils.py), the exact penalty uses them.
"""

import functools
import inspect
from collections.abc import Callable, Iterable

import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

Step = Callable[[Tensor, Tensor], Tensor]  # (states [..., B, d], actions [..., B, d_a]) -> [..., B, d_out]


def spectral_penalty(step: Step, states: Tensor, actions: Tensor) -> Tensor:
    """||df/dz||_F^2 + ||df/da||_F^2 of one step, exact and differentiable: [..., B].

    What the original documents' regulariser is meant to be: theirs, the gradient of the summed output, is one
    fixed probe of it, and biased. On a linear model z' = W z + B a it is ridge
    regression. By the step's closed form where it offers one, else by d_out reverse sweeps: the cheaper form
    for d_out <= 32 or so. Attention is computed by plain products here, because its fused kernels have no
    second derivative; nor has cuDNN's recurrent kernel (torch.backends.cudnn.flags(enabled=False)).

    Raises:
        TypeError: the step does not return one tensor.
        ValueError: it does not keep the batch, or its output has no graph; autograd is off.
    """
    offered = _closed_form(step)
    if offered is not None:
        state_jacobian, action_jacobian = offered(states, actions)
        return state_jacobian.square().sum((-2, -1)) + action_jacobian.square().sum((-2, -1))
    inputs, outputs = _evaluate(step, states, actions)
    unit = torch.eye(outputs.shape[-1], dtype=outputs.dtype, device=outputs.device)
    squares = _squared_sweeps(outputs, inputs, (row.expand_as(outputs) for row in unit))
    # A gradient, 0, for parameters that no Jacobian depends on: DistributedDataParallel waits for every one.
    return squares.sum(0) + 0.0 * outputs.sum(-1)


def spectral_penalty_stochastic(step: Step, states: Tensor, actions: Tensor, probes: Tensor) -> Tensor:
    """Unbiased estimate of `spectral_penalty` from P random probes [P, ..., B, d_out]: [..., B].

    Hutchinson's E ||v^T J||^2 = ||J||_F^2 for E v v^T = I, by one reverse sweep a probe. Raises as
    `spectral_penalty` does.
    """
    inputs, outputs = _evaluate(step, states, actions)
    if len(probes) == 0 or probes.shape[1:] != outputs.shape:
        shapes = f"{tuple(probes.shape)}: must be [P, ..., B, d_out], P at least 1"
        raise ValueError(f"probes have shape {shapes}, of the step's output {tuple(outputs.shape)}")
    return _squared_sweeps(outputs, inputs, probes).mean(0)


def _closed_form(step: Step) -> Callable[[Tensor, Tensor], tuple[Tensor, Tensor]] | None:
    """As `closed_form` of jacobian_utils.py, so that this file stands alone."""
    holder = step.__func__ if inspect.ismethod(step) else step
    wraps = hasattr(holder, "__wrapped__")  # functools.wraps copies attributes onto a function that does more
    if wraps or inspect.getattr_static(holder, "jacobians", None) is None:
        return None
    return functools.partial(holder.jacobians, step.__self__) if inspect.ismethod(step) else holder.jacobians


def _evaluate(step: Step, states: Tensor, actions: Tensor) -> tuple[tuple[Tensor, Tensor], Tensor]:
    """Inputs to differentiate by, and the step's output with a graph that can be differentiated twice."""
    if torch.is_inference_mode_enabled():
        raise ValueError("torch.inference_mode() has no autograd: leave it")
    inputs = tuple(
        value if value.requires_grad else value.detach().requires_grad_() for value in (states, actions)
    )
    with torch.enable_grad(), sdpa_kernel(SDPBackend.MATH):
        outputs = step(*(value.clone() for value in inputs))  # clones: a step may work in place
    if not isinstance(outputs, Tensor):
        raise TypeError(f"the step returned a {type(outputs).__name__}: it must return one tensor")
    if outputs.shape[:-1] != states.shape[:-1]:
        shapes = f"{tuple(outputs.shape)} of {tuple(states.shape)}"
        raise ValueError(f"the step made {shapes}: it must keep all dimensions but the last")
    if not outputs.requires_grad:
        raise ValueError("the step's output has no graph: a penalty on it can shape nothing")
    return inputs, outputs


def _squared_sweeps(outputs: Tensor, inputs: tuple[Tensor, ...], probes: Iterable[Tensor]) -> Tensor:
    """||v^T df/dz||^2 + ||v^T df/da||^2 of each probe v like the outputs: [P, ..., B]."""
    sweeps = (
        torch.autograd.grad(
            outputs, inputs, probe, retain_graph=True, create_graph=True, materialize_grads=True
        )
        for probe in probes
    )
    return torch.stack([state.square().sum(-1) + action.square().sum(-1) for state, action in sweeps])


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
