"""Sweeps: an experiment run over settings and seeds, side by side on one machine or on a Ray cluster."""
