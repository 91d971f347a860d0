"""World models of experiment 1 and the temporal hierarchy that they are rolled out in.

A level encodes a state, steps a latent through blocks of `stride` actions, and decodes a state. The
true system, the flat model and HELM's macro models are all levels, so one piece of code rolls them
out, differentiates them and plans through them.

Shapes: S seeds, B batch, T time, d state, D latent, d_a action dimension, N stride.
"""

from collections.abc import Sequence
from typing import Protocol

import torch
from torch import Tensor, nn

from common.run.random import generators
from common.training.ensembles import EnsembleLinear, EnsembleMLP
from exp1_spectral_cliff.dataset import System
from exp1_spectral_cliff.rollouts import residual_rollout


class Level(Protocol):
    """One time scale of a hierarchy."""

    stride: int

    def encode(self, states: Tensor) -> Tensor:
        """[S, B, d] -> [S, B, D]."""

    def step(self, latents: Tensor, blocks: Tensor) -> Tensor:
        """[S, B, D], [S, B, N d_a] -> [S, B, D]."""

    def decode(self, latents: Tensor) -> Tensor:
        """[S, B, D] -> [S, B, d]."""

    # A level may also have roll(latents, blocks), the latents after every step as one differentiable
    # operation: [S, B, D], [S, B, K, N d_a] -> [S, K, B, D].


class _StateSpaceLevel:
    """A level whose latent is the state itself, one action at a time."""

    stride = 1

    def encode(self, states: Tensor) -> Tensor:
        return states

    def decode(self, latents: Tensor) -> Tensor:
        return latents


class TrueLevel(_StateSpaceLevel):
    """The true system as a level: for reference curves, and to execute plans."""

    def __init__(self, system: System):
        self.step = system.step


def _residual_jacobians(network: EnsembleMLP, latents: Tensor, blocks: Tensor) -> tuple[Tensor, Tensor]:
    """Of z + network(z, a) with respect to z [S, B, D, D] and to a [S, B, D, N d_a]."""
    both, width = network.jacobian(torch.cat((latents, blocks), -1)), latents.shape[-1]
    return both[..., :width] + torch.eye(width).to(latents), both[..., width:]


class FlatModel(_StateSpaceLevel, nn.Module):
    """Residual one-step model s' = s + MLP(s, a)."""

    def __init__(self, seeds: Sequence[int], d_state: int, d_action: int, hidden_dim: int, stream: str):
        super().__init__()
        self.network = EnsembleMLP(seeds, (d_state + d_action, hidden_dim, hidden_dim, d_state), stream)

    def step(self, latents: Tensor, blocks: Tensor) -> Tensor:
        return latents + self.network(torch.cat((latents, blocks), -1))

    def step_jacobians(self, latents: Tensor, blocks: Tensor) -> tuple[Tensor, Tensor]:
        """ds'/ds [S, B, d, d] and ds'/da [S, B, d, d_a] in closed form (see common/jacobian_utils.py)."""
        return _residual_jacobians(self.network, latents, blocks)

    step.jacobians = step_jacobians

    def roll(self, latents: Tensor, blocks: Tensor) -> Tensor:
        """Latents after every step (see rollouts.py): [S, B, D], [S, B, K, d_a] -> [S, K, B, D]."""
        return residual_rollout(self.network, latents, blocks, bounded=False)


class LinearModel(_StateSpaceLevel, nn.Module):
    """s' = W s + B a + b, the flat model of the linear system."""

    def __init__(self, seeds: Sequence[int], d_state: int, d_action: int, stream: str):
        super().__init__()
        self.map = EnsembleLinear(d_state + d_action, d_state, generators(seeds, stream))

    def step(self, latents: Tensor, blocks: Tensor) -> Tensor:
        return self.map(torch.cat((latents, blocks), -1))

    def step_jacobians(self, latents: Tensor, blocks: Tensor) -> tuple[Tensor, Tensor]:
        """W and B, the same everywhere: [S, B, d, d], [S, B, d, d_a]."""
        both = self.map.weight.mT[:, None].expand(-1, latents.shape[1], -1, -1)
        return both[..., : latents.shape[-1]], both[..., latents.shape[-1] :]

    step.jacobians = step_jacobians


class HelmModel(nn.Module):
    """Macro model in a bounded latent: z_0 = tanh(enc(s)), z' = tanh(z + MLP(z, N actions)), s^ = D z."""

    def __init__(
        self,
        seeds: Sequence[int],
        d_state: int,
        d_action: int,
        d_latent: int,
        hidden_dim: int,
        stride: int,
        bounded: bool,
        stream: str,
    ):
        super().__init__()
        self.stride, self.bounded = stride, bounded
        wide = d_latent + stride * d_action
        self.encoder = EnsembleMLP(seeds, (d_state, hidden_dim, d_latent), f"{stream}/encoder")
        self.network = EnsembleMLP(seeds, (wide, hidden_dim, hidden_dim, d_latent), f"{stream}/transition")
        self.decoder = EnsembleLinear(d_latent, d_state, generators(seeds, f"{stream}/decoder"))

    def _bound(self, latents: Tensor) -> Tensor:
        return torch.tanh(latents) if self.bounded else latents

    def encode(self, states: Tensor) -> Tensor:
        return self._bound(self.encoder(states))

    def step(self, latents: Tensor, blocks: Tensor) -> Tensor:
        return self._bound(latents + self.network(torch.cat((latents, blocks), -1)))

    def step_jacobians(self, latents: Tensor, blocks: Tensor) -> tuple[Tensor, Tensor]:
        """dz'/dz [S, B, D, D] and dz'/da [S, B, D, N d_a] in closed form, 1 - z'^2 times the inner ones."""
        state_jacobian, action_jacobian = _residual_jacobians(self.network, latents, blocks)
        if not self.bounded:
            return state_jacobian, action_jacobian
        slope = 1 - self.step(latents, blocks).square().unsqueeze(-1)
        return slope * state_jacobian, slope * action_jacobian

    step.jacobians = step_jacobians

    def roll(self, latents: Tensor, blocks: Tensor) -> Tensor:
        """Latents after every step (see rollouts.py): [S, B, D], [S, B, K, N d_a] -> [S, K, B, D]."""
        return residual_rollout(self.network, latents, blocks, self.bounded)

    def decode(self, latents: Tensor) -> Tensor:
        return self.decoder(latents)


# ----------------------------------------------------------------------------------------------
# Temporal hierarchy
# ----------------------------------------------------------------------------------------------


def segments(levels: Sequence[Level], horizon: int) -> list[tuple[Level, int]]:
    """How a hierarchy covers a horizon: (level, steps of that level), in the order they are rolled.

    The coarsest level takes floor(T / N) macro steps, the next one the rest, down to the finest, whose
    stride is 1; no horizon is refused. Finer segments are rolled first, while the state is still a
    true one: what a macro model decodes late in a rollout is an average, off the finer model's data.

    With the strides 1, 4 and 16 the horizon 39 is 3 * 1 + 1 * 4 + 2 * 16: three flat steps, then one
    macro step of four, then two of sixteen, [(flat, 3), (helm, 1), (helm_coarse, 2)].
    """
    assert min(level.stride for level in levels) == 1, "a hierarchy needs a level of stride 1"
    parts = []
    for level in sorted(reversed(levels), key=lambda level: -level.stride):  # of equal strides, the last
        count, horizon = divmod(horizon, level.stride)
        if count:
            parts.append((level, count))
    return parts[::-1]


def split_actions(levels: Sequence[Level], actions: Tensor) -> list[tuple[Level, Tensor]]:
    """The segments of a horizon with their action blocks: [S, B, T, d_a] -> (level, [S, B, K, N d_a])."""
    parts, used = [], 0
    for level, count in segments(levels, actions.shape[-2]):
        length = count * level.stride
        block = actions[..., used : used + length, :]
        parts.append((level, block.reshape(*actions.shape[:-2], count, -1)))
        used += length
    return parts


def rollout(levels: Sequence[Level], states: Tensor, actions: Tensor) -> Tensor:
    """The predicted state s_T: [S, B, d], [S, B, T, d_a] -> [S, B, d]."""
    for level, blocks in split_actions(levels, actions):
        states = level.decode(last_latents(level, level.encode(states), blocks))
    return states


def last_latents(level: Level, latents: Tensor, blocks: Tensor) -> Tensor:
    """Of K steps: [S, B, D], [S, B, K, N d_a] -> [S, B, D]."""
    if blocks.requires_grad and hasattr(level, "roll"):
        return level.roll(latents, blocks)[:, -1]
    for block in blocks.unbind(-2):
        latents = level.step(latents, block)
    return latents


def rollout_steps(levels: Sequence[Level], horizon: int) -> int:
    """Model evaluations of one rollout over a horizon."""
    return sum(count for _, count in segments(levels, horizon))


def cascade_levels(levels: Sequence[Level], horizon: int, switch: Sequence[int]) -> Sequence[Level]:
    """The levels a cascade uses at a horizon: the finest up to switch[0], one more beyond each switch.

    With the switches (20, 400) it rolls out T = 20 with the flat model alone, T = 400 with flat and helm,
    T = 401 with all three levels.

    Args:
        levels: finest first.
        horizon: T.
        switch: rising horizons, one fewer than the levels.
    """
    return levels[: 1 + sum(horizon > limit for limit in switch)]
