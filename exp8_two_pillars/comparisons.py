"""The comparisons of experiment 8: each part's measurements, and the metrics that they become."""

import itertools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from common.config import Exp8Config
from common.run.run import Run
from common.statistics import spearman
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
    judge_in_sight,
    measure_first_plans,
    measure_paths,
    measure_planning,
    measure_random_policy,
    measure_straight_policy,
    record_difference,
    record_effects,
    record_first_plans,
    record_outcome,
)
from exp8_two_pillars.models import WindModel
from exp8_two_pillars.parts import CORNERS, SEARCH, STUDIED, Scene, scenes, variants
from exp8_two_pillars.tasks import Tasks, make_tasks, make_wind_tasks, require_tasks
from exp8_two_pillars.world import World

Models = Mapping[World, Mapping[str, WindModel]]  # of every world, by variant
Found = Mapping[str, Tensor]


@dataclass(frozen=True)
class Study:
    """A scene with its tasks and the models trained in its world, by variant."""

    run: Run
    scene: Scene
    tasks: Tasks
    models: Mapping[str, WindModel]

    @classmethod
    def of(cls, run: Run, scene: Scene, models: Models) -> "Study":
        """With the tasks that the scene says."""
        tasks = make_tasks(scene.world, run.config.num_tasks, scene.steps, scene.judged_in)
        return cls(run, scene, tasks, models[scene.world])

    def plan(self, cases: Sequence[tuple[str, Plans]]) -> list[Found]:
        """What plans through variants' models come to, side by side: see `outcomes`."""
        return self.outcomes([self._planning(*case) for case in cases])

    def _planning(self, variant: str, plans: Plans) -> tuple:
        """The cached step of some plans, under the same name whatever part asks for it."""
        kind = f"{plans.source}/{plans.planner}/{plans.loop.name}"
        name = f"{self.scene.name}/planning/{variant}/{kind}"
        step = measure_paths if self.tasks.with_wind else measure_planning
        return step, name, self.scene.world, self.models[variant], self.tasks, plans

    def outcomes(self, steps: Sequence[tuple]) -> list[Found]:
        """What `judge_path` finds in the states that cached steps return, and these states."""
        walls = self.scene.world.walls
        return [
            found | judge_in_sight(found.get("states", found.get("positions")), self.tasks, walls)
            for found in self.run.measure_all(steps)
        ]

    def gradients(self, variant: str, source: str = "model") -> tuple:
        """The cached step of a source's gradients."""
        name = f"{self.scene.name}/gradients/{variant}/{source}"
        return measure_gradients, name, self.scene.world, self.models[variant], self.tasks, source


@dataclass(frozen=True)
class Attempt:
    """Plans through a variant's model, under the name of their metrics."""

    name: str
    variant: str
    plans: Plans


def attempt_all(study: Study, attempts: Sequence[Attempt]) -> dict[str, Found]:
    """Plan, side by side, and record every outcome: by name."""
    outcomes = study.plan([(attempt.variant, attempt.plans) for attempt in attempts])
    found = dict(zip([attempt.name for attempt in attempts], outcomes, strict=True))
    for name, outcome in found.items():
        record_outcome(study.run.results, name, outcome)
    return found


COMPARED = ("corners", "vanish", "held_out")  # parts with a 2x2 in scenes of their own


def check_tasks(config: Exp8Config) -> None:
    """Raise ValueError for a configuration some of whose parts have no tasks, or are the same."""
    compared = [scene.name for part in COMPARED if part in config.parts for scene in scenes(config, part)]
    if twice := [name for name in compared if compared.count(name) > 1]:
        raise ValueError(
            f"parts (--parts): {' '.join(config.parts)} measure {twice[0]} twice with --maze {config.maze} "
            f"--wind {config.wind}; allowed: one of these parts, or another maze or wind"
        )
    asked = {(scene.judged_in, scene.steps) for part in config.parts for scene in scenes(config, part)}
    for world, steps in asked:
        require_tasks(world, steps)


def all_loops(config: Exp8Config) -> list[Loop]:
    """Every horizon, closed and open."""
    return closed_loops(config) + blind_loops(config)


def closed_loops(config: Exp8Config) -> list[Loop]:
    """Every horizon, closed."""
    return [Loop("closed", horizon) for horizon in config.closed_horizons]


def blind_loops(config: Exp8Config) -> list[Loop]:
    """Every horizon, open."""
    return [Loop("open", horizon) for horizon in config.open_horizons]


def study_loop(config: Exp8Config) -> Loop:
    """The one that every part is measured in; the first, and `cause`, in every closed loop."""
    return Loop("closed", config.study_horizon)


def studied(config: Exp8Config) -> list[str]:
    """The planners of every part but the first."""
    return [planner for planner in STUDIED if planner in config.planners]


def study_cases(config: Exp8Config, loops: Sequence[Loop]) -> list[tuple[str, Loop]]:
    """Each of these planners in each of these loops."""
    return list(itertools.product(studied(config), loops))


def measure_models(study: Study, names: Mapping[str, str]) -> None:
    """What models know: {name}/{position_error, ..}/T={T}; `names` of their metrics, by variant.

    And what their first plans come to: {name}/{planner}/{planned_error,optimism}/T={T}.
    """
    scene, run = study.scene, study.run
    knowledge = run.measure_all([
        (measure_model, f"{scene.name}/model/{variant}", scene.world, study.models[variant], study.tasks)
        for variant in names
    ])  # fmt: skip
    gradients = run.measure_all([study.gradients(variant) for variant in names])
    for name, *found in zip(names.values(), knowledge, gradients, strict=True):
        for measured in found:
            record_model(run.results, name, measured, run.config.horizons)
    horizon = run.config.study_horizon
    cases = list(itertools.product(names, studied(run.config)))
    plans = run.measure_all([
        (measure_first_plans, f"{scene.name}/first plans/{variant}/{planner}", scene.world,
         study.models[variant], study.tasks, planner, horizon)
        for variant, planner in cases
    ])  # fmt: skip
    for (variant, planner), measured in zip(cases, plans, strict=True):
        record_first_plans(run.results, f"{names[variant]}/{planner}", horizon, measured)


# ----------------------------------------------------------------------------------------------
# The 2x2
# ----------------------------------------------------------------------------------------------


def compare_corners(study: Study, cases: Sequence[tuple[str, Loop]], name: str) -> None:
    """Metrics {name}/{corner}/{planner}/{loop}/.. and the effects {name}/{planner}/{loop}/{effect}."""
    found = attempt_all(study, [
        Attempt(f"{name}/{corner}/{planner}/{loop.name}", corner, Plans(planner, loop))
        for planner, loop in cases
        for corner in CORNERS
    ])  # fmt: skip
    for planner, loop in cases:
        case = f"{planner}/{loop.name}"
        corners = {corner: found[f"{name}/{corner}/{case}"] for corner in CORNERS}
        record_effects(study.run.results, f"{name}/{case}", corners)


def measure_controls(study: Study) -> None:
    """What the corners' models know, and what policies without a model reach."""
    measure_models(study, {corner: f"{study.scene.name}/{corner}" for corner in CORNERS})
    measure_policies(study, study.scene.name)


def measure_policies(study: Study, name: str) -> None:
    """What a random policy reaches, and one that walks straight at the goal: {name}/{..}_policy/.."""
    scene = study.scene
    policies = {"random_policy": measure_random_policy, "straight_policy": measure_straight_policy}
    steps = [
        (policy, f"{name}/{label.replace('_', ' ')}", scene.world, study.tasks)
        for label, policy in policies.items()
    ]
    for label, outcome in zip(policies, study.outcomes(steps), strict=True):
        record_outcome(study.run.results, f"{name}/{label}", outcome)


def run_corners(run: Run, models: Models) -> None:
    """Every planner, some in every loop; the simulator, the upper bound, budgets matched in network calls."""
    (scene,) = scenes(run.config, "corners")
    study, config = Study.of(run, scene, models), run.config
    measure_controls(study)
    others = [planner for planner in config.planners if planner not in STUDIED]
    cases = [*study_cases(config, all_loops(config)), *((name, study_loop(config)) for name in others)]
    compare_corners(study, cases, scene.name)
    truth = run.measure(measure_truth, f"{scene.name}/truth", scene.world)
    record_model(run.results, f"{scene.name}/true", truth, config.horizons)
    compare_simulator(study)
    match_calls(study)
    show(study)


def compare_simulator(study: Study) -> None:
    """The true dynamics with the learned distance of `both`, without the wind in it, and with the true cost.

    In every loop: the longer the plan, the further the true dynamics' exact gradient explodes.

    Metrics {scene}/{simulator,calm,cost_to_go}/.. and the differences {scene}/both_minus_{simulator,..}/...
    """
    run, name, sources = study.run, study.scene.name, study.run.config.simulators
    cases = study_cases(run.config, all_loops(run.config))
    found = attempt_all(study, [
        Attempt(f"{name}/{source}/{planner}/{loop.name}", "both", Plans(planner, loop, source))
        for planner, loop in cases
        for source in sources
    ])  # fmt: skip
    gradients = run.measure_all([study.gradients("both", source) for source in sources])
    for source, measured in zip(sources, gradients, strict=True):
        record_model(run.results, f"{name}/{source}", measured, run.config.horizons)
    models = study.plan([("both", Plans(*case)) for case in cases])
    for (planner, loop), both in zip(cases, models, strict=True):
        for source in sources:
            case = f"{planner}/{loop.name}"
            other = found[f"{name}/{source}/{case}"]
            record_difference(run.results, f"{name}/both_minus_{source}/{case}/success", both, other)


def match_calls(study: Study) -> None:
    """Macro models with as many network calls as a one-step model: {scene}/{corner}/{planner}_calls/.."""
    loop, times = study_loop(study.run.config), study.run.config.coarse_stride
    attempt_all(study, [
        Attempt(f"{study.scene.name}/{corner}/{planner}_calls/{loop.name}", corner,
                Plans(planner, loop, times=times))
        for planner in studied(study.run.config)
        for corner in ("spectral", "both")
    ])  # fmt: skip


def show(study: Study) -> None:
    """Arrays that pictures are drawn from: shown/{corner}/{energy,positions} of the first seed."""
    run, scene, tasks = study.run, study.scene, study.tasks
    maps = run.measure_all([
        (measure_energy_map, f"{scene.name}/energy map/{corner}", scene.world, study.models[corner], tasks)
        for corner in CORNERS
    ])  # fmt: skip
    plans = Plans(SEARCH, study_loop(run.config))
    paths = study.plan([(corner, plans) for corner in CORNERS])
    for corner, energy, path in zip(CORNERS, maps, paths, strict=True):
        run.results.add_array(f"shown/{corner}/energy", energy["energy"])
        run.results.add_array(f"shown/{corner}/positions", path["positions"][0])
    run.results.add_array("shown/goals", tasks.goals[:, :2])
    run.results.add_array("shown/walls", torch.tensor(scene.world.walls, dtype=torch.float64).view(-1, 4))


# ----------------------------------------------------------------------------------------------
# The other parts
# ----------------------------------------------------------------------------------------------


def run_scenes(run: Run, models: Models, part: str) -> None:
    """A 2x2 in each of a part's scenes."""
    for scene in scenes(run.config, part):
        study = Study.of(run, scene, models)
        measure_controls(study)
        compare_corners(study, study_cases(run.config, [study_loop(run.config)]), scene.name)


def run_variants(run: Run, models: Models, part: str) -> None:
    """Each of a part's variants, {part}/{variant}/.., and what it lacks: {planner}/{loop}/below_both."""
    (scene,) = scenes(run.config, part)
    study, loop = Study.of(run, scene, models), study_loop(run.config)
    planners = studied(run.config)
    names = {variant: f"{part}/{renamed(variant)}" for variant in variants(run.config, part)}
    measure_models(study, names)
    found = attempt_all(study, [
        Attempt(f"{name}/{planner}/{loop.name}", variant, Plans(planner, loop))
        for variant, name in names.items()
        for planner in planners
    ])  # fmt: skip
    boths = study.plan([("both", Plans(planner, loop)) for planner in planners])
    for planner, both in zip(planners, boths, strict=True):
        for name in names.values():
            case = f"{name}/{planner}/{loop.name}"
            record_difference(run.results, f"{case}/below_both", both, found[case])
    if part == "ablation" and SEARCH in planners:
        rank_explanations(run, [name for name in names.values() if name.endswith("+metric")], loop)


def rank_explanations(run: Run, variants: Sequence[str], loop: Loop) -> None:
    """What success goes with among variants: rank correlations over them, of each seed.

    Metrics ablation/ranks/{position_error,log10_jacobian_action,gradient_cosine,planned_error,optimism}, with
    success by SEARCH. These variants have one metric, and differ in their dynamics alone.
    """
    metrics, horizon = run.results.metrics, loop.horizon

    def values(quantity: str) -> Tensor:
        found = [metrics[f"{variant}/{quantity}"]["values"] for variant in variants]
        return torch.tensor(found, dtype=torch.float64)  # [V, S]

    success = values(f"{SEARCH}/{loop.name}/success")
    known = ("position_error", "log10_jacobian_action", "gradient_cosine")
    quantities = {name: f"{name}/T={horizon}" for name in known if horizon in run.config.horizons}
    quantities |= {name: f"{SEARCH}/{name}/T={horizon}" for name in ("planned_error", "optimism")}
    for name, quantity in quantities.items():
        pairs = zip(values(quantity).T, success.T, strict=True)
        run.results.add(f"ablation/ranks/{name}", [spearman(own, reached) for own, reached in pairs])


def renamed(variant: str) -> str:
    """A variant's name in metrics: times_4+metric is metric/times=4 among the longer trainings."""
    kind, _, metric = variant.partition("+")
    what, _, count = kind.partition("_")
    return f"{metric or 'none'}/{what}={count}" if what in ("times", "width") else variant


def run_cause(run: Run, models: Models) -> None:
    """Flat models whose predictions are true, or whose gradients are tamed: cause/{corner}/{source}/..

    Beside them true predictions with the gradient of `both`, which is tame. In every closed loop: the longer
    the plan, the further a flat model's gradient explodes. With the differences
    cause/{corner}/{source}/icem_minus_{planner}/{loop}/success.
    """
    (scene,) = scenes(run.config, "cause")
    study = Study.of(run, scene, models)
    exchanged = ("model", "true_value", "clipped", "smoothed")
    cases = [*itertools.product(("none", "metric"), exchanged), ("both", "true_value")]
    gradients = run.measure_all([study.gradients(*case) for case in cases])
    for (corner, source), measured in zip(cases, gradients, strict=True):
        record_model(run.results, f"cause/{corner}/{source}", measured, run.config.horizons)
    planned = study_cases(run.config, closed_loops(run.config))
    found = attempt_all(study, [
        Attempt(f"cause/{corner}/{source}/{planner}/{loop.name}", corner, Plans(planner, loop, source))
        for corner, source in cases
        for planner, loop in planned
    ])  # fmt: skip
    for corner, source in cases:
        prefix = f"cause/{corner}/{source}"
        for planner, loop in planned:
            if planner != SEARCH:
                pair = (found[f"{prefix}/{name}/{loop.name}"] for name in (SEARCH, planner))
                name = f"{prefix}/{SEARCH}_minus_{planner}/{loop.name}/success"
                record_difference(run.results, name, *pair)


def run_phase(run: Run, models: Models) -> None:
    """Success of the corners over wind strength and wall length, by iCEM: {cell}/{corner}/success.

    And of policies without a model: {cell}/{random,straight}_policy/success.
    """
    plans = Plans(SEARCH, study_loop(run.config))
    for scene in scenes(run.config, "phase"):
        study = Study.of(run, scene, models)
        attempt_all(study, [Attempt(f"{scene.name}/{corner}", corner, plans) for corner in CORNERS])
        measure_policies(study, scene.name)


def run_wind_goal(run: Run, models: Models) -> None:
    """Goals that include the wind: wind_goal/{corner}/{planner}/{loop}/.. and the effects."""
    (scene,) = scenes(run.config, "wind_goal")
    horizon = run.config.study_horizon
    tasks = make_wind_tasks(scene.world, run.config.num_tasks, horizon)
    study = Study(run, scene, tasks, models[scene.world])
    cases = study_cases(run.config, [Loop("closed", horizon), Loop("open", horizon)])
    compare_corners(study, cases, "wind_goal")
    measure_policies(study, "wind_goal")


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
