"""Random layouts of MiniGrid families, walks in them, and training patches cut from the walks.

Shapes: L layouts, M distinct maps, W walks, K steps of a walk, H height, X width of a map, N samples.

A cell is one whole number, its content: what lies there (object, colour, state) and, where the agent stands,
its direction and what it carries. The agent's part is added to the map's, so a map without the agent is the
same grid with nothing added. What stands under the agent stays visible.
"""

from collections.abc import Sequence
from dataclasses import dataclass, fields

import torch
from minigrid.core.constants import COLOR_TO_IDX, OBJECT_TO_IDX
from torch import Tensor

from common.config import Exp7Config
from common.minigrid.live import EMPTY_CELL, choose_actions, make_live, maker, reset
from common.run.cache import reads_settings
from common.run.random import generator

ACTIONS = ("left", "right", "forward", "pickup", "drop", "toggle")
OBJECTS, COLOURS, STATES, DIRECTIONS = len(OBJECT_TO_IDX), len(COLOR_TO_IDX), 3, 4
AGENTS = (1 + DIRECTIONS) * OBJECTS * COLOURS  # what the agent's part of a content can be
PLANES = (OBJECTS, COLOURS, STATES, 1 + DIRECTIONS, OBJECTS, COLOURS)  # values of each plane
HELD_OUT = 300_000  # seed of the first layout that may be held out; settings were chosen on lower ones
FEWEST = 2  # held-out layouts of a family that has few
DRAWS = 50  # layouts drawn for each one wanted, before the family counts as too small
RADIUS = 3  # of training crops around the agent [cells]

Planes = Tensor  # [..., 6] int64: object, colour, state, agent (0: not here), carried object and colour


# ----------------------------------------------------------------------------------------------
# Contents
# ----------------------------------------------------------------------------------------------


def planes_of(contents: Tensor) -> Planes:
    """The integer planes of cells: [...] -> [..., 6] int64, each plane p in [0, PLANES[p])."""
    digits = []
    for size in reversed(PLANES):
        digits.append(contents % size)
        contents = contents // size
    return torch.stack(digits[::-1], -1).long()


def agent_part(direction: Tensor, carried: Tensor) -> Tensor:
    """What the agent adds to the content of its cell: directions and carried things [...] -> [...] int64."""
    return (1 + direction) * OBJECTS * COLOURS + carried


def with_agent(maps: Tensor, poses: Tensor, carried: Tensor) -> Tensor:
    """Whole observations: maps [N, H, X], poses [N, 3] (column, row, direction), carried [N] -> [N, H, X]."""
    grids = maps.long().clone()
    column, row, direction = poses.long().unbind(-1)
    grids[torch.arange(len(grids)), row, column] += agent_part(direction, carried.long())
    return grids


def without_agent(grids: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """The inverse of `with_agent`: [N, H, X] -> maps [N, H, X], poses [N, 3], carried [N].

    Where several cells claim the agent, or none does, the first cell with the most of it counts.
    """
    added = grids % AGENTS
    place = (added > 0).flatten(1).int().argmax(1)
    width = grids.shape[-1]
    here = added.flatten(1).gather(1, place[:, None])[:, 0]
    direction = (here // (OBJECTS * COLOURS) - 1).clamp(min=0)
    poses = torch.stack([place % width, place // width, direction], -1)
    return grids - added, poses, here % (OBJECTS * COLOURS)


# ----------------------------------------------------------------------------------------------
# Layouts
# ----------------------------------------------------------------------------------------------


class Layout:
    """One layout of a real MiniGrid environment, stepped by its own `step`, and read as contents."""

    def __init__(self, name: str, seed: int):
        """Raises ValueError for a name that is no MiniGrid environment."""
        self.name, self.seed = name, seed
        self.core = make_live(maker(name), "full", seed).unwrapped
        self.core.gen_obs = lambda: {}  # the views that steps return are of no use here
        names = choose_actions(self.core, None, ())
        self.actions = tuple(ACTIONS.index(action) for action in names)  # that its objects make possible

    def reset(self) -> None:
        """Back to the layout's first state."""
        reset(self.core, self.seed)

    def place(self, pose: Sequence[int]) -> None:
        """Put the agent at a pose (column, row, direction) of the present map."""
        column, row, direction = map(int, pose)
        self.core.agent_pos, self.core.agent_dir = (column, row), direction

    def step(self, action: int) -> tuple[bool, bool]:
        """Take an action, an index of ACTIONS: (whether the goal was reached, whether the episode ended)."""
        self.core.step_count = 0  # the time limit is not this experiment's
        _, reward, ended, _, _ = self.core.step(self.core.actions[ACTIONS[action]])
        return reward > 0, bool(ended)

    def read_map(self) -> Tensor:
        """The map without the agent, as contents: [H, X] int32."""
        grid = self.core.grid
        codes = [EMPTY_CELL if thing is None else thing.encode() for thing in grid.grid]
        cells = [((kind * COLOURS + colour) * STATES + state) * AGENTS for kind, colour, state in codes]
        return torch.tensor(cells, dtype=torch.int32).view(grid.height, grid.width)

    def read_pose(self) -> tuple[int, int, int]:
        """Column, row and direction of the agent."""
        return int(self.core.agent_pos[0]), int(self.core.agent_pos[1]), int(self.core.agent_dir)

    def read_carried(self) -> int:
        """What the agent carries, as `agent_part` takes it; 0 for nothing."""
        thing = self.core.carrying
        return 0 if thing is None else OBJECT_TO_IDX[thing.type] * COLOURS + COLOR_TO_IDX[thing.color]

    def read_observation(self) -> Tensor:
        """The whole map with the agent: [H, X] contents."""
        pose, held = torch.tensor([self.read_pose()]), torch.tensor([self.read_carried()])
        return with_agent(self.read_map()[None], pose, held)[0]


def layout_key(layout: Layout) -> bytes:
    """What makes two layouts the same: walls, doors and objects; not where the agent begins."""
    return layout.read_map().numpy().tobytes()


def make_layouts(name: str, training: int, held_out: int) -> tuple[list[Layout], list[Layout]]:
    """So many training and held-out layouts of a family; no map occurs twice, here or there.

    Of a family that has fewer, what training leaves is held out: SimpleCrossingS9N1 has 42 in all.

    Raises:
        ValueError: the family has too few different layouts, or no such family.
    """
    known: set[bytes] = set()
    drawn = _distinct(name, 0, training, known), _distinct(name, HELD_OUT, held_out, known)
    for layouts, least in zip(drawn, (training, min(held_out, FEWEST)), strict=True):
        if len(layouts) < least:
            raise ValueError(
                f"families (--families): {name} has fewer than {training + least} layouts in"
                f" {DRAWS} draws for each; allowed: fewer --train-layouts, or another family"
            )
    return drawn


def _distinct(name: str, first: int, count: int, known: set[bytes]) -> list[Layout]:
    """At most `count` layouts from seed `first` on, whose maps are not among `known`, which grows."""
    layouts: list[Layout] = []
    for seed in range(first, first + DRAWS * count):
        if len(layouts) == count:
            break
        layout = Layout(name, seed)
        if (key := layout_key(layout)) not in known:
            known.add(key)
            layouts.append(layout)
    return layouts


def require_disjoint(training: Sequence[Layout], held_out: Sequence[Layout]) -> None:
    """Raise AssertionError where a held-out layout was trained on."""
    shared = {layout_key(layout) for layout in training} & {layout_key(layout) for layout in held_out}
    if shared:
        raise AssertionError(f"{len(shared)} held-out layouts are among the training layouts")


# ----------------------------------------------------------------------------------------------
# Walks
# ----------------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class Walks:
    """Walks in several layouts of one family under uniformly random actions; an ended walk stays."""

    maps: Tensor  # [M, H, X] int32: every map that was met, without the agent
    map_index: Tensor  # [W, K + 1] int64
    poses: Tensor  # [W, K + 1, 3] int64: column, row, direction
    carried: Tensor  # [W, K + 1] int64
    actions: Tensor  # [W, K] int64, indices of ACTIONS
    reached: Tensor  # [W, K] bool: this transition reached the goal
    ended: Tensor  # [W, K + 1] bool: the episode had ended by then


class _Walker:
    """Walks of one layout: each begins in the state seen before that was visited least."""

    def __init__(self, layout: Layout, draw: torch.Generator):
        self.layout, self.draw = layout, draw
        self.maps: dict[bytes, int] = {}
        self.grids: list[Tensor] = []
        self.visits: dict[tuple, int] = {}
        self.routes: dict[tuple, tuple[tuple, int] | None] = {}  # from the reset: state before, action

    def state(self) -> tuple:
        """The present state: map, pose, carried."""
        grid = self.layout.read_map()
        index = self.maps.setdefault(grid.numpy().tobytes(), len(self.grids))
        if index == len(self.grids):
            self.grids.append(grid)
        return index, *self.layout.read_pose(), self.layout.read_carried()

    def restart(self) -> tuple:
        """Go to the least-visited state that was seen and goes on, ties at random; first to the reset."""
        self.layout.reset()
        if not self.routes:
            start = self.state()
            self.routes[start] = None
            return start
        least = min(self.visits[state] for state in self.routes)
        candidates = [state for state in self.routes if self.visits[state] == least]
        start = candidates[int(torch.randint(len(candidates), (), generator=self.draw))]
        route, state = [], start
        while (before := self.routes[state]) is not None:
            state, action = before
            route.append(action)
        for action in reversed(route):
            self.layout.step(action)
        return start

    def walk(self, length: int) -> tuple[list, list, list, list]:
        """One walk: states, actions, whether each step reached the goal, whether it had ended."""
        allowed = torch.tensor(self.layout.actions)
        choices = torch.randint(len(allowed), (length,), generator=self.draw)
        actions = allowed[choices].tolist()
        state = self.restart()
        states, reached, over = [state], [], [False]
        self.visits[state] = self.visits.get(state, 0) + 1
        for action in actions:
            goal, ended = (False, True) if over[-1] else self.layout.step(action)
            following = state if over[-1] else self.state()
            if not ended:
                self.routes.setdefault(following, (state, action))
                self.visits[following] = self.visits.get(following, 0) + 1
            state = following
            states.append(state)
            reached.append(goal)
            over.append(ended)
        return states, actions, reached, over


def walk_layouts(layouts: Sequence[Layout], num_walks: int, length: int, seed: int) -> Walks:
    """`num_walks` walks of `length` steps in each layout; one seed's walks are its own.

    The first walk of a layout begins at its reset, each later one at a state that its walks have ALREADY
    SEEN and visited least.
    """
    maps, records = [], []
    for layout in layouts:
        walker = _Walker(layout, generator(seed, f"{layout.name}/{layout.seed}/walks"))
        first = len(maps)
        for _ in range(num_walks):
            states, actions, reached, over = walker.walk(length)
            states = torch.tensor(states)
            states[:, 0] += first
            records.append((states, torch.tensor(actions), torch.tensor(reached), torch.tensor(over)))
        maps += walker.grids
    states, actions, reached, ended = (torch.stack(parts) for parts in zip(*records, strict=True))
    return Walks(torch.stack(maps), states[..., 0], states[..., 1:4], states[..., 4], actions, reached, ended)


@reads_settings("seeds", "num_walks", "walk_length", "train_layouts")
def collect_walks(family: str, *, config: Exp7Config, device: torch.device) -> dict[str, Tensor]:
    """Walks of every seed in the training layouts of a family, `{seed}/{field of Walks}`."""
    layouts, _ = make_layouts(family, config.train_layouts, 0)
    found = {}
    for seed in config.seeds:
        walks = walk_layouts(layouts, config.num_walks, config.walk_length, seed)
        found |= {f"{seed}/{field.name}": getattr(walks, field.name) for field in fields(walks)}
    return found


def walks_of(measured: dict[str, Tensor], seed: int) -> Walks:
    """One seed's walks out of what `collect_walks` returned."""
    return Walks(**{field.name: measured[f"{seed}/{field.name}"] for field in fields(Walks)})


# ----------------------------------------------------------------------------------------------
# Training patches
# ----------------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class Patches:
    """Distinct training samples: what two steps do around the agent."""

    before: Tensor  # [N, 7, 7] int64: contents around the agent; 0 beyond the map
    after: Tensor  # [N, 2, 7, 7] int64: the same cells after one and two steps
    actions: Tensor  # [N, 2] int64
    reached: Tensor  # [N] bool: the first step reached the goal
    changed: Tensor  # [N] bool: the first step changed the map or what is carried


def crop(grids: Tensor, centres: Tensor, radius: int) -> Tensor:
    """Cells around centres: [N, H, X], [N, 2] (column, row) -> [N, 2 r + 1, 2 r + 1]; 0 beyond the map."""
    padded = torch.nn.functional.pad(grids, [radius] * 4)
    reach = torch.arange(2 * radius + 1)
    rows = centres[:, 1, None, None] + reach[:, None]
    columns = centres[:, 0, None, None] + reach
    return padded[torch.arange(len(grids))[:, None, None], rows, columns]


def cut_patches(walks: Walks) -> Patches:
    """The distinct samples that walks hold, in an order that depends on them alone."""
    steps = walks.actions.shape[1] - 1
    grids = [
        with_agent(walks.maps[index.flatten()], poses.flatten(0, 1), carried.flatten())
        for index, poses, carried in (
            (
                walks.map_index[:, k : k + steps],
                walks.poses[:, k : k + steps],
                walks.carried[:, k : k + steps],
            )
            for k in range(3)
        )
    ]
    centres = walks.poses[:, :steps, :2].flatten(0, 1)
    crops = torch.stack([crop(grid, centres, RADIUS) for grid in grids], 1)  # [N, 3, 7, 7]
    actions = torch.stack([walks.actions[:, :steps], walks.actions[:, 1:]], -1).flatten(0, 1)
    now, then = slice(0, steps), slice(1, steps + 1)
    changed = (walks.map_index[:, now] != walks.map_index[:, then]) | (
        walks.carried[:, now] != walks.carried[:, then]
    )
    reached = walks.reached[:, :steps].flatten()
    rows = torch.cat([crops.flatten(1), actions, reached[:, None], changed.flatten()[:, None]], 1)
    rows = rows.unique(dim=0)
    crops = rows[:, :-4].view(-1, 3, *crops.shape[2:])
    return Patches(crops[:, 0], crops[:, 1:], rows[:, -4:-2], rows[:, -2].bool(), rows[:, -1].bool())


def join_patches(parts: Sequence[Patches]) -> Patches:
    """Those of several families together."""
    return Patches(**{
        field.name: torch.cat([getattr(part, field.name) for part in parts]) for field in fields(Patches)
    })  # fmt: skip
