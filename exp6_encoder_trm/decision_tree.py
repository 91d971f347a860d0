"""The founding document's decision tree as a pure function: from accuracies to a verdict and how it came.

The document has the tree twice: its diagram tries hyperparameters before architectures, its text the other
way round. What "succeeds" means, where the document leaves it open, is a constant below.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from exp6_encoder_trm.jobs import MATCHES, MEMORISED, PHASES, Phase

PhaseOrder = Literal["diagram", "text"]
ORDERS: Mapping[PhaseOrder, tuple[Phase, Phase]] = {
    "diagram": ("hyperparameters", "architecture"),
    "text": ("architecture", "hyperparameters"),
}

# Train exact that a frozen encoder must add to no context at all: then the TRM can use what it says.
# "Near random" means little without this control: where inputs tell puzzles apart, no context is needed.
USABLE = 0.25

VERDICTS = {  # with their codes in results.json
    "DEBUG_BASELINE": 0,
    "FIX_INTERFACE": 1,
    "REDESIGN_ENCODER": 2,
    "SUCCESS": 3,
}
MEANING = {
    "DEBUG_BASELINE": "the table does not memorise: debug the TRM first",
    "FIX_INTERFACE": "the TRM can use no fixed encoder's output: fix how the context is handed over",
    "REDESIGN_ENCODER": "the interface works and no change helps: design another encoder",
    "SUCCESS": "an encoder matches the table: go on to tasks never seen",
}
VERDICT_CODES = ", ".join(f"{code} {name}" for name, code in VERDICTS.items())


@dataclass(frozen=True)
class Step:
    """A question on the path with its answer."""

    node: str  # "E0", "E1", "E_diag1", or a phase
    question: str
    answer: bool
    numbers: Mapping[str, float]  # train exact of the jobs that decide


@dataclass(frozen=True)
class Decision:
    """Where the tree leads, as far as the results go."""

    verdict: str | None  # None: it depends on `needs`
    trace: tuple[Step, ...]
    needs: tuple[str, ...] = ()  # jobs whose results are asked for next

    def explain(self) -> str:
        """The path in words, a line a question."""
        lines = []
        for step in self.trace:
            said = ", ".join(f"{name} {value:.3f}" for name, value in step.numbers.items())
            lines.append(f"{step.question} {'yes' if step.answer else 'no'} ({said})")
        end = f"needs {' '.join(self.needs)}" if self.verdict is None else MEANING[self.verdict]
        return "\n".join([*lines, f"{self.verdict or 'UNDECIDED'}: {end}"])


def decide(exact: Mapping[str, float], order: PhaseOrder = "diagram") -> Decision:
    """Follow the tree.

    Args:
        exact: train exact accuracy by job; jobs that were not run are not in it.
        order: of the phases, as the document's diagram or its text has them.

    Returns:
        the verdict; where the path asks for a job that is not there, none, and the jobs that it needs.
    """
    trace: list[Step] = []
    missing = tuple(name for name in PHASES["overfit"] if name not in exact)
    if "E0" in missing:
        return Decision(None, (), missing)
    trace.append(_step("E0", "Does the table memorise?", exact["E0"] >= MEMORISED, exact, ["E0"]))
    if not trace[-1].answer:
        return Decision("DEBUG_BASELINE", tuple(trace))
    if missing:
        return Decision(None, tuple(trace), missing)
    trace.append(_step("E1", "Does the encoder match it?", _matches(exact, "E1"), exact, ["E1"]))
    if trace[-1].answer:
        return Decision("SUCCESS", tuple(trace))
    usable = exact["E_diag1"] - exact["E_zero"] >= USABLE
    question = "Can a frozen encoder be used?"
    trace.append(_step("E_diag1", question, usable, exact, ["E_diag1", "E_zero"]))
    if not usable:
        return Decision("FIX_INTERFACE", tuple(trace))
    for phase in ORDERS[order]:
        needs = tuple(name for name in PHASES[phase] if name not in exact)
        if needs:
            return Decision(None, tuple(trace), needs)
        any_ = any(_matches(exact, name) for name in PHASES[phase])
        trace.append(_step(phase, f"Does any {_ONE[phase]} help?", any_, exact, PHASES[phase]))
        if any_:
            return Decision("SUCCESS", tuple(trace))
    return Decision("REDESIGN_ENCODER", tuple(trace))


_ONE: Mapping[Phase, str] = {"hyperparameters": "hyperparameter", "architecture": "architecture"}


def _matches(exact: Mapping[str, float], job: str) -> bool:
    return exact[job] >= MATCHES * exact["E0"]


def _step(node: str, question: str, answer: bool, exact: Mapping[str, float], names: Sequence[str]) -> Step:
    return Step(node, question, answer, {name: exact[name] for name in names})


def is_hopeless(exact: float, share_done: float, least: float, at: float) -> bool:
    """The review's rule: stop a training whose exact accuracy is below `least` once a share `at` is done."""
    return share_done >= at and exact < least
