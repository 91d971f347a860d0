"""Experiment 6: demonstrations in the place of a learned puzzle embedding."""
