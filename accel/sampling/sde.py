"""Samplers that take more noise away than a step asks for and put some of it back.

`noise(sigma, following)` gives a tensor like x of deviation 1 for the step from one level to the
other; samplers ask in the order of the steps, and not for a last step to 0.

Sources: Song et al. 2020 (arXiv:2010.02502), equation 16 for the ancestral split (eta 1 is Ho et
al.'s DDPM, arXiv:2006.11239); Lu et al. 2022 (arXiv:2211.01095) for SDE-DPM-Solver++; Luo et al.
2023 (arXiv:2310.04378) for LCM.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

from torch import Tensor

from accel.sampling.ode import Callback, blend, steps_of
from accel.sampling.parameterise import Denoise

Noise = Callable[[float, float], Tensor]


def ancestral(sigma: float, following: float, eta: float) -> tuple[float, float]:
    """Levels (down, up): go to `down` without noise, then add noise of deviation `up`."""
    share = following**2 * (sigma**2 - following**2) / sigma**2
    up = min(following, eta * math.sqrt(share))
    return math.sqrt(following**2 - up**2), up


def euler_ancestral(
    denoise: Denoise,
    x: Tensor,  # [B, C, H, W] at level sigmas[0]
    sigmas: Sequence[float],  # descending, often ending in 0
    *,
    noise: Noise,
    eta: float = 1.0,  # 0: no noise is put back
    callback: Callback | None = None,
) -> Tensor:  # [B, C, H, W] at level sigmas[-1]
    """First order. With eta 1 also DDPM's own sampler, on whatever levels are asked for."""
    for i, (sigma, following) in enumerate(steps_of(sigmas)):
        clean = denoise(x, sigma)
        down, up = ancestral(sigma, following, eta)
        x = blend(clean, x, down / sigma)
        if following > 0:
            x = x + noise(sigma, following) * up
        if callback:
            callback(i, clean)
    return x


def dpm2_ancestral(
    denoise: Denoise,
    x: Tensor,
    sigmas: Sequence[float],
    *,
    noise: Noise,
    eta: float = 1.0,
    callback: Callback | None = None,
) -> Tensor:
    """DPM-Solver-2 to the lower level, then noise; two calls a step, one for the last."""
    for i, (sigma, following) in enumerate(steps_of(sigmas)):
        clean = denoise(x, sigma)
        down, up = ancestral(sigma, following, eta)
        if down > 0:
            middle = math.sqrt(sigma * down)
            inner = blend(clean, x, middle / sigma)
            x = x + (inner - denoise(inner, middle)) / middle * (down - sigma)
        else:
            x = clean
        if following > 0:
            x = x + noise(sigma, following) * up
        if callback:
            callback(i, clean)
    return x


def dpmpp_2s_ancestral(
    denoise: Denoise,
    x: Tensor,
    sigmas: Sequence[float],
    *,
    noise: Noise,
    eta: float = 1.0,
    callback: Callback | None = None,
) -> Tensor:
    """DPM-Solver++(2S) to the lower level, then noise; two calls a step, one for the last."""
    for i, (sigma, following) in enumerate(steps_of(sigmas)):
        clean = denoise(x, sigma)
        down, up = ancestral(sigma, following, eta)
        if down > 0:
            middle = math.sqrt(sigma * down)
            target = denoise(blend(clean, x, middle / sigma), middle)
            x = blend(target, x, down / sigma)
        else:
            x = clean
        if following > 0:
            x = x + noise(sigma, following) * up
        if callback:
            callback(i, clean)
    return x


def dpmpp_sde(
    denoise: Denoise,
    x: Tensor,
    sigmas: Sequence[float],
    *,
    noise: Noise,
    eta: float = 1.0,
    callback: Callback | None = None,
) -> Tensor:
    """DPM-Solver++ with noise at both of its stages; two calls a step, one for the last."""
    for i, (sigma, following) in enumerate(steps_of(sigmas)):
        clean = denoise(x, sigma)
        if following > 0:
            middle = math.sqrt(sigma * following)
            down, up = ancestral(sigma, middle, eta)
            inner = blend(clean, x, down / sigma) + noise(sigma, middle) * up
            target = denoise(inner, middle)
            down, up = ancestral(sigma, following, eta)
            x = blend(target, x, down / sigma) + noise(sigma, following) * up
        else:
            x = clean
        if callback:
            callback(i, clean)
    return x


def dpmpp_2m_sde(
    denoise: Denoise,
    x: Tensor,
    sigmas: Sequence[float],
    *,
    noise: Noise,
    eta: float = 1.0,
    callback: Callback | None = None,
) -> Tensor:
    """SDE-DPM-Solver++(2M), midpoint form; one call a step."""
    before: Tensor | None = None
    length_before = 0.0
    for i, (sigma, following) in enumerate(steps_of(sigmas)):
        clean = denoise(x, sigma)
        if following > 0:
            length = math.log(sigma / following)
            target = clean
            if before is not None:
                target = clean + (clean - before) * (length / (2 * length_before))
            x = blend(target, x, math.exp(-length * (1 + eta)))
            x = x + noise(sigma, following) * fresh(following, length, eta)
            length_before = length
        else:
            x = clean
        before = clean
        if callback:
            callback(i, clean)
    return x


def dpmpp_3m_sde(
    denoise: Denoise,
    x: Tensor,
    sigmas: Sequence[float],
    *,
    noise: Noise,
    eta: float = 1.0,
    callback: Callback | None = None,
) -> Tensor:
    """Third order from two steps before; one call a step."""
    known: list[tuple[Tensor, float]] = []  # denoised pictures and the steps after them
    for i, (sigma, following) in enumerate(steps_of(sigmas)):
        clean = denoise(x, sigma)
        if following > 0:
            length = math.log(sigma / following)
            whole = length * (1 + eta)
            x = blend(clean, x, math.exp(-whole))
            second = math.expm1(-whole) / whole + 1
            third = second / whole - 0.5
            if len(known) == 1:
                (last, r0) = known[0][0], known[0][1] / length
                x = x + (clean - last) * (second / r0)
            elif known:
                (last, length0), (older, length1) = known
                r0, r1 = length0 / length, length1 / length
                near, far = (clean - last) / r0, (last - older) / r1
                bend = (near - far) / (r0 + r1)
                x = x + (near + bend * r0) * second - bend * third
            x = x + noise(sigma, following) * fresh(following, length, eta)
            known = [(clean, length), *known][:2]
        else:
            x = clean
        if callback:
            callback(i, clean)
    return x


def fresh(following: float, length: float, eta: float) -> float:
    """Deviation of the noise that is put back over a step of `length` in log sigma."""
    return following * math.sqrt(-math.expm1(-2 * eta * length))


def lcm(
    denoise: Denoise,
    x: Tensor,
    sigmas: Sequence[float],
    *,
    noise: Noise,
    callback: Callback | None = None,
) -> Tensor:
    """For latent consistency models: straight to the picture, then noise of the next level."""
    for i, (sigma, following) in enumerate(steps_of(sigmas)):
        clean = denoise(x, sigma)
        x = clean
        if following > 0:
            x = x + noise(sigma, following) * following
        if callback:
            callback(i, clean)
    return x
