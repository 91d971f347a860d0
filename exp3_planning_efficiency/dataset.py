"""Training batches of experiment 3: windows of random walks, each of whose states is encoded once.

Shapes: S seeds, B windows, K steps, A actions, U different states in a batch, F features.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from common.config import Exp3Config
from common.minigrid_task import Task, WindowSampler


def window_sampler(task: Task, config: Exp3Config) -> WindowSampler:
    """Windows long enough for every arm, so that all arms draw the same."""
    return WindowSampler(task, max(config.rollout_steps, config.coarse_stride, *config.stride_sweep))


@dataclass(frozen=True)
class Batch:
    """Windows whose states are positions in a list of the batch's different states."""

    observations: Tensor  # [S, U, F] of the different states
    states: Tensor  # [S, B, K + 1] int64, positions in them
    actions: Tensor  # [S, B, K, A] one-hot


def draw_batch(
    task: Task, sampler: WindowSampler, draws: Sequence[torch.Generator], count: int, device: torch.device
) -> Batch:
    """`count` B windows a seed."""
    states, actions = sampler.draw(draws, count)
    different, positions = torch.unique(states, return_inverse=True)
    one_hot = F.one_hot(actions, task.world.num_actions).float()
    return Batch(task.observations[:, different].to(device), positions.to(device), one_hot.to(device))


def take(values: Tensor, positions: Tensor) -> Tensor:
    """values [S, U, D] at positions [S, ...] -> [S, ..., D]."""
    flat = positions.flatten(1)[..., None].expand(-1, -1, values.shape[-1])
    return values.gather(1, flat).view(*positions.shape, -1)
