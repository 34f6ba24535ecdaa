"""Faces in frames that the mesh network need not look at: placed between those it looked at.

Every `stride`-th frame goes through the Analyser. In between, landmarks are interpolated by a cubic
through the four nearest of those frames (at either end of a track by a parabola through three), and
two tests say whether that can be trusted: the motion must be even (the curve and a straight line
agree), and the face under the interpolated landmarks must look like a mix of its neighbours (a
blink or a hand in front does not). Where a test fails the network looks after all, in the place
that was foretold. All are smoothed at last, frame by frame.

Landmarks, box and score are of each frame; pose, lids, irises and mouth are those measured last.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator
from contextlib import closing
from dataclasses import dataclass, field, replace
from typing import Any, Generic, TypeVar

import cv2
import numpy as np

from accel.core import ConfigError
from accel.faces.align import AnyArray, Array, cover, region_matrix
from accel.faces.cut import cut_floats, warp_plane
from accel.faces.face import Face, Floats
from accel.faces.find import SAME_FACE, FaceModels
from accel.faces.follow import MAX_JUMP
from accel.faces.landmark import MESH_PX, MeshNet, face_region
from accel.faces.smooth import smooth
from accel.faces.track import Analyser
from accel.kernels import _native
from accel.kernels.planes import Planes

native: Any = _native.module
T = TypeVar("T")
Beside = Callable[[Iterator[Any]], Any]

UNEVEN = 0.005  # of the face's side: how far the cubic may leave the straight line
UNLIKE = 0.055  # of the luma's range: mean difference in any cell of the patch
SAME_END = 0.25  # as SAME_FACE, where a track begins or ends: another took the face over
PATCH_PX, CELLS = 48, 6
REACH = 8  # frames to each side that landmarks are smoothed over
PLACED_WEIGHT = 0.5  # of an interpolated face, when its neighbours are smoothed


@dataclass
class _Key(Generic[T]):
    """A frame that was looked at, and those before it that were not."""

    token: T
    planes: Planes
    faces: dict[int, Face]
    order: list[int]  # tracks, the largest face first
    before: list[tuple[T, Planes]]
    patches: dict[int, Floats] = field(default_factory=dict)


class Placed(Face):
    """A face that was interpolated."""


class Sparse:
    """An Analyser that looks at every `stride`-th frame, and at others where it has to.

    analyser: one that does not smooth; its `lookahead` and `redetect_every` count the frames that
        it is shown.
    beside: runs the analyser's iterator in another thread, where there is one; it must close what
        it is given. The networks are then called from both threads.
    placed, measured: faces that were interpolated, and those that were looked at after all.
    """

    def __init__(
        self, analyser: Analyser, stride: int = 2, *, beside: Beside | None = None
    ) -> None:
        if stride < 1:
            raise ConfigError(f"stride must be at least 1, got {stride}")
        if analyser.smoothing:
            raise ConfigError("the analyser must not smooth what is interpolated: smoothing=False")
        self.analyser, self.stride = analyser, stride
        self.models = analyser.models.apart()
        self._beside: Beside = beside or (lambda frames: frames)
        self.placed = self.measured = 0

    def analyse(
        self, frames: Iterable[tuple[T, Planes]]
    ) -> Generator[tuple[T, Planes, list[Face]]]:
        """Give each frame back with its faces, the largest first; in order, nothing left out."""
        with closing(self._all(frames)) as found:
            yield from smoothed(found)

    def _all(self, frames: Iterable[tuple[T, Planes]]) -> Generator[tuple[T, Planes, list[Face]]]:
        keys: list[_Key[T]] = []  # up to two that were given out, one that waits for the next
        with closing(self._beside(self.analyser.analyse(self._keys(frames)))) as followed:
            for (token, before), planes, faces in followed:
                by_track = {face.track: face for face in faces}
                keys.append(_Key(token, planes, by_track, list(by_track), before))
                if len(keys) >= 2:
                    yield from self._give(keys, len(keys) - 2)
                del keys[:-3]
        if keys:
            yield from self._give(keys, len(keys) - 1)

    def _keys(
        self, frames: Iterable[tuple[T, Planes]]
    ) -> Iterator[tuple[tuple[T, list[tuple[T, Planes]]], Planes]]:
        waiting: list[tuple[T, Planes]] = []
        is_first = True
        for item in frames:
            waiting.append(item)
            if is_first or len(waiting) == self.stride:
                token, planes = waiting.pop()
                yield (token, waiting), planes
                waiting, is_first = [], False
        if waiting:  # the last frame is always looked at
            token, planes = waiting.pop()
            yield (token, waiting), planes

    def _give(self, keys: list[_Key[T]], at: int) -> Iterator[tuple[T, Planes, list[Face]]]:
        """The frames before a key, then the key."""
        key = keys[at]
        count = len(key.before) + 1
        for i, (token, planes) in enumerate(key.before, 1):
            yield token, planes, self._between(keys, at, i / count, planes)
        key.before = []
        yield key.token, key.planes, [key.faces[track] for track in key.order]

    def _between(self, keys: list[_Key[T]], at: int, share: float, planes: Planes) -> list[Face]:
        a, b = keys[at - 1], keys[at]
        found: list[Face] = []
        for track in dict.fromkeys([*a.order, *b.order]):
            if track in a.faces and track in b.faces:
                face, most = self._placed(keys, at, track, share, planes), SAME_FACE
            else:
                face, most = self._at_end(keys, at, track, share, planes), SAME_END
            if face is not None and all(cover(face.box, seen.box) <= most for seen in found):
                found.append(face)
        found.sort(key=lambda face: -face.size)
        return found

    def _at_end(
        self, keys: list[_Key[T]], at: int, track: int, share: float, planes: Planes
    ) -> Face | None:
        """Look for a face that is known before a frame or after it, but not on both sides."""
        beside, beyond = (at - 1, at - 2) if track in keys[at - 1].faces else (at, at + 1)
        face, further = keys[beside].faces[track], None
        if 0 <= beyond < len(keys):
            further = keys[beyond].faces.get(track)
        if further is not None:  # as fast as it was, or will be
            moved = share if beside < at else 1 - share
            points = face.landmarks + moved * (face.landmarks - further.landmarks)
            found = self._look(planes, face, points)
            if found is not None:
                return found
        return self._look(planes, face, face.landmarks)

    def _placed(
        self, keys: list[_Key[T]], at: int, track: int, share: float, planes: Planes
    ) -> Face | None:
        a, b = keys[at - 1], keys[at]
        one, other = a.faces[track], b.faces[track]
        line = one.landmarks + share * (other.landmarks - one.landmarks)
        points, is_even = line, True
        first, last = (
            keys[i].faces[track].landmarks
            if 0 <= i < len(keys) and track in keys[i].faces
            else None
            for i in (at - 2, at + 1)
        )
        if first is not None or last is not None:
            points = _cubic(first, one.landmarks, other.landmarks, last, share)
            apart = np.abs(points - line)[:, :2].max()
            is_even = apart <= UNEVEN * one.size
        if is_even and self._alike(a, b, track, share, planes, points) <= UNLIKE:
            self.placed += 1
            return Placed(**vars(_moved(one, points, min(one.score, other.score))))
        return self._look(planes, one, points)

    def _alike(
        self, a: _Key[T], b: _Key[T], track: int, share: float, planes: Planes, points: Floats
    ) -> float:
        """How little the face under `points` looks like a mix of its neighbours; 0 if it does."""
        for key in (a, b):
            if track not in key.patches:
                key.patches[track] = patch(key.planes, key.faces[track].landmarks)
        return unlike(patch(planes, points), a.patches[track], b.patches[track], share)

    def _look(self, planes: Planes, face: Face, points: Floats) -> Face | None:
        """Let the mesh network look where a face should be."""
        self.measured += 1
        found = self.models.measure([planes], [face_region(points)])[0]
        if found is None:
            return None
        landmarks, score = found
        return _moved(face, landmarks, score)


@dataclass
class _Seen:
    """A face that waits to be smoothed."""

    face: Face
    box: list[float]
    before: _Seen | None = None  # the same face in the frame before, unless it jumped
    after: _Seen | None = None


def smoothed(
    frames: Iterable[tuple[T, Planes, list[Face]]],
) -> Iterator[tuple[T, Planes, list[Face]]]:
    """Smooth landmarks over the frames to both sides; frames come `REACH` later than taken."""
    waiting: deque[tuple[T, Planes, list[_Seen]]] = deque()
    last: dict[int, _Seen] = {}
    for token, planes, faces in frames:
        seen = [_Seen(face, face.box.tolist()) for face in faces]
        for one in seen:
            _join(last.get(one.face.track), one)
        last = {one.face.track: one for one in seen}
        waiting.append((token, planes, seen))
        if len(waiting) > REACH:
            yield _steady(*waiting.popleft())
    while waiting:
        yield _steady(*waiting.popleft())


def _join(one: _Seen | None, other: _Seen) -> None:
    """Link a face to itself in the frame before, if it moved on from there."""
    if one is None or one.face.scene != other.face.scene:
        return
    (left, top, right, bottom), (x0, y0, x1, y1) = one.box, other.box
    sizes = max(right - left, bottom - top), max(x1 - x0, y1 - y0)
    shift = max(abs(left + right - x0 - x1), abs(top + bottom - y0 - y1)) / 2
    if shift <= MAX_JUMP * max(sizes) and max(sizes) <= (1 + MAX_JUMP) * min(sizes):
        one.after, other.before = other, one


def _steady(token: T, planes: Planes, seen: list[_Seen]) -> tuple[T, Planes, list[Face]]:
    return token, planes, [_smooth(one) for one in seen]


def _smooth(seen: _Seen) -> Face:
    run = [seen]
    while len(run) <= REACH and run[-1].before is not None:
        run.append(run[-1].before)
    at = len(run) - 1
    run[-1].before = None  # what lies further back is not needed again
    run.reverse()
    while len(run) <= at + REACH and run[-1].after is not None:
        run.append(run[-1].after)
    weights = [PLACED_WEIGHT if isinstance(one.face, Placed) else 1.0 for one in run]
    return replace(seen.face, landmarks=smooth([one.face.raw for one in run], at, weights))


def _moved(one: Face, landmarks: AnyArray, score: float) -> Face:
    """A face with other landmarks; what follows from them is as in the frame beside."""
    points, iris = np.asarray(landmarks, np.float32), one.iris
    if iris.any():
        iris = iris + points.mean(0)[:2] - one.landmarks.mean(0)[:2]
    return replace(one, landmarks=points, raw=points, iris=iris, score=score)


def _cubic(one: Floats | None, two: Floats, three: Floats, four: Floats | None, s: float) -> Floats:
    """Catmull and Rom's curve from the second point (s = 0) to the third (s = 1).

    Where a track begins or ends, and one point is missing, the parabola through the other three.
    """
    if one is None:
        assert four is not None
        one = four - 3 * (three - two)
    elif four is None:
        four = one + 3 * (three - two)
    bend = 2 * one - 5 * two + 4 * three - four + s * (3 * (two - three) + four - one)
    return np.asarray(two + 0.5 * s * (three - one + s * bend), np.float32)


def patch(planes: Planes, landmarks: AnyArray) -> Floats:  # [48, 48] 0..1
    """The face's luma, small, upright and centred by its landmarks."""
    region = face_region(landmarks) * [1, 1, 0.75, 1]  # the face without what is around it
    matrix = region_matrix(region, PATCH_PX)
    return warp_plane(planes.c0, matrix, PATCH_PX, planes.layout.max_code)


def unlike(one: Floats, other: Floats, later: Floats | None = None, share: float = 0.0) -> float:
    """The largest mean difference in any cell of two patches, whatever the light does to all.

    later, share: the second is a mix, so much of it `later`.
    """
    later = other if later is None else later
    if native:
        return float(native.unlike(one, other, later, share, CELLS))
    apart = one - (other + share * (later - other))
    # A vectorised sort: np.median's partition takes several times longer for so few.
    light = np.sort(apart, axis=None)[apart.size // 2 - 1 : apart.size // 2 + 1].mean()
    cells = cv2.resize(np.abs(apart - light), (CELLS, CELLS), interpolation=cv2.INTER_AREA)
    return float(np.max(cells))


class QuickMesh(MeshNet):
    """A mesh network whose pictures are cut in two steps: averaged, then bilinear.

    A fraction of the time that averaging exactly what lies under each pixel takes. What the network
    sees differs little; its landmarks by less than they differ between two pictures of one face.
    """

    def __init__(self, mesh: MeshNet) -> None:
        self._network = mesh._network  # opened once, whoever cuts the pictures
        self.runs = 0

    def cut(self, planes: Planes, matrices: Array) -> Any:  # [N, MESH_PX, MESH_PX, 3] RGB 0..1
        if planes.c0.device.type != "cpu":
            return super().cut(planes, matrices)
        return cut_floats(planes, matrices, MESH_PX)


def quick(models: FaceModels) -> FaceModels:
    """The same networks, the mesh with pictures cut the quick way; for frames in host memory."""
    found = models.apart()
    found.mesh = QuickMesh(models.mesh)
    return found
