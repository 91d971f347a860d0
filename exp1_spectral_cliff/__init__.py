"""Experiment 1: the spectral cliff."""
