"""The numba implementation of `paste`: serves where no compiler built the native module."""

from __future__ import annotations

import math

import numpy as np
from numba import njit

# NaN must stay NaN, so of fast maths only what keeps it.
FAST = {"contract", "reassoc", "nsz", "arcp"}


@njit(cache=True, nogil=True)
def bounds(mask):
    """Return x0, y0, x1, y1 (inclusive) of what lies above 0; x1 < x0 when nothing does."""
    side = mask.shape[0]
    x0, y0, x1, y1 = side, side, -1, -1
    for y in range(side):
        first = 0
        while first < side and not mask[y, first] > 0:
            first += 1
        if first == side:
            continue
        last = side - 1
        while not mask[y, last] > 0:
            last -= 1
        x0, x1 = min(x0, first), max(x1, last)
        y0, y1 = min(y0, y), y
    return x0, y0, x1, y1


@njit(cache=True, nogil=True, fastmath=FAST)
def stage(crop, mask, gain, bias, to_codes, left, top, width, height):
    """Return code values and mask side by side, [height, width, 4], from crop pixel (left, top).

    Beyond the crop the colour is that of the nearest pixel and the mask is 0.
    """
    side = mask.shape[0]
    zero, one = np.float32(0), np.float32(1)
    staged = np.empty((height, width, 4), np.float32)
    for j in range(height):
        y = min(max(top + j, 0), side - 1)
        for i in range(width):
            x = min(max(left + i, 0), side - 1)
            red = crop[0, y, x] * gain[0] + bias[0]
            green = crop[1, y, x] * gain[1] + bias[1]
            blue = crop[2, y, x] * gain[2] + bias[2]
            red = zero if red < zero else (one if red > one else red)
            green = zero if green < zero else (one if green > one else green)
            blue = zero if blue < zero else (one if blue > one else blue)
            for k in range(3):
                staged[j, i, k] = (
                    to_codes[k, 0] * red
                    + to_codes[k, 1] * green
                    + to_codes[k, 2] * blue
                    + to_codes[k, 3]
                )
            alpha = mask[y, x]
            if top + j != y or left + i != x or not alpha > zero:
                alpha = zero
            staged[j, i, 3] = min(alpha, one)
    return staged


@njit(cache=True, nogil=True)
def _narrow(slope, base, low, high, span_low, span_high):
    """Narrow span_low..span_high to the i for which low < slope · i + base < high."""
    if slope == 0.0:
        if not (low < base < high):
            return 0.0, -1.0
        return span_low, span_high
    a, b = (low - base) / slope, (high - base) / slope
    return max(span_low, min(a, b)), min(span_high, max(a, b))


@njit(cache=True, nogil=True, fastmath=FAST)
def blend(first, second, third, channel, count, staged, box, group, taps_u, taps_v, max_code):
    """Blend `staged` into `count` planes that share their sample positions, from `channel` on.

    box: where the mask is above 0, x0, y0, x1, y1 in staged pixels.
    group: x0, y0, x1, y1 of the samples, then origin, along_x and along_y in staged pixels.
    """
    height, width = staged.shape[0], staged.shape[1]
    x0, y0, x1, y1 = int(group[0]), int(group[1]), int(group[2]), int(group[3])
    reach_u = 0.5 * (abs(group[6]) + abs(group[8]))
    reach_v = 0.5 * (abs(group[7]) + abs(group[9]))
    right, bottom = np.float32(width - 1), np.float32(height - 1)
    zero = np.float32(0)
    taps = len(taps_u)
    share = np.float32(1.0 / taps)
    for j in range(y1 - y0):
        row_u, row_v = group[4] + j * group[8], group[5] + j * group[9]
        low, high = _narrow(
            group[6], row_u, box[0] - 1 - reach_u, box[2] + 1 + reach_u, -1.0, x1 - x0 + 1.0
        )
        low, high = _narrow(group[7], row_v, box[1] - 1 - reach_v, box[3] + 1 + reach_v, low, high)
        if low > high:
            continue
        for i in range(max(0, math.floor(low)), min(x1 - x0, math.ceil(high) + 1)):
            u0, v0 = np.float32(row_u + i * group[6]), np.float32(row_v + i * group[7])
            a, b, c, alpha = zero, zero, zero, zero
            for t in range(taps):
                u, v = u0 + taps_u[t], v0 + taps_v[t]
                # NaN, the difference of two infinities, becomes 0: it must not reach the cast.
                u = min(u, right) if u > zero else zero
                v = min(v, bottom) if v > zero else zero
                iu, iv = min(int(u), width - 2), min(int(v), height - 2)
                fu, fv = u - np.float32(iu), v - np.float32(iv)
                w11 = fu * fv
                w01, w10 = fu - w11, fv - w11
                w00 = np.float32(1) - fu - w10
                p, q = staged[iv, iu], staged[iv, iu + 1]
                r, s = staged[iv + 1, iu], staged[iv + 1, iu + 1]
                a += w00 * p[0] + w01 * q[0] + w10 * r[0] + w11 * s[0]
                b += w00 * p[1] + w01 * q[1] + w10 * r[1] + w11 * s[1]
                c += w00 * p[2] + w01 * q[2] + w10 * r[2] + w11 * s[2]
                alpha += w00 * p[3] + w01 * q[3] + w10 * r[3] + w11 * s[3]
            alpha *= share
            if not alpha > zero:
                continue
            for k in range(count):
                plane = first if k == 0 else (second if k == 1 else third)
                new = (a if channel + k == 0 else (b if channel + k == 1 else c)) * share
                if new != new:
                    continue
                old = np.float32(plane[y0 + j, x0 + i])
                code = min(max(np.rint(old + alpha * (new - old)), zero), max_code)
                plane[y0 + j, x0 + i] = np.int64(code)


def paste_face(planes, crop, mask, gain, bias, to_codes, groups, margins, taps, max_code):
    """Paste one face; every array is numpy. groups: see `paste.Group`; margins: one footprint."""
    x0, y0, x1, y1 = bounds(mask)
    if x1 < x0:
        return
    side = mask.shape[0]
    left = max(-1, math.floor(x0 - 2 - margins[0]))
    top = max(-1, math.floor(y0 - 2 - margins[1]))
    width = min(side, math.ceil(x1 + 2 + margins[0])) - left + 1
    height = min(side, math.ceil(y1 + 2 + margins[1])) - top + 1
    staged = stage(crop, mask, gain, bias, to_codes, left, top, width, height)
    box = np.array([x0 - left, y0 - top, x1 - left, y1 - top], np.float64)
    for group, (taps_u, taps_v) in zip(groups, taps):
        numbers = np.array(
            [
                *(group.x0, group.y0, group.x1, group.y1),
                *(group.origin[0] - left, group.origin[1] - top),
                *group.along_x,
                *group.along_y,
            ],
            np.float64,
        )
        chosen = [planes[c] for c in group.channels]
        chosen += chosen[:1] * (3 - len(chosen))
        blend(
            *chosen, group.channels[0], len(group.channels), staged, box, numbers, taps_u, taps_v,
            np.float32(max_code),
        )  # fmt: skip
