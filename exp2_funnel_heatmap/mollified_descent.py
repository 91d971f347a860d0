"""Mollified descent, and the planners that it has to beat at an equal number of model evaluations.

A planner sees learned energies only, and how well they did on held-out samples: it descends on them, and
of what it found it keeps the point of lowest LEARNED energy, a hop's shrunk towards what was expected
there. It may spend `budget` evaluations on each start, a gradient counting as three (a forward pass, and
a backward one at twice its cost). All take the same steps: Adam, its rate falling to 0.

Shapes: S members (landscapes x seeds), B starts, N candidates of a start, K bases of hops, d coordinates.
"""

import math
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import cma
import numpy as np
import torch
from torch import Tensor

from common.config import Exp2Config
from common.planners.problem import BudgetExceeded
from common.run.random import generators
from exp2_funnel_heatmap.dataset import uniform_points
from exp2_funnel_heatmap.fields import Field

GRADIENT_COST = 3  # evaluations
_CMA_DRAWS = threading.Lock()  # the cma package draws from numpy's global generator
# Adam's memory of slopes and of their squares. With the usual (0.9, 0.99), made for noisy gradients, 25
# steps into a ripple end about 0.01 above its bottom, more than near ties differ by; not so the short one.
LONG_MEMORY, SHORT_MEMORY = (0.9, 0.99), (0.5, 0.9)
SMOOTHING_TRAVEL = 10.0  # of an annealed descent: its steps times half its first rate [length]
LONGEST_RATE = 0.2  # of one of its steps, where a small budget leaves few [length]
SMOOTHING_FALL = 0.1  # the last noise level over the first
SMOOTHED_SAMPLES = 16  # of the flat model that stand in for the smooth one where none was trained


@dataclass(frozen=True)
class Plan:
    """Where each start's plan ended [S, B, d], and the evaluations that it spent."""

    points: Tensor
    evaluations: int


@dataclass(frozen=True)
class Setting:
    """What planners share."""

    smooth_steps: int  # gradient steps on the smoothed energy
    smooth_rate: float  # their first rate [length]
    smooth_starts: int  # descents on it, from the start and from random points
    polish_steps: int  # gradient steps of one polish on the flat model
    polish_rate: float  # their first rate [length]
    hop_sigma: float  # standard deviation of a hop [length]
    hop_rounds: int  # rounds of hops, each from the best point so far
    smoothing_sigma: float  # first noise level of post-hoc smoothing [length]
    smoothing_steps: int  # gradient steps of post-hoc smoothing
    smoothing_starts: int  # its descents
    smoothing_share: float  # of the budget, that post-hoc smoothing with a hop spends before it hops
    half_width: float
    error: Tensor  # RMSE of the flat model on held-out samples, [S]
    share: Tensor  # of the flat energy's departure from the smooth one that is true there, 0 to 1, [S]
    draws: Sequence[torch.Generator]  # one a member

    @property
    def polish_cost(self) -> int:
        """Of one candidate: its polish, and the energy it is judged by."""
        return GRADIENT_COST * self.polish_steps + 1

    def normal(self, count: int, dimension: int, like: Tensor) -> Tensor:
        """Standard normal [S, count, d]."""
        return torch.stack([torch.randn(count, dimension, generator=draw) for draw in self.draws]).to(like)


def setting(config: Exp2Config, error: Tensor, share: Tensor, stream: str) -> Setting:
    """The configuration's setting; `error` and `share` as in Setting, `stream` names the random numbers."""
    seeds = [*config.seeds] * (len(error) // len(config.seeds))
    return Setting(
        config.smooth_steps, config.smooth_rate, config.smooth_starts, config.polish_steps,
        config.polish_rate, config.hop_sigma, config.hop_rounds, config.smoothing_sigma,
        config.smoothing_steps, config.smoothing_starts, config.smoothing_share, config.domain_range,
        error, share, generators(seeds, stream),
    )  # fmt: skip


# ----------------------------------------------------------------------------------------------
# Steps
# ----------------------------------------------------------------------------------------------


def adam_descent(
    gradient: Callable[[Tensor, int], Tensor],
    points: Tensor,
    steps: int,
    rate: float,
    half_width: float,
    memory: tuple[float, float] = SHORT_MEMORY,
) -> Tensor:
    """`steps` steps of Adam (Kingma & Ba, 2015) within the box, the rate falling to 0 as half a cosine.

    Args:
        gradient: of points [S, B, d] and the step's index.
        points: where to begin, [S, B, d].
        steps: how many.
        rate: the first, about the length of a step.
        half_width: of the box.
        memory: decay of the averages of slopes and of their squares, from step to step.
    """
    first, second = torch.zeros_like(points), torch.zeros_like(points)
    for index in range(steps):
        slope = gradient(points, index)
        first = memory[0] * first + (1 - memory[0]) * slope
        second = memory[1] * second + (1 - memory[1]) * slope.square()
        unbiased = first / (1 - memory[0] ** (index + 1))
        spread = (second / (1 - memory[1] ** (index + 1))).sqrt() + 1e-8
        now = rate * 0.5 * (1 + math.cos(math.pi * index / steps))
        points = (points - now * unbiased / spread).clamp(-half_width, half_width)
    return points


def _polish(flat: Field, candidates: Tensor, setting: Setting) -> Tensor:
    """Where descents on the flat model end: [S, B, N, d] -> [S, B, N, d]."""
    ends = adam_descent(
        lambda points, _: flat.gradient(points),
        candidates.flatten(1, 2),
        setting.polish_steps,
        setting.polish_rate,
        setting.half_width,
    )
    return ends.view(candidates.shape)


def _values(energy: Callable[[Tensor], Tensor], candidates: Tensor) -> Tensor:
    """Energies of candidates: [S, B, N, d] -> [S, B, N]."""
    return energy(candidates.flatten(1, 2)).view(candidates.shape[:3])


def _pick(candidates: Tensor, index: Tensor) -> Tensor:
    """Each start's chosen candidate: [S, B, N, d], [S, B] -> [S, B, d]."""
    chosen = index[..., None, None].expand(-1, -1, 1, candidates.shape[-1])
    return candidates.gather(2, chosen)[:, :, 0]


def _with_fresh_starts(starts: Tensor, count: int, setting: Setting) -> Tensor:
    """Each start and count - 1 uniform random points: [S, B, d] -> [S, B, count, d]."""
    members, batch, dimension = starts.shape
    fresh = uniform_points(batch * (count - 1), dimension, setting.half_width, setting.draws).to(starts)
    return torch.cat((starts[:, :, None], fresh.view(members, batch, count - 1, dimension)), 2)


def smoothed_gradient(flat: Field, points: Tensor, sigma: float, samples: int, setting: Setting) -> Tensor:
    """Monte-Carlo gradient of the Gaussian-smoothed energy, mean_m dE(a + sigma e_m): [S, B, d]."""
    members, count, dimension = points.shape
    noise = setting.normal(count * samples, dimension, points).view(members, count, samples, dimension)
    around = (points[:, :, None] + sigma * noise).clamp(-setting.half_width, setting.half_width)
    return flat.gradient(around.flatten(1, 2)).view(around.shape).mean(2)


def _anneal(flat: Field, starts: Tensor, budget: int, setting: Setting) -> tuple[Tensor, int]:
    """Descend on the flat model smoothed by ever less noise, which falls geometrically.

    Returns:
        points [S, B, d], and the evaluations spent on each.
    """
    steps = max(1, min(setting.smoothing_steps, budget // GRADIENT_COST))
    samples = max(1, budget // (GRADIENT_COST * steps))

    def gradient(points: Tensor, index: int) -> Tensor:
        sigma = setting.smoothing_sigma * SMOOTHING_FALL ** (index / steps)
        return smoothed_gradient(flat, points, sigma, samples, setting)

    rate = min(LONGEST_RATE, 2 * SMOOTHING_TRAVEL / steps)
    points = adam_descent(gradient, starts, steps, rate, setting.half_width, LONG_MEMORY)
    return points, GRADIENT_COST * steps * samples


# ----------------------------------------------------------------------------------------------
# What is believed of a candidate
#
# f is the flat model's energy, s the smooth one's, b the base that a candidate x was hopped to from:
#
#     expected(x) = s(x) + share (f(b) - s(b))          share: held-out regression of E - s on f - s
#     believed(x) = expected(x) + trust (f(x) - expected(x))
#     trust       = max(0, 1 - error^2 / variance of f - expected over the candidates)
#
# A base was found on s, so f(b) is an unselected sample of f there: `share` says how much of its departure
# from s is true, and this offset moves what is expected all around the base. A candidate was selected by
# f, so f(x) is not: `trust` takes the luck back out. A plan is the candidate of the lowest believed energy.
# ----------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Candidates:
    """What hops have found, the unpolished bases first."""

    points: Tensor  # [S, B, N, d]
    energies: Tensor  # of the flat model, f(x), [S, B, N]
    expected: Tensor  # [S, B, N]
    offsets: Tensor  # share (f(b) - s(b)), [S, B, N]

    def joined(self, more: "_Candidates") -> "_Candidates":
        pairs = zip(vars(self).values(), vars(more).values(), strict=True)
        return _Candidates(*(torch.cat(pair, 2) for pair in pairs))

    def best(self, bases: int, error: Tensor) -> Tensor:
        """Index of the lowest believed energy, [S, B]; the first `bases` candidates are not polished.

        Only polished candidates tell of the surprise's spread.
        """
        surprise = self.energies - self.expected
        return (self.expected + trust(surprise[:, :, bases:], error) * surprise).argmin(-1)


def trust(surprise: Tensor, error: Tensor) -> Tensor:
    """How much of a candidate's surprise f - expected is believed: [S, B, N], [S] -> [S, B, 1].

    Empirical Bayes (Efron & Morris, 1973): f(x) is the true energy plus an error of variance error^2, and the
    true one lies around `expected` with an unknown variance tau^2. The surprise then varies by
    tau^2 + error^2 over the candidates, and the posterior mean keeps tau^2 / (tau^2 + error^2) of it. Where
    ripples are far deeper than the model's error this believes the flat model, where they are not the smooth
    one.
    """
    spread = surprise.var(-1, correction=0, keepdim=True)
    return (1 - error.to(spread)[:, None, None].square() / spread.clamp(min=1e-12)).clamp(min=0)


def _judged_bases(
    flat: Field, smooth: Callable[[Tensor], Tensor], bases: Tensor, setting: Setting
) -> _Candidates:
    """Bases [S, B, K, d] as the first candidates."""
    energies, expected = _values(flat, bases), _values(smooth, bases)
    offsets = setting.share.to(bases)[:, None, None] * (energies - expected)
    return _Candidates(bases, energies, expected + offsets, offsets)


# ----------------------------------------------------------------------------------------------
# Hops
# ----------------------------------------------------------------------------------------------


def _hop(
    flat: Field,
    smooth: Callable[[Tensor], Tensor],
    smooth_cost: int,
    bases: Tensor,
    budget: int,
    setting: Setting,
) -> Plan:
    """Polish the bases and perturbations of them, in rounds; keep the lowest believed energy.

    The first round polishes every base and perturbs them in turn, the later ones perturb the best so far.
    Each round has at least one candidate, so a small budget has fewer of them.

    Args:
        flat: the flat model.
        smooth: the energy expected before ripples are known.
        smooth_cost: evaluations of a value of it.
        bases: [S, B, K, d].
        budget: evaluations a start.
        setting: hops, rounds, errors, random numbers.
    """
    kept = bases.shape[2]
    cost = setting.polish_cost + smooth_cost
    count = max(kept, (budget - kept * (1 + smooth_cost)) // cost)
    rounds = min(setting.hop_rounds, count)
    found = _judged_bases(flat, smooth, bases, setting)
    for index in range(rounds):
        size = count * (index + 1) // rounds - count * index // rounds
        found = found.joined(_hop_round(flat, smooth, found, kept, size, setting))
    points = _pick(found.points, found.best(kept, setting.error))
    return Plan(points, count * cost + kept * (1 + smooth_cost))


def _hop_round(
    flat: Field,
    smooth: Callable[[Tensor], Tensor],
    found: _Candidates,
    kept: int,
    size: int,
    setting: Setting,
) -> _Candidates:
    """`size` new candidates of each start, polished; `found` begins with the `kept` bases."""
    members, batch, known, dimension = found.points.shape
    noise = setting.normal(batch * size, dimension, found.points).view(members, batch, size, dimension)
    if known == kept:  # the first round
        origin = (torch.arange(size, device=noise.device) % kept).expand(members, batch, -1)
        noise[:, :, :kept] = 0.0  # the bases themselves
    else:
        origin = found.best(kept, setting.error)[..., None].expand(-1, -1, size)
    centres = found.points.gather(2, origin[..., None].expand(-1, -1, -1, dimension))
    hops = (centres + setting.hop_sigma * noise).clamp(-setting.half_width, setting.half_width)
    ends, offsets = _polish(flat, hops, setting), found.offsets.gather(2, origin)
    return _Candidates(ends, _values(flat, ends), _values(smooth, ends) + offsets, offsets)


@dataclass(frozen=True)
class _Smoothed:
    """The flat energy averaged over SMOOTHED_SAMPLES perturbations, the same ones at every point."""

    flat: Field
    noise: Tensor  # [S, samples, d], of the hops' width
    half_width: float

    def __call__(self, points: Tensor) -> Tensor:
        around = (points[:, :, None] + self.noise[:, None]).clamp(-self.half_width, self.half_width)
        return _values(self.flat, around).mean(2)


# ----------------------------------------------------------------------------------------------
# Planners
# ----------------------------------------------------------------------------------------------


def mollified_descent(smooth: Field, flat: Field, starts: Tensor, budget: int, setting: Setting) -> Plan:
    """Descend on the smoothed model, polish on the flat one, hop, keep the lowest energy that is credible.

    The smoothed minimum lies in the right region but seldom in the right ripple; the hop looks at the
    ripples around it. A trained smoothed model gives its gradient for the price of one, and says what
    energy to expect at a point that the flat one praises.

    Args:
        smooth: HELM's model.
        flat: the flat model of the same energy.
        starts: [S, B, d].
        budget: evaluations a start.
        setting: steps, hops, random numbers.
    """
    cost = GRADIENT_COST * setting.smooth_steps
    count = max(1, min(setting.smooth_starts, budget // (4 * cost)))
    bases = _with_fresh_starts(starts, count, setting)
    bases = adam_descent(
        lambda points, _: smooth.gradient(points), bases.flatten(1, 2), setting.smooth_steps,
        setting.smooth_rate, setting.half_width,
    ).view(bases.shape)  # fmt: skip
    plan = _hop(flat, smooth, 1, bases, budget - count * cost, setting)
    return Plan(plan.points, count * cost + plan.evaluations)


def smoothed_flat(flat: Field, starts: Tensor, budget: int, setting: Setting) -> Plan:
    """Post-hoc smoothing, annealed, the whole budget on it; then one polish. No HELM, no hop."""
    cost = GRADIENT_COST * setting.polish_steps
    points, used = _anneal(flat, starts, budget - cost, setting)
    return Plan(_polish(flat, points[:, :, None], setting)[:, :, 0], used + cost)


def smoothed_flat_hop(flat: Field, starts: Tensor, budget: int, setting: Setting) -> Plan:
    """Post-hoc smoothing, annealed, with a share of the budget; the rest on the same hops as HELM's.

    What energy to expect is sampled too, from the flat model around each candidate; being that model's own
    mean it needs no offset.
    """
    count = setting.smoothing_starts
    bases = _with_fresh_starts(starts, count, setting)
    share = int(setting.smoothing_share * budget) // count
    points, used = _anneal(flat, bases.flatten(1, 2), share, setting)
    noise = setting.hop_sigma * setting.normal(SMOOTHED_SAMPLES, starts.shape[-1], starts)
    smooth = _Smoothed(flat, noise, setting.half_width)
    unmoved = replace(setting, share=torch.zeros_like(setting.share))
    left = budget - count * used
    plan = _hop(flat, smooth, SMOOTHED_SAMPLES, points.view(bases.shape), left, unmoved)
    return Plan(plan.points, count * used + plan.evaluations)


def multi_start(flat: Field, starts: Tensor, budget: int, setting: Setting) -> Plan:
    """Best of N descents on the flat model: from the start, and from uniform random points."""
    count = budget // setting.polish_cost
    if not count:
        raise BudgetExceeded(f"a descent costs {setting.polish_cost} evaluations, the budget is {budget}")
    ends = _polish(flat, _with_fresh_starts(starts, count, setting), setting)
    return Plan(_pick(ends, _values(flat, ends).argmin(-1)), count * setting.polish_cost)


def single_descent(field: Field, starts: Tensor, budget: int, setting: Setting) -> Plan:
    """One descent with the whole budget as its steps, at most ten smoothings long."""
    steps = min(budget // GRADIENT_COST, 10 * setting.smooth_steps)
    points = adam_descent(
        lambda points, _: field.gradient(points), starts, steps, setting.polish_rate, setting.half_width
    )
    return Plan(points, GRADIENT_COST * steps)


def cma_es(field: Field, starts: Tensor, budget: int, setting: Setting) -> Plan:
    """CMA-ES of the cma package (Hansen, 2016) on one learned energy, restarted with twice the population.

    The restarts (IPOP, Auger & Hansen, 2005) begin at uniform random points and spend the whole budget.
    """
    found, most = torch.empty_like(starts), 0
    for member, draw in enumerate(setting.draws):
        energy = _as_function(field.member(member), starts)
        for index, start in enumerate(starts[member].cpu().double().numpy()):
            random = np.random.default_rng(int(torch.randint(1 << 31, (1,), generator=draw)))
            point, used = _cma_run(energy, start, budget, setting, random)
            found[member, index] = torch.as_tensor(point).to(starts)
            most = max(most, used)
    return Plan(found, most)


def _as_function(energy: Callable[[Tensor], Tensor], like: Tensor) -> Callable[[np.ndarray], list[float]]:
    """One member's energy as the cma package calls it: of candidates [N, d]."""

    def values(candidates: np.ndarray) -> list[float]:
        with torch.no_grad():
            return energy(torch.as_tensor(candidates).to(like)[None])[0].tolist()

    return values


def _cma_run(
    energy: Callable[[np.ndarray], list[float]],
    start: np.ndarray,
    budget: int,
    setting: Setting,
    random: np.random.Generator,
) -> tuple[np.ndarray, int]:
    """One start's best point and evaluations; the caller's numpy keeps its random numbers."""
    with _CMA_DRAWS:
        state = np.random.get_state()  # noqa: NPY002 (what the package draws from)
        try:
            return _cma_search(energy, start, budget, setting, random)
        finally:
            np.random.set_state(state)  # noqa: NPY002


def _cma_search(
    energy: Callable[[np.ndarray], list[float]],
    start: np.ndarray,
    budget: int,
    setting: Setting,
    random: np.random.Generator,
) -> tuple[np.ndarray, int]:
    width, used = setting.half_width, 0
    population = 4 + int(3 * math.log(len(start)))  # the package's default
    best, lowest = start, math.inf
    while used + population <= budget:
        options = {
            "bounds": [-width, width], "popsize": population, "maxfevals": budget - used, "verbose": -9,
            "seed": int(random.integers(1, 1 << 31)), "tolx": 1e-4, "tolfun": 1e-7,
        }  # fmt: skip
        search = cma.CMAEvolutionStrategy(start, width / 3, options)
        while not search.stop() and used + population <= budget:
            candidates = search.ask()
            search.tell(candidates, energy(np.stack(candidates)))
            used += population
        if search.result.fbest < lowest:
            best, lowest = search.result.xbest, search.result.fbest
        start, population = random.uniform(-width, width, len(start)), 2 * population
    return best, used
