"""TRM with a context before its cells: a table's vector, or what an encoder says of the demonstrations.

Shapes: S members, B queries, K demonstrations, C x C canvas, L = C^2 cells, P prefix positions, D width.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from common.config import Exp6Config
from common.recursion.layers import rotations
from common.recursion.model import TRM, Sizes
from exp6_encoder_trm.dataset import VOCABULARY, Queries
from exp6_encoder_trm.encoders import Encoded, Encoder, make_encoder
from exp6_encoder_trm.jobs import Variant

MODEL_FIELDS = (
    "seeds", "width", "heads", "layers", "cycles_high", "cycles_low", "inner_multiple", "position_axes",
    "context_tokens", "most_demos",
)  # fmt: skip


class ContextTRM(nn.Module):
    """A TRM, and what makes its prefix: `encoder`, or where there is none the TRM's own table."""

    def __init__(self, trm: TRM, encoder: Encoder | None = None, scale: float = 1.0):
        """`scale`: times the encoder's output."""
        super().__init__()
        self.trm, self.encoder, self.scale = trm, encoder, scale

    def encode(self, queries: Queries, draws: Sequence[torch.Generator] | None = None) -> Encoded:
        """The context of queries [S, B, ..]; groups below 0 are not in a table and get zeros.

        `draws`: for encoders that sample, in training.
        """
        table = self.trm.table if self.encoder is None else self.encoder.table
        if table is not None:
            known = queries.groups >= 0
            if not known.all():
                rows = table(queries.groups.clamp(min=0))
                return Encoded(rows * known[..., None, None])
        if self.encoder is None:
            return Encoded(table(queries.groups))
        encoded = self.encoder(queries.demos, queries.shown, queries.groups, draws)
        return encoded._replace(context=self.scale * encoded.context)

    def inject(self, inputs: Tensor, context: Tensor) -> Tensor:
        """What the recursion gets: inputs [S, B, L], context [S, B, P, D] -> [S, B, P + L, D]."""
        return self.trm.embed(inputs, context)


def sizes_of(canvas: int, variant: Variant, groups: int, config: Exp6Config) -> Sizes:
    """TRM's sizes on a C x C canvas; `groups` rows of a table, where the variant has one."""
    tokens = variant.context == "tokens"
    return Sizes(
        vocabulary=VOCABULARY,
        grid=(canvas, canvas),
        prefix=config.most_demos * canvas**2 if tokens else config.context_tokens,
        identifiers=groups if variant.context == "table" else 0,
        width=config.width,
        heads=config.heads,
        inner_multiple=config.inner_multiple,
        layers_L=config.layers,
        cycles_H=config.cycles_high,
        cycles_L=config.cycles_low,
        position_axes=config.position_axes,
    )


def make_model(canvas: int, variant: Variant, groups: int, config: Exp6Config) -> ContextTRM:
    """An untrained model; the TRM of every variant begins with the same weights."""
    sizes = sizes_of(canvas, variant, groups, config)
    trm = TRM(config.seeds, sizes)
    if variant.context == "table":
        return ContextTRM(trm)
    if variant.context == "tokens" and config.position_axes == 2:
        trm.turns = rotations(stacked_positions(canvas, config.most_demos), sizes.width // sizes.heads)
    encoder = make_encoder(variant.context, config.seeds, sizes, groups)
    encoder.requires_grad_(not variant.freeze_encoder)
    return ContextTRM(trm, encoder, variant.context_scale)


def stacked_positions(canvas: int, demos: int) -> Tensor:
    """Row and column of each place when K demonstrations lie above the query: [K L + L, 2].

    A cell of a demonstration is in the column of the query's same cell, a fixed number of rows above it.
    """
    cells = torch.cartesian_prod(torch.arange(canvas), torch.arange(canvas))
    above = [cells - torch.tensor([canvas * (demos - number), 0]) for number in range(demos)]
    return torch.cat([*above, cells])
