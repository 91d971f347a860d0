"""Training batches of experiment 4: windows and pairs of random walks, each different state encoded once.

Shapes: S seeds, B windows, K steps, A actions, U different states in a batch, F features, W walks.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from common.latent.training import Windows, WindowSampler
from common.minigrid.task import Task


@dataclass(frozen=True)
class Batch(Windows):
    """Windows, and what objectives need beside; all states are positions in one list."""

    pairs: Tensor  # [S, B, 2] int64: a state, and one that the same walk came to later on
    gap: Tensor  # [S, B] float: after how many steps
    targets: Tensor  # [S, B] int64: states that the walks visited, each as likely as any other
    own: Tensor  # [S, U] bool: the states that the seed itself drew; no member learns of another's


class BatchSampler:
    """Draws windows of K steps, and pairs of states a geometric number of steps apart."""

    def __init__(self, task: Task, steps: int, discount: float, device: torch.device):
        """`discount`: P(gap > k) = discount^k, as far as the walk goes."""
        self.task, self.discount, self.device = task, discount, device
        self.windows = WindowSampler(task, steps)
        self.begins = [walk.valid.nonzero() for walk in task.walks]
        self.lengths = [walk.valid.sum(1) for walk in task.walks]  # [W], steps before an episode's end
        self.visited = [torch.unique(walk.states) for walk in task.walks]

    def draw(self, draws: Sequence[torch.Generator], count: int) -> Batch:
        """`count` B windows, pairs and targets a seed."""
        states, actions = self.windows.draw(draws, count)
        pairs, gap = self.draw_pairs(draws, count)
        targets = [
            visited[torch.randint(len(visited), (count,), generator=draw)]
            for visited, draw in zip(self.visited, draws, strict=True)
        ]
        drawn = torch.cat([states, pairs, torch.stack(targets)[..., None]], -1)  # [S, B, K + 4]
        different, positions = torch.unique(drawn, return_inverse=True)
        own = torch.zeros(len(drawn), len(different), dtype=torch.bool).scatter_(
            1, positions.flatten(1), True
        )
        one_hot = F.one_hot(actions, self.task.world.num_actions).float()
        parts = positions.to(self.device).split([states.shape[-1], 2, 1], -1)
        return Batch(
            observations=self.task.observations[:, different].to(self.device),
            states=parts[0],
            actions=one_hot.to(self.device),
            pairs=parts[1],
            gap=gap.to(self.device),
            targets=parts[2].squeeze(-1),
            own=own.to(self.device),
        )

    def draw_pairs(self, draws: Sequence[torch.Generator], count: int) -> tuple[Tensor, Tensor]:
        """`count` B pairs a seed: states [S, B, 2] as indices, and their gaps [S, B]."""
        pairs, gaps = [], []
        for walk, begins, lengths, draw in zip(
            self.task.walks, self.begins, self.lengths, draws, strict=True
        ):
            index, time = begins[torch.randint(len(begins), (count,), generator=draw)].unbind(1)
            uniform = torch.rand(count, generator=draw).clamp(min=1e-12)
            wished = 1 + (uniform.log() / math.log(self.discount)).floor().long()
            gap = torch.minimum(wished, lengths[index] - time)
            pairs.append(walk.states[index[:, None], torch.stack([time, time + gap], 1)])
            gaps.append(gap.float())
        return torch.stack(pairs), torch.stack(gaps)
