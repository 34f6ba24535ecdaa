"""Small facesets drawn for tests: two people who differ in colour, each in many poses."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np

from accel.faces import mesh
from accel.faces.align import transform
from accel.faces.face_types import FaceType, crop_matrix
from accel.faces.faceset import FaceRecord, with_face

COLOURS = {"src": (60, 90, 200), "dst": (170, 140, 60)}


def landmarks(size=64, kind=FaceType.FULL, yaw=0.0):
    """[68, 2] of a face that looks ahead or aside, in its own crop."""
    points = mesh.to_68(mesh.CANONICAL).astype(np.float64)
    x = points[:, 0] * np.cos(yaw) + points[:, 2] * np.sin(yaw)
    flat = np.stack([x, -points[:, 1]], 1)
    return transform(crop_matrix(flat, kind, size), flat)


def draw(points, size, colour, rng):
    picture = np.full((size, size, 3), 90, np.uint8)
    hull = cv2.convexHull(np.round(points).astype(np.int32))
    cv2.fillConvexPoly(picture, hull, colour)
    for first, last, dark in ((36, 42, 40), (42, 48, 40), (48, 60, 80)):
        part = cv2.convexHull(np.round(points[first:last]).astype(np.int32))
        cv2.fillConvexPoly(picture, part, (dark, dark, 160))
    shade = rng.normal(0, 6, (size, size, 1)) + rng.uniform(-20, 20)
    blurred = cv2.GaussianBlur(picture, (0, 0), 1)
    return np.clip(blurred + shade, 0, 255).astype(np.uint8)


def face_file(size=64, kind=FaceType.FULL, side="src", seed=0, **record):
    """The bytes of one aligned face."""
    rng = np.random.default_rng([seed, side == "dst"])
    points = landmarks(size, kind, rng.uniform(-0.5, 0.5))
    done, jpeg = cv2.imencode(".jpg", draw(points, size, COLOURS[side], rng))
    assert done
    return with_face(jpeg.tobytes(), FaceRecord(face_type=kind, landmarks=points, **record))


def faceset(folder: Path, count=6, **kind):
    folder.mkdir(parents=True)
    for i in range(count):
        (folder / f"{i:05d}.jpg").write_bytes(face_file(seed=i, **kind))
    return folder


def workspace(root: Path, count=6, **kind):
    """A workspace with aligned faces of both sides."""
    for side in ("src", "dst"):
        faceset(root / f"data_{side}" / "aligned", count, side=side, **kind)
    return root
