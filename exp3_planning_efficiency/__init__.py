"""Experiment 3, planning efficiency: gradient planners against CEM in MiniGrid world models."""
