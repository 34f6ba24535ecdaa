"""The interactive merger: how long after a key its picture is there, at 1080p.

What the networks say of the frame is known already, as it is when a person looks at it. One core
works; the time is that core's own, so that neighbours do not count.
"""

from __future__ import annotations

import statistics
import tempfile
import time
from contextlib import closing
from pathlib import Path

import cv2
import numpy as np
import torch

from accel.faces import merge_effects
from accel.faces.autoencoder import Autoencoder, AutoencoderConfig, to_dfl_order
from accel.faces.face_types import FITTED, MEAN_FACE, FaceType, crop_matrix
from accel.faces.faceset import FaceRecord, with_face
from accel.pipelines.dfl.merge import MergeConfig, MergeJob, MergeSettings
from accel.pipelines.dfl.merge_live import LiveMerger
from accel.pipelines.dfl.workspace import Workspace
from accel.weights.dfl import part_file, write_data, write_weights
from benchmarks.harness import _print, conditions, save

WIDTH, HEIGHT, UNIT, ROUNDS = 1920, 1080, 320, 5
OPTIONS = {
    "resolution": 96, "archi": "df-ud", "face_type": "f",
    "ae_dims": 16, "e_dims": 8, "d_dims": 8, "d_mask_dims": 4,
}  # fmt: skip
# The setting that a key changes, from what to what.
CHANGES: dict[str, tuple[dict, dict]] = {
    "mode overlay": ({"mode": "original"}, {}),
    "mode hist-match": ({}, {"mode": "hist-match"}),
    "mode seamless": ({}, {"mode": "seamless"}),
    "mode seamless-hist-match": ({}, {"mode": "seamless-hist-match"}),
    "mode raw-rgb": ({}, {"mode": "raw-rgb"}),
    "mask dst": ({}, {"mask": "dst"}),
    **{f"color {c}": ({}, {"color": c})
       for c in ("lct", "mkl", "mkl-m", "idt", "idt-m", "sot-m", "mix-m")},
    "erode 40": ({"erode": 39}, {"erode": 40}),
    "erode 400": ({"erode": 399}, {"erode": 400}),
    "blur 40": ({"blur": 39}, {"blur": 40}),
    "blur 400": ({"blur": 399}, {"blur": 400}),
    "motion blur 50": ({"motion_blur": 49}, {"motion_blur": 50}),
    "face scale 5": ({"face_scale": 4}, {"face_scale": 5}),
    "super resolution 50": ({"super_resolution": 49}, {"super_resolution": 50}),
    "super resolution, seamless, sot-m": (
        {"super_resolution": 50, "mode": "seamless"},
        {"super_resolution": 50, "mode": "seamless", "color": "sot-m"},
    ),
    "sharpen 10": ({"sharpen": "gaussian"}, {"sharpen": "gaussian", "sharpness": 10}),
    "denoise 50": ({"denoise": 49}, {"denoise": 50}),
    "denoise 500": ({"denoise": 499}, {"denoise": 500}),
    "bicubic 50": ({"bicubic": 49}, {"bicubic": 50}),
    "degrade color 50": ({"color_degrade": 49}, {"color_degrade": 50}),
}  # fmt: skip


def drawn(shift: int) -> tuple[np.ndarray, np.ndarray]:
    """A frame [H, W, 3] BGR and the landmarks of the face in it."""
    points = np.zeros((68, 2))
    points[list(FITTED)] = MEAN_FACE
    angle = np.linspace(np.pi, 0, 17)
    points[:17] = np.stack([0.5 + 0.55 * np.cos(angle), 0.25 + 0.85 * np.sin(angle)], 1)
    points[48:] = MEAN_FACE[-2:].mean(0)
    points = points * UNIT + [800 + 4 * shift, 380]
    make = np.random.default_rng(shift)
    small = make.random((9, 16, 3)).astype(np.float32) * 160
    frame = cv2.resize(small, (WIDTH, HEIGHT), interpolation=cv2.INTER_CUBIC)
    cv2.fillConvexPoly(frame, cv2.convexHull(points.astype(np.int32)), (120, 150, 220))
    frame = cv2.GaussianBlur(frame, (0, 0), 5) + make.normal(0, 2, frame.shape)
    return frame.clip(0, 255).astype(np.uint8), points


def make_workspace(root: Path) -> None:
    aligned = root / "data_dst" / "aligned"
    aligned.mkdir(parents=True)
    (root / "model").mkdir()
    for number in range(3):
        frame, points = drawn(number)
        name = f"{number + 1:05d}.png"
        cv2.imwrite(str(root / "data_dst" / name), frame)
        matrix = crop_matrix(points, FaceType.FULL, 256)
        _, jpeg = cv2.imencode(".jpg", cv2.warpAffine(frame, matrix, (256, 256)))
        record = FaceRecord(
            FaceType.FULL, points, source_filename=name, source_landmarks=points, matrix=matrix
        )
        path = aligned / name.replace(".png", "_0.jpg")
        path.write_bytes(with_face(jpeg.tobytes(), record))
    numbers = {k: v for k, v in OPTIONS.items() if isinstance(v, int)}
    config = AutoencoderConfig(archi="df-ud", face_type=FaceType.FULL, **numbers)
    network = Autoencoder(config, torch.Generator().manual_seed(0))
    for decoder in (network.decoder_src, network.decoder_dst):
        torch.nn.init.constant_(decoder.out_convm.bias, 4.0)
    for part, module in network.parts.items():
        write_weights(part_file(root / "model", "new", "SAEHD", part), to_dfl_order(module))
    write_data(root / "model" / "new_SAEHD_data.dat", {"iter": 1, "options": OPTIONS})


def measure(live: LiveMerger, before: dict, after: dict) -> float:
    """Median seconds of a picture right after the setting changed."""
    times = []
    for _ in range(ROUNDS):
        live.session.change(1, MergeSettings(**before))
        live.picture()
        live.session.change(1, MergeSettings(**after))
        start = time.thread_time()
        live.picture()
        times.append(time.thread_time() - start)
    return statistics.median(times)


class Alone:
    """In place of a pool of threads: all work is done by the thread whose time is counted."""

    def __init__(self, workers: int | None = None) -> None:
        self.map = map

    def __enter__(self) -> Alone:
        return self

    def __exit__(self, *error: object) -> None: ...


def main() -> None:
    cv2.setNumThreads(1)
    merge_effects.ThreadPoolExecutor = Alone
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        make_workspace(Path(folder))
        job = MergeJob(Workspace(folder), MergeConfig(device="cpu"))
        with closing(job), closing(LiveMerger(job, Path(folder) / "session.json")) as live:
            live.go(1)
            for label, (before, after) in CHANGES.items():
                seconds = measure(live, before, after)
                rows.append(
                    {
                        "case": label,
                        "implementation": "native",
                        "peer": False,
                        "median_ms": round(seconds * 1e3, 1),
                        "ratio_to_ours": 1.0,
                    }
                )
    _print("merge, 1080p, key to JPEG", rows)
    save("merge_keys", {"op": "merge", "note": "thread CPU time", "rows": rows, **conditions(1)})


if __name__ == "__main__":
    main()
