"""Recursive reasoning models (HRM, TRM): layers, recursion, carry with adaptive halting, losses, averages."""
