"""A MiniGrid environment as a learning task: observations, training windows, starts and goals.

Shapes: S training seeds, N states, F features, G goal states, E episodes.

An episode that has ended stays in its last state, for training windows and evaluation alike.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache

import torch
from torch import Tensor

from common.config import DropAction, MiniGridConfig
from common.minigrid.table import GridWorld, Observation, tabulate
from common.minigrid.walks import Walks, collect_walks, coverage, distances_to, visited_goal_states
from common.run.command_line import ConfigError, reject
from common.run.random import generator

# The fields of MiniGridConfig that training sees of a task, and all that determine it, for @reads_settings.
DATA_FIELDS = ("seeds", "layout_seed", "observation", "drop_action", "num_walks", "walk_length")
TASK_FIELDS = (*DATA_FIELDS, "num_episodes")


@dataclass(frozen=True, eq=False)
class Task:
    """One environment with the walks that each training seed saw of it."""

    world: GridWorld
    walks: Sequence[Walks]  # one a seed
    observations: Tensor  # [S, N, F] float32, standardised by what the seed's walks saw
    starts: Tensor  # [E] int64: where evaluation episodes begin, the same for every seed
    goals: Tensor  # [S, G] int64: goal states that the seed's walks reached, the last repeated to fill up
    distance: Tensor  # [N] float: true steps to the nearest goal, inf where none; NEVER for training

    @property
    def all_starts(self) -> bool:
        """Whether evaluation starts everywhere it can: then nothing was drawn among the starts."""
        return len(self.starts) == int(((self.distance > 0) & self.distance.isfinite()).sum())

    @property
    def name(self) -> str:
        """The environment's, as metrics name it."""
        return self.world.name


def make_task(name: str, config: MiniGridConfig) -> Task:
    """Tabulate the environment, walk in it once for each seed, choose the evaluation's starts.

    Raises:
        ValueError: unknown or stochastic environment.
        ConfigError: no walk reached a goal, or there is one start, of which no interval can be taken.
    """
    world = _tabulate(name, config.layout_seed, config.observation, config.drop_action)
    walks = [
        collect_walks(world, config.num_walks, config.walk_length, generator(seed, f"{world.name}/walks"))
        for seed in config.seeds
    ]
    goals = [visited_goal_states(world, walk) for walk in walks]
    if any(len(found) == 0 for found in goals):
        raise ConfigError(
            f"num_walks (--num-walks) = {config.num_walks}: no walk of {config.walk_length} steps reached a"
            f" goal of {world.name}; allowed: more or longer walks (--walk-length), a smaller environment"
        )
    most = max(len(found) for found in goals)
    distance = distances_to(world.next_state, world.goal_states)
    observations = torch.stack([_standardise(world, walk) for walk in walks])
    goals = torch.stack([torch.cat([found, found[-1:].expand(most - len(found))]) for found in goals])
    starts = _choose_starts(world, distance, config)
    if len(starts) < 2:
        raise ConfigError(
            f"environments (--environments): {world.name} has {len(starts)} start; allowed: >= 2"
        )
    return Task(world, walks, observations, starts, goals, distance)


def check_environments(config: MiniGridConfig) -> None:
    """Raise ValueError for an environment named twice, that cannot be tabulated, or that has no goal."""
    known = set()
    for name in config.environments:
        world = _tabulate(name, config.layout_seed, config.observation, config.drop_action)
        if not len(world.goal_states):
            raise ValueError(f"environments (--environments): no state of {name} ends with a reward")
        known.add(world.env_id)
    if len(known) < len(config.environments):
        reject("environments", config.environments, "each environment once")


@cache
def _tabulate(name: str, layout_seed: int, observation: Observation, drop_action: DropAction) -> GridWorld:
    try:
        without = () if drop_action == "yes" else ("drop",)
        world = tabulate(name, layout_seed=layout_seed, observation=observation, without=without)
        if drop_action == "auto" and not len(world.goal_states):
            world = tabulate(name, layout_seed=layout_seed, observation=observation)
        return world
    except ValueError as error:
        raise ValueError(f"environments (--environments): {error}") from None


def _standardise(world: GridWorld, walk: Walks) -> Tensor:
    """Observations in units of what the walk saw: [N, F], without features that are the same in all states.

    A feature that this walk never saw vary is only centred.
    """
    table = world.observe(torch.arange(world.num_states))[:, world.varying_columns]
    seen = table[torch.unique(walk.states)]
    spread = seen.std(0, correction=0)
    return (table - seen.mean(0)) / torch.where(spread > 0, spread, torch.ones_like(spread))


def _choose_starts(world: GridWorld, distance: Tensor, config: MiniGridConfig) -> Tensor:
    """States from which a goal can be reached, ascending: all if few, else the reset's and random ones."""
    candidates = ((distance > 0) & distance.isfinite()).nonzero().squeeze(1)
    order = torch.rand(len(candidates), generator=generator(0, "evaluation/starts"))
    order[candidates == world.start_state] = -1.0
    count = len(candidates) if len(candidates) <= 1.5 * config.num_episodes else config.num_episodes
    return candidates[order.argsort()[:count]].sort().values


def data_coverage(task: Task) -> list[float]:
    """Fraction of all reachable states that each seed's walks came upon: S numbers."""
    return [coverage(task.world, walk) for walk in task.walks]
