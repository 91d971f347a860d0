"""The figures of experiment 4, drawn from saved results alone."""


def draw_figures(results, arrays):
    """Nothing yet."""
    return {}
