"""The Triton side of `to_nv12`: programs of luma come first, those of chroma after them."""

from __future__ import annotations

import torch
import triton
import triton.language as tl

BLOCK = 1024  # luma pixels, or chroma pairs, of one program
UNIT = 16  # pixels; what a picture's must be a multiple of, so that loads are whole


def write(x, color, out):  # [B, 3, H, W] -1..1, 12 numbers to codes, [B, 3 * H / 2, W] written
    images, _, height, width = x.shape
    numbers = torch.tensor(color, dtype=torch.float32).to(x.device, non_blocking=True)
    luma = triton.cdiv(height * width, BLOCK)
    _nv12_kernel[(luma + triton.cdiv(height * width // 4, BLOCK), images)](
        x, numbers, out, height, width, height * width // UNIT, luma, BLOCK=BLOCK
    )


@triton.jit
def _unit(ptr, at, inside):
    return tl.minimum(tl.maximum(tl.load(ptr + at, inside, 0.0).to(tl.float32), -1.0), 1.0)


@triton.jit
def _chroma(ptr, row, left, middle, right, width, inside):
    """The mean of three columns, the middle one twice, over two rows."""
    upper = _unit(ptr, row + left, inside) + 2.0 * _unit(ptr, row + middle, inside)
    upper += _unit(ptr, row + right, inside)
    lower = _unit(ptr, row + width + left, inside) + 2.0 * _unit(ptr, row + width + middle, inside)
    lower += _unit(ptr, row + width + right, inside)
    return (upper + lower) * 0.0625 + 0.5


@triton.jit
def _code(color_ptr, ROW: tl.constexpr, red, green, blue):
    m = color_ptr + 4 * ROW
    y = tl.load(m) * red + tl.load(m + 1) * green + tl.load(m + 2) * blue + tl.load(m + 3)
    return tl.minimum(tl.maximum(tl.floor(y + 0.5), 0.0), 255.0).to(tl.uint8)


@triton.jit
def _nv12_kernel(
    x_ptr, color_ptr, out_ptr, height, width, pixels, luma_programs, BLOCK: tl.constexpr
):
    image = tl.program_id(1).to(tl.int64)
    pixels = pixels * 16
    red_ptr = x_ptr + image * 3 * pixels
    green_ptr, blue_ptr = red_ptr + pixels, red_ptr + 2 * pixels
    out = out_ptr + image * (pixels + pixels // 2)
    if tl.program_id(0) < luma_programs:
        i = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
        inside = i < pixels
        red = _unit(red_ptr, i, inside) * 0.5 + 0.5
        green = _unit(green_ptr, i, inside) * 0.5 + 0.5
        blue = _unit(blue_ptr, i, inside) * 0.5 + 0.5
        tl.store(out + i, _code(color_ptr, 0, red, green, blue), inside)
    else:
        i = (tl.program_id(0) - luma_programs) * BLOCK + tl.arange(0, BLOCK)
        inside = i < pixels // 4
        row, column = i // (width // 2) * 2 * width, i % (width // 2) * 2
        left, right = tl.maximum(column - 1, 0), column + 1
        red = _chroma(red_ptr, row, left, column, right, width, inside)
        green = _chroma(green_ptr, row, left, column, right, width, inside)
        blue = _chroma(blue_ptr, row, left, column, right, width, inside)
        to = out + pixels + 2 * i
        tl.store(to, _code(color_ptr, 1, red, green, blue), inside)
        tl.store(to + 1, _code(color_ptr, 2, red, green, blue), inside)


def _kind(name: str, code: str) -> str:
    given = {"x_ptr": f"*{code}", "color_ptr": "*fp32", "out_ptr": "*u8"}
    return given.get(name, "constexpr" if name.isupper() else "i32")


AOT = [
    {
        "name": f"to_nv12_{code}",
        "kernel": _nv12_kernel,
        "signature": {name: _kind(name, code) for name in _nv12_kernel.arg_names},
        "constexprs": {"BLOCK": BLOCK},
        "num_warps": 4,
        "needs": ("vector loads",),
    }
    for code in ("fp32", "fp16", "bf16")
]
