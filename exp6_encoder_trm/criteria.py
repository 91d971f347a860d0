"""What experiment 6 claims, as data: the founding document's grades and expectations, and its own."""

from common.run.criteria import Criterion
from exp6_encoder_trm.jobs import JOBS, MATCHES, MEMORISED

SETTING = "recoloured_3x3"  # the setting that needs its context
BEST = f"{SETTING}/best_encoder"  # the document's encoder that memorises most, E1 to E7

CRITERIA = (
    Criterion("exp6/minimal", "minimum viable",
              f"minimal success: an encoder of the document memorises {MATCHES:g} of what the table does",
              f"{BEST}/share_of_table", ">=", MATCHES),
    Criterion("exp6/good", "minimum viable", "good success: it memorises .8",
              f"{BEST}/train_exact", ">=", 0.8),
    Criterion("exp6/partial", "minimum viable", "partial success: it memorises more than .5",
              f"{BEST}/train_exact", ">", 0.5),
    Criterion("exp6/no_failure", "minimum viable",
              "no failure: it memorises .25 more than without a context",
              f"{BEST}/train_exact", ">=", 0.25, minus=f"{SETTING}/E_zero/train_exact"),
    *(Criterion(f"exp6/hypothesis/{name}", "published", f"{name}: {job.hypothesis} (every seed)",
                f"{SETTING}/{name}/hypothesis_held", ">=", 1.0)
      for name, job in JOBS.items()),
    Criterion("exp6/table", "beyond", f"E0, the table, memorises {MEMORISED:g} or more (every seed)",
              f"{SETTING}/E0/train_exact", ">=", MEMORISED, bound="worst"),
    Criterion("exp6/no_context", "beyond", "without a context .3 or less (every seed)",
              f"{SETTING}/E_zero/train_exact", "<=", 0.3, bound="worst"),
    Criterion("exp6/learns", "beyond",
              "the best encoder of the document memorises more than one that never learned (interval)",
              f"{BEST}_minus_E_diag1/train_exact", ">", 0.0, bound="low"),
    Criterion("exp6/needs_context", "beyond", "the setting needs its context: E0 is .5 above E_zero",
              f"{SETTING}/E0/train_exact", ">=", 0.5, minus=f"{SETTING}/E_zero/train_exact"),
    Criterion("exp6/tokens", "beyond",
              f"tokens, unpooled, memorise {MATCHES:g} of what the table does (every seed)",
              f"{SETTING}/tokens/share_of_table", ">=", MATCHES, bound="worst"),
    *(Criterion(f"exp6/explodes/{name}", "beyond",
                f"{name}: through 8 cycles the encoder's gradient is more than 8 times as large (every seed)",
                f"{SETTING}/{name}/gradient_growth", ">", 8.0, bound="worst")
      for name in ("E1", "tokens")),
    Criterion("exp6/clipping", "beyond",
              "clipping at 1 restores train exact where gradients go through all cycles (interval)",
              f"{SETTING}/clipping_through_8/train_exact", ">", 0.0, bound="low"),
    *(Criterion(f"exp6/unseen/{family}", "beyond",
                f"{family}: tokens solve unseen tasks .25 above copying (lower end)",
                f"{family}/tokens_minus_copy/unseen_exact", ">=", 0.25, bound="low")
      for family in ("colours", "grids")),
    *(Criterion(f"exp6/{minus}/{family}", "beyond",
                f"{family}: unseen tasks, tokens {least:g} above {label} (lower end)",
                f"{family}/tokens_minus_{minus}/unseen_exact", ">", least, bound="low")
      for family in ("colours", "grids", "arc")
      for minus, least, label in (("controls", 0.0, "copying, majority and rules trained on"),
                                  ("swapped", 0.1, "themselves with another task's demonstrations"),
                                  ("mean", 0.0, "the pooled encoder"))),
    *(Criterion(f"exp6/swapped_copy/{family}", "beyond",
                f"{family}: with another task's demonstrations tokens answer no more than copying",
                f"{family}/tokens/swapped_demos/exact", "<=", 0.0, minus=f"{family}/copy/unseen_exact")
      for family in ("colours", "grids", "arc")),
    *(Criterion(f"exp6/{means}/{family}", "beyond",
                f"{family}: unseen tasks, {label} adds to tokens (lower end)",
                f"{family}/{means}_minus_tokens/unseen_exact", ">", 0.0, bound="low")
      for family in ("colours", "grids", "arc")
      for means, label in (("search", "search on the context"), ("tuned", "tuning the weights"))),
    Criterion("exp6/voted/arc", "beyond",  # of small rules most augmentations are rules that were trained on
              "arc: unseen tasks, a vote of augmentations adds to tokens (lower end)",
              "arc/voted_minus_tokens/unseen_exact", ">", 0.0, bound="low"),
)  # fmt: skip
