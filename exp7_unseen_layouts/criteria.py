"""What experiment 7 claims, as data: all on layouts that no model was trained on."""

from common.run.criteria import Criterion, with_whole

TIER = "beyond"
EXACT = {  # least share of rollouts whose whole map is exact after 50 model steps
    "FourRooms": 0.99,
    "SimpleCrossingS9N3": 0.99,
    "DoorKey-8x8": 0.99,
    "KeyCorridorS3R1": 0.95,
}
WALLS = {"FourRooms": (30, 50), "SimpleCrossingS9N3": (30,)}  # with the horizons of the claim about CEM
DOORS = ("DoorKey-8x8", "KeyCorridorS3R1", "KeyCorridorS3R2", "KeyCorridorS3R3")


def exact_gradient(env: str) -> tuple[Criterion, ...]:
    """The belief's gradient is right, and of a model that is: by construction it is right in any belief."""
    begin = f"exp7/fidelity/belief/{env}"
    parts = (
        Criterion(f"{begin}/gradient", TIER, f"{env}: gradient fidelity of the belief model >= .99",
                  f"{env}/belief/gradient_fidelity", ">=", 0.99),
        Criterion(f"{begin}/values", TIER, f"{env}: its values order the starts as the true steps do, >= .95",
                  f"{env}/belief/spearman", ">=", 0.95),
    )  # fmt: skip
    return with_whole(parts, begin, f"{env}: a right gradient of right values")


def useless_gradient(env: str) -> tuple[Criterion, ...]:
    """The flat latent's gradient says nothing, though it predicts a step, and not because it is cut off."""
    begin, fidelity = f"exp7/fidelity/spatial/{env}", f"{env}/spatial/gradient_fidelity"
    parts = (
        Criterion(f"{begin}/above", TIER, f"{env}: gradient fidelity of the flat latent above -.2",
                  fidelity, ">", -0.2),
        Criterion(f"{begin}/below", TIER, f"{env}: and below .2", fidelity, "<", 0.2),
        Criterion(f"{begin}/predicts", TIER, f"{env}: it predicts the whole map after one step, >= .9",
                  f"{env}/spatial/accuracy_1", ">=", 0.9),
        Criterion(f"{begin}/free", TIER, f"{env}: at most a tenth of its latent is at its bound",
                  f"{env}/spatial/saturated/T=20", "<=", 0.1),
    )  # fmt: skip
    return with_whole(parts, begin, f"{env}: a flat latent that predicts, with a gradient that says nothing")


CRITERIA = (
    *(Criterion(f"exp7/exact/{env}", TIER, f"{env}: whole map exact after 50 snapped steps >= {least:g}",
                f"{env}/snapped/accuracy_50", ">=", least)
      for env, least in EXACT.items()),
    *(Criterion(f"exp7/belief/{env}/T={horizon}", TIER,
                f"{env}, open, T={horizon}: belief planner >= .85",
                f"{env}/belief/open/T={horizon}/success", ">=", 0.85)
      for env in WALLS for horizon in (30, 50)),
    *(Criterion(f"exp7/belief_minus_cem/{env}/T={horizon}", TIER,
                f"{env}, open, T={horizon}: belief planner .3 above CEM at equal evaluations (interval)",
                f"{env}/belief_minus_cem/open/T={horizon}/success", ">=", 0.3, bound="low")
      for env, horizons in WALLS.items() for horizon in horizons),
    *(Criterion(f"exp7/doors/{env}", TIER, f"{env}, open, T=50: belief planner >= .9",
                f"{env}/belief/open/T=50/success", ">=", 0.9) for env in DOORS),
    *(Criterion(f"exp7/doors_minus_cem/{env}", TIER,
                f"{env}, open, T=50: belief planner .5 above CEM at equal evaluations (interval)",
                f"{env}/belief_minus_cem/open/T=50/success", ">=", 0.5, bound="low") for env in DOORS),
    *(Criterion(f"exp7/doors_closed/{env}", TIER, f"{env}, closed, T=50: belief planner >= .95",
                f"{env}/belief/closed/T=50/success", ">=", 0.95) for env in DOORS),
    *(criterion for env in (*WALLS, *DOORS) for criterion in exact_gradient(env)),
    *(criterion for env in WALLS for criterion in useless_gradient(env)),
    *(Criterion(f"exp7/following_values/{env}", TIER,
                f"{env}: following V solves every held-out start, open, T=50",
                f"{env}/greedy/open/T=50/success", ">=", 1.0) for env in (*WALLS, *DOORS)),
)  # fmt: skip
