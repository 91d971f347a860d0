"""Real MiniGrid as an exact table: every state that can be reached, found by the real step function.

Shapes: N states, A actions, F features, G goal states.

Nothing here knows the rules of a game. The state graph of one layout is enumerated breadth first by
MiniGrid's own `step`, observations come from MiniGrid's own wrappers, and `verify_against_live` compares
the table with an untouched environment. A table is for one layout seed and ignores the time limit.
"""

import contextlib
import difflib
import io
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, get_args

import gymnasium
import numpy as np
import torch
from gymnasium.envs.registration import EnvSpec
from minigrid.core.actions import Actions
from minigrid.core.constants import COLOR_TO_IDX, OBJECT_TO_IDX
from minigrid.minigrid_env import MiniGridEnv
from minigrid.wrappers import FullyObsWrapper, RGBImgObsWrapper
from torch import Tensor

from common.minigrid.state import Snapshot, StateKeeper, can_toggle, movable_objects

Observation = Literal["full", "partial", "rgb"]

# Features of a cell, one-hot: its object, its colour, its state (of a door; of the agent: the direction).
CELL_FEATURES = (len(OBJECT_TO_IDX), len(COLOR_TO_IDX), 4)
EMPTY_CELL = (OBJECT_TO_IDX["empty"], 0, 0)

# Other states of the random generator under which a step that drew random numbers is repeated.
RESEEDINGS = 16


@dataclass(frozen=True, eq=False, repr=False)
class GridWorld:
    """One layout of one MiniGrid environment, tabulated.

    A state is a configuration of the grid, the agent and what it carries; a configuration in which the
    episode has ended is a state of its own, one for success and one for failure. Ended states are
    ABSORBING: every action stays there, with reward 0 and `terminated` set, whereas the environment
    gives no data after its end. Full observations tell all states apart, except an ended state from one
    of the same configuration that goes on (where `done` or `drop` may end an episode anywhere), and what
    BabyAI's instructions remember.
    """

    name: str  # as results are named: the id without prefix and version
    env_id: str
    layout_seed: int
    observation: Observation
    action_names: tuple[str, ...]
    next_state: Tensor  # [N, A] int64
    reward: Tensor  # [N, A] float64, without the step-count factor 1 - .9 step / max_steps
    terminated: Tensor  # [N, A] bool: the episode is over after this transition
    terminal: Tensor  # [N] bool
    goal_states: Tensor  # [G] int64: states in which an episode ended with a reward above 0
    observations: Tensor  # [N, F] uint8: one-hot features, or bytes of an image (rgb)
    image_shape: tuple[int, int, int]  # (width, height, cell features), or (height, width, 3) of rgb
    position: Tensor  # [N, 2] int64, (column, row) of the agent
    direction: Tensor  # [N] int64: 0 right, 1 down, 2 left, 3 up
    carrying: Tensor  # [N, 2] int64: object and colour index of what the agent carries, -1 for nothing
    max_steps: int  # the environment's own time limit [steps]
    start_state: int  # where a reset puts the agent
    _live: tuple[StateKeeper, list[Snapshot]]  # for render

    @property
    def num_states(self) -> int:
        """N, ended states included."""
        return len(self.next_state)

    @property
    def num_actions(self) -> int:
        """A."""
        return len(self.action_names)

    @property
    def varying_columns(self) -> Tensor:
        """Indices of the features that are not the same in all states: [at most F] int64."""
        return (self.observations != self.observations[0]).any(0).nonzero().squeeze(1)

    def observe(self, states: Tensor) -> Tensor:
        """Observations of `states` as network input in [0, 1]: [...] -> [..., F] float32."""
        features = self.observations[states].float()
        return features / 255 if self.observation == "rgb" else features

    def render(self, state: int, tile: int = 16) -> np.ndarray:
        """MiniGrid's own picture of a state, drawn without a display: [height, width, 3] uint8.

        `tile` is the side of a cell [pixels]. One thread at a time: it moves the live environment.
        """
        keeper, snapshots = self._live
        keeper.restore(snapshots[state])
        return keeper.env.get_frame(highlight=False, tile_size=tile)


# ----------------------------------------------------------------------------------------------
# Names
# ----------------------------------------------------------------------------------------------


def registered_names() -> list[str]:
    """Every MiniGrid id that gymnasium knows, shortened where that is unambiguous, sorted.

    Prefix and version are left off; of several versions the newest has the short name. BabyAI's levels,
    which MiniGrid brings along, keep their prefix.
    """
    return sorted(_short_names().values())


def _short_names() -> dict[str, str]:
    """The shortest accepted name of every id."""
    shortest: dict[str, str] = {}
    for alias, env_id in sorted(_aliases().items(), key=lambda item: len(item[0])):
        shortest.setdefault(env_id, alias)
    return shortest


def resolve_id(name: str) -> str:
    """The gymnasium id of a short name ('Empty-8x8') or of the id itself ('MiniGrid-Empty-8x8-v0').

    Raises:
        ValueError: no such environment; the message has the closest names.
    """
    aliases = _aliases()
    if name not in aliases:
        names = registered_names()
        close = difflib.get_close_matches(name, names, n=3) or ["Empty-8x8", "FourRooms", "DoorKey-8x8"]
        raise ValueError(
            f"no MiniGrid environment {name!r}; close or known: {', '.join(close)}; allowed: any of the"
            f" {len(names)} names that common.minigrid.table.registered_names() lists"
        )
    return aliases[name]


def _aliases() -> dict[str, str]:
    """Every accepted name of every registered id, newest version last, so that it has the short name."""

    def version(env_id: str) -> int:
        return int(re.search(r"-v(\d+)$", env_id)[1])

    known = [env_id for env_id in gymnasium.registry if re.match(r"(MiniGrid|BabyAI)-.*-v\d+$", env_id)]
    aliases = {}
    for env_id in sorted(known, key=version):
        for alias in (env_id, env_id.removeprefix("MiniGrid-")):
            aliases[alias] = env_id
            aliases[alias.rpartition("-v")[0]] = env_id
    return aliases


# ----------------------------------------------------------------------------------------------
# The live environment
# ----------------------------------------------------------------------------------------------


def _make(env_id: str, observation: Observation, layout_seed: int) -> gymnasium.Env:
    """The live environment with the wrapper of its observation, reset to its layout."""
    if observation not in get_args(Observation):
        raise ValueError(f"observation = {observation!r}: allowed: {', '.join(get_args(Observation))}")
    if layout_seed < 0:
        raise ValueError(f"layout_seed = {layout_seed}: allowed: whole numbers >= 0")
    spec: EnvSpec = gymnasium.registry[env_id]  # given as a spec, older versions raise no warning
    try:
        env = gymnasium.make(spec, disable_env_checker=True)
        _reset(env, layout_seed)
    except (ImportError, gymnasium.error.DependencyNotInstalled) as error:
        raise ValueError(f"{env_id} needs a package that requirements.txt does not have: {error}") from None
    if observation == "full":
        return FullyObsWrapper(env)
    return RGBImgObsWrapper(env) if observation == "rgb" else env


def _reset(env: gymnasium.Env, layout_seed: int) -> dict:
    """Reset to the layout; BabyAI prints while it draws missions, which is of no use here."""
    with contextlib.redirect_stdout(io.StringIO()):
        observation, _ = env.reset(seed=layout_seed)
    return observation


def _carried(core: MiniGridEnv) -> tuple[int, int, int]:
    return core.carrying.encode() if core.carrying else EMPTY_CELL


def _features(
    observation: Observation, images: np.ndarray, carried: np.ndarray | None
) -> np.ndarray:  # [N, ...] uint8, [N, 3] -> [N, F] uint8
    """Observations as MiniGrid gives them, made into feature vectors.

    full: the whole grid (FullyObsWrapper), each cell one-hot; where things can be picked up one more cell
    shows what is carried, which FullyObsWrapper leaves out although MiniGrid's own view has it.
    partial: the agent's 7x7 view, each cell one-hot. rgb: the rendered grid, as bytes.
    """
    if observation == "rgb":
        return images.reshape(len(images), -1)
    cells = images.reshape(len(images), -1, 3)
    if observation == "full" and carried is not None:
        cells = np.concatenate([cells, carried[:, None]], axis=1)
    parts = [np.eye(size, dtype=np.uint8)[cells[..., part]] for part, size in enumerate(CELL_FEATURES)]
    return np.concatenate(parts, axis=-1).reshape(len(images), -1)


# ----------------------------------------------------------------------------------------------
# The state graph
# ----------------------------------------------------------------------------------------------


class _StateGraph:
    """The state graph of one layout, explored breadth first by the real step function.

    Its lists have one entry a state, in the order of discovery: `snapshots`, `next_state` and `reward`
    (one entry an action), and `outcomes`: None while the episode goes on, else whether it ended with a
    reward above 0.
    """

    def __init__(
        self, keeper: StateKeeper, start: Snapshot, names: tuple[str, ...], max_states: int, env_id: str
    ):
        self.keeper, self.names, self.max_states, self.env_id = keeper, names, max_states, env_id
        self.snapshots: list[Snapshot] = [start]
        self.outcomes: list[bool | None] = [None]
        self.next_state: list[list[int]] = []
        self.reward: list[list[float]] = []
        keeper.restore(start)
        self._index = {(keeper.key(), None): 0}
        self._explore()

    def _explore(self) -> None:
        self.keeper.env.gen_obs = dict  # on the instance, over the method: views cost 20 times the step
        try:
            for state, outcome in enumerate(self.outcomes):  # grows while it is read
                if outcome is None:
                    transitions = [self._expand(state, Actions[name]) for name in self.names]
                else:
                    transitions = [(state, 0.0)] * len(self.names)
                self.next_state.append([following for following, _ in transitions])
                self.reward.append([reward for _, reward in transitions])
        finally:
            del self.keeper.env.gen_obs

    def _expand(self, state: int, action: Actions) -> tuple[int, float]:
        """(next state, reward) of one transition; a state that is new gets the next index.

        A step that draws random numbers is repeated under other states of the generator.
        """
        generator = self.keeper.env.np_random.bit_generator
        before = generator.state
        result = self._step(state, action)
        for seed in range(RESEEDINGS if generator.state != before else 0):
            generator.state = type(generator)(seed).state
            if self._step(state, action) != result:
                raise ValueError(
                    f"{self.env_id} is stochastic: in one and the same state the action {action.name} has"
                    " different outcomes; allowed: environments that are deterministic given the layout"
                )
        configuration, outcome, reward = result
        following = self._index.setdefault((configuration, outcome), len(self._index))
        if following == len(self.snapshots):
            if following == self.max_states:
                raise ValueError(
                    f"{self.env_id} has more than max_states = {self.max_states} states under"
                    f" {', '.join(self.names)}; allowed: a smaller environment, fewer actions (drop"
                    " multiplies the states), or a higher max_states"
                )
            self.snapshots.append(self.keeper.save())
            self.outcomes.append(outcome)
        return following, reward

    def _step(self, state: int, action: Actions) -> tuple[tuple, bool | None, float]:
        """(configuration, outcome, reward) of one real step."""
        self.keeper.restore(self.snapshots[state])
        _, reward, terminated, _, _ = self.keeper.env.step(action)
        return self.keeper.key(), (reward > 0 if terminated else None), float(reward)


def tabulate(
    name: str,
    *,
    layout_seed: int = 0,
    observation: Observation = "full",
    actions: tuple[str, ...] | None = None,
    without: tuple[str, ...] = (),
    max_states: int = 20000,
) -> GridWorld:
    """Explore one layout of a MiniGrid environment from its reset state into a table.

    Actions by default: left, right, forward; toggle where the grid has doors or boxes; pickup and drop
    where it has things to carry; and `done` where no reward can be had without it (GoToDoor). Those of
    `without` are left out.
    Goal states are the states in which an episode really ended with a reward: at a goal cell that is the
    agent there in each direction in which it can ARRIVE, since an episode ends before it could turn.

    Raises:
        ValueError: unknown name, action, observation or seed; a step whose outcome depends on chance
            (looked for in gymnasium's generator of the environment, at every transition); more than
            `max_states` states; an environment that needs a package that is not there.
    """
    env_id = resolve_id(name)
    env = _make(env_id, observation, layout_seed)
    core: MiniGridEnv = env.unwrapped
    keeper = StateKeeper(core)
    names = _possible_actions(core) if actions is None else _check_actions(core, actions)
    names = tuple(name for name in names if name not in without)
    graph = _StateGraph(keeper, keeper.save(), names, max_states, env_id)
    if actions is None and True not in graph.outcomes and core.action_space.n > Actions.done:
        with_done = _StateGraph(keeper, graph.snapshots[0], (*names, "done"), max_states, env_id)
        graph = with_done if True in with_done.outcomes else graph
    terminal = torch.tensor([outcome is not None for outcome in graph.outcomes])
    next_state = torch.tensor(graph.next_state)
    goals = [state for state, outcome in enumerate(graph.outcomes) if outcome]
    return GridWorld(
        name=_short_names()[env_id],
        env_id=env_id,
        layout_seed=layout_seed,
        observation=observation,
        action_names=graph.names,
        next_state=next_state,
        reward=torch.tensor(graph.reward, dtype=torch.float64),
        terminated=terminal[next_state],
        terminal=terminal,
        goal_states=torch.tensor(goals, dtype=torch.int64),
        max_steps=core.max_steps,
        start_state=0,
        _live=(keeper, graph.snapshots),
        **_describe_states(env, keeper, graph.snapshots, observation, "pickup" in graph.names),
    )


def _possible_actions(core: MiniGridEnv) -> tuple[str, ...]:
    """left, right, forward, and what the objects of the grid make possible."""
    things = movable_objects(core)
    carry = any(thing.can_pickup() for thing in things)
    toggle = any(can_toggle(thing) for thing in things)
    names = ["left", "right", "forward", *["pickup", "drop"] * carry, *["toggle"] * toggle]
    return tuple(name for name in names if Actions[name] < core.action_space.n)


def _check_actions(core: MiniGridEnv, names: Sequence[str]) -> tuple[str, ...]:
    """`names` as a tuple, or a ValueError where it is empty, repeats one or has one that is not there."""
    allowed = [action.name for action in Actions if action < core.action_space.n]
    if not names or len(set(names)) < len(names) or not set(names) <= set(allowed):
        raise ValueError(
            f"actions = {tuple(names)!r}: allowed: at least one, each once, of {', '.join(allowed)}"
        )
    return tuple(names)


def _describe_states(
    env: gymnasium.Env,
    keeper: StateKeeper,
    snapshots: list[Snapshot],
    observation: Observation,
    can_carry: bool,
) -> dict:
    """What GridWorld says of each state: observations, image_shape, position, direction, carrying."""
    core = keeper.env
    images, carried, poses = [], [], []
    for snapshot in snapshots:
        keeper.restore(snapshot)
        images.append(_observe_live(env, core))
        carried.append(_carried(core))
        poses.append((*core.agent_pos, core.agent_dir))
    images, carried, poses = np.stack(images), np.array(carried), torch.tensor(np.array(poses))
    holding = torch.tensor(carried[:, :2]).where(torch.tensor(carried[:, :1]) != EMPTY_CELL[0], -1)
    return {
        "observations": torch.from_numpy(_features(observation, images, carried if can_carry else None)),
        "image_shape": (*images.shape[1:3], 3 if observation == "rgb" else sum(CELL_FEATURES)),
        "position": poses[:, :2],
        "direction": poses[:, 2],
        "carrying": holding,
    }


def _observe_live(env: gymnasium.Env, core: MiniGridEnv) -> np.ndarray:
    """The image part of what the wrapped environment shows in its present state."""
    wrapped = isinstance(env, gymnasium.ObservationWrapper)  # it makes its image from the grid alone
    return (env.observation({}) if wrapped else core.gen_obs())["image"]


# ----------------------------------------------------------------------------------------------
# The check against the environment itself
# ----------------------------------------------------------------------------------------------


def verify_against_live(world: GridWorld, steps: int, seed: int) -> dict[str, int]:
    """Step a fresh, untouched environment and the table side by side.

    Half of the steps are uniformly random from the reset until the episode ends or its time is up. The
    others go to a drawn state first, so that rare states and ends are compared too, in turn one of all
    and one of the ended, and on at random from there. Returns `steps`, `episodes`, `ended` (those that
    the environment terminated), `states` (how many different ones were entered) and the numbers of
    mismatches: `observation`, `reward` (with the step-count factor, compared exactly) and `terminated`.
    """
    env = _make(world.env_id, world.observation, world.layout_seed)
    core, random = env.unwrapped, np.random.default_rng(seed)
    can_carry = "pickup" in world.action_names

    def differs(image: np.ndarray, state: int) -> bool:
        carried = np.array([_carried(core)]) if can_carry else None
        live = _features(world.observation, image[None], carried)[0]
        return not np.array_equal(live, world.observations[state].numpy())

    kinds = ("steps", "episodes", "ended", "observation", "reward", "terminated")
    counts, entered = dict.fromkeys(kinds, 0), set()
    everywhere, ends = np.arange(world.num_states), world.terminal.nonzero().squeeze(1).numpy()
    while counts["steps"] < steps:
        counts["episodes"] += 1
        at_random = min(world.max_steps, steps // 2 - counts["steps"])
        if at_random > 0:
            plan = random.integers(world.num_actions, size=at_random).tolist()
        else:
            targets = ends if len(ends) and counts["episodes"] % 2 else everywhere
            plan = _route(world, int(random.choice(targets)))
            plan += random.integers(world.num_actions, size=20).tolist()
        state = world.start_state
        counts["observation"] += differs(_reset(env, world.layout_seed)["image"], state)
        for action in plan[: steps - counts["steps"]]:
            view, reward, terminated, truncated, _ = env.step(int(Actions[world.action_names[action]]))
            expected = float(world.reward[state, action]) * (1 - 0.9 * (core.step_count / core.max_steps))
            counts["reward"] += reward != expected
            counts["terminated"] += terminated != bool(world.terminated[state, action])
            state = int(world.next_state[state, action])
            counts["observation"] += differs(view["image"], state)
            counts["steps"] += 1
            entered.add(state)
            counts["ended"] += terminated
            if terminated or truncated:
                break
    return counts | {"states": len(entered)}


def _route(world: GridWorld, state: int) -> list[int]:
    """The actions from the reset to a state by which the breadth-first search discovered it."""
    actions: list[int] = []
    while state != world.start_state:
        first = int((world.next_state == state).flatten().nonzero()[0])
        state, action = divmod(first, world.num_actions)
        actions.insert(0, action)
    return actions
