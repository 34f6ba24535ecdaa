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
from functools import lru_cache

import numpy as np
import torch
import triton
import triton.language as tl
from torch import Tensor

from accel.kernels import _native
from accel.kernels._op import INTERPRETED, Op
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
    that: where they lie on a GPU, this waits for it.
    """
    check_planes("crop", planes)
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
    return torch.ops.accel.crop(
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
    for index, matrix in enumerate(matrices.tolist()):  # waits when they lie on a GPU
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


def _fake(
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
    fake=_fake,
    gradient=False,  # code values are whole numbers
)


@lru_cache(maxsize=1)
def _compiled():
    """The numba kernel, compiled on first use: importing numba alone takes half a second."""
    from numba import njit

    @njit(nogil=True)
    def between(at, count):
        inside = min(max(at, 0.0), count - 1.0)
        index = min(int(inside), max(count - 2, 0))
        return index, min(index + 1, count - 1), inside - index

    @njit(nogil=True)
    def average(plane, row, x, y):
        height, width = plane.shape
        kx, ky = int(row[8]), int(row[9])
        total = 0.0
        for j in range(ky):
            down = y + (j - (ky - 1) / 2) * row[11]
            for i in range(kx):
                right = x + (i - (kx - 1) / 2) * row[10]
                left, after, u = between(row[0] * right + row[1] * down + (row[4] + row[6]), width)
                top, low, v = between(row[2] * right + row[3] * down + (row[5] + row[7]), height)
                upper = plane[top, left] * (1.0 - u) + plane[top, after] * u
                lower = plane[low, left] * (1.0 - u) + plane[low, after] * u
                total += upper * (1.0 - v) + lower * v
        return total / (kx * ky)

    @njit(nogil=True)
    def coverage(height, width, row, x, y):
        kx, ky = int(row[8]), int(row[9])
        total = 0.0
        for j in range(ky):
            down = y + (j - (ky - 1) / 2) * row[11]
            for i in range(kx):
                right = x + (i - (kx - 1) / 2) * row[10]
                u = row[0] * right + row[1] * down + (row[4] + row[6])
                v = row[2] * right + row[3] * down + (row[5] + row[7])
                out_x = min(max(-u, u - (width - 1), 0.0), 1.0)
                out_y = min(max(-v, v - (height - 1), 0.0), 1.0)
                total += (1.0 - out_x) * (1.0 - out_y)
        return total / (kx * ky)

    @njit(nogil=True)
    def crops(c0, c1, c2, table, color, gain, bias, zero_border, out):
        count, _, height, width = out.shape
        for job in range(count * height):
            n, line = job // height, job % height
            luma, chroma = table[n, 0], table[n, 1]
            y = line - (height - 1) / 2
            for column in range(width):
                x = column - (width - 1) / 2
                a = average(c0, luma, x, y)
                b, c = average(c1, chroma, x, y), average(c2, chroma, x, y)
                share = 1.0
                if zero_border:
                    share = coverage(c0.shape[0], c0.shape[1], luma, x, y)
                for k in range(3):
                    value = color[k, 0] * a + color[k, 1] * b + color[k, 2] * c + color[k, 3]
                    value = min(max(value, 0.0), 1.0) * share
                    out[n, k, line, column] = value * gain[k] + bias[k]

    return crops


def _numba(
    c0, c1, c2, matrices, height, width, color, gain, bias, shift_x, shift_y, site_x, site_y,
    dtype, channels_last, zero_border,
):  # fmt: skip
    table = sampling(matrices, height, width, shift_x, shift_y, site_x, site_y)
    out = torch.empty((len(matrices), 3, height, width), dtype=torch.float32)
    if len(matrices):
        _compiled()(
            c0.numpy(), c1.numpy(), c2.numpy(), table.numpy(),
            np.array(color, np.float64).reshape(3, 4), np.array(gain), np.array(bias),
            zero_border, out.numpy(),
        )  # fmt: skip
    return (out.permute(0, 2, 3, 1) if channels_last else out).to(dtype).contiguous()


def _why_not_cpu(c0, c1, c2, matrices, *rest) -> str:
    for tensor in (c0, c1, c2, matrices):
        if tensor.device.type != "cpu":
            return f"needs CPU tensors, got {tensor.device}"
    return ""


op.implement("numba", _numba, _why_not_cpu)


def _run_native(
    c0, c1, c2, matrices, height, width, color, gain, bias, shift_x, shift_y, site_x, site_y,
    dtype, channels_last, zero_border,
):  # fmt: skip
    n = matrices.shape[0]
    shape = (n, height, width, 3) if channels_last else (n, 3, height, width)
    out = torch.empty(shape, dtype=dtype)
    if n and _native.module:
        _native.module.crop(
            c0, c1, c2, matrices.to(torch.float32).contiguous(), out, color, gain, bias,
            1 << shift_x, 1 << shift_y, site_x, site_y, channels_last, zero_border,
        )  # fmt: skip
    return out


op.implement("native", _run_native, lambda c0, c1, c2, m, *rest: _native.why_not(c0, c1, c2, m))


@triton.jit
def _average_of(plane_ptr, row_stride, step, height, width, row_ptr, x, y, COVERAGE: tl.constexpr):
    a00, a01 = tl.load(row_ptr), tl.load(row_ptr + 1)
    a10, a11 = tl.load(row_ptr + 2), tl.load(row_ptr + 3)
    origin_x, origin_y = tl.load(row_ptr + 4).to(tl.int32), tl.load(row_ptr + 5).to(tl.int32)
    rest_x, rest_y = tl.load(row_ptr + 6), tl.load(row_ptr + 7)
    kx, ky = tl.load(row_ptr + 8).to(tl.int32), tl.load(row_ptr + 9).to(tl.int32)
    dx, dy = tl.load(row_ptr + 10), tl.load(row_ptr + 11)
    # Relative to the whole-numbered origin, so that the fraction stays exact far from zero.
    low_x, high_x = (0 - origin_x).to(tl.float32), (width - 1 - origin_x).to(tl.float32)
    low_y, high_y = (0 - origin_y).to(tl.float32), (height - 1 - origin_y).to(tl.float32)
    total = tl.zeros_like(x)
    for j in range(ky):
        down = y + (j - (ky - 1) * 0.5) * dy
        for i in range(kx):
            right = x + (i - (kx - 1) * 0.5) * dx
            u = a00 * right + (a01 * down + rest_x)
            v = a10 * right + (a11 * down + rest_y)
            if COVERAGE:
                out_x = tl.minimum(tl.maximum(tl.maximum(low_x - u, u - high_x), 0.0), 1.0)
                out_y = tl.minimum(tl.maximum(tl.maximum(low_y - v, v - high_y), 0.0), 1.0)
                total += (1.0 - out_x) * (1.0 - out_y)
            else:
                u = tl.minimum(tl.maximum(u, low_x), high_x)
                v = tl.minimum(tl.maximum(v, low_y), high_y)
                below_u, below_v = tl.floor(u), tl.floor(v)
                left, top = below_u.to(tl.int32) + origin_x, below_v.to(tl.int32) + origin_y
                after, low = tl.minimum(left + 1, width - 1), tl.minimum(top + 1, height - 1)
                u, v = u - below_u, v - below_v
                a = tl.load(plane_ptr + top * row_stride + left * step).to(tl.float32)
                b = tl.load(plane_ptr + top * row_stride + after * step).to(tl.float32)
                c = tl.load(plane_ptr + low * row_stride + left * step).to(tl.float32)
                d = tl.load(plane_ptr + low * row_stride + after * step).to(tl.float32)
                upper, lower = a + u * (b - a), c + u * (d - c)
                total += upper + v * (lower - upper)
    return total / (kx * ky).to(tl.float32)


@triton.jit
def _kernel(
    c0_ptr, c1_ptr, c2_ptr, table_ptr, color_ptr, out_ptr,
    c0_row, c1_row, c2_row, c0_step, c1_step, c2_step,
    frame_h, frame_w, chroma_h, chroma_w, height, width, channel_stride, pixel_stride,
    ZERO_BORDER: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    n = tl.program_id(1)
    i = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    x = (i % width).to(tl.float32) - (width - 1) * 0.5
    y = (i // width).to(tl.float32) - (height - 1) * 0.5
    luma = table_ptr + n * 24
    a = _average_of(c0_ptr, c0_row, c0_step, frame_h, frame_w, luma, x, y, False)
    b = _average_of(c1_ptr, c1_row, c1_step, chroma_h, chroma_w, luma + 12, x, y, False)
    c = _average_of(c2_ptr, c2_row, c2_step, chroma_h, chroma_w, luma + 12, x, y, False)
    share = tl.full([BLOCK], 1.0, tl.float32)
    if ZERO_BORDER:
        share = _average_of(c0_ptr, c0_row, c0_step, frame_h, frame_w, luma, x, y, True)
    out = out_ptr + n.to(tl.int64) * height * width * 3 + i * pixel_stride
    for channel in tl.static_range(3):
        m = color_ptr + channel * 4
        value = tl.load(m) * a + tl.load(m + 1) * b + tl.load(m + 2) * c + tl.load(m + 3)
        value = tl.minimum(tl.maximum(value, 0.0), 1.0) * share
        value = value * tl.load(color_ptr + 12 + channel) + tl.load(color_ptr + 15 + channel)
        tl.store(out + channel * channel_stride, value, i < height * width)


BLOCK = 128  # crop pixels per program


def _triton(
    c0, c1, c2, matrices, height, width, color, gain, bias, shift_x, shift_y, site_x, site_y,
    dtype, channels_last, zero_border,
):  # fmt: skip
    device, n = c0.device, matrices.shape[0]
    shape = (n, height, width, 3) if channels_last else (n, 3, height, width)
    out = torch.empty(shape, dtype=dtype, device=device)
    if not n:
        return out
    table = sampling(matrices, height, width, shift_x, shift_y, site_x, site_y).float()
    numbers = torch.tensor([*color, *gain, *bias], dtype=torch.float32)
    _kernel[(triton.cdiv(height * width, BLOCK), n)](
        c0, c1, c2, table.to(device, non_blocking=True), numbers.to(device, non_blocking=True), out,
        c0.stride(0), c1.stride(0), c2.stride(0), c0.stride(1), c1.stride(1), c2.stride(1),
        *c0.shape, *c1.shape, height, width,
        1 if channels_last else height * width, 3 if channels_last else 1,
        ZERO_BORDER=zero_border, BLOCK=BLOCK,
    )  # fmt: skip
    return out


def _why_not_triton(c0, c1, c2, *rest) -> str:
    if not (c0.is_cuda or INTERPRETED):
        return f"needs CUDA planes, got {c0.device}"
    if max(p.stride(0) * p.shape[0] for p in (c0, c1, c2)) >= 1 << 31:
        return "needs planes of fewer than 2^31 samples"
    return ""


op.implement("triton", _triton, _why_not_triton)

_SIGNATURE = {
    "table_ptr": "*fp32", "color_ptr": "*fp32",
    **dict.fromkeys(
        ("c0_row", "c1_row", "c2_row", "c0_step", "c1_step", "c2_step", "frame_h", "frame_w",
         "chroma_h", "chroma_w", "height", "width", "channel_stride", "pixel_stride"), "i32",
    ),
    "ZERO_BORDER": "constexpr", "BLOCK": "constexpr",
}  # fmt: skip
AOT = [  # what the compile test builds for every GPU generation
    {
        "name": f"crop_{code}_{result}{'_zero' * zero}",
        "kernel": _kernel,
        "signature": dict.fromkeys(("c0_ptr", "c1_ptr", "c2_ptr"), f"*{code}")
        | {"out_ptr": f"*{result}"}
        | _SIGNATURE,
        "constexprs": {"ZERO_BORDER": zero, "BLOCK": BLOCK},
        "num_warps": 4,
    }
    for code in ("u8", "u16")
    for result in ("fp32", "fp16")
    for zero in (False, True)
]
