"""The raster of raster.py for GPUs: one kernel prepares triangles, one draws tiles of pixels."""

from __future__ import annotations

import torch
import triton
import triton.language as tl

# Numbers of a triangle between the two kernels:
EDGES = tl.constexpr(9)  # x and y of the top, middle and bottom corner, then three slopes dx/dy
PLANES = tl.constexpr(22)  # x0, y0, then origin, d/dx, d/dy, low, high of z, u, v and weight
BOX = tl.constexpr(4)  # first row, row past the last, first column, column past the last
TILE, CHUNK, SETUP_BLOCK = 16, 1024, 128


@triton.jit
def _store_plane(plane_ptr, k, count, f, inside, q0, q1, q2, x1, y1, x2, y2, inverse_area):
    a = q1.to(tl.float64) - q0.to(tl.float64)
    b = q2.to(tl.float64) - q0.to(tl.float64)
    at = plane_ptr + (2 + 5 * k) * count + f
    tl.store(at, q0, inside)
    tl.store(at + count, ((a * y2 - b * y1) * inverse_area).to(tl.float32), inside)
    tl.store(at + 2 * count, ((b * x1 - a * x2) * inverse_area).to(tl.float32), inside)
    tl.store(at + 3 * count, tl.minimum(tl.minimum(q0, q1), q2), inside)
    tl.store(at + 4 * count, tl.maximum(tl.maximum(q0, q1), q2), inside)


@triton.jit
def _slope(xa, ya, xb, yb):
    return tl.where(ya == yb, 0.0, (xb - xa) / tl.where(ya == yb, 1.0, yb - ya))


@triton.jit
def _first_at(place, limit):
    place = tl.minimum(tl.maximum(place, 0.0), limit.to(tl.float64))
    return tl.ceil(place).to(tl.int32)


@triton.jit
def _finite(value):
    return tl.abs(value) < float("inf")  # false for NaN, too


@triton.jit
def _corner(points_ptr, texture_points_ptr, weights_ptr, i, there):
    """Place, place in the texture and weight of vertices, and whether all of it is finite."""
    x, y = tl.load(points_ptr + 3 * i, there), tl.load(points_ptr + 3 * i + 1, there)
    z, weight = tl.load(points_ptr + 3 * i + 2, there), tl.load(weights_ptr + i, there)
    u = tl.load(texture_points_ptr + 2 * i, there)
    v = tl.load(texture_points_ptr + 2 * i + 1, there)
    good = _finite(x) & _finite(y) & _finite(z) & _finite(u) & _finite(v) & _finite(weight)
    return x, y, z, u, v, weight, good


@triton.jit
def _by_height(xa, ya, xb, yb):
    """The two corners, the upper one first."""
    swap = yb < ya
    upper_x, upper_y = tl.where(swap, xb, xa), tl.where(swap, yb, ya)
    return upper_x, upper_y, tl.where(swap, xa, xb), tl.where(swap, ya, yb)


@triton.jit
def _setup_kernel(
    texture_points_ptr, points_ptr, weights_ptr, triangles_ptr, edge_ptr, plane_ptr, box_ptr,
    vertices, count, height, width, BLOCK: tl.constexpr,
):  # fmt: skip
    n = tl.program_id(1).to(tl.int64)
    f = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    inside = f < count
    i0 = tl.load(triangles_ptr + 3 * f, inside, other=-1)
    i1 = tl.load(triangles_ptr + 3 * f + 1, inside, other=-1)
    i2 = tl.load(triangles_ptr + 3 * f + 2, inside, other=-1)
    good = (i0 >= 0) & (i1 >= 0) & (i2 >= 0) & (i0 < vertices) & (i1 < vertices) & (i2 < vertices)
    points_ptr += n * vertices * 3
    texture_points_ptr += n * vertices * 2
    weights_ptr += n * vertices
    x0, y0, z0, u0, v0, w0, good0 = _corner(points_ptr, texture_points_ptr, weights_ptr, i0, good)
    x1, y1, z1, u1, v1, w1, good1 = _corner(points_ptr, texture_points_ptr, weights_ptr, i1, good)
    x2, y2, z2, u2, v2, w2, good2 = _corner(points_ptr, texture_points_ptr, weights_ptr, i2, good)
    good &= good0 & good1 & good2
    xt, yt, xm, ym = x0.to(tl.float64), y0.to(tl.float64), x1.to(tl.float64), y1.to(tl.float64)
    xb, yb = x2.to(tl.float64), y2.to(tl.float64)
    dx1, dy1, dx2, dy2 = xm - xt, ym - yt, xb - xt, yb - yt
    area = dx1 * dy2 - dx2 * dy1
    good &= area != 0
    inverse_area = 1.0 / tl.where(good, area, 1.0)
    plane_ptr += n * PLANES * count
    tl.store(plane_ptr + f, x0, inside)
    tl.store(plane_ptr + count + f, y0, inside)
    _store_plane(plane_ptr, 0, count, f, inside, z0, z1, z2, dx1, dy1, dx2, dy2, inverse_area)
    _store_plane(plane_ptr, 1, count, f, inside, u0, u1, u2, dx1, dy1, dx2, dy2, inverse_area)
    _store_plane(plane_ptr, 2, count, f, inside, v0, v1, v2, dx1, dy1, dx2, dy2, inverse_area)
    _store_plane(plane_ptr, 3, count, f, inside, w0, w1, w2, dx1, dy1, dx2, dy2, inverse_area)
    box_ptr += n * BOX * count
    left, right = tl.minimum(tl.minimum(xt, xm), xb), tl.maximum(tl.maximum(xt, xm), xb)
    first, last = tl.minimum(tl.minimum(yt, ym), yb), tl.maximum(tl.maximum(yt, ym), yb)
    tl.store(box_ptr + f, tl.where(good, _first_at(first, height), 0), inside)
    tl.store(box_ptr + count + f, tl.where(good, _first_at(last, height), 0), inside)
    # A column more on each side: the crossings are rounded.
    tl.store(box_ptr + 2 * count + f, tl.where(good, _first_at(left - 1.0, width), 0), inside)
    tl.store(box_ptr + 3 * count + f, tl.where(good, _first_at(right + 1.0, width), 0), inside)
    xt, yt, xm, ym = _by_height(xt, yt, xm, ym)
    xm, ym, xb, yb = _by_height(xm, ym, xb, yb)
    xt, yt, xm, ym = _by_height(xt, yt, xm, ym)
    edge_ptr += n * EDGES * count
    tl.store(edge_ptr + f, xt, inside)
    tl.store(edge_ptr + count + f, yt, inside)
    tl.store(edge_ptr + 2 * count + f, xm, inside)
    tl.store(edge_ptr + 3 * count + f, ym, inside)
    tl.store(edge_ptr + 4 * count + f, xb, inside)
    tl.store(edge_ptr + 5 * count + f, yb, inside)
    tl.store(edge_ptr + 6 * count + f, _slope(xt, yt, xb, yb), inside)
    tl.store(edge_ptr + 7 * count + f, _slope(xt, yt, xm, ym), inside)
    tl.store(edge_ptr + 8 * count + f, _slope(xm, ym, xb, yb), inside)


@triton.jit
def _linear(plane_ptr, k, count, right, down):
    at = plane_ptr + (2 + 5 * k) * count
    low, high = tl.load(at + 3 * count), tl.load(at + 4 * count)
    value = (tl.load(at) + down * tl.load(at + 2 * count)) + right * tl.load(at + count)
    value = tl.where(value > low, value, low)
    return tl.where(value < high, value, high)


@triton.jit
def _draw_kernel(
    textures_ptr, which_ptr, edge_ptr, plane_ptr, box_ptr, out_ptr,
    pictures, texture_height, texture_width, count, height, width,
    TILE: tl.constexpr, CHUNK: tl.constexpr,
):  # fmt: skip
    n = tl.program_id(1).to(tl.int64)
    tiles = tl.cdiv(width, TILE)
    top, left = tl.program_id(0) // tiles * TILE, tl.program_id(0) % tiles * TILE
    row = top + tl.arange(0, TILE)[:, None]
    column = left + tl.arange(0, TILE)[None, :]
    depth = tl.full([TILE, TILE], float("inf"), tl.float32)
    u = tl.zeros([TILE, TILE], tl.float32)
    v, weight = u, u
    edge_ptr += n * EDGES * count
    plane_ptr += n * PLANES * count
    box_ptr += n * BOX * count
    for start in range(0, count, CHUNK):
        # Every thread tests some triangles against the tile; those that hit are drawn in order.
        i = start + tl.arange(0, CHUNK)
        known = i < count
        hit = tl.load(box_ptr + i, known, other=0) < top + TILE
        hit &= tl.load(box_ptr + count + i, known, other=0) > top
        hit &= tl.load(box_ptr + 2 * count + i, known, other=0) < left + TILE
        hit &= tl.load(box_ptr + 3 * count + i, known, other=0) > left
        waiting = tl.where(hit, i, count)
        f = tl.min(waiting, 0)
        while f < count:
            edge, plane = edge_ptr + f, plane_ptr + f
            xt, yt = tl.load(edge), tl.load(edge + count)
            xm, ym = tl.load(edge + 2 * count), tl.load(edge + 3 * count)
            yb, y = tl.load(edge + 5 * count), row.to(tl.float64)
            a = xt + (y - yt) * tl.load(edge + 6 * count)
            upper = xt + (y - yt) * tl.load(edge + 7 * count)
            b = tl.where(y < ym, upper, xm + (y - ym) * tl.load(edge + 8 * count))
            inside = (column >= _first_at(tl.minimum(a, b), width)) & (yt <= y)
            inside &= (column < _first_at(tl.maximum(a, b), width)) & (y < yb)
            right = column.to(tl.float32) - tl.load(plane)
            down = row.to(tl.float32) - tl.load(plane + count)
            z = _linear(plane, 0, count, right, down)
            nearer = inside & (z < depth)
            depth = tl.where(nearer, z, depth)
            u = tl.where(nearer, _linear(plane, 1, count, right, down), u)
            v = tl.where(nearer, _linear(plane, 2, count, right, down), v)
            weight = tl.where(nearer, _linear(plane, 3, count, right, down), weight)
            waiting = tl.where(waiting > f, waiting, count)
            f = tl.min(waiting, 0)
    texture = tl.load(which_ptr + n)
    covered = (depth < float("inf")) & (texture >= 0) & (texture < pictures)
    u = tl.minimum(tl.maximum(u, 0.0), (texture_width - 1).to(tl.float32))
    v = tl.minimum(tl.maximum(v, 0.0), (texture_height - 1).to(tl.float32))
    x0, y0 = u.to(tl.int32), v.to(tl.int32)
    fx, fy = u - x0.to(tl.float32), v - y0.to(tl.float32)
    right_one = tl.where(x0 + 1 < texture_width, 1, 0)
    down_one = tl.where(y0 + 1 < texture_height, texture_width, 0)
    texels = texture_height.to(tl.int64) * texture_width
    at = textures_ptr + texture.to(tl.int64) * 3 * texels + y0.to(tl.int64) * texture_width + x0
    to = out_ptr + (n * 4 * height + row) * width + column
    on_crop = (row < height) & (column < width)
    for _c in tl.static_range(3):
        a = tl.load(at, covered, other=0.0)
        b = tl.load(at + right_one, covered, other=0.0)
        d = tl.load(at + down_one, covered, other=0.0)
        e = tl.load(at + down_one + right_one, covered, other=0.0)
        upper = a + (b - a) * fx
        lower = d + (e - d) * fx
        tl.store(to, upper + (lower - upper) * fy, on_crop)
        at += texels
        to += height.to(tl.int64) * width
    tl.store(to, tl.where(covered, weight, 0.0), on_crop)


def draw(textures, texture_points, points, weights, triangles, which, height, width):
    n, vertices, count = len(points), points.shape[1], len(triangles)
    out = points.new_empty(n, 4, height, width)
    if not n:
        return out
    edges = points.new_empty(n, EDGES.value, count, dtype=torch.float64)
    planes = points.new_empty(n, PLANES.value, count)
    boxes = triangles.new_empty(n, BOX.value, count)
    # Without fused multiply-add, so that coverage and depth are those of the CPU to the last bit.
    exact = {"num_warps": 4, "enable_fp_fusion": False}
    if count:
        _setup_kernel[(triton.cdiv(count, SETUP_BLOCK), n)](
            texture_points, points, weights, triangles, edges, planes, boxes,
            vertices, count, height, width, BLOCK=SETUP_BLOCK, **exact,
        )  # fmt: skip
    _draw_kernel[(triton.cdiv(height, TILE) * triton.cdiv(width, TILE), n)](
        textures, which, edges, planes, boxes, out,
        len(textures), textures.shape[2], textures.shape[3], count, height, width,
        TILE=TILE, CHUNK=CHUNK, **exact,
    )  # fmt: skip
    return out


AOT = [
    {
        "name": "raster_setup",
        "kernel": _setup_kernel,
        "signature": {
            **{f"{p}_ptr": "*fp32" for p in ("texture_points", "points", "weights")},
            **{
                "triangles_ptr": "*i32",
                "edge_ptr": "*fp64",
                "plane_ptr": "*fp32",
                "box_ptr": "*i32",
            },
            **dict.fromkeys(("vertices", "count", "height", "width"), "i32"),
            "BLOCK": "constexpr",
        },
        "constexprs": {"BLOCK": SETUP_BLOCK},
        "num_warps": 4,
        "options": {"enable_fp_fusion": False},
    },
    {
        "name": "raster_draw",
        "kernel": _draw_kernel,
        "signature": {
            **{"textures_ptr": "*fp32", "which_ptr": "*i32", "edge_ptr": "*fp64"},
            **{"plane_ptr": "*fp32", "box_ptr": "*i32", "out_ptr": "*fp32"},
            **dict.fromkeys(("pictures", "texture_height", "texture_width"), "i32"),
            **dict.fromkeys(("count", "height", "width"), "i32"),
            **{"TILE": "constexpr", "CHUNK": "constexpr"},
        },
        "constexprs": {"TILE": TILE, "CHUNK": CHUNK},
        "num_warps": 4,
        "options": {"enable_fp_fusion": False},
    },
]
