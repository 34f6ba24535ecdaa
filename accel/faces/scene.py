"""Where a film cuts from one scene to the next, told from very small pictures of its luma.

A cut changes the picture at once, and for good. A pan or a fade changes it little by little, after
a flash the picture comes back, and a change of exposure keeps it but for gain and offset.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt
import torch

from accel.kernels import _native
from accel.kernels.planes import Planes

native: Any = _native.module
T = TypeVar("T")
Thumb = npt.NDArray[np.float32]  # [h, w] luma in 0..1

WIDTH, HEIGHT = 48, 27
ROW_STEP = 4  # every fourth row tells enough, and a quarter of the memory is read
MIN_CHANGE = 0.2  # of what two unrelated pictures differ by
MIN_JUMP = 1.5  # how much more than before or after it a cut changes, beyond MIN_CHANGE
BINS = 32


def mark_cuts(frames: Iterable[tuple[T, Planes]]) -> Iterator[tuple[T, Planes, bool, Thumb]]:
    """Say for each frame whether a new scene begins with it; the first one begins one.

    Gives frames in order with the small pictures they were judged by, two later than it takes
    them: what follows tells a cut from a flash.
    """
    waiting: deque[tuple[T, Planes, Thumb]] = deque()
    past: deque[Thumb] = deque(maxlen=3)

    def decide() -> tuple[T, Planes, bool, Thumb]:
        token, planes, now = waiting.popleft()
        cut = not past or is_cut(list(past), now, [row[2] for row in waiting])
        if cut:
            past.clear()
        past.append(now)
        return token, planes, cut, now

    for token, planes in frames:
        waiting.append((token, planes, thumbnail(planes)))
        if len(waiting) > 2:
            yield decide()
    while waiting:
        yield decide()


def is_cut(past: list[Thumb], now: Thumb, coming: list[Thumb]) -> bool:
    """Return whether a scene begins with `now`.

    past: the last one to three frames of the scene so far, in order.
    coming: up to two frames after it.
    """
    change = difference(past[-1], now)
    if change < MIN_CHANGE:
        return False
    around = [difference(past[-2], past[-1])] if len(past) > 1 else []
    around += [difference(now, coming[0])] if coming else []
    if around and change < MIN_CHANGE + MIN_JUMP * min(around):
        return False
    # A flash is over after two frames: what comes is what was.
    flash = [difference(past[-1], later) for later in coming]
    flash += [difference(earlier, now) for earlier in past[:-1]]
    return all(other > 0.5 * change for other in flash)


def is_strange(before: Thumb, now: Thumb, after: Thumb) -> bool:
    """Whether a frame within a scene shows something else for a moment: a flash, another shot."""
    return min(difference(before, now), difference(now, after)) >= MIN_CHANGE


def difference(a: Thumb, b: Thumb) -> float:
    """How unlike two small pictures are: 0 for equal ones, about 1 for unrelated ones.

    Half is where things are (correlation, which no gain or offset changes), half is how much of
    each brightness there is.
    """
    if a.shape != b.shape:
        return 1.0
    if native:
        return float(native.scene_difference(a, b, BINS))
    x, y = a - a.mean(), b - b.mean()
    # A floor on contrast: noise on a dark wall is no structure.
    spread = max(float(np.sqrt((x * x).mean() * (y * y).mean())), 1e-3)
    structure = 1.0 - max(float((x * y).mean()) / spread, 0.0)
    # With little contrast in both, correlation says nothing.
    structure *= min(1.0, spread / 0.02)
    contrast = max(float(y.std()), 1e-3) / max(float(x.std()), 1e-3)
    matched = np.clip(x * min(max(contrast, 0.5), 2.0), -0.5, 0.5)
    tones = np.abs(_tones(matched) - _tones(np.clip(y, -0.5, 0.5))).sum() / 2
    return float(structure + tones) / 2


def thumbnail(planes: Planes) -> Thumb:
    """Shrink the first plane to at most 48 x 27."""
    luma, top = planes.c0, planes.layout.max_code
    step = ROW_STEP if luma.shape[0] >= 4 * HEIGHT * ROW_STEP else 1
    rows = luma[::step]
    size = min(HEIGHT, rows.shape[0]), min(WIDTH, rows.shape[1])
    if native and luma.is_cpu and luma.stride(1) == 1:
        thumb: Thumb = np.empty(size, np.float32)
        native.thumbnail(luma, step, 1 / top, thumb)
        return thumb
    small = torch.nn.functional.adaptive_avg_pool2d(rows[None, None].float(), size)
    result: Thumb = (small[0, 0] / top).cpu().numpy()  # waits: a cut decides what runs next
    return result


def _tones(values: Thumb) -> npt.NDArray[np.float64]:
    # Widely overlapping bins, so that a small shift of brightness is a small change.
    bins = ((values.ravel() + 0.5) * (BINS - 1e-3)).astype(np.intp)
    counts = np.bincount(bins, minlength=BINS)
    wide = np.convolve(counts, [0.2] * 5, mode="same")
    result: npt.NDArray[np.float64] = wide / max(values.size, 1)
    return result
