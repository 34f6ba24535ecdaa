"""Samplers that take more noise away than a step asks for and put some of it back.

`noise(sigma, following)` gives a tensor like x of deviation 1 for the step from one level to the
other; samplers ask in the order of the steps, and not for a last step to 0. The SDE ones ask for
steps that overlap, and take what they are given for the increments of one Brownian motion:
accel.sampling.brownian.

Sources: Ho et al. 2020 (arXiv:2006.11239) for DDPM, which is the ancestral Euler step; Lu et al.
2022 (arXiv:2211.01095) for SDE-DPM-Solver++; Xu et al. 2023 (arXiv:2306.14878) for Restart.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise

import numpy as np
from torch import Tensor

from accel.sampling.ode import heun_step, middle_slope
from accel.sampling.parameterise import Denoise
from accel.sampling.schedules import karras_between
from accel.sampling.steps import Callback, Line, Noise, ancestral, blend, steps_of, walk

VARIANTS = ("midpoint", "heun")


def euler_ancestral(
    denoise: Denoise,
    x: Tensor,  # [B, C, H, W] at level sigmas[0]
    sigmas: Sequence[float],  # descending, often ending in 0
    *,
    noise: Noise,
    eta: float = 1.0,  # 0: no noise is put back
    callback: Callback | None = None,
) -> Tensor:  # [B, C, H, W] at level sigmas[-1]
    """First order. With eta 1 also DDPM's own sampler, with others DDIM's; on any levels."""

    def step(x: Tensor, clean: Tensor, sigma: float, following: float) -> Tensor:
        down, up = ancestral(sigma, following, eta)
        return with_noise(blend(clean, x, down / sigma), noise, sigma, following, up)

    return walk(denoise, x, sigmas, step, callback)


def ddim(
    denoise: Denoise,
    x: Tensor,
    sigmas: Sequence[float],
    *,
    noise: Noise | None = None,
    eta: float = 0.0,  # 1: DDPM
    callback: Callback | None = None,
) -> Tensor:
    """Euler, and noise put back where `eta` asks for it."""
    if eta and noise is None:
        raise ValueError(f"ddim: eta {eta} puts noise back, so noise must be given")
    return euler_ancestral(denoise, x, sigmas, noise=noise or no_noise, eta=eta, callback=callback)


def no_noise(sigma: float, following: float) -> Tensor:
    raise ValueError("no noise was expected to be asked for")


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

    def step(x: Tensor, clean: Tensor, sigma: float, following: float) -> Tensor:
        down, up = ancestral(sigma, following, eta)
        x = x + middle_slope(denoise, x, clean, sigma, down) * (down - sigma) if down else clean
        return with_noise(x, noise, sigma, following, up)

    return walk(denoise, x, sigmas, step, callback)


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

    def step(x: Tensor, clean: Tensor, sigma: float, following: float) -> Tensor:
        down, up = ancestral(sigma, following, eta)
        if down:
            middle = math.sqrt(sigma * down)
            clean = denoise(blend(clean, x, middle / sigma), middle)
        return with_noise(blend(clean, x, down / sigma), noise, sigma, following, up)

    return walk(denoise, x, sigmas, step, callback)


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

    def step(x: Tensor, clean: Tensor, sigma: float, following: float) -> Tensor:
        middle = math.sqrt(sigma * following)
        down, up = ancestral(sigma, middle, eta)
        inner = with_noise(blend(clean, x, down / sigma), noise, sigma, middle, up)
        target = denoise(inner, middle)
        down, up = ancestral(sigma, following, eta)
        return with_noise(blend(target, x, down / sigma), noise, sigma, following, up)

    return walk(denoise, x, sigmas, step, callback)


def dpmpp_2m_sde(
    denoise: Denoise,
    x: Tensor,
    sigmas: Sequence[float],
    *,
    noise: Noise,
    eta: float = 1.0,
    variant: str = "midpoint",  # or "heun": how the line through two pictures is integrated
    callback: Callback | None = None,
) -> Tensor:
    """SDE-DPM-Solver++(2M); one call a step."""
    if variant not in VARIANTS:
        raise ValueError(f"dpmpp_2m_sde: variant must be one of {VARIANTS}, got {variant!r}")
    line = Line()

    def step(x: Tensor, clean: Tensor, sigma: float, following: float) -> Tensor:
        length = math.log(sigma / following)
        whole = length * (1 + eta)
        change = line.extend(clean, length)
        share = -math.expm1(-whole)
        if variant == "heun":
            share = 2 * (1 - share / whole)
        x = blend(clean, x, math.exp(-whole)) + change * share
        return with_noise(x, noise, sigma, following, fresh(following, length, eta))

    return walk(denoise, x, sigmas, step, callback)


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

    def step(x: Tensor, clean: Tensor, sigma: float, following: float) -> Tensor:
        length = math.log(sigma / following)
        whole = length * (1 + eta)
        x = blend(clean, x, math.exp(-whole))
        second = math.expm1(-whole) / whole + 1
        third = second / whole - 0.5
        if len(known) == 1:
            ((last, length_last),) = known
            x = x + (clean - last) * (second * length / length_last)
        elif known:
            (last, length_last), (older, length_older) = known
            r0, r1 = length_last / length, length_older / length
            near, far = (clean - last) / r0, (last - older) / r1
            bend = (near - far) / (r0 + r1)
            x = x + (near + bend * r0) * second - bend * third
        known[:] = [(clean, length), *known][:2]
        return with_noise(x, noise, sigma, following, fresh(following, length, eta))

    return walk(denoise, x, sigmas, step, callback)


def restart(
    denoise: Denoise,
    x: Tensor,
    sigmas: Sequence[float],
    *,
    noise: Noise,
    plan: Sequence[tuple[float, float, int, int]] | None = None,  # see `restart_levels`
    callback: Callback | None = None,
) -> Tensor:
    """Heun, which goes back up now and then and comes down again: noise forgives errors."""
    step = heun_step(denoise)
    level = None
    for i, (sigma, following) in enumerate(restart_levels(sigmas, plan)):
        if level is not None and sigma > level:
            x = x + noise(sigma, level) * math.sqrt(sigma**2 - level**2)
        clean = denoise(x, sigma)
        x = step(x, clean, sigma, following) if following > 0 else clean
        level = following
        if callback:
            callback(i, clean)
    return x


def restart_levels(
    sigmas: Sequence[float],
    plan: Sequence[tuple[float, float, int, int]] | None = None,
) -> list[tuple[float, float]]:
    """The steps of a run with restarts: (level, next level), where a level may lie above the last.

    `plan` has (lowest level, highest level, steps, times) for each restart. None is A1111's: none
    below 20 steps, else from 2 down to 0.1 once in 9 steps (from 36 steps on: twice, in a quarter
    of the steps), on Karras's levels for the steps that are left.
    """
    steps_of(sigmas)
    steps = len(sigmas) - 1
    if plan is None:
        plan = []
        if steps >= 20:
            extra, times = (steps // 4, 2) if steps >= 36 else (9, 1)
            low = sigmas[-2] if sigmas[-1] == 0 else sigmas[-1]
            sigmas = karras_between(low, sigmas[0], steps - extra * times)
            plan = [(0.1, 2.0, extra + 1, times)]
    levels = np.array(sigmas)
    restarts = {int(abs(levels - row[0]).argmin()): row[1:] for row in plan}
    out = []
    for i, pair in enumerate(pairwise(sigmas), start=1):
        out.append(pair)
        high, count, times = restarts.get(i, (0.0, 0, 0))
        top = int(abs(levels - high).argmin())
        if times and top < i:
            out += list(pairwise(karras_between(sigmas[i], sigmas[top], int(count))[:-1])) * int(
                times
            )
    return out


def with_noise(x: Tensor, noise: Noise, sigma: float, following: float, up: float) -> Tensor:
    return x + noise(sigma, following) * up if up else x


def fresh(following: float, length: float, eta: float) -> float:
    """Deviation of the noise that is put back over a step of `length` in log sigma."""
    return following * math.sqrt(-math.expm1(-2 * eta * length))
