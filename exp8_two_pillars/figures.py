"""The figures of experiment 8, drawn from saved results alone.

A figure whose part was not run is left out.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from common.latent.figures import draw_bars, mean_of
from common.latent.figures import draw_training as draw_losses
from common.viz_utils import COLORS, label_horizons, new_figure, plot_band
from exp8_two_pillars.parts import SEARCH, STUDIED
from exp8_two_pillars.tasks import REACHED

Arrays = Mapping[str, np.ndarray]
Results = Mapping[str, Any]

CORNERS = {"none": "#999999", "spectral": "#E69F00", "metric": "#56B4E9", "both": "#0072B2"}
SOURCES = {
    "both": ("the model of `both`", "#0072B2"), "simulator": ("true dynamics, its distance", "#000000"),
    "calm": ("the same, wind not judged", "#8B8B8B"),
    "cost_to_go": ("true dynamics and cost-to-go", "#CC79A7"),
}  # fmt: skip
PLANNERS = {
    "gradient": "gradient", "normalised_gradient": "normalised\ngradient", "adam": "Adam", "icem": "iCEM",
    "mppi": "MPPI", "random_shooting": "random\nshooting",
}  # fmt: skip
MAZES = {"none": "no walls", "one_wall": "one wall", "s": "S-maze", "spiral": "spiral"}
WINDS = {"lorenz": "Lorenz", "roessler": "Roessler", "lorenz96": "Lorenz-96", "off": "no"}
VANISHING = {  # scenes in which a pillar should not matter, by maze and wind
    "{maze}/off": "no wind", "none/{wind}": "no walls", "none/off": "neither",
    "{maze}/{wind}_near": "near goals",
}  # fmt: skip
HELD_OUT = {  # scenes on which nothing was chosen
    "spiral/{wind}": "spiral", "{maze}/roessler": "Roessler wind", "{maze}/lorenz96": "Lorenz-96 wind",
    "{maze}/{wind}_picture1": "another picture",
}  # fmt: skip
CAUSES = {  # corner and source
    "metric/model": ("its own predictions and gradient", "#56B4E9"),
    "metric/true_value": ("true predictions, its own gradient", "#0072B2"),
    "both/true_value": ("true predictions, gradient of both", "#009E73"),
    "metric/clipped": ("own predictions, gradient clipped", "#E69F00"),
    "metric/smoothed": ("own predictions, energy smoothed", "#999999"),
}
SHOWN_PATHS = 12
VARIANTS = {  # what a part's variants are
    "ablation": "Parts of the first pillar, metrics of the second",
    "long": "Flat models trained longer, and wider",
}


def draw_figures(results: Results, arrays: Arrays) -> dict[str, Figure | Iterable[Figure]]:
    """Every figure of a run, by file name."""
    parts, config = results["config"]["parts"], results["config"]
    figures: dict[str, Figure | Iterable[Figure]] = {"exp8_training.png": draw_training(arrays)}
    if "corners" in parts:
        figures["exp8_two_pillars.png"] = draw_two_pillars(results, arrays)
        figures["exp8_jacobian.png"] = draw_jacobian(results, arrays)
        figures["exp8_simulator.png"] = draw_simulator(results, arrays)
        figures["exp8_energy.png"] = draw_energy(results, arrays)
        figures["exp8_episode.gif"] = draw_episode(results, arrays)
    if "vanish" in parts:
        figures["exp8_scenes.png"] = draw_vanishing(results)
    if "held_out" in parts and measured_scenes(results, HELD_OUT):
        figures["exp8_held_out.png"] = draw_held_out(results)
    if "cause" in parts:
        figures["exp8_cause.png"] = draw_cause(results, arrays)
    for part in ("ablation", "long"):
        if part in parts:
            figures[f"exp8_{part}.png"] = draw_variants(results, part)
    if "phase" in parts and len(config["phase_winds"]) > 1 and len(config["phase_walls"]) > 1:
        figures["exp8_phase_diagram.png"] = draw_phase_diagram(results)
    return figures


def base_name(results: Results) -> str:
    """Of the configuration's own maze and wind, as metrics have it."""
    config = results["config"]
    still = config["wind"] == "off" or not (config["wind_push"] or config["wind_share"])
    return f"{config['maze']}/{'off' if still else config['wind']}"


def place(results: Results) -> str:
    """`base_name` in words."""
    maze, wind = base_name(results).split("/")
    return f"{MAZES[maze]}, {WINDS[wind]} wind"


def measured_scenes(results: Results, scenes: Mapping[str, str]) -> dict[str, str]:
    """Those of VANISHING or HELD_OUT that the run measured, by name, in words."""
    maze, wind = base_name(results).split("/")
    named = {name.format(maze=maze, wind=wind): words for name, words in scenes.items()}
    suffix = f"both/{SEARCH}/{study_loop(results)}/success"
    return {name: words for name, words in named.items() if f"{name}/{suffix}" in results["metrics"]}


def study_loop(results: Results) -> str:
    """The loop that every part is measured in, some in others too."""
    return f"closed/T={results['config']['study_horizon']}"


def studied_rate(results: Results, source: str) -> float:
    """Success of SEARCH in a corner or source, in the loop that every part is measured in."""
    return mean_of(results, f"{base_name(results)}/{source}/{SEARCH}/{study_loop(results)}/success")


def in_line(planner: str) -> str:
    """A planner's name on one line."""
    return PLANNERS[planner].replace("\n", " ")


def studied(results: Results) -> list[str]:
    """The planners of every part but the first."""
    return [planner for planner in STUDIED if planner in results["config"]["planners"]]


# ----------------------------------------------------------------------------------------------
# The 2x2
# ----------------------------------------------------------------------------------------------


def draw_maze(axis: Axes, arrays: Arrays) -> None:
    """The box and its walls."""
    for across, place, low, high in arrays["shown/walls"]:
        ends, both = np.clip((low, high), -1, 1), (place, place)
        axis.plot(*((both, ends) if across == 0 else (ends, both)), color="black", linewidth=3)
    axis.set(xlim=(-1.03, 1.03), ylim=(-1.03, 1.03), aspect="equal", xticks=[], yticks=[])
    axis.grid(False)
    for spine in axis.spines.values():
        spine.set_visible(True)


def draw_two_pillars(results: Results, arrays: Arrays) -> Figure:
    """The headline: executed paths of the corners, and their success by planner."""
    figure = Figure(figsize=(12.5, 7.2), layout="constrained")
    axes = figure.subplot_mosaic([list(CORNERS), ["success"] * 4], height_ratios=(1, 0.95))
    name, loop = base_name(results), study_loop(results)
    for corner, color in CORNERS.items():
        _draw_paths(axes[corner], arrays, corner, color)
        axes[corner].set_title(corner, fontsize=10)
    axis, planners = axes["success"], results["config"]["planners"]
    _corner_bars(axis, results, [f"{name}/{{}}/{planner}/{loop}/success" for planner in planners])
    axis.set_xticks(range(len(planners)), [PLANNERS[planner] for planner in planners])
    chance = mean_of(results, f"{name}/random_policy/success")
    axis.axhline(chance, color=COLORS["random"], ls="--", label="random policy")
    axis.set_ylabel("tasks whose goal is reached")
    axis.legend(ncols=5, loc="upper left")
    over = "training seeds and tasks" if len(results["seeds"]) > 1 else "tasks, of one training seed"
    axis.set_xlabel(f"whiskers: 95% interval over {over}; dots: training seeds", fontsize=9)
    rates = {corner: studied_rate(results, corner) for corner in CORNERS}
    figure.suptitle(
        f"{place(results)}: with both pillars {rates['both']:.2f} of the goals are reached, with one "
        f"{rates['spectral']:.2f} and {rates['metric']:.2f}, with neither {rates['none']:.2f}\n"
        f"these rates, and the paths of the first seed: {_in_words(loop)}, {PLANNERS[SEARCH]}",
        fontweight="bold",
    )
    return figure


def _in_words(loop: str) -> str:
    kind, _, horizon = loop.partition("/T=")
    return f"{kind} loop, T = {horizon}"


def _draw_paths(axis: Axes, arrays: Arrays, corner: str, color: str) -> None:
    draw_maze(axis, arrays)
    paths, goals = arrays[f"shown/{corner}/positions"][:SHOWN_PATHS], arrays["shown/goals"]
    for path, goal in zip(paths, goals, strict=False):
        within = np.linalg.norm(path - goal, axis=1) < REACHED
        end = int(within.argmax()) + 1 if within.any() else len(path)
        axis.plot(*path[:end].T, color=color, linewidth=1, alpha=0.75)
        axis.plot(*path[0], "o", color=color, markersize=4)
        axis.plot(*goal, "*", color="#009E73" if within.any() else "#D55E00", markersize=9, zorder=4)


def _corner_bars(axis: Axes, results: Results, patterns: Sequence[str]) -> None:
    """A group of bars for each pattern, whose {} stands for the corner; a dot a seed."""
    for index, (corner, color) in enumerate(CORNERS.items()):
        metrics = [pattern.format(corner) for pattern in patterns]
        where = np.arange(len(metrics)) + 0.2 * (index - 1.5)
        draw_bars(axis, results, metrics, where, 0.18, color=color, label=corner)
        seeds = [results["metrics"][metric]["values"] for metric in metrics]
        axis.plot(where - 0.05, seeds, "o", color="white", markeredgecolor="black", ms=4, zorder=5)
    axis.set_ylim(0, 1.12)


def draw_jacobian(results: Results, arrays: Arrays) -> Figure:
    """Jacobians, position error and gradients that hold, over the horizon."""
    figure, axes = new_figure(2, 2, (11.5, 7.6))
    name, horizons = base_name(results), np.array(results["config"]["horizons"])
    shown = (
        ("log10_jacobian_state", r"$\log_{10} \Vert \partial x_T/\partial s_0 \Vert_F$", "Start Jacobian"),
        ("log10_jacobian_action", r"$\log_{10} \Vert \partial x_T/\partial a \Vert_F$", "Action Jacobian"),
        ("position_error", "position error [length]", "A Jacobian means nothing without the error"),
        ("gradient_cosine", "cosine, actions perturbed", "Does the gradient of the energy hold?"),
    )
    for axis, (quantity, label, title) in zip(axes.flat, shown, strict=True):
        models = {**CORNERS, "true": COLORS["true"]}
        for model, color in models.items():
            values = arrays.get(f"{name}/{model}/{quantity}")
            if values is not None:
                plot_band(axis, horizons, values, "true system" if model == "true" else model, color)
        if quantity == "gradient_cosine":
            plot_band(axis, horizons, arrays[f"{name}/simulator/{quantity}"], "true system", COLORS["true"])
        label_horizons(axis, horizons)
        axis.set_ylabel(label)
        axis.set_title(title)
    axes[0, 0].legend()
    last = horizons[-1]
    norms, errors = (
        [mean_of(results, f"{name}/{corner}/{quantity}/T={last}") for corner in ("metric", "both")]
        for quantity in ("log10_jacobian_action", "position_error")
    )
    figure.suptitle(
        f"{place(results)}, T = {last}: action Jacobian $10^{{{norms[0]:.1f}}}$ (metric), "
        f"$10^{{{norms[1]:.1f}}}$ (both);\nx, the position read off the latent, is off by {errors[0]:.2f} "
        f"and {errors[1]:.2f}",
        fontweight="bold",
    )
    return figure


def draw_energy(results: Results, arrays: Arrays) -> Figure:
    """Each corner's energy over the box, to one goal."""
    figure, axes = new_figure(1, 4, (13.5, 3.9))
    name = base_name(results)
    for axis, corner in zip(axes[0], CORNERS, strict=True):
        energy = arrays[f"shown/{corner}/energy"]
        picture = axis.imshow(energy.T, origin="lower", extent=(-1, 1, -1, 1), cmap="viridis")
        axis.contour(energy.T, 12, origin="lower", extent=(-1, 1, -1, 1), colors="white", linewidths=0.5)
        draw_maze(axis, arrays)
        axis.plot(*arrays["shown/goals"][0], "*", color="#D55E00", markersize=12)
        axis.set_title(f"{corner}: Spearman {mean_of(results, f'{name}/{corner}/spearman'):.2f}", fontsize=10)
        figure.colorbar(picture, ax=axis, orientation="horizontal", shrink=0.8, label="energy",
                        ticks=MaxNLocator(3))  # fmt: skip
    figure.suptitle(
        f"{place(results)}: the energy to the goal (star) follows the steps to go with rank correlation "
        f"{mean_of(results, f'{name}/none/spearman'):.2f} without pillars, "
        f"{mean_of(results, f'{name}/both/spearman'):.2f} with both",
        fontweight="bold",
    )
    return figure


def draw_episode(results: Results, arrays: Arrays) -> Iterator[Figure]:
    """The four corners on one task, step by step: one that `both` solves and the fewest others do."""
    solved = {
        corner: np.linalg.norm(arrays[f"shown/{corner}/positions"] - arrays["shown/goals"][:, None], axis=-1)
        .min(1) < REACHED
        for corner in CORNERS
    }  # fmt: skip
    task = int((2 * solved["both"] - sum(solved.values()) / 4).argmax())
    length = arrays["shown/both/positions"].shape[1]
    for step in range(0, length, 4):
        figure, axes = new_figure(1, 4, (9.6, 2.9))
        for axis, (corner, color) in zip(axes[0], CORNERS.items(), strict=True):
            path = arrays[f"shown/{corner}/positions"][task][: step + 1]
            draw_maze(axis, arrays)
            axis.plot(*path.T, color=color, linewidth=1.2)
            axis.plot(*path[-1], "o", color=color, markersize=7)
            axis.plot(*arrays["shown/goals"][task], "*", color="#009E73", markersize=12)
            axis.set_title(corner, fontsize=10)
        figure.suptitle(f"{place(results)}, step {step}", fontsize=10)
        yield figure


# ----------------------------------------------------------------------------------------------
# The simulator, the parts, the phase diagram
# ----------------------------------------------------------------------------------------------


def draw_simulator(results: Results, arrays: Arrays) -> Figure:
    """Planning in the model of `both` against planning in the true dynamics with its distance."""
    config, name = results["config"], base_name(results)
    loops = [study_loop(results)] + [f"open/T={horizon}" for horizon in config["open_horizons"]]
    planners = studied(results)
    figure, axes = new_figure(1, len(planners) + 1, (3.6 * (len(planners) + 1), 4.2))
    sources = ["both", *config["simulators"]]
    for axis, planner in zip(axes[0], planners, strict=False):
        for index, source in enumerate(sources):
            label, color = SOURCES[source]
            metrics = [f"{name}/{source}/{planner}/{loop}/success" for loop in loops]
            where = np.arange(len(loops)) + 0.2 * (index - (len(sources) - 1) / 2)
            draw_bars(axis, results, metrics, where, 0.18, color=color, label=label)
        axis.set_xticks(range(len(loops)), [loop.replace("/", "\n") for loop in loops], fontsize=8)
        axis.set_ylim(0, 1.05)
        axis.set_title(in_line(planner))
    axes[0, 0].set_ylabel("tasks whose goal is reached")
    horizons = np.array(config["horizons"])
    for source in sources:
        label, color = SOURCES[source]
        plot_band(axes[0, -1], horizons, arrays[f"{name}/{source}/log10_gradient"], label, color)
    label_horizons(axes[0, -1], horizons)
    axes[0, -1].set_title("Gradient of the energy")
    axes[0, -1].set_ylabel(r"$\log_{10}$ norm / energy at the start")
    figure.legend(*axes[0, 0].get_legend_handles_labels(), loc="outside lower center", ncols=4)
    apart = results["metrics"][f"{name}/both_minus_simulator/{SEARCH}/{loops[0]}/success"]
    low, high = apart.get("interval95") or apart["starts95"]
    figure.suptitle(
        f"{place(results)}: success in the model less in the true dynamics {apart['mean']:+.2f} "
        f"[{low:+.2f}, {high:+.2f}]\n{PLANNERS[SEARCH]}, {_in_words(loops[0])}, equal budgets",
        fontweight="bold",
    )
    return figure


def draw_vanishing(results: Results) -> Figure:
    """Success of the corners where a pillar should not matter."""
    loop, base = study_loop(results), base_name(results)
    scenes = {base: place(results)} if "corners" in results["config"]["parts"] else {}
    scenes |= measured_scenes(results, VANISHING)
    figure = _draw_scenes(results, scenes)
    still = base.partition("/")[0] + "/off"
    effects = {name: f"{name}/{SEARCH}/{loop}/main_spectral" for name in (base, still) if name in scenes}
    said = "; ".join(f"{scenes[name]} {mean_of(results, effect):+.2f}" for name, effect in effects.items())
    figure.suptitle(
        f"What the spectral pillar adds by {in_line(SEARCH)}: {said}\n{_in_words(loop)}", fontweight="bold"
    )
    return figure


def draw_held_out(results: Results) -> Figure:
    """Success of the corners in systems that nothing was chosen on."""
    loop = study_loop(results)
    scenes = measured_scenes(results, HELD_OUT)
    figure = _draw_scenes(results, scenes)
    rates = {
        corner: [mean_of(results, f"{name}/{corner}/{SEARCH}/{loop}/success") for name in scenes]
        for corner in CORNERS
    }
    alone = max(rates["spectral"] + rates["metric"])
    figure.suptitle(
        f"{len(scenes)} worlds that nothing was chosen on: both pillars reach {min(rates['both']):.2f} to "
        f"{max(rates['both']):.2f}, one at most {alone:.2f}\n{in_line(SEARCH)}, {_in_words(loop)}",
        fontweight="bold",
    )
    return figure


def _draw_scenes(results: Results, scenes: Mapping[str, str]) -> Figure:
    """A row of panels a planner, a group of bars a scene; by name, in words."""
    loop, planners = study_loop(results), studied(results)
    figure, axes = new_figure(
        len(planners), 1, (2.4 + 1.9 * len(scenes), 1.2 + 2.5 * len(planners)), sharex=True
    )
    for axis, planner in zip(axes[:, 0], planners, strict=True):
        _corner_bars(axis, results, [f"{name}/{{}}/{planner}/{loop}/success" for name in scenes])
        axis.set_title(in_line(planner))
        axis.set_ylabel("tasks reached")
    axes[-1, 0].set_xticks(range(len(scenes)), list(scenes.values()))
    figure.legend(*axes[0, 0].get_legend_handles_labels(), loc="outside lower center", ncols=4)
    return figure


def draw_cause(results: Results, arrays: Arrays) -> Figure:
    """The flat model with metric, with true predictions, with tamed gradients: success, gradient norms."""
    planners, horizons = studied(results), results["config"]["horizons"]
    loops = [f"closed/T={horizon}" for horizon in results["config"]["closed_horizons"]]
    figure, axes = new_figure(1, len(loops) + 1, (4.5 + 4.8 * len(loops), 4.8))
    *bars, norm = axes[0]
    for index, (source, (label, color)) in enumerate(CAUSES.items()):
        where = np.arange(len(planners)) + 0.16 * (index - 2)
        for axis, loop in zip(bars, loops, strict=True):
            names = [f"cause/{source}/{planner}/{loop}/success" for planner in planners]
            draw_bars(axis, results, names, where, 0.15, color=color, label=label)
        norms = arrays[f"cause/{source}/log10_gradient"]
        plot_band(norm, np.array(horizons), norms, label, color)
    for axis, loop in zip(bars, loops, strict=True):
        axis.set_xticks(range(len(planners)), [in_line(name) for name in planners], fontsize=8.5)
        axis.set_ylim(0, 1.05)
        axis.set_title(f"Plans of {loop.rpartition('=')[2]} steps")
    bars[0].set_ylabel("tasks whose goal is reached")
    label_horizons(norm, horizons)
    norm.set_ylabel(r"$\log_{10}$ norm / energy at the start")
    norm.set_title("Gradient of the energy")
    figure.legend(*bars[0].get_legend_handles_labels(), loc="outside lower center", ncols=3)
    own, true, tamed = (
        ", ".join(f"{mean_of(results, f'cause/{source}/{planners[0]}/{loop}/success'):.2f}" for loop in loops)
        for source in ("metric/model", "metric/true_value", "both/true_value")
    )
    figure.suptitle(
        f"A flat model with the metric reaches {own};\n"
        f"with true predictions and its gradient {true}, with that of both {tamed}\n"
        f"{place(results)}, replanned after half of each plan, {in_line(planners[0])}",
        fontweight="bold",
    )
    return figure


def draw_variants(results: Results, part: str) -> Figure:
    """Success of the corners and of a part's variants, and what it goes with among those with the metric.

    With the position error under random actions, and with what the model promises too much of its own plans.
    """
    loop, metrics = study_loop(results), results["metrics"]
    horizon = results["config"]["horizons"][len(results["config"]["horizons"]) // 2]
    suffix = f"/{SEARCH}/{loop}/success"
    first = tuple(f"{base_name(results)}/{corner}/" for corner in CORNERS)
    variants = [
        name.removesuffix(suffix)
        for name in metrics
        if name.endswith(suffix) and name.startswith((f"{part}/", *first))
    ]
    size = (16.5, max(5.0, 1.6 + 0.24 * len(variants)))
    figure, axes = new_figure(1, 3, size, width_ratios=(1.35, 1, 1))
    rows = np.arange(len(variants))[::-1]
    marks = {SEARCH: ("s", "#0072B2"), "normalised_gradient": ("o", "#D55E00")}
    for planner, (marker, color) in marks.items():
        if planner not in studied(results):
            continue
        names = [f"{variant}/{planner}/{loop}/success" for variant in variants]
        label = in_line(planner)
        axes[0, 0].plot([mean_of(results, name) for name in names], rows, marker, color=color, label=label)
        for row, variant, name in zip(rows, variants, names, strict=True):
            values = metrics[name]["values"]
            axes[0, 0].plot(values, [row] * len(values), marker, color=color, ms=3, alpha=0.4)
            at_random = f"{variant}/position_error/T={horizon}"
            promised = f"{variant}/{planner}/optimism/T={results['config']['study_horizon']}"
            for axis, what in zip(axes[0, 1:], (at_random, promised), strict=True):
                if _has_metric(variant):
                    axis.plot(metrics[what]["values"], values, marker, color=color, ms=4, alpha=0.6)
    axes[0, 0].set_yticks(
        rows,
        [variant.removeprefix(f"{part}/").removeprefix(f"{base_name(results)}/") for variant in variants],
        fontsize=8,
    )
    axes[0, 0].set_xlabel(f"tasks whose goal is reached, {loop}; small: seeds")
    axes[0, 0].set_title(VARIANTS[part])
    axes[0, 0].legend(loc="lower right")
    axes[0, 0].set_xlim(-0.03, 1.03)
    for axis in axes[0, 1:]:
        axis.set_ylim(-0.03, 1.03)
        axis.set_ylabel("tasks whose goal is reached")
    axes[0, 1].set_xlabel(f"position error after {horizon} random actions [length]")
    axes[0, 1].set_title("Is it the prediction? Models with the metric")
    axes[0, 2].set_xlabel("energy promised too low [of that at the start]")
    axes[0, 2].set_title("Is it promises that are not kept?")
    said = _left_out(results) if part == "ablation" else _best_of(results, part, variants, horizon)
    figure.suptitle(f"{said}\nTasks reached by {in_line(SEARCH)}, {_in_words(loop)}", fontweight="bold")
    return figure


def _has_metric(variant: str) -> bool:
    """Whether a variant has InfoNCE's metric, by the name of its metrics."""
    return variant.endswith(("+metric", "/metric", "/both")) or "/metric/" in variant


def _left_out(results: Results) -> str:
    """Success with the metric and without each part of the first pillar."""
    parts = {"multi_step": "multi-step loss", "macro": "macro steps", "bound": "bound", "noise": "noise"}
    suffix = f"+metric/{SEARCH}/{study_loop(results)}/success"
    rates = {words: mean_of(results, f"ablation/without_{part}{suffix}") for part, words in parts.items()}
    return "With the metric and without " + ", ".join(f"{words} {rate:.2f}" for words, rate in rates.items())


def _best_of(results: Results, part: str, variants: Sequence[str], horizon: int) -> str:
    """Success and position error of the corners with metric, and of a part's most successful variant."""
    base, suffix = base_name(results), f"/{SEARCH}/{study_loop(results)}/success"
    others = [variant for variant in variants if variant.startswith(f"{part}/")]
    best = max(others, key=lambda variant: mean_of(results, variant + suffix))
    named = {f"{base}/{corner}": corner for corner in ("metric", "both") if f"{base}/{corner}" in variants}
    named[best] = f"best of the {len(others)} others, {best.removeprefix(f'{part}/')},"
    return "; ".join(
        f"{words} {mean_of(results, name + suffix):.2f} "
        f"(error {mean_of(results, f'{name}/position_error/T={horizon}'):.2f})"
        for name, words in named.items()
    )


def draw_phase_diagram(results: Results) -> Figure:
    """Success of each corner over wind strength and wall length, and what the second pillar adds."""
    winds, walls = results["config"]["phase_winds"], results["config"]["phase_walls"]
    maps = {
        corner: np.array([
            [mean_of(results, f"phase/wind={wind:g}/detour={wall:g}/{corner}/success") for wall in walls]
            for wind in winds
        ])
        for corner in CORNERS
    }  # fmt: skip
    shown = [(corner, maps[corner], "viridis", (0, 1)) for corner in CORNERS]
    shown += [
        ("both - metric: where the spectral pillar counts", maps["both"] - maps["metric"], "PuOr", (-1, 1)),
        ("both - spectral: where the metric counts", maps["both"] - maps["spectral"], "PuOr", (-1, 1)),
    ]
    figure, axes = new_figure(2, 3, (12.5, 7.4))
    for axis, (title, values, colors, limits) in zip(axes.flat, shown, strict=True):
        picture = axis.imshow(values, origin="lower", cmap=colors, vmin=limits[0], vmax=limits[1])
        for row, column in np.ndindex(values.shape):
            axis.text(column, row, f"{values[row, column]:.2f}", ha="center", va="center", fontsize=8,
                      color="black" if limits[0] < 0 or values[row, column] > 0.6 else "white")  # fmt: skip
        axis.set_xticks(range(len(walls)), [f"{wall:g}" for wall in walls])
        axis.set_yticks(range(len(winds)), [f"{wind:g}" for wind in winds])
        axis.set_title(title, fontsize=10)
        axis.grid(False)
        figure.colorbar(picture, ax=axis, shrink=0.8)
    for axis in axes[-1]:
        axis.set_xlabel("length of the walls [sides of the box]")
    for axis in axes[:, 0]:
        axis.set_ylabel("strength of the wind")
    figure.suptitle("Where each pillar is needed: tasks whose goal is reached", fontweight="bold")
    return figure


def draw_training(arrays: Arrays) -> Figure:
    """The corners' losses over training."""
    suffix, terms = "/history/iteration", ("prediction", "reconstruction", "metric", "probe")
    first = next(name for name in arrays if name.endswith(suffix)).removesuffix(suffix).rpartition("/")[0]
    corners = {corner: (corner, color) for corner, color in CORNERS.items()}
    return draw_losses(arrays, [first], dict(zip(terms, terms, strict=True)), corners)
