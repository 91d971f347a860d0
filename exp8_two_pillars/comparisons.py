"""The comparisons of experiment 8: each part's measurements, and the metrics that they become."""

import itertools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from common.config import Exp8Config
from common.run.run import Run
from exp8_two_pillars.analyze_models import (
    measure_energy_map,
    measure_gradients,
    measure_model,
    measure_truth,
    record_model,
)
from exp8_two_pillars.evaluate_planning import (
    Loop,
    Plans,
    measure_planning,
    measure_random_policy,
    record_difference,
    record_effects,
    record_outcome,
)
from exp8_two_pillars.models import WindModel
from exp8_two_pillars.parts import CORNERS, Scene, scenes, variants
from exp8_two_pillars.tasks import Tasks, make_tasks, make_wind_tasks
from exp8_two_pillars.world import World

Models = Mapping[World, Mapping[str, WindModel]]
Found = Mapping[str, Tensor]

STUDIED = ("normalised_gradient", "icem", "random_shooting")  # planners of every part but the first


@dataclass(frozen=True)
class Attempt:
    """Plans through a model, under the name of their metrics."""

    name: str
    model: WindModel
    plans: Plans


def attempt_all(run: Run, scene: Scene, tasks: Tasks, attempts: Sequence[Attempt]) -> dict[str, Found]:
    """Plan, side by side, and record every outcome: by name."""
    steps = [
        (
            measure_planning,
            f"{scene.name}/planning/{attempt.name}",
            scene.world,
            attempt.model,
            tasks,
            attempt.plans,
        )
        for attempt in attempts
    ]
    found = dict(zip([attempt.name for attempt in attempts], run.measure_all(steps), strict=True))
    for name, measured in found.items():
        record_outcome(run.results, name, measured)
    return found


def tasks_of(scene: Scene, config: Exp8Config) -> Tasks:
    """A scene's tasks."""
    return make_tasks(scene.world, config.num_tasks, scene.steps, scene.judged_in)


def all_loops(config: Exp8Config) -> list[Loop]:
    """Every horizon, closed and open."""
    closed = [Loop("closed", horizon) for horizon in config.closed_horizons]
    return closed + [Loop("open", horizon) for horizon in config.open_horizons]


def study_loop(config: Exp8Config) -> Loop:
    """The one that every part but the first is measured in."""
    return Loop("closed", config.study_horizon)


def studied(config: Exp8Config) -> list[str]:
    """The planners of every part but the first."""
    return [planner for planner in STUDIED if planner in config.planners]


def measure_models(
    run: Run, scene: Scene, tasks: Tasks, models: Mapping[str, WindModel], names: Mapping[str, str]
) -> None:
    """What each model knows: {its name in metrics}/{position_error, ..}/T={T}; `names` by variant."""
    steps = [
        (measure, f"{scene.name}/{kind}/{variant}", scene.world, models[variant], tasks)
        for variant in names
        for kind, measure in (("model", measure_model), ("gradients", measure_gradients))
    ]
    found = run.measure_all(steps)
    for variant, knows, gradients in zip(names, found[::2], found[1::2], strict=True):
        record_model(run.results, names[variant], {**knows, **gradients}, run.config.horizons)


# ----------------------------------------------------------------------------------------------
# The 2x2
# ----------------------------------------------------------------------------------------------


def compare_corners(
    run: Run, scene: Scene, tasks: Tasks, models: Mapping[str, WindModel], planners: Sequence[str],
    loops: Sequence[Loop],
) -> None:  # fmt: skip
    """Metrics {scene}/{corner}/{planner}/{loop}/.. and the effects {scene}/{planner}/{loop}/{effect}."""
    cases = list(itertools.product(planners, loops))
    found = attempt_all(run, scene, tasks, [
        Attempt(f"{scene.name}/{corner}/{planner}/{loop.name}", models[corner], Plans(planner, loop))
        for planner, loop in cases
        for corner in CORNERS
    ])  # fmt: skip
    for planner, loop in cases:
        corners = {corner: found[f"{scene.name}/{corner}/{planner}/{loop.name}"] for corner in CORNERS}
        record_effects(run.results, f"{scene.name}/{planner}/{loop.name}", corners)


def compare_scene(run: Run, scene: Scene, models: Models) -> Tasks:
    """A scene's 2x2 with the planners of every part, what its models know, and a random policy."""
    tasks, here = tasks_of(scene, run.config), models[scene.world]
    measure_models(run, scene, tasks, here, {corner: f"{scene.name}/{corner}" for corner in CORNERS})
    policy = run.measure(measure_random_policy, f"{scene.name}/random policy", scene.world, tasks)
    record_outcome(run.results, f"{scene.name}/random_policy", policy)
    return tasks


def run_corners(run: Run, models: Models) -> None:
    """Every planner and loop, the simulator, the upper bound, budgets matched in network calls."""
    (scene,) = scenes(run.config, "corners")
    here, config = models[scene.world], run.config
    tasks = compare_scene(run, scene, models)
    compare_corners(run, scene, tasks, here, config.planners, all_loops(config))
    truth = run.measure(measure_truth, f"{scene.name}/truth", scene.world)
    record_model(run.results, f"{scene.name}/true", truth, config.horizons)
    compare_simulator(run, scene, tasks, here["both"])
    match_calls(run, scene, tasks, here)
    show(run, scene, tasks, here)


def compare_simulator(run: Run, scene: Scene, tasks: Tasks, model: WindModel) -> None:
    """The true dynamics with the learned distance of `both`, and with the true cost-to-go.

    Metrics {scene}/simulator/.., {scene}/cost_to_go/.., and the difference {scene}/both_minus_simulator/...
    """
    cases = list(itertools.product(studied(run.config), all_loops(run.config)))
    found = attempt_all(run, scene, tasks, [
        Attempt(f"{scene.name}/{source}/{planner}/{loop.name}", model, Plans(planner, loop, source))
        for planner, loop in cases
        for source in ("simulator", "cost_to_go")
    ])  # fmt: skip
    gradients = run.measure(
        measure_gradients, f"{scene.name}/gradients/simulator", scene.world, model, tasks, "simulator"
    )
    record_model(run.results, f"{scene.name}/simulator", gradients, run.config.horizons)
    for planner, loop in cases:
        plans = Plans(planner, loop)
        case = f"{planner}/{loop.name}"
        both = run.measure(
            measure_planning, f"{scene.name}/planning/both/{case}", scene.world, model, tasks, plans
        )
        name = f"{scene.name}/both_minus_simulator/{case}/success"
        record_difference(run.results, name, both, found[f"{scene.name}/simulator/{case}"])


def match_calls(run: Run, scene: Scene, tasks: Tasks, models: Mapping[str, WindModel]) -> None:
    """Macro models with as many network calls as a one-step model: {scene}/{corner}/{planner}_calls/.."""
    loop, times = study_loop(run.config), run.config.coarse_stride
    attempt_all(run, scene, tasks, [
        Attempt(f"{scene.name}/{corner}/{planner}_calls/{loop.name}", models[corner],
                Plans(planner, loop, times=times))
        for planner in studied(run.config)
        for corner in ("spectral", "both")
    ])  # fmt: skip


def show(run: Run, scene: Scene, tasks: Tasks, models: Mapping[str, WindModel]) -> None:
    """Arrays that pictures are drawn from: shown/{corner}/{energy,positions} of the first seed."""
    planner, loop = studied(run.config)[-1], study_loop(run.config)
    steps = [
        (measure_energy_map, f"{scene.name}/energy map/{corner}", scene.world, models[corner], tasks)
        for corner in CORNERS
    ]
    for corner, found in zip(CORNERS, run.measure_all(steps), strict=True):
        paths = run.measure(
            measure_planning, f"{scene.name}/planning/{corner}", scene.world, models[corner], tasks,
            Plans(planner, loop),
        )  # fmt: skip
        run.results.add_array(f"shown/{corner}/energy", found["energy"])
        run.results.add_array(f"shown/{corner}/positions", paths["positions"][0])
    run.results.add_array("shown/goals", tasks.goals[:, :2])
    run.results.add_array("shown/walls", torch.tensor(scene.world.walls, dtype=torch.float64))


# ----------------------------------------------------------------------------------------------
# The other parts
# ----------------------------------------------------------------------------------------------


def run_scenes(run: Run, models: Models, part: str) -> None:
    """A 2x2 in each of a part's scenes."""
    for scene in scenes(run.config, part):
        tasks = compare_scene(run, scene, models)
        compare_corners(run, scene, tasks, models[scene.world], studied(run.config), [study_loop(run.config)])


def run_variants(run: Run, models: Models, part: str) -> None:
    """Each of a part's variants by itself: {part}/{variant}/.."""
    (scene,) = scenes(run.config, part)
    here, tasks, loop = models[scene.world], tasks_of(scene, run.config), study_loop(run.config)
    names = {variant: f"{part}/{renamed(variant)}" for variant in variants(run.config, part)}
    measure_models(run, scene, tasks, here, names)
    attempt_all(run, scene, tasks, [
        Attempt(f"{name}/{planner}/{loop.name}", here[variant], Plans(planner, loop))
        for variant, name in names.items()
        for planner in studied(run.config)
    ])  # fmt: skip


def renamed(variant: str) -> str:
    """A variant's name in metrics: times_4+metric is metric/times=4 among the longer trainings."""
    kind, _, metric = variant.partition("+")
    what, _, count = kind.partition("_")
    return f"{metric or 'none'}/{what}={count}" if what in ("times", "width") else variant


def run_cause(run: Run, models: Models) -> None:
    """Flat models whose predictions are true, or whose gradients are tamed: cause/{corner}/{source}/.."""
    (scene,) = scenes(run.config, "cause")
    here, tasks, loop = models[scene.world], tasks_of(scene, run.config), study_loop(run.config)
    cases = list(itertools.product(("none", "metric"), ("model", "true_value", "clipped", "smoothed")))
    for corner, source in cases:
        gradients = run.measure(
            measure_gradients,
            f"{scene.name}/gradients/{corner}/{source}",
            scene.world,
            here[corner],
            tasks,
            source,
        )
        record_model(run.results, f"cause/{corner}/{source}", gradients, run.config.horizons)
    attempt_all(run, scene, tasks, [
        Attempt(f"cause/{corner}/{source}/{planner}/{loop.name}", here[corner], Plans(planner, loop, source))
        for corner, source in cases
        for planner in studied(run.config)
    ])  # fmt: skip


def run_phase(run: Run, models: Models) -> None:
    """Success of the corners over wind strength and wall length, by one planner: {cell}/{corner}/success."""
    loop, planner = study_loop(run.config), studied(run.config)[-1]
    for scene in scenes(run.config, "phase"):
        attempt_all(run, scene, tasks_of(scene, run.config), [
            Attempt(f"{scene.name}/{corner}", models[scene.world][corner], Plans(planner, loop))
            for corner in CORNERS
        ])  # fmt: skip


def run_wind_goal(run: Run, models: Models) -> None:
    """Goals that include the wind: wind_goal/{corner}/{planner}/{loop}/.. and the effects."""
    (scene,) = scenes(run.config, "wind_goal")
    horizon = run.config.study_horizon
    tasks = make_wind_tasks(scene.world, run.config.num_tasks, horizon)
    as_named = Scene("wind_goal", scene.world, scene.steps, scene.judged_in)
    loops = [Loop("closed", horizon), Loop("open", horizon)]
    compare_corners(run, as_named, tasks, models[scene.world], studied(run.config), loops)


PARTS: dict[str, Callable[[Run, Models], None]] = {
    "corners": run_corners,
    "vanish": lambda run, models: run_scenes(run, models, "vanish"),
    "ablation": lambda run, models: run_variants(run, models, "ablation"),
    "long": lambda run, models: run_variants(run, models, "long"),
    "cause": run_cause,
    "phase": run_phase,
    "held_out": lambda run, models: run_scenes(run, models, "held_out"),
    "wind_goal": run_wind_goal,
}
