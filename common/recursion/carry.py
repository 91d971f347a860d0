"""The puzzles that a training works on, each for as many segments as its halting head asks for.

A training step gives new puzzles to the rows that have halted and runs one segment of every row (adaptive
computation time as in HRM, arXiv 2506.21734). So rows of one batch are at different segments of their
puzzles, and their labels are those of the carry's puzzles, not of the batch that comes in.

Shapes: S members (seeds), B puzzles, N positions, L cells, D width.
"""

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from common.recursion.model import RecursiveModel, States
from common.recursion.puzzles.task import Batch


@dataclass(frozen=True)
class Halting:
    """When a puzzle has had enough segments."""

    most_segments: int = 16
    adaptive: bool = True  # else every puzzle gets most_segments in training
    exploration: float = 0.1  # share of segments at which a least number of segments is drawn, from 2 on
    with_continuation: bool = True  # HRM: halt where q_halt > q_continue; else (TRM) where q_halt > 0

    def wants_to_halt(self, q: Tensor) -> Tensor:
        """By the logits of halting and of going on: [..., 2] -> [...] bool."""
        return q[..., 0] > (q[..., 1] if self.with_continuation else 0.0)


class Carry:
    """Running puzzles of every member: states, steps done, data. All of it is in `state_dict`."""

    def __init__(self, model: RecursiveModel, batch: int, halting: Halting):
        """Every row begins halted, so the first batch is taken in whole."""
        self.model, self.halting = model, halting
        device, rows = model.halt.device, (model.members, batch)
        self.states = States(*(state.clone() for state in model.initial(batch)))
        self.steps = torch.zeros(rows, dtype=torch.int64, device=device)  # [S, B]
        self.halted = torch.ones(rows, dtype=torch.bool, device=device)
        self.data: dict[str, Tensor] = {}  # the fields of a Batch, [S, B, ..] each

    @property
    def inputs(self) -> Tensor:
        """Tokens of the running puzzles, [S, B, L]."""
        return self.data["inputs"]

    @property
    def labels(self) -> Tensor:
        """Answers of the running puzzles, [S, B, L]."""
        return self.data["labels"]

    @property
    def identifiers(self) -> Tensor:
        """Rows of the running puzzles in a table of puzzle vectors, [S, B]."""
        return self.data["identifiers"]

    def refill(self, batch: Batch) -> Tensor:
        """Give the halted rows the batch's puzzles and the initial states; which rows those are, [S, B].

        A Batch with more fields, such as a context, has them carried along.
        """
        fresh = self.halted
        begun = self.model.initial(self.steps.shape[1])
        self.states = States(*(_choose(fresh, new, old) for new, old in zip(begun, self.states, strict=True)))
        coming = {spec.name: getattr(batch, spec.name) for spec in dataclasses.fields(batch)}
        self.data = {name: _choose(fresh, new, self.data.get(name, new)) for name, new in coming.items()}
        self.steps = torch.where(fresh, 0, self.steps)
        return fresh

    def advance(self, states: States, q: Tensor, draws: Sequence[torch.Generator]) -> Tensor:
        """Take in the states after a segment and decide which rows halt, [S, B] bool.

        Args:
            states: without their graph from here on.
            q: logits of halting and of going on [S, B, 2].
            draws: for exploration; as many numbers whatever the model says.
        """
        self.states = states.detach()
        self.steps = self.steps + 1
        least = self._draw_least(draws).to(self.steps.device)
        self.halted = self.last
        if self.halting.adaptive:
            self.halted = self.last | (self.halting.wants_to_halt(q.detach()) & (self.steps >= least))
        return self.halted

    def _draw_least(self, draws: Sequence[torch.Generator]) -> Tensor:
        """Least numbers of segments [S, B]: with probability `exploration` uniform from 2 on, else 0."""
        rows, most = self.steps.shape[1], max(2, self.halting.most_segments)
        drawn = []
        for draw in draws:
            explored = torch.rand(rows, generator=draw) < self.halting.exploration
            drawn.append(explored * torch.randint(2, most + 1, (rows,), generator=draw))
        return torch.stack(drawn)

    @property
    def last(self) -> Tensor:
        """Whether a row has had all its segments, [S, B] bool."""
        return self.steps >= self.halting.most_segments

    def state_dict(self) -> dict[str, Any]:
        """For a checkpoint."""
        kept = {"steps": self.steps, "halted": self.halted, "data": self.data}
        return kept | {"states": list(self.states)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from what `state_dict` returned."""
        device, shape = self.steps.device, self.steps.shape
        self.steps, self.halted = (state[name].to(device).reshape(shape) for name in ("steps", "halted"))
        self.data = {name: value.to(device) for name, value in state["data"].items()}
        self.states = States(*(value.to(device) for value in state["states"]))


def _choose(rows: Tensor, first: Tensor, second: Tensor) -> Tensor:
    """`first` in the chosen rows [S, B] bool and `second` in the others, [S, B, ..] each."""
    return torch.where(rows.view(*rows.shape, *[1] * (first.dim() - 2)), first, second)
