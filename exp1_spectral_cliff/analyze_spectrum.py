"""What experiment 1 measures: Jacobian norms and prediction error over the horizon, and what explains them.

A Jacobian norm is never reported without the prediction error (NRMSE) beside it: a model that answers
the mean has a Jacobian of zero. Everything is computed in float64.

Shapes: S seeds, B start states, H horizons, T time, d state, d_a action dimension.
"""

import copy
import math
from collections.abc import Mapping, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from common.config import Exp1Config
from common.jacobian_utils import JacobianAccumulator, accumulate_rollout, jacobians
from common.run.cache import reads_settings
from common.run.devices import measurement_device, to_float64
from common.run.random import generators
from common.run.results import Results
from exp1_spectral_cliff.dataset import (
    EVALUATION_FIELDS,
    PUBLISHED_LINEAR_HORIZON,
    LinearSystem,
    System,
    Trajectories,
    linear_action_norm,
)
from exp1_spectral_cliff.models import (
    Level,
    TrueLevel,
    cascade_levels,
    last_latents,
    rollout,
    segments,
    split_actions,
)

MOLLIFIED_LONGEST = 50  # beyond this the Monte-Carlo estimate needs more samples than it is worth
FAR = 50  # horizons from here on count as far

# ----------------------------------------------------------------------------------------------
# The variants: which levels each of them is rolled out with
# ----------------------------------------------------------------------------------------------


def compositions(models: Mapping[str, nn.Module]) -> dict[str, tuple[str, ...]]:
    """The models that each variant is rolled out with, by name, finest first; none for the true system.

    A HELM variant covers what its stride does not divide with the flat model's steps. `helm_blind` is HELM
    started from another trajectory's state: its error is what HELM knows from the actions alone.
    """
    variants: dict[str, tuple[str, ...]] = {"true": ()}
    for name, model in models.items():
        variants[name] = (name,) if model.stride == 1 else ("flat", name)
    if "helm_coarse" in models:
        variants["cascade"] = ("flat", "helm", "helm_coarse")
        variants["helm_blind"] = variants["helm"]
    return variants


def variant_names(models: Mapping[str, nn.Module]) -> list[str]:
    """The variants whose spectra are measured."""
    return list(compositions(models))


def hierarchy(
    system: System, models: Mapping[str, nn.Module], variant: str, device: torch.device
) -> list[Level]:
    """The levels of a variant, finest first: frozen copies in float64 on the measurement device."""
    names = compositions(models)[variant]
    if not names:
        return [TrueLevel(system)]
    place = measurement_device(device)
    return [to_float64(copy.deepcopy(models[name]), place).requires_grad_(False) for name in names]


# ----------------------------------------------------------------------------------------------
# Jacobian norms and prediction error
# ----------------------------------------------------------------------------------------------


def rollout_norms(levels: Sequence[Level], states: Tensor, actions: Tensor) -> tuple[Tensor, Tensor]:
    """log10 ||ds_T/ds_0||_F and ||ds_T/da||_F of a hierarchy: [S, B, d], [S, B, T, d_a] -> two [S, B]."""
    horizon = actions.shape[2]
    return pass_norms(levels, states, actions, [horizon])[horizon]


def prediction_error(predicted: Tensor, true: Tensor) -> Tensor:
    """NRMSE [S]: error over that of predicting the mean true state (1 = useless), [S, B, d] each."""
    variance = (true - true.mean(1, keepdim=True)).square().mean((1, 2))
    return ((predicted - true).square().mean((1, 2)) / variance).sqrt()


@reads_settings(*EVALUATION_FIELDS, "cascade_switch")
def measure_spectrum(
    system: System,
    models: Mapping[str, nn.Module],
    variant: str,
    data: Trajectories,
    *,
    config: Exp1Config,
    device: torch.device,
) -> dict[str, Tensor]:
    """One variant's norms and errors at every horizon.

    Returns:
        log10_jacobian_state, log10_jacobian_action [H, S, B] and, but for the true system, nrmse [H, S].
    """
    device = measurement_device(device)
    levels, data = hierarchy(system, models, variant, device), data.to(device)
    switch = config.cascade_switch if variant == "cascade" else None
    return spectrum(
        levels, data, config, switch=switch, blind=variant == "helm_blind", errors=variant != "true"
    )


def spectrum(
    levels: Sequence[Level],
    data: Trajectories,
    config: Exp1Config,
    *,
    switch: Sequence[int] | None = None,
    blind: bool = False,
    norms: bool = True,
    errors: bool = True,
) -> dict[str, Tensor]:
    """A hierarchy's norms and errors at every horizon, what `measure_spectrum` returns.

    Args:
        levels: finest first.
        data: true trajectories.
        config: its horizons and numbers of start states.
        switch: horizons beyond which a level is added (see `cascade_levels`); none: all are always used.
        blind: start from another trajectory's state.
        norms: measure the norms.
        errors: measure the errors.
    """
    starts = data.states[:, :, 0].roll(int(blind), dims=1)
    few, many = config.num_jacobian_states, config.num_error_states
    grown, missed = {}, {}
    for used, horizons in shared_passes(levels, config.horizons, switch):
        if norms:
            grown |= pass_norms(used, starts[:, :few], data.actions[:, :few], horizons)
        if errors:
            for horizon, predicted in pass_states(used, starts[:, :many], data.actions[:, :many], horizons):
                missed[horizon] = prediction_error(predicted, data.states[:, :many, horizon])
    measured = {}
    if norms:
        state, action = zip(*(grown[horizon] for horizon in config.horizons), strict=True)
        measured |= {"log10_jacobian_state": torch.stack(state), "log10_jacobian_action": torch.stack(action)}
    if errors:
        measured["nrmse"] = torch.stack([missed[horizon] for horizon in config.horizons])
    return measured


def shared_passes(
    levels: Sequence[Level], horizons: Sequence[int], switch: Sequence[int] | None = None
) -> list[tuple[Sequence[Level], list[int]]]:
    """Groups of horizons that one rollout passes through, each with the levels that it uses.

    Two horizons share a rollout where they differ only in how many steps the last level takes: with strides
    1 and 4 the horizons 5, 9 and 401 are one flat step and then 1, 2 and 100 macro steps.
    """
    groups: dict[object, tuple[Sequence[Level], list[int]]] = {}
    for horizon in horizons:
        used = levels if switch is None else cascade_levels(levels, horizon, switch)
        *before, (last, _) = segments(used, horizon)
        key = (*((id(level), count) for level, count in before), id(last))
        groups.setdefault(key, (used, []))[1].append(horizon)
    return list(groups.values())


def pass_norms(
    levels: Sequence[Level], states: Tensor, actions: Tensor, horizons: Sequence[int]
) -> dict[int, tuple[Tensor, Tensor]]:
    """`rollout_norms` at horizons that share a pass (see `shared_passes`), by horizon: two [S, B] each."""
    norms, longest = {}, max(horizons)
    accumulator = JacobianAccumulator(states.shape[:-1], states.shape[-1], states.device)
    *before, last = split_actions(levels, actions[:, :, :longest])
    for level, blocks in before:
        accumulator.push(*jacobians(level.encode, states))
        *_, (_, latents) = accumulate_rollout(accumulator, level.step, level.encode(states), blocks)
        accumulator.push(*jacobians(level.decode, latents))
        states = level.decode(latents)
    level, blocks = last
    accumulator.push(*jacobians(level.encode, states))
    first = longest - level.stride * blocks.shape[2]  # steps before the last level's
    for count, latents in accumulate_rollout(accumulator, level.step, level.encode(states), blocks):
        if (horizon := first + count * level.stride) in horizons:
            norms[horizon] = accumulator.log10_norms(*jacobians(level.decode, latents))
    return norms


@torch.no_grad()
def pass_states(
    levels: Sequence[Level], states: Tensor, actions: Tensor, horizons: Sequence[int]
) -> list[tuple[int, Tensor]]:
    """Predicted states at horizons that share a pass, (horizon, [S, B, d])."""
    found, longest = [], max(horizons)
    *before, (level, blocks) = split_actions(levels, actions[:, :, :longest])
    for finer, part in before:
        states = finer.decode(last_latents(finer, finer.encode(states), part))
    latents, horizon = level.encode(states), longest - level.stride * blocks.shape[2]
    for block in blocks.unbind(2):
        latents, horizon = level.step(latents, block), horizon + level.stride
        if horizon in horizons:
            found.append((horizon, level.decode(latents)))
    return found


def growth_rate(log10_norms: Tensor, horizons: Sequence[int]) -> Tensor:
    """Least-squares slope of the median log10 ||J_s|| over T >= 50: [H, S, B] -> [S], per step.

    At least two of the horizons must be that far.
    """
    far = [index for index, horizon in enumerate(horizons) if horizon >= FAR]
    t = torch.tensor([float(horizons[index]) for index in far], dtype=torch.float64)
    medians = log10_norms[far].median(-1).values  # [H', S]
    centred = t - t.mean()
    return (centred[:, None] * (medians - medians.mean(0))).sum(0) / centred.square().sum()


@reads_settings(*EVALUATION_FIELDS)
def measure_lyapunov(
    system: System, data: Trajectories, *, config: Exp1Config, device: torch.device
) -> dict[str, Tensor]:
    """The true system's largest Lyapunov exponent, log10 per step [S], without any Jacobian.

    Benettin et al. (1980): the mean log stretch per step of a separation that is brought back to 1e-7
    after every step, over all evaluation trajectories, the first eighth left out as transient.
    """
    device = measurement_device(device)
    separation = 1e-7
    states, actions = data.states.to(device), data.actions.to(device)
    offset = torch.full_like(states[:, :, 0], separation / math.sqrt(states.shape[-1]))
    stretches = []
    for t, action in enumerate(actions.unbind(2)):
        apart = system.step(states[:, :, t] + offset, action) - states[:, :, t + 1]
        length = apart.norm(dim=-1, keepdim=True)
        stretches.append((length / separation).log10().mean((1, 2)))  # [S]
        offset = apart * (separation / length)
    return {"lyapunov_exponent": torch.stack(stretches)[len(stretches) // 8 :].mean(0)}


# ----------------------------------------------------------------------------------------------
# The mollified true system
# ----------------------------------------------------------------------------------------------


def stein_bound(states: Tensor, sigma: float) -> Tensor:
    """Upper bound on the Jacobian of any map smoothed by Gaussian noise sigma: std(s_T) / sigma, [S].

    F_sigma(x) = E F(x + sigma e) has the Jacobian E[F(x + sigma e) e^T] / sigma (Stein, 1981); by
    Cauchy-Schwarz its Frobenius norm is at most the root of the total conditional variance of F over
    sigma, and that variance does not exceed the variance of s_T itself (on average over x). It holds
    for the full Jacobian [dF/ds, dF/da] and for EVERY horizon.

    Args:
        states: s_T, [S, B, d].
        sigma: noise standard deviation.
    """
    return states.var(1).sum(-1).sqrt() / sigma


def mollified_squared_norms(
    system: System,
    starts: Tensor,
    actions: Tensor,
    sigma: float,
    samples: int,
    draws: Sequence[torch.Generator],
) -> tuple[Tensor, Tensor]:
    """Unbiased Monte-Carlo estimates of ||dF_sigma/ds_0||_F^2 and ||dF_sigma/da||_F^2, two [H=T, S, B].

    Each half of the samples gives an antithetic Stein estimate of the Jacobian,
    (F(x + sigma e) - F(x - sigma e)) e^T / (2 sigma); the inner product of the two independent halves is
    unbiased for the squared norm, where the square of one estimate would add its variance.

    Args:
        system: its true step is F's.
        starts: [S, B, d].
        actions: [S, B, T, d_a].
        sigma: noise on starts and actions.
        samples: antithetic pairs, half of them in each half.
        draws: a generator a seed.
    """
    batch, length, d_action = actions.shape[1:]
    half = samples // 2
    shape = (batch, 2, half)
    start_noise = _normals((*shape, starts.shape[-1]), draws).to(starts)  # [S, B, 2, M, d]
    action_noise = _normals((*shape, length, d_action), draws).to(starts)  # [S, B, 2, M, T, d_a]
    plus = starts[:, :, None, None] + sigma * start_noise
    minus = starts[:, :, None, None] - sigma * start_noise
    state_norms, action_norms = [], []
    for t in range(length):
        centre = actions[:, :, None, None, t]
        plus = system.step(plus, centre + sigma * action_noise[..., t, :])
        minus = system.step(minus, centre - sigma * action_noise[..., t, :])
        difference = (plus - minus) / (2 * sigma)  # [S, B, 2, M, d]
        for noise, norms in (
            (start_noise, state_norms),
            (action_noise[..., : t + 1, :].flatten(-2), action_norms),
        ):
            estimates = difference.mT @ noise / half  # [S, B, 2, d, d_noise]
            norms.append((estimates[:, :, 0] * estimates[:, :, 1]).sum((-2, -1)))
    return torch.stack(state_norms), torch.stack(action_norms)


def _normals(shape: tuple[int, ...], draws: Sequence[torch.Generator]) -> Tensor:
    return torch.stack([torch.randn(shape, generator=draw, dtype=torch.float64) for draw in draws])


@reads_settings(*EVALUATION_FIELDS, "hf_noise_sigma", "mollified_samples")
def measure_mollified(
    system: System, data: Trajectories, *, config: Exp1Config, device: torch.device
) -> dict[str, Tensor]:
    """The mollified true system's norms at the horizons up to 50, and the Stein bound at all.

    Returns:
        log10_stein_bound [H, S] and, where a horizon is at most 50, horizons [H'], log10_jacobian_state and
        log10_jacobian_action [H', S], the median over the start states as for every model.
    """
    device = measurement_device(device)
    sigma = config.hf_noise_sigma
    bound = [stein_bound(data.states[:, :, horizon], sigma).log10() for horizon in config.horizons]
    measured = {"log10_stein_bound": torch.stack(bound)}
    short = [horizon for horizon in config.horizons if horizon <= MOLLIFIED_LONGEST]
    if not short:
        return measured
    few = data.states[:, : config.num_jacobian_states, 0].to(device)
    actions = data.actions[:, : config.num_jacobian_states, : max(short)].to(device)
    draws = generators(config.seeds, f"{system.name}/mollified")
    chunks = [  # a few start states at a time, to bound memory
        mollified_squared_norms(system, starts, block, sigma, config.mollified_samples, draws)
        for starts, block in zip(few.split(8, 1), actions.split(8, 1), strict=True)
    ]
    state, action = (  # [T, S]
        torch.cat(parts, -1).median(-1).values for parts in zip(*chunks, strict=True)
    )
    rows = [horizon - 1 for horizon in short]
    return measured | {
        "horizons": torch.tensor(short),
        "log10_jacobian_state": 0.5 * state[rows].log10(),
        "log10_jacobian_action": 0.5 * action[rows].log10(),
    }


# ----------------------------------------------------------------------------------------------
# Does the action gradient mean anything?
# ----------------------------------------------------------------------------------------------


def action_gradient(levels: Sequence[Level], starts: Tensor, actions: Tensor, goals: Tensor) -> Tensor:
    """d/da of 1/2 ||s_T - goal||^2: [S, B, T, d_a]."""
    actions = actions.detach().requires_grad_()
    energy = 0.5 * (rollout(levels, starts, actions) - goals).square().sum()
    return torch.autograd.grad(energy, actions)[0]


@reads_settings(*EVALUATION_FIELDS, "gradient_noise")
def measure_gradient_agreement(
    system: System,
    models: Mapping[str, nn.Module],
    data: Trajectories,
    *,
    config: Exp1Config,
    device: torch.device,
) -> dict[str, Tensor]:
    """Cosine of the action gradients at a start and at the start and actions slightly perturbed.

    The goal is another trajectory's state. 1 says that a gradient holds beyond the point at which it
    was taken; 0 that it says nothing there.

    Returns:
        for flat, spectral and helm: [H, S], the mean over the start states.
    """
    device = measurement_device(device)
    data = data.to(device)
    few = config.num_jacobian_states
    starts, actions = data.states[:, :few, 0], data.actions[:, :few]
    goals = data.states[:, :few, 0].roll(1, dims=1)
    draws = generators(config.seeds, f"{system.name}/gradient agreement")
    start_noise = config.gradient_noise * _normals(starts.shape[1:], draws).to(device)
    action_noise = config.gradient_noise * _normals(actions.shape[1:], draws).to(device)
    cosines = {}
    for variant in ("flat", "spectral", "helm"):
        rows, levels = [], hierarchy(system, models, variant, device)
        for horizon in config.gradient_horizons:
            here = action_gradient(levels, starts, actions[:, :, :horizon], goals)
            there = action_gradient(
                levels, starts + start_noise, (actions + action_noise)[:, :, :horizon], goals
            )
            rows.append(F.cosine_similarity(here.flatten(2), there.flatten(2), dim=-1, eps=0.0).mean(-1))
        cosines[variant] = torch.stack(rows)
    return cosines


# ----------------------------------------------------------------------------------------------
# Trajectories to look at
# ----------------------------------------------------------------------------------------------

SHOWN_STEPS = 100


@reads_settings(*EVALUATION_FIELDS)
def sample_rollouts(
    system: System,
    models: Mapping[str, nn.Module],
    data: Trajectories,
    *,
    config: Exp1Config,
    device: torch.device,
) -> dict[str, Tensor]:
    """One open-loop rollout of the first seed: true, flat and helm, each [T + 1, d] (helm every N steps)."""
    device = measurement_device(device)
    data = data.to(device)
    length = min(SHOWN_STEPS, data.actions.shape[2])
    start, actions = data.states[:, :1, 0], data.actions[:, :1, :length]
    shown = {"true": data.states[0, 0, : length + 1]}
    for variant, stride in (("flat", 1), ("helm", models["helm"].stride)):
        levels, times = hierarchy(system, models, variant, device), range(stride, length + 1, stride)
        states = [state for _, state in pass_states(levels, start, actions, times)] if times else []
        shown[variant] = torch.stack([start, *states])[:, 0, 0]
    shown["stride"] = torch.tensor(models["helm"].stride)
    return shown


# ----------------------------------------------------------------------------------------------
# From arrays to metrics
# ----------------------------------------------------------------------------------------------


def record_spectrum(
    results: Results, system: System, variant: str, measured: Mapping[str, Tensor], horizons: Sequence[int]
) -> None:
    """Metrics {system}/{variant}/{log10_jacobian_state,log10_jacobian_action,nrmse}/T={T}, state medians."""
    prefix = f"{system.name}/{variant}"
    for quantity in ("log10_jacobian_state", "log10_jacobian_action"):
        medians = measured[quantity].median(-1).values  # [H, S]
        results.add_array(f"{prefix}/{quantity}", medians)
        for horizon, values in zip(horizons, medians, strict=True):
            results.add(f"{prefix}/{quantity}/T={horizon}", values, "log10")
    results.add(
        f"{prefix}/peak_log10_jacobian_state",
        measured["log10_jacobian_state"].median(-1).values.max(0).values,
        "log10",
    )
    if "nrmse" in measured:
        results.add_array(f"{prefix}/nrmse", measured["nrmse"])
        for horizon, values in zip(horizons, measured["nrmse"], strict=True):
            results.add(f"{prefix}/nrmse/T={horizon}", values)


def record_growth(
    results: Results,
    system: System,
    spectra: Mapping[str, Mapping[str, Tensor]],
    exponent: Tensor,
    horizons: Sequence[int],
) -> None:
    """Growth rates of true and flat beside the Lyapunov exponent; flat's relative deviation from it."""
    results.add(f"{system.name}/true/lyapunov_exponent", exponent, "log10/step")
    if sum(horizon >= FAR for horizon in horizons) < 2:
        return  # a slope needs two points
    for variant in ("true", "flat"):
        rate = growth_rate(spectra[variant]["log10_jacobian_state"], horizons)
        results.add(f"{system.name}/{variant}/growth_rate", rate, "log10/step")
        results.add(f"{system.name}/{variant}/growth_rate_error", (rate / exponent - 1).abs())


def record_linear(results: Results, system: LinearSystem, config: Exp1Config) -> None:
    """Flat against the closed form, and the penalty against ridge regression, at the published horizon.

    With E x x^T = I the penalised least-squares solution is [W B] / (1 + lambda).
    """
    horizon = PUBLISHED_LINEAR_HORIZON
    if horizon not in config.horizons:
        return
    shrink = 1.0 + config.lambda_spectral_linear
    predictions = {
        "flat/closed_form_error": linear_action_norm(system.W, system.B, horizon),
        "spectral/ridge_error": linear_action_norm(system.W / shrink, system.B / shrink, horizon),
    }
    for name, predicted in predictions.items():
        variant = name.partition("/")[0]
        log10 = results.metrics[f"linear/{variant}/log10_jacobian_action/T={horizon}"]["values"]
        results.add(f"linear/{name}/T={horizon}", [abs(10**value / predicted - 1) for value in log10])
        results.add(f"linear/{name}/predicted/T={horizon}", [predicted] * len(log10))


def record_ablation(results: Results, system: System, horizons: Sequence[int]) -> None:
    """The worst NRMSE over T >= 50 of HELM with one part changed, and its two main parts' synergy.

    Metrics {system}/{variant}/far_nrmse; {system}/best_single_component/far_nrmse for the better of the
    bounded latent alone and the multi-step loss alone; {system}/synergy/log10_far_nrmse, by how much both
    parts together lower log10 far_nrmse beyond the sum of what each lowers it alone (above 0: synergy).
    """
    far = [horizon for horizon in horizons if horizon >= FAR]
    if not far:
        return
    worst: dict[str, list[float]] = {}
    for variant in ("helm", "helm_n1", "helm_sigma0", "helm_unbounded", "helm_one_step", "helm_neither"):
        per_horizon = [
            results.metrics[f"{system.name}/{variant}/nrmse/T={horizon}"]["values"] for horizon in far
        ]
        worst[variant] = [
            math.inf if None in values else max(values) for values in zip(*per_horizon, strict=True)
        ]
        results.add(f"{system.name}/{variant}/far_nrmse", worst[variant])
    alone = [worst["helm_one_step"], worst["helm_unbounded"]]
    best = [min(pair) for pair in zip(*alone, strict=True)]
    results.add(f"{system.name}/best_single_component/far_nrmse", best)
    together = torch.tensor([worst["helm"], worst["helm_neither"], *alone], dtype=torch.float64).log10()
    synergy = together[2] + together[3] - together[0] - together[1]
    results.add(f"{system.name}/synergy/log10_far_nrmse", synergy, "log10")


def record_mollified(
    results: Results, system: System, measured: Mapping[str, Tensor], horizons: Sequence[int]
) -> None:
    """Metrics {system}/mollified_true/log10_{jacobian_state,jacobian_action,stein_bound}/T={T}."""
    prefix = f"{system.name}/mollified_true"
    rows_of = {"log10_stein_bound": horizons}
    if "horizons" in measured:
        short = measured["horizons"].tolist()
        rows_of |= {"log10_jacobian_state": short, "log10_jacobian_action": short}
        results.add_array(f"{prefix}/horizons", measured["horizons"])
    for quantity, rows in rows_of.items():
        results.add_array(f"{prefix}/{quantity}", measured[quantity])
        for horizon, values in zip(rows, measured[quantity], strict=True):
            results.add(f"{prefix}/{quantity}/T={horizon}", values, "log10")


def record_gradient_agreement(
    results: Results, system: System, cosines: Mapping[str, Tensor], horizons: Sequence[int]
) -> None:
    """Metrics {system}/{flat, spectral, helm}/gradient_cosine/T={T}."""
    for variant, rows in cosines.items():
        results.add_array(f"{system.name}/{variant}/gradient_cosine", rows)
        for horizon, values in zip(horizons, rows, strict=True):
            results.add(f"{system.name}/{variant}/gradient_cosine/T={horizon}", values)


def record_rollouts(results: Results, system: System, shown: Mapping[str, Tensor]) -> None:
    """Arrays {system}/rollout/{true, flat, helm, stride}."""
    for name, states in shown.items():
        results.add_array(f"{system.name}/rollout/{name}", states)
