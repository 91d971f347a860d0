"""Save, restore and tell apart the states of a live MiniGrid environment, on the SAME objects.

A copied object breaks tasks that compare by identity (KeyCorridor ends when the carried ball IS the
target), so objects are never copied: what a step may change is read from and written back to them.

Nothing here knows which attributes a game changes. Every object and container that the environment reaches
is watched, and what a step has changed is from then on part of each state.
"""

import logging
import random
import types
from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from enum import Enum
from functools import partial
from itertools import compress
from operator import is_not
from pathlib import PurePath
from typing import Any

import gymnasium
import numpy as np
import torch
from gymnasium.envs.registration import EnvSpec
from minigrid.core.world_object import WorldObj
from minigrid.minigrid_env import MiniGridEnv

# Restored, but no part of a state's identity: the clock, and the position that an object remembers (the
# grid says where it is, and dropping it writes the memory anew).
BOOKKEEPING = frozenset({"step_count", "cur_pos"})

PLAIN = frozenset({int, float, bool, complex, str, bytes, type(None), np.int64, np.float64, np.bool_})
MISSING = "no such attribute"
SEQUENCES = (list, tuple, deque)
SETS = (set, frozenset)
CONTAINERS = (*SEQUENCES, *SETS, dict, np.ndarray)
GENERATORS = (np.random.Generator, np.random.RandomState, random.Random, torch.Generator)

# What has no state that a step depends on (of generators: see chance.py); compared by identity.
CONSTANTS = (
    type, Enum, range, slice, np.dtype, EnvSpec, gymnasium.Space, logging.Logger, partial, PurePath,
    types.FunctionType, types.BuiltinFunctionType, types.MethodType, types.ModuleType, *GENERATORS,
)  # fmt: skip

STATELESS = (*CONSTANTS, np.generic)

Node = tuple[Any, Any]  # something that can change in place, and a shallow copy of what it held
Snapshot = list[list[Node]]  # by owner


@dataclass(frozen=True, eq=False)
class Owner:
    """One object with attributes, as the reset left it."""

    attributes: dict[str, Any]  # live
    names: list[str]
    nodes: list[Node]  # the attributes, and every container in them at each depth
    contained: list[Node]  # the containers alone
    containers: frozenset[str]  # names of the attributes that hold one
    frozen: dict[str, Any]  # hashable stand-ins of the attributes


class StateKeeper:
    """The states of one environment after its reset: snapshots of them, and a key that tells them apart.

    Objects that were there at the reset count by their identity; containers, and objects that a step has
    made, by what they hold.

    Raises:
        ValueError: the environment holds something whose state cannot be read and written back.
    """

    def __init__(self, env: MiniGridEnv):
        self.env = env
        things, self.constants = _reachable(env)
        self._numbers = {id(thing): number for number, thing in enumerate(things)} | {id(None): -1}
        self._things = things  # kept alive: an id names one object while it lives
        self._kept: dict[int, Any] = {}
        self._moved: list[Owner] = []  # changed by some step, in the order in which that was noticed
        self._watch([self._describe(vars(thing)) for thing in things])

    def save(self) -> Snapshot:
        """What the changing objects hold, and whatever a step has put into them."""
        return [list(self._nodes(owner.attributes)) for owner in self._moved]

    def restore(self, snapshot: Snapshot) -> None:
        """Write a snapshot back, with the clock set so that the next step is step 0.

        At step 0 MiniGrid's success reward 1 - .9 step / max_steps is 1, and nothing is truncated.
        """
        for nodes in snapshot:
            for target, content in nodes:
                _write(target, content)
        for owner in self._moved[len(snapshot) :]:  # seen to change after the snapshot was taken
            for target, content in owner.nodes:
                _write(target, content)
        self.env.step_count = -1

    def notice(self) -> bool:
        """Whether the last step was the first to change some object, which then is part of every state."""
        if _equal(self._now, self._then) and self._bytes == [array.tobytes() for array in self._arrays]:
            return False
        changed = [owner for owner in self._still if _has_changed(owner.nodes)]
        self._moved += changed
        self._watch([owner for owner in self._still if owner not in changed])
        return True

    def key(self) -> tuple:
        """What differs from the reset: equal for two states exactly if all that a step may depend on is."""
        made: dict[int, int] = {}
        parts = []
        for number, owner in enumerate(self._moved):
            if found := self._differences(owner, made):
                parts.append((number, found))
        return tuple(parts)

    def _watch(self, owners: list[Owner]) -> None:
        """Lists of what no step has changed so far, to be compared in one go."""
        self._still = owners
        nodes = [node for owner in owners for node in owner.nodes]
        plain = [node for node in nodes if not isinstance(node[0], np.ndarray)]
        self._now, self._then = [target for target, _ in plain], [content for _, content in plain]
        self._arrays = [target for target, _ in nodes if isinstance(target, np.ndarray)]
        self._bytes = [array.tobytes() for array in self._arrays]

    def _describe(self, attributes: dict[str, Any]) -> Owner:
        containers = frozenset(name for name, value in attributes.items() if isinstance(value, CONTAINERS))
        frozen = {name: self._freeze(value, {}) for name, value in attributes.items()}
        nodes = list(self._nodes(attributes))
        return Owner(attributes, [*attributes], nodes, nodes[1:], containers, frozen)

    def _differences(self, owner: Owner, made: dict[int, int]) -> frozenset:
        """(name, stand-in) of the attributes that are not as the reset left them."""
        attributes, reset = owner.attributes, owner.nodes[0][1]
        if [*attributes] == owner.names:  # nearly always; then without a loop
            names = [*compress(owner.names, map(is_not, attributes.values(), reset.values()))]
            found = []
        else:
            names = [name for name, value in attributes.items() if value is not reset.get(name, MISSING)]
            found = [(name, MISSING) for name in reset.keys() - attributes.keys()]
        if owner.contained and _has_changed(owner.contained):
            names += owner.containers.intersection(attributes).difference(names)
        for name in names:
            if name not in BOOKKEEPING:
                stand_in = self._freeze(attributes[name], made)
                if stand_in != owner.frozen.get(name, MISSING):
                    found.append((name, stand_in))
        return frozenset(found)

    def _freeze(self, value: Any, made: dict[int, int]) -> Any:
        """A hashable stand-in of a value; `made` numbers the objects that a step has made."""
        kind = type(value)
        if kind in PLAIN or (kind is tuple and PLAIN.issuperset(map(type, value))):
            return value
        if isinstance(value, np.generic):
            return value.item()
        if isinstance(value, CONTAINERS):
            return self._freeze_container(value, made)
        number = self._numbers.get(id(value), made.get(id(value)))
        if number is not None:
            return "object", number
        if isinstance(value, CONSTANTS):
            self._kept[id(value)] = value  # its id names it while it lives
            return "constant", id(value)
        _require_attributes(value, self.env)
        made[id(value)] = len(self._things) + len(made)
        names = sorted(vars(value).keys() - BOOKKEEPING)
        return type(value), tuple([(name, self._freeze(vars(value)[name], made)) for name in names])

    def _freeze_container(self, value: Any, made: dict[int, int]) -> Any:
        if isinstance(value, list):
            numbers = tuple(map(self._numbers.get, map(id, value)))
            if None not in numbers:  # a grid: objects of the reset and empty cells
                return "objects", numbers
        if isinstance(value, np.ndarray):
            if value.ndim > 1 and value.dtype != object:
                return value.shape, value.dtype.str, value.tobytes()
            value = value.tolist()  # a position may be an array once and a tuple later
        if isinstance(value, dict):
            return frozenset([(self._freeze(k, made), self._freeze(v, made)) for k, v in value.items()])
        if isinstance(value, SETS):
            return frozenset([self._freeze(item, made) for item in value])
        if isinstance(value, SEQUENCES):
            return tuple([self._freeze(item, made) for item in value])
        return self._freeze(value, made)  # of an array without axes

    def _nodes(self, attributes: dict[str, Any]) -> Iterator[Node]:
        """An object's attributes and the containers in them; objects that a step has made count as such."""
        seen, waiting = set(), deque([attributes])
        while waiting:
            value = waiting.popleft()
            if id(value) in seen:
                continue
            seen.add(id(value))
            if isinstance(value, np.ndarray) and not value.flags.writeable:
                continue
            if not isinstance(value, (tuple, frozenset)):
                yield value, value.copy()
            if isinstance(value, list) and None not in map(self._numbers.get, map(id, value)):
                continue  # a grid: objects of the reset and empty cells
            for item in _items(value):
                if type(item) in PLAIN or id(item) in self._numbers:
                    continue
                if isinstance(item, CONTAINERS):
                    waiting.append(item)
                elif not isinstance(item, STATELESS):
                    waiting.append(vars(item))


def _reachable(env: MiniGridEnv) -> tuple[list[Any], list[Any]]:
    """Every object with attributes that the environment reaches, itself first; and the constants."""
    objects, constants, seen, waiting = [], [], set(), deque([env])
    while waiting:
        value = waiting.popleft()
        if type(value) in PLAIN or isinstance(value, np.generic) or id(value) in seen:
            continue
        seen.add(id(value))
        if isinstance(value, CONTAINERS):
            waiting.extend(_items(value))
        elif isinstance(value, CONSTANTS):
            constants.append(value)
        else:
            _require_attributes(value, env)
            objects.append(value)
            waiting.extend(vars(value).values())
    return objects, constants


def _items(container: Any) -> Iterable[Any]:
    """What a container holds."""
    if isinstance(container, dict):
        return [*container.keys(), *container.values()]
    if isinstance(container, np.ndarray):
        return container.flat if container.dtype == object else ()
    return container


def _require_attributes(thing: Any, env: MiniGridEnv) -> None:
    """Raise ValueError for an object that holds more than its attributes."""
    kind = type(thing)
    pickled = kind.__reduce_ex__ is object.__reduce_ex__ and kind.__reduce__ is object.__reduce__
    plain = pickled or issubclass(kind, types.SimpleNamespace)  # no state beside its attributes
    slots = any(vars(base).get("__slots__") for base in kind.__mro__)
    if not hasattr(thing, "__dict__") or not plain or slots:
        raise ValueError(
            f"{type(env).__name__} holds a {kind.__module__}.{kind.__qualname__}, whose state cannot be read"
            " and written back; allowed: numbers, strings, lists, tuples, dicts, sets, deques, arrays, and"
            " objects with attributes of these kinds"
        )


def _write(target: Any, content: Any) -> None:
    """Make a container hold again what its shallow copy does."""
    if type(target) is dict:
        target.update(content)
        for name in target.keys() - content.keys() if len(target) > len(content) else ():
            del target[name]
    elif isinstance(target, list):
        target[:] = content
    elif isinstance(target, np.ndarray):
        np.copyto(target, content)
    elif isinstance(target, dict):  # whose update may add to what is there, as a Counter's
        target.clear()
        for name, value in content.items():
            target[name] = value
    else:
        target.clear()
        target.extend(content) if isinstance(target, deque) else target.update(content)


def _equal(now: Any, then: Any) -> bool:
    try:
        return bool(now == then)
    except (ValueError, TypeError, AttributeError):  # an array, say, where none was
        return False


def _has_changed(nodes: list[Node]) -> bool:
    for now, then in nodes:
        if isinstance(now, np.ndarray):
            if now.tobytes() != then.tobytes():
                return True
        elif not _equal(now, then):
            return True
    return False


def can_toggle(thing: WorldObj) -> bool:
    """Whether toggling does something to this kind of object (a door, a box)."""
    return type(thing).toggle is not WorldObj.toggle


def movable_objects(env: MiniGridEnv) -> list[WorldObj]:
    """The objects that can be picked up or toggled: in the grid, in boxes, in the agent's hands."""
    found = []
    for thing in (*env.grid.grid, env.carrying):
        while thing is not None:  # a box contains at most one object
            if thing.can_pickup() or can_toggle(thing):
                found.append(thing)
            thing = thing.contains
    return found
