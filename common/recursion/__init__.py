"""Recursive reasoning models: layers, carry and halting, losses, puzzles."""
