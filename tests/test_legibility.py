"""The check of figures' texts finds what is planted and nothing in a figure that is in order."""

import pytest

from common.viz_utils import new_figure
from tests.legibility import unreadable


def in_order():
    figure, axes = new_figure(1, 2)
    for axis in axes[0]:
        axis.plot([0, 1], [0, 1], label="a line")
        axis.set_title("What was found")
        axis.set_xlabel("steps")
        axis.legend()
    figure.suptitle("Of both")
    return figure, axes[0, 0]


def leave_the_canvas(figure, axis):
    figure.text(0.9, 0.5, "this sentence is far too long to end on the canvas")


def lie_over_another(figure, axis):
    for _ in range(2):
        axis.text(0.5, 0.2, "here")


def crowd_the_ticks(figure, axis):
    axis.set_xticks([0.0, 0.01, 0.02], ["thousand", "thousand", "thousand"])


def write_over_the_legend(figure, axis):
    axis.get_legend().set_loc("center")
    axis.text(0.5, 0.5, "a line is named here", ha="center", va="center")


def test_a_figure_in_order_is_readable():
    assert unreadable(in_order()[0]) == []


@pytest.mark.parametrize(
    "fault", [leave_the_canvas, lie_over_another, crowd_the_ticks, write_over_the_legend]
)
def test_each_planted_fault_is_found(fault):
    figure, axis = in_order()
    fault(figure, axis)
    assert unreadable(figure)


def test_what_is_not_drawn_counts_for_nothing():
    figure, axis = in_order()
    axis.set_xlim(0.4, 0.6)  # ticks beyond the limits keep labels that are not drawn
    for _ in range(2):
        axis.text(0.5, 0.5, "unseen", visible=False)
    axis.set_axis_off()
    assert unreadable(figure) == []
