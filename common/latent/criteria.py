"""The documents' tier of a latent world model, which experiments 3 and 4 share."""

from common.run.criteria import Criterion

GRIDS = ("Empty-8x8", "Empty-16x16", "KeyCorridorS3R1", "DoorKey-8x8", "FourRooms")


def planning_tier(
    experiment: str, model: str, variant: str, env: str, said: str = ""
) -> tuple[Criterion, ...]:
    """The documents' tier of one model on one environment, closed loop, T = 50; `said` begins each claim.

    Each stands beside what a ceiling and an untrained model do not have: a model that predicts one step
    (`variant` is its training), success above the random policy's by 0.1, and a tie with CEM that succeeds.
    """
    helm, cem = (f"{env}/{model}/{planner}/closed/T=50/success" for planner in ("helm", "cem"))
    success, near, both = (f"{experiment}/strong/{name}/{env}" for name in ("success", "near_cem", "both"))
    fits, above = f"{experiment}/fits/{env}", f"{experiment}/above_chance/{env}"
    return (
        Criterion(fits, "beyond", f"{said}one-step accuracy >= .95, {env}",
                  f"{env}/{variant}/accuracy_1", ">=", 0.95),
        Criterion(above, "beyond", f"{said}HELM at least 0.1 above the random policy, T=50, {env}",
                  helm, ">=", 0.1, minus=f"{env}/random_policy/T=50/success"),
        Criterion(success, "strong", f"{said}HELM success > 0.50 at T=50, {env}, closed loop",
                  helm, ">", 0.50, requires=(fits, above)),
        Criterion(near, "strong", f"{said}HELM within 10 points of CEM, T=50, {env}, and it succeeds",
                  helm, ">=", -0.10, minus=cem, requires=(success,)),
        Criterion(both, "strong", f"{said}both of these, {env}", requires=(success, near)),
        Criterion(f"{experiment}/above_shooting/{env}", "beyond",
                  f"{said}HELM at least 5 points above random shooting in the same model, T=50, {env}",
                  helm, ">=", 0.05, minus=f"{env}/{model}/random_shooting/closed/T=50/success"),
    )  # fmt: skip
