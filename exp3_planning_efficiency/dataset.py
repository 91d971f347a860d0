"""Training batches of experiment 3: windows of random walks, the same for every variant.

The walks themselves, which restart at states seen before and visited least, are common/minigrid/walks.py's.
"""

from collections.abc import Sequence

import torch

from common.config import Exp3Config
from common.latent.observations import observations
from common.latent.training import Windows, WindowSampler, draw_windows
from common.minigrid.task import Task


class BatchSampler:
    """Draws windows that are long enough for all variants, so that one's own length changes no batch."""

    def __init__(self, task: Task, config: Exp3Config, device: torch.device):
        self.count = config.batch_size
        self.observations = observations(task.observations.to(device))
        longest = max(config.rollout_steps, config.coarse_stride, *config.stride_sweep)
        self.windows = WindowSampler(task, longest, device)

    def draw(self, draws: Sequence[torch.Generator]) -> Windows:
        """`batch_size` windows a seed."""
        return draw_windows(self.observations, self.windows, draws, self.count)
