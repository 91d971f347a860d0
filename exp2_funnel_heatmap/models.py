"""Energy models: the SIREN that learns every ripple, and the networks that do not.

Shapes: S members, B points, d coordinates.
"""

import copy
import itertools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from common.run.random import generators
from common.training.ensembles import EnsembleLinear, EnsembleMLP
from exp2_funnel_heatmap.dataset import Task


class Siren(nn.Module):
    """sin(omega0 (W a + b)) layers with a linear end (Sitzmann et al., 2020, equations 5 and 3.2)."""

    def __init__(self, seeds: Sequence[int], sizes: Sequence[int], stream: str, omega0: float):
        super().__init__()
        draws = generators(seeds, stream)
        pairs = list(itertools.pairwise(sizes))
        self.layers = nn.ModuleList(EnsembleLinear(n_in, n_out, draws) for n_in, n_out in pairs)
        self.omega0 = omega0
        with torch.no_grad():  # from uniform in +-1/sqrt(n) to the paper's +-1/n and +-sqrt(6/n)/omega0
            self.layers[0].weight.mul_(1 / math.sqrt(sizes[0]))
            for layer in self.layers[1:]:
                layer.weight.mul_(math.sqrt(6) / omega0)

    def forward(self, inputs: Tensor) -> Tensor:
        for layer in self.layers[:-1]:
            angles = torch.baddbmm(layer.bias, inputs, layer.weight, beta=self.omega0, alpha=self.omega0)
            inputs = torch.sin(angles)
        return _scalar(self.layers[-1], inputs)


def _scalar(layer: EnsembleLinear, inputs: Tensor) -> Tensor:
    """A layer of one output, [S, B, n] -> [S, B, 1]: a product of that width is several times slower."""
    return (inputs * layer.weight.mT).sum(-1, keepdim=True) + layer.bias


class Perceptron(EnsembleMLP):
    """An EnsembleMLP with one output."""

    def forward(self, inputs: Tensor) -> Tensor:
        for layer in self.layers[:-1]:
            inputs = self.activation(layer(inputs))
        return _scalar(self.layers[-1], inputs)


class FourierMLP(nn.Module):
    """A SiLU network on cos and sin of fixed random projections (Tancik et al., 2020)."""

    def __init__(self, seeds: Sequence[int], sizes: Sequence[int], stream: str, frequency: float):
        """`frequency` is the projections' standard deviation [rad per unit]; sizes[1] of them."""
        super().__init__()
        draws = generators(seeds, f"{stream}/projections")
        projections = [frequency * torch.randn(sizes[0], sizes[1] // 2, generator=draw) for draw in draws]
        self.register_buffer("projections", torch.stack(projections))
        self.network = Perceptron(seeds, (2 * (sizes[1] // 2), *sizes[1:]), stream)

    def forward(self, inputs: Tensor) -> Tensor:
        angles = inputs @ self.projections
        return self.network(torch.cat((torch.cos(angles), torch.sin(angles)), -1))


Architecture = str  # a key of ARCHITECTURES

ARCHITECTURES: dict[Architecture, Callable[..., nn.Module]] = {
    "siren": Siren,
    "fourier": FourierMLP,
    "silu": lambda seeds, sizes, stream, _: Perceptron(seeds, sizes, stream, F.silu),
    "relu": lambda seeds, sizes, stream, _: Perceptron(seeds, sizes, stream, F.relu),
}


class EnergyModel(nn.Module):
    """S learned energies mean + std * network(a): [S, B, d] -> [S, B]."""

    def __init__(self, network: nn.Module, mean: Tensor, std: Tensor):
        """`mean` and `std` [S, 1] standardise the training energies."""
        super().__init__()
        self.network = network
        self.register_buffer("mean", mean)
        self.register_buffer("std", std)

    def standardised(self, points: Tensor) -> Tensor:
        """The network's own output, on which losses act: [S, B, d] -> [S, B]."""
        return self.network(points).squeeze(-1)

    def forward(self, points: Tensor) -> Tensor:
        return self.mean + self.std * self.standardised(points)

    def member(self, index: int) -> Callable[[Tensor], Tensor]:
        """One member's energy alone, a copy: [1, B, d] -> [1, B]."""
        single = copy.deepcopy(self).requires_grad_(False)
        for value in (*single.parameters(), *single.buffers()):
            value.data = value.data[index : index + 1]
        return single

    def gradient(self, points: Tensor) -> Tensor:
        """dE/da: [S, B, d] -> [S, B, d]."""
        with torch.enable_grad():
            points = points.detach().requires_grad_()
            return torch.autograd.grad(self(points).sum(), points)[0]


@dataclass(frozen=True)
class Variant:
    """What distinguishes one training from its siblings."""

    penalty: str = "none"  # none, hf_invariance, second_difference, gradient or noised_inputs
    weight: float = 0.0  # lambda
    sigma: float = 0.0  # standard deviation of the perturbation [length]
    architecture: Architecture = "siren"


def make_model(
    variant: Variant, seeds: Sequence[int], task: Task, hidden_dim: int, omega0: float
) -> EnergyModel:
    """An ensemble of two hidden layers; variants of one architecture start from the same weights."""
    sizes = (task.dimension, hidden_dim, hidden_dim, 1)
    network = ARCHITECTURES[variant.architecture](seeds, sizes, f"{task.name}/{variant.architecture}", omega0)
    return EnergyModel(network, task.mean.float(), task.std.float())
