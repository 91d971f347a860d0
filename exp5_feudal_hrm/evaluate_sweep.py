"""Weights of the feudal loss and periods of the manager: is there a best one, beyond what seeds do?

Shapes: S seeds, E held-out puzzles, C settings.
"""

from collections.abc import Mapping
from dataclasses import replace

import torch
from torch import Tensor

from common.config import Exp5Config
from common.run.results import Results
from common.run.run import Run, Training
from exp5_feudal_hrm.dataset import Task
from exp5_feudal_hrm.evaluate_variants import Measurements, measure_variant
from exp5_feudal_hrm.feudal import FeudalVariant
from exp5_feudal_hrm.models import HRM
from exp5_feudal_hrm.train_feudal import feudal_variants, train_feudal

Cell = tuple[float, int]  # weight and period


def sweep_cells(config: Exp5Config) -> list[Cell]:
    """Weights at the manager's period, periods at the loss's weight; every pair of them with sweep_grid."""
    weight, period = config.feudal_loss_weight, config.manager_period
    cells = [(w, period) for w in config.weight_sweep] + [(weight, p) for p in config.period_sweep]
    if config.sweep_grid:
        cells += [(w, p) for w in config.weight_sweep for p in config.period_sweep]
    return list(dict.fromkeys(cells))


def run_sweep(run: Run, task: Task, models: Mapping[str, HRM], measured: Measurements) -> None:
    """Train, measure and record every setting; the ones that a variant has are the variant's."""
    known = {cell: name for cell, name in known_cells(run.config).items() if name in models}
    variants = {cell: variant_of(run.config, cell) for cell in sweep_cells(run.config)}
    new = {name_of(cell): variant for cell, variant in variants.items() if cell not in known}
    trained = run.train(Training(train_feudal, f"{task.name}/sweep", (task,), new))
    found = run.measure_all(
        [(measure_variant, f"{task.name}/sweep/{name}", task, trained[name], new[name]) for name in new]
    )
    by_name = dict(zip(new, found, strict=True)) | dict(measured)
    exact = {cell: by_name[known.get(cell, name_of(cell))]["exact"][..., -1].float() for cell in variants}
    record_sweep(run.results, run.config, exact, measured)


def known_cells(config: Exp5Config) -> dict[Cell, str]:
    """Settings that are a variant's own, whose name each has."""
    variants = feudal_variants(config)
    return {(variants[name].weight, variants[name].period): name for name in ("head", "directional")}


def name_of(cell: Cell) -> str:
    """As in metrics' names."""
    return f"{cell[0]:g}/{cell[1]}"


def variant_of(config: Exp5Config, cell: Cell) -> FeudalVariant:
    """The directional form at a setting."""
    return replace(feudal_variants(config)["directional"], weight=cell[0], period=cell[1])


def record_sweep(
    results: Results, config: Exp5Config, exact: Mapping[Cell, Tensor], measured: Measurements
) -> None:
    """`sweep/{weight}/{period}/exact`, its difference from the baseline, and whether a setting is best.

    `sweep/best_weight/gain`: the weight that is best on the other seeds, less the head without a loss, on
    this seed. `sweep/best_period/gain`: likewise the period, less the mean of the other periods. A choice
    is not judged by the seeds that it was made on, so noise between settings gains nothing.

    Args:
        results: where to.
        config: which weights and periods.
        exact: [S, E] of each cell.
        measured: of the variants.
    """
    baseline = measured["baseline"]["exact"][..., -1].float()
    for cell, values in exact.items():
        name = f"sweep/{name_of(cell)}"
        results.add_rate(f"{name}/exact", values, enumerated=False)
        results.add_difference(f"{name}/minus_baseline/exact", values - baseline, enumerated=False)
    weights = [exact[w, config.manager_period] for w in config.weight_sweep]
    periods = [exact[config.feudal_loss_weight, p] for p in config.period_sweep]
    if "head" in measured:
        head = measured["head"]["exact"][..., -1].float()
        _record_choice(
            results, "sweep/best_weight/gain", torch.stack(weights), head.expand(len(weights), -1, -1)
        )
    if len(periods) > 1:
        values = torch.stack(periods)  # [C, S, E]
        others = (values.sum(0) - values) / (len(periods) - 1)
        _record_choice(results, "sweep/best_period/gain", values, others)


def _record_choice(results: Results, name: str, values: Tensor, against: Tensor) -> None:
    """values - against, [C, S, E] each, of the setting that is best on the other seeds."""
    by_seed = values.mean(2)  # [C, S]
    if by_seed.shape[1] < 2:
        return
    chosen = (by_seed.sum(1, keepdim=True) - by_seed).argmax(0)  # [S]
    own = torch.arange(by_seed.shape[1])
    results.add_difference(name, (values - against)[chosen, own], enumerated=False)
