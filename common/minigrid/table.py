"""Real MiniGrid as an exact table: every state that can be reached, found by the real step function.

Shapes: N states, A actions, F features, G goal states.

Nothing here knows the rules of a game. The state graph of one layout is enumerated breadth first by
MiniGrid's own `step`, observations are MiniGrid's own, and each table is compared with an untouched
environment. A table is for one layout seed and ignores the time limit.
"""

from collections import deque
from dataclasses import dataclass

import gymnasium
import numpy as np
import torch
from minigrid.core.actions import Actions
from minigrid.minigrid_env import MiniGridEnv
from minigrid.wrappers import RGBImgObsWrapper
from torch import Tensor

from .chance import Chance
from .live import (
    CELL_FEATURES,
    EMPTY_CELL,
    Maker,
    Observation,
    carried_cell,
    cell_features,
    cells_of,
    check_observation,
    choose_actions,
    image_of,
    make_live,
    maker,
    one_hot,
    reset,
    whole_seed,
    without_views,
)
from .names import registered_names, resolve_id, short_name
from .state import Snapshot, StateKeeper

__all__ = ["GridWorld", "registered_names", "resolve_id", "tabulate", "verify_against_live"]

# Other states of the random generators under which the steps from a state are repeated, where one drew.
RESEEDINGS = 16

# What has to be the same where a step is repeated.
REPEATABLE = ("configuration", "outcome", "reward")

# Steps in which each new table is compared with a fresh environment.
CHECKED_STEPS = 200


@dataclass(frozen=True, eq=False, repr=False)
class GridWorld:
    """One layout of one MiniGrid environment, tabulated.

    A state is a configuration of the grid, the agent and what it carries; a configuration in which the
    episode has ended is a state of its own, one for success and one for failure. Ended states are
    ABSORBING: every action stays there, with reward 0 and `terminated` set, whereas the environment
    gives no data after its end. Full observations tell all states apart, except an ended state from one
    of the same configuration that goes on (where `done` or `drop` may end an episode anywhere), and what
    an environment remembers without showing it, such as BabyAI's instructions.

    It can be copied and pickled, if what makes its environment can: a lambda cannot be pickled.
    """

    name: str  # as results are named: the id without prefix and version
    env_id: str
    layout_seed: int
    observation: Observation
    action_names: tuple[str, ...]
    next_state: Tensor  # [N, A] int64
    reward: Tensor  # [N, A] float64, at the first step of an episode
    reward_drift: (
        Tensor  # [N, A] float64: change of the reward up to the time limit; -.9 of MiniGrid's success
    )
    terminated: Tensor  # [N, A] bool: the episode is over after this transition
    terminal: Tensor  # [N] bool
    goal_states: Tensor  # [G] int64: states in which an episode ended with a reward above 0
    observations: Tensor  # [N, F] uint8: one-hot features, or bytes of an image (rgb)
    image_shape: tuple[int, int, int]  # (width, height, cell features), or (height, width, 3) of rgb
    cell_features: tuple[int, int, int]  # objects, colours and states that a cell's features tell apart
    position: Tensor  # [N, 2] int64, (column, row) of the agent
    direction: Tensor  # [N] int64: 0 right, 1 down, 2 left, 3 up
    carrying: Tensor  # [N, 2] int64: object and colour index of what the agent carries, -1 for nothing
    max_steps: int  # the environment's own time limit [steps]
    start_state: int  # where a reset puts the agent
    _make: Maker  # a fresh environment

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
        varies = torch.zeros(self.observations.shape[1], dtype=torch.bool)
        for block in self.observations.split(1024):
            varies |= (block != self.observations[0]).any(0)
        return varies.nonzero().squeeze(1)

    def observe(self, states: Tensor) -> Tensor:
        """Observations of `states` as network input in [0, 1]: [...] -> [..., F] float32."""
        return self._scale(self.observations[states])

    def features(self, columns: Tensor) -> Tensor:
        """Some features of all states, as `observe` gives them: [K] indices -> [N, K] float32."""
        return self._scale(self.observations[:, columns])

    def _scale(self, observations: Tensor) -> Tensor:
        features = observations.float()
        return features.div_(255) if self.observation == "rgb" else features

    def render(self, state: int, tile: int = 16) -> np.ndarray:
        """MiniGrid's own picture of a state, drawn without a display: [height, width, 3] uint8.

        `tile` is the side of a cell [pixels]. A fresh environment is played from its reset to the state.
        """
        core: MiniGridEnv = make_live(self._make, self.observation, self.layout_seed).unwrapped
        with without_views(core):
            for action in _route(_discoveries(self), state, self.num_actions):
                core.step(core.actions[self.action_names[action]])
        return core.get_frame(highlight=False, tile_size=tile)


# ----------------------------------------------------------------------------------------------
# The state graph
# ----------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Limits:
    states: int
    bytes: int


@dataclass(frozen=True)
class _Transition:
    """What one step leads to."""

    configuration: tuple
    outcome: bool | None  # None while the episode goes on, else whether it ended with a reward above 0
    reward: float
    drift: float
    snapshot: Snapshot | None  # of a configuration that is new


class _StateGraph:
    """The state graph of one layout, explored breadth first by the real step function.

    Its lists have one entry a state, in the order of discovery: `next_state`, `reward` and `drift` (one
    entry an action), `outcomes`, and what is seen there: `images`, `carried`, `poses`.
    """

    def __init__(self, env: gymnasium.Env, names: tuple[str, ...], limits: _Limits):
        self.env, self.core, self.names, self.limits = env, env.unwrapped, names, limits
        self.keeper = StateKeeper(self.core)
        self.chance = Chance(self.keeper.constants)
        self.outcomes: list[bool | None] = []
        self.next_state: list[list[int]] = []
        self.reward: list[list[float]] = []
        self.drift: list[list[float]] = []
        self.images: list[np.ndarray] = []
        self.carried: list[tuple[int, int, int]] = []
        self.poses: list[tuple[int, int, int]] = []
        self._index: dict[tuple, int] = {}
        self._waiting: deque[tuple[int, Snapshot]] = deque()  # states found, not yet looked at

    def explore(self) -> None:
        """Fill the lists; the global random generators are left as they were."""
        try:
            self._find(_Transition(self.keeper.key(), None, 0.0, 0.0, self.keeper.save()))
            while self._waiting:
                state, snapshot = self._waiting.popleft()
                self.keeper.restore(snapshot)
                self._look()
                if self.outcomes[state] is None:
                    steps = self._steps(snapshot)
                    self.next_state.append([self._find(step) for step in steps])
                else:
                    steps = [_Transition((), None, 0.0, 0.0, None)] * len(self.names)
                    self.next_state.append([state] * len(self.names))
                self.reward.append([step.reward for step in steps])
                self.drift.append([step.drift for step in steps])
        finally:
            self.chance.rewind()

    def _find(self, step: _Transition) -> int:
        """The index of the state that a step leads to; a new one gets the next."""
        key = step.configuration, step.outcome
        state = self._index.setdefault(key, len(self._index))
        if state == len(self.outcomes):
            if state == self.limits.states:
                self._refuse(f"max_states = {state} states", "max_states")
            self.outcomes.append(step.outcome)
            self._waiting.append((state, step.snapshot))
        return state

    def _refuse(self, what: str, setting: str) -> None:
        raise ValueError(
            f"{_id_of(self.core)} has more than {what} under {', '.join(self.names)}; allowed: a smaller"
            f" environment, fewer actions (drop multiplies the states), or a higher {setting}"
        )

    def _look(self) -> None:
        image = image_of(self.env)
        pixels = isinstance(self.env, RGBImgObsWrapper)
        features = image.size if pixels else image.size // 3 * sum(CELL_FEATURES)
        if len(self._index) * features > self.limits.bytes:
            what = (
                f"max_bytes = {self.limits.bytes} bytes of observations ({features} for each of its states)"
            )
            self._refuse(what, "max_bytes")
        self.images.append(image)
        self.carried.append(carried_cell(self.core))
        self.poses.append((*self.core.agent_pos, self.core.agent_dir))

    def _steps(self, snapshot: Snapshot) -> list[_Transition]:
        """One step by each action; where one drew random numbers, all are repeated under other draws."""
        steps = [self._step(snapshot, name) for name in self.names]
        if self.chance.drawn():
            for seed in range(RESEEDINGS):
                self.chance.reseed(seed)
                for name, step in zip(self.names, steps, strict=True):
                    again = self._step(snapshot, name)
                    if any(getattr(again, field) != getattr(step, field) for field in REPEATABLE):
                        raise ValueError(
                            f"{_id_of(self.core)} is stochastic: in one and the same state the action {name}"
                            " has different outcomes; allowed: environments that are deterministic given the"
                            " layout"
                        )
            self.chance.rewind()
        return steps

    def _step(self, snapshot: Snapshot, name: str) -> _Transition:
        reward, terminated = self._play(snapshot, name)
        while self.keeper.notice():  # what changed first here was not restored: once more
            reward, terminated = self._play(snapshot, name)
        configuration = self.keeper.key()
        outcome = reward > 0 if terminated else None
        new = (configuration, outcome) not in self._index
        saved = self.keeper.save() if new else None
        drift = self._drift(snapshot, name, reward) if reward or terminated else 0.0
        return _Transition(configuration, outcome, reward, drift, saved)

    def _play(self, snapshot: Snapshot, name: str, clock: int = 0) -> tuple[float, bool]:
        self.keeper.restore(snapshot)
        self.core.step_count = clock - 1
        _, reward, terminated, _, _ = self.core.step(self.core.actions[name])
        return float(reward), bool(terminated)

    def _drift(self, snapshot: Snapshot, name: str, reward: float) -> float:
        """How much less a reward is at the time limit, from the reward halfway there."""
        half = max(1, self.core.max_steps // 2)
        later, _ = self._play(snapshot, name, half)
        return (later - reward) * self.core.max_steps / half


def tabulate(
    name: str | gymnasium.Env | Maker,
    *,
    layout_seed: int = 0,
    observation: Observation = "full",
    actions: tuple[str, ...] | None = None,
    without: tuple[str, ...] = (),
    max_states: int = 20000,
    max_bytes: int = 2**31,
) -> GridWorld:
    """Explore one layout of a MiniGrid environment from its reset state into a table.

    `name` is a name or id that gymnasium knows, or an environment of your own: as an object, or the class
    or function that makes it. Its state may lie in attributes, lists, dicts, sets, deques and arrays.
    Actions by default: left, right, forward; toggle where the grid has doors or boxes; pickup and drop
    where it has things to carry; those that only this environment has; and `done` where no reward can be
    had without it (GoToDoor). Those of `without` are left out.
    Goal states are the states in which an episode really ended with a reward: at a goal cell that is the
    agent there in each direction in which it can ARRIVE, since an episode ends before it could turn.

    Raises:
        ValueError: unknown name, action, observation or seed; a step whose outcome depends on chance; more
            than `max_states` states or `max_bytes` of observations; state that cannot be read and written
            back; a table that is not what a fresh environment does (a short check, at random); an
            environment that needs a package that is not there.
    """
    check_observation(observation)
    layout_seed, make = whole_seed(layout_seed), maker(name)
    limits = _Limits(max_states, max_bytes)
    env = make_live(make, observation, layout_seed)
    names = choose_actions(env.unwrapped, actions, without)
    graph = _explore(env, names, limits)
    if actions is None and True not in graph.outcomes and "done" not in without and _has_done(env.unwrapped):
        with_done = _explore(make_live(make, observation, layout_seed), (*names, "done"), limits)
        graph = with_done if True in with_done.outcomes else graph
    world = _world(graph, make, layout_seed, observation)
    _require_likeness(world)
    return world


def _explore(env: gymnasium.Env, names: tuple[str, ...], limits: _Limits) -> _StateGraph:
    with without_views(env.unwrapped):
        graph = _StateGraph(env, names, limits)
        graph.explore()
    return graph


def _has_done(core: MiniGridEnv) -> bool:
    return core.actions is Actions and core.action_space.n > Actions.done


def _id_of(core: MiniGridEnv) -> str:
    return core.spec.id if core.spec else type(core).__name__


def _world(graph: _StateGraph, make: Maker, layout_seed: int, observation: Observation) -> GridWorld:
    """The table of an explored graph."""
    env_id = _id_of(graph.core)
    terminal = torch.tensor([outcome is not None for outcome in graph.outcomes])
    next_state = torch.tensor(graph.next_state)
    poses, carried = torch.tensor(np.array(graph.poses)), np.array(graph.carried)
    goals = [state for state, outcome in enumerate(graph.outcomes) if outcome]
    return GridWorld(
        name=short_name(env_id),
        env_id=env_id,
        layout_seed=layout_seed,
        observation=observation,
        action_names=graph.names,
        next_state=next_state,
        reward=torch.tensor(graph.reward, dtype=torch.float64),
        reward_drift=torch.tensor(graph.drift, dtype=torch.float64),
        terminated=terminal[next_state],
        terminal=terminal,
        goal_states=torch.tensor(goals, dtype=torch.int64),
        position=poses[:, :2],
        direction=poses[:, 2],
        carrying=torch.tensor(carried[:, :2]).where(torch.tensor(carried[:, :1]) != EMPTY_CELL[0], -1),
        max_steps=graph.core.max_steps,
        start_state=0,
        _make=make,
        **_observations(graph, observation, carried),
    )


def _observations(graph: _StateGraph, observation: Observation, carried: np.ndarray) -> dict:
    """The fields of GridWorld that say what is seen."""
    images = np.stack(graph.images)
    graph.images.clear()
    shape, sizes = images.shape[1:], CELL_FEATURES
    if observation == "rgb":
        features = images.reshape(len(images), -1)
    else:
        cells = cells_of(observation, images, carried if "pickup" in graph.names else None)
        sizes = cell_features(cells)
        features, shape = one_hot(cells, sizes), (*shape[:2], sum(sizes))
    return {"observations": torch.from_numpy(features), "image_shape": shape, "cell_features": sizes}


# ----------------------------------------------------------------------------------------------
# The check against the environment itself
# ----------------------------------------------------------------------------------------------


def _require_likeness(world: GridWorld) -> None:
    """ValueError where the table is not what a fresh environment does."""
    counts = verify_against_live(world, CHECKED_STEPS, seed=0)
    wrong = {kind: counts[kind] for kind in ("observation", "reward", "terminated") if counts[kind]}
    if wrong:
        found = ", ".join(f"{kind} {count}" for kind, count in wrong.items())
        raise ValueError(
            f"{world.env_id}: in {counts['steps']} steps the table differs from a fresh environment"
            f" ({found}): its steps depend on chance, or on something outside its attributes; allowed:"
            " environments whose next state follows from their attributes"
        )


def verify_against_live(world: GridWorld, steps: int, seed: int) -> dict[str, int]:
    """Step a fresh, untouched environment and the table side by side.

    Half of the steps are uniformly random from the reset until the episode ends or its time is up. The
    others go to a drawn state first, so that rare states and ends are compared too, in turn one of all
    and one of the ended, and on at random from there. Returns `steps`, `episodes`, `ended` (those that
    the environment terminated), `states` (how many different ones were entered) and the numbers of
    mismatches: `observation`, `reward` (with its drift over the episode, to 1e-9) and `terminated`.
    """
    env = make_live(world._make, world.observation, world.layout_seed)
    core, random = env.unwrapped, np.random.default_rng(seed)
    kinds = ("steps", "episodes", "ended", "observation", "reward", "terminated")
    counts, entered = dict.fromkeys(kinds, 0), set()
    everywhere, ends = np.arange(world.num_states), world.terminal.nonzero().squeeze(1).numpy()
    discoveries = _discoveries(world)
    while counts["steps"] < steps:
        counts["episodes"] += 1
        at_random = min(world.max_steps, steps // 2 - counts["steps"])
        if at_random > 0:
            plan = random.integers(world.num_actions, size=at_random).tolist()
        else:
            targets = ends if len(ends) and counts["episodes"] % 2 else everywhere
            plan = _route(discoveries, int(random.choice(targets)), world.num_actions)
            plan += random.integers(world.num_actions, size=20).tolist()
        state = world.start_state
        counts["observation"] += _differs(world, core, reset(env, world.layout_seed)["image"], state)
        for action in plan[: steps - counts["steps"]]:
            view, reward, terminated, truncated, _ = env.step(core.actions[world.action_names[action]])
            expected = float(world.reward[state, action])
            expected += float(world.reward_drift[state, action]) * core.step_count / core.max_steps
            counts["reward"] += abs(reward - expected) > 1e-9 * max(1.0, abs(expected))
            counts["terminated"] += terminated != bool(world.terminated[state, action])
            state = int(world.next_state[state, action])
            counts["observation"] += _differs(world, core, view["image"], state)
            counts["steps"] += 1
            entered.add(state)
            counts["ended"] += terminated
            if terminated or truncated:
                break
    return counts | {"states": len(entered)}


def _differs(world: GridWorld, core: MiniGridEnv, image: np.ndarray, state: int) -> bool:
    """Whether a live image is not what the table shows in this state."""
    tabulated = world.observations[state].numpy()
    if world.observation == "rgb":
        return not np.array_equal(image.reshape(-1), tabulated)
    carried = np.array([carried_cell(core)]) if "pickup" in world.action_names else None
    cells = cells_of(world.observation, image[None], carried)
    known = (cells < world.cell_features).all()
    return not (known and np.array_equal(one_hot(cells, world.cell_features)[0], tabulated))


def _discoveries(world: GridWorld) -> list[int]:
    """Of each state the transition by which the breadth-first search found it, as state * A + action."""
    transitions = torch.arange(world.next_state.numel())
    first = torch.full((world.num_states,), len(transitions))
    return first.scatter_reduce(0, world.next_state.flatten(), transitions, "amin").tolist()


def _route(discoveries: list[int], state: int, num_actions: int) -> list[int]:
    """The actions from the reset to a state by which the breadth-first search found it."""
    actions: list[int] = []
    while state != 0:
        state, action = divmod(discoveries[state], num_actions)
        actions.insert(0, action)
    return actions
