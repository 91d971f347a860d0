"""Figures on disk: the pixels that `savefig` would write, and equal files for equal figures."""

import io

import matplotlib
import numpy as np
import pytest
from PIL import Image

from common.viz_utils import house_style, new_figure, save_animation, save_figure


def two_panels():
    """Two lines and a legend, laid out by matplotlib: what the layout moves shows whether it was done."""
    figure, axes = new_figure(1, 2, (5.0, 3.0))
    axes[0, 0].plot([0, 1, 2], [1e6, 3e6, 2e6], label="a long name")
    axes[0, 1].plot([0, 1], [0, 1], color="black")
    axes[0, 0].set(xlabel="steps", ylabel="norm", title="One")
    axes[0, 0].legend()
    figure.suptitle("Two panels", fontweight="bold")
    return figure


@pytest.mark.parametrize("dpi", [130, "figure"])
def test_a_figure_has_the_pixels_of_savefig(tmp_path, dpi):
    with house_style(), matplotlib.rc_context({"savefig.dpi": dpi}):
        expected = io.BytesIO()
        two_panels().savefig(expected, format="png")
        figure = two_panels()
        before = figure.dpi
        save_figure(figure, tmp_path / "saved.png")
    assert figure.dpi == before
    with Image.open(expected) as image, Image.open(tmp_path / "saved.png") as saved:
        expected, saved = (np.asarray(each.convert("RGB")).astype(int) for each in (image, saved))
    assert saved.shape == expected.shape
    assert np.abs(saved - expected).max() <= 16 and np.abs(saved - expected).mean() < 0.1  # 256 colours
    assert expected.std() > 20


def test_equal_figures_are_equal_files(tmp_path):
    for name in ("a", "b"):
        with house_style():
            save_figure(two_panels(), tmp_path / f"{name}.png")
            save_animation((two_panels() for _ in range(2)), tmp_path / f"{name}.gif")
    for suffix in ("png", "gif"):
        assert (tmp_path / f"a.{suffix}").read_bytes() == (tmp_path / f"b.{suffix}").read_bytes()
