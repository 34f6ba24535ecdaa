"""Samplers that solve the probability-flow ODE dx/dsigma = (x - denoised) / sigma.

Sources: Karras et al. 2022 (arXiv:2206.00364) for Euler and Heun; Lu et al. 2022 (arXiv:2206.00927,
arXiv:2211.01095) for DPM-Solver-2 and DPM-Solver++. DDIM without noise (Song et al. 2020,
arXiv:2010.02502) is Euler in these variables.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from itertools import pairwise

import numpy as np
import torch
from torch import Tensor

from accel.sampling.parameterise import Denoise

Callback = Callable[[int, Tensor], None]  # step just taken, its denoised picture; may raise
LMS_ORDER = 4


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
        x = blend(clean, x, following / sigma)
        if callback:
            callback(i, clean)
    return x


def heun(
    denoise: Denoise, x: Tensor, sigmas: Sequence[float], *, callback: Callback | None = None
) -> Tensor:
    """Second order by the mean of the slopes at both ends; two calls a step, one for the last."""
    for i, (sigma, following) in enumerate(steps_of(sigmas)):
        clean = denoise(x, sigma)
        slope = (x - clean) / sigma
        end = x + slope * (following - sigma)
        if following > 0:
            slope = (slope + (end - denoise(end, following)) / following) / 2
            end = x + slope * (following - sigma)
        x = end
        if callback:
            callback(i, clean)
    return x


def dpm2(
    denoise: Denoise, x: Tensor, sigmas: Sequence[float], *, callback: Callback | None = None
) -> Tensor:
    """Second order by the slope at the geometric middle; two calls a step, one for the last."""
    for i, (sigma, following) in enumerate(steps_of(sigmas)):
        clean = denoise(x, sigma)
        if following > 0:
            middle = math.sqrt(sigma * following)
            inner = blend(clean, x, middle / sigma)
            slope = (inner - denoise(inner, middle)) / middle
            x = x + slope * (following - sigma)
        else:
            x = clean
        if callback:
            callback(i, clean)
    return x


def dpmpp_2m(
    denoise: Denoise, x: Tensor, sigmas: Sequence[float], *, callback: Callback | None = None
) -> Tensor:
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
        x = blend(target, x, following / sigma)
        before = clean
        if callback:
            callback(i, clean)
    return x


def lms(
    denoise: Denoise, x: Tensor, sigmas: Sequence[float], *, callback: Callback | None = None
) -> Tensor:
    """Linear multistep: the last four slopes, as a polynomial in sigma, integrated exactly."""
    slopes: list[Tensor] = []  # newest first
    for i, (sigma, following) in enumerate(steps_of(sigmas)):
        clean = denoise(x, sigma)
        slopes = [(x - clean) / sigma, *slopes][:LMS_ORDER]
        known = [sigmas[i - j] for j in range(len(slopes))]
        weights = lagrange_integrals(known, sigma, following)
        for slope, weight in zip(slopes, weights, strict=True):
            x = x + slope * weight
        if callback:
            callback(i, clean)
    return x


def lagrange_integrals(nodes: Sequence[float], begin: float, end: float) -> list[float]:
    """The integral over begin..end of each polynomial that is 1 at its node and 0 at the others.

    Gauss-Legendre with four points is exact up to degree 7; four nodes need degree 3.
    """
    points, weights = np.polynomial.legendre.leggauss(4)
    at = (end - begin) / 2 * points + (end + begin) / 2
    integrals = []
    for j, own in enumerate(nodes):
        others = [node for k, node in enumerate(nodes) if k != j]
        values = np.prod([(at - other) / (own - other) for other in others], axis=0)
        integrals.append(float((weights * values).sum() * (end - begin) / 2))
    return integrals


def blend(clean: Tensor, x: Tensor, share: float) -> Tensor:
    """Where x comes to when its noise shrinks to `share` and the denoised picture stays."""
    return torch.lerp(clean, x, share)


def steps_of(sigmas: Sequence[float]) -> list[tuple[float, float]]:
    """Pairs of neighbouring levels; raises ValueError unless they go down and stay above 0."""
    pairs = list(pairwise(sigmas))
    if not all(a > b >= 0 for a, b in pairs):
        raise ValueError(f"sigmas must go down and end at 0 or above, got {list(sigmas)}")
    return pairs
