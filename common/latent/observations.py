"""Observations of an environment's states as network input, without [S, U, F] numbers where few differ.

States of one layout differ from a typical one, the reference, in a handful of features: the agent's cell, a
door. A first layer is then the reference's output and the weight rows of what differs, and a squared error
of reconstructions x^ = h W + b takes F h^2 products instead of R F h.

Shapes: S members, N states, U rows (states listed in a batch), F features, m features at most in which a row
differs from the reference, h hidden.
"""

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from common.training.ensembles import EnsembleLinear

# Share of the features in which a row differs at most, m / F, below which sparse products are faster: slower
# in KeyCorridorS3R1 (18 of 44), faster in DoorKey-8x8 (13 of 195) and FourRooms (6 of 1562).
SPARSE_BELOW = 1 / 8


@dataclass(frozen=True)
class Observations:
    """Rows of observations, one list for each member; `observations` below builds it.

    Either `dense`, or `reference`, `columns` and `values`: row = reference, plus values at columns. A row
    that differs in fewer than m features is filled up with values of 0.
    """

    dense: Tensor | None = None  # [S, U, F]
    reference: Tensor | None = None  # [S, 1, F]
    columns: Tensor | None = None  # [S, U, m] int64
    values: Tensor | None = None  # [S, U, m]

    @property
    def rows(self) -> Tensor:
        """The rows themselves: [S, U, F]."""
        if self.dense is not None:
            return self.dense
        rows = self.reference.repeat(1, self.columns.shape[1], 1)
        return rows.scatter_add_(2, self.columns, self.values)

    @property
    def shape(self) -> tuple[int, int, int]:
        """S, U, F."""
        if self.dense is not None:
            return tuple(self.dense.shape)
        return (*self.columns.shape[:2], self.reference.shape[-1])

    def select(self, positions: Tensor) -> "Observations":
        """The rows at positions [S, R], as a list of R rows."""
        if self.dense is not None:
            return Observations(take(self.dense, positions))
        return Observations(None, self.reference, take(self.columns, positions), take(self.values, positions))

    def through(self, layer: EnsembleLinear) -> Tensor:
        """A layer's output of every row: [S, U, h]."""
        if self.dense is not None:
            return layer(self.dense)
        different = [
            torch.sparse.mm(matrix, weight)
            for matrix, weight in zip(self._differences(), layer.weight.unbind(), strict=True)
        ]
        return torch.stack(different) + torch.baddbmm(layer.bias, self.reference, layer.weight)

    def squared_error(self, hidden: Tensor, layer: EnsembleLinear) -> Tensor:
        """Mean over rows and features of |layer(hidden) - row|^2, hidden [S, U, h]: [S].

        The sparse form subtracts numbers of the size of |row|^2: its rounding error is that of float32 times
        the variance of the observations, 1, instead of times the error.
        """
        if self.dense is not None:
            return (layer(hidden) - self.dense).square().mean((1, 2))
        ones = hidden.new_ones(*hidden.shape[:2], 1)
        weight = torch.cat([layer.weight, layer.bias - self.reference], 1)  # [S, h + 1, F]
        return _SquaredError.apply(torch.cat([hidden, ones], 2), weight, self._differences(), self.values)

    def _differences(self) -> list[Tensor]:
        """Rows minus the reference, a sparse matrix [U, F] for each member."""
        rows, width = self.columns.shape[1:]
        row = torch.arange(rows, device=self.columns.device).repeat_interleave(width)
        return [
            torch.sparse_coo_tensor(
                torch.stack([row, columns.flatten()]),
                values.flatten(),
                (rows, self.reference.shape[-1]),
                check_invariants=False,
                is_coalesced=True,  # true of what sums rows: no product below needs the columns in order
            )
            for columns, values in zip(self.columns, self.values, strict=True)
        ]


class _SquaredError(torch.autograd.Function):
    """Mean of |h W - x|^2 over rows and features, h [S, R, k], W [S, k, F], x [R, F] sparse: [S].

    sum |h W - x|^2 = <h'h, WW'> - 2 sum_r h_r . (x_r W') + sum x^2, where ' transposes. Its gradients are
    2 (h WW' - x W') with respect to h and 2 (h'h W - h'x) with respect to W.
    """

    @staticmethod
    def forward(ctx, hidden: Tensor, weight: Tensor, rows: list[Tensor], values: Tensor) -> Tensor:
        among_hidden = hidden.mT @ hidden  # [S, k, k]
        among_weights = weight @ weight.mT
        projected = torch.stack([x @ w.T for x, w in zip(rows, weight, strict=True)])  # [S, R, k]
        from_hidden = hidden @ among_weights - projected
        ctx.save_for_backward(hidden, weight, among_hidden, from_hidden)
        ctx.rows, ctx.count = rows, hidden.shape[1] * weight.shape[-1]
        total = (hidden * (from_hidden - projected)).sum((1, 2)) + values.square().sum((1, 2))
        return total / ctx.count

    @staticmethod
    @once_differentiable
    def backward(ctx, gradient: Tensor) -> tuple[Tensor, Tensor, None, None]:
        hidden, weight, among_hidden, from_hidden = ctx.saved_tensors
        scale = (2 / ctx.count * gradient)[:, None, None]
        crossed = torch.stack([x.T @ h for x, h in zip(ctx.rows, hidden, strict=True)])  # [S, F, k]
        return scale * from_hidden, scale * (among_hidden @ weight - crossed.mT), None, None


def observations(table: Tensor) -> Observations:
    """Observations of all states [S, N, F], sparse where that is faster: on the cpu, where few differ.

    On other devices dense products cost little, and sparse ones would wait for counts.

    The reference has of each feature the median over states, where a feature is one-hot its commoner value.
    """
    if table.device.type != "cpu":
        return Observations(table)
    middle = table[0].median(0).indices  # [F], states: the members' scales differ, but not their order
    reference = table[:, middle, torch.arange(table.shape[-1], device=table.device)][:, None]
    different = torch.zeros(table.shape[1:], dtype=torch.uint8, device=table.device)
    for rows, typical in zip(table, reference, strict=True):
        different |= rows != typical
    width = int(different.sum(1).max())
    if width >= SPARSE_BELOW * table.shape[-1]:
        return Observations(table)
    columns = different.topk(width, 1).indices.expand(len(table), -1, -1)
    values = table.gather(2, columns) - reference.expand(-1, table.shape[1], -1).gather(2, columns)
    return Observations(None, reference, columns, values)


def take(values: Tensor, positions: Tensor) -> Tensor:
    """values [S, U, D] at positions [S, ...] -> [S, ..., D]."""
    members, rows, width = values.shape
    first = torch.arange(members, device=positions.device) * rows
    flat = (positions + first.view(-1, *[1] * (positions.dim() - 1))).flatten()
    return values.flatten(0, 1).index_select(0, flat).view(*positions.shape, width)
