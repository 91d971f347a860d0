"""Training a recursive model segment by segment: what runs, what it costs, how it is optimised.

Shapes: S members (seeds), B puzzles, L cells, V vocabulary.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from common.config import RecursionConfig
from common.recursion.average import WeightAverage
from common.recursion.carry import Carry, Halting
from common.recursion.losses import Judged, cross_entropy, halting_loss, judge
from common.recursion.model import Gradient, RecursiveModel, States
from common.run.cache import Checkpoint
from common.training.fit import Loss, MakeSchedule, Stateful, fit
from common.training.member_adam import MemberAdam

TALLY_DECAY = 0.9  # a step: what halted rows are counted over

# The settings that `fit_recursive`, `halting_of` and a batch read.
TRAINING_FIELDS = (
    "seeds", "iterations", "batch_size", "learning_rate", "weight_decay", "warmup", "clip_norm",
    "average_decay", "segments", "adaptive_halting", "exploration", "halting", "table_learning_rate",
    "table_weight_decay", "answer_loss",
)  # fmt: skip


def halting_of(config: RecursionConfig) -> Halting:
    """The configuration's."""
    return Halting(
        most_segments=config.segments,
        adaptive=config.adaptive_halting,
        exploration=config.exploration,
        with_continuation=config.halting == "hrm",
    )


@dataclass(frozen=True)
class Segment:
    """One segment of every running puzzle: tensors with their graph, each [S, B, ..]."""

    states: States
    logits: Tensor  # [S, B, L, V]
    q: Tensor  # [S, B, 2]
    lm_loss: Tensor  # [S, B]: mean cross-entropy over the cells
    q_loss: Tensor  # [S, B]
    judged: Judged
    steps: Tensor  # [S, B]: how many segments the puzzle has had, this one included
    halted: Tensor  # [S, B] bool: whether it was the puzzle's last


class SegmentRunner:
    """Runs one segment after another of the puzzles in a carry, and counts what has halted."""

    def __init__(self, model: RecursiveModel, config: RecursionConfig, *, adaptive: bool = True):
        """`adaptive`: whether the halting head may end a puzzle, if the configuration lets it."""
        halting = halting_of(config)
        self.model, self.halting = model, replace(halting, adaptive=halting.adaptive and adaptive)
        self.carry, self.tally = Carry(model, config.batch_size, self.halting), Tally()
        self.softmax = config.answer_loss == "softmax"

    def run(
        self,
        draws: Sequence[torch.Generator],
        *,
        injected: Tensor | None = None,
        guide: Tensor | None = None,
        gradient: Gradient = "one_step",
    ) -> Segment:
        """One segment, after which the carry has moved on.

        Args:
            draws: for the exploration of halting.
            injected: x, [S, B, N, D]; by default the running puzzles', with the table's vectors.
            guide: what both levels get beside, [S, B, 1 or N, D].
            gradient: how far back the graph goes, at most to the segment's beginning.
        """
        carry = self.carry
        if injected is None:
            injected = self.model.embed_puzzles(carry.inputs, carry.identifiers)
        states = self.model.segment(carry.states, injected, guide, gradient)
        logits, q = self.model.read(states)
        judged = judge(logits.detach(), carry.labels)
        lm_loss = cross_entropy(logits, carry.labels, self.softmax)
        halted = carry.advance(states, q, draws)
        continuation = self._value_of_going_on(injected, guide) if self.halting.with_continuation else None
        q_loss = halting_loss(q, judged.exact, continuation)
        return Segment(states, logits, q, lm_loss, q_loss, judged, carry.steps, halted)

    @torch.no_grad()
    def _value_of_going_on(self, injected: Tensor, guide: Tensor | None) -> Tensor:
        """sigmoid of the next segment's better logit, of halting alone where the next is the last: [S, B]."""
        _, q = self.model.read(self.model.segment(self.carry.states, injected, guide))
        return torch.sigmoid(torch.where(self.carry.last, q[..., 0], q.amax(-1)))

    def counts(self, segment: Segment, more: Mapping[str, Tensor] | None = None) -> dict[str, Tensor]:
        """Means over rows that have halted lately, each [S]: accuracy, exact accuracy, steps, and `more`.

        A row that still runs has no answer yet. Before any has halted all are 0.
        """
        values = {
            "train/accuracy": segment.judged.accuracy,
            "train/exact_accuracy": segment.judged.exact,
            "train/steps": segment.steps,
        }
        return self.tally.update(segment.halted, values | dict(more or {}))

    @property
    def extra_state(self) -> dict[str, Stateful]:
        """For `fit`."""
        return {"carry": self.carry, "tally": self.tally}


class Tally:
    """Running means over halted rows, member by member: sums of which each step forgets a tenth."""

    def __init__(self):
        self.sums: dict[str, Tensor] = {}

    def update(self, halted: Tensor, values: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Take in [S, B] values where rows have halted; the means [S] by name."""
        counted = {"count": halted.float()} | {name: value * halted for name, value in values.items()}
        for name, value in counted.items():
            before = self.sums.get(name, torch.zeros(())).to(value.device)  # a checkpoint's are on the CPU
            self.sums[name] = TALLY_DECAY * before + value.float().sum(1)
        count = self.sums["count"].clamp(min=1e-12)
        return {name: self.sums[name] / count for name in values}

    def state_dict(self) -> dict[str, Any]:
        """For a checkpoint."""
        return dict(self.sums)

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from what `state_dict` returned."""
        self.sums = dict(state)


# ----------------------------------------------------------------------------------------------
# Optimisation
# ----------------------------------------------------------------------------------------------


def warm_up(steps: int) -> MakeSchedule:
    """The rate rises linearly over so many steps and stays."""
    return lambda optimizer: torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda step: min(1.0, (step + 1) / max(1, steps))
    )


def member_adamw(module: nn.Module, config: RecursionConfig, members: int) -> MemberAdam:
    """AdamW with betas (.9, .95) on each member's slice of the parameters."""
    optimizer = MemberAdam(module, members, config.learning_rate)
    for group in optimizer.param_groups:
        group.update(betas=(0.9, 0.95), weight_decay=config.weight_decay, decoupled_weight_decay=True)
    return optimizer


def fit_recursive(
    model: RecursiveModel,
    loss: Loss,
    config: RecursionConfig,
    *,
    label: str,
    stream: str,
    checkpoint: Checkpoint | None,
    extra_state: Mapping[str, Stateful],
) -> dict[str, Tensor]:
    """Train a model in place and leave the average of its weights in it; the history (see `fit`).

    AdamW with warm-up, gradients clipped member by member, an unbiased average of the weights; the rows of a
    puzzle table, where there is one, by sign descent at its own rate.
    """
    average = WeightAverage(model, config.average_decay)

    def after_step(iteration: int) -> None:
        average.update()
        if model.table is not None:
            warm = min(1.0, iteration / max(1, config.warmup))
            model.table.update(warm * config.table_learning_rate, config.table_weight_decay)

    history = fit(
        model,
        loss,
        seeds=config.seeds,
        iterations=config.iterations,
        learning_rate=config.learning_rate,
        label=label,
        stream=stream,
        clip_norm=config.clip_norm or None,
        checkpoint=checkpoint,
        optimizer=lambda module: member_adamw(module, config, len(config.seeds)),
        schedule=warm_up(config.warmup),
        extra_state={"average": average, **extra_state},
        after_step=after_step,
    )
    average.apply()
    return history
