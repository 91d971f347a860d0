"""Training batches of experiment 3: windows of random walks, the same for every variant.

The walks themselves, which restart at states seen before and visited least, are common/minigrid/walks.py's.
"""

from collections.abc import Sequence

import torch

from common.config import Exp3Config
from common.latent.training import Windows, WindowSampler, draw_windows
from common.minigrid.task import Task


class BatchSampler:
    """Draws windows that are long enough for all variants, so that one's own length changes no batch."""

    def __init__(self, task: Task, config: Exp3Config, device: torch.device):
        self.task, self.count, self.device = task, config.batch_size, device
        longest = max(config.rollout_steps, config.coarse_stride, *config.stride_sweep)
        self.windows = WindowSampler(task, longest)

    def draw(self, draws: Sequence[torch.Generator]) -> Windows:
        """`batch_size` windows a seed."""
        return draw_windows(self.task, self.windows, draws, self.count, self.device)
