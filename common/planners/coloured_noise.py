"""Noise that is correlated over the steps of a plan, with unit variance at every step.

White noise over the steps averages out along a plan, so that plans drawn from it hardly leave their start.

Shapes: B problems, N candidates, T steps, A entries of an action; noise is [B, N, T, A].
"""

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from .candidates import Noise


def autoregressive_noise(
    noise: Noise, shape: Sequence[int], device: torch.device, correlation: float
) -> Tensor:
    """u_t = c u_{t-1} + sqrt(1 - c^2) e_t with e standard normal, started in its stationary law: `shape`.

    The correlation c of neighbouring steps lies in [0, 1); 0.8 gives u_t = .8 u_{t-1} + .6 e_t.
    """
    white = noise.normal(shape, device)
    fresh = math.sqrt(1 - correlation**2)
    steps = [white[:, :, 0]]
    for now in white.unbind(2)[1:]:
        steps.append(correlation * steps[-1] + fresh * now)
    return torch.stack(steps, 2)


def power_law_noise(noise: Noise, shape: Sequence[int], device: torch.device, exponent: float) -> Tensor:
    """Gaussian noise whose power falls as frequency^-exponent (Timmer & Koenig, 1995): `shape`.

    0 is white, 1 pink, 2 red. Frequency 0 has the power of 1 / T, as in iCEM (Pinneri et al., 2020). Every
    group of problems is transformed by itself, so that its noise is the same to the bit in any company.
    """
    problems, candidates, horizon, size = shape
    bins = horizon // 2 + 1
    frequency = torch.arange(bins, dtype=torch.float32, device="cpu").clamp(min=1) / horizon
    amplitude = frequency ** (-exponent / 2)
    real = torch.ones(bins, device="cpu", dtype=torch.float32)  # bins that stand for one real wave alone
    real[1 : (horizon + 1) // 2] = 0
    variance = (amplitude.square() * (4 - 2 * real)).sum() / horizon**2
    parts = noise.normal((problems, candidates, size, bins, 2), torch.device("cpu"))
    parts = parts * (amplitude / variance.sqrt())[:, None]
    spectrum = torch.complex(parts[..., 0] * (1 + (math.sqrt(2) - 1) * real), parts[..., 1] * (1 - real))
    waves = [torch.fft.irfft(own, n=horizon) for own in spectrum.split(noise.counts) if len(own)]
    return torch.cat(waves).transpose(2, 3).to(device)  # [B, N, T, A]
