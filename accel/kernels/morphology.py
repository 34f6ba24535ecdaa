"""Drawing masks in by an ellipse, as OpenCV's `erode` does, at a cost that stays bearable.

OpenCV visits every pixel of the ellipse for every pixel of the mask. An ellipse is a stack of
chords: the least value along each chord comes from two overlapping runs of a power of two, which
are made once a row, and the stack then costs one comparison a row of the ellipse.

Source: van Droogenbroeck and Talbot 1996, doi:10.1016/0167-8655(96)00078-5 (chords); shape of the
ellipse, OpenCV's getStructuringElement.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from accel.kernels import _native
from accel.kernels._op import Op

LARGEST = 4096


def erode_ellipse(
    mask: Tensor,  # [H, W] float32
    size: int,  # width and height of the ellipse in pixels
) -> Tensor:  # [H, W]
    """The least value under an ellipse around each pixel; what lies outside does not count.

    Raises ValueError for another shape or a size outside 1..4096.
    """
    if mask.ndim != 2 or mask.dtype != torch.float32:
        raise ValueError(
            f"erode_ellipse: mask must be [H, W] float32, got {list(mask.shape)} {mask.dtype}"
        )
    if not 1 <= size <= LARGEST:
        raise ValueError(f"erode_ellipse: size must lie in 1..{LARGEST}, got {size}")
    if mask.numel() == 0 or size == 1:
        return mask.clone()
    return op(mask.contiguous(), size)


@lru_cache(maxsize=32)
def chords(size: int) -> tuple[tuple[int, int, int], ...]:
    """Row, first and last column of each row of the ellipse, counted from its anchor."""
    radius = size // 2
    found = []
    for row in range(size):
        dy = row - radius
        if abs(dy) > radius:
            continue
        reach = round(radius * (np.sqrt((radius * radius - dy * dy) / (radius * radius))))
        first, last = max(radius - reach, 0), min(radius + reach, size - 1)
        found.append((dy, first - radius, last - radius))
    return tuple(found)


def _reference(mask, size):
    height, width = mask.shape
    result = torch.full_like(mask, torch.inf)
    for dy, first, last in chords(size):
        # pixel y looks at row y + dy, columns x + first .. x + last
        wide = F.pad(mask, (max(-first, 0), max(last, 0)), value=torch.inf)
        runs = -F.max_pool1d(-wide[None], last - first + 1, stride=1)[0]
        runs = runs[:, max(first, 0) : max(first, 0) + width]
        top, bottom = max(0, -dy), min(height, height - dy)
        if top < bottom:
            result[top:bottom] = torch.minimum(result[top:bottom], runs[top + dy : bottom + dy])
    return result


op = Op(
    "erode_ellipse(Tensor mask, int size) -> Tensor",
    _reference,
    fake=lambda mask, size: torch.empty_like(mask),
    gradient=False,
)


def _native_run(mask, size):
    out = torch.empty_like(mask)
    rows = torch.tensor(chords(size), dtype=torch.int32)
    _native.module.erode_chords(mask, rows, out, torch.get_num_threads())
    return out


op.implement("native", _native_run, lambda mask, size: _native.why_not(mask))
