"""Experiment 7, unseen layouts: planning by gradient around walls that no training has seen."""
