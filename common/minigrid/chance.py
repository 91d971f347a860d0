"""The random generators that a step of an environment may draw from: has it drawn, and does that matter?"""

import random
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import gymnasium
import numpy as np
import torch


@dataclass(frozen=True)
class _Source:
    """One generator, and a twin of it: as long as nobody else draws from the one, both draw the same."""

    read: Callable[[], Any]
    write: Callable[[Any], None]
    reseed: Callable[[int], None]
    draw: Callable[[], Any]
    twin_write: Callable[[Any], None]
    twin_draw: Callable[[], Any]


class Chance:
    """The global generators of Python, numpy and torch, and those of one environment.

    Args:
        owned: what the environment holds, generators and spaces among it.
    """

    def __init__(self, owned: Iterable[Any]):
        things = [thing.np_random if isinstance(thing, gymnasium.Space) else thing for thing in owned]
        found = map(_source, (random, np.random, torch.default_generator, *things))
        self._sources = [source for source in found if source]
        self._start = [source.read() for source in self._sources]
        self.rewind()

    def rewind(self) -> None:
        """Every generator as it was at the beginning."""
        for source, start in zip(self._sources, self._start, strict=True):
            source.write(start)
            source.twin_write(start)

    def drawn(self) -> bool:
        """Whether anything was drawn since the last call, the beginning or the last rewind."""
        return any([source.draw() != source.twin_draw() for source in self._sources])

    def reseed(self, seed: int) -> None:
        """Other draws from here on; `rewind` before the next `drawn`."""
        for source in self._sources:
            source.reseed(seed)


def _source(thing: Any) -> _Source | None:
    if isinstance(thing, np.random.Generator):
        return _numpy_source(thing)
    if isinstance(thing, torch.Generator):
        return _torch_source(thing)
    if thing is np.random or isinstance(thing, np.random.RandomState):
        twin = np.random.RandomState()
        read, write, draw = thing.get_state, thing.set_state, thing.random_sample
        return _Source(read, write, thing.seed, draw, twin.set_state, twin.random_sample)
    if thing is random or (isinstance(thing, random.Random) and not isinstance(thing, random.SystemRandom)):
        twin = random.Random()
        return _Source(thing.getstate, thing.setstate, thing.seed, thing.random, twin.setstate, twin.random)
    return None


def _numpy_source(thing: np.random.Generator) -> _Source:
    source = thing.bit_generator
    twin = np.random.Generator(type(source)())

    def write(generator: np.random.Generator, state: dict[str, Any]) -> None:
        generator.bit_generator.state = state

    return _Source(
        read=lambda: source.state,
        write=lambda state: write(thing, state),
        reseed=lambda seed: write(thing, type(source)(seed).state),
        draw=thing.random,
        twin_write=lambda state: write(twin, state),
        twin_draw=twin.random,
    )


def _torch_source(thing: torch.Generator) -> _Source:
    twin = torch.Generator(thing.device)
    return _Source(
        read=thing.get_state,
        write=thing.set_state,
        reseed=thing.manual_seed,
        draw=lambda: thing.get_state().numpy().tobytes(),  # sooner than a draw
        twin_write=twin.set_state,
        twin_draw=lambda: twin.get_state().numpy().tobytes(),
    )
