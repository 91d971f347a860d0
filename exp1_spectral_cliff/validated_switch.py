"""A cascade whose switches are chosen on unseen trajectories: at each horizon the levels that predict best.

The cascade of analyze_spectrum.py switches at the configuration's horizons, which suit one system. Here each
seed's are chosen by its models' error on validation trajectories, and the test trajectories of all other
variants tell what that gives.

Shapes: L levels, H horizons, S seeds, B start states.
"""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from common.config import Exp1Config
from common.run.cache import reads_settings
from common.run.devices import measurement_device
from common.run.run import Run
from exp1_spectral_cliff.analyze_spectrum import hierarchy, measure_spectrum, record_spectrum, spectrum
from exp1_spectral_cliff.dataset import (
    EVALUATION_FIELDS,
    System,
    Trajectories,
    evaluation_trajectories,
    unseen_trajectories,
)

VARIANT = "cascade_validated"
FINER = ("flat", "helm")  # variants that are its hierarchies but for the last
COMPARED = (*FINER, "cascade")  # what stands beside it where the part is run alone


def choose_levels(errors: Tensor) -> Tensor:
    """How many levels beyond the finest to use at each horizon, never fewer at a longer one.

    Of all such choices the one whose errors have the least sum over the horizons, and of equal ones the one
    with fewer levels: below its stride a level changes nothing.

    Args:
        errors: of the hierarchies of 1, 2, .. L levels, [L, H, S].

    Returns:
        0 .. L - 1, [H, S].
    """
    errors = errors.nan_to_num(nan=torch.inf)  # of a rollout that left every bound
    total, came = errors[:, 0], []  # total: of the best choice so far that ends with so many levels, [L, S]
    for error in errors[:, 1:].unbind(1):
        least, origin = _running_least(total)
        came.append(origin)
        total = least + error
    level = total.argmin(0)
    chosen = [level]
    for origin in reversed(came):
        level = origin.gather(0, level[None])[0]
        chosen.append(level)
    return torch.stack(chosen[::-1])


def _running_least(values: Tensor) -> tuple[Tensor, Tensor]:
    """The least of the values so far, and the first index where it stands: [L, S] -> two [L, S]."""
    least = values.cummin(0).values
    index = torch.arange(len(values), device=values.device)[:, None].expand_as(values)
    falls = torch.cat([torch.ones_like(index[:1], dtype=torch.bool), values[1:] < least[:-1]])
    return least, index.where(falls, 0).cummax(0).values


@reads_settings(*EVALUATION_FIELDS)
def measure_validated_cascade(
    system: System,
    models: Mapping[str, nn.Module],
    validation: Trajectories,
    data: Trajectories,
    finer: Sequence[Mapping[str, Tensor]],
    *,
    config: Exp1Config,
    device: torch.device,
) -> dict[str, Tensor]:
    """The cascade's norms and errors, each seed's switches chosen on the validation trajectories.

    Args:
        system: the true one.
        models: the cascade's levels among them.
        validation: trajectories to choose by.
        data: trajectories to measure on.
        finer: what `measure_spectrum` found on them for FINER.
        config: the fields named above.
        device: where trainings are done.

    Returns:
        what `measure_spectrum` does, on `data`, and levels [H, S] (see `choose_levels`).
    """
    device = measurement_device(device)
    levels = hierarchy(system, models, "cascade", device)
    nested = [levels[: 1 + count] for count in range(len(levels))]
    seen = [spectrum(used, validation.to(device), config, norms=False)["nrmse"] for used in nested]
    chosen = choose_levels(torch.stack(seen))
    found = [*finer, spectrum(levels, data.to(device), config)]
    return {"levels": chosen} | {
        name: _of_levels(torch.stack([measured[name].to(chosen.device) for measured in found]), chosen)
        for name in finer[0]
    }


def _of_levels(values: Tensor, chosen: Tensor) -> Tensor:
    """[L, H, S, ...] at the chosen levels [H, S] -> [H, S, ...]."""
    index = chosen.view(1, *chosen.shape, *(1,) * (values.dim() - 3)).expand(1, *values.shape[1:])
    return values.gather(0, index)[0]


def compare_switches(run: Run, system: System, models: Mapping[str, nn.Module]) -> None:
    """Metrics {system}/cascade_validated/.. as of every variant, beside those of COMPARED, and switch_{k}.

    switch_{k} is the last horizon [steps] that is rolled out without the k-th level beyond the finest, 0
    where there is none.
    """
    data = evaluation_trajectories(system, run.config)
    validation = unseen_trajectories(system, run.config, "validation")
    steps = [
        (measure_spectrum, f"{system.name}/spectrum/{variant}", system, models, variant, data)
        for variant in COMPARED
    ]
    spectra = dict(zip(COMPARED, run.measure_all(steps), strict=True))
    name, finer = f"{system.name}/spectrum/{VARIANT}", [spectra[variant] for variant in FINER]
    found = run.measure(measure_validated_cascade, name, system, models, validation, data, finer)
    record_spectrum(run.results, system, VARIANT, found, run.config.horizons)
    horizons = torch.tensor(run.config.horizons)[:, None]
    for level in (1, 2):
        without = torch.where(found["levels"] < level, horizons, 0).amax(0)
        run.results.add(f"{system.name}/{VARIANT}/switch_{level}", without.double(), "steps")
    for variant, measured in spectra.items() if "cliff" not in run.config.parts else ():  # which records them
        record_spectrum(run.results, system, variant, measured, run.config.horizons)
