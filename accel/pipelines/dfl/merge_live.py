"""The interactive merger without its window: keys go in, pictures come out.

What the networks say of a frame is kept, so that a change of settings costs the arithmetic alone.
Settings are saved a moment after each change; who closes the window loses nothing.
"""

from __future__ import annotations

import os
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

from accel.core import Cancel, Cancelled, ConfigError, InputError, Progress
from accel.faces.merge_mask import Prediction
from accel.faces.merge_settings import MODES, MergeSettings
from accel.kernels import planes_to_rgb
from accel.kernels._native import limit_threads
from accel.kernels.planes import Planes
from accel.pipelines.dfl.made import remember
from accel.pipelines.dfl.merge import MergeJob, run_merge
from accel.pipelines.dfl.merge_faces import FrameFaces
from accel.pipelines.dfl.merge_frame import (
    Kept,
    complete_predictions,
    merge_frame,
    predict_faces,
    raw_picture,
)
from accel.pipelines.dfl.merge_keys import changed, rows
from accel.pipelines.dfl.merge_model import Predictor
from accel.pipelines.dfl.merge_session import MergeSession, load_session

FRAMES_KEPT = 6  # with what the networks said of them
JPEG_QUALITY = 90
ZOOMS = (320, 480, 640, 960, 1280, 1920, 3840)  # widths of the preview, in pixels
CHECKER_PX = 12
SAVE_AFTER_S = 0.2
LONG_COLORS = ("sot-m", "mix-m")
LONG_S = 0.15  # who waits longer for a picture is shown a draft first

Rgb = npt.NDArray[np.uint8]


class Looked:
    """A frame that was looked at, and what is known of it."""

    def __init__(self, planes: Planes) -> None:
        self.planes = planes
        self.predictions: list[Prediction] | None = None
        self.kept = Kept()
        self.merging, self.asking = threading.Lock(), threading.Lock()

    def has(self, settings: MergeSettings) -> bool:
        """Whether the networks said all that a merge with these settings needs."""
        if self.predictions is None:
            return False
        return all(
            not (settings.super_resolution and one.enhanced is None)
            and not (settings.needs_xseg and one.xseg_prd is None)
            for one in self.predictions
        )

    def ask(self, faces: FrameFaces, predictor: Predictor, settings: MergeSettings) -> None:
        """Let the networks say what a merge with these settings needs; who asks last waits."""
        if self.has(settings):
            return
        with self.asking:
            if self.predictions is None:
                self.predictions = predict_faces(self.planes, faces, predictor, settings)
            complete_predictions(self.predictions, self.planes, faces, predictor, settings)


class LiveMerger:
    """One person at work on one clip. May be called from several threads.

    path: where the settings are saved. finished: the report of the merge, once it was done.
    threads: that a picture may take.
    """

    def __init__(self, job: MergeJob, path: Path) -> None:
        self.job, self.path = job, path
        self.number = self._first()
        self.zoom, self.is_checkered = 960, False
        self.threads = os.cpu_count() or 1
        self.note = ""
        self.finished: dict[str, Any] | None = None
        self.is_closing = False
        self._looked: OrderedDict[int, Looked] = OrderedDict()
        self._seconds: dict[tuple[object, ...], float] = {}  # that kinds of pictures took last
        self._making: dict[int, Future[Looked]] = {}
        self._lock = threading.RLock()  # of all of the above
        self._ahead = ThreadPoolExecutor(1, "accel-ahead")
        self._saver = _Saver(self._save_now)
        self._merging: _Merging | None = None

    @property
    def session(self) -> MergeSession:
        return self.job.session

    def _first(self) -> int:
        """Where the session was left, or the first frame with a face."""
        cursor = self.job.session.cursor
        if cursor in self.job.session.names:
            return self.job.session.names.index(cursor)
        with_face = (i for i, frame in enumerate(self.job.table.by_frame) if frame.places)
        return next(with_face, 0)

    # --- keys -----------------------------------------------------------------------------------

    def press(self, keys: Sequence[tuple[str, bool]]) -> None:
        """Do what keys say, in order: each its character without shift, and whether shift is held.

        A key that means nothing is passed over.
        """
        with self._lock:
            for key, is_shifted in keys:
                self._press(key, is_shifted)

    def _press(self, key: str, is_shifted: bool) -> None:
        if self._merging is not None and self._merging.is_running:
            if key == "escape" or (key == "." and is_shifted):
                self._merging.cancel.set()
            return
        self.note = ""
        act = self._actions().get((key, is_shifted)) or self._actions().get((key, None))
        if act is not None:
            act()
            return
        settings = changed(
            self.session.settings(self.number), key, is_shifted, self.job.predictor.xseg is not None
        )
        if settings is not None:
            self.session.change(self.number, settings)
            self._saver.ask()

    def _actions(self) -> dict[tuple[str, bool | None], Callable[[], None]]:
        last = len(self.session.names) - 1
        return {
            (",", False): lambda: self.go(self.number - 1),
            (".", False): lambda: self.go(self.number + 1),
            (",", True): lambda: self.go(0),
            (".", True): self.start_merging,
            ("m", False): lambda: self._spread(self.number - 1),
            ("/", False): lambda: self._spread(self.number + 1),
            ("m", True): lambda: self._spread(0),
            ("/", True): lambda: self._spread(last),
            ("v", None): self._toggle_checker,
            ("-", None): lambda: self._zoom(-1),
            ("=", None): lambda: self._zoom(1),
            ("escape", None): self.leave,
        }

    def go(self, number: int) -> None:
        """Look at another frame; the one that is left keeps its settings."""
        number = min(max(number, 0), len(self.session.names) - 1)
        if number != self.number:
            self.session.keep(self.number)
            self.number = number
        self.session.cursor = self.session.names[number]
        self._saver.ask()

    def _spread(self, number: int) -> None:
        """Give this frame's settings to all frames up to `number`, and go there."""
        number = min(max(number, 0), len(self.session.names) - 1)
        settings = self.session.settings(self.number)
        after = max(number, self.number) + 1
        if after < len(self.session.names):
            self.session.keep(after)  # what comes behind is not meant
        for i in range(min(number, self.number), after):
            self.session.change(i, settings)
        self.number = number
        self.session.cursor = self.session.names[number]
        self._saver.ask()

    def _toggle_checker(self) -> None:
        self.is_checkered = not self.is_checkered

    def _zoom(self, step: int) -> None:
        place = ZOOMS.index(self.zoom) + step
        self.zoom = ZOOMS[min(max(place, 0), len(ZOOMS) - 1)]

    def leave(self) -> None:
        self.is_closing = True

    # --- pictures -------------------------------------------------------------------------------

    def picture(self, *, hurried: bool = False) -> tuple[bytes, dict[str, Any]]:
        """The frame that is looked at, merged, as JPEG; and the state that it shows.

        hurried: rather a draft soon than the exact picture late; the state tells which it is.
        """
        started = time.perf_counter()
        with self._lock:
            number, settings = self.number, self.session.settings(self.number)
            zoom, is_checkered = self.zoom, self.is_checkered
        # Short work is done by one thread: threads that wait for each other on a busy machine take
        # longer than one alone.
        is_long = settings.super_resolution or settings.changes_background
        is_long = is_long or settings.color in LONG_COLORS
        limit_threads(self.threads if is_long else 1)
        is_draft = False
        try:
            draft = self._draft(number, settings) if hurried else None
            is_draft = draft is not None
            rgb = self.merged(number, settings, is_checkered) if draft is None else draft
        except (ConfigError, InputError) as error:
            rgb = np.zeros((9, 16, 3), np.uint8)
            self.note = str(error)
        jpeg = encoded(rgb, zoom)
        seconds = time.perf_counter() - started
        if not is_draft:
            self._seconds[_kind(settings)] = seconds
        state = self.state() | {"ms": round(seconds * 1e3, 1), "draft": is_draft}
        self._look_ahead(number)
        return jpeg, state

    def merged(self, number: int, settings: MergeSettings, is_checkered: bool = False) -> Rgb:
        """A frame merged, [H, W, 3]; just as a run without a window merges it."""
        looked, faces = self._look(number), self.job.table.by_frame[number]
        looked.ask(faces, self.job.predictor, settings)
        return self._merge(looked, faces, settings, is_checkered)

    def _merge(
        self, looked: Looked, faces: FrameFaces, settings: MergeSettings, is_checkered: bool
    ) -> Rgb:
        assert looked.predictions is not None
        with looked.merging:
            planes = looked.planes.clone()
            made = merge_frame(
                planes, faces, looked.predictions, settings, seed=self.session.seed,
                variant=self.session.color_variant, kept=looked.kept,
            )  # fmt: skip
        if made.crops:
            return raw_picture(made.crops)
        rgb: Rgb = planes_to_rgb(planes).numpy()
        return on_checkerboard(rgb, made.mask) if is_checkered else rgb

    def _draft(self, number: int, settings: MergeSettings) -> Rgb | None:
        """Something to look at while the exact picture takes long; None if that is there soon."""
        looked, faces = self._look(number), self.job.table.by_frame[number]
        if looked.predictions is None:
            return planes_to_rgb(looked.planes).numpy()  # the frame as it was filmed
        if looked.has(settings) and self._seconds.get(_kind(settings), 0.0) < LONG_S:
            return None
        quick = replace(settings, super_resolution=0)
        if settings.super_resolution == 0 and settings.color in LONG_COLORS:
            quick = replace(settings, color="rct")
        if quick == settings or not looked.has(quick):
            return None
        return self._merge(looked, faces, quick, False)

    def _look(self, number: int) -> Looked:
        """What is known of a frame; several that ask at once share the work."""
        with self._lock:
            if number in self._looked:
                self._looked.move_to_end(number)
                return self._looked[number]
            future = self._making.get(number)
            if future is None:
                mine: Future[Looked] = Future()
                self._making[number] = mine
        if future is not None:
            return future.result()
        try:
            frame = self.job.source.read(self.job.source.names[number])
            looked = Looked(frame.planes.clone())
            mine.set_result(looked)
        except BaseException as error:
            mine.set_exception(error)
            raise
        finally:
            with self._lock:
                del self._making[number]
        with self._lock:
            self._looked[number] = looked
            while len(self._looked) > FRAMES_KEPT:
                self._looked.popitem(last=False)
        return looked

    def _look_ahead(self, number: int) -> None:
        """Make ready what is likely asked for next: the neighbours, and super-resolution."""
        if self._merging is not None and self._merging.is_running:
            return
        self.forget_steps(lambda n: abs(n - number) > 1)
        for near in (number, number + 1, number - 1):
            if 0 <= near < len(self.session.names):
                self._ahead.submit(self._make_ready, near)

    def forget_steps(self, of: Callable[[int], bool] = lambda number: True) -> None:
        """Let go of what merging frames took, which is as large as many frames."""
        with self._lock:
            for number, looked in self._looked.items():
                if of(number):
                    looked.kept = Kept()

    def _make_ready(self, number: int) -> None:
        if abs(number - self.number) > 1 or self.is_closing:
            return
        limit_threads(1)
        settings = self.session.settings(number)
        if number == self.number and not settings.super_resolution:
            settings = replace(settings, super_resolution=1)
        try:
            looked = self._look(number)
            looked.ask(self.job.table.by_frame[number], self.job.predictor, settings)
            if settings.roughens_background and number != self.number:
                with looked.merging:
                    looked.kept.background(looked.planes, settings)
        except (ConfigError, InputError) as error:
            self.note = str(error)  # whoever goes there is told again

    # --- state ----------------------------------------------------------------------------------

    def state(self) -> dict[str, Any]:
        """What the page shows beside the picture."""
        with self._lock:
            number = self.number
            merging = self._merging.told() if self._merging else None
            return {
                "number": number,
                "total": len(self.session.names),
                "name": self.session.names[number],
                "faces": len(self.job.table.by_frame[number].places),
                "own": self.session.names[number] in self.session.own,
                "rows": rows(self.session.settings(number)),
                "modes": MODES,
                "zoom": self.zoom,
                "checkered": self.is_checkered,
                "merging": merging,
                "finished": None if self.finished is None else str(self.finished["output"]),
                "closing": self.is_closing,
                "model": f"{self.job.model.label}, iteration {self.job.model.iteration}",
                "note": self.note,
            }

    def _save_now(self) -> None:
        with self._lock:
            session = self.session
            copy = MergeSession(
                session.names, session.default, dict(session.own), session.seed,
                session.color_variant, session.names[self.number],
            )  # fmt: skip
        try:
            copy.save(self.path)
        except ConfigError as error:
            self.note = str(error)

    # --- the whole clip -------------------------------------------------------------------------

    def start_merging(self) -> None:
        """Merge the whole clip in a thread of its own."""
        self._saver.ask()
        self._merging = _Merging(self)

    def wait(self) -> None:
        """Until a merge that runs is done."""
        if self._merging is not None:
            self._merging.thread.join()

    def close(self) -> None:
        """Stop what runs, and save."""
        self.is_closing = True
        if self._merging is not None:
            self._merging.cancel.set()
        self.wait()
        self._ahead.shutdown(cancel_futures=True)
        self._saver.close()


class _Merging:
    """A merge of the whole clip that is going on."""

    def __init__(self, live: LiveMerger) -> None:
        self.live, self.cancel = live, Cancel()
        self.progress = Progress(stage="merge", done=0, total=len(live.session.names))
        self.thread = threading.Thread(target=self._run, name="accel-merge")
        self.thread.start()

    @property
    def is_running(self) -> bool:
        return self.thread.is_alive()

    def _run(self) -> None:
        live = self.live
        try:
            live.finished = run_merge(live.job, progress=self._look, cancel=self.cancel)
            live.note = f"{live.finished['output']}: merged"
        except Cancelled:
            live.note = "stopped; what was merged is kept"
        except (ConfigError, OSError) as error:
            live.note = str(error)

    def _look(self, progress: Progress) -> None:
        self.progress = progress

    def told(self) -> dict[str, Any]:
        p = self.progress
        return {"running": self.is_running, "done": p.done, "total": p.total, "fps": p.rate}


class _Saver:
    """Calls `save` soon after it was asked to, once for all that asked meanwhile."""

    def __init__(self, save: Callable[[], None]) -> None:
        self._save = save
        self._asked, self._ended = threading.Event(), threading.Event()
        self._thread = threading.Thread(target=self._run, name="accel-save", daemon=True)
        self._thread.start()

    def ask(self) -> None:
        self._asked.set()

    def close(self) -> None:
        self._ended.set()
        self._asked.set()
        self._thread.join()
        self._save()

    def _run(self) -> None:
        while not self._ended.is_set():
            self._asked.wait()
            self._asked.clear()
            if not self._ended.is_set():
                self._save()
                self._ended.wait(SAVE_AFTER_S)


def open_live(job: MergeJob) -> LiveMerger:
    """Take up the settings that were saved for this clip and model, or begin with the job's.

    They lie in the file that `config` names, else beside the model. Settings of another clip are
    put aside under another name.
    """
    path = job.config.config or session_path(job)
    if job.config.config is None:
        remember(path.parent, [path.name])
    if job.config.config is None and path.exists():
        try:
            job.session = load_session(path, job.session.names, job.config.settings)
        except InputError as error:
            old = path.with_name(path.name + ".old")
            path.replace(old)
            job.source.notes.append(f"settings were put aside as {old.name}: {error}")
    live = LiveMerger(job, path)
    live.note = "; ".join(job.source.notes[-1:])
    return live


def _kind(settings: MergeSettings) -> tuple[object, ...]:
    """Settings that decide how long a picture takes."""
    return (
        settings.mode, settings.color, bool(settings.super_resolution), bool(settings.denoise),
        bool(settings.bicubic), bool(settings.color_degrade),
    )  # fmt: skip


def session_path(job: MergeJob) -> Path:
    return job.workspace.model / f"{job.model.label}_merger_session.json"


def encoded(rgb: Rgb, width: int) -> bytes:
    """A JPEG no wider than `width`; small pictures are not enlarged."""
    if rgb.shape[1] > width:
        height = max(1, round(rgb.shape[0] * width / rgb.shape[1]))
        rgb = np.asarray(cv2.resize(rgb, (width, height), interpolation=cv2.INTER_AREA), np.uint8)
    bgr = cv2.cvtColor(rgb, cv2.COLOR_RGB2BGR)
    good, data = cv2.imencode(".jpg", bgr, [cv2.IMWRITE_JPEG_QUALITY, JPEG_QUALITY])
    if not good:
        raise ConfigError(f"preview: a picture of {rgb.shape} could not be encoded")
    return data.tobytes()


def on_checkerboard(rgb: Rgb, mask: npt.NDArray[np.float32]) -> Rgb:
    """The picture where the mask is, a checkerboard where it is not."""
    rows_of, columns_of = (np.arange(n) // CHECKER_PX for n in mask.shape)
    light = ((rows_of[:, None] + columns_of) % 2).astype(np.float32) * 64 + 128
    shown = light[..., None] + mask[..., None] * (rgb - light[..., None])
    return np.asarray(shown + 0.5, np.uint8)
