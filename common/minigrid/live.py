"""The live environment: how it is made and reset, which actions it has, and what it shows.

Shapes: N images, W width, H height, C cells of an image, F features.
"""

import contextlib
import copy
import io
import operator
from collections.abc import Callable
from enum import Enum
from functools import partial
from itertools import chain
from typing import Any, Literal, get_args

import gymnasium
import numpy as np
from gymnasium.envs.registration import EnvSpec
from gymnasium.wrappers import OrderEnforcing, PassiveEnvChecker, TimeLimit
from minigrid.core.actions import Actions
from minigrid.core.constants import COLOR_TO_IDX, OBJECT_TO_IDX
from minigrid.core.grid import Grid
from minigrid.minigrid_env import MiniGridEnv
from minigrid.wrappers import FullyObsWrapper, RGBImgObsWrapper

from .names import resolve_id
from .state import can_toggle, movable_objects

Observation = Literal["full", "partial", "rgb"]
Maker = Callable[[], gymnasium.Env]

# Features of a cell, one-hot: its object, its colour, its state (of a door; of the agent: the direction).
# These are MiniGrid's own; a table whose objects go beyond has more.
CELL_FEATURES = (11, 6, 4)
EMPTY_CELL = (OBJECT_TO_IDX["empty"], 0, 0)
AGENT_CELL = (OBJECT_TO_IDX["agent"], COLOR_TO_IDX["red"])


# ----------------------------------------------------------------------------------------------
# Making and resetting
# ----------------------------------------------------------------------------------------------


def maker(source: str | gymnasium.Env | Maker) -> Maker:
    """What makes a fresh environment: of a name, of an environment, or of a class or function itself.

    Raises:
        ValueError: unknown name; an environment that cannot be copied.
    """
    if isinstance(source, gymnasium.Env):
        try:
            return partial(copy.deepcopy, copy.deepcopy(source))
        except TypeError as error:
            raise ValueError(
                f"{type(source).__name__} cannot be copied ({error}); allowed: its class, or a function that"
                " makes it"
            ) from None
    return source if callable(source) else partial(_make_registered, resolve_id(source))


def _make_registered(env_id: str) -> gymnasium.Env:
    spec: EnvSpec = gymnasium.registry[env_id]  # given as a spec, older versions raise no warning
    return gymnasium.make(spec, disable_env_checker=True)


def make_live(make: Maker, observation: Observation, layout_seed: int) -> gymnasium.Env:
    """A fresh environment with the wrapper of its observation, reset to its layout.

    Raises:
        ValueError: it is no MiniGrid environment, has wrappers of its own, or needs a missing package.
    """
    try:
        made = make()
        core = getattr(made, "unwrapped", made)
        _check_live(made, core)
        reset(core, layout_seed)
    except (ImportError, gymnasium.error.DependencyNotInstalled) as error:
        name = make.args[0] if isinstance(make, partial) else make
        raise ValueError(f"{name} needs a package that requirements.txt does not have: {error}") from None
    if observation == "full":
        return FullyObsWrapper(core)
    return RGBImgObsWrapper(core) if observation == "rgb" else core


def _check_live(made: Any, core: Any) -> None:
    if not isinstance(core, MiniGridEnv):
        raise ValueError(f"{type(core).__name__} is no MiniGrid environment; allowed: minigrid's MiniGridEnv")
    if core.render_mode == "human":
        raise ValueError(f"{type(core).__name__} has render_mode = 'human': allowed: None, rgb_array")
    if not (isinstance(core.actions, type) and issubclass(core.actions, Enum)):
        raise ValueError(f"{type(core).__name__} has actions = {core.actions!r}: allowed: an Enum")
    while made is not core:
        if type(made) not in (OrderEnforcing, PassiveEnvChecker, TimeLimit):
            raise ValueError(
                f"{type(made).__name__} is around {type(core).__name__}: allowed: the environment without"
                " wrappers; the table makes its own observations"
            )
        made = made.env


def whole_seed(layout_seed: int) -> int:
    """The seed as Python's int; ValueError where it is none, or below 0."""
    try:
        seed = operator.index(layout_seed)
    except TypeError:
        seed = -1
    if seed < 0:
        raise ValueError(f"layout_seed = {layout_seed!r}: allowed: whole numbers >= 0")
    return seed


def check_observation(observation: str) -> None:
    """ValueError where there is no such kind of observation."""
    if observation not in get_args(Observation):
        raise ValueError(f"observation = {observation!r}: allowed: {', '.join(get_args(Observation))}")


def reset(env: gymnasium.Env, layout_seed: int) -> dict[str, Any]:
    """Reset to the layout; BabyAI prints while it draws missions, which is of no use here."""
    with contextlib.redirect_stdout(io.StringIO()):
        observation, _ = env.reset(seed=layout_seed)
    return observation


# ----------------------------------------------------------------------------------------------
# Steps without a view
# ----------------------------------------------------------------------------------------------


class _LateView(dict):
    """An observation that is made when somebody looks."""

    def __init__(self, core: MiniGridEnv):
        self._core = core

    def __missing__(self, key: str) -> Any:
        self.update(type(self._core).gen_obs(self._core))
        return dict(self)[key]


@contextlib.contextmanager
def without_views(core: MiniGridEnv):
    """Steps make no view unless somebody looks, which costs 20 times the step itself."""
    if type(core).gen_obs is MiniGridEnv.gen_obs:
        core.gen_obs = partial(_LateView, core)
    try:
        yield
    finally:
        vars(core).pop("gen_obs", None)


# ----------------------------------------------------------------------------------------------
# Actions
# ----------------------------------------------------------------------------------------------


def choose_actions(core: MiniGridEnv, names: Any, without: Any) -> tuple[str, ...]:
    """The actions of a table: `names`, or what the objects of the grid make possible; less `without`.

    Raises:
        ValueError: a name that the environment does not have, one given twice, or no action left.
    """
    allowed = [action.name for action in core.actions if action.value < core.action_space.n]
    known = [*allowed, *(action.name for action in Actions if action.name not in allowed)]
    if isinstance(without, str) or not set(without) <= set(known):
        raise ValueError(f"without = {_shown(without)}: allowed: a tuple, any of {', '.join(known)}")
    if names is None:
        names = [name for name in _possible_actions(core) if name in allowed]
    elif isinstance(names, str) or not names or len({*names}) < len(names) or not set(names) <= set(allowed):
        raise ValueError(
            f"actions = {_shown(names)}: allowed: at least one, each once, of {', '.join(allowed)}"
        )
    left = tuple(name for name in names if name not in without)
    if not left:
        raise ValueError(f"without = {_shown(without)} leaves no action: allowed: some of {', '.join(names)}")
    return left


def _shown(names: Any) -> str:
    return repr(names if isinstance(names, str) else tuple(names))


def _possible_actions(core: MiniGridEnv) -> list[str]:
    """left, right, forward, what the objects of the grid make possible, and an environment's own actions."""
    things = movable_objects(core)
    carry = any(thing.can_pickup() for thing in things)
    toggle = any(can_toggle(thing) for thing in things)
    own = [action.name for action in core.actions if action.name not in Actions.__members__]
    return ["left", "right", "forward", *["pickup", "drop"] * carry, *["toggle"] * toggle, *own]


# ----------------------------------------------------------------------------------------------
# Observations
# ----------------------------------------------------------------------------------------------


def image_of(env: gymnasium.Env) -> np.ndarray:
    """The image that the environment of `make_live` shows in its present state, as its `step` gives it."""
    core: MiniGridEnv = env.unwrapped
    if isinstance(env, FullyObsWrapper) and type(core.grid).encode is Grid.encode:
        image = _encode(core.grid)  # the wrapper's own takes 10 times as long in large grids
        image[tuple(core.agent_pos)] = (*AGENT_CELL, core.agent_dir)
        return image
    wrapped = isinstance(env, gymnasium.ObservationWrapper)  # it makes its image from the grid alone
    return (env.observation({}) if wrapped else type(core).gen_obs(core))["image"]


def _encode(grid: Grid) -> np.ndarray:  # [W, H, 3] uint8
    """Grid.encode without its loop over empty cells."""
    codes = [EMPTY_CELL if thing is None else thing.encode() for thing in grid.grid]
    cells = np.frombuffer(bytearray(chain.from_iterable(codes)), dtype=np.uint8)
    return cells.reshape(grid.height, grid.width, 3).transpose(1, 0, 2)


def carried_cell(core: MiniGridEnv) -> tuple[int, int, int]:
    """What the agent carries, encoded as a cell."""
    return core.carrying.encode() if core.carrying else EMPTY_CELL


def cells_of(observation: Observation, images: np.ndarray, carried: np.ndarray | None) -> np.ndarray:
    """The cells that are made one-hot: [N, W, H, 3], [N, 3] -> [N, C, 3].

    full: the whole grid (FullyObsWrapper); where things can be picked up one more cell shows what is
    carried, which FullyObsWrapper leaves out although MiniGrid's own view has it. partial: the agent's view.
    """
    cells = images.reshape(len(images), -1, 3)
    if observation == "full" and carried is not None:
        cells = np.concatenate([cells, carried[:, None].astype(np.uint8)], axis=1)
    return cells


def cell_features(cells: np.ndarray) -> tuple[int, int, int]:
    """How many objects, colours and states there are: MiniGrid's own numbers, or more where cells need it."""
    most = cells.reshape(-1, 3).max(0)
    return tuple(max(stock, int(found) + 1) for stock, found in zip(CELL_FEATURES, most, strict=True))


def one_hot(cells: np.ndarray, sizes: tuple[int, int, int]) -> np.ndarray:
    """Each cell's object, colour and state one-hot, side by side: [N, C, 3] -> [N, F] uint8."""
    features = np.zeros((*cells.shape[:2], sum(sizes)), dtype=np.uint8)
    offsets = np.cumsum((0, *sizes[:-1]))
    for row, row_cells in zip(features, cells, strict=True):
        np.put_along_axis(row, row_cells + offsets, 1, axis=1)
    return features.reshape(len(cells), -1)
