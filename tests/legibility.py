"""Whether a figure can be read: no text leaves the canvas or lies over other text, by its extents."""

import itertools

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.text import Text
from matplotlib.transforms import Bbox

SLACK = 2.0  # pixels that a text's box may reach beyond the canvas or into another: boxes are larger than ink


def unreadable(figure: Figure) -> list[str]:
    """What is wrong with a figure's texts, a line each."""
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    renderer = canvas.get_renderer()
    width, height = figure.bbox.size
    boxes = [(text, text.get_window_extent(renderer)) for text in _texts(figure)]
    found = [
        f"{_named(text)} leaves the canvas"
        for text, box in boxes
        if min(box.x0, box.y0, width - box.x1, height - box.y1) < -SLACK
    ]
    for (text, box), (other, beside) in itertools.combinations(boxes, 2):
        if _overlap(box, beside):
            found.append(f"{_named(text)} lies over {_named(other)}")
    return found


def _texts(figure: Figure) -> list[Text]:
    """Those that are drawn: visible, as everything that holds them, and not empty."""
    found: list[Text] = []

    def visit(artist) -> None:
        if not artist.get_visible():
            return
        if isinstance(artist, Text) and artist.get_text().strip():
            found.append(artist)
        for child in artist.get_children():
            visit(child)

    visit(figure)
    hidden = {id(text) for axis in figure.axes for text in _beyond_limits(axis)}
    return [text for text in found if id(text) not in hidden]


def _beyond_limits(axis) -> list[Text]:
    """Labels of ticks that are not drawn: outside the limits, or of an axis that is switched off."""
    own = [axis.xaxis, axis.yaxis, *([axis.zaxis] if hasattr(axis, "zaxis") else [])]
    if not axis.axison:
        labels = [[*one.get_ticklabels(which="both"), one.label, one.offsetText] for one in own]
        return list(itertools.chain(*labels))
    hidden = []
    for one in own:
        low, high = sorted(one.get_view_interval())
        for tick in (*one.get_major_ticks(), *one.get_minor_ticks()):
            if not low <= tick.get_loc() <= high:
                hidden += [tick.label1, tick.label2]
    return hidden


def _overlap(box: Bbox, other: Bbox) -> bool:
    across = min(box.x1, other.x1) - max(box.x0, other.x0)
    along = min(box.y1, other.y1) - max(box.y0, other.y0)
    return across > SLACK and along > SLACK


def _named(text: Text) -> str:
    return repr(" ".join(text.get_text().split())[:40])
