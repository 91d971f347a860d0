"""A learned vector for each puzzle, which becomes the prefix before its cells.

Shapes: S members (seeds), B puzzles, P prefix positions, D width.
"""

import torch
from torch import Tensor, nn


class PuzzleTable(nn.Module):
    """S tables of `count` puzzle vectors, zero at the start: identifiers [S, B] -> prefix [S, B, P, D].

    A batch meets few of the rows, so they are no parameters: the rows of the last batch are a leaf of the
    graph, and `update` moves those alone, by the sign of their gradient. Adam does much the same where
    gradients are as rare (HRM's reference implementation).
    """

    def __init__(self, members: int, count: int, prefix: int, width: int):
        super().__init__()
        self.prefix = prefix
        self.register_buffer("rows", torch.zeros(members, count, prefix * width))
        self._last: tuple[Tensor, Tensor] | None = None  # identifiers and rows of the last batch

    def forward(self, identifiers: Tensor) -> Tensor:
        own = torch.arange(len(self.rows), device=identifiers.device)[:, None]
        found = self.rows[own, identifiers]  # [S, B, P D]
        if torch.is_grad_enabled():
            found.requires_grad_()
            self._last = identifiers, found
        return found.unflatten(-1, (self.prefix, -1))

    @torch.no_grad()
    def update(self, learning_rate: float, weight_decay: float = 0.0) -> None:
        """One step of sign descent on the last batch's rows, from the gradients that they hold.

        A row that the batch holds several times moves once, by the sign of the gradients' sum.
        """
        if self._last is None or self._last[1].grad is None:
            return
        identifiers, found = self._last
        for rows, met, gradient in zip(self.rows, identifiers, found.grad, strict=True):
            distinct, place = met.unique(return_inverse=True)
            total = torch.zeros_like(rows[distinct]).index_add_(0, place, gradient)
            rows[distinct] = (1 - learning_rate * weight_decay) * rows[
                distinct
            ] - learning_rate * total.sign()
        self._last = None
