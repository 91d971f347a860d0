"""Basin coverage, and what stands beside it so that it means something.

Coverage is the fraction of starts from which gradient descent on a LEARNED energy ends within
`tolerance` of the TRUE minimum. It could be had cheaply, so: starts within the tolerance are left out,
steps are divided by the model's shrink (a flattened energy is neither favoured nor punished), no step is
longer than LONGEST_STEP (no barrier is jumped over), and the target is not the model's own minimum.

Shapes: S members (seeds), B starts, n evaluation points, K ripples, M minimisers.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from common.config import Exp2Config
from common.run.cache import reads_settings
from common.run.random import generator
from common.run.results import Results
from exp2_funnel_heatmap.dataset import Task, uniform_points
from exp2_funnel_heatmap.energy_functions import RippledBasin, distance_to_minimum
from exp2_funnel_heatmap.fields import (
    Field,
    Table,
    cell_centres,
    filtered,
    hf_gain,
    predicted_gain,
    tabulate,
)
from exp2_funnel_heatmap.models import EnergyModel, Variant

LONGEST_STEP = 0.05  # of a descent [length]; the shortest ripple period is 0.56
STOP = 1e-4  # a descent ends at a step shorter than this [length]
SIFTED_EVERY = 20  # steps of a descent after which those that have stopped are put aside
SMALLEST_SHRINK = 1e-2  # by which steps are divided; a constant energy has shrink 0
EVALUATION_POINTS = 10_000

# ----------------------------------------------------------------------------------------------
# Descent and coverage
# ----------------------------------------------------------------------------------------------


def length(vectors: Tensor) -> Tensor:
    """Euclidean norm over the last dimension; on short strided vectors 50 times as fast as Tensor.norm."""
    return vectors.square().sum(-1).sqrt()


def _by_coordinate(points: Tensor) -> Tensor:
    """The same points [S, B, d], in memory one coordinate after the other, as gradients of a Table are."""
    return points.transpose(1, 2).contiguous().transpose(1, 2)


@dataclass(frozen=True)
class Descent:
    """Plain gradient descent: a <- clip(a - step dE/da), the step's length at most LONGEST_STEP."""

    steps: int
    step: Tensor  # step size of each member, [S]
    half_width: float

    def advance(self, field: Field, points: Tensor) -> tuple[Tensor, Tensor]:
        """One step: points [S, B, d] -> the next ones, and how far they moved [S, B]."""
        move = -self.step[:, None, None] * field.gradient(points)
        move = move * (LONGEST_STEP / length(move).clamp(min=1e-12)).clamp(max=1.0)[..., None]
        following = (points + move).clamp(-self.half_width, self.half_width)
        return following, length(following - points)

    def run(self, field: Field, starts: Tensor) -> Tensor:
        """Where the descents from [S, B, d] end: [S, B, d]. Those that have stopped stay where they are.

        Every SIFTED_EVERY steps the stopped ones are put aside: most stop early.
        """
        ends = starts.clone()
        index = torch.arange(starts.shape[1], device=starts.device).expand(
            starts.shape[:2]
        )  # [S, N] of [S, B]
        moving = torch.ones_like(index, dtype=torch.bool)
        points = _by_coordinate(starts)
        for step in range(self.steps):
            following, moved = self.advance(field, points)
            points = torch.where(moving[..., None], following, points)
            moving = moving & (moved >= STOP)
            if step % SIFTED_EVERY == SIFTED_EVERY - 1:
                ends.scatter_(1, index[..., None].expand_as(points), points)
                most = int(moving.sum(1).max())
                if most == 0:
                    return ends
                # each member's moving ones first; where it has fewer than another, stopped ones fill up
                kept = moving.int().argsort(dim=1, descending=True, stable=True)[:, :most]
                index, moving = index.gather(1, kept), moving.gather(1, kept)
                points = _by_coordinate(points.gather(1, kept[..., None].expand(-1, -1, points.shape[-1])))
        return ends.scatter_(1, index[..., None].expand_as(points), points)

    def trace(self, field: Field, starts: Tensor) -> Tensor:
        """All points of the descents, [S, B, steps + 1, d]."""
        points = [starts]
        for _ in range(self.steps):
            points.append(self.advance(field, points[-1])[0])
        return torch.stack(points, 2)


def coverage(starts: Tensor, ends: Tensor, minimisers: Tensor, tolerance: float) -> Tensor:
    """Fraction of the starts farther than the tolerance from the target whose descent ends within it: [S].

    Args:
        starts: [B, d].
        ends: [S, B, d].
        minimisers: the targets [M, d], or one for each member [S, 1, 1, d].
        tolerance: [length].
    """
    counted = (distance_to_minimum(starts, minimisers) > tolerance).expand(ends.shape[:-1])
    reached = distance_to_minimum(ends, minimisers) <= tolerance
    return (reached & counted).sum(-1) / counted.sum(-1).clamp(min=1)


def descent_for(shrink: Tensor, config: Exp2Config) -> Descent:
    """The descent of the basin maps, its step divided by each member's shrink [S]."""
    step = config.descent_step / shrink.clamp(min=SMALLEST_SHRINK)
    return Descent(config.descent_steps, step, config.domain_range)


# ----------------------------------------------------------------------------------------------
# What a model made of basin and ripples
# ----------------------------------------------------------------------------------------------


def decompose(
    values: Tensor, points: Tensor, landscape: RippledBasin, weights: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """How much of the basin and of each ripple is in an energy, by least squares.

    Regresses on 1, a, the basin 1/2 |a - c|^2, and each ripple with its quadrature.

    Args:
        values: energies [S, n] at
        points: [n, d], float64.
        landscape: whose basin and ripples.
        weights: of the points [n]; None for equal ones.

    Returns:
        shrink [S], the coefficient of the basin, and gains [S, K], those of the ripples: 1 for the truth.
    """
    shifted = RippledBasin(
        "quadrature", landscape.centre, landscape.frequencies, landscape.amplitudes,
        landscape.phases + torch.pi / 2,
    )  # fmt: skip
    columns = torch.cat((
        landscape.basin(points)[:, None], landscape.ripples(points), shifted.ripples(points),
        points, torch.ones_like(points[:, :1]),
    ), 1)  # fmt: skip
    root = torch.ones_like(points[:, :1]) if weights is None else weights.sqrt()[:, None]
    # gels: the default driver pivots by what memory it finds, so its last bits differ from run to run
    solved = torch.linalg.lstsq(root * columns, root * values.to(points).mT, driver="gels")
    coefficients = solved.solution.mT  # [S, columns]
    count = len(landscape.amplitudes)
    return coefficients[:, 0], coefficients[:, 1 : 1 + count]


def ripple_gain(energies: Tensor, landscape: RippledBasin) -> Tensor:
    """What energies tabulated on the square's cells [S, G, G] keep of the ripples: [S].

    Within its reach of the border the loss leaves the energy free, and the minimiser bends there as a sum
    of exponentials, which on a box is not orthogonal to a ripple: unweighted, a ripple of gain 0.007 reads
    as 0.011. The window cos^6 falls to 0 at the border with five derivatives and separates the two.
    """
    centres = cell_centres(energies.shape[-1], landscape.half_width)
    window = torch.cos(0.5 * torch.pi * centres / landscape.half_width).pow(6).prod(-1)
    return mean_gain(decompose(energies.flatten(1).cpu(), centres, landscape, window)[1], landscape)


def mean_gain(gains: Tensor, landscape: RippledBasin) -> Tensor:
    """Gains [..., K] averaged with the ripples' powers A_k^2: [...]."""
    power = landscape.amplitudes.square()
    return gains.to(power) @ power / power.sum()


def fit_quality(values: Tensor, points: Tensor, landscape: RippledBasin) -> dict[str, Tensor]:
    """r2, ripple_r2 (error over the RIPPLES' variance) and shrink of energies [S, n]: each [S]."""
    true, ripples = landscape(points), landscape.ripples(points).sum(-1)
    error = (values.to(points) - true).square().mean(-1)
    return {
        "r2": 1 - error / true.var(),
        "ripple_r2": 1 - error / ripples.var(),
        "shrink": decompose(values, points, landscape)[0],
    }


def gradient_cosine(field: Field, points: Tensor, minimisers: Tensor, members: int) -> Tensor:
    """Mean cosine of -dE/da with the direction to the true minimum: [S]."""
    points = points.expand(members, -1, -1)
    return F.cosine_similarity(-field.gradient(points), minimisers[0].to(points) - points, dim=-1).mean(-1)


# ----------------------------------------------------------------------------------------------
# Measurements
# ----------------------------------------------------------------------------------------------

PATH_STARTS = ((-2.5, -2.4), (-2.4, 2.3), (2.6, 2.2), (2.4, -2.6), (-2.6, 0.1), (0.4, 2.6), (2.7, -0.2))
PATH_STEPS = 600


def evaluation_points(config: Exp2Config) -> Tensor:
    """Points on which fits are judged, no training sample among them: [n, 2], float64."""
    return uniform_points(EVALUATION_POINTS, 2, config.domain_range, [generator(0, "evaluation")])[0]


def measure_table(
    table: Table, landscape: RippledBasin, shrink: Tensor, config: Exp2Config
) -> dict[str, Tensor]:
    """Coverage of the true and of the own minimum, and how far both are apart.

    Returns:
        coverage, own_coverage, endpoint_error (median over starts), argmin_error: [S]; ends [S, B, 2].
    """
    starts = cell_centres(config.grid_size, config.domain_range).to(table.energies)
    descent = descent_for(shrink.to(table.energies), config)
    ends = descent.run(table, starts.expand(len(table.energies), -1, -1))
    own = descent.run(table, table.argmin()[:, None])  # [S, 1, 2]
    counted = distance_to_minimum(starts, landscape.minimisers) > config.tolerance
    return {
        "coverage": coverage(starts, ends, landscape.minimisers, config.tolerance),
        "own_coverage": coverage(starts, ends, own[:, None], config.tolerance),
        "endpoint_error": distance_to_minimum(ends, landscape.minimisers)[:, counted].median(-1).values,
        "argmin_error": distance_to_minimum(own[:, 0], landscape.minimisers),
        "ends": ends,
    }


@reads_settings("seeds", "domain_range", "grid_size", "tolerance", "descent_step", "descent_steps")
def measure_basins(
    task: Task, model: EnergyModel, *, config: Exp2Config, device: torch.device
) -> dict[str, Tensor]:
    """Everything about one variant on one landscape.

    Returns:
        [S] each: coverage, own_coverage, endpoint_error, argmin_error, shrink, r2, ripple_r2, ripple_gain,
        gradient_cosine; of the first seed, for the figures: energy [G, G], reached [G', G'] (distance of each
        start's end from the true minimum), paths [B', steps + 1, 2].
    """
    (landscape,) = task.energies
    model = model.to(device)
    points = evaluation_points(config)
    with torch.no_grad():
        values = model(points.to(model.mean).expand(len(config.seeds), -1, -1)).cpu()
    quality = fit_quality(values, points, landscape)
    table = tabulate(model, config.domain_range)
    measured = quality | measure_table(table, landscape, quality["shrink"], config)
    measured["ripple_gain"] = ripple_gain(table.energies, landscape)
    ends = measured.pop("ends")
    measured["gradient_cosine"] = gradient_cosine(
        table, points.to(model.mean), landscape.minimisers, len(config.seeds)
    )
    measured["reached"] = distance_to_minimum(ends[0], landscape.minimisers).view(config.grid_size, -1)
    measured["energy"] = table.energies[0]
    measured["paths"] = _paths(table, measured["shrink"], config)[0]
    return measured


def _paths(table: Table, shrink: Tensor, config: Exp2Config) -> Tensor:
    """Descent paths from the same starts for every model: [S, B', steps + 1, 2]."""
    starts = torch.tensor(PATH_STARTS).to(table.energies) * (config.domain_range / 3.0)
    descent = descent_for(shrink.to(table.energies), config)
    descent = Descent(PATH_STEPS, descent.step, config.domain_range)
    return descent.trace(table, starts.expand(len(table.energies), -1, -1))


@reads_settings(
    "domain_range", "grid_size", "tolerance", "descent_step", "descent_steps", "map_lambdas", "map_sigmas"
)
def measure_predicted_map(task: Task, *, config: Exp2Config, device: torch.device) -> dict[str, Tensor]:
    """The map over lambda and sigma as the closed-form filter predicts it, without any training.

    Returns:
        coverage, argmin_error, shrink, ripple_gain: [lambda, sigma].
    """
    (landscape,) = task.energies
    rows: dict[str, list[Tensor]] = {}
    for weight in config.map_lambdas:
        for sigma in config.map_sigmas:
            for name, value in predict(landscape, weight, sigma, config).items():
                rows.setdefault(name, []).append(value)
    shape = (len(config.map_lambdas), len(config.map_sigmas))
    return {name: torch.stack(values).view(shape) for name, values in rows.items()}


def predict(landscape: RippledBasin, weight: float, sigma: float, config: Exp2Config) -> dict[str, Tensor]:
    """coverage, argmin_error, shrink and ripple_gain of L_HF's exact minimiser, numbers."""
    table = filtered(landscape, lambda squared: hf_gain(squared, weight, sigma), config.domain_range)
    centres = cell_centres(table.energies.shape[-1], config.domain_range)
    shrink, _ = decompose(table.energies.flatten(1), centres, landscape)
    measured = measure_table(table, landscape, shrink, config)
    gains = hf_gain(landscape.frequencies.square().sum(-1), weight, sigma)
    return {
        "coverage": measured["coverage"][0],
        "argmin_error": measured["argmin_error"][0],
        "shrink": shrink[0],
        "ripple_gain": mean_gain(gains, landscape),
    }


# ----------------------------------------------------------------------------------------------
# From arrays to metrics
# ----------------------------------------------------------------------------------------------

UNITS = {"endpoint_error": "length", "argmin_error": "length"}
QUANTITIES = (
    "coverage", "own_coverage", "endpoint_error", "argmin_error", "shrink", "r2", "ripple_r2", "ripple_gain",
    "gradient_cosine",
)  # fmt: skip


def record_landscape(results: Results, task: Task, config: Exp2Config) -> None:
    """Arrays {landscape}/true/{energy, paths, reached}, {landscape}/{minimiser, centre}, for the figures."""
    (landscape,) = task.energies
    table = filtered(landscape, torch.ones_like, config.domain_range)
    shrink = torch.ones(1, dtype=torch.float64)
    ends = measure_table(table, landscape, shrink, config)["ends"]
    reached = distance_to_minimum(ends[0], landscape.minimisers).view(config.grid_size, -1)
    results.add_array(f"{task.name}/true/reached", reached)
    results.add_array(f"{task.name}/true/energy", table.energies[0])
    results.add_array(f"{task.name}/true/paths", _paths(table, shrink, config)[0])
    results.add_array(f"{task.name}/minimiser", landscape.minimisers[0])
    results.add_array(f"{task.name}/centre", landscape.centre)


def record_basins(
    results: Results, task: Task, name: str, variant: Variant, measured: Mapping[str, Tensor]
) -> None:
    """Metrics {landscape}/{variant}/{QUANTITIES}, and ripple_gain_predicted of the closed-form filter."""
    (landscape,) = task.energies
    prefix = f"{task.name}/{name}"
    for quantity in QUANTITIES:
        results.add(f"{prefix}/{quantity}", measured[quantity], UNITS.get(quantity, "1"))
    if variant.architecture == "siren":
        squared = landscape.frequencies.square().sum(-1)
        gain = mean_gain(
            predicted_gain(variant.penalty, squared, variant.weight, variant.sigma), landscape
        ).item()
        results.add(f"{prefix}/ripple_gain_predicted", [gain] * len(results.seeds))
    for drawn in ("energy", "reached", "paths"):
        results.add_array(f"{prefix}/{drawn}", measured[drawn])


MAPPED = ("coverage", "argmin_error", "shrink", "ripple_gain")


def record_map(
    results: Results,
    predicted: Mapping[str, Tensor],
    trained: Mapping[str, Mapping[str, Tensor]],
    config: Exp2Config,
) -> None:
    """Arrays map/{predicted, trained}/{MAPPED} [lambda, sigma(, S)], and how well the prediction holds."""
    shape = (len(config.map_lambdas), len(config.map_sigmas), -1)
    for quantity in MAPPED:
        results.add_array(f"map/predicted/{quantity}", predicted[quantity])
    if not trained:
        return
    values = {
        quantity: torch.stack([found[quantity] for found in trained.values()]).view(shape)
        for quantity in MAPPED
    }
    for quantity in MAPPED:
        results.add_array(f"map/trained/{quantity}", values[quantity])
    theory = predicted["ripple_gain"]
    error = (values["ripple_gain"] - theory[..., None]).abs()
    results.add("map/ripple_gain_error", error.amax((0, 1)), "of the ripples' amplitude")
    worst = (values["ripple_gain"].mean(-1) / theory - 1).abs().max().item()
    results.add("map/ripple_gain_relative_error", [worst] * len(results.seeds), "mean of seeds")
    same_side = (values["coverage"] > 0.5) == (predicted["coverage"][..., None] > 0.5)
    results.add("map/coverage_agreement", same_side.double().mean((0, 1)))
