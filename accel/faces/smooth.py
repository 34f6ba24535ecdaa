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
from typing import Any

import numpy as np
import numpy.typing as npt

from accel.faces import mesh
from accel.faces.align import AnyArray, Array, enclosing_region

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
    counts = (1.0,) * len(window) if weights is None else tuple(map(float, weights))
    # All sums are plain loops (einsum): for so few numbers a BLAS would wake threads in vain.
    # Two rows of weights over the frames: the wide fit's value at the wanted one, the narrow one's.
    fits = np.stack([_parabola(len(window), at, width, counts) for width in (WIDE, NARROW)])
    tolerance = TOLERANCE * float(enclosing_region(window[at], 0.0)[2])

    # Head: the similarity that takes the wanted frame to each of the others.
    z = window[..., 0] + 1j * window[..., 1]
    middle = z[at].mean()
    base = z[at] - middle
    spread = float((base.real**2 + base.imag**2).sum())
    if spread == 0:
        raise ValueError("smooth: the points of a face must not lie on each other")
    centre = z.mean(axis=1)
    turn = np.einsum("kp,p", z, base.conj()) / spread  # base sums to 0: no centre needs taking off
    slow, quick = np.einsum("fk,kp", fits, np.stack([centre, turn], axis=-1))
    apart = np.abs(slow - quick) ** 2
    trust = _trust(apart[0] + apart[1] * spread / len(base), tolerance)
    head_centre, head_turn = quick + trust * (slow - quick)

    # Expression: what is left when the head is brought back to the wanted frame.
    back = 1 / turn
    rest = z * back[:, None] - (centre * back)[:, None]
    slow, quick = np.einsum("fk,kp", fits, rest)
    gap = slow - quick
    apart = gap.real**2 + gap.imag**2
    trust = _trust(apart.take(_groups()).mean(axis=0), tolerance)
    flat = head_centre + head_turn * (quick + trust * (slow - quick))
    result = [flat.real, flat.imag]
    if window.shape[-1] == 3:
        size = np.abs(turn)
        slow, quick = np.einsum("fk,kp", fits, window[..., 2] / size[:, None])
        result.append(np.abs(head_turn) * (quick + trust * (slow - quick)))
    return np.stack(result, axis=-1)


def _trust(apart: AnyArray, tolerance: float) -> Any:
    """1 where two fits agree, 0 where their squared distance is far above the tolerance's."""
    return 1 / (1 + (np.asarray(apart) / tolerance**2) ** 2)


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
def _groups() -> npt.NDArray[np.int64]:  # [9, 468] each point and its nearest ones
    points = mesh.CANONICAL.astype(np.float64)
    far = np.linalg.norm(points[:, None] - points[None], axis=-1)
    return np.ascontiguousarray(np.argsort(far, axis=1, kind="stable")[:, :9].T, np.int64)
