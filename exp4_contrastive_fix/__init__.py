"""Experiment 4, the contrastive fix: latents whose distance knows the steps, and the two pillars measured."""
