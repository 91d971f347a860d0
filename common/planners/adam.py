"""Adam on one tensor, for planners: their tensors are small, and torch.optim's bookkeeping costs more."""

import torch
from torch import Tensor

LARGEST_SLOPE = 1e18  # in absolute value; the square of a larger one overflows


class Adam:
    """Adam (Kingma & Ba, 2015) on values of the shape of `like`, with a rate and two betas."""

    def __init__(self, like: Tensor, rate: float, betas: tuple[float, float]):
        self.first, self.second = torch.zeros_like(like), torch.zeros_like(like)
        self.rate, self.betas, self.steps = rate, betas, 0

    def step(self, values: Tensor, gradient: Tensor) -> None:
        """Move the values in place; a NaN in the gradient counts as 0."""
        self.steps += 1
        gradient = gradient.nan_to_num(nan=0.0).clamp_(-LARGEST_SLOPE, LARGEST_SLOPE)
        beta_1, beta_2 = self.betas
        self.first.lerp_(gradient, 1 - beta_1)
        self.second.lerp_(gradient.square(), 1 - beta_2)
        spread = (self.second / (1 - beta_2**self.steps)).sqrt_().add_(1e-8)
        values.addcdiv_(self.first, spread, value=-self.rate / (1 - beta_1**self.steps))
