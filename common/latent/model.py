"""Parts of a latent world model z' = f(z, a) with discrete actions; experiments 3 and 4 assemble them.

Every part is an ensemble of S independent members, one a seed. Latents live on the sphere of radius
sqrt(d) where `project` is used: a reconstruction loss alone lets them grow without bound.

Shapes: S members, ... batch dimensions, F features of an observation, d latent, A actions (one-hot, or
a point of the simplex), T time, N candidates, G goal latents, K actions of a macro step.
"""

from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from common.latent.observations import Observations, take
from common.training.ensembles import EnsembleMLP

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
        most of the time where few candidates are in flight (benchmarks/bench_planners.py).
        """
        if not any(parameter.requires_grad for parameter in self.parameters()):
            return _FrozenRollout.apply(start, actions, self.mlp.layers)
        latent, latents = start, []
        for action in actions.unbind(2):
            latent = self(latent, action)
            latents.append(latent)
        return torch.stack(latents, 2)


class _FrozenRollout(torch.autograd.Function):
    """ActionLinearTransition's rollout and its adjoint with respect to start and actions."""

    @staticmethod
    def forward(ctx, start: Tensor, actions: Tensor, layers: Sequence[nn.Module]) -> Tensor:
        (first, second, last), radius = layers, start.shape[-1] ** 0.5
        keep = any(ctx.needs_input_grad)
        latent, latents, tape = start, [], []
        for action in actions.unbind(2):
            hidden_1 = torch.baddbmm(first.bias, latent, first.weight)
            hidden_2 = torch.baddbmm(second.bias, F.silu(hidden_1), second.weight)
            flat = torch.baddbmm(last.bias, F.silu(hidden_2), last.weight)
            displacements = flat.view(*action.shape, -1)  # [S, B, A, d]
            moved = (action.unsqueeze(-1) * displacements).sum(-2).add_(latent)
            scale = radius / torch.linalg.vector_norm(moved, dim=-1, keepdim=True).clamp_(min=1e-12)
            latent = moved.mul_(scale)
            latents.append(latent)
            if keep:
                tape.append((hidden_1, hidden_2, displacements, scale))
        ctx.tape, ctx.layers, ctx.latents, ctx.actions = tape, layers, latents, actions
        return torch.stack(latents, 2)

    @staticmethod
    @once_differentiable
    def backward(ctx, gradient: Tensor) -> tuple[Tensor, Tensor, None]:
        first, second, last = ctx.layers
        adjoint, slopes = torch.zeros_like(gradient[:, :, 0]), []
        steps = zip(ctx.tape, ctx.latents, ctx.actions.unbind(2), gradient.unbind(2), strict=True)
        for (hidden_1, hidden_2, displacements, scale), latent, action, here in reversed(list(steps)):
            adjoint = adjoint + here
            inward = (latent * adjoint).sum(-1, keepdim=True) / latent.shape[-1]  # |z'|^2 = d
            moved = scale * (adjoint - latent * inward)
            slopes.append((displacements @ moved.unsqueeze(-1)).squeeze(-1))
            into_last = (action.unsqueeze(-1) * moved.unsqueeze(-2)).flatten(-2)
            into_2 = torch.ops.aten.silu_backward(into_last @ last.weight.mT, hidden_2)
            into_1 = torch.ops.aten.silu_backward(into_2 @ second.weight.mT, hidden_1)
            adjoint = torch.baddbmm(moved, into_1, first.weight.mT)
        return adjoint, torch.stack(slopes[::-1], 2), None


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
