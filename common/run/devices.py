"""Where a run computes: devices, and float64 beside them."""

from typing import TypeVar

import torch
from torch import Tensor, nn

from common.run.command_line import ConfigError

Movable = TypeVar("Movable", Tensor, nn.Module)


def resolve_device(name: str) -> torch.device:
    """The torch device for 'auto' (cuda, then mps, then cpu), 'cpu', 'cuda' or 'mps'.

    Raises:
        ConfigError: the named device is not available on this machine.
    """
    available = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available(), "cpu": True}
    if name == "auto":
        name = next(device for device, present in available.items() if present)
    if not available.get(name, False):
        present = ", ".join(device for device, there in available.items() if there)
        raise ConfigError(f"device (--device) = {name!r}: not available here, allowed: auto, {present}")
    return torch.device(name)


def measurement_device(device: torch.device) -> torch.device:
    """Where float64 measurements run: the device itself, or the cpu where it has no float64 (mps)."""
    return torch.device("cpu") if device.type == "mps" else device


def to_float64(value: Movable, device: torch.device) -> Movable:
    """A tensor or module in float64 on the device: moved first, because mps can hold no float64."""
    return value.to(device).to(torch.float64)
