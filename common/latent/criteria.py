"""The documents' tier of a latent world model, which experiments 3 and 4 share."""

from common.run.criteria import Criterion


def planning_tier(experiment: str, model: str, env: str, said: str = "") -> tuple[Criterion, ...]:
    """The documents' tier of one model on one environment, closed loop, T = 50; `said` begins each claim."""
    helm, cem = (f"{env}/{model}/{planner}/closed/T=50/success" for planner in ("helm", "cem"))
    success, near, both = (f"{experiment}/strong/{name}/{env}" for name in ("success", "near_cem", "both"))
    return (
        Criterion(success, "strong", f"{said}HELM success > 0.50 at T=50, {env}, closed loop",
                  helm, ">", 0.50),
        Criterion(near, "strong", f"{said}HELM within 10 points of CEM, T=50, {env}",
                  helm, ">=", -0.10, minus=cem),
        Criterion(both, "strong", f"{said}both of these, {env}", requires=(success, near)),
    )  # fmt: skip
