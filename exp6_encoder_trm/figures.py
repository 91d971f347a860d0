"""The figures of experiment 6, drawn from saved results alone.

Shapes: S seeds, L looks at a training, G groups, E queries shown, K segments or demonstrations, C x C canvas.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.colors import ListedColormap
from matplotlib.figure import Figure
from matplotlib.patches import FancyBboxPatch, Rectangle

from common.viz_utils import COLORS, label_horizons, new_figure, plot_band
from exp6_encoder_trm.decision_tree import MEANING, ORDERS, USABLE, VERDICTS, Decision, decide
from exp6_encoder_trm.diagnostics import COLLAPSE_COSINE, COLLAPSE_VARIANCE, is_collapsed
from exp6_encoder_trm.evaluate import BLIND
from exp6_encoder_trm.jobs import JOBS, MATCHES, MEMORISED, PHASES

Results = Mapping[str, Any]
Arrays = Mapping[str, np.ndarray]

# One colour for each experiment in every figure.
JOB_COLORS = {
    "E0": "#000000", "E_zero": "#999999", "E_diag1": "#8B4513", "E_identity": "#444444", "E1": "#D55E00",
    "E4": "#E69F00", "E5": "#F0C060", "E7": "#CC79A7", "E6": "#882255", "E2": "#56B4E9", "E3": "#009E73",
    "E11": "#AA4499", "E_warmup": "#DDCC77", "E2+E4": "#88CCEE", "E3+E5": "#44AA99", "E_cls": "#CC6677",
    "E_scale": "#999933", "E_collapsed": "#CCCCCC", "tokens": "#0072B2",
}  # fmt: skip
# Where a figure has a line for each, those that differ in one thing: learned and looked up, frozen, slower,
# clipped, all together, unpooled, and the planted collapse.
LINES = ("E0", "E_diag1", "E1", "E4", "E5", "E6", "tokens", "E_collapsed")
SETS = {"train": "training queries", "new_queries": "new queries of known tasks", "unseen": "unseen tasks"}
GENERALISERS = {
    "table": ("table", "#000000"),
    "mean": ("encoder, mean pooling", "#D55E00"),
    "mean_voted": ("encoder, vote of augmentations", "#E69F00"),
    "tokens": ("tokens, no pooling", "#0072B2"),
    "tokens_search": ("tokens, search on the context", "#009E73"),
    "tokens_voted": ("tokens, vote of augmentations", "#CC79A7"),
    "tokens_tuned": ("tokens, weights tuned", "#56B4E9"),
}
BATCH_TERMS = ("loss",)  # of a history: recorded of batches, not at the looks in between
# ARC's own colours; first what lies outside a grid.
ARC_COLORS = ListedColormap(
    ["#FFFFFF", "#000000", "#0074D9", "#FF4136", "#2ECC40", "#FFDC00", "#AAAAAA", "#F012BE", "#FF851B",
     "#7FDBFF", "#870C25"]
)  # fmt: skip


def draw_figures(results: Results, arrays: Arrays) -> dict[str, Figure]:
    """Every figure of a run, by file name; those of further settings end in the setting's name."""
    settings = measured_settings(results)
    figures: dict[str, Figure] = {}
    for number, setting in enumerate(settings):
        end = f"_{setting}.png" if number else ".png"
        figures |= {
            f"exp6_encoder_trm{end}": draw_headline(results, setting, families=number == 0),
            f"exp6_decision_tree{end}": draw_tree(results, setting),
            f"exp6_gradients{end}": draw_gradients(results, arrays, setting),
            f"exp6_context{end}": draw_context(results, arrays, setting),
            f"exp6_demos{end}": draw_demos(results, setting, families=number == 0),
            f"exp6_puzzles{end}": draw_puzzles(arrays, setting),
            f"exp6_training{end}": draw_training(arrays, setting),
        }
    return figures


def measured_settings(results: Results) -> list[str]:
    """Settings of which there is a verdict, in the order of the run."""
    return [name.partition("/")[0] for name in results["metrics"] if name.endswith("/verdict")]


def measured_jobs(results: Results, setting: str) -> list[str]:
    """Jobs that were run on a setting, in the campaign's order."""
    return [name for name in JOBS if f"{setting}/{name}/train_exact" in results["metrics"]]


def lines_of(jobs: list[str]) -> list[str]:
    """Those of them that have a line in a figure; all, where they are few."""
    return jobs if len(jobs) <= len(LINES) + 2 else [job for job in jobs if job in LINES]


def mean_of(results: Results, name: str) -> float:
    """A metric's mean over seeds; NaN where it was not measured."""
    mean = results["metrics"].get(name, {}).get("mean")
    return float("nan") if mean is None else mean


def values_of(results: Results, name: str) -> list[float]:
    """A metric seed by seed; none where it was not measured."""
    return [value for value in results["metrics"].get(name, {}).get("values", []) if value is not None]


def seeds_text(results: Results) -> str:
    """Such as `3 seeds`."""
    count = len(results["seeds"])
    return f"{count} seed{'s' if count > 1 else ''}"


# ----------------------------------------------------------------------------------------------
# The headline
# ----------------------------------------------------------------------------------------------


def draw_headline(results: Results, setting: str, families: bool) -> Figure:
    """Exact accuracy of every experiment on training queries, new queries and unseen tasks."""
    names = [name for name in results["config"]["families"] if families]
    names = [name for name in names if f"{name}/copy/unseen_exact" in results["metrics"]]
    jobs = measured_jobs(results, setting)
    figure, campaign, others = _headline_axes(len(jobs), len(names))
    _job_bars(campaign, results, setting, jobs)
    for axis, name in zip(others, names, strict=True):
        _family_bars(axis, results, name)
    if len(results["seeds"]) > 1:
        figure.supxlabel(f"bars: means of {seeds_text(results)}; dots: seeds", fontsize=9)
    return figure


def _headline_axes(jobs: int, families: int) -> tuple[Figure, Axes, Sequence[Axes]]:
    """Side by side where that stays narrow; or else the families in a row below."""
    widths = [max(4, jobs), *[5] * families]
    if sum(widths) <= 20 or not families:
        figure, axes = new_figure(1, len(widths), (0.62 * sum(widths) + 1.5, 4.6), width_ratios=widths)
        return figure, axes[0, 0], axes[0, 1:]
    figure, axes = new_figure(2, families, (13.0, 8.6))
    for axis in axes[0]:
        axis.remove()
    return figure, figure.add_subplot(axes[0, 0].get_gridspec()[0, :]), axes[1]


def _job_bars(axis: Axes, results: Results, setting: str, jobs: Sequence[str]) -> None:
    for place, job in enumerate(jobs):
        for part, shift in (("train", -0.27), ("new_queries", 0.0), ("unseen", 0.27)):
            metric = f"{setting}/{job}/{part}_exact"
            alpha = {"train": 1.0, "new_queries": 0.45, "unseen": 0.2}[part]
            axis.bar(place + shift, mean_of(results, metric), 0.25, color=JOB_COLORS[job], alpha=alpha,
                     edgecolor=JOB_COLORS[job], label=SETS[part] if not place else None)  # fmt: skip
            values = values_of(results, metric)
            if len(values) > 1:
                axis.plot([place + shift] * len(values), values, ".", color="#333333", markersize=4)
    table = mean_of(results, f"{setting}/E0/train_exact")
    axis.axhline(MATCHES * table, color=COLORS["target"], ls="--", label=f"{MATCHES:g} of the table")
    ceiling = mean_of(results, f"{setting}/without_context/train_ceiling")
    axis.axhline(ceiling, color="#333333", ls=":", label="most that is possible without a context")
    axis.set_xticks(range(len(jobs)), jobs, rotation=40, ha="right", fontsize=8)
    axis.set_ylim(0, 1.42)
    axis.set_yticks(np.arange(0, 1.1, 0.2))
    axis.set_ylabel("exact accuracy")
    learned = [job for job in jobs if JOBS[job].changes.context not in BLIND
               and not JOBS[job].changes.freeze_encoder]  # fmt: skip
    best = max(learned, key=lambda job: mean_of(results, f"{setting}/{job}/train_exact"))
    reached, frozen = (mean_of(results, f"{setting}/{job}/train_exact") for job in (best, "E_diag1"))
    axis.set_title(
        f"{setting}: the best that learns ({best}) memorises\n{reached:.2f}, the table {table:.2f}"
        + (f", a frozen encoder {frozen:.2f}" if frozen == frozen else ""), fontsize=10,
    )  # fmt: skip
    axis.legend(fontsize=7.5, ncols=2, loc="upper left")


def _family_bars(axis: Axes, results: Results, family: str) -> None:
    for place, (label, (_, color)) in enumerate(GENERALISERS.items()):
        for part, shift, alpha in (("train", -0.2, 0.35), ("unseen", 0.2, 1.0)):
            metric = f"{family}/{label}/{part}_exact"
            values = values_of(results, metric)
            if values:
                axis.bar(place + shift, mean_of(results, metric), 0.36, color=color, alpha=alpha)
            if len(values) > 1:
                axis.plot([place + shift] * len(values), values, ".", color="#333333", markersize=4)
    for label, line, title in (("copy", ":", "copying"), ("majority", "--", "majority of the demos"),
                               ("trained_rules", "-.", "rules that were trained on")):  # fmt: skip
        height = mean_of(results, f"{family}/{label}/unseen_exact")
        if height == height:
            axis.axhline(height, color="#777777", ls=line, label=title)
    ticks = ["table", "mean", "mean\n+ vote", "tokens", "tokens\n+ search", "tokens\n+ vote", "tokens\ntuned"]
    axis.set_xticks(range(len(GENERALISERS)), ticks, fontsize=8)
    axis.set_ylim(0, 1.42)
    axis.set_yticks(np.arange(0, 1.1, 0.2))
    gained = mean_of(results, f"{family}/tokens_minus_controls/unseen_exact")
    axis.set_title(f"{family}: unseen tasks (solid),\ntokens {gained:+.2f} over the controls", fontsize=10)
    axis.legend(fontsize=7.5, loc="upper left")


# ----------------------------------------------------------------------------------------------
# The decision tree
# ----------------------------------------------------------------------------------------------

NODES = {  # where the diagram's boxes stand, in its order of phases
    "E0": (5.0, 9.0), "DEBUG_BASELINE": (1.6, 7.5), "E1": (6.4, 7.5), "SUCCESS/E1": (9.0, 6.0),
    "E_diag1": (5.0, 6.0), "FIX_INTERFACE": (1.6, 4.5), "first": (6.4, 4.5), "SUCCESS/first": (9.0, 3.0),
    "second": (5.0, 3.0), "SUCCESS/second": (7.6, 1.3), "REDESIGN_ENCODER": (2.6, 1.3),
}  # fmt: skip
EDGES = (
    ("E0", "DEBUG_BASELINE", False), ("E0", "E1", True), ("E1", "SUCCESS/E1", True),
    ("E1", "E_diag1", False), ("E_diag1", "FIX_INTERFACE", False), ("E_diag1", "first", True),
    ("first", "SUCCESS/first", True), ("first", "second", False), ("second", "SUCCESS/second", True),
    ("second", "REDESIGN_ENCODER", False),
)  # fmt: skip


def draw_tree(results: Results, setting: str) -> Figure:
    """The document's tree with the path that the means over seeds take, and their numbers at the nodes."""
    exact = {job: mean_of(results, f"{setting}/{job}/train_exact") for job in measured_jobs(results, setting)}
    order = results["config"]["phase_order"]
    decision = decide(exact, order)
    names = ORDERS[order]
    figure, axes = new_figure(1, 1, (9.6, 8.0))
    axis = axes[0, 0]
    taken = path_taken(decision, names)
    for begin, end, answer in EDGES:
        _edge(axis, NODES[begin], NODES[end], "yes" if answer else "no", (begin, end) in taken)
    on_path = {node for edge in taken for node in edge} | {"E0"}
    for node, (x, y) in NODES.items():
        _box(axis, x, y, node_text(node, names, exact), node in on_path, node.split("/")[0] in VERDICTS)
    axis.set_xlim(0, 10.4)
    axis.set_ylim(0.4, 9.8)
    axis.axis("off")
    codes = values_of(results, f"{setting}/verdict")
    agree = sum(code == VERDICTS[decision.verdict] for code in codes)
    said = MEANING[decision.verdict]
    if mean_of(results, f"{setting}/without_context/train_ceiling") > 0.5:
        said = "inputs tell its tasks apart, so that the tree says nothing"
    axis.set_title(f"{setting}, by means of {seeds_text(results)}: {said}\n(so say {agree} of them alone)")
    return figure


def path_taken(decision: Decision, phases: Sequence[str]) -> set[tuple[str, str]]:
    """The edges of a decision's path."""
    place = dict(zip(phases, ("first", "second"), strict=True))
    nodes = [place.get(step.node, step.node) for step in decision.trace]
    last = nodes[-1] if nodes else "E0"
    end = f"SUCCESS/{last}" if decision.verdict == "SUCCESS" else decision.verdict
    return set(zip(nodes, [*nodes[1:], end], strict=True))


def node_text(node: str, phases: Sequence[str], exact: Mapping[str, float]) -> str:
    """What a box says: its question and the numbers that answer it."""
    if node.split("/")[0] in VERDICTS:
        return node.split("/")[0].replace("_", " ").lower()
    number = {job: f"{value:.2f}" for job, value in exact.items()}
    if node == "E0":
        return f"table memorises?\nE0 {number.get('E0', '-')} (>= {MEMORISED:g})"
    if node == "E1":
        return f"encoder matches it?\nE1 {number.get('E1', '-')} (>= {MATCHES:g} E0)"
    if node == "E_diag1":
        return (
            f"frozen encoder usable?\nE_diag1 {number.get('E_diag1', '-')} - E_zero"
            f" {number.get('E_zero', '-')} (>= {USABLE:g})"
        )
    phase = phases[0] if node == "first" else phases[1]
    said = [f"{job} {number.get(job, '-')}" for job in PHASES[phase]]
    question = {
        "hyperparameters": "does a hyperparameter help?",
        "architecture": "does an architecture help?",
    }
    return "\n".join([question[phase], ", ".join(said)])


def _box(axis: Axes, x: float, y: float, text: str, taken: bool, verdict: bool) -> None:
    face = ("#0072B2" if verdict else "#CDE3F2") if taken else "#F4F4F4"
    width = 2.3 if verdict else 3.1
    axis.add_patch(FancyBboxPatch((x - width / 2, y - 0.4), width, 0.8, "round,pad=0.06", facecolor=face,
                                  edgecolor="#0072B2" if taken else "#BBBBBB"))  # fmt: skip
    color = "white" if taken and verdict else "#111111" if taken else "#888888"
    axis.text(x, y, text, ha="center", va="center", fontsize=8.5, color=color)


def _edge(axis: Axes, begin: tuple[float, float], end: tuple[float, float], text: str, taken: bool) -> None:
    color = "#0072B2" if taken else "#BBBBBB"
    arrow = {"arrowstyle": "-|>", "color": color, "linewidth": 2.4 if taken else 1.0}
    axis.annotate("", (end[0], end[1] + 0.46), (begin[0], begin[1] - 0.46), arrowprops=arrow)
    side = 0.25 if end[0] > begin[0] else -0.5
    axis.text((begin[0] + end[0]) / 2 + side, (begin[1] + end[1]) / 2 + 0.1, text, fontsize=8.5, color=color)


# ----------------------------------------------------------------------------------------------
# Gradients
# ----------------------------------------------------------------------------------------------


def draw_gradients(results: Results, arrays: Arrays, setting: str) -> Figure:
    """Norms over training, growth over cycles, and what following the gradient further back does."""
    studied = f"{setting}/E1_through_1/train_exact" in results["metrics"]
    figure, axes = new_figure(2, 3, (13.0, 7.0))
    jobs = lines_of(measured_jobs(results, setting))
    for axis, part in zip(axes[0], ("encoder", "trm"), strict=False):
        for job in jobs:
            _history(axis, arrays, f"{setting}/{job}", f"{part}_grad_norm", job)
        axis.set_title({"encoder": "gradient of the encoder", "trm": "gradient of the TRM"}[part])
        axis.set_ylabel("norm before clipping")
        axis.set_xlabel("optimiser step")
    axes[0, 1].axhline(1.0, color=COLORS["target"], ls="--")
    _jacobian_panel(axes[0, 2], results, setting)
    _cycles_panel(axes[1, 0], results, setting, jobs)
    _ratio_panel(axes[1, 1], results, setting)
    if studied:
        _study_panel(axes[1, 2], results, setting)
    else:
        axes[1, 2].axis("off")
    handles, labels = axes[0, 1].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside upper center", ncols=10, fontsize=8)
    return figure


def _history(axis: Axes, arrays: Arrays, prefix: str, term: str, job: str) -> None:
    values = arrays.get(f"{prefix}/history/{term}")
    if values is None or (term.endswith("grad_norm") and not np.any(values)):
        return
    steps = arrays[f"{prefix}/history/{'iteration' if term in BATCH_TERMS else 'evaluation'}"]
    plot_band(axis, steps, values, job, JOB_COLORS[job], marker="")


def _over(results: Results, prefix: str) -> tuple[list[int], np.ndarray]:
    """The numbers at the end of metrics with this prefix, in order, and the values [N, S]."""
    found = {int(name.removeprefix(prefix)): entry["values"] for name, entry in results["metrics"].items()
             if name.startswith(prefix) and name.removeprefix(prefix).isdigit()}  # fmt: skip
    return sorted(found), np.array([found[number] for number in sorted(found)], dtype=float)


def _jacobian_panel(axis: Axes, results: Results, setting: str) -> None:
    for kind, line in (("state", "-"), ("context", "--")):
        for job, place in (("E1", "recursion"), ("E0", "E0/recursion"), ("tokens", "tokens/recursion")):
            cycles, values = _over(results, f"{setting}/{place}/log10_jacobian_{kind}/T=")
            if cycles:
                plot_band(axis, np.array(cycles), values, f"{job}, {kind}", JOB_COLORS[job], ls=line)
                label_horizons(axis, cycles, "cycles T")
    axis.set_ylabel("log10 of norm / sqrt(columns)")
    axis.set_title("Jacobian of the recursion")
    axis.legend(fontsize=7, handlelength=3)


def _cycles_panel(axis: Axes, results: Results, setting: str, jobs: Sequence[str]) -> None:
    """Norms over that of the last cycle alone, beside a line that is as many times as high as cycles."""
    growth = []
    for job in jobs:
        cycles, values = _over(results, f"{setting}/{job}/gradient_cycles=")
        if cycles and np.all(values > 0) and not JOBS[job].changes.freeze_encoder:
            plot_band(axis, np.array(cycles), values / values[0], job, JOB_COLORS[job])
            label_horizons(axis, cycles, "cycles followed back")
            growth.append(float((values[-1] / values[0]).mean()))
    if growth:
        followed = np.array(results["config"]["gradient_cycles"])
        axis.plot(followed, followed / followed[0], ":", color="#333333")
        axis.set_title(f"followed back {followed[-1] / followed[0]:g} times as far (dotted: as much):\n"
                       f"{min(growth):.2g} to {max(growth):.2g} times the norm", fontsize=10)  # fmt: skip
    axis.set_yscale("log")
    axis.set_ylabel("encoder's gradient / of one cycle")


def _ratio_panel(axis: Axes, results: Results, setting: str) -> None:
    jobs = measured_jobs(results, setting)
    shown = [job for job in jobs if mean_of(results, f"{setting}/{job}/encoder_grad_norm") > 0]
    ratios = [mean_of(results, f"{setting}/{job}/grad_norm_ratio") for job in shown]
    axis.bar(range(len(shown)), ratios, color=[JOB_COLORS[job] for job in shown])
    clipped = [mean_of(results, f"{setting}/{job}/clip_fraction") for job in shown]
    names = [f"{job}: {share:.0%}" if share > 0 else job for job, share in zip(shown, clipped, strict=True)]
    axis.set_xticks(range(len(shown)), names, rotation=45, ha="right", fontsize=8)
    axis.axhline(1.0, color=COLORS["target"], ls="--")
    axis.set_ylabel("encoder's norm / TRM's")
    axis.set_title("mean over training (%: of the steps clipped)", fontsize=10)


def _study_panel(axis: Axes, results: Results, setting: str) -> None:
    for name, label in (("E1", "not clipped"), ("E5", "clipped at 1")):
        cycles = results["config"]["gradient_cycles"]
        values = [values_of(results, f"{setting}/{name}_through_{n}/train_exact") for n in cycles]
        plot_band(axis, np.array(cycles), np.array(values), label, JOB_COLORS[name])
        label_horizons(axis, cycles, "cycles followed back in training")
    axis.set_ylim(0, 1.05)
    axis.set_ylabel("train exact")
    axis.set_title("training through more cycles")
    axis.legend()


# ----------------------------------------------------------------------------------------------
# Contexts
# ----------------------------------------------------------------------------------------------


def draw_context(results: Results, arrays: Arrays, setting: str) -> Figure:
    """Contexts of each group on two axes; variance and cosine over training; how their numbers lie."""
    jobs = [job for job in measured_jobs(results, setting) if f"{setting}/{job}/plane" in arrays]
    lines = [job for job in lines_of(measured_jobs(results, setting)) if job in jobs]
    shown = [job for job in ("E0", "E1", "tokens", "E_diag1") if job in jobs][:3]
    figure, axes = new_figure(2, 3, (13.0, 7.0))
    for axis, job in zip(axes[0], shown, strict=False):
        _plane(axis, results, arrays, setting, job)
    for axis in axes[0, len(shown) :]:
        axis.axis("off")
    for axis, term, label, limit in (
        (axes[1, 0], "context_cross_variance", "variance between tasks", COLLAPSE_VARIANCE),
        (axes[1, 1], "context_cosine", "cosine of two tasks", COLLAPSE_COSINE),
    ):
        for job in lines:
            _history(axis, arrays, f"{setting}/{job}", term, job)
        axis.axhline(limit, color=COLORS["target"], ls="--")
        axis.set_xlabel("optimiser step")
        axis.set_title(f"{label} (dashed: collapse)", fontsize=10)
    axes[1, 0].set_yscale("symlog", linthresh=0.1 * COLLAPSE_VARIANCE)  # a collapse is at 0
    axes[1, 0].set_ylim(-0.05 * COLLAPSE_VARIANCE, 30)
    _distribution_panel(axes[1, 2], arrays, setting, shown)
    gone = [job for job in jobs if _collapsed_seeds(results, f"{setting}/{job}")]
    figure.suptitle(
        f"{setting}: of {len(jobs)} contexts {len(gone)} collapsed{': ' * bool(gone)}{', '.join(gone)}",
        fontweight="bold",
    )
    figure.legend(*axes[1, 0].get_legend_handles_labels(), loc="outside lower center", ncols=10, fontsize=8)
    return figure


def _collapsed_seeds(results: Results, prefix: str) -> int:
    """How many seeds' contexts have collapsed."""
    ends = (values_of(results, f"{prefix}/context_{what}") for what in ("cosine", "cross_variance"))
    return int(is_collapsed(*(torch.tensor(values) for values in ends)).sum())


def _plane(axis: Axes, results: Results, arrays: Arrays, setting: str, job: str) -> None:
    plane = arrays[f"{setting}/{job}/plane"]
    tasks = np.arange(len(plane))
    if setting.startswith("recoloured"):
        tasks = tasks % results["config"]["recoloured_tasks"]
    axis.scatter(plane[:, 0], plane[:, 1], c=tasks, cmap="tab20", s=24)
    exact = mean_of(results, f"{setting}/{job}/train_exact")
    axis.set_title(f"{job}: train exact {exact:.2f}", fontsize=10)
    axis.set_xlabel("contexts of groups, by task", fontsize=8)


def _distribution_panel(axis: Axes, arrays: Arrays, setting: str, jobs: Sequence[str]) -> None:
    for job in jobs:
        values = arrays[f"{setting}/{job}/context_values"]
        axis.hist(values, 60, range=(-4, 4), density=True, histtype="step", color=JOB_COLORS[job], label=job)
    axis.set_yscale("log")
    axis.set_xlabel("a number of a context")
    axis.set_title("distribution, beside the table's", fontsize=10)
    axis.legend(fontsize=7, handlelength=3)


# ----------------------------------------------------------------------------------------------
# Demonstrations
# ----------------------------------------------------------------------------------------------


def draw_demos(results: Results, setting: str, families: bool) -> Figure:
    """Exact accuracy over the number of demonstrations, and with another task's."""
    names = [name for name in results["config"]["families"] if families]
    names = [name for name in names if f"{name}/tokens/demos=all/exact" in results["metrics"]]
    figure, axes = new_figure(1, 1 + len(names), (5.4 + 3.6 * len(names), 4.2), sharey=True)
    jobs = lines_of(measured_jobs(results, setting))
    _demo_lines(axes[0, 0], results, {job: (f"{setting}/{job}", JOB_COLORS[job]) for job in jobs})
    axes[0, 0].set_title(f"{setting}: training queries")
    axes[0, 0].set_ylabel("exact accuracy")
    for axis, name in zip(axes[0, 1:], names, strict=True):
        lines = {title: (f"{name}/{label}", color) for label, (title, color) in GENERALISERS.items()}
        _demo_lines(axis, results, lines)
        axis.set_title(f"{name}: unseen tasks")
    if names:
        rates = [mean_of(results, f"{names[0]}/tokens/demos={count}/exact") for count in ("1", "all")]
        figure.suptitle(
            f"Tasks never seen ({names[0]}): tokens answers {rates[0]:.2f} with one demonstration, "
            f"{rates[1]:.2f} with all",
            fontweight="bold",
        )
    return figure


def _demo_lines(axis: Axes, results: Results, lines: Mapping[str, tuple[str, str]]) -> None:
    places = ("swapped_demos", "demos=1", "demos=2", "demos=all")
    for label, (prefix, color) in lines.items():
        values = [values_of(results, f"{prefix}/{place}/exact") for place in places]
        if all(values):
            plot_band(axis, np.arange(len(places)), np.array(values), label, color)
    axis.set_xticks(range(len(places)), ["another\ntask's", "1", "2", "all"])
    axis.set_xlabel("demonstrations shown")
    axis.set_ylim(0, 1.05)
    axis.legend(fontsize=7.5)


# ----------------------------------------------------------------------------------------------
# Puzzles and training
# ----------------------------------------------------------------------------------------------


def draw_puzzles(arrays: Arrays, setting: str) -> Figure:
    """Demonstrations, query and label of some training queries, and answers segment by segment."""
    models = [job for job in ("E0", "E1", "tokens") if f"{setting}/{job}/answers" in arrays]
    columns = puzzle_columns(arrays, setting, models)
    rows = len(arrays[f"{setting}/queries/labels"])
    figure, axes = new_figure(1, 1, (0.85 * len(columns) + 0.4, 0.85 * rows + 1.0))
    axis = axes[0, 0]
    for column, (title, grids, frames) in enumerate(columns):
        axis.text(column + 0.45, -0.08, title, ha="center", va="bottom", fontsize=7.5)
        for row, (grid, frame) in enumerate(zip(grids, frames, strict=True)):
            if grid is not None:
                _grid(axis, column, row, grid, frame)
    axis.set_xlim(-0.05, len(columns))
    axis.set_ylim(rows, -0.5)
    axis.axis("off")
    axis.set_title(f"{setting}, first seed: training queries and answers (green frame: exact)", fontsize=10)
    return figure


Column = tuple[str, list[np.ndarray | None], list[str]]  # title, a grid [L] a row, the frames' colours


def puzzle_columns(arrays: Arrays, setting: str, models: Sequence[str]) -> list[Column]:
    """Up to three demonstrations, query, answer, and each model's after its first and last segment."""
    inputs, labels, demos, shown = (
        arrays[f"{setting}/queries/{name}"] for name in ("inputs", "labels", "demos", "shown")
    )
    plain = ["#BBBBBB"] * len(inputs)
    columns: list[Column] = []
    for number in range(min(3, demos.shape[1])):
        for side, title in enumerate(("in", "out")):
            grids = [
                demo[number, side] if has[number] else None for demo, has in zip(demos, shown, strict=True)
            ]
            columns.append((title, grids, plain))
    columns += [("query", list(inputs), plain), ("answer", list(labels), plain)]
    for job in models:
        answers = arrays[f"{setting}/{job}/answers"][0]  # [E, K, L]
        for segment in sorted({0, answers.shape[1] - 1}):
            given = answers[:, segment]
            right = (given == labels).all(1)
            frames = ["#009E73" if exact else "#D55E00" for exact in right]
            columns.append((f"{job}\nsegment {segment + 1}", list(given), frames))
    return columns


def _grid(axis: Axes, column: int, row: int, tokens: np.ndarray, frame: str) -> None:
    side = round(len(tokens) ** 0.5)
    place = (column, column + 0.9, row + 0.9, row)
    axis.imshow(tokens.reshape(side, side), cmap=ARC_COLORS, vmin=0, vmax=10, extent=place, zorder=2)
    width = 0.8 if frame == "#BBBBBB" else 2.5
    axis.add_patch(Rectangle((column, row), 0.9, 0.9, fill=False, edgecolor=frame, linewidth=width, zorder=3))


def draw_training(arrays: Arrays, setting: str) -> Figure:
    """Loss and accuracies over training, of every job."""
    terms = {
        "loss": "loss of a batch",
        "eval/accuracy": "cell accuracy, training queries",
        "eval/exact_accuracy": "exact accuracy, training queries",
    }
    jobs = [job for job in JOBS if f"{setting}/{job}/history/loss" in arrays]
    jobs = lines_of(jobs)
    figure, axes = new_figure(1, 3, (13.0, 4.4))
    for axis, (term, title) in zip(axes[0], terms.items(), strict=True):
        for job in jobs:
            _history(axis, arrays, f"{setting}/{job}", term, job)
        axis.set_title(title)
        axis.set_xlabel("optimiser step")
    axes[0, 0].set_yscale("log")
    figure.legend(*axes[0, 0].get_legend_handles_labels(), loc="outside lower center", ncols=10, fontsize=8)
    return figure
