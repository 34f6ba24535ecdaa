"""Crops straight out of a frame's planes: geometry, area filter, colour and scaling in one pass.

The filter. Shrinking by a factor s (frame samples per crop pixel, along one axis of the crop) must
average, or fine detail comes back as false patterns; OpenCV's affine INTER_AREA silently does not.
A crop pixel is therefore the mean of k (about s, at least 2) bilinear samples along each axis of
the crop, sqrt((s^2 - 1) / (k^2 - 1)) frame samples apart. At a whole s that is one sample, and the
area average; in between, the filter's variance, (s^2 + 1) / 12, is that of an area average on
top of bilinear interpolation; near s = 1 the samples meet, so a face that slowly grows past its
crop's size never jumps in sharpness. Enlarging is plain bilinear. Luma and chroma each have their
own s, and the two axes may turn and shear as the matrix says.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from accel.kernels import _native
from accel.kernels._op import Op, triton_kernels
from accel.kernels._why_not import not_on_gpu, without_numba
from accel.kernels.planes import Planes, check_planes

LAYOUTS = ("NCHW", "NHWC")
BORDERS = ("replicate", "zero")
DTYPES = (torch.float32, torch.float16)
MOST_SAMPLES = 64  # along one axis; a stronger shrink skips pixels instead of taking forever
FARTHEST = float(1 << 20)  # no plane is larger, so no origin needs to be
ALMOST = 1e-3  # what s may exceed 1 by and still count as no shrinking
SPREAD = 0.1  # what s may exceed a whole number by before it costs another sample


def crop(
    planes: Planes,
    matrices: Tensor,  # [N, 2, 3] frame -> crop, (x, y) pixels, pixel centres at integers
    size: int | tuple[int, int],  # side, or (height, width), of each crop in pixels
    *,
    mean: float | Sequence[float] = 0.0,
    scale: float | Sequence[float] = 1.0,
    layout: str = "NCHW",
    dtype: torch.dtype = torch.float32,
    bgr: bool = False,
    border: str = "replicate",
) -> Tensor:  # [N, 3, H, W], or [N, H, W, 3] when layout is NHWC
    """Read N crops out of one frame as (rgb - mean) * scale, rgb clipped to 0..1.

    mean, scale: one number, or three in the order red, green, blue, whatever `bgr` says.
    bgr: the result's channels are blue, green, red.
    border: what lies outside the frame: its nearest pixel ("replicate") or black ("zero").
    dtype: float32 or float16.

    Raises ValueError when a matrix has no inverse or is not finite. The matrices are looked at for
    that: keep them on the CPU, or this waits for the GPU they lie on.
    """
    check_planes("crop", planes)
    # The sampling table is a few dozen sums of a few numbers: on a GPU each would be a launch.
    matrices = matrices.cpu()
    height, width = (size, size) if isinstance(size, int) else size
    if min(planes.c0.shape) < 1:
        raise ValueError(f"crop: the frame must have pixels, got {tuple(planes.c0.shape)}")
    if not (0 < height < 1 << 15 and 0 < width < 1 << 15):
        raise ValueError(f"crop: size must lie in 1..32767, got {height}x{width}")
    if layout not in LAYOUTS:
        raise ValueError(f"crop: layout must be one of {', '.join(LAYOUTS)}, got {layout!r}")
    if border not in BORDERS:
        raise ValueError(f"crop: border must be one of {', '.join(BORDERS)}, got {border!r}")
    if dtype not in DTYPES:
        raise ValueError(f"crop: dtype must be float32 or float16, got {dtype}")
    if matrices.ndim != 3 or matrices.shape[1:] != (2, 3):
        raise ValueError(f"crop: matrices must be [N, 2, 3], got {tuple(matrices.shape)}")
    _check_invertible(matrices)
    shift, span = _three("mean", mean), _three("scale", scale)
    order = (2, 1, 0) if bgr else (0, 1, 2)
    of = planes.layout
    return op(
        planes.c0, planes.c1, planes.c2, matrices, height, width,
        [c for row in order for c in of.to_rgb[4 * row : 4 * row + 4]],
        [span[i] for i in order], [-shift[i] * span[i] for i in order],
        of.shift_x, of.shift_y, of.site_x, of.site_y, dtype, layout == "NHWC", border == "zero",
    )  # fmt: skip


def _three(name: str, value: float | Sequence[float]) -> list[float]:
    numbers = [float(v) for v in value] if isinstance(value, Sequence) else [float(value)] * 3
    if len(numbers) != 3 or not all(math.isfinite(v) for v in numbers):
        raise ValueError(f"crop: {name} must be one finite number or three, got {value}")
    return numbers


def _check_invertible(matrices: Tensor) -> None:
    for index, matrix in enumerate(matrices.tolist()):
        (a, b, x), (c, d, y) = matrix
        largest = max(abs(v) for v in (a, b, c, d))
        finite = all(math.isfinite(v) for v in (a, b, c, d, x, y))
        # Relative, so that a tiny scale is allowed; what is left is flat to float32's last digit.
        if not finite or not abs(a * d - b * c) > 1e-6 * largest * largest:
            raise ValueError(f"crop: matrix {index} must be finite and invertible, got {matrix}")


# One row of the sampling table. In a plane's own pixels, from the crop's centre:
#   0..3  a00 a01 a10 a11   plane pixels per crop pixel
#   4..7  origin_x origin_y (whole) and the rest x, y: where the crop's centre falls
#   8..11 kx ky             how many samples; dx dy their distance as a share of a crop pixel
def sampling(
    matrices: Tensor,  # [N, 2, 3] frame -> crop
    height: int,
    width: int,
    shift_x: int,
    shift_y: int,
    site_x: float,
    site_y: float,
) -> Tensor:  # [N, 2, 12] float64: for luma, for chroma
    """Where and how densely each plane is sampled; the one definition of it outside C++."""
    m = matrices.double()
    inverse = torch.linalg.inv_ex(m[:, :, :2])[0]
    center = torch.tensor([(width - 1) / 2, (height - 1) / 2], dtype=m.dtype).to(m.device)
    at = torch.einsum("nij,nj->ni", inverse, center - m[:, :, 2])
    rows = []
    for unit, site in (((1, 1), (0, 0)), ((1 << shift_x, 1 << shift_y), (site_x, site_y))):
        per = torch.tensor(unit, dtype=m.dtype).to(m.device)
        steps = inverse / per[:, None]  # [N, 2, 2]; column 0 is one crop pixel to the right
        where = (at - torch.tensor(site, dtype=m.dtype).to(m.device)) / per
        origin = where.floor().clamp(-FARTHEST, FARTHEST)
        length = steps.square().sum(1).sqrt()  # [N, 2]: s along x and along y
        count = (length - SPREAD).ceil().clamp(2, MOST_SAMPLES)
        count = torch.where(length > 1 + ALMOST, count, torch.ones_like(count))
        apart = ((length.square() - 1).clamp(min=0) / (count.square() - 1).clamp(min=1)).sqrt()
        apart = torch.where(count > 1, apart / length, torch.zeros_like(apart))
        rows.append(torch.cat([steps.flatten(1), origin, where - origin, count, apart], dim=1))
    return torch.stack(rows, dim=1)


def _reference(
    c0, c1, c2, matrices, height, width, color, gain, bias, shift_x, shift_y, site_x, site_y,
    dtype, channels_last, zero_border,
):  # fmt: skip
    table = sampling(matrices, height, width, shift_x, shift_y, site_x, site_y)
    device = c0.device
    out = torch.empty((len(matrices), 3, height, width), dtype=dtype, device=device)
    y, x = torch.meshgrid(
        torch.arange(height, dtype=torch.float64, device=device) - (height - 1) / 2,
        torch.arange(width, dtype=torch.float64, device=device) - (width - 1) / 2,
        indexing="ij",
    )
    linear = torch.tensor(color, dtype=torch.float64, device=device).reshape(3, 4)
    planes = [c.to(torch.float64) for c in (c0, c1, c2)]
    inside = torch.ones_like(planes[0])
    for n, (luma, chroma) in enumerate(table.tolist()):
        codes = [_average(p, r, x, y) for p, r in zip(planes, (luma, chroma, chroma))]
        rgb = torch.einsum("cp,phw->chw", linear[:, :3], torch.stack(codes))
        rgb = (rgb + linear[:, 3, None, None]).clamp(0, 1)
        if zero_border:
            rgb = rgb * _average(inside, luma, x, y, zero_border=True)
        for c in range(3):
            out[n, c] = (rgb[c] * gain[c] + bias[c]).to(dtype)
    return out.permute(0, 2, 3, 1).contiguous() if channels_last else out


def _average(plane, row, x, y, zero_border=False):  # [H, W] mean of the bilinear samples
    a00, a01, a10, a11, origin_x, origin_y, rest_x, rest_y, kx, ky, dx, dy = row
    total = torch.zeros_like(x)
    for j in range(int(ky)):
        for i in range(int(kx)):
            right, down = x + (i - (kx - 1) / 2) * dx, y + (j - (ky - 1) / 2) * dy
            u = a00 * right + a01 * down + origin_x + rest_x
            v = a10 * right + a11 * down + origin_y + rest_y
            total += _bilinear(plane, u, v, zero_border)
    return total / (kx * ky)


def _bilinear(plane, u, v, zero_border):
    height, width = plane.shape
    if zero_border:  # the plane is all ones, so only how far outside a sample lies matters
        out_x = torch.maximum(-u, u - (width - 1)).clamp(0, 1)
        out_y = torch.maximum(-v, v - (height - 1)).clamp(0, 1)
        return (1 - out_x) * (1 - out_y)
    u, v = u.clamp(0, width - 1), v.clamp(0, height - 1)
    left, top = u.floor().long(), v.floor().long()
    right, low = (left + 1).clamp(max=width - 1), (top + 1).clamp(max=height - 1)
    u, v = u - left, v - top
    upper = plane[top, left] * (1 - u) + plane[top, right] * u
    lower = plane[low, left] * (1 - u) + plane[low, right] * u
    return upper * (1 - v) + lower * v


def _empty(
    c0, c1, c2, matrices, height, width, color, gain, bias, shift_x, shift_y, site_x, site_y,
    dtype, channels_last, zero_border,
):  # fmt: skip
    n = matrices.shape[0]
    shape = (n, height, width, 3) if channels_last else (n, 3, height, width)
    return torch.empty(shape, dtype=dtype, device=c0.device)


op = Op(
    "crop(Tensor c0, Tensor c1, Tensor c2, Tensor matrices, int height, int width, float[] color,"
    " float[] gain, float[] bias, int shift_x, int shift_y, float site_x, float site_y,"
    " ScalarType dtype, bool channels_last, bool zero_border) -> Tensor",
    _reference,
    fake=_empty,
    gradient=False,  # code values are whole numbers
)


def _numba(
    c0, c1, c2, matrices, height, width, color, gain, bias, shift_x, shift_y, site_x, site_y,
    dtype, channels_last, zero_border,
):  # fmt: skip
    from accel.kernels._crop_numba import read  # on first use: numba alone takes half a second

    table = sampling(matrices, height, width, shift_x, shift_y, site_x, site_y)
    out = torch.empty((len(matrices), 3, height, width), dtype=torch.float32)
    if len(matrices):
        read(
            c0.numpy(), c1.numpy(), c2.numpy(), table.numpy(),
            np.array(color, np.float64).reshape(3, 4), np.array(gain), np.array(bias),
            zero_border, out.numpy(),
        )  # fmt: skip
    return (out.permute(0, 2, 3, 1) if channels_last else out).to(dtype).contiguous()


op.implement("numba", _numba, lambda *args: without_numba(*args[:4]))


def _native_read(*args):
    (
        c0, c1, c2, matrices, _, _, color, gain, bias, shift_x, shift_y, site_x, site_y,
        _, channels_last, zero_border,
    ) = args  # fmt: skip
    out = _empty(*args)
    if out.numel():
        _native.module.crop(
            c0, c1, c2, matrices.to(torch.float32).contiguous(), out, color, gain, bias,
            1 << shift_x, 1 << shift_y, site_x, site_y, channels_last, zero_border,
        )  # fmt: skip
    return out


op.implement("native", _native_read, lambda *args: _native.why_not(*args[:4]))


def _triton(*args):
    (
        c0, c1, c2, matrices, height, width, color, gain, bias, shift_x, shift_y, site_x, site_y,
        _, channels_last, zero_border,
    ) = args  # fmt: skip
    out = _empty(*args)
    if out.numel():
        table = sampling(matrices, height, width, shift_x, shift_y, site_x, site_y)
        triton_kernels("crop").read(
            (c0, c1, c2), table, [*color, *gain, *bias], zero_border, channels_last, out
        )
    return out


def _why_not_triton(c0, c1, c2, *rest) -> str:
    if max(p.stride(0) * p.shape[0] for p in (c0, c1, c2)) >= 1 << 31:
        return "needs planes of fewer than 2^31 samples"
    return not_on_gpu(c0, c1, c2)  # the matrices stay on the CPU


op.implement("triton", _triton, _why_not_triton)
