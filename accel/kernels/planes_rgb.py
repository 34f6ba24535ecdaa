"""Whole pictures between planes and interleaved RGB: still images, the detector's picture, tests.

Chroma is read bilinearly at its siting, and written as the mean over the area that one chroma
sample stands for, centred on its siting (1 1 between two pixels, 1 2 1 on a pixel). Frames of a
video need neither direction: `crop` and `paste` work in the planes.

Source: ITU-T H.273 (chroma sample location).
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from accel.kernels import _native
from accel.kernels._op import Op, triton_kernels
from accel.kernels._why_not import not_on_gpu
from accel.kernels.planes import PlaneLayout, Planes, check_planes

FULL_SCALE = {torch.uint8: 255.0, torch.uint16: 65535.0, torch.float32: 1.0}


def planes_to_rgb(
    planes: Planes, *, dtype: torch.dtype = torch.uint8
) -> Tensor:  # [H, W, 3] red, green, blue
    """Convert a whole picture; uint8 and uint16 are rounded to full scale, float32 is 0..1."""
    check_planes("planes_to_rgb", planes)
    if dtype not in FULL_SCALE:
        raise ValueError(f"planes_to_rgb: dtype must be uint8, uint16 or float32, got {dtype}")
    of = planes.layout
    return to_rgb_op(
        planes.c0, planes.c1, planes.c2, of.to_rgb, of.shift_x, of.shift_y, of.site_x, of.site_y,
        dtype,
    )  # fmt: skip


def rgb_to_planes(
    rgb: Tensor,  # [H, W, 3] uint8 or uint16 at full scale, or float32 in 0..1
    layout: PlaneLayout,
) -> Planes:
    """Convert a whole picture to planes, which lie one after another in one buffer."""
    if rgb.ndim != 3 or rgb.shape[2] != 3 or rgb.dtype not in FULL_SCALE:
        raise ValueError(
            "rgb_to_planes: rgb must be [H, W, 3] of uint8, uint16 or float32, "
            f"got {tuple(rgb.shape)} {rgb.dtype}"
        )
    height, width = rgb.shape[:2]
    flat = to_planes_op(
        rgb, layout.from_rgb, layout.shift_x, layout.shift_y, layout.site_x, layout.site_y,
        layout.bits,
    )  # fmt: skip
    small = _chroma_shape(height, width, layout.shift_x, layout.shift_y)
    sizes = [height * width, small[0] * small[1], small[0] * small[1]]
    c0, c1, c2 = torch.split(flat, sizes)
    return Planes(c0.view(height, width), c1.view(small), c2.view(small), layout)


def _chroma_shape(height: int, width: int, shift_x: int, shift_y: int) -> tuple[int, int]:
    return -(-height // (1 << shift_y)), -(-width // (1 << shift_x))


def _reference_to_rgb(c0, c1, c2, color, shift_x, shift_y, site_x, site_y, dtype):
    height, width = c0.shape
    m = torch.tensor(color, dtype=torch.float64, device=c0.device).reshape(3, 4)
    codes = [c0.double()]
    for plane in (c1.double(), c2.double()):
        for axis, size, shift, site in ((0, height, shift_y, site_y), (1, width, shift_x, site_x)):
            at = (torch.arange(size, dtype=torch.float64, device=c0.device) - site) / (1 << shift)
            at = at.clamp(0, plane.shape[axis] - 1)
            below = at.floor().long()
            above = (below + 1).clamp(max=plane.shape[axis] - 1)
            share = (at - below)[:, None] if axis == 0 else at - below
            low, high = plane.index_select(axis, below), plane.index_select(axis, above)
            plane = low + share * (high - low)
        codes.append(plane)
    rgb = (torch.stack(codes, dim=2) @ m[:, :3].T + m[:, 3]).clamp(0, 1)
    if dtype == torch.float32:
        return rgb.float()
    return (rgb * FULL_SCALE[dtype] + 0.5).floor().to(torch.int32).to(dtype)


def _fake_to_rgb(c0, c1, c2, color, shift_x, shift_y, site_x, site_y, dtype):
    return torch.empty((*c0.shape, 3), dtype=dtype, device=c0.device)


to_rgb_op = Op(
    "planes_to_rgb(Tensor c0, Tensor c1, Tensor c2, float[] color, int shift_x, int shift_y,"
    " float site_x, float site_y, ScalarType dtype) -> Tensor",
    _reference_to_rgb,
    fake=_fake_to_rgb,
    gradient=False,
)


# The luma pixels that one chroma sample stands for: the first, from the pixel at i·2^shift, and the
# share of each. All samples have the same, since they are a whole number of pixels apart.
def _box(shift: int, site: float) -> tuple[int, list[float]]:
    side = 1 << shift
    low, high = site - side / 2, site + side / 2
    first = math.floor(low + 0.5)
    edges = [(max(p - 0.5, low), min(p + 0.5, high)) for p in range(first, first + side + 1)]
    return first, [max(end - start, 0.0) / side for start, end in edges]


def _reference_to_planes(rgb, color, shift_x, shift_y, site_x, site_y, bits):
    height, width = rgb.shape[:2]
    m = torch.tensor(color, dtype=torch.float64, device=rgb.device).reshape(3, 4)
    rgb = (rgb.double() / FULL_SCALE[rgb.dtype]).clamp(0, 1)
    parts = [(rgb @ m[0, :3] + m[0, 3]).flatten()]
    for axis, size, shift, site in ((0, height, shift_y, site_y), (1, width, shift_x, site_x)):
        first, weights = _box(shift, site)
        start = torch.arange(0, size, 1 << shift, device=rgb.device) + first
        rgb = sum(
            w * rgb.index_select(axis, (start + i).clamp(0, size - 1))
            for i, w in enumerate(weights)
        )
    parts += [(rgb @ m[row, :3] + m[row, 3]).flatten() for row in (1, 2)]
    codes = (torch.cat(parts) + 0.5).floor().clamp(0, (1 << bits) - 1)
    return codes.to(torch.int32).to(torch.uint8 if bits == 8 else torch.uint16)


def _empty_planes(rgb, shift_x, shift_y, bits):
    height, width = rgb.shape[:2]
    small = _chroma_shape(height, width, shift_x, shift_y)
    dtype = torch.uint8 if bits == 8 else torch.uint16
    return torch.empty(
        height * width + 2 * small[0] * small[1], dtype=dtype, device=rgb.device
    ), small


def _fake_to_planes(rgb, color, shift_x, shift_y, site_x, site_y, bits):
    return _empty_planes(rgb, shift_x, shift_y, bits)[0]


to_planes_op = Op(
    "rgb_to_planes(Tensor rgb, float[] color, int shift_x, int shift_y, float site_x,"
    " float site_y, int bits) -> Tensor",
    _reference_to_planes,
    fake=_fake_to_planes,
    gradient=False,
)


def _native_to_rgb(c0, c1, c2, color, shift_x, shift_y, site_x, site_y, dtype):
    out = torch.empty((*c0.shape, 3), dtype=dtype)
    if out.numel():
        _native.module.planes_to_rgb(c0, c1, c2, out, color, shift_x, shift_y, site_x, site_y)
    return out


def _native_to_planes(rgb, color, shift_x, shift_y, site_x, site_y, bits):
    flat, (small_h, small_w) = _empty_planes(rgb, shift_x, shift_y, bits)
    if flat.numel():
        height, width = rgb.shape[:2]
        size = small_h * small_w
        c0, c1, c2 = torch.split(flat, [height * width, size, size])
        first_x, shares_x = _box(shift_x, site_x)
        first_y, shares_y = _box(shift_y, site_y)
        _native.module.rgb_to_planes(
            rgb.contiguous(), c0.view(height, width), c1.view(small_h, small_w),
            c2.view(small_h, small_w), color, first_x, shares_x, first_y, shares_y,
            (1 << bits) - 1,
        )  # fmt: skip
    return flat


to_rgb_op.implement("native", _native_to_rgb, lambda c0, c1, c2, *rest: _native.why_not(c0, c1, c2))
to_planes_op.implement("native", _native_to_planes, lambda rgb, *rest: _native.why_not(rgb))


def _triton_to_rgb(c0, c1, c2, color, shift_x, shift_y, site_x, site_y, dtype):
    out = _fake_to_rgb(c0, c1, c2, color, shift_x, shift_y, site_x, site_y, dtype)
    if out.numel():
        shift, site = (shift_x, shift_y), (site_x, site_y)
        write = triton_kernels("planes_rgb").write_rgb
        write((c0, c1, c2), color, shift, site, FULL_SCALE[dtype], out)
    return out


def _triton_to_planes(rgb, color, shift_x, shift_y, site_x, site_y, bits):
    flat, small = _empty_planes(rgb, shift_x, shift_y, bits)
    if not flat.numel():
        return flat
    size = small[0] * small[1]
    luma = (rgb.shape[:2], (0, 0.0), (0, 0.0))
    chroma = (small, (shift_x, site_x), (shift_y, site_y))
    for row, out in enumerate(torch.split(flat, [flat.numel() - 2 * size, size, size])):
        shape, along_x, along_y = chroma if row else luma
        triton_kernels("planes_rgb").write_plane(
            rgb.contiguous(), color[4 * row : 4 * row + 4],
            (1 << along_x[0], *_box(*along_x)), (1 << along_y[0], *_box(*along_y)),
            FULL_SCALE[rgb.dtype], (1 << bits) - 1, out.view(shape),
        )  # fmt: skip
    return flat


def _why_not_triton(tensor, *rest) -> str:
    if tensor.stride(0) * tensor.shape[0] >= 1 << 31 or tensor.numel() * 3 >= 1 << 31:
        return "needs a picture of fewer than 2^31 samples"
    return not_on_gpu(tensor)


to_rgb_op.implement("triton", _triton_to_rgb, _why_not_triton)
to_planes_op.implement("triton", _triton_to_planes, _why_not_triton)
