"""Parts of a latent world model z' = f(z, a) with discrete actions; experiments 3 and 4 assemble them.

Every part is an ensemble of S independent members, one a seed. Latents live on the sphere of radius
sqrt(d) where `project` is used: a reconstruction loss alone lets them grow without bound.

Shapes: S members, ... batch dimensions, F features of an observation, d latent, A actions (one-hot, or
a point of the simplex), T time, N candidates, G goal latents, K actions of a macro step.
"""

from collections.abc import Callable, Sequence
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from common.latent.observations import Observations, take
from common.training.ensembles import EnsembleMLP

FEW_ROWS = 32  # up to so many latents the calls cost more than what they compute
SHARED_ROWS = 8  # latents of a member from which on it may share a batch of products with other members
GROUPED_PLANS = 256  # discrete plans from which on it pays to compute them in groups of one action
Energy = Callable[[Tensor], Tensor]  # latents [S, ..., d] -> energies [S, ...]


def project(latents: Tensor) -> Tensor:
    """The nearest point on the sphere of radius sqrt(d), where each axis has unit variance: [..., d]."""
    return F.normalize(latents, dim=-1) * latents.shape[-1] ** 0.5


class Encoder(nn.Module):
    """Observations [B, F], [S, B, F] or as a list -> latents [S, B, d] on the sphere."""

    def __init__(
        self, seeds: Sequence[int], features: int, hidden_dim: int, d_latent: int, stream: str = "encoder"
    ):
        super().__init__()
        self.mlp = EnsembleMLP(seeds, [features, hidden_dim, d_latent], stream)
        self.members = len(seeds)

    def forward(self, observations: Tensor | Observations) -> Tensor:
        if isinstance(observations, Observations):
            first, *others = self.mlp.layers
            hidden = observations.through(first)
            for layer in others:
                hidden = layer(self.mlp.activation(hidden))
            return project(hidden)
        if observations.dim() == 2:
            observations = observations.expand(self.members, -1, -1)
        return project(self.mlp(observations))


class Transition(nn.Module):
    """z' = project(z + g([z, a])): one step, or with a macro action of K A numbers, K steps at once.

    The first layer is applied to z and to a apart, so that a rollout computes what its actions
    contribute in one product for all steps (the larger part of the time where few candidates are in flight).
    """

    def __init__(
        self,
        seeds: Sequence[int],
        d_latent: int,
        action_dim: int,
        hidden_dim: int,
        stream: str = "transition",
    ):
        super().__init__()
        self.mlp = EnsembleMLP(seeds, [d_latent + action_dim, hidden_dim, hidden_dim, d_latent], stream)
        self.d_latent = d_latent

    def forward(self, latents: Tensor, actions: Tensor) -> Tensor:
        """latents [S, ..., d], actions [S, ..., A] -> [S, ..., d]."""
        return project(latents + self.mlp(torch.cat([latents, actions], -1)))

    def rollout(self, start: Tensor, actions: Tensor) -> Tensor:
        """Latents after each step: start [S, B, d], actions [S, B, T, A] -> [S, B, T, d]."""
        first, *others = self.mlp.layers
        from_actions = actions.flatten(1, 2) @ first.weight[:, self.d_latent :] + first.bias
        per_step = from_actions.unflatten(1, actions.shape[1:3]).unbind(2)  # T of [S, B, h]
        weight, latent, latents = first.weight[:, : self.d_latent], start, []
        for contribution in per_step:
            hidden = torch.baddbmm(contribution, latent, weight)
            for layer in others:
                hidden = torch.baddbmm(layer.bias, F.silu(hidden), layer.weight)
            latent = project(latent + hidden)
            latents.append(latent)
        return torch.stack(latents, 2)


class ActionLinearTransition(nn.Module):
    """z' = project(z + sum_k a_k g_k(z)): linear in the action, so a soft action mixes real displacements."""

    def __init__(
        self,
        seeds: Sequence[int],
        d_latent: int,
        action_dim: int,
        hidden_dim: int,
        stream: str = "transition",
    ):
        super().__init__()
        self.mlp = EnsembleMLP(seeds, [d_latent, hidden_dim, hidden_dim, action_dim * d_latent], stream)
        self.d_latent = d_latent

    def forward(self, latents: Tensor, actions: Tensor) -> Tensor:
        """latents [S, ..., d], actions [S, ..., A] -> [S, ..., d]."""
        displacements = self.mlp(latents).unflatten(-1, (-1, self.d_latent))  # [S, ..., A, d]
        return project(latents + (actions.unsqueeze(-1) * displacements).sum(-2))

    def rollout(self, start: Tensor, actions: Tensor) -> Tensor:
        """Latents after each step: start [S, B, d], actions [S, B, T, A] -> [S, B, T, d].

        With frozen weights the gradient is by a hand-written adjoint, which saves autograd's bookkeeping:
        most of the time where few candidates are in flight (benchmarks/bench_planners.py). Many discrete
        plans of one member are rolled out in groups of one action, where nothing asks for a gradient.
        """
        if not any(parameter.requires_grad for parameter in self.parameters()):
            if start.shape[0] == 1 and start.shape[1] >= GROUPED_PLANS and start.device.type == "cpu":
                asks = torch.is_grad_enabled() and (start.requires_grad or actions.requires_grad)
                choices = None if asks else _choices(actions[0])
                if choices is not None:
                    return _rollout_of_plans(start, choices, self.mlp.layers)
            return _FrozenRollout.apply(start, actions, self.mlp.layers)
        latent, latents = start, []
        for action in actions.unbind(2):
            latent = self(latent, action)
            latents.append(latent)
        return torch.stack(latents, 2)


class _FrozenRollout(torch.autograd.Function):
    """ActionLinearTransition's rollout and its adjoint with respect to start and actions.

    With g_k(z) the displacement of action k and r = sqrt(d), a step and its adjoint are
        m = z + sum_k a_k g_k(z),   z' = r m / |m|
        mu = dL/dm = r / |m| (lambda' - z' <z', lambda'> / d),   lambda' = dL/dz'
        dL/da_k = <g_k(z), mu>,   dL/dz = mu + sum_k a_k J_k(z)^T mu.
    """

    @staticmethod
    def forward(ctx, start: Tensor, actions: Tensor, layers: Sequence[nn.Module]) -> Tensor:
        keep = any(ctx.needs_input_grad)
        start, actions, weights = _without_a_single_member(start, actions, layers)
        (bias_1, weight_1), (bias_2, weight_2), (bias_3, weight_3) = weights
        affine, radius = _affine_of(start), _radius(start)
        shape = (*start.shape[:-1], actions.shape[-1], start.shape[-1])  # [.., B, A, d]
        latent, latents, tape = start, [start], []
        for add in _mixtures(actions):
            hidden_1 = affine(bias_1, latent, weight_1)
            hidden_2 = affine(bias_2, F.silu(hidden_1, inplace=not keep), weight_2)
            displacements = affine(bias_3, F.silu(hidden_2, inplace=not keep), weight_3).view(shape)
            moved = add(latent, displacements)
            scale = _length(moved).reciprocal_().mul_(radius)
            latent = moved.mul_(scale)
            latents.append(latent)
            if keep:
                tape.append((hidden_1, hidden_2, displacements, scale))
        ctx.tape, ctx.weights, ctx.latents, ctx.actions = tape, weights, latents, actions
        rolled = torch.stack(latents[1:], -2)
        return rolled if rolled.dim() == 4 else rolled[None]

    @staticmethod
    @once_differentiable
    def backward(ctx, gradient: Tensor) -> tuple[Tensor, Tensor, None]:
        gradient = gradient if ctx.actions.dim() == 4 else gradient[0]
        into_1, into_2, into_3 = (weight.mT for _, weight in ctx.weights)
        affine, product = _affine_of(ctx.latents[0]), torch.mm if gradient.dim() == 3 else torch.bmm
        silu_backward = torch.ops.aten.silu_backward
        adjoint, slopes = torch.zeros_like(ctx.latents[0]), []
        actions = ctx.actions.unsqueeze(-1).unbind(-3)  # T of [.., B, A, 1]
        steps = zip(ctx.tape, ctx.latents[1:], actions, gradient.unbind(-2), strict=True)
        for (hidden_1, hidden_2, displacements, scale), latent, action, here in reversed(list(steps)):
            moved = _through_projection(latent, adjoint + here, scale)
            each = displacements.view(-1, *displacements.shape[-2:])
            slopes.append(torch.bmm(each, moved.view(len(each), -1, 1)).view(displacements.shape[:-1]))
            into_last = (action * moved.unsqueeze(-2)).flatten(-2)
            adjoint_2 = silu_backward(product(into_last, into_3), hidden_2)
            adjoint_1 = silu_backward(product(adjoint_2, into_2), hidden_1)
            adjoint = affine(moved, adjoint_1, into_1)
        slopes = torch.stack(slopes[::-1], -2)
        return (adjoint, slopes, None) if slopes.dim() == 4 else (adjoint[None], slopes[None], None)


def _mixtures(actions: Tensor) -> list[Callable[[Tensor, Tensor], Tensor]]:
    """For each step of [.., B, T, A]: (z [.., B, d], g [.., B, A, d]) -> z + sum_k a_k g_k, a new tensor."""
    if actions.shape[-3] <= FEW_ROWS:
        shares = actions.movedim(-2, 0).reshape(actions.shape[-2], -1, 1, actions.shape[-1])  # [T, S B, 1, A]
        return [partial(_mixed_by_product, now) for now in shares.unbind(0)]
    shares = actions.movedim((-2, -1), (0, 1)).contiguous().unsqueeze(-1)  # [T, A, .., B, 1]
    return [partial(_mixed, now.unbind(0)) for now in shares.unbind(0)]


def _mixed(shares: Sequence[Tensor], latents: Tensor, displacements: Tensor) -> Tensor:
    for share, displacement in zip(shares, displacements.unbind(-2), strict=True):
        latents = torch.addcmul(latents, share, displacement)
    return latents


def _mixed_by_product(shares: Tensor, latents: Tensor, displacements: Tensor) -> Tensor:
    """One call instead of one an action: less where calls are what costs."""
    each = displacements.view(-1, *displacements.shape[-2:])
    return torch.baddbmm(latents.view(len(each), 1, -1), shares, each).view(latents.shape)


def _rollout_of_plans(start: Tensor, choices: Tensor, layers: Sequence[nn.Module]) -> Tensor:
    """ActionLinearTransition's rollout of discrete plans: start [1, B, d], choices [B, T] -> [1, B, T, d].

    Rows are kept in groups of one action, so that only its block of the last layer is computed. A step
    regroups the latents, the narrowest there is.
    """
    start, (first, second, last) = start[0], [(layer.bias[0], layer.weight[0]) for layer in layers]
    width, radius = start.shape[-1], _radius(start)
    blocks = list(zip(last[0].split(width, -1), last[1].split(width, -1), strict=True))
    place, sizes = _grouped(choices.T, len(blocks))
    order = torch.empty_like(place).scatter_(
        1, place, torch.arange(len(start), device=place.device).expand_as(place)
    )
    regroup = torch.cat([order[:1], place[:-1].gather(1, order[1:])])  # where rows stood a step before
    rolled = start.new_empty(*choices.shape, width)
    latent = start
    steps = zip(order, regroup, sizes.tolist(), rolled.unbind(1), strict=True)
    for rows, moves, counts, here in steps:
        latent = latent.index_select(0, moves)
        hidden = F.silu(torch.addmm(first[0], latent, first[1]), inplace=True)
        hidden = F.silu(torch.addmm(second[0], hidden, second[1]), inplace=True)
        parts = zip(hidden.split(counts), blocks, strict=True)
        moved = torch.cat([torch.addmm(bias, own, weight) for own, (bias, weight) in parts]).add_(latent)
        latent = moved.mul_(_length(moved).reciprocal_().mul_(radius))
        here.index_copy_(0, rows, latent)
    return rolled[None]


def _grouped(choices: Tensor, num_actions: int) -> tuple[Tensor, Tensor]:
    """Places that put a row's equal actions side by side, in their order; and how many there are of each.

    [T, B] -> [T, B] int64, a permutation of each row, and [T, A].
    """
    taken = choices[:, None] == torch.arange(num_actions, device=choices.device)[:, None]  # [T, A, B]
    so_far = taken.cumsum(-1)
    sizes = so_far[..., -1]
    first = sizes.cumsum(-1) - sizes  # [T, A], where a group begins
    return so_far.gather(1, choices[:, None])[:, 0] - 1 + first.gather(1, choices), sizes


def _choices(actions: Tensor) -> Tensor | None:
    """The actions of plans [..., A] that are one-hot to the bit: [...] int64; None if one is not."""
    num_actions = actions.shape[-1]
    count = actions.numel() // num_actions
    if not int((actions == 1).count_nonzero()) == count == int(actions.count_nonzero()):
        return None
    numbers = torch.arange(num_actions, dtype=actions.dtype, device=actions.device)
    return None if (actions.sum(-1) != 1).any() else (actions @ numbers).long()


def _without_a_single_member(
    start: Tensor, actions: Tensor, layers: Sequence[nn.Module]
) -> tuple[Tensor, Tensor, list[tuple[Tensor, Tensor]]]:
    """start, actions, bias and weight of the layers; of one member with few rows without its dimension.

    Products of matrices cost less than batches of one. They may be rounded otherwise, so a member with more
    rows, which may be in a batch with others, is in a batch of one also when it is alone.
    """
    if len(start) > 1 or start.shape[1] >= SHARED_ROWS:
        return start, actions, [(layer.bias, layer.weight) for layer in layers]
    return start[0], actions[0], [(layer.bias[0], layer.weight[0]) for layer in layers]


def _affine_of(inputs: Tensor) -> Callable[[Tensor, Tensor, Tensor], Tensor]:
    """(bias, inputs, weight) -> bias + inputs weight, for matrices like these or batches of matrices."""
    return torch.addmm if inputs.dim() == 2 else torch.baddbmm


def _radius(latents: Tensor) -> Tensor:
    """sqrt(d) as a tensor, by which a product costs less than by a number."""
    return latents.new_full((), latents.shape[-1] ** 0.5)


def _length(moved: Tensor) -> Tensor:
    """|m|, at least F.normalize's epsilon: [..., d] -> [..., 1]."""
    return torch.linalg.vector_norm(moved, dim=-1, keepdim=True).clamp_(min=1e-12)


def _through_projection(latent: Tensor, adjoint: Tensor, scale: Tensor) -> Tensor:
    """dL/dm from dL/dz', z' = r m / |m|, scale = r / |m| [.., 1]; `latent` is z': [..., d]."""
    inward = (latent * adjoint).sum(-1, keepdim=True)
    return torch.addcmul(adjoint, latent, inward, value=-1 / latent.shape[-1]).mul_(scale)


class _FrozenJumps(torch.autograd.Function):
    """JumpyTransition's rollout and its adjoint with respect to start, scales (1 + s) and shifts b.

    With f the features, h the head and r = sqrt(d), a step and its adjoint are
        x = (1 + s) f(z) + b,   m = z + h(silu(x)),   z' = r m / |m|
        mu = dL/dm as in _FrozenRollout,   xi = dL/dx = J_h(x)^T mu
        dL/d(1 + s) = xi f(z),   dL/db = xi,   dL/dz = mu + J_f(z)^T ((1 + s) xi).
    """

    @staticmethod
    def forward(ctx, start: Tensor, scales: Tensor, shifts: Tensor, layers: Sequence[nn.Module]) -> Tensor:
        start, scales, weights = _without_a_single_member(start, scales, layers)
        shifts = shifts if shifts.dim() == scales.dim() else shifts[0]
        keep = any(ctx.needs_input_grad)
        (bias_1, weight_1), (bias_2, weight_2), (bias_3, weight_3) = weights
        affine, radius = _affine_of(start), _radius(start)
        latent, latents, tape = start, [start], []
        for scale, shift in zip(scales.unbind(-2), shifts.unbind(-2), strict=True):
            features = affine(bias_1, latent, weight_1)
            hidden = torch.addcmul(shift, features, scale)
            inner = affine(bias_2, F.silu(hidden), weight_2)
            moved = affine(bias_3, F.silu(inner), weight_3).add_(latent)
            length = _length(moved)
            latent = moved.div_(length).mul_(radius)
            latents.append(latent)
            if keep:
                tape.append((features, hidden, inner, length))
        ctx.tape, ctx.weights, ctx.latents, ctx.scales = tape, weights, latents, scales
        rolled = torch.stack(latents[1:], -2)
        return rolled if rolled.dim() == 4 else rolled[None]

    @staticmethod
    @once_differentiable
    def backward(ctx, gradient: Tensor) -> tuple[Tensor, Tensor, Tensor, None]:
        gradient = gradient if ctx.scales.dim() == 4 else gradient[0]
        into_features, into_1, into_2 = (weight.mT for _, weight in ctx.weights)
        affine, radius = _affine_of(ctx.latents[0]), _radius(ctx.latents[0])
        adjoint, to_scales, to_shifts = torch.zeros_like(ctx.latents[0]), [], []
        steps = zip(ctx.tape, ctx.latents[1:], ctx.scales.unbind(-2), gradient.unbind(-2), strict=True)
        for (features, hidden, inner, length), latent, scale, here in reversed(list(steps)):
            moved = _through_projection(latent, adjoint + here, radius / length)
            adjoint_2 = torch.ops.aten.silu_backward(moved @ into_2, inner)
            shifted = torch.ops.aten.silu_backward(adjoint_2 @ into_1, hidden)
            to_shifts.append(shifted)
            to_scales.append(shifted * features)
            adjoint = affine(moved, shifted * scale, into_features)
        found = [adjoint, *(torch.stack(slopes[::-1], -2) for slopes in (to_scales, to_shifts))]
        return (*(slopes if gradient.dim() == 4 else slopes[None] for slopes in found), None)


class JumpyTransition(nn.Module):
    """z' = project(z + g(z, a_1 .. a_K)): K steps at once, in one evaluation.

    The macro action scales and shifts the features of z (FiLM: Perez et al., 2018), because what the later
    of its actions do depends on where the earlier ones led; concatenation learns that slowly.
    """

    def __init__(
        self, seeds: Sequence[int], d_latent: int, action_dim: int, hidden_dim: int, stream: str = "jumpy"
    ):
        super().__init__()
        self.modulation = EnsembleMLP(seeds, [action_dim, hidden_dim, 2 * hidden_dim], f"{stream}/modulation")
        self.features = EnsembleMLP(seeds, [d_latent, hidden_dim], f"{stream}/features")
        self.head = EnsembleMLP(seeds, [hidden_dim, hidden_dim, d_latent], f"{stream}/head")

    def forward(self, latents: Tensor, actions: Tensor) -> Tensor:
        """latents [S, ..., d], macro actions [S, ..., K A] -> [S, ..., d]."""
        return self._step(latents, *self.modulation(actions).chunk(2, -1))

    def of_choices(self, latents: Tensor, choices: Tensor) -> Tensor:
        """One macro step of chosen actions: latents [S, B, d], choices [S, B, K] int64 -> [S, B, d].

        What one-hot actions give; where there are no more than B macro actions, each is modulated once.
        """
        strides = choices.shape[-1]
        count = self.modulation.layers[0].weight.shape[1] // strides  # A
        if count**strides > choices.shape[1]:
            return self(latents, F.one_hot(choices, count).to(latents).flatten(-2))
        places = count ** torch.arange(strides - 1, -1, -1, device=choices.device)
        every = torch.arange(count**strides, device=choices.device)[:, None] // places % count  # [A^K, K]
        macros = F.one_hot(every, count).to(latents).flatten(-2).expand(len(latents), -1, -1)
        modulated = take(self.modulation(macros), (choices * places).sum(-1))
        return self._step(latents, *modulated.chunk(2, -1))

    def _step(self, latents: Tensor, scale: Tensor, shift: Tensor) -> Tensor:
        hidden = torch.addcmul(shift, self.features(latents), 1 + scale)
        return project(latents + self.head(F.silu(hidden)))

    def rollout(self, start: Tensor, actions: Tensor) -> Tensor:
        """Latents after each macro step: start [S, B, d], macro actions [S, B, M, K A] -> [S, B, M, d]."""
        scales, shifts = self.modulation(actions).chunk(2, -1)
        if not any(parameter.requires_grad for parameter in self.parameters()):
            layers = (*self.features.layers, *self.head.layers)
            return _FrozenJumps.apply(start, 1 + scales, shifts, layers)
        latent, latents = start, []
        for scale, shift in zip(scales.unbind(2), shifts.unbind(2), strict=True):
            latent = self._step(latent, scale, shift)
            latents.append(latent)
        return torch.stack(latents, 2)


TRANSITIONS = {"concat": Transition, "action_linear": ActionLinearTransition}


def group_actions(actions: Tensor, stride: int) -> Tensor:
    """Macro actions: [..., T, A] -> [..., T // stride, stride A]; a remainder of T is left out."""
    whole = actions.shape[-2] // stride * stride
    return actions[..., :whole, :].unflatten(-2, (-1, stride)).flatten(-2)


def squared_distances(latents: Tensor, goals: Tensor) -> Tensor:
    """1/2 ||z - z_g||^2 to each goal: latents [S, M, d], goals [S, G, d] -> [S, M, G]."""
    norms = latents.square().sum(-1, keepdim=True)
    return 0.5 * (norms - 2 * latents @ goals.mT + goals.square().sum(-1)[:, None]).clamp(min=0)


def squared_distance_to_set(latents: Tensor, goals: Tensor) -> Tensor:
    """min over the goals of 1/2 ||z - z_g||^2: latents [S, ..., d], goals [S, G, d] -> [S, ...]."""
    return squared_distances(latents.flatten(1, -2), goals).amin(-1).view(latents.shape[:-1])


class LatentModel(nn.Module):
    """An encoder, a transition and jumpy transitions: what can be planned through.

    Attributes:
        encoder: observations -> latents.
        transition: one step.
        jumpy: macro steps by stride, as nn.ModuleDict; empty where none was trained.
        d_latent: d.
    """

    def __init__(
        self,
        seeds: Sequence[int],
        features: int,
        num_actions: int,
        *,
        d_latent: int,
        hidden_dim: int,
        transition: str,
        strides: Sequence[int] = (),
    ):
        super().__init__()
        self.encoder = Encoder(seeds, features, hidden_dim, d_latent)
        self.transition = TRANSITIONS[transition](seeds, d_latent, num_actions, hidden_dim)
        self.jumpy = nn.ModuleDict({
            str(stride): JumpyTransition(seeds, d_latent, stride * num_actions, hidden_dim, f"jumpy/{stride}")
            for stride in strides
        })  # fmt: skip
        self.d_latent = d_latent

    def embed(self, latents: Tensor) -> Tensor:
        """Where distances are taken: [S, ..., d] -> [S, ..., h]; here the latents themselves."""
        return latents

    def distance(self, points: Tensor, others: Tensor) -> Tensor:
        """From the one to the other of two embedded states: [S, ..., h] -> [S, ...]; here ||z - z'||."""
        return torch.linalg.vector_norm(points - others, dim=-1)

    def energy(self, latents: Tensor, goals: Tensor) -> Tensor:
        """What planning minimises: latents [S, ..., d], goals [S, G, d] -> [S, ...]."""
        return squared_distance_to_set(latents, goals)

    def jump(self, start: Tensor, actions: Tensor, stride: int) -> Tensor:
        """Latents after every macro step: [S, B, d], [S, B, T, A] -> [S, B, T // stride, d]."""
        return self.jumpy[str(stride)].rollout(start, group_actions(actions, stride))
