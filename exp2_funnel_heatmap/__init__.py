"""Experiment 2: the funnel heatmap."""
