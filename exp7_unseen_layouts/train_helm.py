"""Train HELM's model: every step from snapped codes, and on its latents the transfer kernel of a belief.

    python train_helm.py [--preset full] [--families FourRooms] ...

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
from common.training.fit import fit
from exp7_unseen_layouts.batches import (
    TRAINING_FIELDS,
    LayoutData,
    MoveSampler,
    SpatialSampler,
    collect_data,
    fit_spatial,
    spatial_loss,
)
from exp7_unseen_layouts.models import (
    SpatialModel,
    TransferKernel,
    make_spatial_model,
    outcome_losses,
    prediction_losses,
)


@reads_settings(*TRAINING_FIELDS)
def train_helm(
    data: LayoutData,
    *,
    variant: None,
    config: Exp7Config,
    device: torch.device,
    checkpoint: Checkpoint | None = None,
    label: str = "snapped",
) -> tuple[SpatialModel, dict[str, Tensor]]:
    """One step from the codes of what is there, as snapped rollouts meet them: E |z^ - sg(z)|^2 + InfoNCE.

    Args:
        data: walks of every family and seed.
        variant: none; its sibling is in train_flat.py.
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
        return spatial_loss(codes, steps, config.lambda_dynamics)

    return fit_spatial(model, loss, config, label=label, checkpoint=checkpoint)


@reads_settings("seeds", "kernel_width", "kernel_iterations", "batch_size", "kernel_learning_rate")
def train_kernel(
    data: LayoutData,
    model: SpatialModel,
    *,
    variant: None,
    config: Exp7Config,
    device: torch.device,
    checkpoint: Checkpoint | None = None,
    label: str = "kernel",
) -> tuple[TransferKernel, dict[str, Tensor]]:
    """Cross-entropy of logged moves, changes of the map and goals, on the finished model's latents.

    Args:
        data: walks of every family and seed.
        model: the trained spatial model, which stays as it is.
        variant: none.
        config: the fields named above.
        device: where to train.
        checkpoint: where to resume from and save to.
        label: names the training in the log.

    Returns:
        the ensemble [S members], and the training history (see common.training.fit).
    """
    model = model.to(device)
    with torch.no_grad():
        codes = model.codes()
    kernel = TransferKernel(config.seeds, codes, ~model.absent, config.kernel_width).to(device)
    sampler = MoveSampler(model, data.moves, config.batch_size, device)

    def loss(iteration: int, draws: Sequence[torch.Generator]) -> dict[str, Tensor]:
        batch = sampler.draw(draws)
        logits = kernel(batch.around, batch.carried)  # [S, N, 4, A, HEADS]
        members, samples = torch.meshgrid(*map(torch.arange, batch.carried.shape), indexing="ij")
        chosen = logits[members, samples, batch.direction, batch.action]
        terms = outcome_losses(chosen, batch.outcome, batch.changed, batch.reached)
        return {"loss": sum(terms.values()), **terms}

    history = fit(
        kernel, loss, seeds=config.seeds, iterations=config.kernel_iterations,
        learning_rate=config.kernel_learning_rate, label=label, stream="kernel", checkpoint=checkpoint,
    )  # fmt: skip
    return kernel, history


def helm_trainings(data: LayoutData) -> Training:
    """The one snapped model, of all families."""
    return Training(train_helm, "layouts", (data,), {"snapped": None})


def kernel_trainings(data: LayoutData, model: SpatialModel) -> Training:
    """The transfer kernel on a snapped model's latents."""
    return Training(train_kernel, "layouts", (data, model), {"kernel": None})


def train_all(run: Run) -> None:
    """The snapped model, then its kernel."""
    data = collect_data(run)
    models = run.train(helm_trainings(data))
    run.train(kernel_trainings(data, models["snapped"]))


if __name__ == "__main__":
    alone = Experiment("exp7_unseen_layouts", Path(__file__).parent, EXP7_PRESETS, train_all)
    raise SystemExit(main_training(alone, CONFIG))
