"""Where the faces of each frame are, from the aligned faces of a workspace."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from accel.core import InputError
from accel.faces.align import Array, invert, transform
from accel.faces.face_types import FaceType
from accel.faces.faceset import FaceRecord, face_in, faces_in, read_face
from accel.faces.faceset_pak import NAME as PAK_NAME
from accel.faces.faceset_pak import open_pak
from accel.faces.merge_place import Motion, Place, middle_of, motion_between
from accel.pipelines.dfl.pack import beside_pak

NEAR = 0.5  # of the crop's side: a face that moves further between two frames is another one


@dataclass
class FrameFaces:
    """The faces of one frame. tracks: a number for each, the same from frame to frame."""

    places: list[Place] = field(default_factory=list)
    tracks: list[int] = field(default_factory=list)
    motions: list[Motion] = field(default_factory=list)


@dataclass
class FaceTable:
    """Faces by frame, in the order of `names`. notes: what was left out."""

    by_frame: list[FrameFaces]
    notes: list[str]

    @property
    def faces(self) -> int:
        return sum(len(frame.places) for frame in self.by_frame)


def read_faces(folder: Path, names: Sequence[str], kind: FaceType) -> FaceTable:
    """Read a side's aligned faces and follow them through its frames.

    kind: the model's face type; the aligned pictures may be of another.
    Raises InputError when the folder holds no face, or none of any of the frames.
    """
    numbers = {Path(name).stem: i for i, name in enumerate(names)}
    by_frame = [FrameFaces() for _ in names]
    notes, strangers = [], []
    count = 0
    for who, record in _records(folder):
        count += 1
        stem = Path(record.source_filename or "").stem
        if stem not in numbers:
            strangers.append(who)
            continue
        points = source_points(record)
        if points is None:
            raise InputError(f"{who}: must say where the face was in its frame, but does not")
        expand = 1.0 if record.eyebrows_expand_mod is None else record.eyebrows_expand_mod
        by_frame[numbers[stem]].places.append(Place(points, kind, expand))
    if count == 0:
        raise InputError(f"{folder}: must hold aligned faces, found none")
    if strangers:
        notes.append(f"{len(strangers)} faces belong to no frame, such as {strangers[0]}")
    if len(strangers) == count:
        raise InputError(
            f"{folder}: faces must name frames such as {names[0] if names else '00001.png'},"
            f" but none of {count} does"
        )
    follow(by_frame)
    return FaceTable(by_frame, [*notes, *beside_pak(folder)])


def source_points(record: FaceRecord) -> Array | None:
    """Landmarks in the frame, as they were found or through the crop's matrix."""
    if record.source_landmarks is not None:
        return record.source_landmarks
    if record.matrix is None:
        return None
    return transform(invert(record.matrix), record.landmarks)


def _records(folder: Path) -> Iterator[tuple[str, FaceRecord]]:
    if (folder / PAK_NAME).is_file():  # pictures beside it are the same faces once more
        for face, data in open_pak(folder / PAK_NAME).pictures():
            yield face.name, face_in(data, f"{folder / PAK_NAME}: {face.name}")
        return
    for path in faces_in(folder):
        yield path.name, read_face(path)


def follow(by_frame: list[FrameFaces]) -> None:
    """Number the faces' tracks, and say how each moves: from the frame before to the one after."""
    fresh = 0
    before = FrameFaces()
    for frame in by_frame:
        free = dict(zip(before.tracks, before.places))
        frame.tracks = []
        for place in frame.places:
            track = _nearest(place, free)
            if track is None:
                track, fresh = fresh, fresh + 1
            else:
                del free[track]
            frame.tracks.append(track)
        before = frame
    ends = [FrameFaces(), *by_frame, FrameFaces()]
    for earlier, frame, later in zip(ends, by_frame, ends[2:]):
        was = dict(zip(earlier.tracks, earlier.places))
        will = dict(zip(later.tracks, later.places))
        frame.motions = [motion_between(was.get(t), will.get(t)) for t in frame.tracks]


def _nearest(place: Place, free: dict[int, Place]) -> int | None:
    if not free:
        return None
    here = middle_of(place)
    distances = {track: float(np.hypot(*(middle_of(p) - here))) for track, p in free.items()}
    track = min(distances, key=lambda t: distances[t])
    return track if distances[track] <= NEAR * place.side else None
