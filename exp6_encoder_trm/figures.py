"""x"""


def draw_figures(results, arrays):
    return {}
