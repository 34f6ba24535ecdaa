"""`paste` in Triton: one launch for a face and group of planes, inside the face's rectangle.

Nothing is staged: neighbouring samples share their taps in the cache. Faces go one launch after the
other, so that later ones lie over earlier ones.
"""

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit
def _clamp_color(x):
    # Written so that NaN stays NaN.
    return tl.where(x < 0.0, 0.0, tl.where(x > 1.0, 1.0, x))


@triton.jit
def _corner(crop_ptr, mask_ptr, x, y, side, light, weight, red, green, blue, alpha):
    """Add one of the four pixels around a tap. Beyond the crop: the nearest colour, mask 0."""
    inside = (x >= 0) & (x < side) & (y >= 0) & (y < side)
    at = tl.minimum(tl.maximum(y, 0), side - 1) * side + tl.minimum(tl.maximum(x, 0), side - 1)
    area = side * side
    r = tl.load(crop_ptr + at).to(tl.float32) * light[0] + light[3]
    g = tl.load(crop_ptr + area + at).to(tl.float32) * light[1] + light[4]
    b = tl.load(crop_ptr + 2 * area + at).to(tl.float32) * light[2] + light[5]
    m = tl.load(mask_ptr + at, inside, other=0.0)
    m = tl.where(m > 0.0, tl.minimum(m, 1.0), 0.0)
    red += weight * _clamp_color(r)
    green += weight * _clamp_color(g)
    blue += weight * _clamp_color(b)
    return red, green, blue, alpha + weight * m


@triton.jit
def _blend(plane_ptr, at, wanted, red, green, blue, alpha, w0, w1, w2, w3, max_code):
    color = w0 * red + w1 * green + w2 * blue + w3
    write = wanted & (alpha > 0.0) & (color == color)
    old = tl.load(plane_ptr + at, write, other=0).to(tl.float32)
    code = tl.floor(old + alpha * (color - old) + 0.5)
    code = tl.where(write, tl.minimum(tl.maximum(code, 0.0), max_code), 0.0).to(tl.int32)
    tl.store(plane_ptr + at, code.to(plane_ptr.dtype.element_ty), write)


# A 1 among these numbers would become a constant and cost a compilation of its own.
@triton.jit(do_not_specialize=["side", "rows", "columns", "kx", "ky"])
def paste_kernel(
    first_ptr, second_ptr, third_ptr,  # the group's planes at the rectangle's first sample
    row_first, column_first, row_second, column_second, row_third, column_third,  # strides
    crop_ptr,  # [3, S, S]
    mask_ptr,  # [S, S]
    gain_ptr, bias_ptr,  # [3]
    side, rows, columns,
    origin_u, origin_v, along_x_u, along_x_v, along_y_u, along_y_v,  # crop pixels
    kx, ky,
    f0, f1, f2, f3, s0, s1, s2, s3, t0, t1, t2, t3,  # RGB to the group's codes
    max_code,
    COUNT: tl.constexpr, BLOCK_X: tl.constexpr, BLOCK_Y: tl.constexpr,
):  # fmt: skip
    i = tl.program_id(0) * BLOCK_X + tl.arange(0, BLOCK_X)[None, :]
    j = tl.program_id(1) * BLOCK_Y + tl.arange(0, BLOCK_Y)[:, None]
    wanted = (i < columns) & (j < rows)
    light = (
        tl.load(gain_ptr), tl.load(gain_ptr + 1), tl.load(gain_ptr + 2),
        tl.load(bias_ptr), tl.load(bias_ptr + 1), tl.load(bias_ptr + 2),
    )  # fmt: skip
    red = tl.zeros((BLOCK_Y, BLOCK_X), tl.float32)
    green = tl.zeros((BLOCK_Y, BLOCK_X), tl.float32)
    blue = tl.zeros((BLOCK_Y, BLOCK_X), tl.float32)
    alpha = tl.zeros((BLOCK_Y, BLOCK_X), tl.float32)
    limit = side.to(tl.float32)
    for tap in range(kx * ky):
        x = i.to(tl.float32) + ((tap % kx).to(tl.float32) + 0.5) / kx - 0.5
        y = j.to(tl.float32) + ((tap // kx).to(tl.float32) + 0.5) / ky - 0.5
        u = origin_u + x * along_x_u + y * along_y_u
        v = origin_v + x * along_x_v + y * along_y_v
        # Clamped before the cast; written so that NaN becomes -1, where the mask is 0.
        u = tl.where(u > -1.0, tl.minimum(u, limit), -1.0)
        v = tl.where(v > -1.0, tl.minimum(v, limit), -1.0)
        u_floor = tl.minimum(tl.floor(u), limit - 1.0)
        v_floor = tl.minimum(tl.floor(v), limit - 1.0)
        fu = u - u_floor
        fv = v - v_floor
        iu = u_floor.to(tl.int32)
        iv = v_floor.to(tl.int32)
        red, green, blue, alpha = _corner(
            crop_ptr, mask_ptr, iu, iv, side, light, (1.0 - fu) * (1.0 - fv),
            red, green, blue, alpha,
        )  # fmt: skip
        red, green, blue, alpha = _corner(
            crop_ptr, mask_ptr, iu + 1, iv, side, light, fu * (1.0 - fv), red, green, blue, alpha
        )
        red, green, blue, alpha = _corner(
            crop_ptr, mask_ptr, iu, iv + 1, side, light, (1.0 - fu) * fv, red, green, blue, alpha
        )
        red, green, blue, alpha = _corner(
            crop_ptr, mask_ptr, iu + 1, iv + 1, side, light, fu * fv, red, green, blue, alpha
        )
    taps = (kx * ky).to(tl.float32)
    red, green, blue, alpha = red / taps, green / taps, blue / taps, alpha / taps
    at = j * row_first + i * column_first
    _blend(first_ptr, at, wanted, red, green, blue, alpha, f0, f1, f2, f3, max_code)
    if COUNT > 1:
        at = j * row_second + i * column_second
        _blend(second_ptr, at, wanted, red, green, blue, alpha, s0, s1, s2, s3, max_code)
    if COUNT > 2:
        at = j * row_third + i * column_third
        _blend(third_ptr, at, wanted, red, green, blue, alpha, t0, t1, t2, t3, max_code)


BLOCK = {"BLOCK_X": 32, "BLOCK_Y": 8}
WARPS = 4


def paste_group(planes, crop, mask, gain, bias, to_codes, group, max_code):
    """Launch one face on the planes of one group; to_codes: three rows of four numbers."""
    parts = [planes[c][group.y0 : group.y1, group.x0 : group.x1] for c in group.channels]
    colors = [to_codes[c] for c in group.channels]
    count = len(parts)
    parts += parts[:1] * (3 - count)
    colors += colors[:1] * (3 - count)
    rows, columns = parts[0].shape
    grid = (triton.cdiv(columns, BLOCK["BLOCK_X"]), triton.cdiv(rows, BLOCK["BLOCK_Y"]))
    paste_kernel[grid](
        *parts, *(stride for part in parts for stride in part.stride()), crop, mask, gain, bias,
        mask.shape[-1], rows, columns, *group.origin, *group.along_x, *group.along_y, group.kx,
        group.ky, *(number for row in colors for number in row), float(max_code),
        COUNT=count, **BLOCK, num_warps=WARPS,
    )  # fmt: skip


def _ahead(plane: str, crop: str, count: int) -> dict:
    strides = [
        f"{kind}_{which}" for which in ("first", "second", "third") for kind in ("row", "column")
    ]
    # As launched on planes whose samples lie together: a 1 becomes a constant.
    constants = {**dict.fromkeys(strides[1::2], 1), "COUNT": count, **BLOCK}
    signature = {
        **dict.fromkeys(("first_ptr", "second_ptr", "third_ptr"), f"*{plane}"),
        **dict.fromkeys(strides, "i32"),
        "crop_ptr": f"*{crop}",
        **dict.fromkeys(("mask_ptr", "gain_ptr", "bias_ptr"), "*fp32"),
        **dict.fromkeys(("side", "rows", "columns"), "i32"),
        **dict.fromkeys((f"origin_{axis}" for axis in "uv"), "fp32"),
        **dict.fromkeys((f"along_{along}_{axis}" for along in "xy" for axis in "uv"), "fp32"),
        **dict.fromkeys(("kx", "ky"), "i32"),
        **dict.fromkeys((f"{row}{k}" for row in "fst" for k in range(4)), "fp32"),
        "max_code": "fp32",
        **dict.fromkeys(constants, "constexpr"),
    }
    return {
        "name": f"paste_{plane}_{crop}_{count}",
        "kernel": paste_kernel,
        "signature": signature,
        "constexprs": constants,
        "num_warps": WARPS,
    }


# Each type of plane with each type of crop, and each number of planes, at least once.
AOT = [
    _ahead("u8", "fp32", 1),
    _ahead("u8", "fp16", 1),
    _ahead("u8", "fp32", 2),
    _ahead("u16", "fp16", 2),
    _ahead("u16", "fp32", 3),
]
