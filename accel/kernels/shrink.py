"""A plane made smaller by whole squares of samples, and blurred: what a strong shrink needs first.

The mean of a square costs one pass over the plane and keeps what lies under it; what is left of a
shrink, and bilinear sampling would skip, a blur of three taps takes.
Codes of more than eight bits come out as eight, which is what networks and pictures take.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from accel.kernels import _native
from accel.kernels._op import Op

MOST_SIDE = 256  # sums of as many codes fit 32 bits


def shrink(
    plane: Tensor,  # [H, W] uint8 or uint16
    side: int = 1,  # 1..256, at most H and W
    *,
    variance: float = 0.0,  # of the blur along each axis, in samples of what comes out: 0..0.5
    max_code: int = 255,  # becomes 255
) -> Tensor:  # [H // side, W // side] uint8
    """Average squares of `side` x `side` samples, then blur; what fills no square is left out.

    The blur has three taps along each axis, in 256ths; the border goes on as it is.

    Raises TypeError for other planes, ValueError for sides, variances and codes that cannot be.
    """
    if plane.ndim != 2 or plane.dtype not in (torch.uint8, torch.uint16):
        raise TypeError(
            f"shrink: plane must be [H, W] uint8 or uint16, got {list(plane.shape)} {plane.dtype}"
        )
    if not 1 <= side <= min(MOST_SIDE, *plane.shape):
        raise ValueError(
            f"shrink: side must lie in 1..{MOST_SIDE} and in the plane, got {side}"
            f" for {list(plane.shape)}"
        )
    if not (0 <= variance <= 0.5 and 0 < max_code < 1 << 16):
        raise ValueError(
            "shrink: variance must lie in 0..0.5, max_code in 1..65535,"
            f" got {variance} and {max_code}"
        )
    return op(plane, side, round(128 * variance), 255 / max_code / side**2)


def _reference(plane, side, beside, share):
    height, width = (length // side for length in plane.shape)
    squares = plane[: height * side, : width * side].to(torch.int32)
    sums = squares.reshape(height, side, width, side).sum((1, 3))
    small = (sums.to(torch.float32) * share + 0.5).clamp(max=255).to(torch.uint8)
    if not beside:
        return small
    for axis, length in enumerate(small.shape):
        at = torch.arange(length, device=plane.device)
        before, after = (
            small.index_select(axis, (at + step).clamp(0, length - 1)).to(torch.int32)
            for step in (-1, 1)
        )
        total = beside * (before + after) + (256 - 2 * beside) * small.to(torch.int32)
        small = ((total + 128) >> 8).to(torch.uint8)
    return small


def _empty(plane, side, beside, share):
    return plane.new_empty([length // side for length in plane.shape], dtype=torch.uint8)


op = Op(
    "shrink(Tensor plane, int side, int beside, float share) -> Tensor",
    _reference,
    fake=_empty,
    gradient=False,  # codes are whole numbers
)


def _native_run(plane, side, beside, share):
    out = _native.small([length // side for length in plane.shape], np.uint8)
    _native.module.shrink(plane, out, side, beside, share)
    return out


def _why_not_native(plane, *rest) -> str:
    if plane.shape[1] > 1 and plane.stride(1) != 1:
        return "needs a plane whose samples lie side by side"
    return _native.why_not(plane)


op.implement("native", _native_run, _why_not_native)
