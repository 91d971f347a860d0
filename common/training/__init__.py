"""Training: one loop for every module, ensembles of seeds."""
