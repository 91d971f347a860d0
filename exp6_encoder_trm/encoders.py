"""Encoders: from demonstrations to the prefix that TRM reads in the place of a puzzle's learned vector.

All have one interface, the look-up in a table and the constant zero as well. S of each stand side by side,
as everywhere in common/recursion. Cells outside a grid and slots without a demonstration are masked: what
they hold changes nothing.

`standard`, `attention`, `lpn_standard` and `lpn_variational` are the founding document's (LPN: Bonnet &
Macfarlane, arXiv 2411.08706); `cls` and `tokens` are additions.

Shapes: S members, B queries, K demonstrations, C x C canvas, L = C^2 cells, V tokens, P prefix positions,
D width, h heads, M = B K demonstrations in one line, N positions, Q queries of an attention.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn

from common.recursion.layers import (
    Embedding,
    Generators,
    Linear,
    SwiGLU,
    grid_positions,
    line_positions,
    rms_norm,
    rotate,
    rotations,
    truncated_normal,
)
from common.recursion.model import Sizes
from common.recursion.table import PuzzleTable
from common.run.random import generators
from exp6_encoder_trm.dataset import OUTSIDE
from exp6_encoder_trm.jobs import Context

MASKED = -1e30  # a score that leaves no weight, and finite: a row without anything to see is no NaN
LOG_VARIANCE_LIMIT = 10.0  # |log variance| of a variational encoder at most
LPN_LAYERS = 4


class Encoded(NamedTuple):
    """What an encoder says."""

    context: Tensor  # [S, B, P, D]
    kl: Tensor | None = None  # [S]: mean KL divergence of a demonstration to N(0, 1), of variational ones


class Encoder(nn.Module):
    """Demonstrations -> prefix."""

    table: PuzzleTable | None  # whose rows are trained apart

    def __init__(self):
        super().__init__()
        self.table = None

    def forward(
        self, demos: Tensor, shown: Tensor, groups: Tensor, draws: Sequence[torch.Generator] | None = None
    ) -> Encoded:
        """Encode.

        Args:
            demos: tokens of inputs and outputs [S, B, K, 2, L].
            shown: which demonstrations there are [S, B, K] bool.
            groups: of the queries [S, B] int64; for the look-up alone.
            draws: a generator a member, for encoders that sample; none given: no sampling, as in evaluation.
        """
        raise NotImplementedError


# ----------------------------------------------------------------------------------------------
# Attention with a mask
# ----------------------------------------------------------------------------------------------


class MaskedAttention(nn.Module):
    """Queries [S, B, Q, D] look at keys [S, B, N, D] where `seen` [S, B, N] is true; 0 where none is."""

    def __init__(self, draws: Generators, width: int, heads: int):
        super().__init__()
        self.heads = heads
        self.query, self.key, self.value, self.out = (Linear(draws, width, width) for _ in range(4))

    def forward(self, queries: Tensor, keys: Tensor, seen: Tensor, turns: Tensor | None = None) -> Tensor:
        """`turns`: rotations of the positions, which queries and keys share; none given: no positions."""
        query, key, value = (
            map_(part).unflatten(-1, (self.heads, -1))
            for map_, part in ((self.query, queries), (self.key, keys), (self.value, keys))
        )  # [S, B, Q or N, h, e]
        if turns is not None:
            query, key = rotate(query, turns), rotate(key, turns)
        query, key, value = (part.transpose(2, 3) for part in (query, key, value))  # [S, B, h, Q or N, e]
        scores = query @ key.mT * query.shape[-1] ** -0.5
        mask = seen[:, :, None, None]
        weights = torch.softmax(scores.masked_fill(~mask, MASKED), -1) * mask
        return self.out((weights @ value).transpose(2, 3).flatten(-2))


class EncoderBlock(nn.Module):
    """Masked self-attention and SwiGLU: [S, B, N, D] -> [S, B, N, D]; norms after each sum, or before it."""

    def __init__(self, draws: Generators, sizes: Sizes, pre_norm: bool):
        super().__init__()
        self.pre_norm = pre_norm
        self.attention = MaskedAttention(draws, sizes.width, sizes.heads)
        self.mlp = SwiGLU(draws, sizes.width, sizes.expansion, sizes.inner_multiple)

    def forward(self, hidden: Tensor, seen: Tensor, turns: Tensor | None = None) -> Tensor:
        if self.pre_norm:
            normal = rms_norm(hidden)
            hidden = hidden + self.attention(normal, normal, seen, turns)
            return hidden + self.mlp(rms_norm(hidden))
        hidden = rms_norm(hidden + self.attention(hidden, hidden, seen, turns))
        return rms_norm(hidden + self.mlp(hidden))


class LearnedQueries(nn.Module):
    """A few learned vectors look at a set: [S, B, N, D] -> [S, B, Q, D]."""

    def __init__(self, draws: Generators, sizes: Sizes, count: int):
        super().__init__()
        self.queries = nn.Parameter(truncated_normal(draws, count, sizes.width, std=1.0))  # [S, Q, D]
        self.attention = MaskedAttention(draws, sizes.width, sizes.heads)

    def forward(self, items: Tensor, seen: Tensor) -> Tensor:
        queries = self.queries[:, None].expand(-1, items.shape[1], -1, -1)
        return self.attention(queries, items, seen)


# ----------------------------------------------------------------------------------------------
# One demonstration
# ----------------------------------------------------------------------------------------------


class PairEmbedding(nn.Module):
    """Tokens of input and output [S, M, 2, L] -> [S, M, L, D]: embedded apart, and added cell by cell."""

    def __init__(self, draws: Generators, sizes: Sizes):
        super().__init__()
        std = sizes.width**-0.5
        self.before, self.after = (Embedding(draws, sizes.vocabulary, sizes.width, std=std) for _ in range(2))

    def forward(self, pairs: Tensor) -> Tensor:
        before, after = pairs.unbind(2)
        return self.before(before) + self.after(after)


def filled_cells(pairs: Tensor) -> Tensor:
    """Which cells belong to the input or to the output: [..., 2, L] -> [..., L] bool."""
    return (pairs != OUTSIDE).any(-2)


class GridEncoder(nn.Module):
    """One vector for each demonstration: [S, M, 2, L] -> [S, M, D]."""

    def __init__(self, draws: Generators, sizes: Sizes, layers: int, pooling: str, pre_norm: bool):
        """`pooling` over the cells: mean, attention (one learned query) or cls (a token of its own)."""
        super().__init__()
        self.scale, self.pooling, self.pre_norm = math.sqrt(sizes.width), pooling, pre_norm
        self.embedding = PairEmbedding(draws, sizes)
        self.blocks = nn.ModuleList([EncoderBlock(draws, sizes, pre_norm) for _ in range(layers)])
        self.out = Linear(draws, sizes.width, sizes.width)
        if pooling == "attention":
            self.pool = LearnedQueries(draws, sizes, 1)
        if pooling == "cls":
            self.cls = nn.Parameter(truncated_normal(draws, 1, sizes.width, std=1.0))  # [S, 1, D]
        turns = rotations(positions_of(sizes, int(pooling == "cls")), sizes.width // sizes.heads)
        self.register_buffer("turns", turns, persistent=False)

    def forward(self, pairs: Tensor) -> Tensor:
        hidden, seen = self.scale * self.embedding(pairs), filled_cells(pairs)  # [S, M, L, D], [S, M, L]
        if self.pooling == "cls":
            first = self.cls[:, None].expand(-1, hidden.shape[1], -1, -1)
            hidden, seen = (
                torch.cat([first, hidden], 2),
                torch.cat([seen.new_ones(*seen.shape[:2], 1), seen], 2),
            )
        for block in self.blocks:
            hidden = block(hidden, seen, self.turns)
        if self.pre_norm:
            hidden = rms_norm(hidden)
        return self.out(self._pooled(hidden, seen))

    def _pooled(self, hidden: Tensor, seen: Tensor) -> Tensor:
        """[S, M, N, D] -> [S, M, D]."""
        if self.pooling == "cls":
            return hidden[:, :, 0]
        if self.pooling == "attention":
            return self.pool(hidden, seen)[:, :, 0]
        return masked_mean(hidden, seen)


def masked_mean(items: Tensor, seen: Tensor) -> Tensor:
    """Mean of those that are seen, 0 where none is: [S, B, N, D], [S, B, N] -> [S, B, D]."""
    weights = seen[..., None].to(items.dtype)
    return (items * weights).sum(2) / weights.sum(2).clamp(min=1)


def positions_of(sizes: Sizes, prefix: int) -> Tensor:
    """Places of the cells, as TRM's own: [prefix + L, 1 or 2]."""
    if sizes.position_axes == 2:
        return grid_positions(*sizes.grid, prefix)
    return line_positions(sizes.cells, prefix)


# ----------------------------------------------------------------------------------------------
# Encoders
# ----------------------------------------------------------------------------------------------


class DemoEncoder(Encoder):
    """A vector a demonstration, then P learned queries over the set of them; normalised."""

    def __init__(
        self, draws: Generators, sizes: Sizes, layers: int, pooling: str, pre_norm: bool, set_layers: int
    ):
        """`set_layers`: blocks of self-attention among the demonstrations before the queries look."""
        super().__init__()
        self.grid = GridEncoder(draws, sizes, layers, pooling, pre_norm)
        self.set = nn.ModuleList([EncoderBlock(draws, sizes, pre_norm) for _ in range(set_layers)])
        self.queries = LearnedQueries(draws, sizes, sizes.prefix)
        self.mlp = SwiGLU(draws, sizes.width, sizes.expansion, sizes.inner_multiple)

    def forward(
        self, demos: Tensor, shown: Tensor, groups: Tensor, draws: Sequence[torch.Generator] | None = None
    ) -> Encoded:
        vectors = each_demo(self.grid, demos)  # [S, B, K, D]
        for block in self.set:
            vectors = block(vectors, shown)
        context = rms_norm(self.queries(vectors, shown))
        return Encoded(rms_norm(context + self.mlp(context)))


def each_demo(encode: Callable[[Tensor], Tensor], demos: Tensor) -> Tensor:
    """Encode every demonstration on its own: [S, B, K, 2, L] -> [S, B, K, D]."""
    return encode(demos.flatten(1, 2)).unflatten(1, demos.shape[1:3])


class VariationalEncoder(Encoder):
    """A normal distribution a demonstration; the mean of their samples, or of their means, is the context."""

    def __init__(self, draws: Generators, sizes: Sizes):
        super().__init__()
        self.prefix = sizes.prefix
        self.grid = GridEncoder(draws, sizes, LPN_LAYERS, "cls", pre_norm=True)
        self.mean = Linear(draws, sizes.width, sizes.width)
        self.log_variance = Linear(draws, sizes.width, sizes.width)
        nn.init.zeros_(self.log_variance.weight)
        self.out = Linear(draws, sizes.width, sizes.prefix * sizes.width)

    def forward(
        self, demos: Tensor, shown: Tensor, groups: Tensor, draws: Sequence[torch.Generator] | None = None
    ) -> Encoded:
        vectors = each_demo(self.grid, demos)  # [S, B, K, D]
        mean = self.mean(vectors)
        log_variance = self.log_variance(vectors).clamp(-LOG_VARIANCE_LIMIT, LOG_VARIANCE_LIMIT)
        sample = mean
        if draws is not None:
            shape, device = mean.shape[1:], mean.device
            noise = torch.stack([torch.randn(shape, generator=draw) for draw in draws]).to(device, mean.dtype)
            sample = mean + (0.5 * log_variance).exp() * noise
        context = self.out(masked_mean(sample, shown)).unflatten(-1, (self.prefix, -1))
        return Encoded(rms_norm(context), kl_divergence(mean, log_variance, shown))


def kl_divergence(mean: Tensor, log_variance: Tensor, shown: Tensor) -> Tensor:
    """KL(N(mu, sigma^2) || N(0, 1)) summed over D, mean over the demonstrations shown: [S, B, K, D] -> [S].

    1/2 sum(mu^2 + sigma^2 - 1 - log sigma^2) (Kingma & Welling, 2014, appendix B).
    """
    each = 0.5 * (mean.square() + log_variance.exp() - 1 - log_variance).sum(-1)  # [S, B, K]
    return (each * shown).sum((1, 2)) / shown.sum((1, 2)).clamp(min=1)


class TokenEncoder(Encoder):
    """No pooling: every cell of every demonstration is a prefix position; P = K L."""

    def __init__(self, draws: Generators, sizes: Sizes):
        super().__init__()
        self.prefix = sizes.prefix
        self.embedding = PairEmbedding(draws, sizes)

    def forward(
        self, demos: Tensor, shown: Tensor, groups: Tensor, draws: Sequence[torch.Generator] | None = None
    ) -> Encoded:
        seen = filled_cells(demos) & shown[..., None]  # [S, B, K, L]
        cells = self.embedding(demos.flatten(1, 2)).unflatten(1, demos.shape[1:3])  # [S, B, K, L, D]
        context = (cells * seen[..., None]).flatten(2, 3)
        missing = self.prefix - context.shape[2]
        return Encoded(nn.functional.pad(context, (0, 0, 0, missing)))


class IdentityEncoder(Encoder):
    """The table itself, behind the encoder's interface: what the interface alone costs must be nothing."""

    def __init__(self, members: int, groups: int, sizes: Sizes):
        super().__init__()
        self.table = PuzzleTable(members, groups, sizes.prefix, sizes.width)

    def forward(
        self, demos: Tensor, shown: Tensor, groups: Tensor, draws: Sequence[torch.Generator] | None = None
    ) -> Encoded:
        return Encoded(self.table(groups))


class ZeroEncoder(Encoder):
    """No context: what can be had from the input alone."""

    def __init__(self, sizes: Sizes):
        super().__init__()
        self.shape = (sizes.prefix, sizes.width)

    def forward(
        self, demos: Tensor, shown: Tensor, groups: Tensor, draws: Sequence[torch.Generator] | None = None
    ) -> Encoded:
        return Encoded(torch.zeros(*groups.shape, *self.shape, device=groups.device))


class ConstantEncoder(Encoder):
    """Planted: a collapsed encoder, which says the same whatever it is shown."""

    def __init__(self, draws: Generators, sizes: Sizes):
        super().__init__()
        self.said = nn.Parameter(truncated_normal(draws, sizes.prefix, sizes.width, std=1.0))  # [S, P, D]

    def forward(
        self, demos: Tensor, shown: Tensor, groups: Tensor, draws: Sequence[torch.Generator] | None = None
    ) -> Encoded:
        return Encoded(self.said[:, None].expand(-1, groups.shape[1], -1, -1))


POOLED: Mapping[Context, dict] = {  # layers, pooling, place of the norms, layers among demonstrations
    "standard": {"layers": 2, "pooling": "mean", "pre_norm": False, "set_layers": 0},
    "attention": {"layers": 2, "pooling": "attention", "pre_norm": False, "set_layers": 0},
    "cls": {"layers": 2, "pooling": "cls", "pre_norm": False, "set_layers": 0},
    "lpn_standard": {"layers": LPN_LAYERS, "pooling": "cls", "pre_norm": True, "set_layers": 1},
}


def make_encoder(context: Context, seeds: Sequence[int], sizes: Sizes, groups: int) -> Encoder:
    """An encoder with S members.

    Args:
        context: which one; "table" is TRM's own and no encoder.
        seeds: of the members.
        sizes: TRM's.
        groups: rows of the identity's table.
    """
    draws = generators(seeds, f"encoder/{context}")
    if context in POOLED:
        return DemoEncoder(draws, sizes, **POOLED[context])
    if context == "lpn_variational":
        return VariationalEncoder(draws, sizes)
    if context == "tokens":
        return TokenEncoder(draws, sizes)
    if context == "identity":
        return IdentityEncoder(len(seeds), groups, sizes)
    if context == "zero":
        return ZeroEncoder(sizes)
    if context == "constant":
        return ConstantEncoder(draws, sizes)
    raise ValueError(f"context = {context!r}: no encoder of that name")
