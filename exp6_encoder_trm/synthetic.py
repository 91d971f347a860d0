"""Families of small rules with as many pairs as one likes: here an encoder can learn to read demonstrations.

A task is a rule with its parameters (`swap 2 5`). Tasks are split into training and unseen ones; pairs are
drawn afresh for every batch, and a pair whose output is its input is rejected, since copying would solve it.

Shapes: T tasks, B queries, K demonstrations, H x W grid, L = H W cells, D distinct rules in a batch.
Grids hold colours 0 (black) to 9.
"""

import itertools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from common.config import Exp6Config, Exp6Family
from common.run.random import generator
from exp6_encoder_trm.dataset import Queries

ROUNDS = 200  # of drawing anew what was an identity; a rule that is one on nearly every grid is an error
GRID_COLOURS = 3  # that one grid has at most, beside black
BLACK = 1 / 3  # of the cells


@dataclass(frozen=True)
class Rule:
    """A function of grids: its kind and parameters, told apart by its name."""

    kind: str
    parameters: tuple[int, ...] = ()

    @property
    def name(self) -> str:
        """Such as `swap 2 5`."""
        return " ".join([self.kind, *map(str, self.parameters)])

    def __call__(self, grids: Tensor) -> Tensor:
        """[..., H, W] -> [..., H, W]; H = W."""
        return KINDS[self.kind](grids, *self.parameters)


# ----------------------------------------------------------------------------------------------
# Rules: [..., H, W] -> [..., H, W]
# ----------------------------------------------------------------------------------------------


def _swap(grids: Tensor, first: int, second: int) -> Tensor:
    return torch.where(grids == first, second, torch.where(grids == second, first, grids))


def _replace(grids: Tensor, old: int, new: int) -> Tensor:
    return torch.where(grids == old, new, grids)


def _keep(grids: Tensor, colour: int) -> Tensor:
    return torch.where(grids == colour, grids, 0)


def _mono(grids: Tensor, colour: int) -> Tensor:
    return torch.where(grids > 0, colour, 0)


def _map(grids: Tensor, shift: int, palette: int) -> Tensor:
    """Colours 1 .. palette moved on by `shift`, in a circle."""
    return torch.where(grids > 0, (grids - 1 + shift) % palette + 1, 0)


def _dihedral(grids: Tensor, turns: int, mirrored: int) -> Tensor:
    turned = torch.rot90(grids, turns, (-2, -1))
    return turned.mT if mirrored else turned


def _fill(grids: Tensor, colour: int) -> Tensor:
    return torch.where(grids == 0, colour, grids)


def _gravity(grids: Tensor, turns: int) -> Tensor:
    """What is not black falls; down for no turns, else to the side that is down after so many quarters."""
    turned = torch.rot90(grids, turns, (-2, -1))
    order = (turned > 0).long().argsort(dim=-2, stable=True)
    return torch.rot90(turned.gather(-2, order), -turns, (-2, -1))


def _roll(grids: Tensor, down: int, right: int) -> Tensor:
    return grids.roll((down, right), (-2, -1))


def _border(grids: Tensor, colour: int) -> Tensor:
    framed = torch.full_like(grids, colour)
    framed[..., 1:-1, 1:-1] = grids[..., 1:-1, 1:-1]
    return framed


def _mirror_half(grids: Tensor, turns: int) -> Tensor:
    """One half is the other's mirror image; the left one counts for no turns."""
    turned = torch.rot90(grids, turns, (-2, -1))
    half = (grids.shape[-1] + 1) // 2
    left = turned[..., :half]
    mirrored = torch.cat([left, turned[..., : grids.shape[-1] - half].flip(-1)], -1)
    return torch.rot90(mirrored, -turns, (-2, -1))


KINDS: Mapping[str, Callable[..., Tensor]] = {
    "swap": _swap, "replace": _replace, "keep": _keep, "mono": _mono, "map": _map, "dihedral": _dihedral,
    "fill": _fill, "gravity": _gravity, "roll": _roll, "border": _border, "mirror_half": _mirror_half,
}  # fmt: skip


# ----------------------------------------------------------------------------------------------
# Families
# ----------------------------------------------------------------------------------------------


def rules_of(family: Exp6Family, palette: int, side: int) -> list[Rule]:
    """Every rule of a family on side x side grids with colours 1 .. palette; no two are the same function.

    `colours`: swap two, replace one by another, keep one, paint all in one. `grids`: the square's symmetries,
    colours in a circle, swaps, filled background, gravity, rolls, a border, one colour kept, mirrored halves.
    """
    colours = range(1, palette + 1)
    swaps = [Rule("swap", pair) for pair in itertools.combinations(colours, 2)]
    keeps = [Rule("keep", (colour,)) for colour in colours]
    if family == "colours":
        replacements = [Rule("replace", pair) for pair in itertools.permutations(colours, 2)]
        return [*swaps, *replacements, *keeps, *(Rule("mono", (colour,)) for colour in colours)]
    symmetries = [Rule("dihedral", choice) for choice in itertools.product(range(4), range(2)) if any(choice)]
    rolls = [Rule("roll", step) for step in itertools.product(range(side), repeat=2) if any(step)]
    painted = [Rule(kind, (colour,)) for kind in ("fill", "border") for colour in colours]
    turned = [Rule(kind, (turns,)) for kind in ("gravity", "mirror_half") for turns in range(4)]
    maps = [Rule("map", (shift, palette)) for shift in range(1, palette)]
    return [*symmetries, *maps, *swaps, *painted, *turned, *rolls, *keeps]


@dataclass(frozen=True)
class Split:
    """Tasks of a family: those that are trained on, and those never seen."""

    train: tuple[Rule, ...]
    unseen: tuple[Rule, ...]


def split_family(family: Exp6Family, palette: int, side: int, unseen_share: float, seed: int) -> Split:
    """A family's rules in two disjoint sets, every kind with more than one rule in both.

    Args:
        family: which.
        palette: colours beside black.
        side: of the grids [cells].
        unseen_share: of each kind's rules, rounded, that is held out; in (0, 1).
        seed: of the split.
    """
    by_kind: dict[str, list[Rule]] = {}
    for rule in rules_of(family, palette, side):
        by_kind.setdefault(rule.kind, []).append(rule)
    train, unseen = [], []
    for kind, rules in by_kind.items():
        order = torch.randperm(len(rules), generator=generator(seed, f"split/{family}/{kind}")).tolist()
        held_out = min(len(rules) - 1, max(1, round(unseen_share * len(rules))))
        unseen += [rules[place] for place in order[:held_out]]
        train += [rules[place] for place in order[held_out:]]
    return Split(tuple(train), tuple(unseen))


def answered_by(rules: Sequence[Rule], queries: Queries, side: int) -> Tensor:
    """Whether some rule fits all demonstrations of a query and answers it: [B] bool.

    Of rules that were trained on it is what a look-up could know of unseen ones, choosing with hindsight.
    """
    before, after = (queries.demos - 1).unflatten(-1, (side, side)).unbind(2)  # [B, K, H, W]
    inputs, labels = (grids.unflatten(-1, (side, side)) - 1 for grids in (queries.inputs, queries.labels))
    found = torch.zeros(len(queries), dtype=torch.bool)
    for rule in rules:
        fits = ((rule(before) == after).flatten(2).all(2) | ~queries.shown).all(1)
        found |= fits & (rule(inputs) == labels).flatten(1).all(1)
    return found


# ----------------------------------------------------------------------------------------------
# Pairs
# ----------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class PairSource:
    """Draws queries of some tasks, with demonstrations, all pairs fresh: `Puzzles` without end."""

    name: str
    rules: tuple[Rule, ...]
    palette: int  # colours beside black
    side: int  # H = W [cells]
    demos: int  # K

    @property
    def canvas(self) -> int:
        """C [cells]."""
        return self.side

    @property
    def group_count(self) -> int:
        """A task is a group."""
        return len(self.rules)

    def draw(self, count: int, draw: torch.Generator) -> Queries:
        """`count` B queries, each of a task drawn at random."""
        return self.of(torch.randint(len(self.rules), (count,), generator=draw), draw)

    def watched(self) -> Queries:
        """Two queries of every task, always the same."""
        return self.each(2, generator(0, f"{self.name}/watched"))

    def each(self, copies: int, draw: torch.Generator) -> Queries:
        """`copies` queries of every task."""
        return self.of(torch.arange(len(self.rules)).repeat_interleave(copies), draw)

    def of(self, tasks: Tensor, draw: torch.Generator) -> Queries:
        """A query of each of these tasks [B], as positions among the rules."""
        before, after = self._pairs(tasks, draw)  # [B, K + 1, H, W] each
        grids = torch.stack([before, after], 2).flatten(3) + 1  # [B, K + 1, 2, L], as tokens
        return Queries(
            inputs=grids[:, 0, 0],
            labels=grids[:, 0, 1],
            demos=grids[:, 1:],
            shown=torch.ones(len(tasks), self.demos, dtype=torch.bool),
            groups=tasks,
        )

    def _pairs(self, tasks: Tensor, draw: torch.Generator) -> tuple[Tensor, Tensor]:
        """Inputs and outputs of K + 1 pairs of each task, none an identity.

        Raises:
            ValueError: a rule changes nothing on nearly every grid.
        """
        owner = tasks.repeat_interleave(self.demos + 1)  # [N] of each pair, N = B (K + 1)
        before = random_grids(len(owner), self.palette, self.side, draw)
        after = apply_rules(self.rules, owner, before)
        for _ in range(ROUNDS):
            same = (before == after).flatten(1).all(1).nonzero().squeeze(1)
            if not len(same):
                shape = (len(tasks), self.demos + 1, self.side, self.side)
                return before.view(shape), after.view(shape)
            before[same] = random_grids(len(same), self.palette, self.side, draw)
            after[same] = apply_rules(self.rules, owner[same], before[same])
        raise ValueError(f"rule {self.rules[int(owner[same[0]])].name}: no grid found that it changes")


@dataclass(frozen=True)
class Generalisation:
    """Tasks of a family to train on, and the others, both with fresh pairs."""

    name: str
    train: PairSource
    unseen: PairSource


def make_family(name: Exp6Family, config: Exp6Config) -> Generalisation:
    """A synthetic family, split into training and unseen tasks."""
    split = split_family(name, config.palette, config.side, config.unseen_share, config.puzzle_seed)
    sizes = (config.palette, config.side, config.most_demos)
    return Generalisation(name, *(PairSource(name, rules, *sizes) for rules in (split.train, split.unseen)))


def random_grids(count: int, palette: int, side: int, draw: torch.Generator) -> Tensor:
    """[N, side, side]: a third of the cells black, the others of the up to three colours of their grid."""
    size = (count, side, side)
    own = torch.rand(count, palette, generator=draw).argsort(1)[:, :GRID_COLOURS] + 1  # [N, 3]
    chosen = torch.randint(own.shape[1], size, generator=draw)
    cells = own.gather(1, chosen.flatten(1)).view(size)
    return torch.where(torch.rand(size, generator=draw) < BLACK, 0, cells)


def apply_rules(rules: Sequence[Rule], tasks: Tensor, grids: Tensor) -> Tensor:
    """Each task's rule on its own grid: tasks [N], grids [N, H, W]."""
    after = torch.empty_like(grids)
    for task in tasks.unique().tolist():
        own = tasks == task
        after[own] = rules[task](grids[own])
    return after
