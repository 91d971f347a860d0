"""S ordinary modules as one ensemble, where a module was not written as one.

Shapes: S members, ... whatever the module takes.
"""

import copy
from collections.abc import Sequence

import torch
from torch import Tensor, nn


class StackedModules(nn.Module):
    """Modules of one architecture whose parameters lead with S; all are evaluated in one batched call.

    For modules that keep no running statistics: what a forward pass writes into a buffer is lost.
    """

    def __init__(self, modules: Sequence[nn.Module]):
        """`modules`: S of them, each with the weights of its own seed."""
        super().__init__()
        parameters, buffers = torch.func.stack_module_state(list(modules))
        self.names = {kind: list(values) for kind, values in (("p", parameters), ("b", buffers))}
        for name, value in parameters.items():
            own = nn.Parameter(value.detach().clone(), requires_grad=value.requires_grad)
            self.register_parameter(self._own("p", name), own)
        for name, value in buffers.items():
            self.register_buffer(self._own("b", name), value.detach().clone())
        object.__setattr__(self, "skeleton", copy.deepcopy(modules[0]).to("meta"))  # no submodule: no weights

    def train(self, mode: bool = True) -> "StackedModules":
        """Training or evaluation mode, of the members as well."""
        self.skeleton.train(mode)
        return super().train(mode)

    @staticmethod
    def _own(kind: str, name: str) -> str:
        return f"{kind}_{name.replace('.', '__')}"

    def forward(self, *inputs: Tensor) -> Tensor:
        """Each member on its own slice: inputs [S, ...] -> outputs [S, ...]."""
        state = [
            {name: getattr(self, self._own(kind, name)) for name in self.names[kind]} for kind in ("p", "b")
        ]

        def one(parameters: dict, buffers: dict, *slices: Tensor) -> Tensor:
            return torch.func.functional_call(self.skeleton, (parameters, buffers), slices)

        return torch.func.vmap(one, randomness="different")(*state, *inputs)
