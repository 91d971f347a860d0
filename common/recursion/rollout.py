"""Evaluation: every puzzle through every segment, whatever the halting head says.

Shapes: S members (seeds), E puzzles, K segments, L cells, N positions, D width.
"""

from collections.abc import Callable, Iterator
from typing import Protocol

import torch
from torch import Tensor

from common.recursion.carry import Halting
from common.recursion.losses import judge
from common.recursion.model import RecursiveModel, States
from common.recursion.puzzles.task import Batch, Puzzles

AT_ONCE = 2**21  # numbers of one state that are worked on at once, about


class Guide(Protocol):
    """What both levels get beside their inputs, segment after segment."""

    def guide(self) -> Tensor | None:
        """For the segment to come, [S, E, 1 or N, D]."""

    def observe(self, states: States) -> None:
        """The states that the segment ended in."""


def everyone(puzzles: Puzzles, members: int, device: torch.device) -> Batch:
    """The same puzzles for every member: [S, E, ..]."""
    parts = (puzzles.inputs, puzzles.labels, puzzles.identifiers)
    return Batch(*(part.to(device).long().expand(members, *part.shape) for part in parts))


def roll_out(
    model: RecursiveModel, injected: Tensor, segments: int, guide: Guide | None = None
) -> Iterator[States]:
    """The states after each of K segments, from the initial ones; without a graph under no_grad."""
    states = model.initial(injected.shape[1])
    for _ in range(segments):
        states = model.segment(states, injected, None if guide is None else guide.guide())
        if guide is not None:
            guide.observe(states)
        yield states


@torch.no_grad()
def evaluate(
    model: RecursiveModel,
    batch: Batch,
    segments: int,
    make_guide: Callable[[int], Guide] | None = None,
) -> dict[str, Tensor]:
    """What a model says of puzzles after each segment; so many puzzles at once that they fit into a cache.

    Args:
        model: S members.
        batch: E puzzles a member.
        segments: K.
        make_guide: called with a number of rows, of a model with goals, for each block of puzzles.

    Returns:
        exact: [S, E, K] bool, accuracy: [S, E, K] over cells, q: [S, E, K, 2].
    """
    rows = max(1, AT_ONCE // model.initial(1).z_H.numel())
    parts = (batch.inputs, batch.labels, batch.identifiers)
    found: list[dict[str, Tensor]] = []
    for block in zip(*(part.split(rows, 1) for part in parts), strict=True):
        guide = None if make_guide is None else make_guide(block[0].shape[1])
        found.append(_evaluate_block(model, Batch(*block), segments, guide))
    return {name: torch.cat([part[name] for part in found], 1) for name in found[0]}


def _evaluate_block(
    model: RecursiveModel, batch: Batch, segments: int, guide: Guide | None
) -> dict[str, Tensor]:
    injected = model.embed_puzzles(batch.inputs, batch.identifiers)
    found: dict[str, list[Tensor]] = {"exact": [], "accuracy": [], "q": []}
    for states in roll_out(model, injected, segments, guide):
        logits, q = model.read(states)
        judged = judge(logits, batch.labels)
        for name, value in (("exact", judged.exact), ("accuracy", judged.accuracy), ("q", q)):
            found[name].append(value)
    return {name: torch.stack(values, 2) for name, values in found.items()}


def halting_segment(q: Tensor, halting: Halting) -> Tensor:
    """The segment, from 1, after which each puzzle would halt, K where it never would: [.., K, 2] -> [..]."""
    wants = halting.wants_to_halt(q)
    wants[..., -1] = True
    return wants.long().argmax(-1) + 1
