"""Training batches of experiment 4: windows and pairs of random walks, no state encoded twice.

Shapes: S seeds, B windows, K steps, A actions, U states listed in a batch, F features, W walks.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from common.latent.observations import observations, take
from common.latent.training import Windows, WindowSampler, list_states
from common.minigrid.task import Task


@dataclass(frozen=True)
class Batch(Windows):
    """Windows, and what objectives need beside; all states are positions in one list."""

    pairs: Tensor  # [S, B, 2] int64: a state, and one that the same walk came to later on
    gap: Tensor  # [S, B] float: after how many steps
    targets: Tensor  # [S, B] int64: states that the walks visited, each as likely as any other
    own: Tensor  # [S, U] bool: which of the list the seed drew, each state once


class BatchSampler:
    """Draws windows of K steps, and pairs of states a geometric number of steps apart."""

    def __init__(self, task: Task, steps: int, discount: float, device: torch.device):
        """`discount`: P(gap > k) = discount^k, as far as the walk goes."""
        self.discount, self.device = discount, device
        self.observations = observations(task.observations.to(device))
        self.windows = WindowSampler(task, steps, device)
        lengths = torch.stack([walk.valid.sum(1) for walk in task.walks])  # [S, W], before an episode's end
        self.lengths = lengths.to(device)
        self.running = [int(steps) for steps in lengths.sum(1)]  # states to begin in, of each seed
        self.begins = pad_sequence([walk.valid.nonzero() for walk in task.walks], True).to(device)
        visited = [torch.unique(walk.states) for walk in task.walks]
        self.visits = [len(states) for states in visited]
        self.visited = pad_sequence(visited, True).to(device)  # [S, at most N]

    def draw(self, draws: Sequence[torch.Generator], count: int) -> Batch:
        """`count` B windows, pairs and targets a seed."""
        states, actions = self.windows.draw(draws, count)
        pairs, gap = self.draw_pairs(draws, count)
        chosen = [
            torch.randint(visits, (count,), generator=draw)
            for visits, draw in zip(self.visits, draws, strict=True)
        ]
        targets = self.visited.gather(1, torch.stack(chosen).to(self.device))
        drawn = torch.cat([states, pairs, targets[..., None]], -1)  # [S, B, K + 4]
        listed, positions, own = list_states(self.observations, drawn)
        of_windows, of_pairs, of_targets = positions.split([states.shape[-1], 2, 1], -1)
        return Batch(
            observations=listed,
            states=of_windows,
            choices=actions,
            actions=self.windows.one_hot[actions],
            pairs=of_pairs,
            gap=gap,
            targets=of_targets.squeeze(-1),
            own=own,
        )

    def draw_pairs(self, draws: Sequence[torch.Generator], count: int) -> tuple[Tensor, Tensor]:
        """`count` B pairs a seed: states [S, B, 2] as indices, and their gaps [S, B]."""
        chosen, wished = [], []
        for running, draw in zip(self.running, draws, strict=True):
            chosen.append(torch.randint(running, (count,), generator=draw))
            uniform = torch.rand(count, generator=draw).clamp(min=1e-12)
            wished.append(1 + (uniform.log() / math.log(self.discount)).floor().long())
        chosen, wished = torch.stack(chosen).to(self.device), torch.stack(wished).to(self.device)
        walk, begin = take(self.begins, chosen).unbind(-1)  # [S, B]
        gap = torch.minimum(wished, self.lengths.gather(1, walk) - begin)
        when = torch.stack([begin, begin + gap], -1)
        return self.windows.states[self.windows.members, walk[..., None], when], gap.float()
