"""The crops of crop.py as loops that numba compiles, for machines without a C++ compiler."""

from __future__ import annotations

from numba import njit


@njit(cache=True, nogil=True)
def read(c0, c1, c2, table, color, gain, bias, zero_border, out):
    count, _, height, width = out.shape
    for job in range(count * height):
        n, line = job // height, job % height
        luma, chroma = table[n, 0], table[n, 1]
        y = line - (height - 1) / 2
        for column in range(width):
            x = column - (width - 1) / 2
            a = _average(c0, luma, x, y)
            b, c = _average(c1, chroma, x, y), _average(c2, chroma, x, y)
            share = 1.0
            if zero_border:
                share = _coverage(c0.shape[0], c0.shape[1], luma, x, y)
            for k in range(3):
                value = color[k, 0] * a + color[k, 1] * b + color[k, 2] * c + color[k, 3]
                value = min(max(value, 0.0), 1.0) * share
                out[n, k, line, column] = value * gain[k] + bias[k]


@njit(cache=True, nogil=True)
def _average(plane, row, x, y):
    height, width = plane.shape
    kx, ky = int(row[8]), int(row[9])
    total = 0.0
    for j in range(ky):
        down = y + (j - (ky - 1) / 2) * row[11]
        for i in range(kx):
            right = x + (i - (kx - 1) / 2) * row[10]
            left, after, u = _between(row[0] * right + row[1] * down + (row[4] + row[6]), width)
            top, low, v = _between(row[2] * right + row[3] * down + (row[5] + row[7]), height)
            upper = plane[top, left] * (1.0 - u) + plane[top, after] * u
            lower = plane[low, left] * (1.0 - u) + plane[low, after] * u
            total += upper * (1.0 - v) + lower * v
    return total / (kx * ky)


@njit(cache=True, nogil=True)
def _coverage(height, width, row, x, y):
    kx, ky = int(row[8]), int(row[9])
    total = 0.0
    for j in range(ky):
        down = y + (j - (ky - 1) / 2) * row[11]
        for i in range(kx):
            right = x + (i - (kx - 1) / 2) * row[10]
            u = row[0] * right + row[1] * down + (row[4] + row[6])
            v = row[2] * right + row[3] * down + (row[5] + row[7])
            out_x = min(max(-u, u - (width - 1), 0.0), 1.0)
            out_y = min(max(-v, v - (height - 1), 0.0), 1.0)
            total += (1.0 - out_x) * (1.0 - out_y)
    return total / (kx * ky)


@njit(cache=True, nogil=True)
def _between(at, count):
    inside = min(max(at, 0.0), count - 1.0)
    index = min(int(inside), max(count - 2, 0))
    return index, min(index + 1, count - 1), inside - index
