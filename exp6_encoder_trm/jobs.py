"""The campaign as data: every experiment with what it changes, what it tests, and what was expected of it.

E0 to E7 and E_diag1 are the founding document's; the others are what its critical review found missing. What
an experiment changes is written as its command line has it, relative to the base: the document's lower rate,
3e-5 for 1e-4, is `lr_scale` .3.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Literal

Context = Literal[
    "table",
    "identity",
    "zero",
    "constant",
    "standard",
    "attention",
    "cls",
    "lpn_standard",
    "lpn_variational",
    "tokens",
]
Gradient = Literal["one_step", "cycle", "segment", "all"] | int  # see common/recursion/model.py
Phase = Literal["overfit", "architecture", "hyperparameters", "review"]


@dataclass(frozen=True)
class Variant:
    """What tells a training from its siblings."""

    context: Context = "standard"  # where the prefix comes from
    freeze_encoder: bool = False  # the encoder stays as it was drawn
    lr_scale: float = 1.0  # times the learning rate of everything but the table
    encoder_lr_scale: float = 1.0  # times that, for the encoder
    warmup_scale: float = 1.0  # times the steps of warm-up
    grad_clip_norm: float = 0.0  # largest gradient norm, encoder and TRM together; 0: as it is
    context_scale: float = 1.0  # times the encoder's output
    gradient: Gradient = "cycle"  # how far back through the recursion
    patient: bool = False  # trains to its end, whatever it shows: a control


@dataclass(frozen=True)
class Job:
    """One experiment of the campaign."""

    name: str
    phase: Phase
    changes: Variant
    tests: str  # what it asks
    hypothesis: str  # what was expected, in the document's words or the review's
    least: float  # share of E0's train exact from which on the hypothesis held; E_diag2: of TRM's gradient
    most: float = 10.0  # and up to which
    over: str = ""  # the job that it must also be above
    same_as: str = ""  # the job that it looks into, whose training is its own


BASE = Variant()
LOWER_RATE = replace(BASE, lr_scale=0.3)
CLIPPED = replace(BASE, grad_clip_norm=1.0)
LPN = replace(BASE, context="lpn_standard")
LPN_VARIATIONAL = replace(BASE, context="lpn_variational")
COMBINED = Variant(context="attention", lr_scale=0.3, grad_clip_norm=1.0)
TOKENS = Variant(context="tokens", lr_scale=0.75, grad_clip_norm=1.0)

MEMORISED = 0.9  # train exact from which E0 has memorised the puzzles
MATCHES, LEARNS, NOTHING = 0.9, 0.5, 0.35  # shares of E0's train exact

_JOBS = (
    Job("E0", "overfit", Variant(context="table", patient=True), "Can the TRM memorise with a table?",
        "train exact of .9 or more", MATCHES),
    Job("E1", "overfit", BASE, "Does the encoder reach the table's accuracy?",
        "approaches E0 if the encoder works", MATCHES),
    Job("E_diag1", "overfit", replace(BASE, freeze_encoder=True, patient=True),
        "Can the TRM use any fixed output of an encoder?",
        "similar to E0: the interface is right, and the training of the encoder is not", MATCHES),
    Job("E_zero", "overfit", Variant(context="zero", patient=True), "How much can be had with no context?",
        "a third of E0 or less, or the setting asks nothing of the context", 0.0, NOTHING),
    Job("E_identity", "review", Variant(context="identity", patient=True),
        "Does a look-up through the encoder's interface equal the table?", "equals E0 exactly", 1.0, 1.0),
    Job("E4", "hyperparameters", LOWER_RATE, "Is the learning rate too high?",
        "the encoder's gradients are too large for the rate", MATCHES, over="E1"),
    Job("E5", "hyperparameters", CLIPPED, "Do gradients explode?",
        "gradients through the encoder explode, and clipping restores training", MATCHES, over="E1"),
    Job("E7", "hyperparameters", replace(BASE, context="attention"), "Does mean pooling lose what matters?",
        "attention pooling keeps what is informative", MATCHES, over="E1"),
    Job("E6", "hyperparameters", COMBINED, "Do lower rate, clipping and attention pooling help together?",
        "what is not enough alone is enough together", MATCHES, over="E1"),
    Job("E2", "architecture", LPN, "Does a deeper encoder help?", "depth extracts richer patterns", 0.0,
        over="E1"),
    Job("E3", "architecture", LPN_VARIATIONAL, "Does a variational bottleneck help?",
        "it prevents trivial solutions", 0.0, over="E1"),
    Job("E_diag2", "review", BASE, "Where do gradients flow? (norms are logged in every training)",
        "the encoder's norm is a tenth of the TRM's to ten times it", 0.1, 10.0, same_as="E1"),
    Job("E11", "review", replace(BASE, encoder_lr_scale=0.3), "Does the encoder need a rate of its own?",
        "a slower encoder gives the TRM time to adapt", MATCHES, over="E1"),
    Job("E_warmup", "review", replace(BASE, warmup_scale=4.0), "Does the encoder need a longer warm-up?",
        "a longer warm-up steadies the encoder", MATCHES, over="E1"),
    Job("E2+E4", "review", replace(LPN, lr_scale=0.3), "Does the deep encoder need the lower rate?",
        "LPN works once the rate is right", MATCHES, over="E1"),
    Job("E3+E5", "review", replace(LPN_VARIATIONAL, grad_clip_norm=1.0),
        "Does the variational encoder need clipping?", "LPN variational works once clipped", MATCHES,
        over="E1"),
    Job("E_cls", "review", replace(BASE, context="cls"), "Is CLS pooling better than the mean?",
        "pooling is the key factor, buried in E6", MATCHES, over="E1"),
    Job("E_scale", "review", replace(BASE, context_scale=3.0),
        "Is the encoder's output too small?",
        "a context three times as large is used", LEARNS, over="E1"),
    Job("E_collapsed", "review", Variant(context="constant", patient=True),
        "Is a collapsed encoder caught? (planted: one learned context for all tasks)",
        "no better than no context", 0.0, NOTHING),
    Job("tokens", "review", TOKENS, "Is pooling itself the fault?",
        "the demonstrations' cells as they are, without pooling, reach E0", MATCHES),
)  # fmt: skip
JOBS: Mapping[str, Job] = {job.name: job for job in _JOBS}

PHASES: Mapping[Phase, tuple[str, ...]] = {
    "overfit": ("E0", "E1", "E_diag1", "E_zero"),
    "hyperparameters": ("E4", "E5", "E7", "E6"),
    "architecture": ("E2", "E3"),
}


def hypothesis_held(job: Job, share: float, table: float, other: float = -1.0) -> bool:
    """Whether a hypothesis came out, where the table memorises; where it does not, none is tested.

    Args:
        job: whose hypothesis.
        share: its train exact accuracy, or E_diag2's gradient norm, as a share of what it is compared with.
        table: E0's train exact.
        other: the same share of the job that it must be above, if any.
    """
    return table >= MEMORISED and job.least <= share <= job.most and share > other
