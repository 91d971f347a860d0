"""What experiment 8 claims, as data: the report's central claim, and what would explain it away.

`necessary` and `jointly sufficient` are made of parts that all have to hold, so that no degenerate set of
models passes: where nothing succeeds, nothing is sufficient and no difference is above 0; where everything
does, no pillar is necessary. Planted ones fail in tests/test_exp8_criteria.py.
"""

from common.run.criteria import Criterion, with_whole

TIER = "beyond"
LOOP = "closed/T=20"
SEARCH, GRADIENT = "icem", "normalised_gradient"
PLANNERS = {SEARCH: ("iCEM", 0.8), GRADIENT: ("normalised gradient", 0.7)}  # with what `both` must reach
ALONE = 0.35  # what no corner but `both` may reach
SMALL = 0.1  # an effect that has vanished
HELD_OUT = ("spiral/lorenz", "s/roessler", "s/lorenz96", "s/lorenz_picture1")


def pillar_claims(scene: str, claim: str) -> tuple[Criterion, ...]:
    """`necessary` and `jointly sufficient` in one scene, of which each part is a criterion too."""
    parts = [part for planner in PLANNERS for part in _parts(scene, claim, planner)]
    whole = (
        ("necessary", "necessary: each pillar adds to the other, neither alone suffices", ("necessary",)),
        ("sufficient", "jointly sufficient: both reach the target", ("sufficient",)),
        ("central", "the report's claim: necessary and jointly sufficient", ("necessary", "sufficient")),
    )  # fmt: skip
    return (*parts, *(
        Criterion(f"exp8/{claim}/{name}", TIER, f"{scene}, {said}, by search and by gradient",
                  requires=tuple(part.id for part in parts if any(f"/{kind}/" in part.id for kind in kinds)))
        for name, said, kinds in whole
    ))  # fmt: skip


def _parts(scene: str, claim: str, planner: str) -> list[Criterion]:
    label, target = PLANNERS[planner]
    begin, effects = f"exp8/{claim}", f"{scene}/{planner}/{LOOP}"

    def success(corner: str) -> str:
        return f"{scene}/{corner}/{planner}/{LOOP}/success"

    return [
        Criterion(f"{begin}/sufficient/{planner}", TIER, f"{scene}, {label}: both reach {target:g}",
                  success("both"), ">=", target),
        Criterion(f"{begin}/sufficient/{planner}/chance", TIER,
                  f"{scene}, {label}: both at least .3 above a random policy",
                  success("both"), ">=", 0.3, minus=f"{scene}/random_policy/success"),
        Criterion(f"{begin}/sufficient/{planner}/straight", TIER,
                  f"{scene}, {label}: both at least .3 above walking straight at the goal",
                  success("both"), ">=", 0.3, minus=f"{scene}/straight_policy/success"),
        *(Criterion(f"{begin}/necessary/{planner}/{corner}", TIER,
                    f"{scene}, {label}: {corner} at most {ALONE:g}", success(corner), "<=", ALONE)
          for corner in ("none", "spectral", "metric")),
        *(Criterion(f"{begin}/necessary/{planner}/{effect}", TIER,
                    f"{scene}, {label}: {effect} above 0 (interval over seeds and tasks)",
                    f"{effects}/{effect}", ">", 0.0, bound="low")
          for effect in ("both_minus_spectral", "both_minus_metric", "interaction")),
    ]  # fmt: skip


def vanishing(scene: str, effect: str, planner: str) -> tuple[Criterion, ...]:
    """An effect that should vanish in a scene, where `both` still succeeds: else nothing could be seen."""
    begin, metric = f"exp8/vanish/{scene}/{planner}/{effect}", f"{scene}/{planner}/{LOOP}/{effect}"
    parts = (
        Criterion(f"{begin}/low", TIER, f"{scene}, {planner}: {effect} reaches down to 0",
                  metric, "<=", 0.0, bound="low"),
        Criterion(f"{begin}/high", TIER, f"{scene}, {planner}: {effect} reaches up to 0",
                  metric, ">=", 0.0, bound="high"),
        Criterion(f"{begin}/not_below", TIER, f"{scene}, {planner}: {effect} nowhere below -{SMALL:g}",
                  metric, ">=", -SMALL, bound="low"),
        Criterion(f"{begin}/not_above", TIER, f"{scene}, {planner}: {effect} nowhere above {SMALL:g}",
                  metric, "<=", SMALL, bound="high"),
        Criterion(f"{begin}/can", TIER, f"{scene}, {planner}: both reach .5",
                  f"{scene}/both/{planner}/{LOOP}/success", ">=", 0.5),
    )  # fmt: skip
    return with_whole(parts, begin, f"{scene}, {planner}: {effect} vanishes")


def suffices(variant: str, planner: str, without: str) -> tuple[Criterion, ...]:
    """A variant reaches what `both` must, well above chance and above the corner that it belongs to."""
    label, target = PLANNERS[planner]
    begin, success = f"exp8/ablation/{variant}/{planner}", f"ablation/{variant}/{planner}/{LOOP}/success"
    said = f"{variant} instead of both, {label}"
    parts = (
        Criterion(f"{begin}/reaches", TIER, f"{said}: it reaches {target:g}", success, ">=", target),
        Criterion(f"{begin}/beyond_doubt", TIER, f"{said}: above {ALONE:g} (interval)", success, ">", ALONE,
                  bound="low"),
        Criterion(f"{begin}/above", TIER, f"{said}: at least .3 above {without} alone", success, ">=", 0.3,
                  minus=f"s/lorenz/{without}/{planner}/{LOOP}/success"),
        Criterion(f"{begin}/chance", TIER, f"{said}: at least .3 above a random policy", success, ">=", 0.3,
                  minus="s/lorenz/random_policy/success"),
    )  # fmt: skip
    return with_whole(parts, f"{begin}/suffices", f"{said}: it suffices")


def needed(part: str, planner: str) -> tuple[Criterion, ...]:
    """Without a part of the first pillar what `both` must reach is missed, and `both` does reach it."""
    label, target = PLANNERS[planner]
    begin, case = f"exp8/ablation/without_{part}/{planner}", f"{planner}/{LOOP}"
    said, variant = f"without {part}, {label}", f"ablation/without_{part}+metric/{case}"
    parts = (
        Criterion(f"{begin}/both", TIER, f"{said}: both reach {target:g}", f"s/lorenz/both/{case}/success",
                  ">=", target),
        Criterion(f"{begin}/misses", TIER, f"{said}: below {target:g}", f"{variant}/success", "<", target),
        Criterion(f"{begin}/less", TIER, f"{said}: less than by both (interval)", f"{variant}/below_both",
                  ">", 0.0, bound="low"),
    )  # fmt: skip
    return with_whole(parts, f"{begin}/needed", f"{said}: it is needed")


def untamed_gradient(horizon: int) -> tuple[Criterion, ...]:
    """Plans of so many steps fail by a flat model's gradient, and by nothing else.

    With true predictions search succeeds; the flat gradient is behind it, the gradient of `both` is not.
    """
    begin, loop = f"exp8/gradient/T={horizon}", f"closed/T={horizon}"
    said, behind = f"true predictions, plans of {horizon}", f"{SEARCH}_minus_{GRADIENT}/{loop}/success"
    parts = (
        Criterion(f"{begin}/search_succeeds", TIER, f"{said}, a flat model's gradient: iCEM reaches .5",
                  f"cause/metric/true_value/{SEARCH}/{loop}/success", ">=", 0.5),
        Criterion(f"{begin}/gradient_fails", TIER, f"{said}: a flat model's gradient at least .2 below iCEM",
                  f"cause/metric/true_value/{behind}", ">=", 0.2),
        Criterion(f"{begin}/beyond_doubt", TIER, f"{said}: a flat model's gradient below iCEM (interval)",
                  f"cause/metric/true_value/{behind}", ">", 0.0, bound="low"),
        Criterion(f"{begin}/tamed_does_not", TIER, f"{said}: the gradient of both at most .1 below iCEM",
                  f"cause/both/true_value/{behind}", "<=", 0.1),
        Criterion(f"{begin}/tamed_succeeds", TIER, f"{said}, the gradient of both: it reaches .5",
                  f"cause/both/true_value/{GRADIENT}/{loop}/success", ">=", 0.5),
    )  # fmt: skip
    return with_whole(parts, f"{begin}/is_the_cause", f"{said}: a flat model fails by its gradient")


PARTS = ("macro", "multi_step", "noise", "bound")  # of the first pillar
PARTS_ALONE = ("macro_alone", "multi_step_alone", "noise_alone")  # beside the bound
PENALTIES = ("penalty_0.001", "penalty_0.01", "penalty_0.1", "penalty_1")  # the founding documents'
METRICS = ("infonce_published", "qrl_symmetric", "qrl")

CRITERIA = (
    *pillar_claims("s/lorenz", "s_lorenz"),
    *(claim for scene in HELD_OUT for claim in pillar_claims(scene, f"held_out/{scene.replace('/', '_')}")),
    *(claim for planner in PLANNERS for claim in vanishing("s/off", "main_spectral", planner)),
    *(claim for planner in PLANNERS for claim in vanishing("s/lorenz_near", "main_metric", planner)),
    *(Criterion(f"exp8/simulator/{planner}", TIER,
                f"{label}: the model of both plans better than the true simulator (interval)",
                f"s/lorenz/both_minus_simulator/{planner}/{LOOP}/success", ">", 0.0, bound="low")
      for planner, (label, _) in PLANNERS.items()),
    *(Criterion(f"exp8/long/{planner}/times={times}", TIER,
                f"{label}: a flat model with metric stays at most {ALONE:g}, trained {times} times as long",
                f"long/metric/times={times}/{planner}/{LOOP}/success", "<=", ALONE,
                requires=(f"exp8/s_lorenz/sufficient/{planner}",))
      for planner, (label, _) in PLANNERS.items() for times in (4, 16)),
    *(claim for horizon in (20, 50) for claim in untamed_gradient(horizon)),
    *(claim for part in PARTS for planner in PLANNERS for claim in needed(part, planner)),
    *(claim for part in (*PARTS_ALONE, *PENALTIES) for planner in PLANNERS
      for claim in suffices(f"{part}+metric", planner, without="metric")),
    *(claim for metric in METRICS for planner in PLANNERS
      for claim in suffices(f"spectral+{metric}", planner, without="spectral")),
    Criterion("exp8/wind_goal/asks_for_the_wind", TIER,
              f"where the goal includes the wind, a policy that does not see it reaches at most {ALONE:g}",
              "wind_goal/straight_policy/success", "<=", ALONE),
    Criterion("exp8/wind_goal/forgetting_costs", TIER,
              "where the goal includes the wind, iCEM: what the spectral pillar adds is below 0 (interval)",
              f"wind_goal/{SEARCH}/{LOOP}/main_spectral", "<", 0.0, bound="high",
              requires=("exp8/wind_goal/asks_for_the_wind",)),
)  # fmt: skip
