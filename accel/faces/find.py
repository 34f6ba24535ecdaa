"""The networks that look at faces, opened together, and all faces of one picture."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from copy import copy
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt

from accel.faces.align import AnyArray, Array, cover
from accel.faces.crops import picture_planes
from accel.faces.detect import (
    FULL_RANGE,
    NEAR,
    Detection,
    Detector,
    distinct,
    fine_views,
    near_views,
    whole_view,
)
from accel.faces.face import Face, make_face
from accel.faces.landmark import IrisNet, MeshNet, drift, face_region
from accel.faces.recognise import Recogniser
from accel.kernels.planes import Planes

N = TypeVar("N", MeshNet, IrisNet, Recogniser, Detector)

MAX_DRIFT = 0.08  # a face that lies further off in its crop is looked at again, centred
MAX_MISS = 0.35  # one that is still so far off was not found
MIN_PRESENCE = 0.5
MIN_SIDE_PX = 12  # of a face
SURE = 0.9  # presence of what is a face beyond doubt
SAME_FACE = 0.6  # of the smaller of two boxes lies in the larger one: they show one face
ANGLES = (0.0, np.pi / 2, -np.pi / 2, np.pi)


class FaceModels:
    """Detectors, mesh, iris and identity networks, with the time each of them took by `clock`."""

    def __init__(
        self,
        *,
        device: str = "cpu",
        threads: int = 1,
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        self.clock = clock
        self._options: dict[str, Any] = {"device": device, "threads": threads}
        self.mesh = MeshNet(**self._options)
        self.iris = IrisNet(**self._options)
        self.recogniser = Recogniser(**self._options)
        self.full = Detector(FULL_RANGE, **self._options)
        self._near: Detector | None = None
        self._near_opened: list[Detector] = []  # shared by all that came from `apart`
        self.again = 0  # faces the mesh network had to look at twice
        self.seconds: dict[str, float] = {}

    @property
    def near(self) -> Detector:
        """The second opinion, opened when it is first asked for."""
        if self._near is None:
            if not self._near_opened:
                self._near_opened.append(Detector(NEAR, **self._options))
            self._near = _uncounted(self._near_opened[0])
        return self._near

    def apart(self) -> FaceModels:
        """The same networks with counts and seconds of their own: for another thread or film."""
        found = copy(self)
        found.mesh, found.iris = _uncounted(self.mesh), _uncounted(self.iris)
        found.recogniser, found.full = _uncounted(self.recogniser), _uncounted(self.full)
        found._near, found.again, found.seconds = None, 0, {}
        return found

    @contextmanager
    def timed(self, stage: str) -> Iterator[None]:
        start = self.clock()
        try:
            yield
        finally:
            self.seconds[stage] = self.seconds.get(stage, 0.0) + self.clock() - start

    def stats(self) -> dict[str, Any]:
        """Runs of each network, counted in crops or views, and seconds by stage."""
        detectors = [self.full] + ([self._near] if self._near else [])
        return {
            "detector_runs": sum(d.runs for d in detectors),
            "mesh_runs": self.mesh.runs,
            "mesh_again": self.again,
            "iris_runs": self.iris.runs,
            "identity_runs": self.recogniser.runs,
            "seconds": {stage: round(s, 4) for stage, s in self.seconds.items()},
        }

    def measure(
        self,
        frames: Sequence[Planes],
        regions: Sequence[AnyArray],  # for each frame [4], where to look
    ) -> list[tuple[Array, float] | None]:
        """Return landmarks and presence of one face a frame, or None where there is none.

        Faces that lie off the middle of their crop are measured again in a crop of their own, all
        in one batch, so every answer comes from a well centred crop.
        """
        if not frames:
            return []
        with self.timed("mesh"):
            seen = np.stack([np.asarray(r, np.float64) for r in regions])
            landmarks, presence = self.mesh(frames, list(seen[:, None]))
            wanted = face_region(landmarks)
            off = drift(seen, wanted)
            again = np.flatnonzero((off > MAX_DRIFT) & (presence > 0.1) & _plausible(wanted))
            if len(again):
                self.again += len(again)
                more = self.mesh([frames[i] for i in again.tolist()], list(wanted[again][:, None]))
                landmarks[again], presence[again] = more
                seen[again], wanted[again] = wanted[again], face_region(landmarks[again])
                off[again] = drift(seen[again], wanted[again])
        good = (presence >= MIN_PRESENCE) & (off <= MAX_MISS) & _plausible(wanted)
        good &= _inside(wanted, frames)
        return [
            (points, float(p)) if ok else None for points, p, ok in zip(landmarks, presence, good)
        ]


def _uncounted(network: N) -> N:
    found = copy(network)
    found.runs = 0
    return found


def find_faces(
    picture: Planes | npt.NDArray[Any],  # planes, or [H, W, 3] uint8 RGB
    *,
    models: FaceModels | None = None,
    device: str = "cpu",
    max_faces: int = 64,
) -> list[Face]:
    """Return the faces of a still picture, the largest first.

    Thorough rather than fast: both detectors, the whole picture and parts of it; when nothing is
    found also from further away (a face that fills the picture) and turned by quarters.
    """
    planes = picture if isinstance(picture, Planes) else picture_planes(picture)
    models = models or FaceModels(device=device)
    found: list[tuple[Array, float]] = []
    for views in _looks(planes):
        with models.timed("detect"):
            detections = distinct(models.full.find(planes, views) + models.near.find(planes, views))
        found = settle(models, planes, detections)
        if found:
            break
    if not found:
        return []
    found = sorted(found, key=lambda f: -float(face_region(f[0])[2]))[:max_faces]
    landmarks = np.stack([points for points, _ in found])
    with models.timed("iris"):
        irises = models.iris([planes] * len(found), landmarks)
    with models.timed("identity"):
        identities = models.recogniser([planes], [landmarks])
    return [
        make_face(
            track=number, landmarks=points, raw=points, iris=iris, score=score, identity=identity
        )
        for number, ((points, score), iris, identity) in enumerate(zip(found, irises, identities))
    ]


def settle(
    models: FaceModels, planes: Planes, detections: Sequence[Detection]
) -> list[tuple[Array, float]]:
    """Turn rough detections of one frame into landmarks: centred, right way up, no doubles."""
    rough = models.measure([planes] * len(detections), [d.region for d in detections])
    first = [found for found in rough if found is not None]
    fine = models.measure([planes] * len(first), [face_region(points) for points, _ in first])
    upright = _right_way_up(models, planes, [f for f in fine if f is not None])
    # The larger first: seen from near, an eye with its brow can look like a face.
    upright.sort(key=lambda f: (f[1] < SURE, -float(face_region(f[0])[2])))
    kept: list[tuple[Array, float]] = []
    for found in upright:
        if all(cover(box_of(found[0]), box_of(k[0])) < SAME_FACE for k in kept):
            kept.append(found)
    return kept


def box_of(landmarks: Array) -> Array:  # [468, 3] -> [4] x0, y0, x1, y1
    x, y = landmarks[:, 0], landmarks[:, 1]
    return np.array([x.min(), y.min(), x.max(), y.max()])


def _right_way_up(
    models: FaceModels, planes: Planes, found: Sequence[tuple[Array, float]]
) -> list[tuple[Array, float]]:
    """Turn over the faces that look more like a face when turned over.

    Those on their heads are at times found upright, and the mesh network then sees a face too, but
    is less sure of it.
    """
    half_turn = np.array([0, 0, 0, np.pi])
    over = models.measure([planes] * len(found), [face_region(f[0]) + half_turn for f in found])
    return [b if b is not None and b[1] > a[1] else a for a, b in zip(found, over)]


def _looks(planes: Planes) -> Iterator[Array]:
    yield np.concatenate([whole_view(planes), near_views(planes), fine_views(planes)])
    yield whole_view(planes, zoom=0.6)
    for angle in ANGLES[1:]:
        yield np.concatenate([whole_view(planes, angle), near_views(planes, angle)])


def _plausible(regions: Array) -> npt.NDArray[np.bool_]:
    finite = np.logical_and.reduce(np.isfinite(regions), axis=-1)
    return np.logical_and(finite, regions[..., 2] > MIN_SIDE_PX)


def _inside(regions: Array, frames: Sequence[Planes]) -> npt.NDArray[np.bool_]:
    """Whether the middle of the face lies in the picture."""
    ends = np.array([[f.width, f.height] for f in frames])
    inside = (regions[:, :2] > -0.5) & (regions[:, :2] < ends - 0.5)
    result: npt.NDArray[np.bool_] = np.logical_and.reduce(inside, axis=-1)
    return result
