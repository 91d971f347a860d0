"""Where episodes begin, how far the goal truly is, and what a plan does in the real environment.

Shapes: E episodes, T steps, A actions, N poses.

The true distances come from MiniGrid's own step function. No planner but the oracle sees them.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from common.config import Exp7Config
from common.minigrid.table import GridWorld, tabulate
from common.minigrid.walks import distances_to
from common.run.cache import reads_settings
from common.run.fingerprint import Measured
from common.run.random import generator
from common.run.run import Run
from exp7_unseen_layouts.dataset import ACTIONS, Layout, make_layouts
from exp7_unseen_layouts.modes import State

MOVES = (0, 1, 2)  # left, right, forward: with these alone no map changes
LARGEST_TABLE = 20_000  # states of a layout that is enumerated
EPISODE_FIELDS = ("train_layouts", "test_layouts", "num_episodes", "mode_episodes", "start_distance")


@dataclass(frozen=True, eq=False)
class PoseTable:
    """The true dynamics of a layout, and the poses of its first map among their states."""

    poses: Tensor  # [N, 3]
    states: Tensor  # [N] int64, of these poses
    next_state: Tensor  # [S, A] int64
    steps: Tensor  # [S] float: to the goal, inf where it cannot be reached
    actions: tuple[int, ...]  # indices of ACTIONS, of the A columns

    @property
    def distance(self) -> Tensor:
        """Steps from the poses: [N] float."""
        return self.steps[self.states]


TABLE = ("poses", "states", "next_state", "steps")  # its tensors


@dataclass(frozen=True, eq=False)
class Episodes:
    """Episodes in some layouts of a family; each begins in its layout's first map, with empty hands."""

    layouts: Sequence[Layout]
    layout: Tensor  # [E] int64
    pose: Tensor  # [E, 3] int64: column, row, direction
    shortest: Tensor  # [E] float: true steps to the goal; nan where the states are too many to enumerate
    tables: Sequence[PoseTable | None]  # of each layout that has episodes
    states: Tensor  # [E] int64: the starts in these tables; -1 where there is none

    def start(self, episode: int) -> State:
        """The first state of an episode, as a model sees it; the real layout is there, too."""
        layout = self.layouts[int(self.layout[episode])]
        layout.reset()
        layout.place(self.pose[episode])
        return layout.read_map(), self.pose[episode], layout.read_carried()


def true_distances(layout: Layout) -> PoseTable | None:
    """True steps to the goal from the poses of a layout's first map; None where they cannot be enumerated."""
    if set(layout.actions) <= set(MOVES):
        return _by_moves(layout)
    try:
        world = tabulate(layout.name, layout_seed=layout.seed, without=("drop",), max_states=LARGEST_TABLE)
        if not len(world.goal_states):  # none can be reached with what is carried in hand
            world = tabulate(layout.name, layout_seed=layout.seed, max_states=LARGEST_TABLE)
    except ValueError:
        return None
    distance = distances_to(world.next_state, world.goal_states)
    first = _in_first_map(world)
    poses = torch.cat([world.position, world.direction[:, None]], 1)[first]
    actions = tuple(map(ACTIONS.index, world.action_names))
    return PoseTable(poses, first.nonzero().flatten(), world.next_state, distance, actions)


def _by_moves(layout: Layout) -> PoseTable:
    """Breadth first from the reset by the real step; the map stays as it is."""
    layout.reset()
    number, poses, rows = {layout.read_pose(): 1}, [layout.read_pose()], [[0] * len(layout.actions)]
    for pose in poses:  # grows
        row = []
        for action in layout.actions:
            layout.place(pose)
            reached, ended = layout.step(action)
            after = layout.read_pose()
            if not ended and after not in number:
                number[after] = len(number) + 1
                poses.append(after)
            row.append(0 if reached else len(number) + 10**9 if ended else number[after])
        rows.append(row)
    table = torch.tensor(rows)
    lost = len(table)  # one more state, of failed episodes
    table = torch.cat([table.where(table < 10**9, lost), torch.full((1, table.shape[1]), lost)])
    steps = distances_to(table, torch.tensor([0]))
    return PoseTable(torch.tensor(poses), torch.arange(1, lost), table, steps, layout.actions)


def _in_first_map(world: GridWorld) -> Tensor:
    """States of a table in which nothing but the agent's pose differs from the reset: [N] bool."""
    cells = world.observations.view(world.num_states, -1, sum(world.cell_features))
    height = world.image_shape[1]
    place = world.position[:, 0] * height + world.position[:, 1]
    start = world.start_state
    differs = (cells != cells[start]).any(-1)
    rows = torch.arange(world.num_states)
    differs[rows, place] = False
    differs[:, place[start]] = False
    empty = cells[rows[place != place[start]][0], place[start]]  # of a state that left where it began
    free = (cells[start, place] == empty).all(-1) | (place == place[start])
    left = (cells[:, place[start]] == empty).all(-1) | (place == place[start])
    return ~differs.any(1) & free & left & ~world.terminal & (world.carrying[:, 0] < 0)


def choose_episodes(layouts: Sequence[Layout], count: int, least: int, stream: str) -> Episodes:
    """`count` episodes dealt to layouts in turn, from random poses at least `least` true steps away.

    The first episodes are one of each layout, then follows a second of each, and so on.

    Where the true distances cannot be enumerated an episode begins at the reset. A layout in which no pose is
    so far gives its farthest.
    """
    draw = generator(0, f"{stream}/episodes")
    chosen: list[tuple[int, int, Tensor, float, int]] = []  # turn, layout, pose, distance, state
    tables: list[PoseTable | None] = []
    for index, layout in enumerate(layouts):
        wanted = len(range(index, count, len(layouts)))
        table = true_distances(layout) if wanted else None
        tables.append(table)
        if table is None:
            layout.reset()
            chosen += [(0, index, torch.tensor(layout.read_pose()), float("nan"), -1)] * min(wanted, 1)
            continue
        finite = table.distance.where(table.distance.isfinite(), -1.0)
        far = (finite >= min(least, float(finite.max()))).nonzero().flatten()
        for turn, row in enumerate(far[torch.randperm(len(far), generator=draw)[:wanted]].tolist()):
            distance, state = float(table.distance[row]), int(table.states[row])
            chosen.append((turn, index, table.poses[row], distance, state))
    chosen.sort(key=lambda episode: episode[:2])
    _, layout, pose, shortest, states = zip(*chosen, strict=True)
    return Episodes(
        layouts, torch.tensor(layout), torch.stack(pose), torch.tensor(shortest), tables, torch.tensor(states)
    )


@reads_settings(*EPISODE_FIELDS)
def measure_episodes(
    family: str, part: str, *, config: Exp7Config, device: torch.device
) -> dict[str, Tensor]:
    """Choose the episodes of a part, the same for every seed and planner: minutes where layouts are large.

    Returns:
        the tensors of `Episodes`, and of each enumerated layout {index}/.. those of its `PoseTable`.
    """
    layouts = part_of(family, part, config)
    moving = any(set(layout.actions) > set(MOVES) for layout in layouts)
    count = config.mode_episodes if moving else config.num_episodes
    chosen = choose_episodes(layouts, count, config.start_distance, f"{family}/{part}")
    found = {name: getattr(chosen, name) for name in ("layout", "pose", "shortest", "states")}
    for index, table in enumerate(chosen.tables):
        if table is not None:
            found |= {f"{index}/{name}": getattr(table, name) for name in TABLE}
            found[f"{index}/actions"] = torch.tensor(table.actions)
    return found


def draw_episodes(run: Run, part: str, families: Sequence[str]) -> dict[str, Measured]:
    """The episodes of a part, found once for everything that is measured on them.

    By family: of training layouts in those alone that are measured there.
    """
    some = [env for env in families if part == "test" or env in run.config.train_families]
    steps = [(measure_episodes, f"{env}/{part}/episodes", env, part) for env in some]
    return dict(zip(some, run.measure_all(steps), strict=True))


def episodes_of(family: str, part: str, found: Mapping[str, Tensor], config: Exp7Config) -> Episodes:
    """What `measure_episodes` chose."""
    layouts = part_of(family, part, config)
    tables = [
        PoseTable(
            **{name: found[f"{index}/{name}"] for name in TABLE},
            actions=tuple(found[f"{index}/actions"].tolist()),
        )
        if f"{index}/steps" in found
        else None
        for index in range(len(layouts))
    ]
    return Episodes(layouts, found["layout"], found["pose"], found["shortest"], tables, found["states"])


def part_of(family: str, part: str, config: Exp7Config) -> list[Layout]:
    """The layouts of a part, "test" or "train", as many as are planned in.

    Raises:
        ValueError: for another part.
    """
    if part not in ("test", "train"):
        raise ValueError(f"part is 'test' or 'train', not {part!r}")
    training, held_out = make_layouts(family, config.train_layouts, config.test_layouts)
    return held_out if part == "test" else training[: config.test_layouts]


# ----------------------------------------------------------------------------------------------
# Execution
# ----------------------------------------------------------------------------------------------


class Runner:
    """One episode in the real environment."""

    def __init__(self, episodes: Episodes, episode: int):
        """A layout of its own: another episode there would move the same agent."""
        shared = episodes.layouts[int(episodes.layout[episode])]
        self.layout = Layout(shared.name, shared.seed)
        self.layout.place(episodes.pose[episode])
        self.steps, self.success, self.over = 0, False, False
        self.poses = [self.layout.read_pose()]

    def take(self, action: int) -> None:
        """Take an action, an index of ACTIONS, unless the episode is over."""
        if not self.over:
            self.success, self.over = self.layout.step(action)
            self.steps += 1
            self.poses.append(self.layout.read_pose())

    def state(self) -> State:
        """What a model sees now."""
        return self.layout.read_map(), torch.tensor(self.layout.read_pose()), self.layout.read_carried()


def execute(
    episodes: Episodes, chosen: Sequence[int], plans: Tensor, columns: Sequence[Sequence[int]] | None = None
) -> list[Runner]:
    """Blind plans [E, T] of the chosen episodes, in the real environment.

    Args:
        episodes: of a family.
        chosen: E of them.
        plans: columns of the actions that each episode has.
        columns: of each chosen episode its actions, indices of ACTIONS; its layout's own if none are given.
    """
    runners = [Runner(episodes, episode) for episode in chosen]
    own = [runner.layout.actions for runner in runners] if columns is None else columns
    for runner, actions, plan in zip(runners, own, plans.tolist(), strict=True):
        for action in plan:
            runner.take(actions[action])
    return runners


@torch.no_grad()
def descend(
    episodes: Episodes, chosen: Sequence[int], steps: int, after: Callable[[Tensor], Tensor]
) -> Tensor:
    """Success [E] of taking, step by step, the action after which the goal seems nearest.

    `after`: observations [E, H, X] -> distances after each of their layouts' actions [E, A].
    """
    runners = [Runner(episodes, episode) for episode in chosen]
    for _ in range(steps):
        seen = torch.stack([runner.layout.read_observation() for runner in runners])
        for runner, action in zip(runners, after(seen).argmin(1).tolist(), strict=True):
            runner.take(runner.layout.actions[action])
    return success_of(runners)


def success_of(runners: Sequence[Runner]) -> Tensor:
    """Whether each reached the goal: [E] float64."""
    return torch.tensor([runner.success for runner in runners]).double()


def judge(runners: Sequence[Runner], shortest: Tensor) -> dict[str, Tensor]:
    """success, SPL (Anderson et al., 2018) and steps of episodes: [E] each, float64."""
    success = success_of(runners)
    steps = torch.tensor([runner.steps for runner in runners]).double()
    spl = torch.where(success > 0, shortest / torch.maximum(steps, shortest), 0.0)
    return {"success": success, "spl": spl.double(), "steps": steps}


def by_layout(values: Tensor, layout: Tensor) -> Tensor:
    """Means over the episodes of each layout, which share its map and its graph: [S, E], [E] -> [S, L]."""
    _, owner, counts = layout.unique(return_inverse=True, return_counts=True)
    return values.new_zeros(len(values), len(counts)).index_add_(1, owner, values) / counts
