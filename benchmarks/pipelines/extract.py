"""Extraction of a faceset against the plain loop that one would write with the same networks.

The plain loop: read a frame with OpenCV, run the detector on it, run the mesh network on each face
(twice: where the detector says, then centred, as a still picture needs), fit the crop, warp it with
OpenCV, encode it as JPEG, write it with its metadata; the networks run in ONNX Runtime with its
default options, on all cores. Both sides write the same kind of file from the same film. Ratios are
given of the time that passes and of the processor's: on a machine that does other work as well, the
latter is what to trust, though threads of ONNX Runtime that wait count in it. Decoding the frames
and nothing else is timed beside them: no extraction can take less. All run once before they are
timed: networks are opened then, those too that are opened when first asked for.

    python -m benchmarks.pipelines.extract [FILM or FOLDER ...] [--face-types half full head]
        [--pictures FILM ...]

A folder is one of pictures. Without a film a made one is used. The face types are measured on the
first film, besides whole faces on all of them; rows that are not measured again stay. Of films
named as pictures the first frames are measured as a folder of PNG files that OpenCV wrote. The
landmarks of both are compared as well: they must agree.
"""

from __future__ import annotations

import argparse
import os
import statistics
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import onnxruntime

from accel.faces import mesh
from accel.faces.align import invert, region_matrix, transform
from accel.faces.detect import FULL_RANGE, Detector
from accel.faces.face_types import crop_matrix
from accel.faces.faceset import FaceRecord, faces_in, read_face, with_face
from accel.faces.find import FaceModels
from accel.faces.landmark import face_region
from accel.pipelines.demo import render_clip
from accel.pipelines.dfl.extract import ExtractConfig, extract_faces
from accel.pipelines.dfl.frames import open_frames
from accel.weights.assets import asset
from benchmarks.harness import conditions, kept, save

QUALITY = 90
PICTURES = 120  # frames of a film that become a folder of pictures


class Plain:
    """Detector, landmarks, warp and JPEG, one frame after the other."""

    def __init__(self) -> None:
        self.detector = _session("blazeface_full_192.fp16w.onnx")
        self.mesh = _session("facemesh_468_192.fp16w.onnx")
        self.decoder = Detector(FULL_RANGE)  # only its anchors are used

    def __call__(self, root: Path, config: ExtractConfig) -> int:
        folder, kind, size = root / "aligned", config.kind, config.side_px
        folder.mkdir()
        faces = 0
        for number, picture in enumerate(self.pictures(root), 1):
            for i, points in enumerate(self.find(picture)):
                matrix = crop_matrix(points, kind, size)
                crop = cv2.warpAffine(picture, matrix, (size, size), flags=cv2.INTER_LINEAR)
                _, jpeg = cv2.imencode(".jpg", crop, [cv2.IMWRITE_JPEG_QUALITY, QUALITY])
                record = FaceRecord(
                    face_type=kind,
                    landmarks=transform(matrix, points),
                    source_filename=f"{number:05d}.png",
                    source_rect=(*points.min(0).tolist(), *points.max(0).tolist()),
                    source_landmarks=points,
                    matrix=matrix,
                    eyebrows_expand_mod=1.0,
                )
                name = f"{number:05d}_{i}.jpg"
                (folder / name).write_bytes(with_face(jpeg.tobytes(), record))
                faces += 1
        return faces

    @staticmethod
    def pictures(root: Path) -> Iterator[Any]:
        if (root / "data_src").is_dir():
            for path in sorted((root / "data_src").glob("*.*")):
                yield cv2.imread(str(path))
            return
        capture = cv2.VideoCapture(str(next(root.glob("data_src.*"))))
        while True:
            good, picture = capture.read()
            if not good:
                return
            yield picture

    def find(self, picture: Any) -> list[Any]:  # [68, 2] each
        height, width = picture.shape[:2]
        view = np.array([(width - 1) / 2, (height - 1) / 2, max(width, height), 0.0])
        matrix = region_matrix(view, 192)
        small = self.cut(picture, matrix, cv2.INTER_AREA) * 2 - 1
        outputs = self.detector.run(None, {self.detector.get_inputs()[0].name: small})
        boxes, logits = sorted(outputs, key=lambda a: -a.shape[-1])
        found = self.decoder._decode(view, invert(matrix), boxes[0], logits[0, :, 0], 0.5)
        return [points for d in found if (points := self.landmarks(picture, d.region)) is not None]

    def landmarks(self, picture: Any, region: Any) -> Any:
        for _ in range(2):
            matrix = region_matrix(region, 192)
            crop = self.cut(picture, matrix, cv2.INTER_LINEAR)
            outputs = self.mesh.run(None, {self.mesh.get_inputs()[0].name: crop})
            points, presence = sorted(outputs, key=lambda a: -a.size)
            if presence.ravel()[0] < 0:
                return None
            points = points.reshape(468, 3).astype(np.float64)
            points[:, :2] -= 0.5
            points = transform(invert(matrix), points)
            region = face_region(points)
        return mesh.to_68(points)[:, :2]

    @staticmethod
    def cut(picture: Any, matrix: Any, flags: int) -> Any:
        crop = cv2.warpAffine(picture, matrix, (192, 192), flags=flags)
        return cv2.cvtColor(crop, cv2.COLOR_BGR2RGB)[None].astype(np.float32) / 255


def _session(name: str) -> Any:
    return onnxruntime.InferenceSession(str(asset(name)), providers=["CPUExecutionProvider"])


class Ours:
    """The engine's extraction, with networks that are open already, as the plain loop's are."""

    def __init__(self) -> None:
        self.models = FaceModels()

    def __call__(self, root: Path, config: ExtractConfig) -> int:
        return int(extract_faces(root, "src", config, models=self.models)["faces"])


def decoding(root: Path, config: ExtractConfig) -> int:
    """What both sides have to do in any case."""
    with open_frames(root, "src") as frames:
        return sum(1 for _ in frames)


def workspace(film: Path, root: Path) -> Path:
    """A workspace of its own, whose source is a film or a folder of pictures."""
    root.mkdir(parents=True)
    if not film.is_dir():
        os.symlink(film.resolve(), root / f"data_src{film.suffix}")
        return root
    (root / "data_src").mkdir()
    for path in film.iterdir():
        os.symlink(path.resolve(), root / "data_src" / path.name)
    return root


def as_pictures(film: Path, place: Path) -> Path:
    """A folder of a film's first frames as PNG files, with OpenCV's settings."""
    folder = place / f"{film.name} as PNG"
    folder.mkdir()
    capture = cv2.VideoCapture(str(film))
    for number in range(1, PICTURES + 1):
        good, picture = capture.read()
        if not good:
            break
        cv2.imwrite(str(folder / f"{number:05d}.png"), picture)
    return folder


def difference(plain: Path, own: Path) -> dict[str, float]:
    """How far the landmarks of both lie apart, in shares of the face's size."""
    found: dict[Any, list[Any]] = {}
    for path in faces_in(own):
        record = read_face(path)
        found.setdefault(Path(record.source_filename or "").stem, []).append(
            record.source_landmarks
        )
    apart = []
    for path in faces_in(plain):
        record = read_face(path)
        points = record.source_landmarks
        others = found.get(Path(record.source_filename or "").stem)
        if others is None or points is None:
            continue
        gaps = [np.linalg.norm(points - other, axis=1).mean() for other in others]
        apart.append(min(gaps) / np.ptp(points, axis=0).max())
    if not apart:
        return {"faces": 0}
    return {
        "faces": len(apart),
        "median": round(float(np.median(apart)), 5),
        "p95": round(float(np.percentile(apart, 95)), 5),
    }


def measure(film: Path, kind: str, rounds: int) -> dict[str, Any]:
    plain, ours = Plain(), Ours()
    config = ExtractConfig(face_type=kind, jpeg_quality=QUALITY)
    runs: dict[str, Any] = {"plain loop": plain, "accel": ours, "decoding alone": decoding}
    times: dict[str, list[tuple[float, float]]] = {name: [] for name in runs}
    found = {}
    with tempfile.TemporaryDirectory() as folder:
        for turn in range(rounds + 1):
            for name, run in runs.items():
                root = workspace(film, Path(folder) / f"{name[:5]}{turn}")
                wall, cpu = time.perf_counter(), time.process_time()
                found[name] = run(root, config)
                took = time.perf_counter() - wall, time.process_time() - cpu
                if turn:
                    times[name].append(took)
                print(f"{film.name} {kind} {name}: {found[name]}, {took[0]:.2f} s,"
                      f" {took[1]:.2f} s of CPU{'' if turn else ', not counted'}")  # fmt: skip
        root = Path(folder)
        apart = difference(root / "plain0" / "aligned", root / "accel0" / "data_src" / "aligned")
    median = {
        name: [statistics.median(values) for values in zip(*rows)] for name, rows in times.items()
    }
    ratios = [p[0] / a[0] for p, a in zip(times["plain loop"], times["accel"])]
    return {
        "film": film.name,
        "face_type": kind,
        "faces": {name: found[name] for name in ("plain loop", "accel")},
        "seconds": {name: round(values[0], 3) for name, values in median.items()},
        "cpu_seconds": {name: round(values[1], 3) for name, values in median.items()},
        "ratio": round(statistics.median(ratios), 3),
        "cpu_ratio": round(median["plain loop"][1] / median["accel"][1], 3),
        "landmarks_apart": apart,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("films", nargs="*", type=Path)
    parser.add_argument("--face-types", nargs="*", default=[])
    parser.add_argument("--pictures", nargs="*", type=Path, default=[])
    parser.add_argument("--rounds", type=int, default=3)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        films = args.films
        if not films and not args.pictures:
            films = [render_clip(Path(folder) / "made.mp4")]
        cases = [(film, "whole") for film in films]
        cases += [(film, kind) for film in films[:1] for kind in args.face_types if kind != "whole"]
        cases += [(as_pictures(film, Path(folder)), "whole") for film in args.pictures]
        rows = [measure(film, kind, args.rounds) for film, kind in cases]
    for row in rows:
        print(row)
    rows += kept("extract", rows, "film", "face_type")
    save("extract", {"load": os.getloadavg()[2], "rows": rows, **conditions(os.cpu_count() or 1)})


if __name__ == "__main__":
    main()
