"""UniPC: a multistep predictor, corrected by the network's answer at the point it arrived at.

Source: Zhao et al. 2023 (arXiv:2302.04867), the form that predicts the denoised picture, with the
weights B of section 3.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from torch import Tensor

from accel.sampling.ode import check_order
from accel.sampling.parameterise import Denoise
from accel.sampling.steps import Callback, settled, walk

VARIANTS = ("bh1", "bh2")
Known = tuple[float, Tensor]  # a level, and the picture that was denoised at it


def unipc(
    denoise: Denoise,
    x: Tensor,  # [B, C, H, W] at level sigmas[0]
    sigmas: Sequence[float],  # descending, often ending in 0
    *,
    order: int = 2,  # 1..3; 3 is for few steps without much guidance
    variant: str = "bh2",
    callback: Callback | None = None,
) -> Tensor:  # [B, C, H, W] at level sigmas[-1]
    """One call a step; the order falls towards the end, as in diffusers and in A1111."""
    check_order("unipc", order, 3)
    if variant not in VARIANTS:
        raise ValueError(f"unipc: variant must be one of {VARIANTS}, got {variant!r}")
    known: list[Known] = []  # newest first
    left = len(sigmas) - 1
    came: tuple[Tensor, int] | None = None  # from where the last step set out, and its order

    def step(x: Tensor, clean: Tensor, sigma: float, following: float) -> Tensor:
        nonlocal left, came
        if came is not None:
            x = settled(advance(came[0], sigma, known, came[1], variant, arrived=clean))
        known[:] = [(sigma, clean), *known][: order + 1]
        used = min(order, left, len(known))
        left -= 1
        came = x, used
        return advance(x, following, known, used, variant)

    return walk(denoise, x, sigmas, step, callback)


def advance(
    x: Tensor,  # [B, C, H, W] at level known[0][0]
    following: float,
    known: Sequence[Known],  # newest first, at least `order`
    order: int,
    variant: str,
    arrived: Tensor | None = None,  # what was denoised at `following`: then this is the corrector
) -> Tensor:  # [B, C, H, W] at level `following`
    """One step of the predictor or, with `arrived`, of the corrector."""
    (sigma, clean), *past = known[:order]
    length = math.log(sigma / following)
    ratios = [math.log(sigma / level) / length for level, _ in past]
    changes = [(other - clean) / r for r, (_, other) in zip(ratios, past, strict=True)]
    size = -length if variant == "bh1" else math.expm1(-length)  # B(h)
    if arrived is not None:
        changes.append(arrived - clean)
        weights = weights_of([*ratios, 1.0], length, size) if order > 1 else [0.5]
    else:  # of one or two points, so near the start or the end, the paper takes a half
        weights = weights_of(ratios, length, size) if order > 2 else [0.5] * (order - 1)
    out = clean + (x - clean) * math.exp(-length)
    for change, weight in zip(changes, weights, strict=True):
        out = out - change * (size * weight)
    return out


def weights_of(ratios: Sequence[float], length: float, size: float) -> list[float]:
    """Weights that make the sum exact for as many powers as there are points (equation 11)."""
    phi, factorial = math.expm1(-length) / -length - 1, 1.0
    wanted = []
    for power in range(len(ratios)):
        wanted.append(phi * factorial / size)
        factorial *= power + 2
        phi = phi / -length - 1 / factorial
    matrix = np.vander(np.array(ratios), increasing=True).T
    return [float(w) for w in np.linalg.solve(matrix, np.array(wanted))]
