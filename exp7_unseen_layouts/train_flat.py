"""Train the flat model: a spatial latent rolled out through its own predictions, as the field does it.

    python train_flat.py [--preset full] [--families FourRooms] ...

trains what run_experiment.py would, and leaves it where run_experiment.py finds it.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from common.config import EXP7_PRESETS
from common.run.command_line import parse_command_line

CONFIG = parse_command_line(EXP7_PRESETS) if __name__ == "__main__" else None  # before torch is imported

from collections.abc import Sequence

import torch
from torch import Tensor

from common.config import Exp7Config
from common.run.cache import Checkpoint, reads_settings
from common.run.run import Experiment, Run, Training, main_training
from exp7_unseen_layouts.batches import (
    TRAINING_FIELDS,
    LayoutData,
    SpatialSampler,
    collect_data,
    fit_spatial,
    spatial_loss,
)
from exp7_unseen_layouts.models import SpatialModel, make_spatial_model, prediction_losses


@reads_settings(*TRAINING_FIELDS)
def train_flat(
    data: LayoutData,
    *,
    variant: None,
    config: Exp7Config,
    device: torch.device,
    checkpoint: Checkpoint | None = None,
    label: str = "spatial",
) -> tuple[SpatialModel, dict[str, Tensor]]:
    """One step, and two of which the second begins where the first ended: E |z^_k - sg(z_k)|^2 + InfoNCE.

    Args:
        data: walks of every family and seed.
        variant: none; its sibling is in train_helm.py.
        config: the fields named above.
        device: where to train.
        checkpoint: where to resume from and save to.
        label: names the training in the log.

    Returns:
        the ensemble [S members], and the training history (see common.training.fit).
    """
    model = make_spatial_model(data.patches, config).to(device)
    sampler = SpatialSampler(model, data, config, device)

    def loss(iteration: int, draws: Sequence[torch.Generator]) -> dict[str, Tensor]:
        codes, cells = model.codes(), sampler.draw_cells(draws)
        predicted = model(model.look_up(codes, cells.before), cells.actions, whole=False)
        steps = [prediction_losses(model, codes, predicted, cells.after, config.nce_temperature)]
        patches = sampler.draw_patches(draws)
        first, second = patches.actions.unbind(2)
        predicted = model(model.look_up(codes, patches.before), first, whole=False)
        predicted = model(predicted, second, whole=False)
        steps.append(prediction_losses(model, codes, predicted, patches.after, config.nce_temperature))
        return spatial_loss(codes, steps, config.lambda_dynamics)

    return fit_spatial(model, loss, config, label=label, checkpoint=checkpoint)


def flat_trainings(data: LayoutData) -> Training:
    """The one flat model, of all families."""
    return Training(train_flat, "layouts", (data,), {"spatial": None})


def train_all(run: Run) -> None:
    """The flat model."""
    run.train(flat_trainings(collect_data(run)))


if __name__ == "__main__":
    alone = Experiment("exp7_unseen_layouts", Path(__file__).parent, EXP7_PRESETS, train_all)
    raise SystemExit(main_training(alone, CONFIG))
