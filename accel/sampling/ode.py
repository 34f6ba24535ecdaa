"""Samplers that solve the probability-flow ODE dx/dsigma = (x - denoised) / sigma.

Sources: Karras et al. 2022 (arXiv:2206.00364) for Euler; Lu et al. 2022 (arXiv:2211.01095) for
DPM-Solver++; Song et al. 2020 (arXiv:2010.02502): DDIM without noise is Euler in these variables.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from itertools import pairwise

import torch
from torch import Tensor

from accel.sampling.parameterise import Denoise

Callback = Callable[[int, Tensor], None]  # step just taken, its denoised picture; may raise


def euler(
    denoise: Denoise,
    x: Tensor,  # [B, C, H, W] at level sigmas[0]
    sigmas: Sequence[float],  # descending, often ending in 0
    *,
    callback: Callback | None = None,
) -> Tensor:  # [B, C, H, W] at level sigmas[-1]
    """First order, one call of the network a step."""
    for i, (sigma, following) in enumerate(steps_of(sigmas)):
        clean = denoise(x, sigma)
        x = torch.lerp(clean, x, following / sigma)
        if callback:
            callback(i, clean)
    return x


def dpmpp_2m(
    denoise: Denoise,
    x: Tensor,  # [B, C, H, W] at level sigmas[0]
    sigmas: Sequence[float],  # descending, often ending in 0
    *,
    callback: Callback | None = None,
) -> Tensor:  # [B, C, H, W] at level sigmas[-1]
    """Second order from the step before: the denoised picture is taken as linear in log sigma."""
    before: Tensor | None = None
    length_before = 0.0
    for i, (sigma, following) in enumerate(steps_of(sigmas)):
        clean = denoise(x, sigma)
        target = clean
        if following > 0:
            length = math.log(sigma / following)
            if before is not None:
                target = clean + (clean - before) * (length / (2 * length_before))
            length_before = length
        x = torch.lerp(target, x, following / sigma)
        before = clean
        if callback:
            callback(i, clean)
    return x


def steps_of(sigmas: Sequence[float]) -> list[tuple[float, float]]:
    """Pairs of neighbouring levels; raises ValueError unless they go down and stay above 0."""
    pairs = list(pairwise(sigmas))
    if not all(a > b >= 0 for a, b in pairs):
        raise ValueError(f"sigmas must go down and end at 0 or above, got {list(sigmas)}")
    return pairs


SAMPLERS: dict[str, Callable[..., Tensor]] = {"euler": euler, "dpmpp_2m": dpmpp_2m}
