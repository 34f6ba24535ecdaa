"""The interactive merger: how long after a key its picture is there, at 1080p.

What the networks say of the frame is known already, as it is when a person looks at it.
`merge_keys.json`: the time from a key to a JPEG, of one core alone: neighbours do not count.
`merge_browser.json`: from the key until a browser shows a picture of it, and the exact one, by the
clock, on all cores; for a machine that does nothing else, and only where Chromium is installed.
"""

from __future__ import annotations

import argparse
import itertools
import os
import shutil
import statistics
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path

os.environ.setdefault("OMP_WAIT_POLICY", "passive")  # as the command does, see accel/cli

import cv2
import numpy as np
import torch

from accel.faces import merge_effects
from accel.faces.autoencoder import Autoencoder, AutoencoderConfig, to_dfl_order
from accel.faces.face_types import FITTED, MEAN_FACE, FaceType, crop_matrix
from accel.faces.faceset import FaceRecord, with_face
from accel.faces.merge_settings import COLORS, MergeSettings
from accel.pipelines.dfl.merge_draft import DRAFT
from accel.pipelines.dfl.merge_job import MergeConfig, MergeJob
from accel.pipelines.dfl.merge_live import LiveMerger, at_level, encoded
from accel.pipelines.dfl.merge_page import MergePage
from accel.pipelines.dfl.workspace import Workspace
from accel.weights.dfl import part_file, write_data, write_weights
from benchmarks.harness import _print, conditions, save
from tests.pipelines.dfl.chromium import PROGRAM, Chromium

WIDTH, HEIGHT, ROUNDS = 1920, 1080, 5
OPTIONS = {
    "resolution": 96, "archi": "df-ud", "face_type": "f",
    "ae_dims": 16, "e_dims": 8, "d_dims": 8, "d_mask_dims": 4,
}  # fmt: skip
HARD = {"super_resolution": 50, "mode": "seamless"}
# Settings, and the key that changes them to what the label says.
KEYS: dict[str, tuple[dict, str]] = {
    "mode overlay": ({"mode": "original"}, "1"),
    "mode hist-match": ({}, "2"),
    "mode seamless": ({}, "3"),
    "mode seamless-hist-match": ({}, "4"),
    "mode raw-rgb": ({}, "5"),
    "mask learned-prd+learned-dst": ({}, "x"),
    **{f"color {new}": ({"color": old}, "c") for old, new in itertools.pairwise(COLORS)},
    "erode 40": ({"erode": 39}, "w"),
    "erode 400": ({"erode": 399}, "w"),
    "blur 40": ({"blur": 39}, "e"),
    "blur 400": ({"blur": 399}, "e"),
    "motion blur 50": ({"motion_blur": 49}, "r"),
    "face scale 5": ({"face_scale": 4}, "u"),
    "super resolution 50": ({"super_resolution": 49}, "t"),
    "super resolution, seamless, sot-m": (HARD | {"color": "idt-m"}, "c"),
    "super resolution, seamless, mix-m": (HARD | {"color": "sot-m"}, "c"),
    "super resolution, seamless-hist-match, sot-m": (HARD | {"color": "sot-m"}, "4"),
    "super resolution, seamless, sot-m, erode": (HARD | {"color": "sot-m", "erode": 4}, "w"),
    "sharpen 10": ({"sharpen": "gaussian", "sharpness": 9}, "y"),
    "soften 100": ({"sharpness": -99}, "h"),
    "denoise 50": ({"denoise": 49}, "i"),
    "denoise 500": ({"denoise": 499}, "i"),
    "bicubic 50": ({"bicubic": 49}, "o"),
    "degrade color 50": ({"color_degrade": 49}, "p"),
    "denoise, bicubic, degrade color": (
        {"denoise": 50, "bicubic": 20, "color_degrade": 49, "mode": "seamless"}, "p",
    ),
}  # fmt: skip
# A face as high as the frame and a model of 224 pixels.
CLOSE = (
    "mode overlay", "mode seamless", "color rct", "color sot-m", "color mix-m", "erode 40",
    "blur 400", "super resolution 50", "super resolution, seamless, sot-m", "denoise 50",
    "degrade color 50",
)  # fmt: skip


def drawn(shift: int, unit: int) -> tuple[np.ndarray, np.ndarray]:
    """A frame [H, W, 3] BGR and the landmarks of the face in it."""
    points = np.zeros((68, 2))
    points[list(FITTED)] = MEAN_FACE
    angle = np.linspace(np.pi, 0, 17)
    points[:17] = np.stack([0.5 + 0.55 * np.cos(angle), 0.25 + 0.85 * np.sin(angle)], 1)
    points[48:] = MEAN_FACE[-2:].mean(0)
    points = points * unit + [960 - unit / 2 + 4 * shift, 540 - unit / 2]
    make = np.random.default_rng(shift)
    small = make.random((9, 16, 3)).astype(np.float32) * 160
    frame = cv2.resize(small, (WIDTH, HEIGHT), interpolation=cv2.INTER_CUBIC)
    cv2.fillConvexPoly(frame, cv2.convexHull(points.astype(np.int32)), (120, 150, 220))
    frame = cv2.GaussianBlur(frame, (0, 0), 5) + make.normal(0, 2, frame.shape)
    return frame.clip(0, 255).astype(np.uint8), points


def make_workspace(root: Path, unit: int = 320, resolution: int = 96) -> None:
    """A clip of three frames, `unit` the size of the face in pixels, and a model for it."""
    aligned = root / "data_dst" / "aligned"
    aligned.mkdir(parents=True)
    (root / "model").mkdir()
    for number in range(3):
        frame, points = drawn(number, unit)
        name = f"{number + 1:05d}.png"
        cv2.imwrite(str(root / "data_dst" / name), frame)
        matrix = crop_matrix(points, FaceType.FULL, 256)
        _, jpeg = cv2.imencode(".jpg", cv2.warpAffine(frame, matrix, (256, 256)))
        record = FaceRecord(
            FaceType.FULL, points, source_filename=name, source_landmarks=points, matrix=matrix
        )
        path = aligned / name.replace(".png", "_0.jpg")
        path.write_bytes(with_face(jpeg.tobytes(), record))
    options = OPTIONS | {"resolution": resolution}
    numbers = {k: v for k, v in options.items() if isinstance(v, int)}
    config = AutoencoderConfig(archi="df-ud", face_type=FaceType.FULL, **numbers)
    network = Autoencoder(config, torch.Generator().manual_seed(0))
    for decoder in (network.decoder_src, network.decoder_dst):
        torch.nn.init.constant_(decoder.out_convm.bias, 4.0)
    for part, module in network.parts.items():
        write_weights(part_file(root / "model", "new", "SAEHD", part), to_dfl_order(module))
    write_data(root / "model" / "new_SAEHD_data.dat", {"iter": 1, "options": options})


def measure(live: LiveMerger, before: MergeSettings, key: str) -> tuple[list[float], list[float]]:
    """Milliseconds to the exact picture and to a draft from nothing, of this thread's own time."""
    exact, draft = [], []
    for _ in range(ROUNDS):
        live.session.change(1, before)
        live.frames.forget_steps()
        live.picture()
        live.press([(key, False)])
        start = time.thread_time()
        live.picture()
        exact.append((time.thread_time() - start) * 1e3)
        start = time.thread_time()
        small, settings = at_level(live.frames.look(1), live.session.settings(1), DRAFT)
        encoded(small.merged(settings), live.zoom)
        draft.append((time.thread_time() - start) * 1e3)
    return exact, draft


def measure_shown(
    live: LiveMerger, browser: Chromium, before: MergeSettings, key: str
) -> tuple[list[float], list[float]]:
    """Milliseconds from a key to the first picture on the screen, and to the exact one."""
    first, exact = [], []
    for _ in range(ROUNDS):
        live.session.change(1, before)
        live.frames.forget_steps()
        live.picture()
        browser.value("document.body.dataset.latency = document.body.dataset.exact = ''")
        browser.press(key)
        first.append(float(browser.wait("document.body.dataset.latency")))
        browser.wait("!document.querySelector('#frame.busy')")
        exact.append(first[-1])
        if browser.value("state.draft || document.body.dataset.exact"):
            exact[-1] = float(browser.wait("document.body.dataset.exact"))
    return first, exact


class Alone:
    """In place of a pool of threads: all work is done by the thread whose time is counted."""

    def __init__(self, workers: int | None = None) -> None:
        self.map = map

    def __enter__(self) -> Alone:
        return self

    def __exit__(self, *error: object) -> None: ...


def row(label: str, times: list[float]) -> dict:
    return {
        "case": label, "implementation": "native", "peer": False,
        "median_ms": round(statistics.median(times), 1), "ratio_to_ours": 1.0,
    }  # fmt: skip


def scenes() -> Iterator[tuple[str, dict[str, tuple[dict, str]], LiveMerger]]:
    """Prefix of the labels, keys, and the merger with all that networks say of its frame."""
    for prefix, unit, resolution in (("", 320, 96), ("close-up, 224 px: ", 560, 224)):
        keys = {label: KEYS[label] for label in (CLOSE if prefix else KEYS)}
        with tempfile.TemporaryDirectory() as folder:
            make_workspace(Path(folder), unit, resolution)
            job = MergeJob(Workspace(folder), MergeConfig(device="cpu"))
            with closing(job), closing(LiveMerger(job, Path(folder) / "session.json")) as live:
                live.go(1)
                live.merged(1, MergeSettings(super_resolution=1))
                yield prefix, keys, live


def by_core() -> None:
    cv2.setNumThreads(1)
    merge_effects.ThreadPoolExecutor = Alone
    rows = []
    for prefix, keys, live in scenes():
        live.threads = 1
        for label, (before, key) in keys.items():
            exact, draft = measure(live, MergeSettings(**before), key)
            more = {"draft_ms": round(statistics.median(draft), 1)}
            rows.append(row(prefix + label, exact) | more)
    _print("merge, 1080p, key to JPEG", rows)
    note = "thread CPU time of the exact picture; draft_ms: of a draft for which nothing is kept"
    save("merge_keys", {"op": "merge", "note": note, "rows": rows, **conditions(1)})
    merge_effects.ThreadPoolExecutor = ThreadPoolExecutor


def by_clock() -> None:
    cv2.setNumThreads(os.cpu_count() or 1)
    rows = []
    for prefix, keys, live in scenes():
        folder = Path(tempfile.mkdtemp())
        with closing(MergePage(live)) as page, Chromium(folder) as browser:
            browser.open(page.url)
            browser.wait("document.body && document.body.dataset.pictures && window.state")
            for label, (before, key) in keys.items():
                first, exact = measure_shown(live, browser, MergeSettings(**before), key)
                more = {
                    "worst_ms": round(max(first), 1),
                    "exact_ms": round(statistics.median(exact), 1),
                    "drafts": sum(e > f for e, f in zip(exact, first)),
                }
                rows.append(row(prefix + label, first) | more)
        shutil.rmtree(folder, ignore_errors=True)
    _print("merge, 1080p, key to screen", rows)
    note = (
        "wall time from a key to the first picture of it in headless Chromium; exact_ms: to the"
        f" exact one; drafts: how many of {ROUNDS} first ones were drafts"
    )
    save("merge_browser", {"op": "merge", "note": note, "rows": rows, **conditions(2)})


def main() -> None:
    by_core()
    if PROGRAM is not None:
        by_clock()


if __name__ == "__main__":
    argparse.ArgumentParser(description=__doc__).parse_args()
    main()
