"""What experiment 4 claims, as data: the documents' tiers, and its own."""

from common.latent.criteria import GRIDS, above_plain, planning_tier
from common.run.criteria import Criterion

CRITERIA = (
    *(criterion for env in GRIDS
      for criterion in planning_tier("exp4", "unified", "unified", "baseline", env, "unified: ")),
    *(Criterion(f"exp4/unified/{name}", "beyond", f"unified: {label} >= .95, Empty-8x8",
                f"Empty-8x8/unified/{name}", ">=", 0.95)
      for name, label in (("spearman", "Spearman to the true steps"), ("greedy", "greedy descent arrives"),
                          ("accuracy_50", "50-step accuracy"))),
    Criterion("exp4/unified/spearman_16", "beyond", "unified: Spearman to the true steps >= .95, Empty-16x16",
              "Empty-16x16/unified/spearman", ">=", 0.95),
    Criterion("exp4/published/success", "published",
              "unified model: success 1.00, Empty-8x8, closed loop, its metric aligned",
              "Empty-8x8/unified/verified_gradient/closed/T=50/success", ">=", 1.0,
              requires=("exp4/unified/spearman", "exp4/unified/greedy")),
    Criterion("exp4/published/distance", "published", "unified model: final distance 0 (from about 7)",
              "Empty-8x8/unified/verified_gradient/closed/T=50/final_distance", "<=", 0.0,
              requires=("exp4/published/success",)),
    Criterion("exp4/published/as_published_aligned", "beyond",
              "unified as published: greedy descent arrives >= .95, Empty-8x8",
              "Empty-8x8/unified_published/greedy", ">=", 0.95),
    Criterion("exp4/published/as_published", "published",
              "unified as published (InfoNCE + spectral + HF): success 1.00, Empty-8x8, closed loop",
              "Empty-8x8/unified_published/verified_gradient/closed/T=50/success", ">=", 1.0,
              requires=("exp4/published/as_published_aligned",)),
    *(above_plain(f"exp4/above_plain/as_published/{env}", "unified as published: HELM",
                  f"{env}/unified_published/helm/closed/T=50/success", "baseline", env)
      for env in GRIDS),
    *(Criterion(f"exp4/strong/as_published/{env}", "strong",
                f"unified as published: HELM success > 0.50 at T=50, {env}, closed loop",
                f"{env}/unified_published/helm/closed/T=50/success", ">", 0.50,
                requires=(f"exp4/above_plain/as_published/{env}",))
      for env in GRIDS),
    Criterion("exp4/helm/success", "beyond", "HELM on the unified model: success 1.00, Empty-8x8, closed",
              "Empty-8x8/unified/helm/closed/T=50/success", ">=", 1.0,
              requires=("exp4/unified/spearman", "exp4/unified/greedy")),
    Criterion("exp4/baseline/predicts", "beyond",
              "the baseline predicts: one-step accuracy >= .99, Empty-8x8",
              "Empty-8x8/reconstruction/accuracy_1", ">=", 0.99),
    Criterion("exp4/baseline/fails", "beyond",
              "yet its flat gradient planner is 30 points below one that verifies, open, T=50",
              "Empty-8x8/baseline/flat_gradient/open/T=50/success", "<", -0.3,
              minus="Empty-8x8/baseline/verified_gradient/open/T=50/success"),
    Criterion("exp4/baseline/chance", "beyond",
              "baseline, flat planner, open, T=50: less than 10 points above the random policy (upper end)",
              "Empty-8x8/baseline/flat_gradient_minus_random_policy/open/T=50/success", "<", 0.1,
              bound="high", requires=("exp4/baseline/predicts", "exp4/baseline/fails")),
    *(Criterion(f"exp4/above_cem/{planner}_T{horizon}", "beyond",
                f"unified, Empty-16x16, open, T={horizon}: {planner} above CEM (lower end)",
                f"Empty-16x16/unified/{planner}_minus_cem/open/T={horizon}/success", ">", 0.0, bound="low")
      for planner in ("verified_gradient", "helm") for horizon in (50, 80)),
    *(Criterion(f"exp4/gradient/above_{peer}", "beyond",
                f"unified, Empty-16x16, open, T=50: verified_gradient above {label} (lower end)",
                f"Empty-16x16/unified/verified_gradient_minus_{peer}/open/T=50/success", ">", 0.0,
                bound="low")
      for peer, label in (("random_shooting", "random shooting"), ("hill_climbing", "hill climbing"),
                          ("verified_gradient_shuffled", "its own, shuffled over the steps"),
                          ("mppi", "MPPI"), ("icem", "iCEM"))),
    *(Criterion(f"exp4/pillars/16x16/{mode}_{planner}", "beyond",
                f"both pillars interact: {planner}, {mode} loop, T=50, Empty-16x16 (lower end)",
                f"two_pillars/Empty-16x16/{planner}/{mode}/T=50/interaction", ">", 0.0, bound="low")
      for mode in ("open", "closed") for planner in ("flat_gradient", "verified_gradient", "helm", "cem")),
    *(Criterion(f"exp4/pillars/closed_{planner}", "beyond",
                f"both pillars interact: {planner}, closed loop, T=50, Empty-8x8 (lower end)",
                f"two_pillars/Empty-8x8/{planner}/closed/T=50/interaction", ">", 0.0, bound="low")
      for planner in ("flat_gradient", "verified_gradient", "helm", "cem")),
)  # fmt: skip
