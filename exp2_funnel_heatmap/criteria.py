"""What experiment 2 claims, as data."""

from common.run.criteria import Criterion


def _function_criteria(function: str) -> tuple[Criterion, ...]:
    """A tie with CMA-ES, over the starts that it ran from, counts only where the minimum is reached."""
    prefix, beyond, reached = f"functions/{function}", "beyond", f"exp2/{function}/reached"
    return (
        Criterion(reached, beyond,
                  f"{function}: mollified descent reaches the minimum (success > .5 in the worst seed)",
                  f"{prefix}/mollified_descent/success", ">", 0.5, bound="worst"),
        Criterion(f"exp2/{function}/cma_es", beyond,
                  f"{function}: mollified descent at or above CMA-ES (on its starts)",
                  f"{prefix}/mollified_descent_minus_cma_es/success", ">=", 0.0, requires=(reached,)),
        Criterion(f"exp2/{function}/cma_es_smooth", beyond,
                  f"{function}: mollified descent at or above CMA-ES on HELM's model (on its starts)",
                  f"{prefix}/mollified_descent_minus_cma_es_smooth/success", ">=", 0.0, requires=(reached,)),
    )  # fmt: skip


LEARNED = ("exp2/flat/r2", "exp2/flat/ripple_r2")  # without which a small coverage says nothing

CRITERIA = (
    Criterion("exp2/flat/r2", "beyond", "flat R^2 > .98 (aligned)", "aligned/flat/r2", ">", 0.98),
    Criterion("exp2/flat/ripple_r2", "beyond", "flat has learned the ripples: ripple-R^2 > .95 (aligned)",
              "aligned/flat/ripple_r2", ">", 0.95),
    Criterion("exp2/mvp", "minimum viable", "HELM basin coverage > 40% (aligned landscape)",
              "aligned/helm/coverage", ">", 0.40),
    Criterion("exp2/mvp/as_published", "minimum viable", "the same as published (lambda 1, sigma 0.05)",
              "aligned/helm_published/coverage", ">", 0.40),
    Criterion("exp2/strong/helm", "strong", "HELM basin coverage > 70% (aligned landscape)",
              "aligned/helm/coverage", ">", 0.70),
    Criterion("exp2/strong/as_published", "strong", "the same as published (lambda 1, sigma 0.05)",
              "aligned/helm_published/coverage", ">", 0.70),
    Criterion("exp2/strong/flat", "strong",
              "flat basin coverage at most about 15% (aligned landscape), and it has learned the landscape",
              "aligned/flat/coverage", "<=", 0.15, requires=LEARNED),
    Criterion("exp2/published/flat", "published", "flat coverage 4.3% (at most), the landscape learned",
              "aligned/flat/coverage", "<=", 0.043, requires=LEARNED),
    Criterion("exp2/published/as_published", "published",
              "HELM as published (lambda 1, sigma 0.05): coverage 96.4%",
              "aligned/helm_published/coverage", ">=", 0.964),
    Criterion("exp2/published/helm", "published", "HELM corrected (lambda 100): coverage 96.4%",
              "aligned/helm/coverage", ">=", 0.964),
    Criterion("exp2/flat/coverage", "beyond", "flat coverage < .05 (aligned), the landscape learned",
              "aligned/flat/coverage", "<", 0.05, requires=LEARNED),
    Criterion("exp2/helm/coverage", "beyond", "HELM corrected coverage >= .90 (aligned)",
              "aligned/helm/coverage", ">=", 0.90),
    Criterion("exp2/second_difference/coverage", "beyond", "second difference coverage >= .99 (aligned)",
              "aligned/helm_second_difference/coverage", ">=", 0.99),
    Criterion("exp2/second_difference/shrink", "beyond",
              "second difference keeps the basin: shrink >= .9 (aligned)",
              "aligned/helm_second_difference/shrink", ">=", 0.90),
    Criterion("exp2/theory", "beyond",
              "ripple gain within .05 of the closed-form filter over the whole map (worst)",
              "map/ripple_gain_error", "<=", 0.05),
    Criterion("exp2/theory/relative", "beyond",
              "ripple gain within 5% of the filter's over the whole map (worst point, mean of seeds)",
              "map/ripple_gain_relative_error", "<=", 0.05),
    Criterion("exp2/misaligned/reached", "beyond",
              "misaligned: mollified descent reaches the minimum from >= .98 of starts",
              "misaligned/mollified_descent/coverage", ">=", 0.98),
    *(Criterion(f"exp2/misaligned/above_{baseline}", "beyond",
                f"misaligned: mollified descent above {baseline} (paired, lower end)",
                f"misaligned/mollified_descent_minus_{baseline}/coverage", ">", 0.0, bound="low")
      for baseline in ("smoothed_flat", "smoothed_flat_hop", "multi_start")),
    Criterion("exp2/misaligned/above_smoothed_flat_hop/1200", "beyond",
              "misaligned, 1200 evaluations: mollified descent above smoothed_flat_hop (paired, lower end)",
              "misaligned/mollified_descent_minus_smoothed_flat_hop/coverage_at_1200", ">", 0.0, bound="low"),
    Criterion("exp2/random_landscapes", "beyond",
              "random landscapes: mollified descent's mean success >= .97",
              "random_landscapes/mollified_descent/success", ">=", 0.97),
    *(criterion for dimension in (2, 5) for name in ("ackley", "rastrigin", "griewank", "levy")
      for criterion in _function_criteria(f"{name}-{dimension}")),
)  # fmt: skip
