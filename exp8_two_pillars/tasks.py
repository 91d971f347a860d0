"""Tasks of experiment 8, chosen and judged by the true cost-to-go, which no model and no planner sees.

Shapes: P tasks, G goals, C cells of a grid over the box, ... leading dimensions, d wind, s state dimension.
"""

from dataclasses import dataclass, replace
from functools import cache

import torch
from scipy.sparse import csr_array
from scipy.sparse.csgraph import dijkstra
from torch import Tensor

from common.run.random import generator
from exp8_two_pillars.dataset import coloured_noise
from exp8_two_pillars.world import SPEED, Wall, World, crosses

CELLS = 80  # along each side of the box
WIDTH = 2 / CELLS  # of a cell [length]
NEIGHBOURS = ((0, 1), (1, 0), (1, 1), (1, -1))  # and their opposites
REACHED = 0.2  # from the goal [length]
WIND_REACHED = 0.5  # from the goal's wind, where it counts [deviations]
MOST_ROUNDS = 30  # of goals that are tried


def cell_centres() -> Tensor:
    """[C, 2]."""
    along = -1 + WIDTH * (torch.arange(CELLS, dtype=torch.float64) + 0.5)
    return torch.cartesian_prod(along, along)


def nearest_cell(positions: Tensor) -> Tensor:
    """[..., 2] -> [...] int64."""
    index = ((positions + 1) / WIDTH).long().clamp(0, CELLS - 1)
    return index[..., 0] * CELLS + index[..., 1]


def cost_to_go(world: World, goals: Tensor) -> Tensor:
    """Fewest steps from every cell to each goal without a wind: [G, 2] -> [G, C]; inf where there is no way.

    A step covers SPEED along both axes at once, so a diagonal neighbour is as near as a straight one. Of
    shortest ways through the grid of cells that no wall crosses (Dijkstra, 1959).
    """
    found = dijkstra(_grid(world.walls), directed=False, indices=nearest_cell(goals).numpy())
    return torch.from_numpy(found).float()


@cache
def _grid(walls: tuple[Wall, ...]) -> csr_array:
    """Steps between neighbouring cells that no wall parts, [C, C]."""
    centres = cell_centres()
    index = torch.arange(CELLS**2).view(CELLS, CELLS)
    sources, targets = [], []
    for down, right in NEIGHBOURS:
        here = index[: CELLS - down, max(0, -right) : CELLS - max(0, right)].flatten()
        there = here + down * CELLS + right
        free = ~crosses(centres[here], centres[there] - centres[here], walls)
        sources.append(here[free])
        targets.append(there[free])
    pair = (torch.cat(sources).numpy(), torch.cat(targets).numpy())
    return csr_array(([WIDTH / SPEED] * len(pair[0]), pair), shape=(CELLS**2, CELLS**2))


def interpolate(field: Tensor, positions: Tensor) -> Tensor:
    """A cost-to-go field at positions, bilinear and so differentiable: [P, C], [P, ..., 2] -> [P, ...].

    A corner that costs much more or less than the nearest cell lies behind a wall, and counts as a neighbour.
    """
    at = ((positions + 1) / WIDTH - 0.5).clamp(0, CELLS - 1 - 1e-4)
    low = at.detach().floor().long()
    (x, y), (i, j) = (at - low).unbind(-1), low.unbind(-1)

    nearest = field.gather(1, nearest_cell(positions.detach()).flatten(1)).view(i.shape)

    def value(row: Tensor, column: Tensor) -> Tensor:
        found = field.gather(1, (row * CELLS + column).flatten(1)).view(row.shape)
        return found.clamp(nearest - WIDTH / SPEED, nearest + WIDTH / SPEED)

    near = (1 - y) * value(i, j) + y * value(i, j + 1)
    far = (1 - y) * value(i + 1, j) + y * value(i + 1, j + 1)
    return (1 - x) * near + x * far


@dataclass(frozen=True)
class Tasks:
    """Starts and goals, what judges them, and whether the goal's wind is part of it."""

    starts: Tensor  # [P, s]
    goals: Tensor  # [P, s]
    field: Tensor  # [P, C], cost-to-go to each goal
    cost: Tensor  # [P], that of the start
    with_wind: bool = False

    def to(self, *args: object) -> "Tasks":
        moved = (value.to(*args) for value in (self.starts, self.goals, self.field, self.cost))
        return Tasks(*moved, self.with_wind)

    def __len__(self) -> int:
        return len(self.starts)

    def away(self, states: Tensor) -> Tensor:
        """How far episodes are from their goals, success below REACHED [length]: [S, P, L, s] -> [S, P, L].

        Where the wind counts, the larger of the particle's distance and REACHED / WIND_REACHED of the wind's.
        """
        apart = states - self.goals[:, None]
        position = apart[..., :2].norm(dim=-1)
        if not self.with_wind:
            return position
        return torch.maximum(position, REACHED / WIND_REACHED * apart[..., 2:].norm(dim=-1))


def make_tasks(world: World, count: int, steps: tuple[int, int], judged_in: World) -> Tasks:
    """`count` tasks whose cost-to-go lies within `steps`, the same for every model and seed.

    Goals are uniform in the box among those that have such starts, starts uniform among these; both winds
    are on the attractor. `judged_in` is the world whose walls count in choosing; tasks of the same such world
    have the same positions.

    Raises:
        ValueError: the maze has no such tasks.
    """
    chosen = _choose_positions(judged_in, count, steps)
    draw = generator(0, f"{world.name}/tasks/winds")
    starts, goals = (torch.cat((positions, world.sample_winds(count, draw)), -1) for positions in chosen)
    return _judged(world, starts, goals)


def require_tasks(world: World, steps: tuple[int, int]) -> None:
    """Raise ValueError where a world's maze has no tasks of so many steps."""
    _choose_positions(world, 1, steps)


def make_wind_tasks(world: World, count: int, horizon: int) -> Tasks:
    """Goals that the true world reaches from their starts in `horizon` steps under hidden actions."""
    draw = generator(0, f"{world.name}/tasks/with wind/{horizon}")
    starts = torch.cat((world.sample_positions(count, draw), world.sample_winds(count, draw)), -1)
    hidden = coloured_noise(torch.randn(count, horizon, 2, generator=draw))
    return replace(_judged(world, starts, world.rollout(starts, hidden)[:, -1]), with_wind=True)


def _judged(world: World, starts: Tensor, goals: Tensor) -> Tasks:
    field = cost_to_go(world, goals[:, :2])
    return Tasks(starts, goals, field, field.gather(1, nearest_cell(starts[:, :2])[:, None])[:, 0])


def _choose_positions(world: World, count: int, steps: tuple[int, int]) -> tuple[Tensor, Tensor]:
    """Starts and goals [count, 2]."""
    draw = generator(0, f"{world.maze}/{world.wall_length}/tasks/{steps[0]}-{steps[1]}")
    centres, starts, goals = cell_centres().float(), [], []
    for _ in range(MOST_ROUNDS):
        tried = world.sample_positions(32, draw)
        within = (cost := cost_to_go(world, tried)).ge(steps[0]) & cost.le(steps[1])
        good = within.any(1)
        if good.any():
            cells = torch.multinomial(within[good].float(), 1, generator=draw)[:, 0]
            jitter = WIDTH * (torch.rand(len(cells), 2, generator=draw) - 0.5)
            middle = centres[nearest_cell(tried[good])]
            kept = ~crosses(centres[cells], jitter, world.walls)  # where a wall cuts a cell, one side's cost
            kept &= ~crosses(middle, tried[good] - middle, world.walls)
            starts.append((centres[cells] + jitter)[kept])
            goals.append(tried[good][kept])
        if sum(map(len, goals)) >= count:
            return torch.cat(starts)[:count], torch.cat(goals)[:count]
    raise ValueError(f"the maze {world.maze} has too few tasks of {steps[0]} to {steps[1]} steps")
