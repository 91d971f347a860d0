"""What experiment 4 measures of a latent: all that common/latent/evaluation.py does, and its shape.

Shapes: S seeds, N states, h metric.
"""

import torch
from torch import Tensor

from common.config import Exp4Config
from common.latent.evaluation import measure_model
from common.minigrid.task import TASK_FIELDS, Task
from common.run.cache import reads_settings
from exp4_contrastive_fix.models import AlignedModel


@reads_settings(*TASK_FIELDS)
def measure_alignment(
    task: Task, model: AlignedModel, *, config: Exp4Config, device: torch.device
) -> dict[str, Tensor]:
    """`measure_model`, and `plane`: states on the first two principal axes of where distances are taken."""
    with torch.no_grad():
        points = model.embed(model.encoder(task.observations.to(device)))
    return measure_model(task, model, config=config, device=device) | {"plane": principal_plane(points)}


def principal_plane(points: Tensor) -> Tensor:
    """The points on their first two principal axes: [S, N, h] -> [S, N, 2]."""
    centred = points - points.mean(1, keepdim=True)
    _, _, axes = torch.linalg.svd(centred, full_matrices=False)
    return centred @ axes[:, :2].mT
