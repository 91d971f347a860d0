"""What experiment 7 claims, as data: all on layouts that no model was trained on."""

from common.run.criteria import Criterion

TIER = "beyond"
EXACT = {  # least share of rollouts whose whole map is exact after 50 model steps
    "FourRooms": 0.99,
    "SimpleCrossingS9N3": 0.99,
    "DoorKey-8x8": 0.99,
    "KeyCorridorS3R1": 0.95,
}
WALLS = {"FourRooms": (30, 50), "SimpleCrossingS9N3": (30,)}  # with the horizons of the claim about CEM
DOORS = ("DoorKey-8x8", "KeyCorridorS3R1", "KeyCorridorS3R2", "KeyCorridorS3R3")

CRITERIA = (
    *(Criterion(f"exp7/exact/{env}", TIER, f"{env}: whole map exact after 50 snapped steps >= {least:g}",
                f"{env}/snapped/accuracy_50", ">=", least)
      for env, least in EXACT.items()),
    *(Criterion(f"exp7/belief/{env}/T={horizon}", TIER,
                f"{env}, open, T={horizon}: belief planner >= .85",
                f"{env}/belief/open/T={horizon}/success", ">=", 0.85)
      for env in WALLS for horizon in (30, 50)),
    *(Criterion(f"exp7/belief_minus_cem/{env}/T={horizon}", TIER,
                f"{env}, open, T={horizon}: belief planner at least .3 above CEM, equal evaluations",
                f"{env}/belief_minus_cem/open/T={horizon}/success", ">=", 0.3)
      for env, horizons in WALLS.items() for horizon in horizons),
    *(Criterion(f"exp7/doors/{env}", TIER, f"{env}, open, T=50: belief planner >= .9",
                f"{env}/belief/open/T=50/success", ">=", 0.9) for env in DOORS),
    *(Criterion(f"exp7/doors_minus_cem/{env}", TIER,
                f"{env}, open, T=50: belief planner at least .5 above CEM, equal evaluations",
                f"{env}/belief_minus_cem/open/T=50/success", ">=", 0.5) for env in DOORS),
    *(Criterion(f"exp7/doors_closed/{env}", TIER, f"{env}, closed, T=50: belief planner >= .95",
                f"{env}/belief/closed/T=50/success", ">=", 0.95) for env in DOORS),
    *(Criterion(f"exp7/fidelity/belief/{env}", TIER, f"{env}: gradient fidelity of the belief model >= .99",
                f"{env}/belief/gradient_fidelity", ">=", 0.99) for env in (*WALLS, *DOORS)),
    *(Criterion(f"exp7/fidelity/spatial/{env}", TIER,
                f"{env}: gradient fidelity of the flat spatial latent below .2",
                f"{env}/spatial/gradient_fidelity", "<", 0.2) for env in WALLS),
    *(Criterion(f"exp7/following_values/{env}", TIER,
                f"{env}: following V solves every held-out start, open, T=50",
                f"{env}/greedy/open/T=50/success", ">=", 1.0) for env in (*WALLS, *DOORS)),
)  # fmt: skip
