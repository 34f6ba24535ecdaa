"""A small picture out of three eight-bit planes, bilinear: what is written to a file or shown to a
network on a CPU. Each plane comes with its own matrix, so that it may be a part of a frame's plane,
or one that was averaged before. The `crop` kernel averages by itself, and costs several times more.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from accel.kernels import _native
from accel.kernels._op import Op

MOST_PX = (1 << 15) - 1


def cut(
    c0: Tensor,  # [H, W] uint8
    c1: Tensor,  # [h, w] uint8
    c2: Tensor,  # [h, w] uint8
    luma: np.ndarray,  # [2, 3] float64, pixel of c0 -> pixel of the picture; centres at integers
    chroma: np.ndarray,  # [2, 3] likewise for c1 and c2
    size: int,  # side of the picture
    color: np.ndarray,  # [3, 4]: channels of the picture, 0..1, from three codes and 1
    outside: Sequence[float],  # code of each plane beyond its border
    *,
    step: int = 1,
    as_float: bool = False,
) -> Tensor:  # [size, size, 3] uint8, or float32 0..1
    """Cut a square picture; channels come in the order of `color`'s rows.

    step: 2 samples chroma once for every square of 2 x 2 pixels, in its middle: as much as is kept
        where the picture is written as a JPEG of 4:2:0.

    Raises TypeError for other planes, ValueError for sizes and matrices that cannot be.
    """
    _check(c0, c1, c2, size, step)
    back = [backward("luma", luma), backward("chroma", chroma, step)]
    return op(
        c0, c1, c2, *back, size, [float(v) for v in np.asarray(color).ravel()],
        [float(v) for v in outside], step, as_float,
    )  # fmt: skip


def cut_jpeg(
    c0: Tensor,
    c1: Tensor,
    c2: Tensor,
    luma: np.ndarray,
    chroma: np.ndarray,
    size: int,
    color: np.ndarray,  # [3, 4]: Y' - 128, Cb - 128, Cr - 128 of JFIF from three codes and 1
    outside: Sequence[float],
    *,
    quality: int = 90,  # 1..100, as libjpeg counts it
    step: int = 1,
) -> bytes:
    """Cut as `cut` does and write a JPEG, 4:2:0, with nothing in memory in between.

    What is cut is not rounded before it is transformed. Baseline, with the tables of annex K of
    ITU-T T.81. step: 2 where c1 and c2 are chroma, 1 where they are colours.

    Raises TypeError for other planes, ValueError for sizes, matrices and qualities that cannot be,
    RuntimeError without native code.
    """
    _check(c0, c1, c2, size, step)
    if not 1 <= quality <= 100:
        raise ValueError(f"cut_jpeg: quality must lie in 1..100, got {quality}")
    if _native.module is None:
        raise RuntimeError(f"cut_jpeg: {_native.reason}")
    rows = [p if p.stride(1) == 1 else p.contiguous() for p in (c0, c1, c2)]
    return _native.module.cut_jpeg(
        *rows, backward("luma", luma), backward("chroma", chroma, step),
        [float(v) for v in np.asarray(color).ravel()], [float(v) for v in outside],
        size, step, quality,
    )  # fmt: skip


def can_cut_jpeg() -> bool:
    """Whether there is native code for `cut_jpeg`."""
    return _native.module is not None


def _check(c0: Tensor, c1: Tensor, c2: Tensor, size: int, step: int) -> None:
    if not all(p.dtype == torch.uint8 and p.ndim == 2 and p.numel() for p in (c0, c1, c2)):
        raise TypeError(
            "cut: planes must be [H, W] uint8 with samples, got "
            + ", ".join(f"{list(p.shape)} {p.dtype}" for p in (c0, c1, c2))
        )
    if not 0 < size <= MOST_PX or step not in (1, 2):
        raise ValueError(f"cut: size must lie in 1..{MOST_PX}, step in 1..2, got {size} and {step}")
    if c1.shape != c2.shape:
        raise ValueError(
            f"cut: c1 and c2 must have one size, got {list(c1.shape)} and {list(c2.shape)}"
        )


def backward(name: str, matrix: np.ndarray, step: int = 1) -> list[float]:
    """The matrix from the picture's pixels (or squares of `step` of them) to the plane's."""
    a, b, x, c, d, y = np.asarray(matrix, np.float64).ravel().tolist()
    det = a * d - b * c
    if not abs(det) > 1e-6 * max(abs(a), abs(b), abs(c), abs(d)) ** 2:  # NaN is refused too
        raise ValueError(f"cut: {name} must be finite and invertible, got {matrix}")
    p, q, r, s = d / det, -b / det, -c / det, a / det
    middle = (step - 1) / 2 - x, (step - 1) / 2 - y
    return [
        p * step, q * step, p * middle[0] + q * middle[1],
        r * step, s * step, r * middle[0] + s * middle[1],
    ]  # fmt: skip


def _reference(c0, c1, c2, luma, chroma, size, color, outside, step, as_float):
    few = -(-size // step)
    codes = [_sampled(c0, luma, size, outside[0])]
    for plane, code in ((c1, outside[1]), (c2, outside[2])):
        small = _sampled(plane, chroma, few, code)
        codes.append(small.repeat_interleave(step, 0).repeat_interleave(step, 1)[:size, :size])
    matrix = torch.tensor(color, dtype=torch.float64, device=c0.device).reshape(3, 4)
    picture = (torch.stack(codes, -1) @ matrix[:, :3].T + matrix[:, 3]).clamp(0, 1)
    return picture.float() if as_float else (picture * 255 + 0.5).to(torch.uint8)


def _sampled(plane, back, size, outside):  # [size, size] float64
    at = torch.arange(size, dtype=torch.float64, device=plane.device)
    a, b, x, c, d, y = back
    u = a * at + (b * at + x)[:, None]
    v = c * at + (d * at + y)[:, None]
    height, width = plane.shape
    # One sample of border on each side is all that bilinear can reach.
    wide = torch.full((height + 2, width + 2), float(outside), dtype=torch.float64)
    wide = wide.to(plane.device)
    wide[1:-1, 1:-1] = plane
    u, v = (u + 1).clamp(0, width + 1), (v + 1).clamp(0, height + 1)
    left, top = u.long().clamp(max=width), v.long().clamp(max=height)
    s, t = u - left, v - top
    upper = wide[top, left] * (1 - s) + wide[top, left + 1] * s
    lower = wide[top + 1, left] * (1 - s) + wide[top + 1, left + 1] * s
    return upper * (1 - t) + lower * t


def _empty(c0, c1, c2, luma, chroma, size, color, outside, step, as_float):
    dtype = torch.float32 if as_float else torch.uint8
    return torch.empty((size, size, 3), dtype=dtype, device=c0.device)


op = Op(
    "cut(Tensor c0, Tensor c1, Tensor c2, float[] luma, float[] chroma, int size, float[] color,"
    " float[] outside, int step, bool as_float) -> Tensor",
    _reference,
    fake=_empty,
    gradient=False,  # codes are whole numbers
)


def _native_run(c0, c1, c2, luma, chroma, size, color, outside, step, as_float):
    out = _native.small((size, size, 3), np.float32 if as_float else np.uint8)
    _native.module.cut(c0, c1, c2, luma, chroma, color, outside, step, out)
    return out


def _why_not_native(c0, c1, c2, *rest) -> str:
    if any(p.shape[1] > 1 and p.stride(1) != 1 for p in (c0, c1, c2)):
        return "needs planes whose samples lie side by side"
    return _native.why_not(c0, c1, c2)


op.implement("native", _native_run, _why_not_native)
