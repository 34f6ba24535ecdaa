"""The Triton side of `planes_rgb`: a program takes a stretch of pixels, or of a plane's samples."""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

BLOCK = 256


def write_rgb(
    planes: tuple[Tensor, Tensor, Tensor],
    color: list[float],  # 12 of the matrix, codes to 0..1
    shift: tuple[int, int],  # of chroma: x, y
    site: tuple[float, float],
    full_scale: float,
    out: Tensor,  # [H, W, 3] written
) -> None:
    numbers = torch.tensor(color, dtype=torch.float32).to(out.device, non_blocking=True)
    _to_rgb_kernel[(triton.cdiv(planes[0].numel(), BLOCK),)](
        *planes, numbers, out,
        *(plane.stride(0) for plane in planes), *(plane.stride(1) for plane in planes),
        *planes[0].shape, *planes[1].shape, *site, 0.5 ** shift[0], 0.5 ** shift[1], full_scale,
        ROUND=out.dtype != torch.float32, BLOCK=BLOCK,
    )  # fmt: skip


def write_plane(
    rgb: Tensor,  # [H, W, 3] contiguous
    color: list[float],  # 4: the plane's row of the matrix, 0..1 to codes
    along_x: tuple[int, int, list[float]],  # pixels a sample, its first pixel, their shares
    along_y: tuple[int, int, list[float]],
    full_scale: float,
    max_code: int,
    out: Tensor,  # [h, w] contiguous; written
) -> None:
    (side_x, first_x, shares_x), (side_y, first_y, shares_y) = along_x, along_y
    numbers = torch.tensor([*color, *shares_x, *shares_y], dtype=torch.float32)
    numbers = numbers.to(rgb.device, non_blocking=True)
    _to_planes_kernel[(triton.cdiv(out.numel(), BLOCK),)](
        rgb, numbers, numbers[4:], out, *rgb.shape[:2], *out.shape,
        side_x, side_y, first_x, first_y, 1 / full_scale, float(max_code), BLOCK=BLOCK,
    )  # fmt: skip


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
