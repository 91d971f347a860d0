"""Walks through a tabulated environment (training data) and shortest paths in it (evaluation only).

Shapes: N states, A actions, W walks, L steps of a walk, G goal states, K sources of shortest paths.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from .table import GridWorld

# Walks that start together, before the least-visited states are counted anew.
WALKS_PER_ROUND = 32

# Sources of one breadth-first search; bounds its memory.
BLOCK = 256


@dataclass(frozen=True, eq=False)
class Walks:
    """Walks under uniformly random actions, as indices of states; observations come from the table."""

    states: Tensor  # [W, L + 1] int64; a walk that has ended stays where it ended
    actions: Tensor  # [W, L] int64
    valid: Tensor  # [W, L] bool: the transition really happened (the episode had not ended before)


def collect_walks(
    world: GridWorld,
    num_walks: int,
    length: int,
    generator: torch.Generator,
    *,
    coverage_seeking: bool = True,
) -> Walks:
    """Uniformly random walks: num_walks W of `length` L steps each.

    The first walk starts where a reset puts the agent. With `coverage_seeking` the later ones start, in
    rounds, in the least-visited states that walks have ALREADY SEEN and in which the episode goes on
    (ties at random); a state that no walk has come upon is never used. Without it all start at the reset.

    Raises:
        ValueError: fewer than one walk or step.
    """
    if num_walks < 1 or length < 1:
        raise ValueError(f"num_walks = {num_walks}, length = {length}: allowed: whole numbers >= 1")
    actions = torch.randint(world.num_actions, (num_walks, length), generator=generator)
    states = torch.empty(num_walks, length + 1, dtype=torch.int64)
    visits = torch.zeros(world.num_states, dtype=torch.int64)
    begin = 0
    while begin < num_walks:
        rows = slice(begin, min(begin + (WALKS_PER_ROUND if begin else 1), num_walks))
        size = rows.stop - rows.start
        if begin and coverage_seeking:
            starts = _least_visited(visits, world.terminal, size, generator)
        else:
            starts = torch.full((size,), world.start_state)
        states[rows] = follow(world, starts, actions[rows])
        # an ended walk counts its last state once a step, which harms no one: it is never a start
        visits += torch.bincount(states[rows].flatten(), minlength=world.num_states)
        begin = rows.stop
    return Walks(states, actions, ~world.terminal[states[:, :-1]])


def follow(world: GridWorld, starts: Tensor, actions: Tensor) -> Tensor:
    """The states of a batch of action sequences: [W], [W, L] -> [W, L + 1]."""
    states = [starts]
    for step in actions.unbind(1):
        states.append(world.next_state[states[-1], step])
    return torch.stack(states, dim=1)


def _least_visited(visits: Tensor, terminal: Tensor, count: int, generator: torch.Generator) -> Tensor:
    """`count` of the states seen and not terminal, least visited first, again from the first if too few."""
    seen = ((visits > 0) & ~terminal).nonzero().squeeze(1)
    shuffled = seen[torch.randperm(len(seen), generator=generator)]
    ordered = shuffled[visits[shuffled].argsort(stable=True)]
    return ordered[torch.arange(count) % len(ordered)]


def visited_goal_states(world: GridWorld, walks: Walks) -> Tensor:
    """The goal states that the walks came upon: [at most G] int64, sorted. Planners aim at these alone."""
    visited = torch.unique(walks.states)
    return visited[torch.isin(visited, world.goal_states)]


def coverage(world: GridWorld, walks: Walks) -> float:
    """The fraction of all N states that the walks came upon."""
    return len(torch.unique(walks.states)) / world.num_states


def distances_to(next_state: Tensor, targets: Tensor) -> Tensor:
    """Least number of steps from each state to the nearest target: [N, A], [G] -> [N] float, inf if none.

    The true dynamics' shortest paths: for evaluation and the oracle only, NEVER for training.
    """
    distance = torch.full((len(next_state),), torch.inf)
    distance[targets] = 0
    while True:  # one sweep reaches the states one step farther
        nearer = torch.minimum(distance, 1 + distance[next_state].amin(1))
        if torch.equal(nearer, distance):
            return distance
        distance = nearer


def distances_from(next_state: Tensor, sources: Tensor) -> Tensor:
    """Least number of steps from each source to every state: [N, A], [K] -> [K, N], -1 where unreachable.

    Breadth first from all sources at once; each pair of source and state is expanded once. int16, or int32
    where N exceeds it. For evaluation and the oracle only, NEVER for training.

    Raises:
        ValueError: a source that is no index of a state.
    """
    count = len(next_state)
    if len(sources) and not 0 <= int(sources.min()) <= int(sources.max()) < count:
        span = f"{int(sources.min())} to {int(sources.max())}"
        raise ValueError(f"sources = {span}: allowed: indices of states, 0 to {count - 1}")
    integer = torch.int16 if count <= torch.iinfo(torch.int16).max else torch.int32
    distance = torch.full((len(sources), count), -1, dtype=integer, device=next_state.device)
    for rows, block in zip(distance.split(BLOCK), sources.split(BLOCK), strict=True):
        _sweep(rows.view(-1), next_state, block.long())
    return distance


def _sweep(distance: Tensor, next_state: Tensor, sources: Tensor) -> None:
    """Fill `distance` [K N], which holds -1, row by row from `sources` [K]."""
    count = len(next_state)
    frontier = torch.arange(len(sources), device=sources.device) * count + sources
    steps = 0
    while len(frontier):
        distance[frontier] = steps
        state = frontier % count
        reached = ((frontier - state)[:, None] + next_state[state]).flatten()  # in the row of their source
        frontier = torch.unique(reached[distance[reached] < 0])
        steps += 1
