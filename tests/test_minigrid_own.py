"""Tables of environments that somebody else wrote: how they hold their state, draw, reward and look."""

import collections
import copy
import os
import pickle
import random
from enum import IntEnum
from functools import partial
from types import SimpleNamespace

import gymnasium
import numpy as np
import pytest
import torch
from minigrid.core.constants import OBJECT_TO_IDX
from minigrid.core.grid import Grid
from minigrid.core.mission import MissionSpace
from minigrid.core.world_object import Ball, Floor, Goal, WorldObj
from minigrid.minigrid_env import MiniGridEnv
from minigrid.wrappers import FullyObsWrapper

from common.minigrid.table import resolve_id, tabulate, verify_against_live

MARKS = ((3, 1), (1, 3))


def mission():
    return "reach the goal"


class Room(MiniGridEnv):
    """The documentation's tutorial environment: an empty room with a goal in the corner."""

    def __init__(self, size=5, **options):
        options = {"max_steps": 100, "see_through_walls": True} | options
        super().__init__(MissionSpace(mission), grid_size=size, **options)

    def _gen_grid(self, width, height):
        self.grid = Grid(width, height)
        self.grid.wall_rect(0, 0, width, height)
        self.put_obj(Goal(), width - 2, height - 2)
        self.agent_pos, self.agent_dir, self.mission = (1, 1), 0, "reach the goal"
        self.furnish()

    def furnish(self):
        """What a subclass adds."""


def mismatches(world, steps=1000):
    counts = verify_against_live(world, steps, seed=1)
    return {kind: counts[kind] for kind in ("observation", "reward", "terminated")}


RIGHT = {"observation": 0, "reward": 0, "terminated": 0}


@pytest.fixture
def registered():
    """Register environments under ids of one's own, for one test."""
    ids = []

    def register(env_id, made):
        gymnasium.register(env_id, entry_point=lambda **_: made())
        ids.append(env_id)
        return env_id

    yield register
    for env_id in ids:
        del gymnasium.registry[env_id]


# ----------------------------------------------------------------------------------------------
# Where an environment keeps its state
# ----------------------------------------------------------------------------------------------


class Memory(SimpleNamespace):
    """An object of the user's own, which holds state for an environment."""


def _resort(env, cell, kind):
    env.seen = kind(sorted({*env.seen, cell}))


def _append_once(items, cell):
    if cell not in items:
        items.append(cell)
        ordered = sorted(items)
        items.clear()
        items.extend(ordered)


def _paint(env, cell, colour):
    env.grid.get(*cell).color = colour


def _new_floor(env, cell):
    env.grid.set(*cell, Floor("red"))  # another object on each visit


def _new_attribute(env, cell):
    setattr(env, f"seen_{cell[0]}", True)


def _lose_attribute(env, cell):
    vars(env).pop(f"missing_{cell[0]}", None)


def _count_floors(env, colour):
    return sum(getattr(env.grid.get(*cell), "color", None) == colour for cell in MARKS)


def _floors(env):
    for cell in MARKS:
        env.put_obj(Floor("blue"), *cell)


# name: (how it begins, how a cell is marked, how many are)
HOLDERS = {
    "tuple": (lambda: (), partial(_resort, kind=tuple), len),
    "new list": (lambda: [], partial(_resort, kind=list), len),
    "new deque": (lambda: collections.deque(), partial(_resort, kind=collections.deque), len),
    "frozenset": (frozenset, partial(_resort, kind=frozenset), len),
    "list": (list, lambda env, cell: _append_once(env.seen, cell), len),
    "deque": (collections.deque, lambda env, cell: _append_once(env.seen, cell), len),
    "set": (set, lambda env, cell: env.seen.add(cell), len),
    "dict": (dict, lambda env, cell: env.seen.update({cell: 1}), len),
    "counter": (collections.Counter, lambda env, cell: env.seen.update({cell} - env.seen.keys()), len),
    "defaultdict": (
        partial(collections.defaultdict, list),
        lambda env, cell: env.seen[cell].__setitem__(slice(None), [1]),
        len,
    ),
    "array": (lambda: np.zeros((5, 5), bool), lambda env, cell: env.seen.__setitem__(cell, True), np.sum),
    "flat array": (lambda: np.zeros(25), lambda env, cell: env.seen.__setitem__(cell[0], 1.0), np.sum),
    "new array": (
        lambda: np.zeros((5, 5), bool),
        lambda env, cell: setattr(
            env, "seen", env.seen | (np.arange(25).reshape(5, 5) == 5 * cell[0] + cell[1])
        ),
        np.sum,
    ),
    "object array": (
        lambda: np.array([[], {}, None], dtype=object),
        lambda env, cell: env.seen[1].update({cell: 1}),
        lambda seen: len(seen[1]),
    ),
    "nested list": (
        lambda: [[0] * 5 for _ in range(5)],
        lambda env, cell: env.seen[cell[0]].__setitem__(cell[1], 1),
        np.sum,
    ),
    "list in tuple in dict": (
        lambda: {"at": (0, [0] * 5)},
        lambda env, cell: env.seen["at"][1].__setitem__(cell[0], 1),
        lambda seen: sum(seen["at"][1]),
    ),
    "object": (
        lambda: Memory(first=None, cells=set()),
        lambda env, cell: env.seen.cells.add(cell),
        lambda seen: len(seen.cells),
    ),
    "object in a list": (
        lambda: [Memory(count=0), Memory(count=0)],
        lambda env, cell: setattr(env.seen[cell[0] // 2], "count", 1),
        lambda seen: sum(memory.count for memory in seen),
    ),
    "new object": (
        lambda: None,
        lambda env, cell: setattr(
            env, "seen", Memory(cells={cell, *getattr(env.seen, "cells", ())}, env=env)
        ),
        lambda seen: len(getattr(seen, "cells", ())),
    ),
}
# The same with the mark in the grid or among the attributes: (furnish, mark, count)
PLACES = {
    "colour of a floor": (_floors, partial(_paint, colour="red"), partial(_count_floors, colour="red")),
    "new floor": (_floors, _new_floor, partial(_count_floors, colour="red")),
    "attribute of a wall": (
        lambda env: None,
        lambda env, cell: setattr(env.grid.get(0, cell[0]), "mark", 1),
        lambda env: sum(getattr(env.grid.get(0, x), "mark", 0) for x, _ in MARKS),
    ),
    "new attribute": (
        lambda env: [vars(env).pop(f"seen_{x}", None) for x, _ in MARKS],
        _new_attribute,
        lambda env: sum(hasattr(env, f"seen_{x}") for x, _ in MARKS),
    ),
    "lost attribute": (
        lambda env: [setattr(env, f"missing_{x}", 1) for x, _ in MARKS],
        _lose_attribute,
        lambda env: sum(not hasattr(env, f"missing_{x}") for x, _ in MARKS),
    ),
}


class Marked(Room):
    """The goal opens after two cells were visited."""

    def __init__(self, begin, mark, count):
        self.begin, self.mark, self.count = begin, mark, count
        super().__init__()

    def furnish(self):
        self.begin(self)

    def step(self, action):
        observation, reward, terminated, truncated, info = super().step(action)
        cell = tuple(map(int, self.agent_pos))
        if cell in MARKS:
            self.mark(self, cell)
        if terminated and self.count(self) < 2:
            reward, terminated = 0.0, False
        return observation, reward, terminated, truncated, info


def held(begin, mark, count):
    def furnish(env):
        env.seen = begin()

    return partial(Marked, furnish, mark, lambda env: count(env.seen))


@pytest.fixture(scope="module")
def plainly_marked():
    """The table with the marks in a tuple, which nothing can change in place."""
    return tabulate(held(*HOLDERS["tuple"]))


@pytest.mark.parametrize("place", [*HOLDERS, *PLACES])
def test_state_counts_wherever_an_environment_keeps_it(place, plainly_marked):
    world = tabulate(held(*HOLDERS[place]) if place in HOLDERS else partial(Marked, *PLACES[place]))
    assert mismatches(world) == RIGHT
    assert world.num_states == plainly_marked.num_states == 126
    assert torch.equal(world.next_state, plainly_marked.next_state)
    assert torch.equal(world.reward, plainly_marked.reward)


class Parity(Room):
    """Every second action of an episode is turned round: after two actions all is as it was."""

    def furnish(self):
        self.switch = [{"odd": np.zeros(1, bool)}]

    def step(self, action):
        odd = self.switch[0]["odd"]
        odd ^= True
        return super().step(1 - action if odd[0] and action < 2 else action)


def test_what_one_action_changes_and_the_next_changes_back_is_noticed():
    world = tabulate(Parity)
    assert int((~world.terminal).sum()) == 2 * 32, "every pose with both states of the switch"
    assert mismatches(world) == RIGHT


class Aliased(Room):
    """One list has two names, and the object in the corner is the one that counts."""

    def furnish(self):
        self.rows = [[0], [0]]
        self.first = self.rows[0]
        self.targets = {Ball("red"), Ball("red")}
        self.target = next(iter(self.targets))
        self.put_obj(self.target, 2, 2)

    def step(self, action):
        self.first[0] = (self.first[0] + 1) % 3
        observation, reward, terminated, truncated, info = super().step(action)
        if self.rows[0][0] == 2 and self.carrying in self.targets:
            reward, terminated = float(self.carrying is self.target), True
        return observation, reward, terminated, truncated, info


def test_names_of_one_list_and_identity_of_objects_are_kept():
    world = tabulate(Aliased, without=("drop",))
    assert len(world.goal_states) > 0
    assert mismatches(world) == RIGHT


class Hiding(Room):
    """Holds one thing whose state nobody can read."""

    def __init__(self, thing):
        self.thing = thing
        super().__init__()


class Slotted:
    __slots__ = ("value",)


@pytest.mark.parametrize(
    "make",
    [lambda: iter([1, 2]), lambda: (i for i in "ab"), lambda: torch.zeros(2), Slotted, bytearray],
    ids=["iterator", "generator", "tensor", "slots", "bytearray"],
)
def test_what_cannot_be_read_and_written_back_is_refused(make):
    with pytest.raises(
        ValueError, match=r"Hiding holds a .*, whose state cannot be read .* allowed: numbers"
    ) as it:
        tabulate(lambda: Hiding(make()))
    assert "\n" not in str(it.value)


COUNTER = [0]


class Elsewhere(Room):
    """Keeps state where no attribute leads."""

    def step(self, action):
        COUNTER[0] += 1
        return super().step(2 if COUNTER[0] % 5 == 0 else action)


class Entropy(Room):
    """Draws from the operating system."""

    def step(self, action):
        return super().step(0 if os.urandom(1)[0] < 60 else action)


@pytest.mark.parametrize("kind", [Elsewhere, Entropy])
def test_the_check_of_each_table_finds_what_nothing_else_can(kind):
    with pytest.raises(ValueError, match=rf"{kind.__name__}: in 200 steps the table differs") as refusal:
        tabulate(kind)
    assert "\n" not in str(refusal.value)


# ----------------------------------------------------------------------------------------------
# Chance
# ----------------------------------------------------------------------------------------------

DRAWS = {
    "gymnasium's": lambda env: env.np_random.random(),
    "random": lambda env: random.random(),
    "numpy": lambda env: np.random.random(),  # noqa: NPY002
    "torch": lambda env: float(torch.rand(())),
    "numpy's, own": lambda env: env.own[0].random(),
    "numpy's old, own": lambda env: env.own[1].random_sample(),
    "random's, own": lambda env: env.own[2].random(),
    "torch's, own": lambda env: float(torch.rand((), generator=env.own[3])),
    "of a space": lambda env: env.action_space.sample() / 7,
}


class Drawing(Room):
    """Each step in the corner draws a number, with or without an effect."""

    def __init__(self, draw, effect):
        self.draw, self.effect = draw, effect
        super().__init__()

    def furnish(self):
        generators = np.random.default_rng(0), np.random.RandomState(0), random.Random(0)
        self.own = [*generators, torch.Generator().manual_seed(0)]

    def step(self, action):
        if tuple(self.agent_pos) == (3, 1) and self.draw(self) < 0.3 and self.effect:
            action = 0
        return super().step(action)


@pytest.mark.parametrize("draw", DRAWS)
def test_chance_from_any_generator_is_refused(draw):
    with pytest.raises(ValueError, match=r"Drawing is stochastic: .* different outcomes"):
        tabulate(lambda: Drawing(DRAWS[draw], effect=True))


@pytest.mark.parametrize("draw", DRAWS)
def test_draws_without_effect_are_let_pass(draw):
    assert tabulate(lambda: Drawing(DRAWS[draw], effect=False)).num_states == 34


def test_the_global_generators_are_left_alone():
    def draw_all():
        return [DRAWS[kind](None) for kind in ("random", "numpy", "torch")]

    before = random.getstate(), np.random.get_state(), torch.get_rng_state()  # noqa: NPY002
    undisturbed = draw_all()
    for restore, state in zip(
        (random.setstate, np.random.set_state, torch.set_rng_state), before, strict=True
    ):
        restore(state)
    tabulate("Empty-5x5")
    with pytest.raises(ValueError, match="stochastic"):
        tabulate(lambda: Drawing(DRAWS["random"], effect=True))
    tabulate(lambda: Drawing(DRAWS["gymnasium's"], effect=False))
    assert draw_all() == undisturbed


# ----------------------------------------------------------------------------------------------
# Rewards
# ----------------------------------------------------------------------------------------------


class Paying(Room):
    """A reward on top of MiniGrid's own."""

    def __init__(self, pay):
        self.pay = pay
        super().__init__()

    def step(self, action):
        observation, reward, terminated, truncated, info = super().step(action)
        return observation, self.pay(reward, terminated, self), terminated, truncated, info


@pytest.mark.parametrize(
    ("pay", "least", "most", "drift"),
    [
        (lambda reward, ended, env: reward, 0.0, 1.0, -0.9),
        (lambda reward, ended, env: 1.0 if ended else -0.01, -0.01, 1.0, 0.0),
        (lambda reward, ended, env: reward - 0.01, -0.01, 0.99, -0.9),
        (lambda reward, ended, env: reward - 2 * env.step_count / env.max_steps - 1, -1.0, 0.0, -2.9),
    ],
    ids=["MiniGrid's", "penalty", "penalty and MiniGrid's", "growing penalty"],
)
def test_rewards_of_any_size_are_tabulated_with_their_drift(pay, least, most, drift):
    world = tabulate(lambda: Paying(pay))
    assert mismatches(world) == RIGHT
    running = world.reward[~world.terminal]
    assert float(running.min()) == pytest.approx(least)
    assert float(running.max()) == pytest.approx(most)
    assert float(world.reward_drift.min()) == pytest.approx(drift)
    assert not world.reward[world.terminal].any()


def test_a_reward_that_depends_on_the_clock_in_another_way_is_refused():
    with pytest.raises(ValueError, match=r"differs from a fresh environment \(reward \d+\)"):
        tabulate(lambda: Paying(lambda reward, ended, env: -0.01 * (env.step_count % 3) - 1))


# ----------------------------------------------------------------------------------------------
# How an environment is handed over
# ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("env_id", "name"),
    [
        ("MiniGrid-Own-v0", "Own"),
        ("OwnEnv-v0", "OwnEnv"),
        ("mylab/MiniGrid-Own-v3", "mylab-MiniGrid-Own"),
        ("Unversioned", "Unversioned"),
    ],
)
def test_any_registered_id_will_do(registered, env_id, name):
    registered(env_id, Room)
    world = tabulate(env_id)
    assert (world.env_id, world.name, world.num_states) == (env_id, name, 34)
    env = gymnasium.make(env_id)
    assert tabulate(env).name == name


def test_an_environment_a_class_or_a_function_will_do():
    used = Room()
    used.reset(seed=5)
    used.step(2)
    for source in (Room, used, lambda: Room(5), partial(Room, size=5)):
        world = tabulate(source)
        assert (world.name, world.num_states) == ("Room", 34)
        assert mismatches(world, 200) == RIGHT
    assert tuple(used.agent_pos) == (2, 1), "the one handed over is not touched"


def test_a_module_that_registers_is_imported(tmp_path, monkeypatch):
    source = (
        "import gymnasium\nfrom minigrid.envs import EmptyEnv\ngymnasium.register('Theirs-v0', EmptyEnv)\n"
    )
    (tmp_path / "their_grids.py").write_text(source, encoding="utf-8")
    monkeypatch.syspath_prepend(tmp_path)
    try:
        assert tabulate("their_grids:Theirs-v0").num_states == 142
    finally:
        gymnasium.registry.pop("Theirs-v0", None)


class OwnActions(IntEnum):
    """Actions of an environment of one's own, in another order."""

    forward = 0
    jump = 1
    right = 2
    left = 3
    pickup = 4
    drop = 5
    toggle = 6
    done = 7


class Jumping(Room):
    """jump moves the agent back to the start."""

    def __init__(self):
        super().__init__()
        self.actions, self.action_space = OwnActions, gymnasium.spaces.Discrete(8)

    def step(self, action):
        if action == OwnActions.jump:
            self.agent_pos, action = (1, 1), OwnActions.done
        return super().step(action)


def test_own_actions_are_taken_by_their_names():
    world = tabulate(Jumping)
    assert world.action_names == ("left", "right", "forward", "jump")
    assert mismatches(world) == RIGHT
    back = world.next_state[~world.terminal, 3]  # from everywhere
    assert (world.position[back] == 1).all()


@pytest.mark.parametrize(
    ("source", "message"),
    [
        (
            lambda: gymnasium.make("CartPole-v1"),
            "CartPoleEnv is no MiniGrid environment; allowed: .*MiniGridEnv",
        ),
        ("CartPole-v1", "CartPoleEnv is no MiniGrid environment"),
        (lambda: FullyObsWrapper(Room()), "FullyObsWrapper is around Room: allowed: .* without wrappers"),
        (lambda: Room(render_mode="human"), "render_mode = 'human': allowed: None, rgb_array"),
        (Hiding(iter(i for i in "ab")), "Hiding cannot be copied .* allowed: its class"),
        (7, "environment = 7: allowed: a name, an environment, or what makes one"),
        ("no_such_module:Room-v0", "no MiniGrid environment .*no_such_module.*allowed"),
    ],
)
def test_other_things_are_refused(source, message):
    with pytest.raises(ValueError, match=message) as refusal:
        tabulate(source)
    assert "\n" not in str(refusal.value)


@pytest.mark.parametrize(
    ("misspelt", "meant"),
    [
        ("BabyAI_GoToObjS6-v1", "BabyAI-GoToObjS6"),
        ("minigrid-empty-8x8-v0", "Empty-8x8"),
        ("MiniGrid-DoorKey-8X8-v0", "DoorKey-8x8"),
        ("Empty8x8", "Empty-8x8"),
        ("FourRoom", "FourRooms"),
        ("MiniGrid-Empty-8x8-v5", "Empty-8x8"),
        ("gym_minigrid:MiniGrid-FourRooms-v0", "FourRooms"),
    ],
)
def test_misspelt_ids_name_the_one_that_was_meant(misspelt, meant):
    with pytest.raises(ValueError, match=rf"close or known: .*\b{meant}\b.*; allowed"):
        resolve_id(misspelt)


@pytest.mark.parametrize("seed", [np.int64(3), np.uint8(3), np.arange(4)[3]])
def test_seeds_of_numpy_are_seeds(seed):
    world = tabulate("SimpleCrossingS9N1", layout_seed=seed)
    assert type(world.layout_seed) is int
    assert torch.equal(world.next_state, tabulate("SimpleCrossingS9N1", layout_seed=3).next_state)


@pytest.mark.parametrize("seed", [1.0, "3", None, np.int64(-1)])
def test_other_seeds_are_refused(seed):
    with pytest.raises(ValueError, match=r"layout_seed = .*: allowed: whole numbers >= 0"):
        tabulate("Empty-5x5", layout_seed=seed)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"without": ("pick_up",)}, r"without = \('pick_up',\): allowed: a tuple, any of left, .*pickup"),
        ({"without": "pickup"}, "without = 'pickup': allowed: a tuple, any of"),
        ({"without": ("left", "right", "forward")}, "leaves no action: allowed: some of left"),
        ({"actions": "left"}, "actions = 'left': allowed: at least one"),
    ],
)
def test_actions_left_out_are_checked(options, message):
    with pytest.raises(ValueError, match=message):
        tabulate("Empty-5x5", **options)
    assert tabulate("DoorKey-5x5", actions=["left", "forward"]).action_names == ("left", "forward")


# ----------------------------------------------------------------------------------------------
# What an environment shows
# ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("observation", ["full", "partial", "rgb"])
@pytest.mark.parametrize(("size", "view"), [(5, 3), (7, 9)])
def test_views_of_any_size(observation, size, view):
    world = tabulate(lambda: Room(size, agent_view_size=view), observation=observation)
    assert mismatches(world, 400) == RIGHT
    if observation == "partial":
        assert world.image_shape == (view, view, 21)


class Looking(Room):
    """Looks at its own view while it steps."""

    def step(self, action):
        observation, *rest = super().step(action)
        self.sees_goal = bool((observation["image"][..., 0] == OBJECT_TO_IDX["goal"]).any())
        return observation, *rest


def test_a_step_may_look_at_its_view():
    assert mismatches(tabulate(Looking)) == RIGHT


@pytest.fixture
def crystal(monkeypatch):
    """A kind of object that MiniGrid does not know."""
    monkeypatch.setitem(OBJECT_TO_IDX, "crystal", 11)

    class Crystal(WorldObj):
        def __init__(self):
            super().__init__("crystal", "blue")

        def can_overlap(self):
            return True

        def encode(self):
            return OBJECT_TO_IDX["crystal"], 8, 6

        def render(self, img):
            img[:] = 80

    return Crystal


def test_new_objects_colours_and_states_get_features_of_their_own(crystal):
    class Mine(Room):
        def furnish(self):
            self.put_obj(crystal(), 2, 2)

    world = tabulate(Mine)
    assert world.cell_features == (12, 9, 7)
    assert world.image_shape == (5, 5, 28)
    cells = world.observations.view(world.num_states, 5, 5, 28)
    for part in cells.split([12, 9, 7], dim=-1):
        assert (part.sum(-1) == 1).all()
    assert mismatches(world) == RIGHT
    assert tabulate("Empty-5x5").cell_features == (11, 6, 4), "others' features stay"


# ----------------------------------------------------------------------------------------------
# Copies, and tables that are too large
# ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "copied", [copy.copy, copy.deepcopy, lambda world: pickle.loads(pickle.dumps(world))]
)
@pytest.mark.parametrize("source", ["DoorKey-5x5", Room, Room()], ids=["id", "class", "object"])
def test_copies_draw_and_are_checked_as_the_original(copied, source):
    world = tabulate(source, without=("drop",))
    again = copied(world)
    for state in range(0, world.num_states, 7):
        assert np.array_equal(again.render(state), world.render(state))
    assert mismatches(again, 300) == RIGHT


def test_pictures_are_those_of_the_live_environment():
    world = tabulate("DoorKey-5x5")
    env = gymnasium.make(world.env_id).unwrapped
    env.reset(seed=0)
    state = world.start_state
    for action in np.random.default_rng(0).integers(world.num_actions, size=60).tolist():
        env.step(env.actions[world.action_names[action]])
        state = int(world.next_state[state, action])
        assert np.array_equal(world.render(state, tile=8), env.get_frame(highlight=False, tile_size=8))


def test_a_table_that_would_not_fit_is_refused_with_its_size():
    features = 8 * 8 * 21
    assert tabulate("Empty-8x8", max_bytes=142 * features).num_states == 142
    with pytest.raises(
        ValueError, match=rf"max_bytes = .*{features} for each .* a higher max_bytes"
    ) as refusal:
        tabulate("Empty-8x8", max_bytes=142 * features - 1)
    assert "\n" not in str(refusal.value)
