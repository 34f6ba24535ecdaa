"""CFG++: steps whose noise is that of the prediction without the prompt.

The guided picture is kept, and the noise around it is the unguided one, so that x stays near what
the model has seen even where guidance is strong; scales of 0.5 to 2 do what 5 to 12 do otherwise.
They ask the denoiser for both (`pair`, see guidance.guided). A denoiser that has none is taken to
be unguided, which gives the plain samplers.

Sources: Chung et al. 2024 (arXiv:2406.08070); for the higher orders ComfyUI's samplers of these
names, whose results are matched.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

from torch import Tensor

from accel.sampling.guidance import pair_of
from accel.sampling.parameterise import Denoise
from accel.sampling.sde import no_noise, with_noise
from accel.sampling.steps import Callback, Noise, ancestral, blend, steps_of

# x, the guided picture, the one without the prompt, level, next level -> x
PairStep = Callable[[Tensor, Tensor, Tensor, float, float], Tensor]


def euler_cfg_pp(
    denoise: Denoise,
    x: Tensor,  # [B, C, H, W] at level sigmas[0]
    sigmas: Sequence[float],  # descending, often ending in 0
    *,
    callback: Callback | None = None,
) -> Tensor:  # [B, C, H, W] at level sigmas[-1]
    """First order, without noise: DDIM CFG++."""
    return euler_ancestral_cfg_pp(denoise, x, sigmas, noise=no_noise, eta=0.0, callback=callback)


def euler_ancestral_cfg_pp(
    denoise: Denoise,
    x: Tensor,
    sigmas: Sequence[float],
    *,
    noise: Noise,
    eta: float = 1.0,
    callback: Callback | None = None,
) -> Tensor:
    """First order to the lower level, then noise."""

    def step(x: Tensor, clean: Tensor, other: Tensor, sigma: float, following: float) -> Tensor:
        down, up = ancestral(sigma, following, eta)
        return with_noise(clean + (x - other) * (down / sigma), noise, sigma, following, up)

    return walk_pairs(denoise, x, sigmas, step, callback)


def dpmpp_2s_ancestral_cfg_pp(
    denoise: Denoise,
    x: Tensor,
    sigmas: Sequence[float],
    *,
    noise: Noise,
    eta: float = 1.0,
    callback: Callback | None = None,
) -> Tensor:
    """As sde.dpmpp_2s_ancestral; two calls a step, one for the last."""

    def step(x: Tensor, clean: Tensor, other: Tensor, sigma: float, following: float) -> Tensor:
        down, up = ancestral(sigma, following, eta)
        shifted, target = x + (clean - other), clean
        if down:
            middle = math.sqrt(sigma * down)
            target = denoise(blend(clean, shifted, middle / sigma), middle)
        return with_noise(blend(target, shifted, down / sigma), noise, sigma, following, up)

    return walk_pairs(denoise, x, sigmas, step, callback)


def dpmpp_2m_cfg_pp(
    denoise: Denoise, x: Tensor, sigmas: Sequence[float], *, callback: Callback | None = None
) -> Tensor:
    """As ode.dpmpp_2m, but what it knows of the step before is the picture without the prompt."""
    before: Tensor | None = None  # the step before's picture without the prompt
    length_before = 0.0

    def step(x: Tensor, clean: Tensor, other: Tensor, sigma: float, following: float) -> Tensor:
        nonlocal before, length_before
        share = following / sigma
        x = clean + (x - other) * share
        if following > 0:
            length = math.log(sigma / following)
            if before is not None:
                x = x + (clean - before) * ((1 - share) * length / (2 * length_before))
            length_before = length
        before = other
        return x

    return walk_pairs(denoise, x, sigmas, step, callback)


def walk_pairs(
    denoise: Denoise,
    x: Tensor,  # [B, C, H, W] at level sigmas[0]
    sigmas: Sequence[float],
    step: PairStep,
    callback: Callback | None,
) -> Tensor:  # [B, C, H, W] at level sigmas[-1]
    """As steps.walk, for steps that see both pictures; a last step to 0 is theirs too."""
    for i, (sigma, following) in enumerate(steps_of(sigmas)):
        clean, other = pair_of(denoise, x, sigma)
        x = step(x, clean, other, sigma, following)
        if callback:
            callback(i, clean)
    return x
