"""Soft edges for masks, and pictures joined band by band so that no seam shows.

Source: Burt & Adelson 1983, doi:10.1145/245.247 (blending by Laplacian pyramids; the weights are
the binomial 1 4 6 4 1).
"""

from __future__ import annotations

import math
from functools import lru_cache

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from accel.kernels import _native
from accel.kernels._op import Op, in_triton, triton_kernels
from accel.kernels._why_not import not_contiguous, not_on_gpu


def feather(
    masks: Tensor,  # [N, H, W] float32, 0..1
    erode_px: float,  # radius of the disc, 0 or more
    blur_px: float,  # sigma of the Gaussian, 0 or more
) -> Tensor:  # [N, H, W] float32, 0..1; 0 on the border
    """Shrink masks by `erode_px` and soften their edge.

    Shrinking takes the least value within the disc of that radius about each pixel centre;
    softening is a Gaussian, cut off at three sigma and normalised. Outside of the crop the mask is
    0 for both. Last, the mask is brought down to 0 at the crop's border by a straight ramp that is
    two sigma (at least a pixel) wide on each side, so that no crop edge shows where a mask is cut
    off by it.

    Raises TypeError for another dtype, ValueError for another number of dimensions or a negative
    size.
    """
    if masks.dtype != torch.float32:
        raise TypeError(f"feather: masks must be float32, got {masks.dtype}")
    if masks.ndim != 3:
        raise ValueError(f"feather: masks must be [N, H, W], got {tuple(masks.shape)}")
    for name, value in (("erode_px", erode_px), ("blur_px", blur_px)):
        if not 0 <= value < math.inf:
            raise ValueError(f"feather: {name} must be 0 or more, got {value}")
    return feather_op(masks.contiguous(), float(erode_px), float(blur_px))


# What depends on sizes alone. Kept as numpy: a tensor made while torch.compile traces is not real.
@lru_cache(maxsize=32)
def _disc(radius: float, reach: int) -> np.ndarray:
    """Half width of the disc 0, 1.. rows from its centre, as far as a picture of `reach` needs."""
    rows = range(min(int(radius), reach) + 1)
    widths = [min(math.isqrt(int(radius * radius - y * y)), len(rows) - 1) for y in rows]
    return np.array(widths, np.int32)


@lru_cache(maxsize=32)
def _gaussian(sigma: float, reach: int) -> np.ndarray:
    """Weights of samples 0, 1.. from the centre; cut off at three sigma, all together sum to 1."""
    at = np.arange(math.ceil(3 * sigma) + 1)
    weights = np.exp(-0.5 * (at / max(sigma, 1e-9)) ** 2)
    weights /= 2 * weights.sum() - weights[0]
    return weights[: reach + 1].astype(np.float32)


@lru_cache(maxsize=32)
def _ramp(length: int, sigma: float) -> np.ndarray:
    """0 at both ends of a line, 1 from two sigma inwards."""
    at = np.arange(length)
    from_end = np.minimum(at, length - 1 - at)
    return np.minimum(from_end / max(1.0, 2 * sigma), 1).astype(np.float32)


def _lines(height, width, sigma):  # taps, ramp along x, ramp along y
    return _gaussian(sigma, max(height, width)), _ramp(width, sigma), _ramp(height, sigma)


@lru_cache(maxsize=32)
def _lines_on(device, height, width, sigma):  # uploading waits, so it is done once
    return tuple(torch.from_numpy(a).to(device) for a in _lines(height, width, sigma))


def _feather_reference(masks, erode_px, blur_px):
    height, width = masks.shape[1:]
    widths = _disc(erode_px, max(height, width)).tolist()
    radius = len(widths) - 1
    padded = F.pad(masks, (radius,) * 4)
    eroded = masks
    for y in range(-radius, radius + 1):
        rows, w = padded[:, radius + y : radius + y + height], widths[abs(y)]
        least = -F.max_pool1d(-rows, 2 * w + 1, stride=1)
        eroded = torch.minimum(eroded, least[:, :, radius - w : radius - w + width])
    taps, ramp_x, ramp_y = (
        torch.from_numpy(a).to(masks.device) for a in _lines(height, width, blur_px)
    )
    kernel = torch.cat([taps[1:].flip(0), taps])
    blurred = F.conv2d(eroded[:, None], kernel.view(1, 1, 1, -1), padding=(0, len(taps) - 1))
    blurred = blurred * ramp_x
    blurred = F.conv2d(blurred, kernel.view(1, 1, -1, 1), padding=(len(taps) - 1, 0))
    return (blurred[:, 0] * ramp_y[:, None]).contiguous()


feather_op = Op(
    "feather(Tensor masks, float erode_px, float blur_px) -> Tensor",
    _feather_reference,
    fake=lambda masks, erode_px, blur_px: torch.empty_like(masks),
)


def _feather_native(masks, erode_px, blur_px):
    height, width = masks.shape[1:]
    out, disc = torch.empty_like(masks), _disc(erode_px, max(height, width))
    _native.module.feather(masks.detach(), disc, *_lines(height, width, blur_px), out)
    return out


def _feather_triton(masks, erode_px, blur_px):
    height, width = masks.shape[1:]
    lines = _lines_on(masks.device, height, width, blur_px)
    return triton_kernels("blend").feather(masks, min(erode_px, float(max(height, width))), *lines)


def _unfit(*tensors) -> str:
    if any(t.dtype != torch.float32 for t in tensors):
        return f"needs float32, got {', '.join(str(t.dtype) for t in tensors)}"
    return not_contiguous(*tensors) if all(t.numel() for t in tensors) else "has nothing to do"


def _why_not_native(*tensors) -> str:
    return _native.why_not(*tensors) or _unfit(*tensors)


def _why_not_triton(*tensors) -> str:
    return not_on_gpu(*tensors) or _unfit(*tensors)


feather_op.implement("native", _feather_native, lambda masks, *rest: _why_not_native(masks))
feather_op.implement("triton", _feather_triton, lambda masks, *rest: _why_not_triton(masks))


def blend_pyramid(
    front: Tensor,  # [N, C, H, W] float32
    back: Tensor,  # [N, C, H, W] float32
    masks: Tensor,  # [N, H, W] float32, share of `front`, 0..1
    levels: int = 4,  # bands above the coarsest picture; 0 is a plain mix
) -> Tensor:  # [N, C, H, W] float32
    """Join two pictures, each band of detail over a seam as wide as the detail.

    Where the mask is 1 (0) as far as the coarsest band reaches, about 2^(levels + 2) pixels, the
    result is `front` (`back`) to rounding. Levels below a side of 2 pixels are left out. Borders
    are reflected about the end samples, as in OpenCV's pyrDown and pyrUp.

    Raises TypeError for other dtypes, ValueError for shapes that do not fit together or negative
    levels.

    Source: Burt & Adelson 1983. Since the steps are linear, only the pyramid of front - back is
    built, and `back` added to what the mask leaves of it: half the work, and `back` stays exact.
    """
    if not front.dtype == back.dtype == masks.dtype == torch.float32:
        raise TypeError(
            "blend_pyramid: front, back and masks must be float32, "
            f"got {front.dtype}, {back.dtype} and {masks.dtype}"
        )
    if front.ndim != 4 or back.shape != front.shape or masks.shape != front[:, 0].shape:
        raise ValueError(
            "blend_pyramid: front and back must be [N, C, H, W] and masks [N, H, W] beside them, "
            f"got {tuple(front.shape)}, {tuple(back.shape)} and {tuple(masks.shape)}"
        )
    if levels < 0:
        raise ValueError(f"blend_pyramid: levels must be 0 or more, got {levels}")
    return blend_op(front.contiguous(), back.contiguous(), masks.contiguous(), int(levels))


def _blend_reference(front, back, masks, levels):
    bands, weights = [front - back], [masks[:, None]]
    while len(bands) <= levels and min(bands[-1].shape[2:]) > 1:
        bands.append(_down(bands[-1]))
        weights.append(_down(weights[-1]))
    blended = weights[-1] * bands[-1]
    for i in range(len(bands) - 2, -1, -1):
        size = bands[i].shape[2:]
        blended = weights[i] * (bands[i] - _up(bands[i + 1], size)) + _up(blended, size)
    return (blended + back).contiguous()


def _down(x):  # [N, C, H, W] -> [N, C, ceil(H / 2), ceil(W / 2)]
    for dim in (2, 3):
        n = x.shape[dim]
        tap = [x.index_select(dim, _reflected(k, n, x.device)) for k in range(-2, 3)]
        x = (tap[0] + tap[4] + 4 * (tap[1] + tap[3]) + 6 * tap[2]) / 16
    return x


def _reflected(k: int, n: int, device) -> Tensor:  # place of every second sample + k
    at = torch.arange(0, n, 2, device=device) + k
    if n == 1:
        return torch.zeros_like(at)
    at = at.abs()
    return torch.where(at < n, at, 2 * n - 2 - at)


def _up(x, size):  # [N, C, h, w] -> [N, C, *size]
    for dim, finer in zip((2, 3), size):
        n = x.shape[dim]
        # Neighbours past the ends, as reflection of the finer line puts them.
        before = x.narrow(dim, min(1, n - 1), 1)
        after = x.narrow(dim, n - 1 if finer % 2 == 0 else max(n - 2, 0), 1)
        lower = torch.cat([before, x.narrow(dim, 0, n - 1)], dim)
        upper = torch.cat([x.narrow(dim, 1, n - 1), after], dim)
        even, odd = (lower + upper + 6 * x) / 8, (x + upper) / 2
        x = torch.stack([even, odd], dim + 1).flatten(dim, dim + 1).narrow(dim, 0, finer)
    return x


blend_op = Op(
    "blend_pyramid(Tensor front, Tensor back, Tensor masks, int levels) -> Tensor",
    _blend_reference,
    fake=lambda front, back, masks, levels: torch.empty_like(front),
)


def _blend_native(front, back, masks, levels):
    out = torch.empty_like(front)
    _native.module.blend_pyramid(*(t.detach() for t in (front, back, masks)), levels, out)
    return out


blend_op.implement("native", _blend_native, lambda *args: _why_not_native(*args[:3]))
blend_op.implement(
    "triton", in_triton("blend", "blend_pyramid"), lambda *args: _why_not_triton(*args[:3])
)
