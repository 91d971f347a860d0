"""The puzzles that a training works on, each for as many segments as its halting head asks for.

A training step gives new puzzles to the rows that have halted and runs one segment of every row (adaptive
computation time as in HRM, arXiv 2506.21734). So rows of one batch are at different segments of their
puzzles, and their labels are those of the carry's puzzles, not of the batch that comes in.

Shapes: S members (seeds), B puzzles, N positions, L cells, D width.
"""

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
        self.inputs = torch.zeros(*rows, model.sizes.cells, dtype=torch.int64, device=device)
        self.labels = torch.zeros_like(self.inputs)
        self.identifiers = torch.zeros_like(self.steps)

    def refill(self, batch: Batch) -> Tensor:
        """Give the halted rows the batch's puzzles and the initial states; which rows those are, [S, B]."""
        fresh = self.halted
        begun = self.model.initial(self.steps.shape[1])
        self.states = States(
            *(
                torch.where(fresh[..., None, None], new, old)
                for new, old in zip(begun, self.states, strict=True)
            )
        )
        self.inputs = torch.where(fresh[..., None], batch.inputs, self.inputs)
        self.labels = torch.where(fresh[..., None], batch.labels, self.labels)
        self.identifiers = torch.where(fresh, batch.identifiers, self.identifiers)
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
        last = self.steps >= self.halting.most_segments
        least = self._draw_least(draws).to(self.steps.device)
        if self.halting.adaptive:
            self.halted = last | (self.halting.wants_to_halt(q.detach()) & (self.steps >= least))
        else:
            self.halted = last
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
        names = ("steps", "halted", "inputs", "labels", "identifiers")
        return {name: getattr(self, name) for name in names} | {"states": list(self.states)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from what `state_dict` returned."""
        for name in ("steps", "halted", "inputs", "labels", "identifiers"):
            own = getattr(self, name)
            setattr(self, name, state[name].to(own.device).reshape(own.shape))
        self.states = States(*(value.to(self.steps.device) for value in state["states"]))
