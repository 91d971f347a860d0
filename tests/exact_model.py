"""A planted model of experiment 1: the true step with a small error."""

import torch

from exp1_spectral_cliff.dataset import make_system

SYSTEM = make_system("lorenz")


class ExactModel(torch.nn.Module):
    """The true step with a small error: what a well-trained flat model is."""

    stride, error = 1, 1e-3

    def encode(self, states):
        return states

    def decode(self, latents):
        return latents

    def step(self, latents, blocks):
        return SYSTEM.step(latents, blocks) + self.error
