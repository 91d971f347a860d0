"""The documents' tier of a latent world model, which experiments 3 and 4 share."""

from common.run.criteria import Criterion

GRIDS = ("Empty-8x8", "Empty-16x16", "KeyCorridorS3R1", "DoorKey-8x8", "FourRooms")


def planning_tier(
    experiment: str, model: str, variant: str, plain: str, env: str, said: str = ""
) -> tuple[Criterion, ...]:
    """The documents' tier of one model on one environment, closed loop, T = 50; `said` begins each claim.

    Each stands beside what an untrained model and a ceiling do not have: `variant`, the model's training,
    predicts one step; HELM in it is above random shooting in the `plain` model by 0.1, so that what is
    claimed is not had without it; and a tie with CEM succeeds.
    """
    helm, cem = (f"{env}/{model}/{planner}/closed/T=50/success" for planner in ("helm", "cem"))
    success, near, both = (f"{experiment}/strong/{name}/{env}" for name in ("success", "near_cem", "both"))
    fits, above = f"{experiment}/fits/{env}", f"{experiment}/above_plain/{env}"
    return (
        Criterion(fits, "beyond", f"{said}one-step accuracy >= .95, {env}",
                  f"{env}/{variant}/accuracy_1", ">=", 0.95),
        above_plain(above, f"{said}HELM", helm, plain, env),
        Criterion(success, "strong", f"{said}HELM success > 0.50 at T=50, {env}, closed loop",
                  helm, ">", 0.50, requires=(fits, above)),
        Criterion(near, "strong", f"{said}HELM within 10 points of CEM, T=50, {env}, and it succeeds",
                  helm, ">=", -0.10, minus=cem, requires=(success,)),
        Criterion(both, "strong", f"{said}both of these, {env}", requires=(success, near)),
        Criterion(f"{experiment}/above_shooting/{env}", "beyond",
                  f"{said}HELM at least 5 points above random shooting in the same model, T=50, {env}",
                  helm, ">=", 0.05, minus=f"{env}/{model}/random_shooting/closed/T=50/success"),
    )  # fmt: skip


def above_plain(name: str, who: str, metric: str, plain: str, env: str) -> Criterion:
    """What a ceiling does not have: success 0.1 above random shooting in the plain model, closed, T = 50."""
    claim = f"{who} at least 10 points above random shooting in the {plain} model, T=50, {env}"
    shooting = f"{env}/{plain}/random_shooting/closed/T=50/success"
    return Criterion(name, "beyond", claim, metric, ">=", 0.1, minus=shooting)
