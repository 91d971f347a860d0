"""A MiniGrid environment as a learning task: observations, training windows, starts and goals.

Shapes: S training seeds, N states, F features, G goal states, E episodes.

An episode that has ended stays in its last state, for training windows and evaluation alike.
"""

import hashlib
import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import Literal, Protocol

import torch
from torch import Tensor

from .table import GridWorld, Observation, tabulate
from .walks import Walks, collect_walks, coverage, distances_to, visited_goal_states

DropAction = Literal["auto", "yes", "no"]

# Observations of all seeds together, as float32, at most [bytes].
MAX_BYTES = 2**32

# The settings that training sees of a task, and all that determine it.
DATA_FIELDS = ("seeds", "layout_seed", "observation", "drop_action", "num_walks", "walk_length")
TASK_FIELDS = (*DATA_FIELDS, "num_episodes")


class TaskSettings(Protocol):
    """What a task is made of; any object with these attributes will do."""

    seeds: Sequence[int]  # training seeds
    layout_seed: int  # of walls, doors and objects, the same for every training seed
    observation: Observation
    drop_action: DropAction  # whether the agent may drop things; auto: where no goal is reached without
    num_walks: int  # random walks for each training seed
    walk_length: int  # their length [steps]
    num_episodes: int  # start states of the evaluation


class EnvironmentSettings(TaskSettings, Protocol):
    """The settings of several tasks."""

    environments: Sequence[str]


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


def make_task(name: str, settings: TaskSettings) -> Task:
    """Tabulate the environment, walk in it once for each seed, choose the evaluation's starts.

    Raises:
        ValueError: unknown or stochastic environment; no walk reached a goal; there is one start, of which
            no interval can be taken; the observations of all seeds do not fit MAX_BYTES.
    """
    world = _tabulate(name, settings.layout_seed, settings.observation, settings.drop_action)
    walks = [
        collect_walks(
            world, settings.num_walks, settings.walk_length, random_stream(seed, f"{world.name}/walks")
        )
        for seed in settings.seeds
    ]
    goals = [visited_goal_states(world, walk) for walk in walks]
    if any(len(found) == 0 for found in goals):
        raise ValueError(
            f"num_walks (--num-walks) = {settings.num_walks}: no walk of {settings.walk_length} steps reached"
            f" a goal of {world.name}; allowed: more or longer walks (--walk-length), a smaller environment"
        )
    most = max(len(found) for found in goals)
    distance = distances_to(world.next_state, world.goal_states)
    observations = _standardise(world, walks)
    goals = torch.stack([torch.cat([found, found[-1:].expand(most - len(found))]) for found in goals])
    starts = _choose_starts(world, distance, settings.num_episodes)
    if len(starts) < 2:
        raise ValueError(
            f"environments (--environments): {world.name} has {len(starts)} start; allowed: >= 2"
        )
    return Task(world, walks, observations, starts, goals, distance)


def check_environments(settings: EnvironmentSettings) -> None:
    """Raise ValueError for an environment named twice, that cannot be tabulated, or that has no goal."""
    known = set()
    for name in settings.environments:
        world = _tabulate(name, settings.layout_seed, settings.observation, settings.drop_action)
        if not len(world.goal_states):
            raise ValueError(f"environments (--environments): no state of {name} ends with a reward")
        known.add(world.env_id)
    if len(known) < len(settings.environments):
        raise ValueError(
            f"environments (--environments) = {settings.environments!r}: allowed: each environment once"
        )


def random_stream(seed: int, stream: str) -> torch.Generator:
    """A CPU generator for one purpose of one seed: streams of different names are independent."""
    digest = hashlib.sha256(f"{seed}/{stream}".encode()).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest[:8], "big") >> 1)


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


def _standardise(world: GridWorld, walks: Sequence[Walks]) -> Tensor:
    """Observations in units of what each walk saw: [S, N, F], without features that are always the same.

    A feature that a walk never saw vary is only centred.
    """
    columns = world.varying_columns
    shape = len(walks), world.num_states, len(columns)
    needed = 4 * math.prod(shape)
    if needed > MAX_BYTES:
        raise ValueError(
            f"environments (--environments): {world.name} has {shape[1]} states with {shape[2]} features, for"
            f" {shape[0]} seeds {needed / 2**30:.1f} GiB; allowed: {MAX_BYTES / 2**30:.0f} GiB, that is fewer"
            " seeds (--seeds), a smaller environment, or --observation full or partial"
        )
    standardised = torch.empty(shape)
    for table, walk in zip(standardised, walks, strict=True):
        table.copy_(world.features(columns))
        seen = table[torch.unique(walk.states)]
        spread = seen.std(0, correction=0)
        table -= seen.mean(0)
        table /= torch.where(spread > 0, spread, torch.ones_like(spread))
    return standardised


def _choose_starts(world: GridWorld, distance: Tensor, num_episodes: int) -> Tensor:
    """States from which a goal can be reached, ascending: all if few, else the reset's and random ones."""
    candidates = ((distance > 0) & distance.isfinite()).nonzero().squeeze(1)
    order = torch.rand(len(candidates), generator=random_stream(0, "evaluation/starts"))
    order[candidates == world.start_state] = -1.0
    count = len(candidates) if len(candidates) <= 1.5 * num_episodes else num_episodes
    return candidates[order.argsort()[:count]].sort().values


def data_coverage(task: Task) -> list[float]:
    """Fraction of all reachable states that each seed's walks came upon: S numbers."""
    return [coverage(task.world, walk) for walk in task.walks]
