"""The figures of experiment 8."""


def draw_figures(results, arrays):
    """None yet."""
    return {}
