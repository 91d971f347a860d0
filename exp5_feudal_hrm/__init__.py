"""Experiment 5, feudal HRM: do goals of a manager level help a model that reasons by recursion?"""
