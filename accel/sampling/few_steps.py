"""Samplers for models distilled to a few steps: straight to the picture, and noise again.

Sources: Luo et al. 2023 (arXiv:2310.04378) for LCM, with the boundary conditions of Song et al.
2023 (arXiv:2303.01469); Zheng et al. 2024 (arXiv:2402.19159) for TCD.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from torch import Tensor

from accel.core import ConfigError
from accel.sampling.parameterise import Denoise
from accel.sampling.schedules import STABLE_DIFFUSION, NoiseSchedule
from accel.sampling.sde import with_noise
from accel.sampling.steps import Callback, Noise, blend, walk

TIME_SCALE = 10.0
SIGMA_DATA = 0.5


def lcm(
    denoise: Denoise,
    x: Tensor,  # [B, C, H, W] at level sigmas[0]
    sigmas: Sequence[float],  # descending, often ending in 0
    *,
    noise: Noise,
    levels: NoiseSchedule = STABLE_DIFFUSION,  # of the model, to tell timesteps
    callback: Callback | None = None,
) -> Tensor:  # [B, C, H, W] at level sigmas[-1]
    """For latent consistency models: to the picture, then noise of the next level."""

    def consistent(x: Tensor, sigma: float) -> Tensor:
        skip, out = boundary(levels.timestep(sigma))
        # The paper's x is of variance 1.
        return denoise(x, sigma) * out + x * (skip / math.sqrt(1 + sigma * sigma))

    def step(x: Tensor, clean: Tensor, sigma: float, following: float) -> Tensor:
        return with_noise(clean, noise, sigma, following, following)

    return walk(consistent, x, sigmas, step, callback)


def boundary(timestep: float) -> tuple[float, float]:
    """(c_skip, c_out): at timestep 0 the input itself, everywhere else all but the prediction."""
    t = timestep * TIME_SCALE
    whole = t * t + SIGMA_DATA**2
    return SIGMA_DATA**2 / whole, t / math.sqrt(whole)


def tcd(
    denoise: Denoise,
    x: Tensor,
    sigmas: Sequence[float],
    *,
    noise: Noise,
    gamma: float = 0.3,  # 0: no noise, DDIM; 1: all of it anew, as LCM has it
    levels: NoiseSchedule = STABLE_DIFFUSION,
    callback: Callback | None = None,
) -> Tensor:
    """For trajectory consistency models: below the next level, then noise up to it."""
    if not 0 <= gamma <= 1:
        raise ConfigError(f"gamma must lie in 0..1, got {gamma}")

    def step(x: Tensor, clean: Tensor, sigma: float, following: float) -> Tensor:
        below = following
        if gamma:
            # The level before was told by its timestep, which the logarithm gives but for rounding.
            timestep = math.floor((1 - gamma) * levels.timestep(following) + 1e-6)
            below = min(following, float(levels.sigmas[timestep]))
        up = math.sqrt(following**2 - below**2)
        return with_noise(blend(clean, x, below / sigma), noise, sigma, following, up)

    return walk(denoise, x, sigmas, step, callback)
