"""What a model answers, and how right it is: with all demonstrations, with fewer, with another task's.

Shapes: S members, E queries, K demonstrations or segments, L cells, V tokens, G groups.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from common.recursion.carry import Halting
from common.recursion.losses import judge
from common.recursion.rollout import halting_segment, roll_out
from exp6_encoder_trm.contextual import ContextTRM
from exp6_encoder_trm.dataset import Queries

AT_ONCE = 2**21  # numbers of one state that are worked on at once, about


@dataclass(frozen=True)
class Answers:
    """Of E queries over K segments."""

    tokens: Tensor  # [S, E, K, L] int64
    exact: Tensor  # [S, E, K] bool
    accuracy: Tensor  # [S, E, K]: share of the cells that are right
    q: Tensor  # [S, E, K, 2]: logits of halting and of going on

    @property
    def last(self) -> Tensor:
        """Exact after all segments [S, E]."""
        return self.exact[:, :, -1]

    def at_halt(self, halting: Halting) -> Tensor:
        """Exact after the segment at which the model would halt [S, E]."""
        segment = halting_segment(self.q.clone(), halting) - 1
        return self.exact.gather(2, segment[..., None])[..., 0]


@torch.no_grad()
def answer(model: ContextTRM, queries: Queries, segments: int, context: Tensor | None = None) -> Answers:
    """Ask every query through all segments.

    Args:
        model: S members.
        queries: [S, E, ..].
        segments: K.
        context: [S, E, P, D] in the place of what the model encodes.
    """
    found: list[list[Tensor]] = []
    sizes = model.trm.sizes
    rows = max(1, AT_ONCE // (model.trm.members * sizes.width * (sizes.prefix + sizes.cells)))
    contexts = [None] * -(-queries.inputs.shape[1] // rows) if context is None else context.split(rows, 1)
    for part, given in zip(_blocks(queries, rows), contexts, strict=True):
        given = model.encode(part).context if given is None else given
        steps = []
        for states in roll_out(model.trm, model.inject(part.inputs, given), segments):
            logits, q = model.trm.read(states)
            judged = judge(logits, part.labels)
            steps.append((logits.argmax(-1), judged.exact, judged.accuracy, q))
        found.append([torch.stack(values, 2) for values in zip(*steps, strict=True)])
    return Answers(*(torch.cat(values, 1) for values in zip(*found, strict=True)))


def _blocks(queries: Queries, rows: int) -> Iterator[Queries]:
    """So many queries at once."""
    for begin in range(0, queries.inputs.shape[1], rows):
        yield queries.map(lambda value, begin=begin: value[:, begin : begin + rows])
