"""Steady landmarks: every frame is smoothed with the frames before and after it, so nothing lags.

The motion of a face is split into a similarity (head) and what is left (expression, turning), the
latter into as many groups as move on their own. A group is fitted over the window by two parabolas,
one wide and one narrow. The wide one is steady but bends slowly; where both agree within the noise
it is taken, and the more they part the more the narrow one counts. A still face gets the whole
window, a blink or a jerk keeps its shape.

Sources: Savitzky and Golay 1964, doi:10.1021/ac60214a047 (local polynomials); Goldenshluger and
Nemirovski 1997 (the widest window that agrees with narrower ones).
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np
import numpy.typing as npt

from accel.faces import mesh
from accel.faces.align import Array, enclosing_region, invert, similarity, transform

WIDE, NARROW = 4.0, 1.1  # deviation of the weights over time, in frames
TOLERANCE = 0.0025  # of the face's side: what wide and narrow may differ by and still agree


def smooth(
    window: Array,  # [K, 468, D] landmarks of consecutive frames of one track, D 2 or 3
    at: int,  # which of them is wanted
    weights: Array | None = None,  # [K] how much each frame counts; all alike by default
) -> Array:  # [468, D]
    """Return the landmarks of frame `at`, made steady by its neighbours on both sides.

    A window of one or two frames is returned as it is. Raises ValueError if `at` is outside.
    """
    if not 0 <= at < len(window):
        raise ValueError(f"smooth: at must lie in 0..{len(window) - 1}, got {at}")
    if len(window) < 3:
        alone: Array = window[at]
        return alone
    counts = np.ones(len(window)) if weights is None else np.asarray(weights, np.float64)
    tolerance = TOLERANCE * float(enclosing_region(window[at], 0.0)[2])
    wide = _parabola(len(window), at, WIDE, tuple(counts))
    narrow = _parabola(len(window), at, NARROW, tuple(counts))

    # Head: the similarity that takes the wanted frame to each of the others.
    base = window[at]
    heads = similarity(np.broadcast_to(base[:, :2], (*window.shape[:2], 2)), window[..., :2])
    corners = enclosing_region(base, 0.0)
    frame = corners[:2] + corners[2] / 2 * np.array([[-1, -1], [1, -1], [0, 1]])
    moved = transform(heads, np.broadcast_to(frame, (len(window), 3, 2)))
    steady = _agree(moved, wide, narrow, tolerance, np.zeros((1, 3), np.int64))
    head = similarity(frame, steady)

    # Expression: what is left when the head is brought back to the wanted frame.
    rest = transform(invert(heads), window)
    return transform(head, _agree(rest, wide, narrow, tolerance, _groups()))


def _agree(
    series: Array,  # [K, P, D]
    wide: Array,  # [K] weights that give the fitted value
    narrow: Array,
    tolerance: float,
    groups: npt.NDArray[np.int64],  # [G, M] points that move together
) -> Array:  # [P, D]
    slow = np.tensordot(wide, series, 1)
    quick = np.tensordot(narrow, series, 1)
    apart = ((slow - quick)[:, :2] ** 2).sum(-1)
    mean_square = np.full(len(apart), apart.mean()) if len(groups) == 1 else apart[groups].mean(-1)
    trust = 1 / (1 + (mean_square / tolerance**2) ** 2)
    return quick + trust[:, None] * (slow - quick)


@lru_cache(maxsize=512)
def _parabola(count: int, at: int, deviation: float, counts: tuple[float, ...]) -> Array:  # [K]
    """Return the weights whose sum with a series is the value at `at` of a fitted parabola.

    At an end of the window a straight line is fitted: a parabola would run away there.
    """
    t = np.arange(count) - float(at)
    order = 2 if min(at, count - 1 - at) >= 2 else 1
    kernel = np.exp(-0.5 * (t / deviation) ** 2) * np.asarray(counts)
    basis = np.stack([t**power for power in range(order + 1)])
    normal = (basis * kernel) @ basis.T
    # Frames that count nothing can leave too few for the order; the pseudo-inverse takes what is.
    result: Array = (np.linalg.pinv(normal)[0] @ basis) * kernel
    return result


@lru_cache(maxsize=1)
def _groups() -> npt.NDArray[np.int64]:  # [468, 9] each point and its nearest ones
    points = mesh.CANONICAL.astype(np.float64)
    far = np.linalg.norm(points[:, None] - points[None], axis=-1)
    return np.argsort(far, axis=1, kind="stable")[:, :9].astype(np.int64)
