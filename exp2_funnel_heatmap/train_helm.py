"""Train HELM's energy models: the published L_HF, the strength that works, and the second difference.

    python train_helm.py [--preset full] ...

trains the landscape models that run_experiment.py would, and leaves them where it finds them.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from common.config import EXP2_PRESETS
from common.run.command_line import parse_command_line

CONFIG = parse_command_line(EXP2_PRESETS) if __name__ == "__main__" else None  # before torch is imported

from dataclasses import replace

import torch
from torch import Tensor

from common.config import HF_NOISE_SIGMA_PUBLISHED, LAMBDA_HF_PUBLISHED, Exp2Config
from common.regularizers import hf_invariance, second_difference
from common.run.cache import Checkpoint, reads_settings
from common.run.run import Experiment, Run, Training, main_training
from exp2_funnel_heatmap.dataset import Task, landscape_task, memory_needed
from exp2_funnel_heatmap.energy_functions import make_landscape
from exp2_funnel_heatmap.models import EnergyModel, Variant
from exp2_funnel_heatmap.train_flat import TRAINING_FIELDS, train_energies

SMOOTHER = "helm_second_difference"  # the variant that mollified descent descends on


def helm_variants(task: Task, config: Exp2Config) -> dict[str, Variant]:
    """The second difference; on the two standard landscapes L_HF too, and L_HF as published."""
    weight, sigma = config.lambda_second_difference, config.second_difference_sigma
    if task.name.startswith("functions"):
        weight, sigma = config.function_lambda, config.function_sigma
    variants = {SMOOTHER: Variant("second_difference", weight, sigma)}
    published = Variant("hf_invariance", LAMBDA_HF_PUBLISHED, HF_NOISE_SIGMA_PUBLISHED)
    if task.name in ("aligned", "misaligned"):
        variants["helm"] = Variant("hf_invariance", config.lambda_hf, config.hf_noise_sigma)
        variants["helm_published"] = published
    if task.name == "aligned":
        variants["helm_published_silu"] = replace(published, architecture="silu")
    return variants


def map_variants(config: Exp2Config) -> dict[str, Variant]:
    """L_HF at every point of the map over lambda and sigma, by its indices in both."""
    return {
        f"{row}-{column}": Variant("hf_invariance", weight, sigma)
        for row, weight in enumerate(config.map_lambdas)
        for column, sigma in enumerate(config.map_sigmas)
    }


@reads_settings(*TRAINING_FIELDS)
def train_helm(
    task: Task,
    *,
    variant: Variant,
    config: Exp2Config,
    device: torch.device,
    checkpoint: Checkpoint | None = None,
    label: str = "helm",
) -> tuple[EnergyModel, dict[str, Tensor]]:
    """A model of every energy and seed: E (E^(a) - E(a))^2 + lambda HF(a), standardised.

    HF is (E^(a) - E^(a + delta))^2, the documents' L_HF, or the second difference
    (E^(a + delta) + E^(a - delta) - 2 E^(a))^2; delta ~ N(0, sigma^2 I). common/regularizers.py has
    the filter that each of them is.

    Args:
        task: energies and optimiser steps.
        variant: form, lambda, sigma and architecture. Variants share initial weights, batches and noise.
        config: the fields named above.
        device: where to train.
        checkpoint: where to resume from and save to.
        label: names the training in the log.

    Returns:
        the ensemble [S members], and the training history (see common.training.fit).
    """
    form = second_difference if variant.penalty == "second_difference" else hf_invariance

    def terms(model: EnergyModel, points: Tensor, noise: Tensor, energies: Tensor) -> dict[str, Tensor]:
        delta = variant.sigma * noise
        asked = [points, points + delta]
        if variant.penalty == "second_difference":
            asked.append(points - delta)
        centre, *around = model.standardised(torch.cat(asked, 1)).chunk(len(asked), 1)
        fitted = (centre - energies).square().mean(-1)
        penalty = form(centre, *around).mean(-1)
        return {"loss": fitted + variant.weight * penalty, "fit": fitted, "penalty": penalty}

    return train_energies(task, terms, variant, config, device, checkpoint, label)


def helm_trainings(task: Task, config: Exp2Config) -> Training:
    """Every HELM variant of a task."""
    return Training(train_helm, task.name, (task,), helm_variants(task, config))


def map_trainings(task: Task, config: Exp2Config) -> Training:
    """A model for every point of the map over lambda and sigma."""
    return Training(train_helm, f"map/{task.name}", (task,), map_variants(config))


def train_all(run: Run) -> None:
    """Both standard landscapes."""
    for name in ("aligned", "misaligned"):
        landscape = make_landscape(name, run.config.domain_range)
        run.train(helm_trainings(landscape_task(name, [landscape], run.config), run.config))


if __name__ == "__main__":
    alone = Experiment(
        "exp2_funnel_heatmap", Path(__file__).parent, EXP2_PRESETS, train_all, memory=memory_needed
    )
    raise SystemExit(main_training(alone, CONFIG))
