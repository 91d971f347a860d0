"""The figures of experiment 2, drawn from saved results alone.

Arrays of a landscape: energies [G, G] and `reached` [G', G'] (where descent from a start ended, as the
distance from the true minimum), rows along the second coordinate; paths [B, steps, 2].
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.colors import ListedColormap
from matplotlib.figure import Figure

from common.viz_utils import COLORS, new_figure, plot_band

Arrays = Mapping[str, np.ndarray]
Metrics = Mapping[str, Mapping[str, Any]]

LANDSCAPES = ("aligned", "misaligned")
LABELS = {
    "true": "true energy",
    "flat": "flat",
    "helm": r"HELM, $L_{HF}$ corrected",
    "helm_published": r"HELM, $L_{HF}$ as published",
    "helm_second_difference": "HELM, second difference",
    "noised_inputs": "noised inputs",
    "gradient_penalty": "gradient penalty",
    "mollified_descent": "mollified descent (HELM + hop)",
    "mollified_descent_hf": r"mollified descent, $L_{HF}$",
    "smoothed_flat": "flat, smoothed post hoc",
    "smoothed_flat_hop": "flat, smoothed post hoc + hop",
    "multi_start": "flat, best of N restarts",
    "cma_es": "flat, CMA-ES",
    "cma_es_smooth": "HELM, CMA-ES",
    "true_energy": "TRUE energy, smoothed + hop",
}
LINES = {
    "flat": COLORS["flat"],
    "helm": COLORS["helm"],
    "helm_published": "#56B4E9",
    "helm_second_difference": "#009E73",
    "noised_inputs": "#E69F00",
    "gradient_penalty": "#CC79A7",
    "mollified_descent": COLORS["helm"],
    "mollified_descent_hf": "#56B4E9",
    "smoothed_flat": "#E69F00",
    "smoothed_flat_hop": "#D55E00",
    "multi_start": "#777777",
}
REACHED, MISSED = "#0072B2", "#F2D8C9"
ENERGY_LEVELS = np.linspace(-2.0, 13.0, 31)
ENERGY_COLORS = colormaps["viridis"].resampled(
    len(ENERGY_LEVELS) - 1
)  # steps show the shape, and keep files small


def draw_figures(results: Mapping[str, Any], arrays: Arrays) -> dict[str, Figure]:
    """Every figure of a run, by file name."""
    metrics, config = results["metrics"], results["config"]
    figures = {
        f"exp2_{variant}_energy.png": draw_energy(variant, metrics, arrays, config)
        for variant in ("true", "flat", "helm")
    }
    figures |= {
        f"exp2_{variant}_basin.png": draw_basin(variant, metrics, arrays, config)
        for variant in ("flat", "helm")
    }
    figures |= {
        "exp2_contour_triplet.png": draw_triplet(metrics, arrays, config),
        "exp2_3d.png": draw_surfaces(metrics, arrays, config),
        "exp2_lambda_sigma.png": draw_map(metrics, arrays, config),
        "exp2_misaligned.png": draw_misaligned(metrics, arrays, config),
        "exp2_training.png": draw_training(metrics, arrays),
    }
    benchmarks = draw_benchmarks(metrics, config)
    return figures if benchmarks is None else figures | {"exp2_benchmarks.png": benchmarks}


def _mean(metrics: Metrics, name: str) -> float:
    return metrics[name]["mean"] if metrics[name]["mean"] is not None else float("nan")


def _spread(metrics: Metrics, name: str) -> str:
    """Mean and range over seeds, as '0.96 [0.89, 1.00]'."""
    entry = metrics[name]
    return f"{entry['mean']:.3f} [{min(entry['values']):.3f}, {max(entry['values']):.3f}]"


def _square(axis: Axes, half_width: float) -> None:
    axis.set_xlim(-half_width, half_width)
    axis.set_ylim(-half_width, half_width)
    axis.set_aspect("equal")
    axis.set_xlabel("$a_1$ [length]")
    axis.set_ylabel("$a_2$ [length]")
    axis.grid(False)


def _star(axis: Axes, point: np.ndarray, label: str | None = None) -> None:
    axis.plot(*point, marker="*", markersize=13, color="white", markeredgecolor="black", linestyle="",
              label=label, zorder=5)  # fmt: skip


def _argmin(energy: np.ndarray, half_width: float) -> np.ndarray:
    """Centre of the lowest cell of [G, G], rows along the second coordinate."""
    row, column = np.unravel_index(energy.argmin(), energy.shape)
    return (np.array([column, row]) + 0.5) * (2 * half_width / len(energy)) - half_width


# ----------------------------------------------------------------------------------------------
# Energies and basins
# ----------------------------------------------------------------------------------------------


def _show_energy(axis: Axes, energy: np.ndarray, half_width: float, contours: bool = False) -> Any:
    extent = (-half_width, half_width, -half_width, half_width)
    image = axis.imshow(
        energy,
        origin="lower",
        extent=extent,
        cmap=ENERGY_COLORS,
        interpolation="nearest",
        vmin=ENERGY_LEVELS[0],
        vmax=ENERGY_LEVELS[-1],
    )
    if contours:
        axis.contour(
            energy, levels=ENERGY_LEVELS[::2], extent=extent, colors="white", linewidths=0.35, alpha=0.7
        )
    _square(axis, half_width)
    return image


ENERGY_TITLES = {
    "true": "The true energy: a basin under ripples",
    "flat": "The energy that the flat model learned",
    "helm": "The energy that HELM learned ($L_{HF}$, $\\lambda$ = LAMBDA, $\\sigma$ = SIGMA)",
}


def draw_energy(variant: str, metrics: Metrics, arrays: Arrays, config: Mapping[str, Any]) -> Figure:
    """One model's energy on both landscapes, its own lowest point beside the true minimum."""
    width = config["domain_range"]
    figure, axes = new_figure(1, 2, (10.6, 5.1))
    for axis, landscape in zip(axes[0], LANDSCAPES, strict=True):
        energy = arrays[f"{landscape}/{variant}/energy"]
        image = _show_energy(axis, energy, width)
        _star(axis, arrays[f"{landscape}/minimiser"], "true minimum")
        if variant == "true":
            axis.plot(*arrays[f"{landscape}/centre"], marker="+", markersize=10, color="white", linestyle="",
                      markeredgewidth=2, label="centre of the basin")  # fmt: skip
            title = "minimum at the centre" if landscape == "aligned" else "minimum beside the centre"
            axis.set_title(f"{landscape}: {title}")
        else:
            axis.plot(*_argmin(energy, width), marker="x", markersize=9, markeredgewidth=2.2, color="#F0E442",
                      linestyle="", label="the model's minimum", zorder=6)  # fmt: skip
            error = _mean(metrics, f"{landscape}/{variant}/argmin_error")
            gain = _mean(metrics, f"{landscape}/{variant}/ripple_gain")
            axis.set_title(f"{landscape}: {gain:.0%} of the ripples, minimum {error:.2f} off")
        axis.legend(loc="upper right", facecolor="#333333", framealpha=0.75, frameon=True, labelcolor="white")
    figure.colorbar(image, ax=axes[0], label="energy E(a)", shrink=0.85)
    figure.suptitle(ENERGY_TITLES[variant].replace("LAMBDA", f"{config['lambda_hf']:g}").replace(
        "SIGMA", f"{config['hf_noise_sigma']:g}"), fontweight="bold")  # fmt: skip
    return figure


def draw_basin(variant: str, metrics: Metrics, arrays: Arrays, config: Mapping[str, Any]) -> Figure:
    """From which starts gradient descent on a model reaches the true minimum."""
    width, tolerance = config["domain_range"], config["tolerance"]
    figure, axes = new_figure(1, 2, (10.6, 5.4))
    for axis, landscape in zip(axes[0], LANDSCAPES, strict=True):
        reached = arrays[f"{landscape}/{variant}/reached"] <= tolerance
        axis.imshow(
            reached, origin="lower", extent=(-width, width, -width, width), vmin=0, vmax=1,
            cmap=ListedColormap([MISSED, REACHED]), interpolation="nearest",
        )  # fmt: skip
        for path in arrays[f"{landscape}/{variant}/paths"]:
            axis.plot(*path.T, color="black", linewidth=1.1)
            axis.plot(*path[-1], marker="o", markersize=4.5, color="black")
        _star(axis, arrays[f"{landscape}/minimiser"])
        _square(axis, width)
        axis.set_title(
            f"{landscape}: coverage {_spread(metrics, f'{landscape}/{variant}/coverage')}\n"
            f"of the model's own minimum {_spread(metrics, f'{landscape}/{variant}/own_coverage')}"
        )
    model = {"flat": "the flat model", "helm": "HELM"}[variant]
    figure.suptitle(f"From where descent on {model} reaches the true minimum (star)", fontweight="bold")
    figure.supxlabel(
        f"blue: descent ends within {tolerance:g} of the true minimum; black: descent paths and their ends; "
        "brackets: range over seeds",
        fontsize=8.5,
    )
    return figure


def draw_triplet(metrics: Metrics, arrays: Arrays, config: Mapping[str, Any]) -> Figure:
    """True, flat and HELM with descent paths from the same starts, on both landscapes."""
    width = config["domain_range"]
    figure, axes = new_figure(2, 3, (11.4, 7.8))
    for row, landscape in zip(axes, LANDSCAPES, strict=True):
        for axis, variant in zip(row, ("true", "flat", "helm"), strict=True):
            image = _show_energy(
                axis, arrays[f"{landscape}/{variant}/energy"], width, contours=variant == "helm"
            )
            for path in arrays[f"{landscape}/{variant}/paths"]:
                axis.plot(*path.T, color="#E8352E", linewidth=1.6)
                axis.plot(*path[0], marker="o", markersize=4, color="white", markeredgecolor="black")
                axis.plot(*path[-1], marker="X", markersize=6, color="#E8352E", markeredgecolor="white")
            _star(axis, arrays[f"{landscape}/minimiser"])
            title = f"{landscape}, {'HELM' if variant == 'helm' else LABELS[variant]}"
            if variant != "true":
                title += f": coverage {_mean(metrics, f'{landscape}/{variant}/coverage'):.2f}"
            axis.set_title(title, fontsize=10)
    figure.colorbar(image, ax=axes, label="energy E(a)", shrink=0.6)
    figure.suptitle(
        "Gradient descent from the same starts; star: the true minimum",
        fontweight="bold",
    )
    return figure


def draw_surfaces(metrics: Metrics, arrays: Arrays, config: Mapping[str, Any]) -> Figure:
    """The three energies of the aligned landscape as surfaces."""
    width = config["domain_range"]
    figure = Figure(figsize=(11.0, 4.4))
    for column, variant in enumerate(("true", "flat", "helm"), start=1):
        energy = arrays[f"aligned/{variant}/energy"][::4, ::4]
        side = (np.arange(len(energy)) + 0.5) * (2 * width / len(energy)) - width
        axis = figure.add_subplot(1, 3, column, projection="3d", computed_zorder=False)
        axis.plot_surface(*np.meshgrid(side, side), energy, cmap="viridis", vmin=-2, vmax=12, rcount=110,
                          ccount=110, linewidth=0, antialiased=True)  # fmt: skip
        minimiser = arrays["aligned/minimiser"]
        axis.plot([minimiser[0]] * 2, [minimiser[1]] * 2, [energy.min(), 14], color="#E8352E", linewidth=1.5)
        axis.set(xlabel="$a_1$ [length]", ylabel="$a_2$ [length]", zlim=(-3, 14))
        axis.tick_params(labelsize=7, pad=-1)
        axis.view_init(elev=38, azim=-58)
        axis.set_box_aspect(None, zoom=0.94)
        shown = () if variant == "true" else ("coverage", "shrink")
        numbers = ", ".join(f"{name} {_mean(metrics, f'aligned/{variant}/{name}'):.2f}" for name in shown)
        axis.set_title(f"{LABELS[variant]}\n{numbers}".strip(), loc="center", y=0.99)
    figure.suptitle(
        "Mollification at a glance (height: energy E; line: true minimum; "
        "shrink: what is left of the basin)",
        fontweight="bold", x=0.5, ha="center",
    )  # fmt: skip
    figure.subplots_adjust(left=0.0, right=0.98, bottom=0.03, top=0.88, wspace=0.04)
    return figure


# ----------------------------------------------------------------------------------------------
# The map over lambda and sigma
# ----------------------------------------------------------------------------------------------

MAP_PANELS = {
    "coverage": ("Coverage", "viridis", (0.0, 1.0)),
    "argmin_error": ("Minimum off by [length]", "viridis_r", (0.0, 1.0)),
    "shrink": ("Shrink of the basin", "viridis", (0.0, 1.0)),
}


def _draw_table(axis: Axes, values: np.ndarray, colormap: str, limits: tuple[float, float]) -> None:
    """Numbers [rows, columns] in coloured cells."""
    axis.imshow(values, cmap=colormap, vmin=limits[0], vmax=limits[1], aspect="auto")
    for (row, column), value in np.ndenumerate(values):
        share = (value - limits[0]) / (limits[1] - limits[0])
        light = share > 0.6 if not colormap.endswith("_r") else share < 0.4
        text = "n/a" if np.isnan(value) else f"{value:.2f}"
        axis.text(
            column, row, text, ha="center", va="center", fontsize=9, color="black" if light else "white"
        )
    axis.grid(False)
    axis.tick_params(length=0)


def draw_map(metrics: Metrics, arrays: Arrays, config: Mapping[str, Any]) -> Figure:
    """Coverage, bias and shrink over lambda and sigma, predicted and trained, and the ripple gains."""
    rows = ["predicted", *(["trained"] if "map/trained/coverage" in arrays else [])]
    figure, axes = new_figure(len(rows), 4, (14.0, 1.0 + 3.1 * len(rows)), width_ratios=(1, 1, 1, 1.15))
    for row, kind in zip(axes, rows, strict=True):
        for axis, (quantity, (title, colormap, limits)) in zip(row, MAP_PANELS.items(), strict=False):
            values = arrays[f"map/{kind}/{quantity}"]
            _draw_table(axis, values.mean(-1) if kind == "trained" else values, colormap, limits)
            axis.set_xticks(range(values.shape[1]), [f"{sigma:g}" for sigma in config["map_sigmas"]])
            axis.set_yticks(range(values.shape[0]), [f"{weight:g}" for weight in config["map_lambdas"]])
            axis.set(xlabel=r"noise $\sigma$ [length]", ylabel=r"weight $\lambda$")
            origin = "closed-form filter" if kind == "predicted" else "trained, mean of seeds"
            axis.set_title(f"{title}\n({origin})")
    for axis in axes[:, 3]:
        axis.remove()
    _draw_gains(figure.add_subplot(axes[0, 3].get_gridspec()[:, 3]), metrics, arrays)
    figure.suptitle(
        r"$L_{HF}$ over its weight and noise, aligned landscape (published: $\lambda$ = 1, $\sigma$ = 0.05)",
        fontweight="bold",
    )
    return figure


def _draw_gains(axis: Axes, metrics: Metrics, arrays: Arrays) -> None:
    """Measured ripple gain over the closed-form one, of every SIREN variant and of the trained map."""
    low = 1e-3
    axis.plot([low, 1.1], [low, 1.1], color=COLORS["target"], linewidth=1.0, zorder=1)
    if "map/trained/ripple_gain" in arrays:
        predicted, trained = arrays["map/predicted/ripple_gain"], arrays["map/trained/ripple_gain"]
        axis.plot(
            predicted.ravel(), trained.mean(-1).ravel().clip(low), ".", color="#AAAAAA", label="map, trained"
        )
    for variant, color in LINES.items():
        name = f"aligned/{variant}/ripple_gain"
        if f"{name}_predicted" in metrics:
            axis.plot(_mean(metrics, f"{name}_predicted"), max(low, _mean(metrics, name)), "o", markersize=7,
                      color=color, label=LABELS[variant])  # fmt: skip
    axis.set(xscale="log", yscale="log", xlim=(low, 1.3), ylim=(low, 1.3))
    axis.set(xlabel="gain of the closed-form filter", ylabel="measured ripple gain")
    axis.set_title("Ripples left")
    axis.legend(fontsize=7, loc="upper left")


# ----------------------------------------------------------------------------------------------
# Planning
# ----------------------------------------------------------------------------------------------


def draw_misaligned(metrics: Metrics, arrays: Arrays, config: Mapping[str, Any]) -> Figure:
    """Why a funnel is not enough, and what reaches the minimum all the same, over the budget."""
    width = config["domain_range"]
    figure, axes = new_figure(1, 3, (14.0, 4.6), width_ratios=(1, 1.15, 1.15))
    _draw_hop(axes[0, 0], arrays, config, width)
    planners = (
        "mollified_descent",
        "mollified_descent_hf",
        "smoothed_flat_hop",
        "smoothed_flat",
        "multi_start",
    )
    for axis, landscape in zip(axes[0, 1:], ("aligned", "misaligned"), strict=True):
        budgets = arrays[f"{landscape}/budgets"]
        for planner in planners:
            values = arrays[f"{landscape}/{planner}/success_by_budget"]
            plot_band(axis, budgets, values, LABELS[planner], LINES[planner])
        axis.axhline(0.98, color=COLORS["target"], linestyle=":", linewidth=1.2)
        axis.annotate("target 0.98", (budgets[0], 0.98), va="top", fontsize=8, color=COLORS["target"])
        axis.set_xscale("log")
        axis.set_xticks(budgets, [f"{budget:g}" for budget in budgets])
        axis.minorticks_off()
        axis.set(ylim=(0, 1.03), xlabel="model evaluations for each start (a gradient counts 3)")
        axis.set_ylabel(f"starts that end within {config['plan_tolerance']:g} of the minimum")
        best = _mean(metrics, f"{landscape}/mollified_descent/coverage")
        axis.set_title(f"{landscape}: mollified descent reaches {best:.3f}")
    handles, labels = axes[0, 2].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=len(planners))
    figure.suptitle(
        "Mollified descent: descend on HELM, hop, polish on flat, keep the lowest credible energy",
        fontweight="bold",
    )
    return figure


def _draw_hop(axis: Axes, arrays: Arrays, config: Mapping[str, Any], width: float) -> None:
    """The middle of the misaligned landscape: where HELM ends, where the hop looks, where the minimum is."""
    bottom = _argmin(arrays["misaligned/helm_second_difference/energy"], width)
    minimiser = arrays["misaligned/minimiser"]
    _show_energy(axis, arrays["misaligned/true/energy"], width)
    for radius, style in ((1, "-"), (2, ":")):
        angle = np.linspace(0, 2 * np.pi, 200)
        around = bottom[:, None] + radius * config["hop_sigma"] * np.stack((np.cos(angle), np.sin(angle)))
        axis.plot(*around, color="white", linestyle=style, linewidth=1.3,
                  label=f"hop, {radius} standard deviation{'s' if radius > 1 else ''}")  # fmt: skip
    axis.plot(*bottom, marker="X", markersize=9, color="#E8352E", markeredgecolor="white", linestyle="",
              label="HELM's minimum")  # fmt: skip
    _star(axis, minimiser, "true minimum")
    axis.set_xlim(bottom[0] - 1.6, bottom[0] + 1.6)
    axis.set_ylim(bottom[1] - 1.6, bottom[1] + 1.6)
    axis.set_title(f"misaligned: the funnel ends {np.linalg.norm(bottom - minimiser):.2f} off")
    axis.legend(loc="upper right", fontsize=7.5, facecolor="#333333", framealpha=0.75, frameon=True,
                labelcolor="white")  # fmt: skip


FUNCTION_COLUMNS = (
    "flat",
    "helm",
    "multi_start",
    "smoothed_flat_hop",
    "cma_es",
    "cma_es_smooth",
    "mollified_descent",
    "true_energy",
)


def _function_names(metrics: Metrics) -> list[str]:
    """ackley-2, ... in the order of the run."""
    return [
        name.split("/")[1]
        for name in metrics
        if name.startswith("functions/") and name.endswith("flat/success")
    ]


def draw_benchmarks(metrics: Metrics, config: Mapping[str, Any]) -> Figure | None:
    """Success of every planner on every test function, the model's fit beside it; None without functions."""
    names = _function_names(metrics)
    if not names:
        return None
    columns = [column for column in FUNCTION_COLUMNS if f"functions/{names[0]}/{column}/success" in metrics]
    success = np.array([[_mean(metrics, f"functions/{name}/{column}/success") for column in columns]
                        for name in names])  # fmt: skip
    figure, axes = new_figure(1, 1, (11.0, 2.2 + 0.42 * len(names)))
    axis = axes[0, 0]
    _draw_table(axis, success, "viridis", (0.0, 1.0))
    labels = {**LABELS, "helm": "HELM alone (second difference)"}
    axis.set_xticks(range(len(columns)), [_wrap(labels[column]) for column in columns])
    fits = [_mean(metrics, f"functions/{name}/flat/r2") for name in names]
    axis.set_yticks(
        range(len(names)), [f"{name}  ($R^2$ {fit:.3f})" for name, fit in zip(names, fits, strict=True)]
    )
    axis.axvline(len(columns) - 1.5, color="white", linewidth=4)
    axis.set_title(
        f"Test functions: starts that reach the minimum with {config['plan_evaluations']:g} evaluations "
        "of the same flat model\n(last column: of the true energy; $R^2$: fit of the flat model)"
    )
    return figure


def _wrap(label: str) -> str:
    """A column's label on at most three lines."""
    words, lines = label.split(), [""]
    for word in words:
        if len(lines[-1]) + len(word) > 13 and lines[-1]:
            lines.append("")
        lines[-1] = f"{lines[-1]} {word}".strip()
    return "\n".join(lines)


# ----------------------------------------------------------------------------------------------
# Training
# ----------------------------------------------------------------------------------------------

TRAINED = ("flat", "helm_published", "helm", "helm_second_difference", "noised_inputs", "gradient_penalty")


def draw_training(metrics: Metrics, arrays: Arrays) -> Figure:
    """Losses of the aligned variants, and what underfitting looks like beside mollification."""
    figure, axes = new_figure(1, 2, (11.5, 4.4))
    for variant in TRAINED:
        prefix = f"aligned/{variant}/history"
        values = arrays[f"{prefix}/fit" if f"{prefix}/fit" in arrays else f"{prefix}/loss"]
        plot_band(
            axes[0, 0], arrays[f"{prefix}/iteration"], values, LABELS[variant], LINES[variant], marker=""
        )
    axes[0, 0].set(yscale="log", xlabel="optimiser step", ylabel="squared error of a batch / variance of E")
    axes[0, 0].set_title("Fit to the rippled energy")
    axes[0, 0].legend(fontsize=7.5)
    _draw_architectures(axes[0, 1], metrics)
    return figure


ARCHITECTURES = {
    "flat": "SIREN, flat",
    "flat_fourier": "Fourier features, flat",
    "flat_relu": "ReLU, flat",
    "flat_silu": "SiLU, flat",
    "helm_published_silu": "SiLU, HELM as published",
    "helm_published": "SIREN, HELM as published",
    "helm": "SIREN, HELM corrected",
}


def _draw_architectures(axis: Axes, metrics: Metrics) -> None:
    """Coverage beside ripple R^2 for each network: what fails to learn ripples looks mollified."""
    height, rows = 0.36, np.arange(len(ARCHITECTURES))
    for offset, quantity, color, label in (
        (-0.5, "coverage", COLORS["helm"], "coverage"),
        (0.5, "ripple_r2", COLORS["flat"], "ripple $R^2$"),
    ):
        entries: Sequence[Mapping[str, Any]] = [
            metrics[f"aligned/{variant}/{quantity}"] for variant in ARCHITECTURES
        ]
        means = np.array([entry["mean"] for entry in entries])
        seeds = np.array([entry["values"] for entry in entries])  # [networks, S]
        reach = np.stack((means - seeds.min(1), seeds.max(1) - means))
        axis.barh(rows + offset * height, means.clip(-1), height, color=color, label=label, xerr=reach,
                  error_kw={"elinewidth": 1.0})  # fmt: skip
    axis.set_yticks(rows, list(ARCHITECTURES.values()))
    axis.invert_yaxis()
    axis.axvline(0, color="black", linewidth=0.8)
    axis.set_xlim(-1, 1.05)
    axis.set_xlabel("aligned landscape, mean and range over seeds")
    axis.set_title("Coverage beside what was learned of the ripples")
    axis.legend(loc="upper left")
