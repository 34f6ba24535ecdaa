"""The interactive merger: how long after a key its picture is there, at 1080p.

What the networks say of the frame is known already, as it is when a person looks at it.
`merge_keys.json`: the time from a key to a JPEG, of one core alone: neighbours do not count.
`merge_browser.json`: from the key until a browser shows a picture of it, and the exact one, by the
clock, on all cores; for a machine that does nothing else, and only where Chromium is installed.
There frames are gone through, too, of a film with one key frame.
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
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_WAIT_POLICY", "passive")  # as the command does, see accel/cli

import av
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
from benchmarks.harness import Figure, conditions, print_rows, save
from tests.pipelines.dfl.chromium import PROGRAM, Chromium

WIDTH, HEIGHT, ROUNDS = 1920, 1080, 5
PRESSES = 20  # of a key in the browser, the first of them included
FILM_FRAMES = 240
OPTIONS = {
    "resolution": 96, "archi": "df-ud", "face_type": "f",
    "ae_dims": 16, "e_dims": 8, "d_dims": 8, "d_mask_dims": 4,
}  # fmt: skip
HARD = {"super_resolution": 50, "mode": "seamless"}
# Settings, and the key that changes them to what the label says.
KEYS: dict[str, tuple[dict[str, Any], str]] = {
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
    for number in range(3):
        frame, points = drawn(number, unit)
        name = f"{number + 1:05d}.png"
        cv2.imwrite(str(root / "data_dst" / name), frame)
        add_face(aligned, name, frame, points)
    add_model(root / "model", resolution)


def make_film(root: Path, unit: int = 320) -> None:
    """A film of one key frame, so that going back is as hard as it can be."""
    aligned = root / "data_dst" / "aligned"
    aligned.mkdir(parents=True)
    frame, points = drawn(0, unit)
    options = {"g": "1000", "sc_threshold": "0", "preset": "veryfast"}
    with av.open(str(root / "data_dst.mp4"), "w") as film:
        stream = film.add_stream("libx264", rate=25, options=options)
        stream.width, stream.height, stream.pix_fmt = WIDTH, HEIGHT, "yuv420p"
        for number in range(FILM_FRAMES):
            moved = np.roll(frame, 2 * number, 1)
            film.mux(stream.encode(av.VideoFrame.from_ndarray(moved, format="bgr24")))
            add_face(aligned, f"{number + 1:05d}.png", moved, points + [2 * number, 0])
        film.mux(stream.encode(None))
    add_model(root / "model", 96)


def add_face(aligned: Path, name: str, frame: np.ndarray, points: np.ndarray) -> None:
    matrix = crop_matrix(points, FaceType.FULL, 256)
    _, jpeg = cv2.imencode(".jpg", cv2.warpAffine(frame, matrix, (256, 256)))
    record = FaceRecord(
        FaceType.FULL, points, source_filename=name, source_landmarks=points, matrix=matrix
    )
    (aligned / name.replace(".png", "_0.jpg")).write_bytes(with_face(jpeg.tobytes(), record))


def add_model(folder: Path, resolution: int) -> None:
    folder.mkdir()
    options = OPTIONS | {"resolution": resolution}
    numbers = {k: v for k, v in options.items() if isinstance(v, int)}
    config = AutoencoderConfig(archi="df-ud", face_type=FaceType.FULL, **numbers)
    network = Autoencoder(config, torch.Generator().manual_seed(0))
    for decoder in (network.decoder_src, network.decoder_dst):
        bias = decoder.out_convm.bias
        assert bias is not None
        torch.nn.init.constant_(bias, 4.0)
    for part, module in network.parts.items():
        write_weights(part_file(folder, "new", "SAEHD", part), to_dfl_order(module))
    write_data(folder / "new_SAEHD_data.dat", {"iter": 1, "options": options})


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
    times = []
    for _ in range(PRESSES):
        live.session.change(1, before)
        live.frames.forget_steps()
        live.picture()
        times.append(shown_after(browser, key))
    first, exact = zip(*times)
    return list(first), list(exact)


def shown_after(browser: Chromium, key: str, is_shifted: bool = False) -> tuple[float, float]:
    browser.value("document.body.dataset.latency = document.body.dataset.exact = ''")
    browser.press(key, is_shifted)
    first = exact = float(browser.wait("document.body.dataset.latency"))
    browser.wait("!document.querySelector('#frame.busy')")
    if browser.value("state.draft || document.body.dataset.exact"):
        exact = float(browser.wait("document.body.dataset.exact"))
    return first, exact


class Drawn(Figure):
    """A key by the processor's clock: the exact picture, and a draft of it."""

    draft_ms: float


class Shown(Figure):
    """A key by the clock on the wall, to the screen: the first picture, and the exact one."""

    p95_ms: float
    worst_ms: float
    exact_ms: float
    drafts: int


class Alone:
    """In place of a pool of threads: all work is done by the thread whose time is counted."""

    def __init__(self, workers: int | None = None) -> None:
        self.map = map

    def __enter__(self) -> Alone:
        return self

    def __exit__(self, *error: object) -> None: ...


def row(label: str, times: list[float]) -> Figure:
    return Figure(
        case=label, implementation="native", peer=False,
        median_ms=round(statistics.median(times), 1), ratio_to_ours=1.0,
    )  # fmt: skip


def scenes() -> Iterator[tuple[str, dict[str, tuple[dict[str, Any], str]], LiveMerger]]:
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
    setattr(merge_effects, "ThreadPoolExecutor", Alone)  # noqa: B010
    rows: list[Drawn] = []
    for prefix, keys, live in scenes():
        live.threads = 1
        for label, (before, key) in keys.items():
            exact, draft = measure(live, MergeSettings(**before), key)
            draft_ms = round(statistics.median(draft), 1)
            rows.append(Drawn(**row(prefix + label, exact), draft_ms=draft_ms))
    print_rows("merge, 1080p, key to JPEG", rows)
    note = "thread CPU time of the exact picture; draft_ms: of a draft for which nothing is kept"
    save("merge_keys", {"op": "merge", "note": note, "rows": rows, **conditions(1)})
    setattr(merge_effects, "ThreadPoolExecutor", ThreadPoolExecutor)  # noqa: B010


@contextmanager
def shown(live: LiveMerger) -> Iterator[Chromium]:
    folder = Path(tempfile.mkdtemp())
    with closing(MergePage(live)) as page, Chromium(folder) as browser:
        browser.open(page.url)
        browser.wait("document.body && document.body.dataset.pictures && window.state")
        yield browser
    shutil.rmtree(folder, ignore_errors=True)


def browser_row(label: str, first: list[float], exact: list[float]) -> Shown:
    return Shown(
        **row(label, first),
        p95_ms=round(float(np.percentile(first, 95)), 1),
        worst_ms=round(max(first), 1),
        exact_ms=round(statistics.median(exact), 1),
        drafts=sum(e > f for e, f in zip(exact, first)),
    )


def frame_rows() -> Iterator[Shown]:
    """Frame by frame through a film, and from its one end to the other."""
    with tempfile.TemporaryDirectory() as folder:
        make_film(Path(folder))
        job = MergeJob(Workspace(folder), MergeConfig(device="cpu"))
        live = LiveMerger(job, Path(folder) / "session.json")
        with closing(job), closing(live), shown(live) as browser:
            for label, key in (("next frame", "."), ("last frame", "/"), ("frame before", ",")):
                times = [
                    shown_after(browser, key, key == "/")
                    for _ in range(1 if key == "/" else 2 * PRESSES)
                ]
                first, exact = zip(*times)
                yield browser_row(label, list(first), list(exact))


def by_clock() -> None:
    cv2.setNumThreads(os.cpu_count() or 1)
    rows = list(frame_rows())
    for prefix, keys, live in scenes():
        with shown(live) as browser:
            for label, (before, key) in keys.items():
                first, exact = measure_shown(live, browser, MergeSettings(**before), key)
                rows.append(browser_row(prefix + label, first, exact))
    print_rows("merge, 1080p, key to screen", rows)
    note = (
        "wall time from a key to the first picture of it (or word that the frame is being read) in"
        f" headless Chromium, of {PRESSES} presses each, the first included; exact_ms: to the exact"
        " picture; drafts: how many of the first ones were drafts"
    )
    save("merge_browser", {"op": "merge", "note": note, "rows": rows, **conditions(2)})


def main(only: str | None = None) -> None:
    if only != "browser":
        by_core()
    if only != "keys" and PROGRAM is not None:
        by_clock()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", choices=("keys", "browser"), help="one of the two files")
    main(parser.parse_args().only)
