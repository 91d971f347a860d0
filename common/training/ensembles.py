"""Multi-layer perceptrons whose members, one for each seed, train side by side in one batched product.

Shapes: S members (seeds), ... batch dimensions (at least one), then features.
"""

import itertools
import math
from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from common.run.random import generator


class EnsembleLinear(nn.Module):
    """S independent affine maps: [S, ..., in] -> [S, ..., out].

    Member i is initialised as torch.nn.Linear would be (uniform in +-1/sqrt(in)) from seed i alone, so
    a member does not depend on which other seeds it is trained with.
    """

    def __init__(self, in_features: int, out_features: int, generators: Sequence[torch.Generator]):
        super().__init__()
        bound = 1.0 / math.sqrt(in_features)
        draws = [
            (2 * torch.rand(in_features + 1, out_features, generator=member) - 1) * bound
            for member in generators
        ]
        self.weight = nn.Parameter(torch.stack([draw[:-1] for draw in draws]))  # [S, in, out]
        self.bias = nn.Parameter(torch.stack([draw[-1:] for draw in draws]))  # [S, 1, out]

    def forward(self, inputs: Tensor) -> Tensor:
        flat = inputs.flatten(1, -2)  # [S, B, in]
        return torch.baddbmm(self.bias, flat, self.weight).view(*inputs.shape[:-1], -1)


class EnsembleMLP(nn.Module):
    """S independent perceptrons with layer widths `sizes`: [S, ..., sizes[0]] -> [S, ..., sizes[-1]]."""

    def __init__(
        self,
        seeds: Sequence[int],
        sizes: Sequence[int],
        stream: str,
        activation: Callable[[Tensor], Tensor] = F.silu,
    ):
        """`stream` names the network, so that two networks of one seed start differently."""
        super().__init__()
        generators = [generator(seed, stream) for seed in seeds]
        self.layers = nn.ModuleList(
            EnsembleLinear(n_in, n_out, generators) for n_in, n_out in itertools.pairwise(sizes)
        )
        self.activation = activation

    def forward(self, inputs: Tensor) -> Tensor:
        for layer in self.layers[:-1]:
            inputs = self.activation(layer(inputs))
        return self.layers[-1](inputs)


def count_parameters(module: nn.Module) -> int:
    """Parameters of ONE member of an ensemble module."""
    return sum(parameter[0].numel() for parameter in module.parameters())
