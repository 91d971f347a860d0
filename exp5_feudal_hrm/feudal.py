"""Goals: a manager's state becomes a direction for the worker, and a loss that rewards moving that way.

At the end of segment 1, and every `period` segments from there, the manager emits a goal. In the segments
that follow both levels get t V g beside their inputs, with

    m = sg(z_H[:, 0])                      the manager's state at emission
    a = sg(mean over positions of z_L)     the worker's anchor at emission
    g = normalize(W_g m)                   the goal
    t = sigmoid(w_g m)                     the gate; 1 without gating
    d = R(w - a)                           the worker's displacement, w its mean state now

R is the identity, or a fixed random projection where goals are narrower. The forms of the loss, over the rows
that have a goal (sg stops the gradient; A is the drop in the answer's cost since emission, standardised):

    directional   sg(t) (1 - cos(d, sg(g))) - 0.1 A cos(sg(d), g)    worker, manager (FeUdal Networks)
    predict       1 - cos(sg(d), g)                                  the manager foretells, the worker is free
    naive         t (1 - cos(R w, g))                                nothing is stopped: the gate can close
    contrastive   -log softmax_j cos(sg(d_j), g) / 0.1, at j = i     InfoNCE over the puzzles j of a batch: a
                                                                     goal that suits every puzzle costs log B

Two further ways to make goals: `detached`, they reach the levels without a gradient, so that the manager
learns from its own loss alone; `cells`, every position has a goal of its own, from its own z_H and z_L.

A goal is worked out anew from the stored m in every segment: a stored, detached goal would leave W_g and w_g
without a gradient.

Shapes: S members (seeds), B puzzles, N positions, D width of states, G of goals.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from common.recursion.layers import Linear, truncated_normal
from common.recursion.model import States
from common.run.random import generators

MANAGER_WEIGHT = 0.1  # of the manager's part in the directional loss
CONTRAST = 0.1  # temperature of the contrastive form
Form = Literal["directional", "predict", "naive", "contrastive"]
Goals = Literal["own", "swapped", "off"]  # at evaluation: the puzzle's own, another puzzle's, none


@dataclass(frozen=True)
class FeudalVariant:
    """What tells one training with goals from another."""

    weight: float = 0.1  # of the feudal loss beside the answer's
    period: int = 4  # segments from one goal to the next
    form: Form = "directional"
    random_goals: bool = False  # unit vectors that nobody chose, in place of the manager's
    gradient: Literal["one_step", "segment"] = "one_step"
    adaptive: bool = True  # whether the halting head ends a puzzle in training
    detached: bool = False  # whether the manager learns from the feudal loss alone
    cells: bool = False  # whether every position has a goal of its own


class GoalHead(nn.Module):
    """W_g, w_g and V of every member; V is zero at the start, so goals change nothing yet."""

    def __init__(self, seeds: Sequence[int], width: int, goal_dim: int, gating: bool):
        super().__init__()
        draws = generators(seeds, "goal head")
        self.goal = Linear(draws, width, goal_dim)
        self.goal_bias = nn.Parameter(torch.zeros(len(seeds), 1, goal_dim))
        self.inject = Linear(draws, goal_dim, width)
        nn.init.zeros_(self.inject.weight)
        self.gate = nn.Parameter(torch.zeros(len(seeds), width, 1)) if gating else None
        self.gate_bias = nn.Parameter(torch.zeros(len(seeds), 1, 1)) if gating else None
        projection = None
        if goal_dim != width:
            projection = truncated_normal(draws, width, goal_dim, std=width**-0.5)
        self.register_buffer("projection", projection)

    def goals(self, manager: Tensor) -> Tensor:
        """Unit vectors: [S, B, D] -> [S, B, G]."""
        return F.normalize(self.goal(manager) + self.goal_bias, dim=-1)

    def gates(self, manager: Tensor) -> Tensor:
        """How much of a goal is let through, in (0, 1]: [S, B, D] -> [S, B]."""
        if self.gate is None:
            return manager.new_ones(manager.shape[:2])
        return torch.sigmoid(torch.baddbmm(self.gate_bias, manager, self.gate))[..., 0]

    def project(self, worker: Tensor) -> Tensor:
        """R: [S, B, D] -> [S, B, G]."""
        return worker if self.projection is None else torch.bmm(worker, self.projection)


class Feudal:
    """The goals of running puzzles, row by row. All of it is in `state_dict`.

    A segment asks for `guide`, then (in training) for `losses`, and ends with `emit`.
    """

    places = 1  # goals of a puzzle

    def __init__(
        self, head: GoalHead, period: int, rows: int, *, goals: Goals = "own", detached: bool = False
    ):
        weight = head.goal.weight
        members, width, goal_dim = weight.shape
        self.head, self.period, self.way, self.detached = head, period, goals, detached
        self.manager = weight.new_zeros(members, rows, width)  # m
        self.anchor = torch.zeros_like(self.manager)  # a
        self.given = weight.new_zeros(members, rows, goal_dim)  # a goal that the manager did not choose
        self.cost = weight.new_zeros(members, rows)  # of the answer at emission
        self.held = torch.zeros(members, rows, dtype=torch.bool, device=weight.device)  # rows with a goal
        self.emissions = torch.zeros(members, rows, dtype=torch.int64, device=weight.device)
        self.consumed = torch.zeros_like(self.emissions)  # segments with a goal

    def reset(self, rows: Tensor) -> None:
        """Forget the goals of rows [S, B] bool, which begin a new puzzle."""
        self.held = self.held & ~rows
        self.emissions = torch.where(rows, 0, self.emissions)
        self.consumed = torch.where(rows, 0, self.consumed)

    def goal(self) -> tuple[Tensor, Tensor]:
        """The goals g [S, B, G] and gates t [S, B] as they are now, of rows without one as well."""
        chosen = self.given.abs().amax(-1, keepdim=True) == 0
        goal = torch.where(chosen, self.head.goals(self.manager), self.given)
        goal = goal.roll(self.places, 1) if self.way == "swapped" else goal
        return goal, self.head.gates(self.manager)

    def guide(self) -> Tensor | None:
        """t V g of the rows that have a goal, zero for the others: [S, B, 1, D]."""
        if self.way == "off":
            return None
        goal, gate = self.goal()
        goal = goal.detach() if self.detached else goal
        return (self.head.inject(goal) * (gate * self.held)[..., None])[:, :, None]

    def manager_of(self, states: States) -> Tensor:
        """The state that a goal is made of: [S, B, D]."""
        return states.z_H[:, :, 0]

    def worker_of(self, states: States) -> Tensor:
        """The state that a goal moves: [S, B, D]."""
        return states.z_L.mean(2)

    def displacement(self, states: States) -> Tensor:
        """d = R(w - a) of the worker's states after a segment: [S, B, G]."""
        return self.head.project(self.worker_of(states) - self.anchor)

    def compared(self, states: States, form: Form) -> Tensor:
        """What a form's loss compares with the goal: d, or R w of the naive form, [S, B, G]."""
        if form == "naive":
            return self.head.project(self.worker_of(states))
        return self.displacement(states)

    def losses(self, states: States, cost: Tensor, form: Form) -> dict[str, Tensor]:
        """Of the segment that ended in `states`, over rows with a goal.

        Args:
            states: with the segment's graph.
            cost: of the answer, [S, B].
            form: of the loss.

        Returns:
            feudal_loss [S]; cosine between the goal and what it is compared with, and the gate, each [S].
        """
        goal, gate = self.goal()
        moved = self.compared(states, form)
        if form == "naive":
            cosine = F.cosine_similarity(moved, goal, dim=-1)
            loss = gate * (1 - cosine)
        elif form == "predict":
            cosine = F.cosine_similarity(moved.detach(), goal, dim=-1)
            loss = 1 - cosine
        elif form == "contrastive":
            cosine = F.cosine_similarity(moved.detach(), goal, dim=-1)
            loss = _contrast(goal, moved.detach(), self.held)
        else:
            cosine = F.cosine_similarity(moved, goal.detach(), dim=-1)
            loss = gate.detach() * (1 - cosine)
            advantage = _standardised(self.cost - cost.detach(), self.held)
            chosen = F.cosine_similarity(moved.detach(), goal, dim=-1)
            loss = loss - MANAGER_WEIGHT * advantage * chosen
        found = {"feudal_loss": loss, "cosine": cosine.detach(), "gate": gate.detach()}
        return {name: masked_mean(value, self.held) for name, value in found.items()}

    def emit(self, states: States, cost: Tensor, given: Tensor | None = None) -> None:
        """Count a segment, and store a goal where one is due after it.

        Args:
            states: that the segment ended in.
            cost: of its answer, [S, B].
            given: goals in place of the manager's, [S, B, G].
        """
        self.consumed = self.consumed + self.held
        # consumed counts the segments since the first: 0 after segment 1, period after segment 1 + period
        due = self.consumed % self.period == 0
        self.emissions = self.emissions + due
        self.held = torch.ones_like(self.held)
        row = due[..., None]
        self.manager = torch.where(row, self.manager_of(states).detach(), self.manager)
        self.anchor = torch.where(row, self.worker_of(states).detach(), self.anchor)
        self.cost = torch.where(due, cost.detach(), self.cost)
        if given is not None:
            self.given = torch.where(row, given, self.given)

    def counts(self) -> dict[str, Tensor]:
        """Goals made, and segments with one, of the puzzles as they run: each [S, B]."""
        return {"emissions": self.emissions[:, :: self.places], "consumed": self.consumed[:, :: self.places]}

    _KEPT = ("manager", "anchor", "given", "cost", "held", "emissions", "consumed")

    def state_dict(self) -> dict[str, Any]:
        """For a checkpoint."""
        return {name: getattr(self, name) for name in self._KEPT}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from what `state_dict` returned."""
        for name in self._KEPT:
            own = getattr(self, name)
            setattr(self, name, state[name].to(own.device).reshape(own.shape))


class CellFeudal(Feudal):
    """Goals of every position of running puzzles: what Feudal takes for a puzzle is one position."""

    def __init__(
        self,
        head: GoalHead,
        period: int,
        rows: int,
        places: int,
        *,
        goals: Goals = "own",
        detached: bool = False,
    ):
        """`rows` B puzzles with `places` N positions each."""
        super().__init__(head, period, rows * places, goals=goals, detached=detached)
        self.places = places

    def reset(self, rows: Tensor) -> None:
        """Forget the goals of puzzles [S, B] bool."""
        super().reset(rows.repeat_interleave(self.places, 1))

    def guide(self) -> Tensor | None:
        """t V g of each position: [S, B, N, D]."""
        guide = super().guide()
        return None if guide is None else guide.squeeze(2).unflatten(1, (-1, self.places))

    def manager_of(self, states: States) -> Tensor:
        """[S, B N, D]."""
        return states.z_H.flatten(1, 2)

    def worker_of(self, states: States) -> Tensor:
        """[S, B N, D]."""
        return states.z_L.flatten(1, 2)

    def losses(self, states: States, cost: Tensor, form: Form) -> dict[str, Tensor]:
        """See Feudal; a position has its puzzle's cost [S, B]."""
        return super().losses(states, cost.repeat_interleave(self.places, 1), form)

    def emit(self, states: States, cost: Tensor, given: Tensor | None = None) -> None:
        """See Feudal; every position emits when its puzzle does."""
        cost = cost if cost.shape == self.cost.shape else cost.repeat_interleave(self.places, 1)
        super().emit(states, cost, given)


def make_feudal(
    head: GoalHead, variant: FeudalVariant, rows: int, places: int, goals: Goals = "own"
) -> Feudal:
    """The goals of so many running puzzles, each with N = `places` positions."""
    if variant.cells:
        return CellFeudal(head, variant.period, rows, places, goals=goals, detached=variant.detached)
    return Feudal(head, variant.period, rows, goals=goals, detached=variant.detached)


def random_goals(seeds: Sequence[int], stream: str, rows: int, goal_dim: int) -> Tensor:
    """Unit vectors [S, rows, G] in directions that are all as likely."""
    drawn = [torch.randn(rows, goal_dim, generator=draw) for draw in generators(seeds, stream)]
    return F.normalize(torch.stack(drawn), dim=-1)


def masked_mean(values: Tensor, rows: Tensor) -> Tensor:
    """Mean over the chosen rows, 0 where there are none: [S, B], [S, B] bool -> [S]."""
    return (values * rows).sum(1) / rows.sum(1).clamp(min=1)


def _contrast(goal: Tensor, moved: Tensor, rows: Tensor) -> Tensor:
    """InfoNCE (van den Oord et al., arXiv 1807.03748) of each goal with its own puzzle's displacement among
    those of the chosen rows: [S, B, G], [S, B, G], [S, B] bool -> [S, B].
    """
    likeness = torch.bmm(goal, F.normalize(moved, dim=-1).mT) / CONTRAST
    own = torch.eye(rows.shape[1], dtype=torch.bool, device=rows.device)
    likeness = likeness.masked_fill(~(rows[:, None] | own), -torch.inf)
    return -torch.log_softmax(likeness, -1).diagonal(dim1=1, dim2=2)


def _standardised(values: Tensor, rows: Tensor) -> Tensor:
    """Mean 0 and standard deviation 1 over the chosen rows of each member; 0 where they do not differ."""
    centred = (values - masked_mean(values, rows)[:, None]) * rows
    spread = masked_mean(centred.square(), rows).sqrt()[:, None]
    return centred / spread.clamp(min=1e-6)
