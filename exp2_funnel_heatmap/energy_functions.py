"""Energies of experiment 2: basins with ripples, in closed form, and the standard test functions.

Every energy lives on the box [-r, r]^d (r = domain_range, the documents' 3.0) and knows its minimisers.

Shapes: ... leading dimensions, d coordinates, K ripples, M global minimisers.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Protocol

import torch
from torch import Tensor

from common.run.random import generator

DOMAIN_RANGE = 3.0  # r of the standard landscapes


class Energy(Protocol):
    """What models are trained on and planners are measured with."""

    name: str

    @property
    def dimension(self) -> int:
        """d."""

    @property
    def minimisers(self) -> Tensor:
        """Global minimisers, float64: [M, d]."""

    def __call__(self, points: Tensor) -> Tensor:
        """[..., d] -> [...]."""


@dataclass(frozen=True)
class TrueField:
    """True energies as an ensemble: each serves an equal share of the members, landscape-major."""

    energies: Sequence[Energy]

    def __call__(self, points: Tensor) -> Tensor:
        parts = points.tensor_split(len(self.energies))
        return torch.cat([energy(part) for energy, part in zip(self.energies, parts, strict=True)])

    def gradient(self, points: Tensor) -> Tensor:
        with torch.enable_grad():
            points = points.detach().requires_grad_()
            return torch.autograd.grad(self(points).sum(), points)[0]


def distance_to_minimum(points: Tensor, minimisers: Tensor) -> Tensor:
    """Euclidean distance to the nearest global minimiser: [..., d], [M, d] -> [...]."""
    return (points[..., None, :] - minimisers.to(points)).square().sum(-1).sqrt().amin(-1)


# ----------------------------------------------------------------------------------------------
# A quadratic basin with ripples
# ----------------------------------------------------------------------------------------------

CENTRE = (0.5, -0.3)
FREQUENCIES = ((7.0, 0.0), (0.0, 7.0), (8.0, 8.0), (8.0, -8.0))  # rad per unit length
AMPLITUDES = (0.6, 0.6, 0.25, 0.25)
# Chosen by hand: over the first 12 draws of phases the minimum lies 0.12 to 0.88 from the centre, here 0.56.
# The random landscapes beside it are not chosen.
MISALIGNED_DRAW = 4


@dataclass(frozen=True)
class RippledBasin:
    """E(a) = 1/2 |a - c|^2 + sum_k A_k cos(w_k . (a - c) + phi_k) + offset, everything float64."""

    name: str
    centre: Tensor  # c, [d]
    frequencies: Tensor  # w, [K, d], rad per unit length
    amplitudes: Tensor  # A, [K]
    phases: Tensor  # phi, [K], rad
    offset: float = 0.0
    half_width: float = DOMAIN_RANGE  # r, in whose box the minimum is looked for

    @property
    def dimension(self) -> int:
        return self.centre.shape[0]

    def _angles(self, points: Tensor) -> tuple[Tensor, Tensor]:
        """a - c [..., d] and w_k . (a - c) + phi_k [..., K]."""
        from_centre = points - self.centre.to(points)
        return from_centre, from_centre @ self.frequencies.mT.to(points) + self.phases.to(points)

    def basin(self, points: Tensor) -> Tensor:
        """1/2 |a - c|^2: [..., d] -> [...]."""
        return 0.5 * (points - self.centre.to(points)).square().sum(-1)

    def ripples(self, points: Tensor) -> Tensor:
        """Each ripple A_k cos(w_k . (a - c) + phi_k): [..., d] -> [..., K]."""
        return self.amplitudes.to(points) * torch.cos(self._angles(points)[1])

    def __call__(self, points: Tensor) -> Tensor:
        return self.basin(points) + self.ripples(points).sum(-1) + self.offset

    def gradient(self, points: Tensor) -> Tensor:
        """dE/da = a - c - sum_k A_k w_k sin(w_k . (a - c) + phi_k): [..., d] -> [..., d]."""
        from_centre, angles = self._angles(points)
        return from_centre - (self.amplitudes.to(points) * torch.sin(angles)) @ self.frequencies.to(points)

    def hessian(self, points: Tensor) -> Tensor:
        """I - sum_k A_k w_k w_k^T cos(w_k . (a - c) + phi_k): [..., d] -> [..., d, d]."""
        outer = self.frequencies[:, :, None] * self.frequencies[:, None, :]  # [K, d, d]
        ripples = torch.einsum("...k,kij->...ij", self.ripples(points), outer.to(points))
        return torch.eye(self.dimension).to(points) - ripples

    def mollified(self, sigma: float) -> "RippledBasin":
        """E[E(a + sigma e)], e normal: ripples damped by exp(-|w|^2 sigma^2 / 2), d sigma^2 / 2 added.

        The Gaussian's characteristic function, and E|a - c + sigma e|^2 = |a - c|^2 + d sigma^2.
        """
        damping = torch.exp(-0.5 * sigma**2 * self.frequencies.square().sum(-1))
        return replace(
            self,
            amplitudes=self.amplitudes * damping,
            offset=self.offset + 0.5 * self.dimension * sigma**2,
        )

    @cached_property
    def minimisers(self) -> Tensor:
        """The global minimiser in the box, [1, d]: a grid 0.01 apart, then Newton from its 64 lowest."""
        side = torch.linspace(-1, 1, round(2 * self.half_width / 0.01) + 1, dtype=torch.float64)
        grid = torch.cartesian_prod(*[side * self.half_width] * self.dimension)
        points = grid[self(grid).topk(64, largest=False).indices]
        for _ in range(50):
            curvature, directions = torch.linalg.eigh(self.hessian(points))
            # |curvature| and a bounded step keep Newton going downhill where the energy is not convex
            step = (directions.mT @ self.gradient(points)[..., None]) / curvature.abs().clamp(min=1e-6)[
                ..., None
            ]
            points = points - (directions @ step)[..., 0].clamp(-0.01, 0.01)
        return points[self(points).argmin()][None]


def _rippled(name: str, phases: Tensor, half_width: float, centre: Sequence[float] = CENTRE) -> RippledBasin:
    centre, frequencies, amplitudes = (
        torch.tensor(values, dtype=torch.float64) for values in (centre, FREQUENCIES, AMPLITUDES)
    )
    return RippledBasin(name, centre, frequencies, amplitudes, phases, half_width=half_width)


def _random_phases(draw: torch.Generator) -> Tensor:
    return 2 * math.pi * torch.rand(len(AMPLITUDES), generator=draw, dtype=torch.float64)


def aligned_landscape(half_width: float = DOMAIN_RANGE) -> RippledBasin:
    """All ripples lowest at the centre: the basin's minimum is the global minimum."""
    return _rippled("aligned", torch.full((len(AMPLITUDES),), math.pi, dtype=torch.float64), half_width)


def misaligned_landscape(half_width: float = DOMAIN_RANGE) -> RippledBasin:
    """Random phases: the global minimum is away from the centre, where every smoothed minimum is."""
    phases = _random_phases(generator(MISALIGNED_DRAW, "misaligned landscape"))
    return _rippled("misaligned", phases, half_width)


def random_landscape(index: int, half_width: float = DOMAIN_RANGE) -> RippledBasin:
    """Random phases, and a centre uniform in [-1, 1]^2."""
    draw = generator(index, "random landscape")
    centre = 2 * torch.rand(2, generator=draw, dtype=torch.float64) - 1
    return _rippled(f"random_{index}", _random_phases(draw), half_width, centre.tolist())


def random_landscapes(count: int, half_width: float = DOMAIN_RANGE) -> list[RippledBasin]:
    """The first `count` random landscapes."""
    return [random_landscape(index, half_width) for index in range(count)]


def make_landscape(name: str, half_width: float = DOMAIN_RANGE) -> RippledBasin:
    """'aligned' or 'misaligned', on [-half_width, half_width]^2."""
    return {"aligned": aligned_landscape, "misaligned": misaligned_landscape}[name](half_width)


# ----------------------------------------------------------------------------------------------
# Standard test functions in their own coordinates x: [..., d] -> [...]
# (formulas, domains and minima: Surjanovic & Bingham, Virtual Library of Simulation Experiments)
# ----------------------------------------------------------------------------------------------

TINY = 1e-16  # under square roots, whose slope at 0 is infinite


def ackley(x: Tensor) -> Tensor:
    """-20 exp(-0.2 sqrt(mean x^2)) - exp(mean cos 2 pi x) + 20 + e; minimum 0 at 0."""
    radius = (x.square().mean(-1) + TINY).sqrt()
    return -20 * torch.exp(-0.2 * radius) - torch.exp(torch.cos(2 * math.pi * x).mean(-1)) + 20 + math.e


def rastrigin(x: Tensor) -> Tensor:
    """10 d + sum (x^2 - 10 cos 2 pi x); minimum 0 at 0."""
    return (10 + x.square() - 10 * torch.cos(2 * math.pi * x)).sum(-1)


def griewank(x: Tensor) -> Tensor:
    """sum x^2 / 4000 - prod cos(x_i / sqrt i) + 1; minimum 0 at 0."""
    index = torch.arange(1, x.shape[-1] + 1, device=x.device, dtype=x.dtype)
    return x.square().sum(-1) / 4000 - torch.cos(x / index.sqrt()).prod(-1) + 1


def levy(x: Tensor) -> Tensor:
    """With w = 1 + (x - 1) / 4: sin^2 pi w_1 + ... (Levy 13 generalised); minimum 0 at (1, .., 1)."""
    w = 1 + (x - 1) / 4
    inner, last = w[..., :-1], w[..., -1]
    middle = (inner - 1).square() * (1 + 10 * torch.sin(math.pi * inner + 1).square())
    end = (last - 1).square() * (1 + torch.sin(2 * math.pi * last).square())
    return torch.sin(math.pi * w[..., 0]).square() + middle.sum(-1) + end


def schwefel(x: Tensor) -> Tensor:
    """418.9829 d - sum x sin sqrt|x|; minimum about 0 at (420.9687, ..), far from the next best."""
    return 418.9829 * x.shape[-1] - (x * torch.sin((x.abs() + TINY).sqrt())).sum(-1)


def eggholder(x: Tensor) -> Tensor:
    """-(y + 47) sin sqrt|y + x/2 + 47| - x sin sqrt|x - y - 47|; minimum -959.6407 at (512, 404.2319)."""
    first, second = x.unbind(-1)
    near = ((second + first / 2 + 47).abs() + TINY).sqrt()
    far = ((first - second - 47).abs() + TINY).sqrt()
    return -(second + 47) * torch.sin(near) - first * torch.sin(far)


def himmelblau(x: Tensor) -> Tensor:
    """(x^2 + y - 11)^2 + (x + y^2 - 7)^2; minimum 0 at (3, 2) and three other points."""
    first, second = x.unbind(-1)
    return (first.square() + second - 11).square() + (first + second.square() - 7).square()


RIPPLE_AMPLITUDE = (
    20.0  # of rippled Himmelblau: its slope, 20 * 2 pi, exceeds Himmelblau's between the minima
)


def rippled_himmelblau(x: Tensor) -> Tensor:
    """Himmelblau plus 20 sum (1 - cos 2 pi (x - (3, 2))): of the four minima only (3, 2) stays at 0.

    The others, at (-2.805, 3.131), (-3.779, -3.283) and (3.584, -1.848), are off the ripples' lattice.
    """
    lattice = x - x.new_tensor([3.0, 2.0])
    return himmelblau(x) + RIPPLE_AMPLITUDE * (1 - torch.cos(2 * math.pi * lattice)).sum(-1)


@dataclass(frozen=True)
class _Definition:
    """A function, the x that the box [-r, r]^d covers, and its minimum."""

    formula: Callable[[Tensor], Tensor]
    half_width: float  # of the box in x, centred at 0
    minimiser: tuple[float, ...]  # repeated to d coordinates where it has one
    minimum: float  # per coordinate where the minimiser is
    dimensions: tuple[int, ...] = (2, 5, 10, 20)
    # The minimum moved away from the centre of the box, where regularised models are best by habit
    shifted: bool = False


# Ackley's and Griewank's usual boxes (32.768 and 600) hold 65 and 190 ripples a side, which no model of
# this size learns from any affordable sample; theirs here hold about ten, as Rastrigin's usual box does.
DEFINITIONS = {
    "ackley": _Definition(ackley, 5.0, (0.0,), 0.0, shifted=True),
    "rastrigin": _Definition(rastrigin, 5.12, (0.0,), 0.0, shifted=True),
    "griewank": _Definition(griewank, 30.0, (0.0,), 0.0, shifted=True),
    "levy": _Definition(levy, 10.0, (1.0,), 0.0),
    "schwefel": _Definition(schwefel, 500.0, (420.968746,), 2.5455e-5),
    "eggholder": _Definition(eggholder, 512.0, (512.0, 404.231805), -959.640663, dimensions=(2,)),
    "himmelblau": _Definition(rippled_himmelblau, 5.0, (3.0, 2.0), 0.0, dimensions=(2,)),
}

SCALE_SAMPLES = 1 << 16


@dataclass(frozen=True)
class BenchmarkFunction:
    """A test function on [-r, r]^d: (f(x) - f_min) / std f, x = (a - shift) half_width / r."""

    function: str
    dimension: int
    half_width: float = DOMAIN_RANGE  # r

    def __post_init__(self) -> None:
        if self.dimension not in DEFINITIONS[self.function].dimensions:
            raise ValueError(f"{self.function} is not defined here in {self.dimension} dimensions")

    @property
    def name(self) -> str:
        return f"{self.function}-{self.dimension}"

    @cached_property
    def shift(self) -> Tensor:
        """Where x = 0 lies in the box: [d]."""
        if not DEFINITIONS[self.function].shifted:
            return torch.zeros(self.dimension, dtype=torch.float64)
        draw = generator(0, f"shift of {self.name}")
        return (2 * torch.rand(self.dimension, generator=draw, dtype=torch.float64) - 1) * self.half_width / 3

    @cached_property
    def minimisers(self) -> Tensor:
        known = DEFINITIONS[self.function]
        repeats = self.dimension // len(known.minimiser)
        x = torch.tensor(known.minimiser * repeats, dtype=torch.float64)
        return (x * self.half_width / known.half_width + self.shift)[None]

    @cached_property
    def scale(self) -> float:
        """Standard deviation of f over the box, from a fixed sample."""
        draw = generator(0, f"scale of {self.name}")
        uniform = torch.rand(SCALE_SAMPLES, self.dimension, generator=draw, dtype=torch.float64)
        return self._raw((2 * uniform - 1) * self.half_width).std().item()

    def _raw(self, points: Tensor) -> Tensor:
        known = DEFINITIONS[self.function]
        return known.formula((points - self.shift.to(points)) * (known.half_width / self.half_width))

    def __call__(self, points: Tensor) -> Tensor:
        known = DEFINITIONS[self.function]
        minimum = known.minimum * self.dimension / len(known.minimiser)
        return (self._raw(points) - minimum) / self.scale
