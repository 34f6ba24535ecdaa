"""What is known of one face in one frame, and what its landmarks say about it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from accel.faces import mesh
from accel.faces.align import AnyArray, Array

Floats = npt.NDArray[np.float32]


@dataclass
class Face:
    """One face in one frame. Pixels count from the centre of the frame's first sample.

    track: the same number for the same face from frame to frame.
    landmarks: [468, 3] x, y, z in frame pixels, z smaller when nearer; smoothed over time.
    raw: [468, 3] the same before smoothing.
    iris: [2, 5, 2] right eye, left eye (the subject's): centre, then four points of the rim.
    lids: [2] how far the eyes are open: height by width, about 0.3 when open, under 0.18 when shut.
    mouth: how far the lips are open: height by width of their inner line.
    pose: [3] yaw (above 0: the nose points to the picture's right), pitch (above 0: up), roll
        (above 0: turned clockwise as seen), radians.
    score: how sure the mesh network is that this is a face, 0..1; less where it was filled in.
    identity: [128] mean identity vector of the track so far; see recognise.SAME_PERSON.
    scene: counts from 0, one more after each cut.
    """

    track: int
    landmarks: Floats
    raw: Floats
    iris: Floats
    lids: Floats
    mouth: float
    pose: Floats
    score: float
    identity: Floats
    scene: int = 0

    @property
    def box(self) -> Floats:  # [4] x0, y0, x1, y1
        x, y = self.landmarks[:, 0], self.landmarks[:, 1]
        return np.array([x.min(), y.min(), x.max(), y.max()])  # by column: several times faster

    @property
    def size(self) -> float:
        """The longer side of the box, in pixels."""
        x0, y0, x1, y1 = self.box.tolist()
        return float(max(x1 - x0, y1 - y0))


def make_face(
    *,
    track: int,
    landmarks: Array,
    raw: Array,
    iris: Array,
    score: float,
    identity: AnyArray,
    scene: int = 0,
) -> Face:
    """Fill in what follows from the landmarks."""
    return Face(
        track=track,
        landmarks=landmarks.astype(np.float32),
        raw=raw.astype(np.float32),
        iris=iris.astype(np.float32),
        lids=lid_openings(landmarks).astype(np.float32),
        mouth=mouth_opening(landmarks),
        pose=head_pose(landmarks).astype(np.float32),
        score=score,
        identity=np.asarray(identity, np.float32),
        scene=scene,
    )


def bare_face(
    *,
    track: int,
    landmarks: Array,
    raw: Array,
    score: float,
    identity: AnyArray,
    scene: int = 0,
) -> Face:
    """A face of which only landmarks are known; what follows from them is left 0."""
    return Face(
        track=track,
        landmarks=landmarks.astype(np.float32),
        raw=raw.astype(np.float32),
        iris=np.zeros((2, 5, 2), np.float32),
        lids=np.zeros(2, np.float32),
        mouth=0.0,
        pose=np.zeros(3, np.float32),
        score=score,
        identity=np.asarray(identity, np.float32),
        scene=scene,
    )


def lid_openings(landmarks: Array) -> Array:  # [468, 3] -> [2] right, left
    """Return the mean distance of the lids by the distance of the eye's corners.

    Measured in three dimensions, so that a turned head does not narrow the eye's width.
    """
    return np.array(
        [_gap(landmarks, pairs, corners) for pairs, corners in zip(mesh.LIDS, mesh.EYE_CORNERS)]
    )


def mouth_opening(landmarks: Array) -> float:
    """Return the mean distance of the inner lips by the distance of their corners."""
    return _gap(landmarks, mesh.MOUTH_GAP, mesh.MOUTH_CORNERS)


def head_pose(landmarks: Array) -> Array:  # [468, 3] -> [3] yaw, pitch, roll
    """Return the rotation that turns the canonical face into this one; see `Face.pose`.

    Weighted orthogonal Procrustes over the points that expressions hardly move. The parts are taken
    roll last, so yaw and pitch mean the same on a sideways picture.
    Source: Kabsch 1976, doi:10.1107/S0567739476001873.
    """
    rotation = head_rotation(landmarks)
    right, front = rotation[:, 0], rotation[:, 2]
    roll = np.arctan2(right[1], right[0])
    cos, sin = np.cos(-roll), np.sin(-roll)
    x, y = cos * front[0] - sin * front[1], sin * front[0] + cos * front[1]
    return np.array([np.arctan2(x, front[2]), np.arcsin(np.clip(y, -1, 1)), -roll])


def head_rotation(landmarks: Array) -> Array:  # [468, 3] -> [3, 3] x right, y up, z to the viewer
    """Return the rotation from the canonical model to the face in the picture."""
    index = list(mesh.PROCRUSTES)
    weights = np.array(list(mesh.PROCRUSTES.values()))[:, None]
    model = mesh.CANONICAL[index].astype(np.float64)
    points = landmarks[index] * np.array([1.0, -1.0, -1.0])
    model = model - (weights * model).sum(0) / weights.sum()
    points = points - (weights * points).sum(0) / weights.sum()
    u, _, vt = np.linalg.svd((weights * points).T @ model)
    flip = np.diag([1.0, 1.0, np.sign(np.linalg.det(u @ vt))])
    result: Array = u @ flip @ vt
    return result


def frontalness(landmarks: Array) -> float:
    """1 for a face seen from the front, 0 for a profile."""
    return float(max(head_rotation(landmarks)[2, 2], 0.0))


def _gap(points: Array, pairs: Sequence[tuple[int, int]], corners: tuple[int, int]) -> float:
    height = np.mean([np.linalg.norm(points[a, :2] - points[b, :2]) for a, b in pairs])
    width = np.linalg.norm(points[corners[0]] - points[corners[1]])
    return float(height / max(width, 1e-6))
