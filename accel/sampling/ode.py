"""Samplers that solve the probability-flow ODE dx/dsigma = (x - denoised) / sigma.

Sources: Karras et al. 2022 (arXiv:2206.00364) for Euler, Heun and churn; Lu et al. 2022
(arXiv:2206.00927, arXiv:2211.01095) for DPM-Solver-2 and DPM-Solver++; Liu et al. 2022
(arXiv:2202.09778) for PLMS; Zhang & Chen 2022 (arXiv:2204.13902) for DEIS. DDIM without noise (Song
et al. 2020, arXiv:2010.02502) is Euler in these variables.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

from torch import Tensor

from accel.sampling.parameterise import Denoise
from accel.sampling.steps import (
    Callback,
    Churn,
    Line,
    Noise,
    blend,
    lagrange_integrals,
    log_lagrange_integrals,
    slope_of,
    walk,
)

LMS_ORDER = 4
# Adams-Bashforth weights for even steps, newest first.
ADAMS_BASHFORTH = (
    (1.0,),
    (3 / 2, -1 / 2),
    (23 / 12, -16 / 12, 5 / 12),
    (55 / 24, -59 / 24, 37 / 24, -9 / 24),
)
NO_CHURN = Churn()


def euler(
    denoise: Denoise,
    x: Tensor,  # [B, C, H, W] at level sigmas[0]
    sigmas: Sequence[float],  # descending, often ending in 0
    *,
    noise: Noise | None = None,  # for churn alone
    churn: Churn = NO_CHURN,
    callback: Callback | None = None,
) -> Tensor:  # [B, C, H, W] at level sigmas[-1]
    """First order, one call of the network a step."""

    def step(x: Tensor, clean: Tensor, sigma: float, following: float) -> Tensor:
        return blend(clean, x, following / sigma)

    return walk(denoise, x, sigmas, step, callback, churn=churn, noise=noise)


def heun(
    denoise: Denoise,
    x: Tensor,
    sigmas: Sequence[float],
    *,
    noise: Noise | None = None,
    churn: Churn = NO_CHURN,
    callback: Callback | None = None,
) -> Tensor:
    """Second order by the mean of the slopes at both ends; two calls a step, one for the last."""
    step = heun_step(denoise)
    return walk(denoise, x, sigmas, step, callback, churn=churn, noise=noise)


def heun_step(denoise: Denoise) -> Callable[[Tensor, Tensor, float, float], Tensor]:
    def step(x: Tensor, clean: Tensor, sigma: float, following: float) -> Tensor:
        slope = slope_of(x, clean, sigma)
        end = x + slope * (following - sigma)
        slope = (slope + slope_of(end, denoise(end, following), following)) / 2
        return x + slope * (following - sigma)

    return step


def dpm2(
    denoise: Denoise,
    x: Tensor,
    sigmas: Sequence[float],
    *,
    noise: Noise | None = None,
    churn: Churn = NO_CHURN,
    callback: Callback | None = None,
) -> Tensor:
    """Second order by the slope at the geometric middle; two calls a step, one for the last."""

    def step(x: Tensor, clean: Tensor, sigma: float, following: float) -> Tensor:
        return x + middle_slope(denoise, x, clean, sigma, following) * (following - sigma)

    return walk(denoise, x, sigmas, step, callback, churn=churn, noise=noise)


def middle_slope(
    denoise: Denoise, x: Tensor, clean: Tensor, sigma: float, following: float
) -> Tensor:
    middle = math.sqrt(sigma * following)
    inner = blend(clean, x, middle / sigma)
    return slope_of(inner, denoise(inner, middle), middle)


def dpmpp_2m(
    denoise: Denoise, x: Tensor, sigmas: Sequence[float], *, callback: Callback | None = None
) -> Tensor:
    """Second order from the step before: the denoised picture is taken as linear in log sigma."""
    line = Line()

    def step(x: Tensor, clean: Tensor, sigma: float, following: float) -> Tensor:
        target = clean + line.extend(clean, math.log(sigma / following))
        return blend(target, x, following / sigma)

    return walk(denoise, x, sigmas, step, callback)


def lms(
    denoise: Denoise, x: Tensor, sigmas: Sequence[float], *, callback: Callback | None = None
) -> Tensor:
    """Linear multistep: the last four slopes, as a polynomial in sigma, integrated exactly."""
    known: list[tuple[float, Tensor]] = []  # levels and slopes, newest first

    def step(x: Tensor, clean: Tensor, sigma: float, following: float) -> Tensor:
        known[:] = [(sigma, slope_of(x, clean, sigma)), *known][:LMS_ORDER]
        weights = lagrange_integrals([level for level, _ in known], sigma, following)
        for (_, slope), weight in zip(known, weights, strict=True):
            x = x + slope * weight
        return x

    return walk(denoise, x, sigmas, step, callback, ends_denoised=False)


def plms(
    denoise: Denoise, x: Tensor, sigmas: Sequence[float], *, callback: Callback | None = None
) -> Tensor:
    """Pseudo linear multistep: slopes weighted as if all steps had one length; Heun to begin with.

    Made for levels evenly spaced in the timestep that end at the model's lowest, not at 0
    (schedule "leading_to_min").
    """
    slopes: list[Tensor] = []  # newest first
    begin = heun_step(denoise)

    def step(x: Tensor, clean: Tensor, sigma: float, following: float) -> Tensor:
        slopes[:] = [slope_of(x, clean, sigma), *slopes][: len(ADAMS_BASHFORTH)]
        if len(slopes) == 1:
            return begin(x, clean, sigma, following)
        for slope, weight in zip(slopes, ADAMS_BASHFORTH[len(slopes) - 1], strict=True):
            x = x + slope * (weight * (following - sigma))
        return x

    return walk(denoise, x, sigmas, step, callback)


def deis(
    denoise: Denoise,
    x: Tensor,
    sigmas: Sequence[float],
    *,
    order: int = 2,  # 1..3
    callback: Callback | None = None,
) -> Tensor:
    """Multistep: the last slopes, as a polynomial in log sigma, integrated exactly."""
    check_order("deis", order, 3)
    known: list[tuple[float, Tensor]] = []  # levels and slopes, newest first
    left = len(sigmas) - 1
    few = left < FEW_STEPS

    def step(x: Tensor, clean: Tensor, sigma: float, following: float) -> Tensor:
        nonlocal left
        known[:] = [(sigma, slope_of(x, clean, sigma)), *known][:order]
        used = known[:left] if few else known
        left -= 1
        weights = log_lagrange_integrals([level for level, _ in used], sigma, following)
        for (_, slope), weight in zip(used, weights, strict=True):
            x = x + slope * weight
        return x

    return walk(denoise, x, sigmas, step, callback, ends_denoised=False)


def check_order(name: str, order: int, most: int) -> None:
    if not 1 <= order <= most:
        raise ValueError(f"{name}: order must lie in 1..{most}, got {order}")


FEW_STEPS = 15  # diffusers lowers the order towards the end of a run that is shorter than this
