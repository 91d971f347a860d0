"""Hand-built grids of poses with MiniGrid's moves, for the tests of planning."""

import torch

from common.minigrid.walks import distances_from, distances_to
from common.planners.table_model import TableModel

HEADINGS = ((1, 0), (0, 1), (-1, 0), (0, -1))  # MiniGrid's: right, down, left, up
LEFT, RIGHT, FORWARD = range(3)


def pose_grid(width, height, walls=()):
    """MiniGrid's moves on an open room: pose (x, y, heading) -> state; [S, 3] int64."""

    def index(x, y, heading):
        return (x * height + y) * 4 + heading % 4

    table = torch.zeros(width * height * 4, 3, dtype=torch.int64)
    for x in range(width):
        for y in range(height):
            for heading, (dx, dy) in enumerate(HEADINGS):
                here = index(x, y, heading)
                free = 0 <= x + dx < width and 0 <= y + dy < height and (x + dx, y + dy) not in walls
                ahead = index(x + dx, y + dy, heading) if free else here
                table[here] = torch.tensor([index(x, y, heading - 1), index(x, y, heading + 1), ahead])
    return table


def corner(width, height):
    """The four poses in the far corner."""
    return torch.arange(4) + (width * height - 1) * 4


def absorbing(next_state, goals):
    """The table with the goals' every action leading back to themselves, as an episode's end: [S, A]."""
    table = next_state.clone()
    table[goals] = goals[:, None]
    return table


def room(size, **options):
    """An absorbing goal in the corner, the energy its BFS distance: (model, distances)."""
    table = absorbing(pose_grid(size, size, **options), corner(size, size))
    distance = distances_to(table, corner(size, size))
    return TableModel(table, distance.clamp(max=4.0 * size)), distance


def all_distances(next_state):
    """Least number of steps from each state to each other, -1 where there is no way: [N, A] -> [N, N]."""
    return distances_from(next_state, torch.arange(len(next_state)))
