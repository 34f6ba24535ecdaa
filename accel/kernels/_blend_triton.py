"""The feather and the pyramid of blend.py for GPUs.

Lines are short and stay in the cache, so each step is a kernel of its own over tiles of pixels.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl

ROWS, COLUMNS, WARPS = 16, 64, 8


@triton.jit
def _tile(height, width, ROWS: tl.constexpr, COLUMNS: tl.constexpr):
    """Row, column and which of them lie in the picture, for this program's tile."""
    across = tl.cdiv(width, COLUMNS)
    y = tl.program_id(0) // across * ROWS + tl.arange(0, ROWS)[:, None]
    x = tl.program_id(0) % across * COLUMNS + tl.arange(0, COLUMNS)[None, :]
    return y, x, (y < height) & (x < width)


@triton.jit
def _erode_kernel(
    mask_ptr, out_ptr, height, width, radius, radius_squared,
    ROWS: tl.constexpr, COLUMNS: tl.constexpr,
):  # fmt: skip
    y, x, inside = _tile(height, width, ROWS, COLUMNS)
    mask_ptr += tl.program_id(1).to(tl.int64) * height * width
    out_ptr += tl.program_id(1).to(tl.int64) * height * width
    least = tl.full([ROWS, COLUMNS], float("inf"), tl.float32)
    for down in range(-radius, radius + 1):
        row = y + down
        for right in range(-radius, radius + 1):
            if down * down + right * right <= radius_squared:
                column = x + right
                there = (row >= 0) & (row < height) & (column >= 0) & (column < width)
                least = tl.minimum(least, tl.load(mask_ptr + row * width + column, there, other=0))
    tl.store(out_ptr + y * width + x, least, inside)


@triton.jit
def _blur_kernel(
    from_ptr, to_ptr, taps_ptr, ramp_ptr, height, width, radius,
    DOWN: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr,
):  # fmt: skip
    y, x, inside = _tile(height, width, ROWS, COLUMNS)
    from_ptr += tl.program_id(1).to(tl.int64) * height * width
    to_ptr += tl.program_id(1).to(tl.int64) * height * width
    along, length, step = (y, height, width) if DOWN else (x, width, 1)
    at = from_ptr + y * width + x
    total = tl.load(at, inside, other=0.0) * tl.load(taps_ptr)
    for k in range(1, radius + 1):
        before = tl.load(at - k * step, inside & (along >= k), other=0.0)
        after = tl.load(at + k * step, inside & (along + k < length), other=0.0)
        total += tl.load(taps_ptr + k) * (before + after)
    ramp = tl.load(ramp_ptr + along, along < length, other=0.0)
    tl.store(to_ptr + y * width + x, total * ramp, inside)


def feather(masks, erode_px, taps, ramp_x, ramp_y):
    n, height, width = masks.shape
    eroded, blurred = torch.empty_like(masks), torch.empty_like(masks)
    grid, tile = _launch(n, height, width)
    # Distances between pixel centres are whole, and so are their squares.
    _erode_kernel[grid](
        masks, eroded, height, width, int(erode_px), int(erode_px * erode_px), **tile
    )
    radius = len(taps) - 1
    _blur_kernel[grid](eroded, blurred, taps, ramp_x, height, width, radius, DOWN=False, **tile)
    _blur_kernel[grid](blurred, eroded, taps, ramp_y, height, width, radius, DOWN=True, **tile)
    return eroded


@triton.jit
def _subtract_kernel(a_ptr, b_ptr, to_ptr, count, BLOCK: tl.constexpr):
    i = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    inside = i < count
    tl.store(to_ptr + i, tl.load(a_ptr + i, inside) - tl.load(b_ptr + i, inside), inside)


@triton.jit
def _reflect(i, n):
    i = tl.abs(i)
    return tl.maximum(tl.where(i < n, i, 2 * n - 2 - i), 0)


@triton.jit
def _across(row_ptr, x, fine_width, inside):
    """One row of the finer level, filtered along it, at every second sample."""
    a = tl.load(row_ptr + _reflect(2 * x - 2, fine_width), inside, other=0.0)
    b = tl.load(row_ptr + _reflect(2 * x - 1, fine_width), inside, other=0.0)
    c = tl.load(row_ptr + _reflect(2 * x, fine_width), inside, other=0.0)
    d = tl.load(row_ptr + _reflect(2 * x + 1, fine_width), inside, other=0.0)
    e = tl.load(row_ptr + _reflect(2 * x + 2, fine_width), inside, other=0.0)
    return ((a + e) + 4.0 * (b + d) + 6.0 * c) * 0.0625


@triton.jit
def _down_kernel(
    from_ptr, to_ptr, fine_height, fine_width, height, width,
    ROWS: tl.constexpr, COLUMNS: tl.constexpr,
):  # fmt: skip
    y, x, inside = _tile(height, width, ROWS, COLUMNS)
    from_ptr += tl.program_id(1).to(tl.int64) * fine_height * fine_width
    to_ptr += tl.program_id(1).to(tl.int64) * height * width
    a = _across(from_ptr + _reflect(2 * y - 2, fine_height) * fine_width, x, fine_width, inside)
    b = _across(from_ptr + _reflect(2 * y - 1, fine_height) * fine_width, x, fine_width, inside)
    c = _across(from_ptr + _reflect(2 * y, fine_height) * fine_width, x, fine_width, inside)
    d = _across(from_ptr + _reflect(2 * y + 1, fine_height) * fine_width, x, fine_width, inside)
    e = _across(from_ptr + _reflect(2 * y + 2, fine_height) * fine_width, x, fine_width, inside)
    value = ((a + e) + 4.0 * (b + d) + 6.0 * c) * 0.0625
    tl.store(to_ptr + y * width + x, value, inside)


@triton.jit
def _neighbours(i, coarse, fine):
    """Samples of the coarser line about fine sample i and their weights, ends reflected."""
    j, odd = i // 2, i % 2 == 1
    before = tl.where(j == 0, tl.minimum(1, coarse - 1), j - 1)
    past_end = _reflect(2 * coarse, fine) // 2
    after = tl.where(j + 1 == coarse, past_end, j + 1)
    return (
        before, j, after,
        tl.where(odd, 0.0, 0.125), tl.where(odd, 0.5, 0.75), tl.where(odd, 0.5, 0.125),
    )  # fmt: skip


@triton.jit
def _up_row(row_ptr, x0, x1, x2, wx0, wx1, wx2, inside):
    a = tl.load(row_ptr + x0, inside, other=0.0)
    b = tl.load(row_ptr + x1, inside, other=0.0)
    c = tl.load(row_ptr + x2, inside, other=0.0)
    return wx0 * a + wx1 * b + wx2 * c


@triton.jit
def _up(from_ptr, y, x, height, width, coarse_height, coarse_width, inside):
    y0, y1, y2, wy0, wy1, wy2 = _neighbours(y, coarse_height, height)
    x0, x1, x2, wx0, wx1, wx2 = _neighbours(x, coarse_width, width)
    a = _up_row(from_ptr + y0 * coarse_width, x0, x1, x2, wx0, wx1, wx2, inside)
    b = _up_row(from_ptr + y1 * coarse_width, x0, x1, x2, wx0, wx1, wx2, inside)
    c = _up_row(from_ptr + y2 * coarse_width, x0, x1, x2, wx0, wx1, wx2, inside)
    return wy0 * a + wy1 * b + wy2 * c


@triton.jit
def _join_kernel(
    mask_ptr, difference_ptr, coarse_ptr, blended_ptr, back_ptr, to_ptr,
    channels, height, width, coarse_height, coarse_width,
    COARSEST: tl.constexpr, FINEST: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr,
):  # fmt: skip
    y, x, inside = _tile(height, width, ROWS, COLUMNS)
    plane = tl.program_id(1).to(tl.int64)
    at = plane * height * width + y * width + x
    mask = tl.load(mask_ptr + (plane // channels) * height * width + y * width + x, inside)
    value = tl.load(difference_ptr + at, inside)
    if COARSEST:
        value = mask * value
    else:
        from_ = plane * coarse_height * coarse_width
        size = (height, width, coarse_height, coarse_width)
        value -= _up(coarse_ptr + from_, y, x, *size, inside)
        value = mask * value + _up(blended_ptr + from_, y, x, *size, inside)
    if FINEST:
        value += tl.load(back_ptr + at, inside)
    tl.store(to_ptr + at, value, inside)


def blend_pyramid(front, back, masks, levels):
    difference = torch.empty_like(front)
    _subtract_kernel[(triton.cdiv(front.numel(), 1024),)](
        front, back, difference, front.numel(), BLOCK=1024, num_warps=WARPS
    )
    bands, weights = [difference], [masks]
    while len(bands) <= levels and min(bands[-1].shape[2:]) > 1:
        bands.append(_down(bands[-1]))
        weights.append(_down(weights[-1]))
    n, channels = front.shape[:2]
    blended = bands[-1]  # not read where it is the coarsest
    for i in range(len(bands) - 1, -1, -1):
        finer, coarser = bands[i], bands[min(i + 1, len(bands) - 1)]
        grid, tile = _launch(n * channels, *finer.shape[2:])
        result = torch.empty_like(finer)
        _join_kernel[grid](
            weights[i], finer, coarser, blended, back, result,
            channels, *finer.shape[2:], *coarser.shape[2:],
            COARSEST=i == len(bands) - 1, FINEST=i == 0, **tile,
        )  # fmt: skip
        blended = result
    return blended


def _down(x):
    *planes, height, width = x.shape
    out = x.new_empty(*planes, (height + 1) // 2, (width + 1) // 2)
    grid, tile = _launch(out[..., 0, 0].numel(), *out.shape[-2:])
    _down_kernel[grid](x, out, height, width, *out.shape[-2:], **tile)
    return out


def _launch(planes, height, width):
    grid = (triton.cdiv(height, ROWS) * triton.cdiv(width, COLUMNS), planes)
    return grid, {"ROWS": ROWS, "COLUMNS": COLUMNS, "num_warps": WARPS}


def _ahead(name, kernel, pointers, integers, **constexprs):
    return {
        "name": name,
        "kernel": kernel,
        "signature": dict.fromkeys(pointers, "*fp32")
        | dict.fromkeys(integers, "i32")
        | dict.fromkeys(constexprs, "constexpr"),
        "constexprs": constexprs,
        "num_warps": WARPS,
    }


_TILE = {"ROWS": ROWS, "COLUMNS": COLUMNS}
_SIZE = ("height", "width")
AOT = [
    _ahead("erode", _erode_kernel, ("mask_ptr", "out_ptr"),
           (*_SIZE, "radius", "radius_squared"), **_TILE),
    *(
        _ahead(f"blur_{'y' if down else 'x'}", _blur_kernel,
               ("from_ptr", "to_ptr", "taps_ptr", "ramp_ptr"), (*_SIZE, "radius"),
               DOWN=down, **_TILE)
        for down in (False, True)
    ),
    _ahead("subtract", _subtract_kernel, ("a_ptr", "b_ptr", "to_ptr"), ("count",), BLOCK=1024),
    _ahead("pyramid_down", _down_kernel, ("from_ptr", "to_ptr"),
           ("fine_height", "fine_width", *_SIZE), **_TILE),
    *(
        _ahead(f"pyramid_join_{name}", _join_kernel,
               ("mask_ptr", "difference_ptr", "coarse_ptr", "blended_ptr", "back_ptr", "to_ptr"),
               ("channels", *_SIZE, "coarse_height", "coarse_width"),
               COARSEST=name == "coarsest", FINEST=name == "finest", **_TILE)
        for name in ("coarsest", "middle", "finest")
    ),
]  # fmt: skip
