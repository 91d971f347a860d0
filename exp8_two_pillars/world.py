"""The world of experiment 8: a particle finds its way round walls while a chaotic wind pushes it.

Shapes: ... leading dimensions, W walls, d wind dimension, P pictures' pixels. A state [..., 2 + d] is the
particle's position in the box [-1, 1]^2 and the wind, normalised to its stationary mean and deviation. An
action [..., 2] lies in [-1, 1]^2.
"""

from dataclasses import dataclass
from functools import cache, cached_property

import torch
from torch import Tensor

from common.chaos import lorenz, lorenz96, roessler, runge_kutta
from common.run.random import generator

SPEED = 0.08  # the particle's way in a step, for each unit of action [length]
RADIUS = 0.05  # of the particle: it stops as far before a wall [length]
CORNER = 1e-3  # by which walls are longer than drawn, so that corners hold [length]
BEYOND = 2.0  # where a wall ends that leaves the box
BLOB = 0.25  # width of the particle's picture [length]

# ----------------------------------------------------------------------------------------------
# Mazes
# ----------------------------------------------------------------------------------------------

Wall = tuple[int, float, float, float]  # axis it bars (0: vertical wall), where on it, from, to on the other

MAZES = ("none", "one_wall", "s", "spiral")


def maze_walls(maze: str, length: float) -> tuple[Wall, ...]:
    """The walls of a maze, each `length` times as long as the box's side (2); none for a length of 0.

    one_wall: from the floor, in the middle. s: from the floor at x = -1/3 and from the ceiling at x = 1/3.
    spiral: from the left side in, once round and half down; `length` .75 is its usual one.
    """
    tip = -1 + 2 * length
    if maze == "none" or length == 0:
        return ()
    if maze == "one_wall":
        return ((0, 0.0, -BEYOND, tip),)
    if maze == "s":
        return ((0, -1 / 3, -BEYOND, tip), (0, 1 / 3, -tip, BEYOND))
    if maze == "spiral":
        return ((1, -tip, -BEYOND, tip), (0, tip, -tip, tip), (1, tip, -tip, tip), (0, -tip, 0.0, tip))
    raise ValueError(f"no maze {maze!r}; there are {', '.join(MAZES)}")


def move(positions: Tensor, steps: Tensor, walls: tuple[Wall, ...]) -> Tensor:
    """Where steps lead that walls and the box's sides hold back: [..., 2], [..., 2] -> [..., 2].

    A particle stops RADIUS before the first wall on its way, takes what is left of the step along this wall,
    and stops before the next. Differentiable almost everywhere.
    """
    share, along = _first_wall(positions, steps, walls)
    positions = positions + share * steps
    rest = (1 - share) * steps * along
    share, _ = _first_wall(positions, rest, walls)
    return (positions + share * rest).clamp(-1, 1)


def crosses(positions: Tensor, steps: Tensor, walls: tuple[Wall, ...]) -> Tensor:
    """Whether a wall lies between the ends of a step: [..., 2], [..., 2] -> [...]."""
    return _first_wall(positions, steps, walls, radius=0.0)[0][..., 0] < 1


def _first_wall(
    positions: Tensor, steps: Tensor, walls: tuple[Wall, ...], radius: float = RADIUS
) -> tuple[Tensor, Tensor]:
    """The share of a step until the first wall [..., 1], and 1 along that wall, 0 across it [..., 2]."""
    share, along = torch.ones_like(steps[..., 0]), torch.ones_like(steps)
    for axis, place, low, high in walls:
        ahead, across = steps[..., axis], steps[..., 1 - axis]
        speed = torch.where(ahead == 0, torch.full_like(ahead, 1e-12), ahead)
        until = (place - positions[..., axis]) / speed  # in steps
        free = (until - radius / speed.abs()).clamp(min=0)
        meets = positions[..., 1 - axis] + until * across
        hit = (until >= 0) & (free < share) & (meets > low - CORNER) & (meets < high + CORNER)
        share = torch.where(hit, free, share)
        this = torch.tensor([float(axis != 0), float(axis != 1)]).to(steps)
        along = torch.where(hit[..., None], this, along)
    return share[..., None], along


# ----------------------------------------------------------------------------------------------
# Winds
# ----------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Wind:
    """A chaotic system; a step of the world is `steps` Runge-Kutta steps of length h [time units]."""

    name: str
    dim: int
    h: float
    steps: int
    start: tuple[float, float]  # mean and deviation of the states that are burnt in

    def flow(self, state: Tensor) -> Tensor:
        """The state a step later, in the system's own units: [..., d] -> [..., d]."""
        derivative = {"lorenz": lorenz, "roessler": roessler, "lorenz96": lorenz96}[self.name]
        state = state.movedim(-1, 0).contiguous()
        return runge_kutta(derivative, state, self.h, self.steps).movedim(0, -1).contiguous()


POOL, BURN_IN = 4096, 100  # states of each attractor, and the steps that lead there
# The lengths of a step are chosen so that all three stretch alike, by about e^.17 a step.
WINDS = {
    "lorenz": Wind("lorenz", 3, 0.025, 8, (5.0, 5.0)),
    "roessler": Wind("roessler", 3, 0.1, 24, (0.0, 1.0)),
    "lorenz96": Wind("lorenz96", 8, 0.025, 4, (2.0, 3.0)),
}


@cache
def attractor(name: str) -> Tensor:
    """POOL states of a wind, from anywhere on its attractor, in its own units: [POOL, d]."""
    wind = WINDS[name]
    (mean, deviation), draw = wind.start, generator(0, f"attractor/{name}")
    state = mean + deviation * torch.randn(POOL, wind.dim, generator=draw)
    for _ in range(BURN_IN):
        state = wind.flow(state)
    return state


@cache
def stationary_moments(name: str) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and deviation of each coordinate of a wind."""
    states = attractor(name).double()
    return tuple(states.mean(0).tolist()), tuple(states.std(0).tolist())


# ----------------------------------------------------------------------------------------------
# The world
# ----------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class World:
    """Everything that decides what happens and what is seen of it."""

    maze: str
    wall_length: float  # of each wall, in sides of the box
    wind: str
    push: float  # of a wind of one deviation on the particle [length a step]
    kick: float  # of a unit of action on the wind's first two coordinates [deviations]
    share: float  # of the wind in the picture
    side: int = 8  # pixels along each side of the picture
    projection: int = 0  # which projection of the wind the picture shows

    @property
    def name(self) -> str:
        """As metrics have it; a wind that neither pushes nor shows is off."""
        wind = self.wind if self.push or self.share else "off"
        return f"{self.maze}/{wind}" + (f"_picture{self.projection}" if self.projection else "")

    @property
    def d_wind(self) -> int:
        return WINDS[self.wind].dim

    @property
    def d_picture(self) -> int:
        return self.side**2

    @cached_property
    def walls(self) -> tuple[Wall, ...]:
        return maze_walls(self.maze, self.wall_length)

    def step(self, states: Tensor, actions: Tensor) -> Tensor:
        """The true step, differentiable: [..., 2 + d], [..., 2] -> [..., 2 + d]. Actions are held in [-1, 1].

        The wind of now pushes, and the action kicks it before it flows on.
        """
        actions = actions.clamp(-1, 1)
        positions, wind = states.split((2, self.d_wind), -1)
        positions = move(positions, SPEED * actions + self.push * wind[..., :2], self.walls)
        kicked = torch.cat((wind[..., :2] + self.kick * actions, wind[..., 2:]), -1)
        mean, deviation = (states.new_tensor(moment) for moment in stationary_moments(self.wind))
        wind = (WINDS[self.wind].flow(kicked * deviation + mean) - mean) / deviation
        return torch.cat((positions, wind), -1)

    def rollout(self, starts: Tensor, actions: Tensor) -> Tensor:
        """True states s_0 .. s_T: [..., 2 + d], [..., T, 2] -> [..., T + 1, 2 + d]."""
        states = [starts]
        for action in actions.unbind(-2):
            states.append(self.step(states[-1], action))
        return torch.stack(states, -2)

    def picture(self, states: Tensor) -> Tensor:
        """A blob where the particle is, and a little of the wind in every pixel: [..., 2 + d] -> [..., P]."""
        positions, wind = states.split((2, self.d_wind), -1)
        places = torch.linspace(-1, 1, self.side, dtype=states.dtype, device=states.device)
        x, y = ((-0.5 * ((places - at) / BLOB) ** 2).exp() for at in positions.split(1, -1))
        blob = (x[..., :, None] * y[..., None, :]).flatten(-2)
        if not self.share:
            return blob
        return blob + self.share * torch.tanh(wind @ self._projection.to(wind))

    @cached_property
    def _projection(self) -> Tensor:
        """Standard normal, the same for every seed: [d, P]."""
        draw = generator(self.projection, f"projection/{self.wind}/{self.side}")
        return torch.randn(self.d_wind, self.d_picture, generator=draw)

    def sample_positions(self, count: int, draw: torch.Generator) -> Tensor:
        """Uniform in the box: [count, 2]."""
        return 2 * torch.rand(count, 2, generator=draw) - 1

    def sample_winds(self, count: int, draw: torch.Generator) -> Tensor:
        """On the attractor, normalised, float32: [count, d]."""
        mean, deviation = map(torch.tensor, stationary_moments(self.wind))
        which = torch.randint(POOL, (count,), generator=draw)
        return (attractor(self.wind)[which] - mean) / deviation
