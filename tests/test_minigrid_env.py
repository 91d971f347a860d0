"""The MiniGrid table against closed forms, a naive search and the live environment; walks and refusals."""

import collections
import dataclasses
import hashlib
import os
import subprocess
import sys

import gymnasium
import numpy as np
import pytest
import torch
from minigrid.core.actions import Actions
from minigrid.envs.empty import EmptyEnv

from common.minigrid.table import GridWorld, registered_names, resolve_id, tabulate, verify_against_live
from common.minigrid.walks import (
    collect_walks,
    coverage,
    distances_from,
    distances_to,
    follow,
    visited_goal_states,
)
from common.run.files import ROOT
from common.run.random import generator
from tests.pose_grids import all_distances

NO_DROP = ("left", "right", "forward", "pickup", "toggle")
MOVES = ("left", "right", "forward")


@pytest.fixture(scope="module")
def empty() -> GridWorld:
    return tabulate("Empty-8x8")


@pytest.fixture(scope="module")
def doorkey() -> GridWorld:
    return tabulate("DoorKey-8x8", actions=NO_DROP)


@pytest.fixture(scope="module")
def corridor() -> GridWorld:
    return tabulate("KeyCorridorS3R1")


@pytest.fixture(params=["empty", "doorkey", "corridor"])
def world(request) -> GridWorld:
    return request.getfixturevalue(request.param)


# ----------------------------------------------------------------------------------------------
# The table
# ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [5, 6, 8, 16])
def test_an_empty_room_has_four_poses_in_every_cell_but_the_goal(size):
    world = tabulate(f"Empty-{size}x{size}")
    assert int((~world.terminal).sum()) == 4 * ((size - 2) ** 2 - 1)
    assert world.action_names == MOVES
    # the goal is in the corner: an episode ends facing right or down, before the agent can turn
    assert world.position[world.goal_states].tolist() == [[size - 2, size - 2]] * 2
    assert sorted(world.direction[world.goal_states].tolist()) == [0, 1]


@pytest.mark.parametrize(
    ("name", "actions", "going_on", "goals"),
    [("FourRooms", None, 1036, 4), ("DoorKey-8x8", NO_DROP, 424, 2), ("KeyCorridorS3R1", None, 156, 4)],
)
def test_golden_state_counts(name, actions, going_on, goals):
    world = tabulate(name, actions=actions)
    assert (int((~world.terminal).sum()), len(world.goal_states)) == (going_on, goals)


FIELDS = (
    "next_state", "reward", "terminated", "goal_states", "observations", "position", "direction", "carrying"
)  # fmt: skip


def digest(world: GridWorld) -> str:
    """A hash of a table's contents, types and shapes."""
    found = hashlib.sha256()
    for name in FIELDS:
        values = getattr(world, name)
        found.update(f"{name} {values.dtype} {tuple(values.shape)}".encode())
        found.update(values.contiguous().numpy().tobytes())
    rest = world.action_names, world.image_shape, world.start_state, world.max_steps, world.name
    found.update(repr(rest).encode())
    return found.hexdigest()[:16]


@pytest.mark.parametrize(
    ("name", "options", "expected"),
    [
        ("Empty-8x8", {}, "8f529ef7059b8ebd"),
        ("Empty-16x16", {}, "62464fdbd00f10ab"),
        ("Empty-6x6", {"observation": "rgb"}, "88c1bcb4595a247d"),
        ("FourRooms", {}, "bb4ecdb0bcd0cab0"),
        ("FourRooms", {"observation": "partial"}, "36c3e2dd0e873d2f"),
        ("DoorKey-5x5", {}, "d41a7349ae9f1dea"),
        ("DoorKey-6x6", {"without": ("drop",)}, "25e8bde2642b7dd7"),
        ("KeyCorridorS3R1", {}, "a807d666546c8e4a"),
        ("GoToDoor-5x5", {}, "d2f24dec1daa74ac"),
        ("PutNear-6x6-N2", {"without": ("drop",)}, "5e1677eec416304f"),
        ("LavaGapS5", {"layout_seed": 3}, "5913d82a64a11da8"),
        ("MultiRoom-N2-S4", {}, "5882ac6fd88fc394"),
        ("Fetch-5x5-N2", {}, "92b5539aafdd27b8"),
        ("ObstructedMaze-1Dl", {"without": ("drop",)}, "fe8ccfa094458e90"),
        ("MemoryS7", {}, "b21b7a51afc96e09"),
        ("UnlockPickup", {"without": ("drop",)}, "5f0e3edf04886282"),
        ("BabyAI-OpenTwoDoors", {"without": ("drop",)}, "7ebb667abbfa51b5"),
    ],
)
def test_golden_tables(name, options, expected):
    """As they were tabulated before objects of every kind were watched: the same to the bit."""
    assert digest(tabulate(name, **options)) == expected


def test_ended_states_absorb_without_reward(world):
    ended = world.terminal.nonzero().squeeze(1)
    assert len(ended) > 0
    assert torch.equal(world.next_state[ended], ended[:, None].expand(-1, world.num_actions))
    assert not world.reward[ended].any()
    assert torch.equal(world.terminated, world.terminal[world.next_state])


def test_reward_is_one_exactly_on_entering_a_goal_state(world):
    enters = torch.isin(world.next_state, world.goal_states) & ~world.terminal[:, None]
    assert torch.equal(world.reward, enters.double())
    assert enters.any()


def test_lava_ends_an_episode_without_being_a_goal():
    world = tabulate("LavaGapS5")
    failed = world.terminal.clone()
    failed[world.goal_states] = False
    assert failed.any()
    assert not world.reward[torch.isin(world.next_state, failed.nonzero())].any()


def test_one_configuration_ended_and_going_on_are_two_states():
    """GoToDoor: `done` ends the episode where the agent stands, and is a success only before the door."""
    world = tabulate("GoToDoor-5x5")
    assert world.action_names == (*MOVES, "toggle", "done"), "no reward without done"
    done = world.next_state[:, world.action_names.index("done")]
    before = (~world.terminal).nonzero().squeeze(1)
    assert not torch.isin(done[before], before).any()
    assert torch.equal(world.observations[done[before]], world.observations[before])
    assert 0 < int(torch.isin(done[before], world.goal_states).sum()) < len(before)


def test_turning_back_and_full_circles_return(world):
    left, right = (world.action_names.index(name) for name in ("left", "right"))
    going_on = (~world.terminal).nonzero().squeeze(1)
    there = world.next_state[going_on, left]
    assert torch.equal(world.next_state[there, right], going_on)
    assert torch.equal((world.direction[going_on] - 1) % 4, world.direction[there])


def test_actions_follow_the_objects_of_the_grid():
    assert tabulate("MultiRoom-N2-S4").action_names == (*MOVES, "toggle")
    assert tabulate("Fetch-5x5-N2").action_names == (*MOVES, "pickup", "drop")
    assert tabulate("DoorKey-5x5").action_names == (*MOVES, "pickup", "drop", "toggle")


def test_carrying_names_the_object(doorkey):
    key, yellow, nothing = [5, 4], 4, [-1, -1]  # MiniGrid's indices of objects and colours
    assert doorkey.carrying[doorkey.start_state].tolist() == nothing
    assert {tuple(held) for held in doorkey.carrying.tolist()} == {tuple(key), tuple(nothing)}
    assert doorkey.carrying[doorkey.goal_states].tolist() == [key] * 2, "without drop the key is kept"
    assert yellow == key[1]


def test_the_layout_seed_is_the_layout():
    first, again, other = (tabulate("SimpleCrossingS9N1", layout_seed=seed) for seed in (1, 1, 2))
    for field in dataclasses.fields(GridWorld):
        if not field.name.startswith("_"):
            left, right = getattr(first, field.name), getattr(again, field.name)
            assert torch.equal(left, right) if isinstance(left, torch.Tensor) else left == right
    assert not torch.equal(first.observations[0], other.observations[0])


# ----------------------------------------------------------------------------------------------
# The live environment
# ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "observation"),
    [
        ("Empty-8x8", "full"),
        ("Empty-8x8", "partial"),
        ("Empty-6x6", "rgb"),
        ("DoorKey-6x6", "full"),
        ("DoorKey-5x5", "partial"),
        ("KeyCorridorS3R1", "full"),
        ("FourRooms", "full"),
        ("LavaGapS6", "full"),
        ("GoToDoor-5x5", "full"),
        ("BabyAI-GoToRedBlueBall", "partial"),
    ],
)
def test_table_equals_the_live_environment(name, observation):
    actions = MOVES if name.startswith("BabyAI") else None
    world = tabulate(name, observation=observation, actions=actions)
    counts = verify_against_live(world, 400, seed=3)
    assert counts["steps"] == 400
    assert counts["states"] > 20
    assert counts["ended"] > 1
    assert (counts["observation"], counts["reward"], counts["terminated"]) == (0, 0, 0)


@pytest.mark.parametrize("wrong", ["observation", "reward", "terminated"])
def test_the_live_check_finds_a_wrong_table(corridor, wrong):
    table = {
        "observation": {"observations": corridor.observations.roll(1, 0)},
        "reward": {"reward": corridor.reward * 0.5},
        "terminated": {"terminated": torch.zeros_like(corridor.terminated)},
    }[wrong]
    counts = verify_against_live(dataclasses.replace(corridor, **table), 400, seed=0)
    assert counts[wrong] > 0


def test_keycorridor_ends_when_its_own_ball_is_picked_up(corridor):
    """The test for success is by object identity: a table made from copied objects never ends."""
    distance = distances_to(corridor.next_state, corridor.goal_states)
    env = gymnasium.make("MiniGrid-KeyCorridorS3R1-v0")
    env.reset(seed=corridor.layout_seed)
    state, steps, terminated = corridor.start_state, 0, False
    while not terminated:
        action = int(distance[corridor.next_state[state]].argmin())
        _, reward, terminated, _, _ = env.step(int(Actions[corridor.action_names[action]]))
        state, steps = int(corridor.next_state[state, action]), steps + 1
        assert terminated == bool(corridor.terminal[state])
    assert state in corridor.goal_states.tolist()
    assert steps == int(distance[corridor.start_state])
    assert reward == pytest.approx(1 - 0.9 * steps / corridor.max_steps)


# ----------------------------------------------------------------------------------------------
# Observations
# ----------------------------------------------------------------------------------------------


def distinct(world: GridWorld) -> int:
    return len(torch.unique(world.observations, dim=0))


def test_only_an_end_hides_from_full_observations():
    """PutNear ends with each drop: an ended state can look like one that goes on, and in no other case."""
    world = tabulate("PutNear-6x6-N2")
    assert distinct(world) < world.num_states
    going_on = world.observations[~world.terminal]
    assert len(torch.unique(going_on, dim=0)) == len(going_on)


@pytest.mark.parametrize(
    ("observation", "shape", "features"),
    [
        ("full", (8, 8, 21), 8 * 8 * 21),
        ("partial", (7, 7, 21), 7 * 7 * 21),
        ("rgb", (64, 64, 3), 64 * 64 * 3),
    ],
)
def test_shapes_of_the_observations(observation, shape, features):
    world = tabulate("Empty-8x8", observation=observation)
    assert world.image_shape == shape
    assert world.observations.shape == (world.num_states, features)
    assert world.observations.dtype == torch.uint8
    inputs = world.observe(torch.tensor([[0, 1], [2, 3]]))
    assert inputs.shape == (2, 2, features)
    assert inputs.dtype == torch.float32
    assert float(inputs.max()) == pytest.approx(1, abs=0.6 if observation == "rgb" else 0)


def test_full_observations_tell_every_state_apart_and_the_view_does_not(world):
    assert distinct(world) == world.num_states
    partial = tabulate(world.name, observation="partial", actions=world.action_names)
    assert partial.num_states == world.num_states
    assert distinct(partial) < world.num_states


def test_one_hot_features_are_one_hot(doorkey):
    cells = doorkey.observations.view(doorkey.num_states, 8 * 8 + 1, 21)  # the last cell: what is carried
    for part in cells.split([11, 6, 4], dim=-1):
        assert (part.sum(-1) == 1).all()
    holds_key = cells[:, -1, 5].bool()
    assert torch.equal(holds_key, doorkey.carrying[:, 0] == 5)


def test_varying_columns_keep_the_states_apart(world):
    columns = world.varying_columns
    assert len(columns) < world.observations.shape[1] / 4
    kept = world.observations[:, columns]
    assert len(torch.unique(kept, dim=0)) == world.num_states
    assert (kept != kept[0]).any(0).all()


def test_render_draws_the_state(empty):
    first, turned = empty.render(0), empty.render(int(empty.next_state[0, 0]))
    assert first.shape == (128, 128, 3)
    assert first.dtype == np.uint8
    changed = (first != turned).any(-1).nonzero()
    assert len(changed[0]) > 0
    assert max(axis.max() for axis in changed) < 32, "only the agent's cell, the first, has changed"
    assert empty.render(0, tile=8).shape == (64, 64, 3)
    assert np.array_equal(empty.render(0), first)


# ----------------------------------------------------------------------------------------------
# Shortest paths
# ----------------------------------------------------------------------------------------------


def naive_distances(next_state: torch.Tensor, start: int) -> dict[int, int]:
    """Textbook breadth-first search from one state."""
    distance, queue = {start: 0}, collections.deque([start])
    while queue:
        state = queue.popleft()
        for following in next_state[state].tolist():
            if following not in distance:
                distance[following] = distance[state] + 1
                queue.append(following)
    return distance


def test_all_distances_are_breadth_first_search(world):
    table = all_distances(world.next_state)
    assert table.dtype == torch.int16
    for start in range(0, world.num_states, 7):
        naive = naive_distances(world.next_state, start)
        assert table[start].tolist() == [naive.get(state, -1) for state in range(world.num_states)]


@pytest.mark.parametrize("seed", range(8))
def test_distances_from_a_sample_are_rows_of_a_naive_search(seed):
    """On random graphs of 1 to 400 states, with dead ends, repeated sources and more than one block."""
    draw = generator(seed, "graph")
    states, actions = (int(torch.randint(1, most, (), generator=draw)) for most in (400, 4))
    next_state = torch.randint(states, (states, actions), generator=draw)
    ends = torch.rand(states, generator=draw) < 0.3
    next_state[ends] = torch.arange(states)[ends, None]
    sources = torch.randint(states, (300,), generator=draw)
    table = distances_from(next_state, sources)
    assert table.shape == (300, states)
    for row, source in list(zip(table, sources.tolist(), strict=True))[::7]:
        naive = naive_distances(next_state, source)
        assert row.tolist() == [naive.get(state, -1) for state in range(states)]
    assert torch.equal(table, all_distances(next_state)[sources])


def test_distances_longer_than_int16_holds():
    states = 33_000  # in a row
    chain = torch.arange(1, states + 1).clamp(max=states - 1)[:, None]
    assert distances_from(chain, torch.tensor([0, states - 1]))[:, -1].tolist() == [states - 1, 0]


@pytest.mark.parametrize("sources", [[-1], [0, 3]])
def test_sources_that_are_no_states_are_refused(sources):
    with pytest.raises(ValueError, match=r"sources = .*: allowed: indices of states, 0 to 2"):
        distances_from(torch.zeros(3, 1, dtype=torch.int64), torch.tensor(sources))
    assert distances_from(torch.zeros(3, 1, dtype=torch.int64), torch.tensor([], dtype=int)).shape == (0, 3)


def test_distances_to_are_the_least_over_the_targets(world):
    table = all_distances(world.next_state)[:, world.goal_states].float()
    nearest = table.where(table >= 0, torch.inf).amin(1)
    assert torch.equal(distances_to(world.next_state, world.goal_states), nearest)


def test_distance_on_an_open_floor_is_manhattan_and_turns(empty):
    """From the top left, facing right: 5 steps right, a turn, 5 steps down."""
    assert distances_to(empty.next_state, empty.goal_states)[empty.start_state] == 5 + 1 + 5


def test_unreachable_states_are_marked():
    chain = torch.tensor([[1, 0], [2, 1], [2, 2]])  # 0 -> 1 -> 2, no way back
    assert all_distances(chain).tolist() == [[0, 1, 2], [-1, 0, 1], [-1, -1, 0]]
    assert distances_to(chain, torch.tensor([0])).tolist() == [0, torch.inf, torch.inf]


# ----------------------------------------------------------------------------------------------
# Walks
# ----------------------------------------------------------------------------------------------


def test_walks_follow_the_table_and_stop_at_the_end(world):
    walks = collect_walks(world, 200, 50, generator(0, "walks"))
    assert walks.states.shape == (200, 51)
    assert walks.actions.shape == walks.valid.shape == (200, 50)
    assert torch.equal(walks.states, follow(world, walks.states[:, 0], walks.actions))
    assert walks.states[0, 0] == world.start_state
    assert walks.valid[:, 0].all(), "no walk starts where the episode has ended"
    after_the_end = ~walks.valid
    assert after_the_end.any()
    assert world.terminal[walks.states[:, 1:][after_the_end]].all()
    assert not (walks.valid[:, 1:] & after_the_end[:, :-1]).any(), "an episode that has ended stays ended"
    assert torch.bincount(walks.actions.flatten(), minlength=world.num_actions).min() > 1000


def test_walks_restart_only_where_walks_have_been(world):
    walks = collect_walks(world, 200, 50, generator(1, "walks"))
    for row in range(1, 200):
        earlier = walks.states[:row]
        assert (earlier == walks.states[row, 0]).any()


@pytest.mark.parametrize("name", ["doorkey", "corridor"])
def test_coverage_seeking_reaches_what_walks_from_the_reset_do_not(name, request):
    world = request.getfixturevalue(name)
    seeking, plain = (
        collect_walks(world, 400, 50, generator(0, "walks"), coverage_seeking=seek) for seek in (True, False)
    )
    assert coverage(world, seeking) > 0.95
    assert coverage(world, plain) < 0.6
    assert (plain.states[:, 0] == world.start_state).all()
    assert torch.equal(visited_goal_states(world, seeking), world.goal_states)
    assert len(visited_goal_states(world, plain)) == 0


def test_visited_goal_states_are_those_that_were_visited(empty):
    right_then_down = torch.tensor([[2] * 5 + [1] + [2] * 5])
    states = follow(empty, torch.tensor([empty.start_state]), right_then_down)
    walks = collect_walks(empty, 1, 1, generator(0, "walks"))
    reached = visited_goal_states(empty, dataclasses.replace(walks, states=states))
    assert reached.tolist() == [int(states[0, -1])]
    assert empty.direction[reached].tolist() == [1]
    assert coverage(empty, dataclasses.replace(walks, states=states)) == 12 / empty.num_states


def test_walks_are_the_generators(doorkey):
    first, again, other = (collect_walks(doorkey, 40, 20, generator(s, "walks")) for s in (0, 0, 1))
    assert torch.equal(first.states, again.states)
    assert torch.equal(first.actions, again.actions)
    assert not torch.equal(first.actions, other.actions)


def test_walks_refuse_an_empty_request(empty):
    with pytest.raises(ValueError, match="num_walks = 0"):
        collect_walks(empty, 0, 5, generator(0, "walks"))


# ----------------------------------------------------------------------------------------------
# Names and refusals
# ----------------------------------------------------------------------------------------------


def test_names():
    assert resolve_id("Empty-8x8") == resolve_id("MiniGrid-Empty-8x8-v0") == "MiniGrid-Empty-8x8-v0"
    assert resolve_id("MultiRoom-N4-S5") == "MiniGrid-MultiRoom-N4-S5-v1", "the newest version"
    assert resolve_id("MultiRoom-N4-S5-v0") == "MiniGrid-MultiRoom-N4-S5-v0"
    assert tabulate("MiniGrid-Empty-5x5-v0").name == "Empty-5x5"
    names = registered_names()
    assert {"Empty-8x8", "MultiRoom-N4-S5", "MultiRoom-N4-S5-v0", "BabyAI-GoToObj"} <= set(names)
    assert len({resolve_id(name) for name in names}) == len(names)


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("Emtpy-8x8", {}, r"no MiniGrid environment 'Emtpy-8x8'; close or known: .*Empty-8x8"),
        ("chess", {}, r"no MiniGrid environment 'chess'.*registered_names"),
        ("Empty-8x8", {"layout_seed": -1}, "layout_seed = -1: allowed: whole numbers >= 0"),
        ("Empty-8x8", {"observation": "smell"}, "observation = 'smell': allowed: full, partial, rgb"),
        (
            "Empty-8x8",
            {"actions": ("left", "jump")},
            "allowed: at least one, each once, of left, right, forward",
        ),
        ("Empty-8x8", {"actions": ("left", "left")}, "allowed: at least one, each once"),
        ("Empty-8x8", {"actions": ()}, "allowed: at least one, each once"),
        ("Empty-8x8", {"max_states": 141}, "more than max_states = 141 states under left, right, forward"),
        ("Dynamic-Obstacles-5x5", {}, "is stochastic: .* allowed: .* deterministic given the layout"),
    ],
)
def test_refusals_are_one_line_with_what_is_allowed(name, options, message):
    with pytest.raises(ValueError, match=message) as refusal:
        tabulate(name, **options)
    assert "\n" not in str(refusal.value)


def test_a_missing_package_is_named(monkeypatch):
    for module in ("imageio", "imageio.v2"):
        monkeypatch.setitem(sys.modules, module, None)  # as if not installed
    with pytest.raises(ValueError, match=r"MiniGrid-WFC-MazeSimple-v0 needs a package .* imageio"):
        tabulate("WFC-MazeSimple")


def test_max_states_is_inclusive():
    assert tabulate("Empty-8x8", max_states=142).num_states == 142


class DrawingEnv(EmptyEnv):
    """An empty room whose generator is used in one far corner, with or without an effect."""

    def __init__(self, harmful: bool, **options):
        self.harmful = harmful
        super().__init__(size=6, **options)

    def step(self, action):
        if tuple(self.agent_pos) == (1, 4) and action == self.actions.left:
            turn = self._rand_int(0, 2)
            action = turn if self.harmful else action
        return super().step(action)


@pytest.fixture
def drawing_envs():
    ids = [f"MiniGrid-Drawing{kind}-v0" for kind in ("Harmless", "Harmful")]
    for env_id, harmful in zip(ids, (False, True), strict=True):
        gymnasium.register(env_id, entry_point=lambda harmful=harmful, **_: DrawingEnv(harmful))
    yield
    for env_id in ids:
        del gymnasium.registry[env_id]


def test_chance_is_found_wherever_it_is_and_only_where_it_matters(drawing_envs):
    assert tabulate("DrawingHarmless").num_states == 62
    with pytest.raises(ValueError, match="action left has different outcomes"):
        tabulate("DrawingHarmful")


def test_importing_is_silent_and_needs_no_display():
    code = (
        "from common.minigrid.table import tabulate\n"
        "assert tabulate('Empty-5x5', observation='rgb').render(0).any()"
    )
    environment = {name: value for name, value in os.environ.items() if "DISPLAY" not in name}
    environment.pop("PYGAME_HIDE_SUPPORT_PROMPT", None)
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", code], cwd=ROOT, env=environment, capture_output=True, text=True
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
