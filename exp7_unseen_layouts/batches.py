"""Batches of experiment 7: what both trainings draw from the walks of all families.

Shapes: S seeds, N samples of a batch, d channels, A actions.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields

import torch
import torch.nn.functional as F
from torch import Tensor

from common.config import Exp7Config
from common.run.cache import Checkpoint
from common.run.run import Run
from common.training.fit import Loss, fit
from exp7_unseen_layouts.dataset import (
    ACTIONS,
    AGENTS,
    COLOURS,
    OBJECTS,
    Patches,
    Walks,
    collect_walks,
    crop,
    cut_patches,
    join_patches,
    walks_of,
)
from exp7_unseen_layouts.models import MODEL_FIELDS, SpatialModel, neighbourhoods, outcomes_of

TRAINING_FIELDS = (
    *MODEL_FIELDS, "batch_size", "iterations", "learning_rate", "nce_temperature", "lambda_dynamics",
)  # fmt: skip
CLIP_NORM = 10.0  # largest gradient norm of a member
SHRINK = 1e-3  # weight of the codes' squared length, without which the InfoNCE drives them apart for ever


@dataclass(frozen=True, eq=False)
class Moves:
    """Distinct transitions as the kernel sees them: the map around the agent, and what an action did."""

    around: Tensor  # [N, 3, 3] int64 contents of the map without the agent
    carried: Tensor  # [N] int64
    direction: Tensor  # [N] int64
    action: Tensor  # [N] int64
    outcome: Tensor  # [N] int64
    changed: Tensor  # [N] bool: the map, or what is carried
    reached: Tensor  # [N] bool


@dataclass(frozen=True, eq=False)
class Cells:
    """Distinct cells near the agent, one step apart."""

    around: Tensor  # [N, 3, 3] int64 contents
    action: Tensor  # [N] int64
    after: Tensor  # [N] int64: the content in the middle after the action


@dataclass(frozen=True)
class LayoutData:
    """What is learned from, of each seed."""

    patches: Sequence[Patches]
    cells: Sequence[Cells]
    moves: Sequence[Moves]


def collect_data(run: Run) -> LayoutData:
    """Walk in the training layouts of every family, as cached steps; patches and moves of each seed."""
    families = run.config.families
    measured = run.measure_all([(collect_walks, f"{family}/walks", family) for family in families])
    return data_of(measured, run.config.seeds)


def data_of(measured: Sequence[Mapping[str, Tensor]], seeds: Sequence[int]) -> LayoutData:
    """Patches and moves of each seed out of what `collect_walks` returned of each family."""
    walks = [[walks_of(found, seed) for found in measured] for seed in seeds]
    patches = [join_patches([cut_patches(walk) for walk in own]) for own in walks]
    moves = [join_moves([cut_moves(walk) for walk in own]) for own in walks]
    return LayoutData(patches, [cut_cells(own) for own in patches], moves)


def cut_cells(patches: Patches) -> Cells:
    """The distinct cells of patches, all but the outermost, whose surroundings are not whole."""
    around = patches.before.unfold(1, 3, 1).unfold(2, 3, 1)  # [N, 5, 5, 3, 3]
    after = patches.after[:, 0, 1:-1, 1:-1]
    actions = patches.actions[:, 0, None, None].expand_as(after)
    rows = torch.cat([around.flatten(3), actions[..., None], after[..., None]], -1).flatten(0, 2)
    rows = rows[rows[:, 4] > 0].unique(dim=0)  # none beyond the map
    return Cells(rows[:, :9].reshape(-1, 3, 3), rows[:, 9], rows[:, 10])


def cut_moves(walks: Walks) -> Moves:
    """The distinct moves that walks hold, in an order that depends on them alone."""
    now, then = slice(None, -1), slice(1, None)
    maps = walks.maps[walks.map_index[:, now].flatten()].long()
    poses, after = walks.poses[:, now].flatten(0, 1), walks.poses[:, then].flatten(0, 1)
    changed = (walks.map_index[:, now] != walks.map_index[:, then]) | (
        walks.carried[:, now] != walks.carried[:, then]
    )
    columns = [
        crop(maps, poses[:, :2], 1).flatten(1), walks.carried[:, now].flatten(), poses[:, 2],
        walks.actions.flatten(), outcomes_of(poses, after), changed.flatten(), walks.reached.flatten(),
    ]  # fmt: skip
    rows = torch.cat([column.view(len(maps), -1).long() for column in columns], 1).unique(dim=0)
    return _moves(rows)


def _moves(rows: Tensor) -> Moves:
    """Rows of numbers as moves."""
    around, (carried, direction, action, outcome, changed, reached) = rows[:, :9], rows[:, 9:].unbind(1)
    return Moves(around.view(-1, 3, 3), carried, direction, action, outcome, changed.bool(), reached.bool())


def join_moves(parts: Sequence[Moves]) -> Moves:
    """Those of several families together, each once."""
    rows = torch.cat([
        torch.cat([getattr(part, spec.name).long().view(len(part.carried), -1) for spec in fields(Moves)], 1)
        for part in parts
    ])  # fmt: skip
    return _moves(rows.unique(dim=0))


# ----------------------------------------------------------------------------------------------
# Batches
# ----------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class StepBatch:
    """Crops before and after one or two steps, as positions among the codes; -1 beyond the map."""

    before: Tensor  # [S, N, 3, 3] of cells, [S, N, 7, 7] of patches; int64
    actions: Tensor  # [S, N, A] or [S, N, 2, A], one-hot
    after: Tensor  # what is in the middle then: [S, N, 1, 1] of cells, [S, N, 3, 3] of patches; int64


class SpatialSampler:
    """Draws what a spatial model is trained on.

    Of cells a third are any, a third change, a third change in what lies there or is carried.
    """

    def __init__(self, model: SpatialModel, data: LayoutData, config: Exp7Config, device: torch.device):
        self.cells, self.patches, self.device, self.count = (
            data.cells,
            data.patches,
            device,
            config.batch_size,
        )
        present = (~model.absent).sum(1).tolist()
        self.contents = [own[:count].cpu() for own, count in zip(model.contents, present, strict=True)]
        self.kinds = [_kinds_of_cells(cells) for cells in data.cells]

    def draw_cells(self, draws: Sequence[torch.Generator]) -> StepBatch:
        """`batch_size` cells a seed."""
        rows = [_draw_kinds(kinds, self.count, draw) for kinds, draw in zip(self.kinds, draws, strict=True)]
        around, actions, after = self._gather(self.cells, rows, ("around", "action", "after"))
        return self._batch(around, actions, after[..., None, None])

    def draw_patches(self, draws: Sequence[torch.Generator]) -> StepBatch:
        """An eighth of `batch_size` patches a seed: each has as much to compute as 34 cells."""
        count = max(1, self.count // 8)
        rows = [
            torch.randint(len(own.before), (count,), generator=draw)
            for own, draw in zip(self.patches, draws, strict=True)
        ]
        before, after, actions = self._gather(self.patches, rows, ("before", "after", "actions"))
        return self._batch(before, actions, after[:, :, 1, 2:-2, 2:-2].contiguous())

    def _gather(self, source: Sequence, rows: Sequence[Tensor], names: Sequence[str]) -> list[Tensor]:
        return [
            torch.stack([getattr(own, name)[row] for own, row in zip(source, rows, strict=True)])
            for name in names
        ]

    def _batch(self, before: Tensor, actions: Tensor, after: Tensor) -> StepBatch:
        one_hot = F.one_hot(actions, len(ACTIONS)).float()
        parts = self._positions(before), one_hot, self._positions(after)
        return StepBatch(*(part.to(self.device) for part in parts))

    def _positions(self, seen: Tensor) -> Tensor:
        """Of contents among the codes: [S, ...] -> [S, ...], -1 for 0."""
        found = [torch.searchsorted(own, part) for own, part in zip(self.contents, seen, strict=True)]
        return torch.stack(found).masked_fill(seen == 0, -1)


def _kinds_of_cells(cells: Cells) -> list[Tensor]:
    """Rows of all cells, of those that change, of those that change in what lies there or is carried."""
    here = cells.around[:, 1, 1]
    lies = here // AGENTS != cells.after // AGENTS
    carried = _carried_around(cells.around) != cells.after % (OBJECTS * COLOURS)
    changes = here != cells.after
    special = lies | (carried & (cells.after % AGENTS > 0))
    everything = torch.arange(len(here))
    kinds = (everything, changes.nonzero()[:, 0], special.nonzero()[:, 0])
    return [kind if len(kind) else everything for kind in kinds]


def _carried_around(around: Tensor) -> Tensor:
    """What the agent carries, wherever it stands among 3x3 contents: [N, 3, 3] -> [N]."""
    return (around % (OBJECTS * COLOURS)).flatten(1).amax(1)


def _draw_kinds(kinds: Sequence[Tensor], count: int, draw: torch.Generator) -> Tensor:
    """`count` rows, equally many of each kind on average."""
    kind = torch.randint(len(kinds), (count,), generator=draw)
    picked = [some[torch.randint(len(some), (count,), generator=draw)] for some in kinds]
    return torch.stack(picked).gather(0, kind[None])[0]


@dataclass(frozen=True)
class MoveBatch:
    """A batch of moves, the map around the agent as latents."""

    around: Tensor  # [S, N, 9 d]
    carried: Tensor  # [S, N] int64, as the following
    direction: Tensor
    action: Tensor
    outcome: Tensor
    changed: Tensor  # [S, N] bool
    reached: Tensor  # [S, N] bool


class MoveSampler:
    """Draws moves: a third uniformly, a third that change the map, a third that reach the goal, if any do."""

    def __init__(self, model: SpatialModel, moves: Sequence[Moves], count: int, device: torch.device):
        self.model, self.moves, self.count, self.device = model, moves, count, device
        everything = [torch.arange(len(own.carried)) for own in moves]
        self.kinds = []
        for own, whole in zip(moves, everything, strict=True):
            kinds = (whole, own.changed.nonzero()[:, 0], own.reached.nonzero()[:, 0])
            self.kinds.append([kind if len(kind) else whole for kind in kinds])

    def draw(self, draws: Sequence[torch.Generator]) -> MoveBatch:
        """`batch_size` moves a seed."""
        rows = []
        for kinds, draw in zip(self.kinds, draws, strict=True):
            rows.append(_draw_kinds(kinds, self.count, draw))
        around, *rest = (
            torch.stack([getattr(own, spec.name)[row] for own, row in zip(self.moves, rows, strict=True)]).to(
                self.device
            )
            for spec in fields(Moves)
        )
        with torch.no_grad():
            latents = neighbourhoods(self.model.encode(around), whole=False)[:, :, 0, 0]
        return MoveBatch(latents, *rest)


def spatial_loss(codes: Tensor, steps: Sequence[tuple[Tensor, Tensor]], weight: float) -> dict[str, Tensor]:
    """`loss` and its terms, of squared errors (with a weight) and InfoNCE of several predictions."""
    squared, contrast = (torch.stack(parts).mean(0) for parts in zip(*steps, strict=True))
    length = codes.square().sum(-1).mean(-1)
    return {"loss": weight * squared + contrast + SHRINK * length, "dynamics": squared, "contrast": contrast}


def fit_spatial(
    model: SpatialModel, loss: Loss, config: Exp7Config, *, label: str, checkpoint: Checkpoint | None
) -> tuple[SpatialModel, dict[str, Tensor]]:
    """The model after `config.iterations` steps, and the training history (see common.training.fit)."""
    history = fit(
        model, loss, seeds=config.seeds, iterations=config.iterations, learning_rate=config.learning_rate,
        label=label, stream="layouts", clip_norm=CLIP_NORM, checkpoint=checkpoint,
    )  # fmt: skip
    return model, history
