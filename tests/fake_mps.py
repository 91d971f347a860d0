"""Apple's accelerator without an Apple: tensors that say they are on mps, have no float64 and mix with none.

`fake_mps` is a fixture. While it is active, `torch.device("mps")` is a place that tensors and modules can be
moved to. There a float64 tensor raises TypeError, and an operation together with a cpu tensor that has
dimensions raises RuntimeError, as on the real device.
"""

import pytest
import torch
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_leaves

MPS = torch.device("mps")


class FakeMps(torch.Tensor):
    """A cpu tensor that passes for one on mps."""

    mixes = False  # whether operations together with a cpu tensor are let through

    @classmethod
    def __torch_function__(cls, function, types, args=(), kwargs=None):
        if function == torch.Tensor.device.__get__:
            return MPS
        kwargs = {name: value for name, value in (kwargs or {}).items() if value != MPS}
        leaves = tree_leaves((args, kwargs))
        tensors = [value for value in leaves if isinstance(value, torch.Tensor)]
        moves = function in (
            torch.Tensor.to, torch.Tensor.cpu, torch.Tensor.copy_, torch._has_compatible_shallow_copy_type,
            torch._fused_adam_, torch._fused_adamw_,  # whose counters of steps torch keeps where it likes
        )  # fmt: skip
        if not (moves or cls.mixes) and any(type(value) is torch.Tensor and value.dim() for value in tensors):
            raise RuntimeError(f"{function.__name__}: expected all tensors on one device, found mps and cpu")
        found = super().__torch_function__(function, types, args, kwargs)
        for value in tree_leaves(found):
            if isinstance(value, FakeMps) and value.dtype == torch.float64:
                raise TypeError("Cannot convert a MPS Tensor to float64 dtype")
        return found

    def __deepcopy__(self, memo):
        copied = self.detach().clone()
        if isinstance(self, torch.nn.Parameter):
            copied = torch.nn.Parameter(copied, self.requires_grad)
        memo[id(self)] = copied
        return copied


class _Moves(TorchFunctionMode):
    """Takes what names the device mps: moves to it and from it, and tensors made there."""

    def __torch_function__(self, function, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        named = [value for value in (*args, *kwargs.values()) if _is_device(value)]
        if function.__name__ == "_parse_to":  # what Module.to makes of its arguments
            return function(*args, **kwargs)
        if function is torch.Tensor.cpu:
            return _plain(function(*args, **kwargs))
        if not named:
            like = args[1] if function is torch.Tensor.to and len(args) > 1 else None
            if isinstance(like, FakeMps):  # tensor.to(other)
                return _moved(args[0].to(like.dtype))
            if isinstance(like, torch.Tensor):
                return _plain(function(*args, **kwargs))
            return function(*args, **kwargs)
        cpu = torch.device("cpu")
        args = tuple(cpu if _is_device(value) else value for value in args)
        kwargs = {name: cpu if _is_device(value) else value for name, value in kwargs.items()}
        found = function(*args, **kwargs)
        if not isinstance(found, torch.Tensor):
            return found
        return _moved(found) if torch.device(named[0]).type == "mps" else _plain(found)


def _is_device(value):
    return isinstance(value, torch.device) or (isinstance(value, str) and value in ("mps", "cpu"))


def _moved(tensor):
    """On mps, where no float64 may be."""
    if tensor.dtype == torch.float64:
        raise TypeError(
            "Cannot convert a MPS Tensor to float64 dtype as the MPS framework doesn't support it"
        )
    return tensor.as_subclass(FakeMps)


def _plain(tensor):
    """On the cpu."""
    return tensor.as_subclass(torch.Tensor)


@pytest.fixture
def fake_mps():
    """The device, usable within the test."""
    before = torch.__future__.get_overwrite_module_params_on_conversion()
    torch.__future__.set_overwrite_module_params_on_conversion(True)
    with _Moves():
        yield MPS
    torch.__future__.set_overwrite_module_params_on_conversion(before)


@pytest.fixture
def fake_mps_that_mixes(fake_mps, monkeypatch):
    """The same, for code with autograd functions of its own, inside which torch hands out plain tensors."""
    monkeypatch.setattr(FakeMps, "mixes", True)
    return fake_mps
