"""Whole pictures between planes and interleaved RGB: still images, the detector's picture, tests.

Chroma is read bilinearly at its siting, and written as the mean over the area that one chroma
sample stands for, centred on its siting (1 1 between two pixels, 1 2 1 on a pixel). Frames of a
video need neither direction: `crop` and `paste` work in the planes.

Source: ITU-T H.273 (chroma sample location).
"""

from __future__ import annotations

import math

import torch
import triton
import triton.language as tl
from torch import Tensor

from accel.kernels import _native
from accel.kernels._op import INTERPRETED, Op
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
    return torch.ops.accel.planes_to_rgb(
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
    flat = torch.ops.accel.rgb_to_planes(
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
    if out.numel() and _native.module:
        _native.module.planes_to_rgb(c0, c1, c2, out, color, shift_x, shift_y, site_x, site_y)
    return out


def _native_to_planes(rgb, color, shift_x, shift_y, site_x, site_y, bits):
    flat, (small_h, small_w) = _empty_planes(rgb, shift_x, shift_y, bits)
    if flat.numel() and _native.module:
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


@triton.jit
def _chroma_at(ptr, row_stride, step, height, width, x, y):
    u = tl.minimum(tl.maximum(x, 0.0), (width - 1).to(tl.float32))
    v = tl.minimum(tl.maximum(y, 0.0), (height - 1).to(tl.float32))
    left, top = tl.floor(u).to(tl.int32), tl.floor(v).to(tl.int32)
    right, low = tl.minimum(left + 1, width - 1), tl.minimum(top + 1, height - 1)
    u, v = u - tl.floor(u), v - tl.floor(v)
    a = tl.load(ptr + top * row_stride + left * step).to(tl.float32)
    b = tl.load(ptr + top * row_stride + right * step).to(tl.float32)
    c = tl.load(ptr + low * row_stride + left * step).to(tl.float32)
    d = tl.load(ptr + low * row_stride + right * step).to(tl.float32)
    upper, lower = a + u * (b - a), c + u * (d - c)
    return upper + v * (lower - upper)


@triton.jit
def _to_rgb_kernel(
    c0_ptr, c1_ptr, c2_ptr, color_ptr, out_ptr,
    c0_row, c1_row, c2_row, c0_step, c1_step, c2_step,
    frame_h, frame_w, chroma_h, chroma_w, site_x, site_y, per_x, per_y, top,
    ROUND: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    i = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    inside = i < frame_h * frame_w
    x, y = i % frame_w, tl.minimum(i // frame_w, frame_h - 1)
    u, v = (x.to(tl.float32) - site_x) * per_x, (y.to(tl.float32) - site_y) * per_y
    a = tl.load(c0_ptr + y * c0_row + x * c0_step).to(tl.float32)
    b = _chroma_at(c1_ptr, c1_row, c1_step, chroma_h, chroma_w, u, v)
    c = _chroma_at(c2_ptr, c2_row, c2_step, chroma_h, chroma_w, u, v)
    for channel in tl.static_range(3):
        m = color_ptr + channel * 4
        value = tl.load(m) * a + tl.load(m + 1) * b + tl.load(m + 2) * c + tl.load(m + 3)
        value = tl.minimum(tl.maximum(value, 0.0), 1.0) * top
        if ROUND:
            tl.store(out_ptr + i * 3 + channel, tl.floor(value + 0.5).to(tl.int32), inside)
        else:
            tl.store(out_ptr + i * 3 + channel, value, inside)


@triton.jit
def _to_planes_kernel(
    rgb_ptr, color_ptr, shares_ptr, out_ptr,
    height, width, out_h, out_w, side_x, side_y, first_x, first_y, scale, max_code,
    BLOCK: tl.constexpr,
):  # fmt: skip
    """One plane: each of its samples is a weighted mean of side + 1 pixels along each axis."""
    i = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    x, y = (i % out_w) * side_x + first_x, (i // out_w) * side_y + first_y
    red = tl.zeros([BLOCK], tl.float32)
    green = tl.zeros([BLOCK], tl.float32)
    blue = tl.zeros([BLOCK], tl.float32)
    for down in range(side_y + 1):
        row = tl.minimum(tl.maximum(y + down, 0), height - 1) * width
        share_y = tl.load(shares_ptr + side_x + 1 + down)
        for right in range(side_x + 1):
            share = share_y * tl.load(shares_ptr + right)
            at = rgb_ptr + (row + tl.minimum(tl.maximum(x + right, 0), width - 1)) * 3
            red += share * tl.minimum(tl.maximum(tl.load(at).to(tl.float32) * scale, 0.0), 1.0)
            pair = tl.load(at + 1).to(tl.float32) * scale
            green += share * tl.minimum(tl.maximum(pair, 0.0), 1.0)
            pair = tl.load(at + 2).to(tl.float32) * scale
            blue += share * tl.minimum(tl.maximum(pair, 0.0), 1.0)
    value = tl.load(color_ptr) * red + tl.load(color_ptr + 1) * green
    value = value + tl.load(color_ptr + 2) * blue + tl.load(color_ptr + 3)
    value = tl.minimum(tl.maximum(tl.floor(value + 0.5), 0.0), max_code)
    tl.store(out_ptr + i, value.to(tl.int32), i < out_h * out_w)


BLOCK = 256


def _triton_to_rgb(c0, c1, c2, color, shift_x, shift_y, site_x, site_y, dtype):
    out = torch.empty((*c0.shape, 3), dtype=dtype, device=c0.device)
    if out.numel():
        numbers = torch.tensor(color, dtype=torch.float32).to(c0.device, non_blocking=True)
        _to_rgb_kernel[(triton.cdiv(c0.numel(), BLOCK),)](
            c0, c1, c2, numbers, out,
            c0.stride(0), c1.stride(0), c2.stride(0), c0.stride(1), c1.stride(1), c2.stride(1),
            *c0.shape, *c1.shape, site_x, site_y, 0.5**shift_x, 0.5**shift_y, FULL_SCALE[dtype],
            ROUND=dtype != torch.float32, BLOCK=BLOCK,
        )  # fmt: skip
    return out


def _triton_to_planes(rgb, color, shift_x, shift_y, site_x, site_y, bits):
    flat, small = _empty_planes(rgb, shift_x, shift_y, bits)
    if not flat.numel():
        return flat
    height, width = rgb.shape[:2]
    rgb, size = rgb.contiguous(), small[0] * small[1]
    luma = ((height, width), (0, 0.0), (0, 0.0))
    chroma = (small, (shift_x, site_x), (shift_y, site_y))
    for row, out in enumerate(torch.split(flat, [height * width, size, size])):
        (out_h, out_w), along_x, along_y = chroma if row else luma
        (first_x, shares_x), (first_y, shares_y) = _box(*along_x), _box(*along_y)
        numbers = torch.tensor([*color[4 * row : 4 * row + 4], *shares_x, *shares_y])
        numbers = numbers.float().to(rgb.device, non_blocking=True)
        _to_planes_kernel[(triton.cdiv(out_h * out_w, BLOCK),)](
            rgb, numbers, numbers[4:], out, height, width, out_h, out_w,
            1 << along_x[0], 1 << along_y[0], first_x, first_y,
            1 / FULL_SCALE[rgb.dtype], float((1 << bits) - 1), BLOCK=BLOCK,
        )  # fmt: skip
    return flat


def _why_not_triton(tensor, *rest) -> str:
    if not (tensor.is_cuda or INTERPRETED):
        return f"needs a CUDA tensor, got {tensor.device}"
    if tensor.stride(0) * tensor.shape[0] >= 1 << 31 or tensor.numel() * 3 >= 1 << 31:
        return "needs a picture of fewer than 2^31 samples"
    return ""


to_rgb_op.implement("triton", _triton_to_rgb, _why_not_triton)
to_planes_op.implement("triton", _triton_to_planes, _why_not_triton)


def _variant(name: str, kernel, pointers: dict[str, str], floats: set[str], **constexprs) -> dict:
    def kind(argument: str) -> str:
        if argument in constexprs:
            return "constexpr"
        return pointers.get(argument, "fp32" if argument in floats else "i32")

    signature = {argument: kind(argument) for argument in kernel.arg_names}
    return {
        "name": name, "kernel": kernel, "signature": signature, "constexprs": constexprs,
        "num_warps": 4,
    }  # fmt: skip


AOT = [  # what the compile test builds for every GPU generation
    _variant(
        f"planes_to_rgb_{code}_{result}",
        _to_rgb_kernel,
        dict.fromkeys(("c0_ptr", "c1_ptr", "c2_ptr"), f"*{code}")
        | {"color_ptr": "*fp32", "out_ptr": f"*{result}"},
        {"site_x", "site_y", "per_x", "per_y", "top"},
        ROUND=result != "fp32",
        BLOCK=BLOCK,
    )
    for code in ("u8", "u16")
    for result in ("u8", "fp32")
] + [
    _variant(
        f"rgb_to_planes_{kind}_{code}",
        _to_planes_kernel,
        {"rgb_ptr": f"*{kind}", "color_ptr": "*fp32", "shares_ptr": "*fp32", "out_ptr": f"*{code}"},
        {"scale", "max_code"},
        BLOCK=BLOCK,
    )
    for kind in ("u8", "fp32")
    for code in ("u8", "u16")
]
