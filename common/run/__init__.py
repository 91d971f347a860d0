"""Running an experiment: its command line, cached steps, results, criteria, devices, random numbers."""
