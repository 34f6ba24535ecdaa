"""The faces of one frame on their way to the disk: chosen, cut out, encoded, shown."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import numpy.typing as npt

from accel.faces import mesh
from accel.faces.align import AnyArray, Array, transform
from accel.faces.cut import cut_jpegs
from accel.faces.face import Face
from accel.faces.face_types import FaceType, crop_corners, crop_matrix
from accel.faces.faceset import FaceRecord, with_face
from accel.kernels.planes import Planes
from accel.pipelines.dfl.extract_config import ExtractConfig
from accel.pipelines.dfl.save_frames import bgr_of, encode_picture
from accel.unfinished import write_whole

DEBUG_QUALITY = 70
Landmarker = Callable[[Planes, AnyArray], Array]  # frame and mesh [468, 3] -> [68, 2]


@dataclass(frozen=True)
class Cut:
    """One frame and what is to be cut out of it.

    files: names of the aligned faces, one for each of `kept`.
    """

    name: str
    planes: Planes
    kept: list[FaceRecord]
    dropped: list[tuple[Face, str]]
    files: list[str]
    debug_file: str


def choose(
    name: str,  # of the frame's picture
    planes: Planes,
    faces: Sequence[Face],
    config: ExtractConfig,
    landmarker: Landmarker | None = None,
) -> Cut:
    """Decide which faces of a frame are kept, and where each is cut out."""
    kept, dropped = [], []
    for face in faces[: config.max_faces or None]:
        if landmarker is None:
            points = mesh.to_68(face.landmarks)[:, :2].astype(np.float64)
        else:
            points = landmarker(planes, face.landmarks)
        box = face.box.tolist()
        why = bad(face.score, box, points, planes, config)
        if why:
            dropped.append((face, why))
        else:
            kept.append(_record(name, box, points, config))
    stem = Path(name).stem
    files = [f"{stem}_{i}.jpg" for i in range(len(kept))]
    return Cut(name, planes, kept, dropped, files, f"{stem}.jpg")


def bad(
    score: float,
    box: list[float],  # left, top, right, bottom
    points: Array,  # [68, 2] in the frame
    planes: Planes,
    config: ExtractConfig,
) -> str:
    """Why a face is not worth keeping; "" if it is."""
    if not np.isfinite(points).all():
        return "landmarks are not finite"
    if score < config.min_score:
        return "unsure"
    left, top, right, bottom = box
    if min(right - left, bottom - top) < max(config.min_face_px, 1):
        return "too small"
    width, height = planes.width, planes.height
    inside = (min(right, width) - max(left, 0)) * (min(bottom, height) - max(top, 0))
    if inside < 0.5 * (right - left) * (bottom - top) or right < 0 or bottom < 0:
        return "outside the frame"
    # Landmarks that fit no face give a square far larger than what was found: DeepFaceLab's rule.
    if config.kind.padding <= FaceType.FULL.padding:
        a, b, c, _ = crop_corners(points, config.kind)
        (x, y), (u, v) = b - a, c - b
        area = abs(x * v - y * u)
        if area > 4 * (right - left) * (bottom - top):
            return "landmarks do not fit"
    return ""


def _record(name: str, box: list[float], points: Array, config: ExtractConfig) -> FaceRecord:
    matrix = crop_matrix(points, config.kind, config.side_px)
    left, top, right, bottom = map(round, box)
    return FaceRecord(
        face_type=config.kind,
        landmarks=transform(matrix, points),
        source_filename=name,
        source_rect=(left, top, right, bottom),
        source_landmarks=points,
        matrix=matrix,
        eyebrows_expand_mod=1.0,
    )


def write_faces(cut: Cut, folder: Path, config: ExtractConfig) -> None:
    """Cut, encode and write the faces of one frame, each whole or not at all."""
    if not cut.kept:
        return
    matrices = np.array([record.matrix for record in cut.kept], np.float64)
    jpegs = cut_jpegs(cut.planes, matrices, config.side_px, quality=config.jpeg_quality)
    for name, record, jpeg in zip(cut.files, cut.kept, jpegs):
        write_whole(folder / name, with_face(jpeg, record, name))


def write_debug(cut: Cut, folder: Path) -> None:
    data = encode_picture(debug_picture(cut), ".jpg", quality=DEBUG_QUALITY)
    write_whole(folder / cut.debug_file, data)


def debug_picture(cut: Cut) -> npt.NDArray[np.uint8]:  # [H, W, 3] BGR
    """The frame with box, landmarks and crop of each face kept, and why others were not."""
    picture = bgr_of(cut.planes)
    thick = max(1, round(max(picture.shape) / 900))
    for record in cut.kept:
        assert record.source_rect is not None
        assert record.source_landmarks is not None
        left, top, right, bottom = (int(v) for v in record.source_rect)
        cv2.rectangle(picture, (left, top), (right, bottom), (0, 0, 255), thick)
        corners = crop_corners(record.source_landmarks, record.face_type)
        cv2.polylines(picture, [np.round(corners).astype(np.int32)], True, (255, 160, 0), thick)
        for x, y in np.round(record.source_landmarks).astype(int).tolist():
            cv2.circle(picture, (x, y), thick, (0, 255, 0), -1)
    for face, why in cut.dropped:
        left, top, right, bottom = np.nan_to_num(np.round(face.box)).astype(int).tolist()
        cv2.rectangle(picture, (left, top), (right, bottom), (0, 220, 255), thick)
        cv2.putText(
            picture, why, (left, max(top - 4, 12)), cv2.FONT_HERSHEY_SIMPLEX, 0.5 * thick,
            (0, 220, 255), thick, cv2.LINE_AA,
        )  # fmt: skip
    return picture
