"""The Triton side of `color`: Lab there and back, moments, sums by cell, relighting."""

from __future__ import annotations

import torch
import triton
import triton.language as tl

BLOCK = 1024
RELIGHT_WARPS = 8  # with 4, half precision spills a register on sm_86 and sm_89


@triton.jit
def _decode(coded):
    coded = tl.where(coded < 0, 0.0, tl.where(coded > 1, 1.0, coded))
    base = tl.where(coded > 0.04045, (coded + 0.055) / 1.055, 1.0)
    return tl.where(coded > 0.04045, tl.exp2(2.4 * tl.log2(base)), coded / 12.92)


@triton.jit
def _root(t):
    base = tl.where(t > 0.008856451679035631, t, 1.0)
    line = t * 7.787037037037035 + 0.13793103448275862
    return tl.where(t > 0.008856451679035631, tl.exp2(tl.log2(base) / 3), line)


@triton.jit
def _to_lab(red, green, blue):
    r, g, b = _decode(red), _decode(green), _decode(blue)
    fx = _root(0.433952755 * r + 0.376219415 * g + 0.189827830 * b)
    fy = _root(0.212671 * r + 0.715160 * g + 0.072169 * b)
    fz = _root(0.017757914 * r + 0.109476521 * g + 0.872765565 * b)
    return 116 * fy - 16, 500 * (fx - fy), 200 * (fy - fz)


@triton.jit
def _cube(f):
    return tl.where(
        f > 0.20689655172413793, f * f * f, (f - 0.13793103448275862) / 7.787037037037035
    )


@triton.jit
def _encode(linear):
    linear = tl.where(linear < 0, 0.0, tl.where(linear > 1, 1.0, linear))
    base = tl.where(linear > 0.0031308, linear, 1.0)
    curve = 1.055 * tl.exp2(tl.log2(base) / 2.4) - 0.055
    return tl.where(linear > 0.0031308, curve, 12.92 * linear)


@triton.jit
def _weighted_lab(crop_ptr, mask_ptr, at, inside, size):
    weight = tl.load(mask_ptr + at, inside, 0.0).to(tl.float32)
    red = tl.load(crop_ptr + at, inside, 0.0).to(tl.float32)
    green = tl.load(crop_ptr + size + at, inside, 0.0).to(tl.float32)
    blue = tl.load(crop_ptr + 2 * size + at, inside, 0.0).to(tl.float32)
    light, a, b = _to_lab(red, green, blue)
    counts = weight > 0  # a pixel outside the mask may hold anything
    return weight, tl.where(counts, light, 0.0), tl.where(counts, a, 0.0), tl.where(counts, b, 0.0)


@triton.jit
def _moments_kernel(crop_ptr, mask_ptr, out_ptr, size, parts, BLOCK: tl.constexpr):
    part, item = tl.program_id(0), tl.program_id(1).to(tl.int64)
    at = part * BLOCK + tl.arange(0, BLOCK)
    weight, light, a, b = _weighted_lab(
        crop_ptr + item * 3 * size, mask_ptr + item * size, at, at < size, size
    )
    total = tl.sum(weight, 0)
    share = 1 / tl.where(total > 0, total, 1.0)
    mean_light = tl.sum(weight * light, 0) * share
    mean_a = tl.sum(weight * a, 0) * share
    mean_b = tl.sum(weight * b, 0) * share
    light, a, b = light - mean_light, a - mean_a, b - mean_b
    out = out_ptr + (item * parts + part) * 7
    tl.store(out, total)
    tl.store(out + 1, mean_light)
    tl.store(out + 2, mean_a)
    tl.store(out + 3, mean_b)
    tl.store(out + 4, tl.sum(weight * light * light, 0))
    tl.store(out + 5, tl.sum(weight * a * a, 0))
    tl.store(out + 6, tl.sum(weight * b * b, 0))


@triton.jit
def _cells_kernel(
    crop_ptr, mask_ptr, out_ptr, height, width, grid, ROWS: tl.constexpr, COLUMNS: tl.constexpr
):
    cell, item = tl.program_id(0), tl.program_id(1).to(tl.int64)
    row, column = cell // grid, cell % grid
    # The first pixel whose index·grid // size is the cell is the ceiling of cell·size / grid.
    top, bottom = (row * height + grid - 1) // grid, ((row + 1) * height + grid - 1) // grid
    left, right = (column * width + grid - 1) // grid, ((column + 1) * width + grid - 1) // grid
    y = top + tl.arange(0, ROWS)[:, None]
    x = left + tl.arange(0, COLUMNS)[None, :]
    inside = (y < bottom) & (x < right)
    size = height * width
    weight, light, a, b = _weighted_lab(
        crop_ptr + item * 3 * size, mask_ptr + item * size, y * width + x, inside, size
    )
    cells = grid * grid
    out = out_ptr + item * 4 * cells + cell
    tl.store(out, tl.sum(tl.sum(weight * light, 1), 0))
    tl.store(out + cells, tl.sum(tl.sum(weight * a, 1), 0))
    tl.store(out + 2 * cells, tl.sum(tl.sum(weight * b, 1), 0))
    tl.store(out + 3 * cells, tl.sum(tl.sum(weight, 1), 0))


@triton.jit
def _moved(value, channel, item, added_ptr, gain_ptr, bias_ptr, corners, tx, ty, cells):
    gain = tl.load(gain_ptr + item * 3 + channel)
    bias = tl.load(bias_ptr + item * 3 + channel)
    light = added_ptr + (item * 3 + channel) * cells
    top = tl.load(light + corners[0]) * (1 - tx) + tl.load(light + corners[1]) * tx
    low = tl.load(light + corners[2]) * (1 - tx) + tl.load(light + corners[3]) * tx
    return value * gain + bias + top * (1 - ty) + low * ty


@triton.jit
def _relight_kernel(
    crop_ptr, gain_ptr, bias_ptr, added_ptr, out_ptr, height, width, rows, columns,
    BLOCK: tl.constexpr,
):  # fmt: skip
    item = tl.program_id(1).to(tl.int64)
    at = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    size = height * width
    inside = at < size
    crop, out = crop_ptr + item * 3 * size + at, out_ptr + item * 3 * size + at
    light, a, b = _to_lab(
        tl.load(crop, inside, 0.0).to(tl.float32),
        tl.load(crop + size, inside, 0.0).to(tl.float32),
        tl.load(crop + 2 * size, inside, 0.0).to(tl.float32),
    )
    # Pixel centres of both grids lie at halves; beyond the outer centres the border cell repeats.
    fx = ((at % width).to(tl.float32) + 0.5) * (columns * 1.0 / width) - 0.5
    fy = ((at // width).to(tl.float32) + 0.5) * (rows * 1.0 / height) - 0.5
    fx, fy = tl.maximum(fx, 0.0), tl.maximum(fy, 0.0)
    x0, y0 = tl.minimum(fx.to(tl.int32), columns - 1), tl.minimum(fy.to(tl.int32), rows - 1)
    x1, y1 = tl.minimum(x0 + 1, columns - 1), tl.minimum(y0 + 1, rows - 1)
    tx, ty = fx - x0.to(tl.float32), fy - y0.to(tl.float32)
    # Unused lanes of the last block may lie below the crop: the clamps above keep them in the grid.
    cells = rows * columns
    corners = (y0 * columns + x0, y0 * columns + x1, y1 * columns + x0, y1 * columns + x1)
    light = _moved(light, 0, item, added_ptr, gain_ptr, bias_ptr, corners, tx, ty, cells)
    a = _moved(a, 1, item, added_ptr, gain_ptr, bias_ptr, corners, tx, ty, cells)
    b = _moved(b, 2, item, added_ptr, gain_ptr, bias_ptr, corners, tx, ty, cells)
    f = (light + 16) / 116
    x, y, z = _cube(f + a / 500), _cube(f), _cube(f - b / 200)
    dtype = out_ptr.dtype.element_ty
    red = 3.079934936 * x - 1.537151516 * y - 0.542783419 * z
    green = -0.921234183 * x + 1.875990001 * y + 0.045244181 * z
    blue = 0.052889682 * x - 0.204041338 * y + 1.151151656 * z
    tl.store(out, _encode(red).to(dtype), inside)
    tl.store(out + size, _encode(green).to(dtype), inside)
    tl.store(out + 2 * size, _encode(blue).to(dtype), inside)


def moments(crops, masks):
    count, _, height, width = crops.shape
    size = height * width
    parts = triton.cdiv(size, BLOCK)
    out = crops.new_empty((count, parts, 7), dtype=torch.float32)
    if count and parts:
        _moments_kernel[(parts, count)](crops, masks, out, size, parts, BLOCK=BLOCK)
    return out[..., :1], out[..., 1:4], out[..., 4:]


def cell_sums(crops, masks, grid):
    count, _, height, width = crops.shape
    out = crops.new_zeros((count, 4, grid, grid), dtype=torch.float32)
    if count and height * width:
        rows, columns = (triton.next_power_of_2(triton.cdiv(n, grid)) for n in (height, width))
        _cells_kernel[(grid * grid, count)](
            crops, masks, out, height, width, grid, ROWS=rows, COLUMNS=columns
        )
    return out


def apply(crops, gain, bias, added):
    out = torch.empty_like(crops)
    count, _, height, width = crops.shape
    if count and height * width:
        _relight_kernel[(triton.cdiv(height * width, BLOCK), count)](
            crops, gain.contiguous(), bias.contiguous(), added.contiguous(), out,
            height, width, *added.shape[2:], BLOCK=BLOCK, num_warps=RELIGHT_WARPS,
        )  # fmt: skip
    return out


def _ahead(name, kernel, pointers, numbers, num_warps=4, **constexprs):
    signature = pointers | dict.fromkeys(numbers, "i32") | dict.fromkeys(constexprs, "constexpr")
    return {
        "name": name, "kernel": kernel, "signature": signature, "constexprs": constexprs,
        "num_warps": num_warps,
    }  # fmt: skip


AOT = [
    row
    for dtype in ("fp32", "fp16")
    for row in (
        _ahead(
            f"color_moments_{dtype}", _moments_kernel,
            {"crop_ptr": f"*{dtype}", "mask_ptr": "*fp32", "out_ptr": "*fp32"},
            ("size", "parts"), BLOCK=BLOCK,
        ),
        _ahead(
            f"color_cells_{dtype}", _cells_kernel,
            {"crop_ptr": f"*{dtype}", "mask_ptr": "*fp32", "out_ptr": "*fp32"},
            ("height", "width", "grid"), ROWS=16, COLUMNS=16,
        ),
        _ahead(
            f"relight_{dtype}", _relight_kernel,
            {"crop_ptr": f"*{dtype}", "gain_ptr": "*fp32", "bias_ptr": "*fp32",
             "added_ptr": "*fp32", "out_ptr": f"*{dtype}"},
            ("height", "width", "rows", "columns"), num_warps=RELIGHT_WARPS, BLOCK=BLOCK,
        ),
    )
]  # fmt: skip
