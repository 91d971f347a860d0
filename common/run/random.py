"""Explicit random generators: one for each purpose of each seed."""

import hashlib
import random
from collections.abc import Sequence

import torch
from torch import Tensor


def generator(seed: int, stream: str) -> torch.Generator:
    """A CPU generator for one purpose of one seed: streams of different names are independent."""
    digest = hashlib.sha256(f"{seed}/{stream}".encode()).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest[:8], "big") >> 1)


def generators(seeds: Sequence[int], stream: str) -> list[torch.Generator]:
    """One generator a seed, for draws of an ensemble."""
    return [generator(seed, stream) for seed in seeds]


def normal_like(values: Tensor, draws: Sequence[torch.Generator]) -> Tensor:
    """Standard normal noise of a [S, ...] tensor's shape, each member's from its own generator."""
    noise = torch.stack([torch.randn(values.shape[1:], generator=draw) for draw in draws])
    return noise.to(values.device)


def seed_everything(seed: int) -> None:
    """Seed the global generators. Experiments draw from explicit ones; this covers a library's own draws."""
    random.seed(seed)
    torch.manual_seed(seed)
