"""What experiment 5 claims, as data: the document's four expectations, and the repository's own."""

from common.run.criteria import Criterion

TASK = "sudoku_4x4"

DOCUMENT = (
    Criterion("exp5/loss_decreases", "published",
              "the feudal loss decreases in training (upper end), more than without its weight",
              f"{TASK}/directional_minus_head/feudal/loss_change", "<", 0.0, bound="high"),
    Criterion("exp5/accuracy_improves", "published", "goals improve exact accuracy (lower end)",
              f"{TASK}/directional_minus_baseline/exact", ">", 0.0, bound="low"),
    Criterion("exp5/optimal_weight", "published",
              "there is a best weight: chosen on other seeds, it beats weight 0 (lower end)",
              "sweep/best_weight/gain", ">", 0.0, bound="low"),
    Criterion("exp5/optimal_period", "published",
              "there is a best period: chosen on other seeds, it beats the others (lower end)",
              "sweep/best_period/gain", ">", 0.0, bound="low"),
)  # fmt: skip

LEARNING = (
    Criterion("exp5/learns", "minimum viable", "HRM solves held-out 4x4 puzzles: exact >= .75",
              f"{TASK}/baseline/exact", ">=", 0.75),
    Criterion("exp5/recursion_helps", "minimum viable", "from the first to the last segment exact gains .5",
              f"{TASK}/baseline/exact_gain", ">=", 0.5),
    Criterion("exp5/learns_well", "strong", "HRM solves held-out 4x4 puzzles: exact >= .88",
              f"{TASK}/baseline/exact", ">=", 0.88),
    Criterion("exp5/longer_gradients", "strong",
              "gradients through the segment beat the one-step gradient by .05",
              f"{TASK}/baseline_segment_minus_baseline/exact", ">=", 0.05),
    Criterion("exp5/longer_gradients_sure", "strong", "the same, lower end above 0",
              f"{TASK}/baseline_segment_minus_baseline/exact", ">", 0.0, bound="low"),
)  # fmt: skip

GOALS = (
    Criterion("exp5/beats_head", "beyond", "goals beat the head without a loss of its own (lower end)",
              f"{TASK}/directional_minus_head/exact", ">", 0.0, bound="low"),
    Criterion("exp5/beats_random", "beyond", "goals beat goals that nobody chose (lower end)",
              f"{TASK}/directional_minus_random_goals/exact", ">", 0.0, bound="low"),
    Criterion("exp5/goals_pay", "beyond", "goals pay: beyond the baseline and both controls",
              requires=("exp5/accuracy_improves", "exp5/beats_head", "exp5/beats_random")),
    Criterion("exp5/predict_pays", "beyond", "a manager that foretells beats the baseline (lower end)",
              f"{TASK}/predict_minus_baseline/exact", ">", 0.0, bound="low"),
    Criterion("exp5/pay_with_long_gradients", "beyond",
              "goals pay where gradients go through the segment (lower end)",
              f"{TASK}/directional_segment_minus_baseline_segment/exact", ">", 0.0, bound="low"),
    Criterion("exp5/goals_say_little", "beyond",
              "goals say little of the puzzle: with other puzzles' goals exact is still .7",
              f"{TASK}/directional/exact_swapped", ">=", 0.7),
    Criterion("exp5/naive_closes", "beyond", "the naive form lowers its loss by closing the gate: below .15",
              f"{TASK}/naive/feudal/gate", "<", 0.15),
    Criterion("exp5/naive_follows", "beyond", "while its cosine to the goal is above .9",
              f"{TASK}/naive/feudal/cosine", ">", 0.9),
)  # fmt: skip

RECURSION = (
    Criterion("exp5/contracts", "beyond", "rollouts of solved puzzles contract: growth a segment below 0",
              f"{TASK}/baseline/recursion/growth/solved", "<", 0.0),
    Criterion("exp5/unsolved_expand", "beyond",
              "after 4 segments unsolved puzzles' log10 norm is .3 above solved ones'",
              f"{TASK}/baseline/recursion/log10_jacobian/unsolved/T=4", ">=", 0.3,
              minus=f"{TASK}/baseline/recursion/log10_jacobian/solved/T=4"),
    Criterion("exp5/wrong_fixed_points", "beyond", "most unsolved puzzles end at a wrong fixed point: half",
              f"{TASK}/baseline/recursion/wrong_fixed_point", ">=", 0.5),
    Criterion("exp5/one_step_norm_misleads", "beyond",
              "yet one segment's largest singular value is above 1",
              f"{TASK}/baseline/recursion/singular_value/solved", ">", 1.0),
)  # fmt: skip

CRITERIA = (*DOCUMENT, *LEARNING, *GOALS, *RECURSION)
