"""Experiment 8: two pillars, a maze in a chaotic wind."""
