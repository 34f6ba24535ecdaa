"""The raster of raster.py as loops that numba compiles, for machines without a C++ compiler.

Float32 values meet only float32 values here: numba would otherwise widen, and depth would differ
from the other implementations in its last bit.
"""

from __future__ import annotations

import math

import numpy as np
from numba import njit

EDGES = 9  # x and y of the top, middle and bottom corner, then three slopes dx/dy, float64
PLANES = 22  # x0, y0, then origin, d/dx, d/dy, low, high of z, u, v and weight, float32


@njit(cache=True, nogil=True)
def draw(textures, texture_points, points, weights, triangles, which, out):
    height, width = out.shape[2:]
    edges = np.empty((len(triangles), EDGES))
    planes = np.empty((len(triangles), PLANES), np.float32)
    depth = np.empty((height, width), np.float32)
    place = np.empty((3, height, width), np.float32)
    for n in range(len(points)):
        if not 0 <= which[n] < len(textures):
            continue
        depth[:] = np.inf
        for f in range(len(triangles)):
            corner = triangles[f]
            if corner.min() < 0 or corner.max() >= points.shape[1]:
                continue
            if _prepare(points[n], texture_points[n], weights[n], corner, edges[f], planes[f]):
                _fill(edges[f], planes[f], depth, place)
        _shade(textures[which[n]], depth, place, out[n])


@njit(cache=True, nogil=True)
def _prepare(points, texture_points, weights, corner, edge, plane):
    """Return False when the triangle has no area or a corner that is not finite."""
    values = np.empty((3, 6), np.float32)
    for i in range(3):
        values[i, :3] = points[corner[i]]
        values[i, 3:5] = texture_points[corner[i]]
        values[i, 5] = weights[corner[i]]
    if not np.isfinite(values).all():
        return False
    wide = values.astype(np.float64)
    x1, y1 = wide[1, 0] - wide[0, 0], wide[1, 1] - wide[0, 1]
    x2, y2 = wide[2, 0] - wide[0, 0], wide[2, 1] - wide[0, 1]
    area = x1 * y2 - x2 * y1
    if area == 0:
        return False
    inverse_area = 1.0 / area
    plane[0], plane[1] = values[0, 0], values[0, 1]
    for k in range(4):
        a, b = wide[1, 2 + k] - wide[0, 2 + k], wide[2, 2 + k] - wide[0, 2 + k]
        plane[2 + 5 * k] = values[0, 2 + k]
        plane[3 + 5 * k] = (a * y2 - b * y1) * inverse_area
        plane[4 + 5 * k] = (b * x1 - a * x2) * inverse_area
        plane[5 + 5 * k] = values[:, 2 + k].min()
        plane[6 + 5 * k] = values[:, 2 + k].max()
    order = np.argsort(wide[:, 1])
    for i in range(3):
        edge[2 * i], edge[2 * i + 1] = wide[order[i], 0], wide[order[i], 1]
    edge[6] = _slope(edge[0], edge[1], edge[4], edge[5])
    edge[7] = _slope(edge[0], edge[1], edge[2], edge[3])
    edge[8] = _slope(edge[2], edge[3], edge[4], edge[5])
    return True


@njit(cache=True, nogil=True)
def _slope(xa, ya, xb, yb):
    return 0.0 if ya == yb else (xb - xa) / (yb - ya)


@njit(cache=True, nogil=True)
def _first_at(place, limit):
    """First integer at or above `place`, held in 0..limit."""
    return math.ceil(min(max(place, 0.0), float(limit)))


@njit(cache=True, nogil=True)
def _linear(plane, k, right, down):
    """Value k of 0..3, kept between its corners; NaN becomes the low one."""
    value = (plane[2 + 5 * k] + down * plane[4 + 5 * k]) + right * plane[3 + 5 * k]
    value = value if value > plane[5 + 5 * k] else plane[5 + 5 * k]
    return value if value < plane[6 + 5 * k] else plane[6 + 5 * k]


@njit(cache=True, nogil=True)
def _fill(edge, plane, depth, place):
    height, width = depth.shape
    for y in range(_first_at(edge[1], height), _first_at(edge[5], height)):
        a = edge[0] + (y - edge[1]) * edge[6]
        if y < edge[3]:
            b = edge[0] + (y - edge[1]) * edge[7]
        else:
            b = edge[2] + (y - edge[3]) * edge[8]
        down = np.float32(y) - plane[1]
        for x in range(_first_at(min(a, b), width), _first_at(max(a, b), width)):
            right = np.float32(x) - plane[0]
            z = _linear(plane, 0, right, down)
            if z < depth[y, x]:
                depth[y, x] = z
                for k in range(3):
                    place[k, y, x] = _linear(plane, k + 1, right, down)


@njit(cache=True, nogil=True)
def _shade(texture, depth, place, out):
    rows, columns = texture.shape[1:]
    zero = np.float32(0)
    last_u, last_v = np.float32(columns - 1), np.float32(rows - 1)
    for y in range(depth.shape[0]):
        for x in range(depth.shape[1]):
            if not depth[y, x] < np.inf:
                for c in range(4):
                    out[c, y, x] = 0
                continue
            u = min(max(place[0, y, x], zero), last_u)
            v = min(max(place[1, y, x], zero), last_v)
            x0, y0 = int(u), int(v)
            x1, y1 = min(x0 + 1, columns - 1), min(y0 + 1, rows - 1)
            fx, fy = u - np.float32(x0), v - np.float32(y0)
            for c in range(3):
                a, b = texture[c, y0, x0], texture[c, y1, x0]
                top = a + (texture[c, y0, x1] - a) * fx
                bottom = b + (texture[c, y1, x1] - b) * fx
                out[c, y, x] = top + (bottom - top) * fy
            out[3, y, x] = place[2, y, x]
