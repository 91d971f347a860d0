"""What experiment 5 measures of every variant: answers over segments, halting, and what its goals do.

Shapes: S seeds, E held-out puzzles, K segments, C segments with a goal, G goal.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from common.config import Exp5Config
from common.recursion.carry import Halting
from common.recursion.model import States
from common.recursion.rollout import evaluate, everyone, halting_segment
from common.recursion.training import halting_of
from common.run.cache import reads_settings
from common.run.results import Results
from exp5_feudal_hrm.dataset import Task
from exp5_feudal_hrm.feudal import Feudal, FeudalVariant, Goals, make_feudal, random_goals
from exp5_feudal_hrm.models import HRM, FeudalHRM
from exp5_feudal_hrm.train_baseline import BaselineVariant

# Pairs of variants that are compared puzzle by puzzle, beside each one with the baseline.
COMPARED = (
    ("directional", "head"), ("directional", "random_goals"), ("predict", "head"),
    ("predict", "random_goals"), ("naive", "head"), ("directional_segment", "baseline_segment"),
    ("directional_fixed", "baseline_fixed"), ("predict_segment", "baseline_segment"),
    ("contrastive", "head"), ("contrastive_segment", "baseline_segment"), ("detached", "head"),
    ("cells", "head"),
)  # fmt: skip
Measurements = Mapping[str, Mapping[str, Tensor]]


class EvaluationGoals:
    """The goals of puzzles that are evaluated, segment after segment, and a record of them."""

    def __init__(
        self, model: FeudalHRM, task: str, variant: FeudalVariant, seeds: Sequence[int], goals: Goals
    ):
        """`task` and `seeds` name the draws of goals that nobody chose."""
        self.model, self.task, self.variant, self.seeds, self.goals = model, task, variant, seeds, goals
        self.segment: int = 0
        self.feudal: Feudal | None = None
        self.record: dict[str, list[Tensor]] = {"goal": [], "moved": [], "gate": []}

    def begin(self, rows: int) -> "EvaluationGoals":
        """For so many puzzles that begin."""
        self.segment, self.rows = 0, rows
        places = self.model.sizes.prefix + self.model.sizes.cells
        self.feudal = make_feudal(self.model.head, self.variant, rows, places, self.goals)
        return self

    def guide(self) -> Tensor | None:
        """See common.recursion.rollout.Guide."""
        return self.feudal.guide()

    def observe(self, states: States) -> None:
        """See common.recursion.rollout.Guide."""
        if self.segment:
            goal, gate = self.feudal.goal()
            moved = self.feudal.compared(states, self.variant.form)
            for name, value in (("goal", goal), ("moved", moved), ("gate", gate)):
                self.record[name].append(value)
        self.segment += 1
        given = None
        if self.variant.random_goals:
            stream = f"{self.task}/evaluation goals/{self.segment}"
            given = random_goals(self.seeds, stream, self.rows, self.feudal.given.shape[-1])
            given = given.to(self.feudal.given.device)
        self.feudal.emit(states, self.feudal.cost, given)


def make_goals(
    task: Task,
    model: HRM,
    variant: FeudalVariant | BaselineVariant,
    seeds: Sequence[int],
    goals: Goals = "own",
) -> EvaluationGoals | None:
    """Of a model that has them."""  # fmt: skip
    if isinstance(variant, BaselineVariant):
        return None
    return EvaluationGoals(model, task.name, variant, seeds, goals)


@reads_settings("seeds", "segments", "adaptive_halting", "exploration", "halting")
def measure_variant(
    task: Task,
    model: HRM,
    variant: FeudalVariant | BaselineVariant,
    *,
    config: Exp5Config,
    device: torch.device,
) -> dict[str, Tensor]:
    """Answers to the held-out puzzles after each segment.

    Returns:
        exact: [S, E, K] bool; accuracy: [S, E] over cells, after the last segment; steps: [S, E], segments
        until the halting head asks to halt; exact_at_halt: [S, E] bool; of a model with goals
        exact_swapped and exact_off: [S, E] bool, with the goals of other puzzles and with none, and
        goals/{name}: [S], see `goal_numbers`.
    """
    batch, halting = everyone(task.test, len(config.seeds), device), halting_of(config)
    goals = make_goals(task, model, variant, config.seeds)
    found = evaluate(model, batch, config.segments, goals and goals.begin)
    measured = answers(found, halting)
    if goals is None:
        return measured
    for way in ("swapped", "off"):
        other = make_goals(task, model, variant, config.seeds, way)
        with_other = evaluate(model, batch, config.segments, other.begin)
        measured[f"exact_{way}"] = with_other["exact"][..., -1]
    numbers = goal_numbers(goals.record, goals.feudal.places)
    return measured | {f"goals/{name}": value for name, value in numbers.items()}


def answers(found: Mapping[str, Tensor], halting: Halting) -> dict[str, Tensor]:
    """What `evaluate` found, as `measure_variant` returns it."""
    steps = halting_segment(found["q"], halting)  # [S, E]
    return {
        "exact": found["exact"],
        "accuracy": found["accuracy"][..., -1],
        "steps": steps,
        "exact_at_halt": found["exact"].gather(-1, steps[..., None] - 1)[..., 0],
    }


def goal_numbers(record: Mapping[str, Sequence[Tensor]], places: int = 1) -> dict[str, Tensor]:
    """What goals and displacements, [S, E, G] for each of C segments, have to do with each other; [S] each.

    Where a puzzle has several `places` with goals of their own, E counts all of them, puzzle by puzzle.

    Each is a mean over segments and puzzles of a cosine with the displacement: of the puzzle's own goal
    (cosine), of both less their mean over puzzles (cosine_centred), of the mean goal (cosine_constant), of
    another puzzle's goal (cosine_swapped); of the best constant direction, chosen after the fact
    (cosine_best_constant). spread: how far goals are from their mean, 0 where all are one; and the gate.

    A goal that tells a puzzle from others has a cosine well above the constant and the swapped one.
    """
    numbers: dict[str, list[Tensor]] = {}
    for goal, moved, gate in zip(*(record[name] for name in ("goal", "moved", "gate")), strict=True):
        direction = F.normalize(moved, dim=-1)
        mean_goal, mean_direction = goal.mean(1, keepdim=True), direction.mean(1, keepdim=True)
        found = {
            "cosine": _cosine(goal, moved),
            "cosine_centred": _cosine(goal - mean_goal, moved - moved.mean(1, keepdim=True)),
            "cosine_constant": _cosine(mean_goal, moved),
            "cosine_swapped": _cosine(goal.roll(places, 1), moved),
            "cosine_best_constant": _cosine(mean_direction, moved),
            "spread": 1 - mean_goal.norm(dim=-1),
            "gate": gate,
        }
        for name, value in found.items():
            numbers.setdefault(name, []).append(value.mean(1))
    return {name: torch.stack(values).mean(0) for name, values in numbers.items()}


def _cosine(first: Tensor, second: Tensor) -> Tensor:
    """[S, E, G] or [S, 1, G] each -> [S, E]."""
    return F.cosine_similarity(*torch.broadcast_tensors(first, second), dim=-1)


# ----------------------------------------------------------------------------------------------
# Recording
# ----------------------------------------------------------------------------------------------


def record_variants(results: Results, task: str, measured: Measurements) -> None:
    """`{task}/{variant}/...` of every variant, and the paired differences over puzzles and seeds."""
    for name, found in measured.items():
        _record_answers(results, f"{task}/{name}", found)
        if "goals/gate" in found:
            _record_goals(results, f"{task}/{name}", found)
    exact = {name: found["exact"][..., -1].float() for name, found in measured.items()}
    pairs = [(name, "baseline") for name in exact if name != "baseline"]
    for name, other in dict.fromkeys((*pairs, *COMPARED)):
        if name in exact and other in exact:
            difference = exact[name] - exact[other]
            results.add_difference(f"{task}/{name}_minus_{other}/exact", difference, enumerated=False)


def _record_answers(results: Results, prefix: str, found: Mapping[str, Tensor]) -> None:
    exact = found["exact"]
    results.add_rate(f"{prefix}/exact", exact[..., -1], enumerated=False)
    results.add_rate(f"{prefix}/exact_at_halt", found["exact_at_halt"], enumerated=False)
    gain = exact[..., -1].float() - exact[..., 0].float()
    results.add_difference(f"{prefix}/exact_gain", gain, enumerated=False)
    results.add(f"{prefix}/accuracy", found["accuracy"].mean(1))
    results.add(f"{prefix}/steps", found["steps"].double().mean(1), "segments")
    for k in range(exact.shape[-1]):
        results.add(f"{prefix}/exact/segment={k + 1}", exact[..., k].double().mean(1))


def _record_goals(results: Results, prefix: str, found: Mapping[str, Tensor]) -> None:
    own = found["exact"][..., -1].float()
    for way in ("swapped", "off"):
        results.add_rate(f"{prefix}/exact_{way}", found[f"exact_{way}"], enumerated=False)
        lost = found[f"exact_{way}"].float() - own
        results.add_difference(f"{prefix}/{way}_minus_own/exact", lost, enumerated=False)
    for name, value in found.items():
        if name.startswith("goals/"):
            results.add(f"{prefix}/feudal/{name.removeprefix('goals/')}", value)


def record_history(results: Results, task: str, variants: Sequence[str]) -> None:
    """What the trainings' histories say of goals: emissions and goals consumed an episode, and the loss.

    `feudal/loss_change` is the feudal loss's mean over the last tenth less that over the first, of the steps
    at which a row had a goal: in others the loss is 0, and there are many of those at the start, when all
    rows begin together.
    """
    change: dict[str, Tensor] = {}
    for name in variants:
        history: dict[str, Any] = {
            term: results.arrays.get(f"{task}/{name}/history/train/{term}")
            for term in ("feudal_loss", "gate", "emissions", "consumed")
        }
        if history["feudal_loss"] is None:
            continue
        tenth = max(1, len(history["feudal_loss"]) // 10)
        for term in ("emissions", "consumed"):
            results.add(f"{task}/{name}/feudal/{term}", history[term][-tenth:].mean(0), "an episode")
        loss, held = (torch.from_numpy(history[term]) for term in ("feudal_loss", "gate"))
        parts = ((loss[part], held[part] > 0) for part in (slice(-tenth, None), slice(tenth)))
        late, early = ((own * kept).sum(0) / kept.sum(0) for own, kept in parts)
        change[name] = late - early
        results.add(f"{task}/{name}/feudal/loss_change", change[name])
    for name in [name for name in change if name != "head" and "head" in change]:
        apart = change[name] - change["head"]
        if len(apart) > 1:  # the seeds are all that vary
            results.add_difference(f"{task}/{name}_minus_head/feudal/loss_change", apart[:, None], True)
