"""One face through time: where it was seen, where it will be next, and who it is."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property
from itertools import pairwise

import numpy as np
import numpy.typing as npt

from accel.faces.align import Array
from accel.faces.face import frontalness
from accel.faces.landmark import face_region, wrap
from accel.faces.mesh import EYE_CORNERS, EYES
from accel.faces.smooth import smooth

MAX_STEP = 4  # frames ahead that a velocity is trusted for
EMBED_EVERY = 15  # frames between two looks at who it is
MAX_JUMP = 0.35  # of the face's square, between two frames; beyond it the film was cut
FILLED_WEIGHT = 0.3  # of a frame that was filled in, when its neighbours are smoothed


@dataclass
class Sight:
    """A face in one frame.

    iris: [2, 5] complex, along (1) and across (i) the line from each eye's outer to its inner
        corner; None where the iris network was not asked.
    filled: nothing was seen in this frame; the landmarks lie between those before and after.
    """

    landmarks: Array
    score: float
    iris: npt.NDArray[np.complex128] | None = None
    filled: bool = False

    @cached_property
    def region(self) -> Array:  # [4]
        return face_region(self.landmarks)


@dataclass(eq=False)
class Track:
    """A face that is followed. Frames are named by their index in the stream."""

    number: int
    scene: int
    first: int
    last: int  # where it was seen last, filled frames not counted
    sights: dict[int, Sight] = field(default_factory=dict)
    seen: int = 0  # frames it was really seen in
    embed_at: int = 0  # from this frame on, look again who it is
    _vector: npt.NDArray[np.float64] = field(default_factory=lambda: np.zeros(128))
    _weight: float = 0.0
    _looks: int = 0

    def add(self, index: int, sight: Sight) -> None:
        self.sights[index] = sight
        self.seen += 1
        self.first, self.last = min(self.first, index), max(self.last, index)

    def drop(self, index: int) -> None:
        """Forget a frame that turned out to show another face."""
        del self.sights[index]
        self.seen -= 1
        self.last = max((i for i, s in self.sights.items() if not s.filled), default=self.first)

    def fill(self, max_gap: int, may_hide: Callable[[int, int, int], bool] | None = None) -> int:
        """Put landmarks into gaps of at most `max_gap` frames; return how many those were.

        may_hide: says of the frames before, within and after a gap whether the one within can show
            the face at all.
        """
        filled = 0
        real = sorted(i for i, s in self.sights.items() if not s.filled)
        for before, after in pairwise(real):
            if not 1 < after - before <= max_gap + 1:
                continue
            a, b = self.sights[before], self.sights[after]
            if _jump(a.region, b.region) > (after - before) * MAX_JUMP:
                continue  # it is somewhere else: what was in between nobody knows
            for index in range(before + 1, after):
                share = (index - before) / (after - before)
                between = a.landmarks + share * (b.landmarks - a.landmarks)
                # Unsure, but never so unsure that a frame in the middle of a track is left out.
                score = max(0.5, min(a.score, b.score) * (1 - min(share, 1 - share)))
                is_hidden = may_hide is None or may_hide(before, index, after)
                if index not in self.sights and is_hidden:
                    self.sights[index] = Sight(between, score, filled=True)
                    filled += 1
        return filled

    def predict(self, index: int) -> Array:  # [4]
        """Return the region where the face should be in a later frame, at constant velocity."""
        real = [i for i in range(self.last, self.last - 4, -1) if self._real(i)]
        now = self.sights[real[0]].region
        if len(real) < 2:
            return now
        before = self.sights[real[-1]].region
        steps = min(index - real[0], MAX_STEP) / (real[0] - real[-1])
        region = now.copy()
        region[:2] += steps * (now[:2] - before[:2])
        region[2] *= float(np.clip(now[2] / before[2], 0.8, 1.25)) ** steps
        region[3] += steps * float(wrap(now[3] - before[3]))
        return region

    def forget(self, before: int) -> None:
        """Drop what lies before a frame; the last sights stay for `predict`."""
        for index in [i for i in self.sights if i < min(before, self.last - 4)]:
            del self.sights[index]

    # Who it is.

    def recognised(self, index: int, vector: npt.NDArray[np.float32]) -> None:
        """Take the identity vector of a frame into the mean; turned faces count less."""
        weight = 0.05 + frontalness(self.sights[index].landmarks) ** 2
        self._vector += weight * vector
        self._weight += weight
        self._looks += 1
        # The mean settles: look again soon at first, then seldom.
        wait = (
            EMBED_EVERY // 3 if self._looks == 1 else EMBED_EVERY * (1 if self._looks < 10 else 3)
        )
        self.embed_at = index + wait

    @property
    def identity(self) -> npt.NDArray[np.float32]:  # [128]
        return (self._vector / max(self._weight, 1e-9)).astype(np.float32)

    # What is given out.

    def smoothed(self, index: int, reach: int) -> Array:  # [468, 3]
        """Return the landmarks of a frame, smoothed over the frames next to it without a gap."""
        low, high = index, index
        while low > index - reach and self._joined(low - 1):
            low -= 1
        while high < index + reach and self._joined(high):
            high += 1
        sights = [self.sights[i] for i in range(low, high + 1)]
        weights = [FILLED_WEIGHT if s.filled else 1.0 for s in sights]
        return smooth([s.landmarks for s in sights], index - low, weights)

    def iris(self, index: int, landmarks: Array, reach: int) -> Array:  # [2, 5, 2]
        """Return the irises, interpolated in time, placed in the eyes of `landmarks`."""
        before = next((i for i in range(index, index - reach - 1, -1) if self._has_iris(i)), None)
        after = next((i for i in range(index, index + reach + 1) if self._has_iris(i)), None)
        if before is None and after is None:
            return _iris_of_mesh(landmarks)
        a = self.sights[before if before is not None else after].iris  # type: ignore[index]
        b = self.sights[after if after is not None else before].iris  # type: ignore[index]
        share = 0.0
        if before is not None and after is not None and after > before:
            share = (index - before) / (after - before)
        return from_eyes(a + share * (b - a), landmarks)  # type: ignore[operator]

    def _joined(self, index: int) -> bool:
        """Whether a frame and the next one show the face in one movement, not in a jump."""
        a, b = self.sights.get(index), self.sights.get(index + 1)
        return a is not None and b is not None and _jump(a.region, b.region) < MAX_JUMP

    def _real(self, index: int) -> bool:
        sight = self.sights.get(index)
        return sight is not None and not sight.filled

    def _has_iris(self, index: int) -> bool:
        sight = self.sights.get(index)
        return sight is not None and sight.iris is not None


def _jump(a: Array, b: Array) -> float:
    """How far apart two regions are, by their size; plain numbers, asked for often."""
    shift = math.hypot(a[0] - b[0], a[1] - b[1]) / max(a[2], b[2])
    return float(max(shift, abs(math.log(a[2] / b[2]))))


def in_eyes(iris: Array, landmarks: Array) -> npt.NDArray[np.complex128]:
    """Express irises [2, 5, 2] by the corners of the eyes they lie in: [2, 5], see `Sight`."""
    outer, across = _corners(landmarks)
    return (iris[..., 0] + 1j * iris[..., 1] - outer) / across


def from_eyes(iris: npt.NDArray[np.complex128], landmarks: Array) -> Array:
    """Undo `in_eyes`, perhaps with other landmarks."""
    outer, across = _corners(landmarks)
    at = outer + iris * across
    return np.stack([at.real, at.imag], axis=-1)


def _corners(landmarks: Array) -> tuple[npt.NDArray[np.complex128], npt.NDArray[np.complex128]]:
    points = (
        landmarks[list(sum(EYE_CORNERS, ())), 0] + 1j * landmarks[list(sum(EYE_CORNERS, ())), 1]
    )
    outer, inner = points[0::2, None], points[1::2, None]
    across = inner - outer
    return outer, np.where(np.abs(across) < 1e-6, 1e-6 + 0j, across)


def _iris_of_mesh(landmarks: Array) -> Array:
    """Irises that look straight ahead, where the network was never asked."""
    rings = [landmarks[list(ring), :2].mean(axis=0) for ring in EYES]
    rim = np.array([[0, 0], [1, 0], [0, -1], [-1, 0], [0, 1]])
    widths = [np.linalg.norm(landmarks[o, :2] - landmarks[i, :2]) for o, i in EYE_CORNERS]
    return np.stack([ring + rim * width * 0.2 for ring, width in zip(rings, widths)])
