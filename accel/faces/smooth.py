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

from collections.abc import Sequence
from functools import lru_cache
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt

from accel.faces import mesh
from accel.faces.align import AnyArray, Array
from accel.kernels import _native

native: Any = _native.module
Points = TypeVar("Points", npt.NDArray[np.float32], npt.NDArray[np.float64])
WIDE, NARROW = 4.0, 1.1  # deviation of the weights over time, in frames
TOLERANCE = 0.0025  # of the face's side: what wide and narrow may differ by and still agree


def smooth(
    window: Sequence[Points],  # K x [468, D] landmarks of consecutive frames of one track, D 2 or 3
    at: int,  # which of them is wanted
    weights: Sequence[float] = (),  # K: how much each frame counts; all alike by default
) -> Points:  # [468, D], of the type that the wanted ones have
    """Return the landmarks of frame `at`, made steady by its neighbours on both sides.

    A window of one or two frames is returned as it is. Raises ValueError if `at` is outside.
    """
    if not 0 <= at < len(window):
        raise ValueError(f"smooth: at must lie in 0..{len(window) - 1}, got {at}")
    if len(window) < 3:
        return window[at]
    fits = _fits(len(window), at, tuple(weights) or (1.0,) * len(window))
    steady = _native_smooth(window, at, fits) if native else _smooth(window, at, fits)
    if steady is None:
        raise ValueError("smooth: the points of a face must not lie on each other")
    return steady.astype(window[at].dtype, copy=False)


def _native_smooth(window: Sequence[Points], at: int, fits: Array) -> Points | None:
    kind = window[at].dtype
    # Array by array: numpy lets go of the interpreter's lock for every one that it joins.
    series = [np.ascontiguousarray(points, kind) for points in window]
    steady: Points = np.empty(window[at].shape, kind)
    moved = native.smooth_landmarks(series, at, fits, _groups(), TOLERANCE, steady)
    return steady if moved else None


def _smooth(frames: Sequence[Points], at: int, fits: Array) -> Array | None:
    window = np.array(frames, np.float64)
    points = window.shape[1]
    z = np.empty((len(window), points), np.complex128)
    z.real, z.imag = window[..., 0], window[..., 1]
    centre = np.add.reduce(z, axis=1) / points
    base = z[at] - centre[at]
    # Row by row (vecdot): for a product of this size a BLAS would wake threads in vain.
    spread = float(np.vecdot(base, base).real)
    if spread == 0:
        return None
    tolerance = TOLERANCE * float(np.ptp(window[at, :, :2], axis=0).max())

    # Head: the similarity that takes the wanted frame to each of the others.
    turn = np.vecdot(base, z) / spread  # base sums to 0: no centre needs taking off
    slow, quick = (fits @ np.stack([centre, turn], axis=-1)).tolist()
    apart = [abs(one - other) ** 2 for one, other in zip(slow, quick)]
    agreed = _trust(apart[0] + apart[1] * spread / points, tolerance)
    head_centre, head_turn = (q + agreed * (s - q) for s, q in zip(slow, quick))

    # Expression: what is left when the head is brought back to the wanted frame.
    bring = fits / turn
    slow, quick = bring @ z - (bring @ centre)[:, None]
    gap = slow - quick
    near = (gap.real**2 + gap.imag**2).take(_groups())
    trust = _trust(np.add.reduce(near, axis=0) / len(near), tolerance)
    flat = head_centre + head_turn * (quick + trust * gap)
    steady = np.empty(window.shape[1:])
    steady[:, 0], steady[:, 1] = flat.real, flat.imag
    if window.shape[-1] == 3:
        slow, quick = fits / np.abs(turn) @ window[..., 2]
        steady[:, 2] = abs(head_turn) * (quick + trust * (slow - quick))
    return steady


def _trust(apart: AnyArray, tolerance: float) -> Any:
    """1 where two fits agree, 0 where their squared distance is far above the tolerance's."""
    return 1 / (1 + (np.asarray(apart) / tolerance**2) ** 2)


@lru_cache(maxsize=512)
def _fits(count: int, at: int, counts: tuple[float, ...]) -> Array:  # [2, K]
    """Weights over the frames: the wide fit's value at the wanted one, then the narrow one's."""
    return np.stack([_parabola(count, at, width, counts) for width in (WIDE, NARROW)])


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
def _groups() -> npt.NDArray[np.int64]:  # [9, 468] each point and its nearest ones
    points = mesh.CANONICAL.astype(np.float64)
    far = np.linalg.norm(points[:, None] - points[None], axis=-1)
    return np.ascontiguousarray(np.argsort(far, axis=1, kind="stable")[:, :9].T, np.int64)
