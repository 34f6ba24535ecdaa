"""Cut the faces out of one side's frames: steps 4 and 5 of the workflow.

decode -> analyse -> cut, encode and write, side by side. Faces are followed through the film, so
the detector runs now and then rather than on every frame; crops come straight from the planes.
"""

from __future__ import annotations

import json
import os
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

from accel.core import (
    Cancel,
    ConfigError,
    InputError,
    Progress,
    ProgressCallback,
    light_collector,
    read_json,
)
from accel.faces import mesh
from accel.faces.align import Array, transform
from accel.faces.between import Sparse, quick
from accel.faces.cut import cut_faces
from accel.faces.face import Face
from accel.faces.face_types import FaceType, crop_corners, crop_matrix, face_type
from accel.faces.faceset import FaceRecord, faces_in, with_face
from accel.faces.track import Analyser, FaceModels
from accel.kernels._native import limit_threads
from accel.kernels.planes import Planes
from accel.pipelines.dfl.frames import FrameSource, NamedFrame, open_frames
from accel.pipelines.dfl.made import made_in, remember, write_whole
from accel.pipelines.dfl.save_frames import bgr_of, encode_picture, in_order, one_opencv_thread
from accel.pipelines.dfl.workspace import Workspace, check_side, open_workspace
from accel.pipelines.swap import peak_memory_mb, versions
from accel.video.stages import buffered

JOURNAL = "extract.json"
LOOKAHEAD = 24  # frames
STRIDE = 2  # every other frame is looked at, those between where they have to be
WARM_UP = 36  # frames looked at again when a run goes on, so that tracks are known
SAVE_EVERY_S = 2.0
DEBUG_QUALITY = 70
CUT_TYPES = ("half", "midfull", "full", "whole", "head")


@dataclass(frozen=True, kw_only=True)
class ExtractConfig:
    """What is cut out, and how.

    face_type: half, midfull, full, whole or head, or DeepFaceLab's words.
    size: side of the crop in pixels; None takes 512, for heads 768.
    jpeg_quality: 1 to 100.
    max_faces: at most so many a frame, the largest first; 0 takes all.
    min_score: faces that the mesh network is less sure of are dropped (0 to 1).
    min_face_px: faces whose box is smaller than this are dropped.
    landmarks: ONNX file of a 2DFAN-4 network; None takes the mesh network's points.
    debug: also write pictures that show what was found in each frame.
    fps: thin a film out to so many frames a second, when it is read without pictures.
    overwrite: remove faces that were extracted with other settings.
    """

    face_type: str = "whole"
    size: int | None = None
    jpeg_quality: int = 90
    max_faces: int = 0
    min_score: float = 0.5
    min_face_px: int = 24
    landmarks: Path | None = None
    debug: bool = False
    fps: float | None = None
    overwrite: bool = False
    device: str = "cpu"

    def __post_init__(self) -> None:
        kind = face_type(self.face_type)
        if kind is FaceType.MARK_ONLY:
            raise ConfigError(f"face_type must be one that is cut out, got {kind.value}")
        if self.size is not None and not 16 <= self.size <= 4096:
            raise ConfigError(f"size must lie in 16..4096 pixels, got {self.size}")
        if not 1 <= self.jpeg_quality <= 100:
            raise ConfigError(f"jpeg_quality must lie in 1..100, got {self.jpeg_quality}")
        if self.max_faces < 0 or self.min_face_px < 0:
            raise ConfigError("max_faces and min_face_px must be 0 or more")
        if not 0 <= self.min_score <= 1:
            raise ConfigError(f"min_score must lie in 0..1, got {self.min_score}")

    @property
    def kind(self) -> FaceType:
        return face_type(self.face_type)

    @property
    def side_px(self) -> int:
        return self.size or self.kind.default_px

    def settings(self) -> dict[str, Any]:
        """What a run that goes on must have in common with the one that stopped."""
        values = asdict(self)
        for name in ("overwrite", "device", "debug"):
            del values[name]
        values |= {"face_type": self.kind.value, "size": self.side_px}
        values["landmarks"] = self.landmarks and str(self.landmarks)
        return values


def extract_faces(
    place: Workspace | Path | str,
    side: str,
    config: ExtractConfig | None = None,
    *,
    progress: ProgressCallback | None = None,
    cancel: Cancel | None = None,
    models: FaceModels | None = None,
) -> dict[str, Any]:
    """Fill one side's `aligned` folder; return the report.

    A run that was broken off goes on where it stopped; one that is complete does nothing, so faces
    deleted by hand stay away. Raises InputError when there are no frames, ConfigError where the
    folder holds other faces.
    """
    run = _Run(open_workspace(place), check_side(side), config or ExtractConfig(), models)
    return run.run(progress, cancel or Cancel())


@dataclass(frozen=True)
class Cut:
    """One frame on its way to the disk: what is to be cut out of it."""

    name: str
    planes: Planes
    kept: list[FaceRecord]
    dropped: list[tuple[Face, str]]

    @property
    def files(self) -> list[str]:
        return [f"{Path(self.name).stem}_{i}.jpg" for i in range(len(self.kept))]

    @property
    def debug_file(self) -> str:
        return f"{Path(self.name).stem}.jpg"


@dataclass(frozen=True)
class _Written:
    """What remains of a frame that is done: results wait in a queue, so no planes."""

    faces: int
    dropped: list[str]


class _Run:
    def __init__(
        self, workspace: Workspace, side: str, config: ExtractConfig, models: FaceModels | None
    ) -> None:
        self.workspace, self.side, self.config = workspace, side, config
        self.folder = workspace.aligned(side)
        self.debug_folder = workspace.aligned_debug(side)
        self.models = models
        self.counts: Counter[str] = Counter()
        self.dropped: Counter[str] = Counter()
        self.done = 0  # frames of the source whose faces are on the disk
        self.first = 0
        self.landmarker: Any = None

    def run(self, progress: ProgressCallback | None, cancel: Cancel) -> dict[str, Any]:
        started = time.perf_counter()
        with open_frames(self.workspace, self.side, fps=self.config.fps) as source:
            if self.config.landmarks:
                from accel.faces.fan import FanNet

                self.landmarker = FanNet(self.config.landmarks, device=self.config.device)
            is_complete = self._begin(source)
            self.first = self.done
            stats: dict[str, Any] = {}
            if not is_complete:
                models = self.models or FaceModels(device=self.config.device)
                models = quick(models)
                analyser = Analyser(
                    models=models,
                    lookahead=LOOKAHEAD // STRIDE,
                    redetect_every=LOOKAHEAD // STRIDE,
                    max_faces=self.config.max_faces or 32,
                    iris_every=0,
                    smoothing=False,
                    details=False,
                )
                sparse = Sparse(analyser, STRIDE, beside=_beside)
                with light_collector(), one_opencv_thread():
                    self._write_all(source, sparse, progress, cancel, started)
                self._save_journal(source, is_complete=True)
                stats = analyser.stats | {
                    "placed": sparse.placed,
                    "measured_between": sparse.measured,
                }
            return self._report(source, stats, time.perf_counter() - started)

    # What was there.

    def _begin(self, source: FrameSource) -> bool:
        """Look at what is in the folder; return whether everything is done already."""
        self.folder.mkdir(parents=True, exist_ok=True)
        journal = read_journal(self.folder)
        settings = self.config.settings() | {"frames": len(source)}
        if journal and journal["settings"] == settings:
            self.done = journal["done"]
            self.counts.update(journal["counts"])
            self.dropped.update(journal["dropped"])
            return bool(journal["complete"])
        faces = faces_in(self.folder)
        if journal or faces:
            self._make_room(faces, journal)
        return False

    def _make_room(self, faces: list[Path], journal: dict[str, Any] | None) -> None:
        mine = set(made_in(self.folder))
        others = [path for path in faces if path not in mine]
        if others:
            raise ConfigError(
                f"{self.folder}: holds {len(others)} faces that were not extracted here, such as"
                f" {others[0].name}; move them away first"
            )
        if faces and not self.config.overwrite:
            was = _difference(journal["settings"] if journal else {}, self.config.settings())
            raise ConfigError(
                f"{self.folder}: holds {len(faces)} faces extracted otherwise ({was});"
                " use --overwrite to remove them and start anew"
            )
        for path in mine:
            path.unlink()

    # The work.

    def _write_all(
        self,
        source: FrameSource,
        analyser: Sparse,
        progress: ProgressCallback | None,
        cancel: Cancel,
        started: float,
    ) -> None:
        if self.config.debug:
            self.debug_folder.mkdir(exist_ok=True)
        workers = os.cpu_count() or 1
        # Before the first face: whatever stops this run, the next one must know its own files.
        self._save_journal(source, is_complete=False)
        saved_at = time.perf_counter()
        with (
            ThreadPoolExecutor(workers, initializer=limit_threads, initargs=(1,)) as pool,
            closing(buffered(self._cuts(source, analyser), 4, "analyse")) as cuts,
        ):
            try:
                for done in in_order(pool, self._write, cuts, 2 * workers, cancel):
                    self.done += 1
                    self.counts["frames_with_faces"] += done.faces > 0
                    self.counts["faces"] += done.faces
                    self.dropped.update(done.dropped)
                    if time.perf_counter() - saved_at > SAVE_EVERY_S:
                        self._save_journal(source, is_complete=False)
                        saved_at = time.perf_counter()
                    if progress:
                        rate = (self.done - self.first) / (time.perf_counter() - started)
                        progress(
                            Progress(stage="extract", done=self.done, total=len(source), rate=rate)
                        )
            finally:
                self._save_journal(source, is_complete=False)

    def _cuts(self, source: FrameSource, analyser: Sparse) -> Iterator[Cut]:
        """Frames with what is to be cut out of them; runs in a thread of its own."""
        limit_threads(1)
        begin = max(0, self.done - WARM_UP)
        names = {name: i for i, name in enumerate(source.names)}
        with closing(buffered(source.start(begin), 8, "decode")) as decoded:
            tagged = ((named, named.frame.planes) for named in decoded)
            with closing(analyser.analyse(tagged)) as found:
                for named, planes, faces in found:
                    if names[named.name] >= self.first:
                        yield self._cut(named, planes, faces)

    def _cut(self, named: NamedFrame, planes: Planes, faces: list[Face]) -> Cut:
        kept, dropped = [], []
        for face in faces[: self.config.max_faces or None]:
            points = self._points(planes, face)
            why = bad(face, points, planes, self.config)
            if why:
                dropped.append((face, why))
            else:
                kept.append(self._record(named.name, face, points))
        cut = Cut(named.name, planes, kept, dropped)
        if kept:
            remember(self.folder, cut.files)
        if self.config.debug:
            remember(self.debug_folder, [cut.debug_file])
        return cut

    def _points(self, planes: Planes, face: Face) -> Array:  # [68, 2] in the frame
        if self.landmarker is None:
            return mesh.to_68(face.landmarks)[:, :2].astype(np.float64)
        points: Array = self.landmarker(planes, face.landmarks)
        return points

    def _record(self, name: str, face: Face, points: Array) -> FaceRecord:
        size, kind = self.config.side_px, self.config.kind
        matrix = crop_matrix(points, kind, size)
        left, top, right, bottom = np.round(face.box).astype(int).tolist()
        return FaceRecord(
            face_type=kind,
            landmarks=transform(matrix, points),
            source_filename=name,
            source_rect=(left, top, right, bottom),
            source_landmarks=points,
            matrix=matrix,
            eyebrows_expand_mod=1.0,
        )

    def _write(self, cut: Cut) -> _Written:
        """Cut, encode and write the faces of one frame; runs in a pool."""
        if cut.kept:
            matrices = np.array([record.matrix for record in cut.kept], np.float64)
            # 4:2:0, as films and DeepFaceLab's faces are.
            pictures = cut_faces(cut.planes, matrices, self.config.side_px, full_chroma=False)
            for name, record, picture in zip(cut.files, cut.kept, pictures):
                quality = self.config.jpeg_quality
                jpeg = encode_picture(picture, ".jpg", quality=quality, full_chroma=False)
                write_whole(self.folder / name, with_face(jpeg, record, name))
        if self.config.debug:
            data = encode_picture(debug_picture(cut), ".jpg", quality=DEBUG_QUALITY)
            write_whole(self.debug_folder / cut.debug_file, data)
        return _Written(len(cut.kept), [why for _, why in cut.dropped])

    # The books.

    def _save_journal(self, source: FrameSource, is_complete: bool) -> None:
        values = {
            "settings": self.config.settings() | {"frames": len(source)},
            "done": self.done,
            "complete": is_complete,
            "counts": dict(self.counts),
            "dropped": dict(self.dropped),
        }
        if not (self.folder / JOURNAL).exists():
            remember(self.folder, [JOURNAL])
        write_whole(self.folder / JOURNAL, json.dumps(values, indent=1).encode())

    def _report(self, source: FrameSource, stats: dict[str, Any], seconds: float) -> dict[str, Any]:
        frames = self.done - self.first
        notes = list(source.notes)
        if self.done and not self.counts["faces"]:
            notes.append("no face was found in any frame")
        return {
            "command": "dfl extract",
            "workspace": str(self.workspace.root),
            "side": self.side,
            "folder": str(self.folder),
            "from": str(source.folder or source.video),
            "face_type": self.config.kind.value,
            "size": self.config.side_px,
            "frames": self.done,
            "frames_now": frames,
            "frames_with_faces": self.counts["frames_with_faces"],
            "faces": self.counts["faces"],
            "dropped": dict(self.dropped),
            "seconds": round(seconds, 3),
            "fps": round(frames / seconds, 2) if seconds else 0.0,
            "networks": stats,
            "peak_memory_mb": peak_memory_mb(),
            "notes": notes,
            "versions": versions(),
        }


def _beside(frames: Iterator[Any]) -> Any:
    """Follow faces in a thread of its own, while those between are placed in another."""

    def alone() -> Iterator[Any]:
        limit_threads(1)
        yield from frames

    return buffered(alone(), 4, "follow")


def read_journal(folder: Path) -> dict[str, Any] | None:
    """What the last extraction into a folder noted; None if there is nothing usable."""
    try:
        values: dict[str, Any] = read_json(folder / JOURNAL, "a journal")
        if not isinstance(values["settings"], dict) or not isinstance(values["done"], int):
            return None
        return {"complete": False, "counts": {}, "dropped": {}, **values}
    except (InputError, KeyError, TypeError):  # missing or damaged: everything is done again
        return None


def _difference(before: dict[str, Any], now: dict[str, Any]) -> str:
    parts = [f"{k} {before.get(k)}, now {v}" for k, v in now.items() if before.get(k) != v]
    return "; ".join(parts) or "from other frames"


# --- pictures ------------------------------------------------------------------------------------


def bad(face: Face, points: Array, planes: Planes, config: ExtractConfig) -> str:
    """Why a face is not worth keeping; "" if it is."""
    if not np.isfinite(points).all():
        return "landmarks are not finite"
    if face.score < config.min_score:
        return "unsure"
    left, top, right, bottom = face.box
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


def debug_picture(cut: Cut) -> npt.NDArray[np.uint8]:
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
