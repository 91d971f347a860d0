"""What experiment 3 claims, as data: the documents' tiers, and its own."""

from common.latent.criteria import GRIDS, planning_tier
from common.run.criteria import Criterion

CRITERIA = (
    *(criterion for env in GRIDS for criterion in planning_tier("exp3", "helm", "helm", "flat", env)),
    Criterion("exp3/mvp", "minimum viable", "HELM success > 0.30 at T=50, Empty-8x8, closed loop",
              "Empty-8x8/helm/helm/closed/T=50/success", ">", 0.30,
              requires=("exp3/fits/Empty-8x8", "exp3/above_plain/Empty-8x8")),
    Criterion("exp3/predicts", "beyond", "the flat model predicts: one-step accuracy >= .99, Empty-8x8",
              "Empty-8x8/flat/accuracy_1", ">=", 0.99),
    Criterion("exp3/fails", "beyond",
              "yet its flat gradient planner is 30 points below one that verifies, open, T=50",
              "Empty-8x8/flat/flat_gradient/open/T=50/success", "<", -0.3,
              minus="Empty-8x8/flat/verified_gradient/open/T=50/success"),
    Criterion("exp3/published/reconstruction", "published", "reconstruction model, flat planner: success 0",
              "Empty-8x8/flat/flat_gradient/open/T=50/success", "<=", 0.0,
              requires=("exp3/predicts", "exp3/fails")),
    Criterion("exp3/topology", "beyond", "its latent distance knows little of the steps: Spearman < .6",
              "Empty-8x8/flat/spearman", "<", 0.6, requires=("exp3/predicts",)),
    Criterion("exp3/published_failure", "beyond",
              "it predicts, and the published planner cannot plan through it: all three",
              requires=("exp3/predicts", "exp3/fails", "exp3/topology")),
    Criterion("exp3/chance", "beyond",
              "the flat gradient planner is less than 10 points above the random policy (upper end)",
              "Empty-8x8/flat/flat_gradient_minus_random_policy/open/T=50/success", "<", 0.1, bound="high",
              requires=("exp3/predicts", "exp3/fails")),
    *(Criterion(f"exp3/oracle/{planner}_T{horizon}", "beyond",
                f"oracle, Empty-16x16, open, T={horizon}: {planner} above CEM (lower end)",
                f"Empty-16x16/oracle/{planner}_minus_cem/open/T={horizon}/success", ">", 0.0, bound="low")
      for planner in ("verified_gradient", "helm") for horizon in (30, 50, 80)),
)  # fmt: skip
