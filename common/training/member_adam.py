"""Adam on an ensemble, member by member: none is rounded as its neighbours' number would have it.

Shapes: S members, which every parameter leads with.
"""

from collections.abc import Callable

import torch
from torch import nn


class MemberAdam(torch.optim.Adam):
    """torch.optim.Adam, fused, on each member's slice of the parameters.

    The fused kernel takes a tensor's last few numbers one by one and the others in vectors, which round
    differently; which numbers are last depends on S. On slices a member is the same to the bit in any
    company.
    """

    def __init__(self, module: nn.Module, members: int, learning_rate: float):
        """`module`: its parameters are [members, ...]."""
        self.whole = list(module.parameters())
        self.slices = [
            [nn.Parameter(parameter.data[member]) for member in range(members)] for parameter in self.whole
        ]
        every = [own for slices in self.slices for own in slices]
        super().__init__(every, lr=learning_rate, fused=True)

    def step(self, closure: Callable | None = None) -> None:
        """One step from the whole parameters' gradients."""
        for parameter, slices in zip(self.whole, self.slices, strict=True):
            for member, own in enumerate(slices):
                own.grad = None if parameter.grad is None else parameter.grad[member]
        super().step(closure)
        torch.autograd.graph.increment_version(self.whole)  # which slices do not

    def zero_grad(self, set_to_none: bool = True) -> None:
        """Forget the whole parameters' gradients and the slices'."""
        super().zero_grad(set_to_none)
        for parameter in self.whole:
            parameter.grad = None
