"""Jacobians of a world model z' = f(z, a): of one step, and of a whole rollout at any horizon.

This file needs torch alone and imports nothing of this repository: copy it into your own project.

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

What a step must be
    A step maps (states [..., B, d], actions [..., B, d_a]) to ONE tensor [..., B, d_out], each batch
    element on its own and the same at every call: what it knows of time or context belongs in its
    inputs. Call `.eval()` on a model with Dropout or BatchNorm before its Jacobians are measured.

    A step may offer its Jacobians in closed form, as an attribute `jacobians`: a function
    (states, actions) -> (df/dz [..., B, d_out, d], df/da [..., B, d_out, d_a]), differentiable with
    respect to the model's weights. It is then used in place of autograd. A class offers those of its
    method `step` by `step.jacobians = step_jacobians` in its body, so that a subclass with another
    step does not inherit them; an object that is called itself has a method `jacobians`.
"""

import contextlib
import functools
import inspect
import math
import operator
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

Step = Callable[[Tensor, Tensor], Tensor]  # (states [..., B, d], actions [..., B, d_a]) -> [..., B, d_out]
ClosedForm = Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]  # the same arguments -> df/dz, df/da

LN10 = math.log(10.0)
LONGEST_CHUNK = 50  # steps whose Jacobians are taken in one batch
SWEEP_ROWS = 2**10  # batch elements of a reverse sweep, about: what a cache holds
CLOSED_FORM_ROWS = 2**11  # rows of the step Jacobians of a closed form, about: the same
JACOBIAN_BYTES = 2**25  # of step Jacobians in one batch, and of those that wait to be multiplied, about

# ----------------------------------------------------------------------------------------------
# One step
# ----------------------------------------------------------------------------------------------


def jacobians(
    function: Callable[..., Tensor], *inputs: Tensor, create_graph: bool = False
) -> tuple[Tensor, ...]:
    """Exact Jacobians of a map with respect to each input, by one reverse sweep an output dimension.

    Args:
        function: takes the inputs; must map each batch element on its own (a sweep sums over the batch),
            so a model with BatchNorm needs `.eval()`.
        inputs: each [..., B, d_i].
        create_graph: keep the graph, to differentiate a penalty on the Jacobians. Attention is then
            computed by plain products, because its fused kernels have no second derivative. (So has none
            cuDNN's recurrent kernel: on CUDA wrap the call in `torch.backends.cudnn.flags(enabled=False)`.)

    Returns:
        for each input [..., B, d_out, d_i]; zero where the map ignores it, and, with a warning, where its
        output depends on no input by autograd (a look-up, a map under `torch.no_grad`).

    Raises:
        TypeError: the function does not return one tensor.
        ValueError: it does not keep the batch; it has layers in training mode whose output is random or
            mixes the batch, and create_graph is off; autograd is off (`torch.inference_mode`).
    """
    if not create_graph:
        _refuse_training_mode(function)
    return _sweep(function, inputs, create_graph)[1]


def _sweep(
    function: Callable[..., Tensor], inputs: tuple[Tensor, ...], create_graph: bool = False
) -> tuple[Tensor, tuple[Tensor, ...]]:
    """The outputs [..., B, d_out], detached, and the Jacobians as `jacobians` returns them."""
    inputs, outputs = _evaluate(function, inputs, create_graph)
    if not outputs.requires_grad:
        zeros = tuple(value.new_zeros(*outputs.shape, value.shape[-1]) for value in inputs)
        return outputs, zeros
    unit = torch.eye(outputs.shape[-1], dtype=outputs.dtype, device=outputs.device)
    rows = [_pull_back(outputs, inputs, row.expand_as(outputs), create_graph) for row in unit]
    return outputs.detach(), tuple(torch.stack(gradients, -2) for gradients in zip(*rows, strict=True))


def _evaluate(
    function: Callable[..., Tensor], inputs: tuple[Tensor, ...], create_graph: bool
) -> tuple[tuple[Tensor, ...], Tensor]:
    """The inputs to differentiate by, and the map's output [..., B, d_out] with its graph."""
    if torch.is_inference_mode_enabled():
        raise ValueError("torch.inference_mode() has no autograd: leave it (torch.no_grad() is fine)")
    inputs = _require_gradients(inputs, create_graph)
    kernels = sdpa_kernel(SDPBackend.MATH) if create_graph else contextlib.nullcontext()
    with torch.enable_grad(), kernels:
        outputs = function(*(value.clone() for value in inputs))  # clones: a step may work in place
    if not isinstance(outputs, Tensor):
        raise TypeError(
            f"the step returned a {type(outputs).__name__}: it must return one tensor [..., B, d_out] "
            "(an LSTM's pair as torch.cat((h, c), -1))"
        )
    if outputs.shape[:-1] != inputs[0].shape[:-1]:
        raise ValueError(
            f"the step made {tuple(outputs.shape)} of {tuple(inputs[0].shape)}: it must keep all but the last"
        )
    if not outputs.requires_grad:
        warnings.warn("the step's output has no graph: its Jacobian counts as zero", stacklevel=4)
    return inputs, outputs


def _require_gradients(inputs: tuple[Tensor, ...], create_graph: bool) -> tuple[Tensor, ...]:
    """Inputs to differentiate by: leaves of their own, unless a penalty's graph runs back through them."""
    return tuple(
        value if create_graph and value.requires_grad else value.detach().requires_grad_() for value in inputs
    )


def _refuse_training_mode(function: Callable) -> None:
    """ValueError where a module that the function is, belongs to or names is random or mixes the batch."""
    for module in (part for owner in _modules_of(function) for part in owner.modules() if part.training):
        is_dropout = isinstance(module, nn.modules.dropout._DropoutNd)
        rate = module.p if is_dropout else getattr(module, "dropout", 0.0)  # attention, recurrent layers
        if isinstance(module, nn.modules.batchnorm._BatchNorm) or (isinstance(rate, float) and rate > 0):
            raise ValueError(f"{type(module).__name__} is in training mode: call .eval() on the model first")


def _modules_of(function: Callable) -> list[nn.Module]:
    if isinstance(function, functools.partial):
        named = [function.func, *function.args, *function.keywords.values()]
        return [module for value in named for module in _modules_of(value)]
    owner = getattr(function, "__self__", function)
    if isinstance(owner, nn.Module):
        return [owner]
    if inspect.isfunction(function):
        variables = inspect.getclosurevars(function)
        named = [*variables.nonlocals.values(), *variables.globals.values()]
    else:
        named = list(getattr(owner, "__dict__", {}).values())
    return [value for value in named if isinstance(value, nn.Module)]


def closed_form(step: Step) -> ClosedForm | None:
    """The closed form that the step itself offers of its Jacobians (module docstring), or None."""
    holder = step.__func__ if inspect.ismethod(step) else step
    wraps = hasattr(holder, "__wrapped__")  # functools.wraps copies attributes onto a function that does more
    if wraps or inspect.getattr_static(holder, "jacobians", None) is None:
        return None
    return functools.partial(holder.jacobians, step.__self__) if inspect.ismethod(step) else holder.jacobians


def step_jacobians(
    step: Step, states: Tensor, actions: Tensor, create_graph: bool = False
) -> tuple[Tensor, Tensor]:
    """df/dz [..., B, d_out, d] and df/da [..., B, d_out, d_a]: the step's closed form, else `jacobians`."""
    offered = closed_form(step)
    if offered is None:
        state_jacobian, action_jacobian = jacobians(step, states, actions, create_graph=create_graph)
        return state_jacobian, action_jacobian
    with torch.set_grad_enabled(create_graph):
        return offered(states, actions)


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
        create_graph: as in `jacobians`, whose errors are raised here too.

    Returns:
        two tensors [..., B], averaged over the P probes.
    """
    if not create_graph:
        _refuse_training_mode(step)
    inputs, outputs = _evaluate(step, (states, actions), create_graph)
    _require_probes(probes, outputs)
    sweeps = [_pull_back(outputs, inputs, probe, create_graph) for probe in probes]
    state_grads, action_grads = (torch.stack(grads) for grads in zip(*sweeps, strict=True))
    return state_grads.square().sum(-1).mean(0), action_grads.square().sum(-1).mean(0)


def largest_singular_value(
    step: Step, states: Tensor, actions: Tensor, start: Tensor, iterations: int = 20
) -> Tensor:
    """The largest singular value of df/dz by power iteration on J^T J, for wide states: never forms J.

    From below, with an error that falls as (sigma_2 / sigma_1)^(4 iterations) (Golub & Van Loan, Matrix
    Computations, section 8.2). An iteration costs about three reverse sweeps.

    Args:
        step: maps each batch element on its own.
        states: [..., B, d].
        actions: [..., B, d_a].
        start: [..., B, d], where the iteration begins: random, as no direction is known to hold sigma_1.
        iterations: products with J^T J.

    Returns:
        [..., B]; 0 where J is.

    Raises:
        TypeError, ValueError: as `jacobians`.
    """
    _, push, pull = _linearise(step, states, actions)
    direction = start
    for _ in range(iterations):
        direction, _ = _unit(pull(push(direction)))
    return push(_unit(direction)[0]).norm(dim=-1)


def _linearise(
    step: Step, states: Tensor, actions: Tensor
) -> tuple[Tensor, Callable[[Tensor], Tensor], Callable[[Tensor], Tensor]]:
    """A step's outputs, and the products v -> J v and u -> J^T u with J = df/dz there, without a graph.

    J v is the derivative of the linear map u -> J^T u, so reverse sweeps are all it takes.
    """
    _refuse_training_mode(step)
    (states, _), outputs = _evaluate(step, (states.detach(), actions.detach()), create_graph=True)
    adjoint = torch.zeros_like(outputs).requires_grad_()
    (pulled,) = _pull_back(outputs, (states,), adjoint, create_graph=True)

    def push(tangent: Tensor) -> Tensor:
        return _pull_back(pulled, (adjoint,), tangent)[0]

    def pull(adjoint: Tensor) -> Tensor:
        return _pull_back(outputs, (states,), adjoint)[0]

    return outputs.detach(), push, pull


def _unit(vectors: Tensor) -> tuple[Tensor, Tensor]:
    """Vectors [..., d] of norm 1, where they are not zero, and their norms [...]."""
    norm = vectors.norm(dim=-1)
    return vectors / torch.where(norm > 0, norm, torch.ones_like(norm))[..., None], norm


def _require_probes(probes: Tensor, outputs: Tensor) -> None:
    if len(probes) == 0 or probes.shape[1:] != outputs.shape:
        raise ValueError(
            f"probes have shape {tuple(probes.shape)}: must be P, at least 1, of the output's shape, "
            f"[P, ..., B, d_out] with [..., B, d_out] = {tuple(outputs.shape)}"
        )


def _pull_back(
    outputs: Tensor, inputs: tuple[Tensor, ...], adjoint: Tensor, create_graph: bool = False
) -> tuple[Tensor, ...]:
    """v^T J for each input, from v like the outputs; the graph is kept."""
    if not outputs.requires_grad:
        return tuple(torch.zeros_like(value) for value in inputs)
    return torch.autograd.grad(
        outputs, inputs, adjoint, retain_graph=True, create_graph=create_graph, materialize_grads=True
    )


# ----------------------------------------------------------------------------------------------
# A rollout
# ----------------------------------------------------------------------------------------------


class JacobianAccumulator:
    """Carries M = dz_t/dz_0 and the Gramian G of dz_t/da along a rollout (module docstring).

    Maps wait until norms are asked for (or there are many), and are multiplied from the last one back: the
    adjoints L_t = A_K .. A_{t+1} give M = L_0 and G = sum_t L_t B_t B_t^T L_t^T with ONE product of d x d
    matrices a step. All is float64 and rescaled every RESCALE_EVERY steps, mantissa and log scale apart,
    which is safe for step Jacobians of norm up to 1e18.
    """

    RESCALE_EVERY = 8
    MOST_WAITING = 64

    def __init__(self, batch_shape: Sequence[int], dim: int, device: torch.device | str = "cpu"):
        device = torch.device(device)
        self.device = torch.device("cpu") if device.type == "mps" else device  # mps has no float64
        self.state_map = torch.eye(dim, dtype=torch.float64, device=self.device).repeat(*batch_shape, 1, 1)
        self.state_log_scale = torch.zeros(tuple(batch_shape), dtype=torch.float64, device=self.device)
        self.gramian: Tensor | None = None  # None: no action yet
        self.gramian_log_scale = torch.full_like(self.state_log_scale, -math.inf)  # of G^(1/2)
        self._waiting: list[tuple[Tensor, Tensor | None]] = []

    def push(self, state_jacobian: Tensor, action_jacobian: Tensor | None = None) -> None:
        """Append one map: A [..., B, d_out, d] and, where it takes an action, B [..., B, d_out, d_a]."""
        self._waiting.append(
            (state_jacobian.detach(), None if action_jacobian is None else action_jacobian.detach())
        )
        if len(self._waiting) >= min(self.MOST_WAITING, 1 + JACOBIAN_BYTES // (1 + state_jacobian.nbytes)):
            self._absorb()

    def _to_float64(self, value: Tensor) -> Tensor:
        return value.to(self.device).to(torch.float64)  # moved first: mps can hold no float64

    def _absorb(self) -> None:
        """Multiply the waiting maps into M and G."""
        maps, self._waiting = self._waiting, []
        if not maps:
            return
        adjoint, log_scale = None, torch.zeros_like(self.state_log_scale)
        parts, columns = [], []  # (L_t B_t of some steps, their log scale)
        for count, (state_jacobian, action_jacobian) in enumerate(reversed(maps), start=1):
            state_jacobian = self._to_float64(state_jacobian)
            if action_jacobian is not None:
                action_jacobian = self._to_float64(action_jacobian)
                columns.append(action_jacobian if adjoint is None else adjoint @ action_jacobian)
            adjoint = state_jacobian if adjoint is None else adjoint @ state_jacobian
            if count % self.RESCALE_EVERY == 0 or count == len(maps):
                if columns:
                    parts.append(_rescale(torch.cat(columns, -1), log_scale))
                columns = []
                adjoint, log_scale = _rescale(adjoint, log_scale)
        self._absorb_gramian(adjoint, log_scale, parts)
        self.state_map, self.state_log_scale = _rescale(
            adjoint @ self.state_map, self.state_log_scale + log_scale
        )

    def _absorb_gramian(
        self, adjoint: Tensor, log_scale: Tensor, parts: Sequence[tuple[Tensor, Tensor]]
    ) -> None:
        """G <- L G L^T + sum of the parts' C C^T, each brought to the largest of their scales."""
        carried_log_scale = self.gramian_log_scale + log_scale
        scales = torch.stack([carried_log_scale, *(scale for _, scale in parts)])
        top = scales.amax(0).clamp(min=-1e300)  # finite where all are zero
        carried, *weights = torch.exp(scales - top)[..., None, None]
        terms = []
        if parts:
            columns = torch.cat([weight * part for weight, (part, _) in zip(weights, parts, strict=True)], -1)
            terms.append(columns @ columns.mT)
        if self.gramian is not None:
            terms.append((carried.square() * adjoint) @ self.gramian @ adjoint.mT)
        if terms:
            gramian = sum(terms[1:], terms[0])
            norm = _norm_or_one(gramian)
            self.gramian, self.gramian_log_scale = gramian / norm[..., None, None], top + 0.5 * norm.log()

    def log10_norms(self, readout: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """log10 of ||dz_t/dz_0||_F and of ||dz_t/da||_F, each [..., B]; -inf where a norm is zero.

        Args:
            readout: Jacobian of a decoder applied to z_t, [..., B, d_out, d]; the norms are then
                those of its output, and the rollout may go on in z.
        """
        self._absorb()
        state_map, gramian = self.state_map, self.gramian
        if readout is not None:
            readout = self._to_float64(readout.detach())
            state_map = readout @ state_map
        state = frobenius_norm(state_map).log() + self.state_log_scale
        if gramian is None:
            return state / LN10, self.gramian_log_scale
        if readout is not None:
            gramian = readout @ gramian @ readout.mT
        trace = gramian.diagonal(dim1=-2, dim2=-1).sum(-1).clamp(min=0.0)
        return state / LN10, (0.5 * trace.log() + self.gramian_log_scale) / LN10


def _norm_or_one(matrices: Tensor) -> Tensor:
    norm = frobenius_norm(matrices)
    return torch.where(norm == 0, torch.ones_like(norm), norm)


def _rescale(matrices: Tensor, log_scale: Tensor) -> tuple[Tensor, Tensor]:
    """The same matrices of norm 1 and their log scale, which is -inf where they are zero."""
    norm = frobenius_norm(matrices)
    return matrices / _norm_or_one(matrices)[..., None, None], log_scale + norm.log()


def accumulate_rollout(
    accumulator: JacobianAccumulator, step: Step, state: Tensor, actions: Tensor, chunk: int | None = None
) -> Iterator[tuple[int, Tensor]]:
    """Roll a step out, pushing each step's Jacobians; yields (t, z_t) after step t = 1 .. T.

    The step is called twice at every state: with [..., B, d] to roll out, and with the states of `chunk`
    consecutive steps as ONE batch [..., chunk * B, d] for its Jacobians. So a step that holds a tensor for
    each batch element (a context [B, d]) needs chunk=1, and one that counts its calls is refused: put the
    time into its state or actions.

    Args:
        accumulator: its batch shape is [..., B].
        step: the model's transition.
        state: z_0 [..., B, d].
        actions: [..., B, T, d_a].
        chunk: steps per batch of Jacobians; memory grows with chunk * B. None: as many as a cache holds, at
            most LONGEST_CHUNK.

    Raises:
        TypeError: the step does not return one tensor.
        ValueError: a shape that does not fit; a chunk below 1; a step that does not map the batch [..., B, d]
            to itself, that fails on chunk * B rows, that is random or counts its calls, or that has layers in
            training mode (`jacobians`).
    """
    _require_batch(state, actions)
    if chunk is None:
        chunk = _chunk_for(step, state, actions)
    if chunk < 1 or chunk != int(chunk):
        raise ValueError(f"chunk = {chunk}: must be a whole number of steps, at least 1")
    if closed_form(step) is None:
        _refuse_training_mode(step)
    batch = state.shape[-2]
    action_list = actions.unbind(-2)
    for first in range(0, len(action_list), chunk):
        block = action_list[first : first + chunk]
        states = _roll(step, state, block)
        # [..., chunk * B, d, d], [..., chunk * B, d, d_a]
        state_jacobians, action_jacobians = _chunk_jacobians(step, states, block)
        pairs = zip(state_jacobians.split(batch, -3), action_jacobians.split(batch, -3), strict=True)
        for offset, (state_jacobian, action_jacobian) in enumerate(pairs, start=1):
            accumulator.push(state_jacobian, action_jacobian)
            yield first + offset, states[offset]
        state = states[-1]


def _require_batch(state: Tensor, actions: Tensor) -> None:
    if state.dim() < 2:
        raise ValueError(
            f"state has shape {tuple(state.shape)}: must be [..., B, d]; a single state is state[None]"
        )
    if actions.dim() != state.dim() + 1 or actions.shape[:-2] != state.shape[:-1]:
        raise ValueError(
            f"actions have shape {tuple(actions.shape)}: must be [..., B, T, d_a] with the state's "
            f"[..., B] = {tuple(state.shape[:-1])}"
        )


def _chunk_for(step: Step, state: Tensor, actions: Tensor) -> int:
    """Steps whose Jacobians fit a cache, and JACOBIAN_BYTES; at most LONGEST_CHUNK."""
    width = max(1, state.shape[-1])
    batch = max(1, state.numel() // width)
    if closed_form(step) is not None:
        fitting = CLOSED_FORM_ROWS // (batch * width)
    else:
        a_step = batch * width * (width + actions.shape[-1]) * state.element_size()
        fitting = min(SWEEP_ROWS // batch, JACOBIAN_BYTES // a_step)
    return max(1, min(LONGEST_CHUNK, fitting))


def _roll(step: Step, state: Tensor, actions: Sequence[Tensor]) -> list[Tensor]:
    """z_0 .. z_T of a few steps, without a graph; a step that works in place gets clones."""
    states = [state]
    with torch.no_grad():
        for action in actions:
            after = step(states[-1].clone(), action.clone())
            _require_next(after, state)
            states.append(after)
    return states


def _require_next(after: Tensor, state: Tensor) -> None:
    """TypeError or ValueError where what a step made of a state is no state."""
    if not isinstance(after, Tensor) or after.shape != state.shape:
        kind = tuple(after.shape) if isinstance(after, Tensor) else type(after).__name__
        raise (ValueError if isinstance(after, Tensor) else TypeError)(
            f"the step made {kind} of a state {tuple(state.shape)}: it must return the next state, "
            "one tensor of the same shape (an LSTM's pair as torch.cat((h, c), -1))"
        )


def _chunk_jacobians(
    step: Step, states: Sequence[Tensor], actions: Sequence[Tensor]
) -> tuple[Tensor, Tensor]:
    """df/dz [..., K B, d, d] and df/da [..., K B, d, d_a] at K consecutive states, as one batch."""
    inputs = torch.cat(states[:-1], -2), torch.cat(actions, -2)
    if closed_form(step) is not None:
        return step_jacobians(step, *inputs)
    try:
        outputs, (state_jacobian, action_jacobian) = _sweep(step, inputs)
    except RuntimeError as error:
        if len(actions) == 1:
            raise
        raise ValueError(
            f"the step fails on chunk * B = {inputs[0].shape[-2]} rows (it holds a tensor for each batch "
            f"element?), pass chunk=1: {str(error).splitlines()[0]}"
        ) from error
    _require_same(outputs, torch.cat(states[1:], -2), inputs[0])
    return state_jacobian, action_jacobian


def _require_same(again: Tensor, before: Tensor, inputs: Tensor) -> None:
    """ValueError where a step gave other outputs in a second call, by more than rounding, for many rows.

    (Not for a few: a step with a decision in it, as a codebook, may round to the other side.)
    """
    scale = torch.maximum(before.abs().amax(), inputs.abs().amax())
    other = ((again - before).abs() > scale * torch.finfo(before.dtype).eps ** 0.5).any(-1)
    if other.float().mean() > 0.25:
        raise ValueError(
            "the step gives other states for the same inputs in a second call: it is random, mixes the batch "
            "(Dropout, BatchNorm: call .eval() first) or counts its calls (put the time into its inputs)"
        )


def rollout_jacobian_norms(
    step: Step, state: Tensor, actions: Tensor, horizons: Iterable[int], chunk: int | None = None
) -> tuple[Tensor, Tensor]:
    """log10 Frobenius norms of dz_T/dz_0 and dz_T/da for every T in `horizons`, in one pass.

    Exact, with one reverse sweep a state dimension: for states of some hundred dimensions see
    `rollout_squared_norms_stochastic`.

    Args:
        step: the model's transition.
        state: z_0 [..., B, d].
        actions: [..., B, T_max, d_a] with T_max >= max(horizons).
        horizons: steps, in any order, each from 1 to T_max.
        chunk: as in `accumulate_rollout`: the step sees chunk * B rows at a time.

    Returns:
        two float64 tensors [H, ..., B], in the order of `horizons`.

    Raises:
        TypeError, ValueError: a horizon outside 1 .. T_max; as `accumulate_rollout`.
    """
    _require_batch(state, actions)
    horizons = _whole_numbers(horizons, actions.shape[-2])
    accumulator = JacobianAccumulator(state.shape[:-1], state.shape[-1], state.device)
    norms = {}
    for t, _ in accumulate_rollout(accumulator, step, state, actions[..., : max(horizons), :], chunk):
        if t in horizons:
            norms[t] = accumulator.log10_norms()
    state_norms, action_norms = zip(*(norms[t] for t in horizons), strict=True)
    return torch.stack(state_norms), torch.stack(action_norms)


def _whole_numbers(horizons: Iterable[int], available: int) -> list[int]:
    """The horizons as ints, from any sequence or array of whole numbers."""
    try:
        numbers = [operator.index(horizon) for horizon in horizons]
    except TypeError:
        numbers = []
    if not numbers or min(numbers) < 1 or max(numbers) > available:
        said = " ".join(str(horizons).split())
        raise ValueError(
            f"horizons = {said}: must be whole numbers, each from 1 to {available}, the actions given"
        )
    return numbers


def rollout_squared_norms_stochastic(
    step: Step, state: Tensor, actions: Tensor, probes: Tensor
) -> tuple[Tensor, Tensor]:
    """Natural log of unbiased estimates of ||dz_T/dz_0||_F^2 and ||dz_T/da||_F^2, for wide states.

    An adjoint sweep carries lambda_t = v^T dz_T/dz_t for each probe v instead of the d x d products;
    the cost is two rollouts and one reverse sweep a probe. lambda is rescaled at every step, so no
    horizon overflows. (exp of the result is unbiased; the log itself is not.)

    Args:
        step: the model's transition.
        state: z_0 [..., B, d].
        actions: [..., B, T, d_a].
        probes: [P, ..., B, d], as in `step_squared_norms_stochastic`.

    Returns:
        two tensors [..., B].

    Raises:
        TypeError, ValueError: as `accumulate_rollout`, but there is no chunk.
    """
    _require_batch(state, actions)
    _require_probes(probes, state)
    _refuse_training_mode(step)
    action_list = actions.unbind(-2)
    states = _roll(step, state, action_list)
    adjoints = list(probes)
    log_scale = torch.zeros(probes.shape[:-1], dtype=probes.dtype, device=probes.device)  # [P, ..., B]
    total = torch.full_like(log_scale, -math.inf)  # log of the sum over t of ||lambda_t B_t||^2
    for previous, after, action in zip(
        reversed(states[:-1]), reversed(states), reversed(action_list), strict=False
    ):
        inputs, outputs = _evaluate(step, (previous, action), create_graph=False)
        _require_same(outputs.detach(), after, previous)
        sweeps = [_pull_back(outputs, inputs, adjoint) for adjoint in adjoints]
        moved, to_action = (torch.stack(gradients) for gradients in zip(*sweeps, strict=True))
        total = torch.logaddexp(total, to_action.square().sum(-1).log() + 2 * log_scale)
        norm = moved.norm(dim=-1)
        norm = torch.where(norm > 0, norm, torch.ones_like(norm))
        adjoints, log_scale = (moved / norm[..., None]).unbind(0), log_scale + norm.log()
    log_state = torch.stack(list(adjoints)).square().sum(-1).log() + 2 * log_scale
    mean = math.log(len(probes))
    return torch.logsumexp(log_state, 0) - mean, torch.logsumexp(total, 0) - mean


def tangent_rollout(
    step: Step, state: Tensor, actions: Tensor, tangents: Tensor
) -> Iterator[tuple[Tensor, Tensor]]:
    """Roll a step out with tangents beside it, for wide states: one pass, and every horizon on the way.

    A tangent v becomes M_t v with M_t = dz_t/dz_0, rescaled at every step, so no horizon overflows. What
    it tells:
        - for random v with E v v^T = I the mean of ||M_t v||^2 is an unbiased estimate of ||M_t||_F^2,
          which `rollout_squared_norms_stochastic` makes for one horizon (and for actions) by an adjoint;
        - the slope of ln ||M_t v|| over t is the largest Lyapunov exponent, from almost every v (Benettin
          et al., 1980); of a linear step ln of its spectral radius.

    Args:
        step: the model's transition.
        state: z_0 [..., B, d].
        actions: [..., B, T, d_a].
        tangents: [P, ..., B, d].

    Yields:
        after step t = 1 .. T: z_t [..., B, d] and ln ||M_t v|| [P, ..., B], -inf where it is zero.

    Raises:
        TypeError, ValueError: as `accumulate_rollout`, but there is no chunk.
    """
    _require_batch(state, actions)
    _require_probes(tangents, state)
    log_norms = torch.zeros(tangents.shape[:-1], dtype=tangents.dtype, device=tangents.device)
    for action in actions.unbind(-2):
        after, push, _ = _linearise(step, state, action)
        _require_next(after, state)
        tangents, stretch = _unit(torch.stack([push(tangent) for tangent in tangents]))
        state, log_norms = after, log_norms + stretch.log()
        yield state, log_norms
