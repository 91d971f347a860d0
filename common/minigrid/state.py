"""Save, restore and identify the state of a live MiniGrid environment, on the SAME objects.

A copied object breaks tasks that compare by identity (KeyCorridor ends when the carried ball IS the
target), so objects are never copied: what a step may change is read from and written back to them.
"""

from typing import Any

import numpy as np
from minigrid.core.world_object import WorldObj
from minigrid.envs.babyai.core.verifier import Instr, ObjDesc
from minigrid.minigrid_env import MiniGridEnv

# Restored, but no part of a state's identity: the clock, and the position that an object remembers (the
# grid says where it is, and dropping it writes the memory anew).
BOOKKEEPING = frozenset({"step_count", "cur_pos"})
GENERATOR = frozenset({"_np_random", "_np_random_seed"})  # neither restored nor identifying

PLAIN = frozenset({int, float, bool, str, type(None)})

Snapshot = list[dict[str, Any]]


class StateKeeper:
    """The state of one environment after its reset: snapshots of it, and a key that tells states apart.

    Covered: every attribute of the environment, of its grid, of each object that can be picked up or
    toggled (also inside boxes and in the agent's hands), and of BabyAI's instructions, which remember
    what has been done. Contents of lists and arrays count; any other value counts by its identity.
    """

    def __init__(self, env: MiniGridEnv):
        self.env = env
        self._owners = [vars(owner) for owner in (env, env.grid, *movable_objects(env), *_instructions(env))]
        self._saved = [[name for name in owner if name not in GENERATOR] for owner in self._owners]
        self._lists = [
            [name for name, value in owner.items() if type(value) is list] for owner in self._owners
        ]
        self._identifying = [
            (owner, name)
            for owner, names in zip(self._owners, self._saved, strict=True)
            for name in names
            if name not in BOOKKEEPING and owner is not vars(env.grid)
        ]

    def save(self) -> Snapshot:
        """The attributes of every owner; lists are copied, objects are not."""
        return [
            {name: owner[name] for name in names} | {name: owner[name].copy() for name in lists}
            for owner, names, lists in zip(self._owners, self._saved, self._lists, strict=True)
        ]

    def restore(self, snapshot: Snapshot) -> None:
        """Write a snapshot back, with the clock set so that the next step is step 0.

        At step 0 MiniGrid's success reward 1 - .9 step / max_steps is 1, and nothing is truncated.
        """
        for owner, attributes, lists in zip(self._owners, snapshot, self._lists, strict=True):
            owner.update(attributes)
            owner.update((name, attributes[name].copy()) for name in lists)
        self.env.step_count = -1

    def key(self) -> tuple:
        """Equal for two states exactly if all that a step may depend on is equal. Valid in this process."""
        cells = map(id, self.env.grid.grid)
        values = [owner[name] for owner, name in self._identifying]
        return (*cells, *(value if type(value) in PLAIN else _freeze(value) for value in values))


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


def _instructions(env: MiniGridEnv) -> list[Instr | ObjDesc]:
    """BabyAI's mission, a tree of instructions with descriptions of objects; elsewhere nothing."""
    found = []
    waiting = [getattr(env, "instrs", None)]
    for part in waiting:  # grows while it is read
        if isinstance(part, (Instr, ObjDesc)):
            found.append(part)
            waiting.extend(vars(part).values())
    return found


def _freeze(value: Any) -> Any:
    """A hashable stand-in: plain values, contents of sequences and arrays, else the object's identity."""
    if type(value) in PLAIN:
        return value
    if isinstance(value, (list, tuple)):
        return tuple(map(_freeze, value))
    if isinstance(value, (np.ndarray, np.generic)):
        return _freeze(value.tolist())
    return id(value)
