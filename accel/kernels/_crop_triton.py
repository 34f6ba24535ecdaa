"""The Triton side of `crop`: one program for a stretch of crop pixels."""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

BLOCK = 128  # crop pixels per program


def read(
    planes: tuple[Tensor, Tensor, Tensor],
    table: Tensor,  # [N, 2, 12] what `crop.sampling` says
    numbers: list[float],  # 12 of the colour matrix, 3 gains, 3 biases
    zero_border: bool,
    channels_last: bool,
    out: Tensor,  # [N, 3, H, W] or [N, H, W, 3]; written
) -> None:
    n, height, width = len(out), *(out.shape[1:3] if channels_last else out.shape[2:])
    device = out.device
    _kernel[(triton.cdiv(height * width, BLOCK), n)](
        *planes, table.float().to(device, non_blocking=True),
        torch.tensor(numbers, dtype=torch.float32).to(device, non_blocking=True), out,
        *(plane.stride(0) for plane in planes), *(plane.stride(1) for plane in planes),
        *planes[0].shape, *planes[1].shape, height, width,
        1 if channels_last else height * width, 3 if channels_last else 1,
        ZERO_BORDER=zero_border, BLOCK=BLOCK,
    )  # fmt: skip


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
