"""Plane geometry of faces: similarities between points, and square regions cut from a frame.

Coordinates are (x, y) in pixels with pixel centres at whole numbers: the centre of the first
sample is (0, 0), the picture reaches from -0.5 to width - 0.5. A matrix [2, 3] maps frame to crop
unless its name says otherwise. All of it is numpy in float64; batches are leading dimensions.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from accel.kernels import _native

native: Any = _native.module
Array = npt.NDArray[np.float64]
AnyArray = npt.ArrayLike


def similarity(
    points: AnyArray,  # [..., N, 2] points in the frame
    template: AnyArray,  # [..., N, 2] where they belong in the crop; N at least 2
) -> Array:  # [..., 2, 3] maps frame to crop
    """Find the rotation, scale and shift that bring `points` closest to `template`.

    Closest is least squares; mirror images are not allowed. In two dimensions the answer is one
    complex division, so a batch costs a few sums. Equal points have no similarity and give NaN.

    Source: Umeyama 1991, doi:10.1109/34.88573, for dimension 2.
    """
    source, target = np.asarray(points, np.float64), np.asarray(template, np.float64)
    if source.ndim < 2 or source.shape[-1] != 2 or source.shape[-2:] != target.shape[-2:]:
        raise ValueError(
            "similarity: points and template must be [..., N, 2] with one N, "
            f"got {source.shape} and {target.shape}"
        )
    p, t = _complex(source), _complex(target)
    p_mean, t_mean = (np.add.reduce(z, axis=-1) / z.shape[-1] for z in (p, t))
    p = p - p_mean[..., None]  # sums to 0, so the template's centre needs no taking off
    with np.errstate(divide="ignore", invalid="ignore"):
        turn = np.vecdot(p, t) / np.vecdot(p, p).real
    return _matrix(turn, t_mean - turn * p_mean)


def region_matrix(
    regions: AnyArray,  # [..., 4] centre x, centre y, side, angle in radians
    size: int,  # side of the crop
) -> Array:  # [..., 2, 3] maps frame to crop
    """Turn square regions of the frame into the matrices that fill a crop with them.

    The region's x axis points along (cos angle, sin angle) in the frame, so a face whose eyes lie
    on a line of that angle stands upright in the crop. The crop's edges are the region's edges.
    """
    r = np.asarray(regions, np.float64)
    turn = size / r[..., 2] * np.exp(-1j * r[..., 3])
    middle = (size - 1) / 2
    return _matrix(turn, middle * (1 + 1j) - turn * (r[..., 0] + 1j * r[..., 1]))


def invert(matrix: AnyArray) -> Array:  # [..., 2, 3] -> [..., 2, 3]
    """Return the affine maps that undo `matrix`."""
    m = np.asarray(matrix, np.float64)
    linear = np.linalg.inv(m[..., :2])
    return np.concatenate([linear, -linear @ m[..., 2:]], axis=-1)


def compose(second: AnyArray, first: AnyArray) -> Array:  # [..., 2, 3] each
    """Return the affine map that does `first`, then `second`."""
    a, b = np.asarray(second, np.float64), np.asarray(first, np.float64)
    shift = a[..., :2] @ b[..., 2:] + a[..., 2:]
    return np.concatenate([a[..., :2] @ b[..., :2], shift], axis=-1)


def transform(
    matrix: AnyArray,  # [..., 2, 3]
    points: AnyArray,  # [..., N, 2 or 3]
) -> Array:  # as points
    """Move points by a matrix; a third coordinate (depth) is scaled as lengths are."""
    m, p = np.asarray(matrix, np.float64), np.asarray(points, np.float64)
    x, y = p[..., 0], p[..., 1]
    a, b, c = (m[..., column, None] for column in range(3))  # [..., 2, 1] each
    parts = [a[..., row, :] * x + b[..., row, :] * y + c[..., row, :] for row in range(2)]
    if p.shape[-1] == 3:
        parts.append(p[..., 2] * scale_of(m)[..., None])
    return np.stack(parts, axis=-1)


def scale_of(matrix: AnyArray) -> Array:  # [..., 2, 3] -> [...]
    """Return by how much a matrix stretches lengths."""
    m = np.asarray(matrix, np.float64)
    result: Array = np.sqrt(np.abs(np.linalg.det(m[..., :2])))
    return result


def enclosing_region(
    points: AnyArray,  # [..., N, 2 or 3]
    angle: AnyArray,  # [...] radians, the direction of the region's x axis
    margin: float = 1.0,
) -> Array:  # [..., 4] centre x, centre y, side, angle
    """Return the smallest turned square, `margin` times enlarged, that holds the points' box."""
    sets, angle = np.asarray(points, np.float64), np.asarray(angle, np.float64)
    if native and sets.shape[:-2] == angle.shape:
        regions = np.empty((*angle.shape, 4))
        native.enclosing_regions(
            np.ascontiguousarray(sets).reshape(angle.size, *sets.shape[-2:]),
            np.ascontiguousarray(angle).reshape(-1),
            margin,
            regions.reshape(-1, 4),
        )
        return regions
    return _enclosing(sets, angle, margin)


def _enclosing(points: Array, angle: Array, margin: float) -> Array:
    back = np.exp(-1j * angle)[..., None]
    turned = _complex(points) * back
    low = turned.real.min(-1) + 1j * turned.imag.min(-1)
    high = turned.real.max(-1) + 1j * turned.imag.max(-1)
    centre = (low + high) / 2 * np.exp(1j * angle)
    span = high - low
    side = np.maximum(span.real, span.imag) * margin
    return np.stack([centre.real, centre.imag, side, angle], axis=-1)


def overlap(a: AnyArray, b: AnyArray) -> Array:  # [..., 4] boxes x0, y0, x1, y1 -> [...]
    """Return the area two boxes share as a part of the area they cover together."""
    shared, first, second = _areas(a, b)
    return _share(shared, first + second - shared)


def cover(a: AnyArray, b: AnyArray) -> Array:  # [..., 4] boxes x0, y0, x1, y1 -> [...]
    """Return the area two boxes share as a part of the smaller one: 1 if one lies in the other."""
    shared, first, second = _areas(a, b)
    return _share(shared, np.minimum(first, second))


def _areas(a: AnyArray, b: AnyArray) -> tuple[Array, Array, Array]:
    a, b = np.asarray(a, np.float64), np.asarray(b, np.float64)
    low, high = np.maximum(a[..., :2], b[..., :2]), np.minimum(a[..., 2:], b[..., 2:])
    first, second = (np.prod(box[..., 2:] - box[..., :2], axis=-1) for box in (a, b))
    return np.prod(np.clip(high - low, 0, None), axis=-1), first, second


def _share(part: Array, whole: Array) -> Array:
    result: Array = np.divide(part, whole, out=np.zeros(np.shape(part)), where=whole > 0)
    return result


def _complex(points: Array) -> npt.NDArray[np.complex128]:
    return points[..., 0] + 1j * points[..., 1]


def _matrix(turn: npt.NDArray[np.complex128], shift: npt.NDArray[np.complex128]) -> Array:
    rows = [turn.real, -turn.imag, shift.real, turn.imag, turn.real, shift.imag]
    return np.stack(rows, axis=-1).reshape(*np.shape(turn), 2, 3)
