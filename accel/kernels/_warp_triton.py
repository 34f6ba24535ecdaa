"""The warp of warp.py for GPUs: one program for a stretch of a picture's pixels."""

from __future__ import annotations

import torch
import triton
import triton.language as tl

BLOCK = 128


@triton.jit
def _clamped(value, top):
    """0 for what is no number."""
    return tl.where(value > 0, tl.where(value < top, value, top), 0.0)


@triton.jit
def _cubic(f, tap: tl.constexpr):
    """Weight of tap 0..3 of four, f beyond tap 1."""
    a = -0.75
    g = f + 1.0
    h = 1.0 - f
    before = ((a * g - 5 * a) * g + 8 * a) * g - 4 * a
    left = ((a + 2) * f - (a + 3)) * f * f + 1.0
    right = ((a + 2) * h - (a + 3)) * h * h + 1.0
    if tap == 0:
        return before
    elif tap == 1:
        return left
    elif tap == 2:
        return right
    else:
        return 1.0 - before - left - right


@triton.jit
def _linear(f, tap: tl.constexpr):
    return 1.0 - f if tap == 0 else f


@triton.jit
def _kernel(
    picture_ptr, grid_ptr, matrix_ptr, out_ptr, height, width, side,
    C: tl.constexpr, CUBIC: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    i = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    n = tl.program_id(1).to(tl.int64)
    inside = i < height * width
    x, y = (i % width).to(tl.float32), (i // width).to(tl.float32)
    matrix_ptr += n * 6
    a, b, c = tl.load(matrix_ptr), tl.load(matrix_ptr + 1), tl.load(matrix_ptr + 2)
    d, e, f = tl.load(matrix_ptr + 3), tl.load(matrix_ptr + 4), tl.load(matrix_ptr + 5)
    cells = (side - 1).to(tl.float32)
    gx = _clamped(a * x + b * y + c, (width - 1).to(tl.float32)) * (cells / width)
    gy = _clamped(d * x + e * y + f, (height - 1).to(tl.float32)) * (cells / height)
    column = tl.minimum(gx.to(tl.int32), side - 2)
    row = tl.minimum(gy.to(tl.int32), side - 2)
    fx, fy = gx - column, gy - row
    corner = grid_ptr + n * 2 * side * side + row * side + column
    w00, w01, w10, w11 = (1 - fx) * (1 - fy), fx * (1 - fy), (1 - fx) * fy, fx * fy
    u = tl.load(corner) * w00 + tl.load(corner + 1) * w01
    u += tl.load(corner + side) * w10 + tl.load(corner + side + 1) * w11
    corner += side * side
    v = tl.load(corner) * w00 + tl.load(corner + 1) * w01
    v += tl.load(corner + side) * w10 + tl.load(corner + side + 1) * w11
    u = _clamped(u + width, 3.0 * width) - width
    v = _clamped(v + height, 3.0 * height) - height
    left, top = tl.floor(u), tl.floor(v)
    fx, fy = u - left, v - top
    x0, y0 = left.to(tl.int32), top.to(tl.int32)
    picture_ptr += n * height * width * C
    out_ptr += n * height * width * C
    for channel in tl.static_range(C):
        total = tl.zeros([BLOCK], tl.float32)
        for j in tl.static_range(4 if CUBIC else 2):
            wy = _cubic(fy, j) if CUBIC else _linear(fy, j)
            line = tl.minimum(tl.maximum(y0 + j - (1 if CUBIC else 0), 0), height - 1) * width
            for k in tl.static_range(4 if CUBIC else 2):
                wx = _cubic(fx, k) if CUBIC else _linear(fx, k)
                at = tl.minimum(tl.maximum(x0 + k - (1 if CUBIC else 0), 0), width - 1) + line
                value = tl.load(picture_ptr + at * C + channel, inside, other=0).to(tl.float32)
                total += wx * wy * value
        total = tl.minimum(tl.maximum(total / 255.0, 0.0), 1.0)
        tl.store(out_ptr + channel * height * width + i, total, inside)


def warp(pictures, grids, matrices, cubic):
    n, height, width, channels = pictures.shape
    out = torch.empty(n, channels, height, width, device=pictures.device)
    _kernel[(triton.cdiv(height * width, BLOCK), n)](
        pictures, grids, matrices, out, height, width, grids.shape[-1],
        C=channels, CUBIC=cubic, BLOCK=BLOCK,
    )  # fmt: skip
    return out


AOT = [
    {
        "name": f"warp_{channels}{'_cubic' * cubic}",
        "kernel": _kernel,
        "signature": {
            "picture_ptr": "*u8",
            **dict.fromkeys(("grid_ptr", "matrix_ptr", "out_ptr"), "*fp32"),
            **dict.fromkeys(("height", "width", "side"), "i32"),
            **dict.fromkeys(("C", "CUBIC", "BLOCK"), "constexpr"),
        },
        "constexprs": {"C": channels, "CUBIC": cubic, "BLOCK": BLOCK},
        "num_warps": 4,
    }
    for channels in (1, 3)
    for cubic in (False, True)
]
