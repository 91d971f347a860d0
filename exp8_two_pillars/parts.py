"""What each part of experiment 8 is run on: worlds with their tasks, and the variants trained there."""

from dataclasses import dataclass, replace

from common.config import Exp8Config
from exp8_two_pillars.dataset import Walks, make_walks
from exp8_two_pillars.world import World

CORNERS = ("none", "spectral", "metric", "both")
SEARCH = "icem"  # the planner of pictures and of the phase diagram
STUDIED = ("normalised_gradient", "icem", "random_shooting")  # planners of every part but the first
OTHER_METRICS = ("infonce_published", "qrl_symmetric", "qrl")
WIDTHS = (2,)  # of wider flat models, in multiples of the configuration's
# Each is trained with and without the metric; the flat ones are parts alone, the last four parts left out.
FLAT_PARTS = ("noise_alone", "unbounded")
HELM_PARTS = (
    "macro_alone", "multi_step_alone", "without_macro", "without_multi_step", "without_noise", "without_bound"
)  # fmt: skip
HELD_OUT_PICTURE = 12  # pixels along the side of another picture, with another projection of the wind


@dataclass(frozen=True)
class Scene:
    """A world and its tasks, under the name that its metrics begin with."""

    name: str
    world: World
    steps: tuple[int, int]  # fewest and most from start to goal
    judged_in: World  # in which that many are counted


def base_world(config: Exp8Config) -> World:
    """The configuration's own."""
    world = World(
        config.maze, config.wall_length, "lorenz" if config.wind == "off" else config.wind,
        config.wind_push, config.wind_kick, config.wind_share, config.picture_size,
    )  # fmt: skip
    return windless(world) if config.wind == "off" else world


def windless(world: World) -> World:
    """Without a wind that pushes or shows."""
    return replace(world, push=0.0, share=0.0)


def scenes(config: Exp8Config, part: str) -> list[Scene]:
    """Where a part is measured."""
    base = base_world(config)
    far, open_ = config.task_steps, replace(base, maze="none")
    if part == "vanish":
        worlds = (windless(base), open_, windless(open_))
        return [
            *(Scene(world.name, world, far, base) for world in worlds),
            Scene(f"{base.name}_near", base, config.near_steps, base),
        ]
    if part == "held_out":
        picture = replace(base, side=HELD_OUT_PICTURE, projection=1)
        worlds = (replace(base, maze="spiral", wall_length=0.75), replace(base, wind="roessler"),
                  replace(base, wind="lorenz96"), picture)  # fmt: skip
        return [Scene(world.name, world, far, world) for world in worlds]
    if part == "phase":
        return [
            Scene(f"phase/wind={wind:g}/detour={length:g}", phase_world(base, wind, length), far, base)
            for wind in config.phase_winds
            for length in config.phase_walls
        ]
    return [Scene(base.name, base, far, base)]


def phase_world(base: World, wind: float, length: float) -> World:
    """A cell of the phase diagram: `wind` times the usual push and share, walls of this length."""
    return replace(base, wall_length=length, push=wind * base.push, share=wind * base.share)


def variants(config: Exp8Config, part: str) -> tuple[str, ...]:
    """The names of the variants that a part compares, of flat_variants and helm_variants."""
    if part == "ablation":
        penalties = tuple(f"penalty_{weight:g}" for weight in config.spectral_sweep)
        parts = (*FLAT_PARTS, *penalties, *HELM_PARTS)
        both = [f"{base}+{metric}" for metric in OTHER_METRICS for base in ("none", "spectral")]
        return (*parts, *(f"{name}+metric" for name in parts), *both)
    if part == "long":
        longer = (*(f"times_{times}" for times in config.long_times), *(f"width_{width}" for width in WIDTHS))
        return (*longer, *(f"{name}+metric" for name in longer))
    return CORNERS


def trained(config: Exp8Config, part: str) -> tuple[str, ...]:
    """The variants that a part needs: those that it compares, and what it compares variants with."""
    with_both = ("both",) if part in ("ablation", "long") else ()
    return (*variants(config, part), *with_both)


def trainings_of(config: Exp8Config) -> dict[Scene, tuple[str, ...]]:
    """What is trained for the configuration's parts: for each world one scene, with all its variants."""
    found: dict[World, tuple[Scene, dict[str, None]]] = {}
    for part in config.parts:
        for scene in scenes(config, part):
            _, names = found.setdefault(scene.world, (scene, {}))
            names |= dict.fromkeys(trained(config, part))
    return {scene: tuple(names) for scene, names in found.values()}


def training_walks(world: World, config: Exp8Config) -> Walks:
    """What every model of a seed is trained on."""
    return make_walks(world, config.seeds, config.num_walks, config.walk_length)
