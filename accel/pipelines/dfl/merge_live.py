"""The interactive merger without its window: keys go in, pictures come out.

What the networks say of a frame is kept, and what each step gave: a change of settings costs the
steps it touches. Settings are saved a moment after each change: closing the window loses nothing.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from accel.core import Cancel, Cancelled, ConfigError, InputError, Progress, Refused
from accel.faces.merge_settings import MODES, MergeSettings
from accel.kernels import planes_to_rgb
from accel.kernels._native import limit_threads
from accel.pipelines.dfl.made import remember
from accel.pipelines.dfl.merge import run_merge
from accel.pipelines.dfl.merge_draft import (
    DRAFT,
    EXACT,
    ROUGH,
    SOON_S,
    Pace,
    kind_of,
    shrunk_settings,
)
from accel.pipelines.dfl.merge_job import MergeJob
from accel.pipelines.dfl.merge_keys import changed, rows
from accel.pipelines.dfl.merge_looked import Looked, LookedFrames, Rgb
from accel.pipelines.dfl.merge_session import MergeSession, load_session

JPEG_QUALITY = 90
ZOOMS = (320, 480, 640, 960, 1280, 1920, 3840)  # widths of the preview, in pixels
SAVE_AFTER_S = 0.2
BUSY = "the clip is being merged, which > or esc stops; other keys do nothing meanwhile"


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
        self.frames = LookedFrames(job)
        self._pace = Pace()
        self._encoding: dict[tuple[int, int], float] = {}  # seconds, by level and zoom
        self._newer = Cancel()  # set when what is being made is asked for no longer
        self._lock = threading.RLock()  # of all of the above
        self._saver = _Saver(self._save_now)
        self._merging: _Merging | None = None
        self.broken_off = 0  # frames that a merge made which was stopped; films are not counted

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
            self._newer.set()
            self._newer = Cancel()
            for key, is_shifted in keys:
                self._press(key, is_shifted)

    def _press(self, key: str, is_shifted: bool) -> None:
        if self._merging is not None and self._merging.is_running:
            if key == "escape" or (key == "." and is_shifted):
                self._merging.cancel.set()
            else:
                self.note = BUSY
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

        hurried: rather a draft soon than the exact picture late; the state tells which it is, and
        how wide it is to be shown. Of a frame that takes long to read there is no picture yet.
        Raises Cancelled when keys are pressed meanwhile.
        """
        started = time.perf_counter()
        with self._lock:
            number, settings = self.number, self.session.settings(self.number)
            zoom, is_checkered, newer = self.zoom, self.is_checkered, self._newer
        level, scale = EXACT, 1.0
        try:
            looked = (
                self.frames.look_within(number, SOON_S) if hurried else self.frames.look(number)
            )
            if looked is None:
                return b"", self.state() | {"ms": _ms_since(started), "draft": True}
            level = self._level(looked, settings, zoom) if hurried else EXACT
            rgb, scale = self._shown(looked, settings, level, is_checkered, newer)
        except (ConfigError, InputError) as error:
            rgb = np.zeros((9, 16, 3), np.uint8)
            self.note = str(error)
        begun = time.perf_counter()
        jpeg = encoded(rgb, zoom)
        self._encoding[level, zoom] = time.perf_counter() - begun
        state = self.state() | {
            "ms": _ms_since(started),
            "draft": level != EXACT,
            "width": min(zoom, round(rgb.shape[1] / scale)),
        }
        if self._merging is None or not self._merging.is_running:
            self.frames.look_ahead(number)
        return jpeg, state

    def merged(self, number: int, settings: MergeSettings, is_checkered: bool = False) -> Rgb:
        """A frame merged, [H, W, 3]; just as a run without a window merges it."""
        return self._shown(self.frames.look(number), settings, EXACT, is_checkered, Cancel())[0]

    def _shown(
        self, looked: Looked, settings: MergeSettings, level: int, is_checkered: bool, newer: Cancel
    ) -> tuple[Rgb, float]:
        """A picture, and how large it is as a part of the frame."""
        if level == EXACT:
            looked.ask(self.job.predictor, settings)
        one, wanted = at_level(looked, settings, level)
        if one.predictions is None:
            return planes_to_rgb(one.planes).numpy(), one.scale  # as it was filmed
        kind = kind_of(wanted, one.last, one.faces)
        # Short work is done by one thread: threads that wait for each other on a busy machine take
        # longer than one alone.
        is_short = level != EXACT or self._pace.expected(level, kind) <= SOON_S
        limit_threads(1 if is_short else self.threads)
        started = time.perf_counter()
        rgb = one.merged(
            wanted, seed=self.session.seed, variant=self.session.color_variant,
            is_checkered=is_checkered, cancel=newer,
        )  # fmt: skip
        self._pace.note(level, kind, time.perf_counter() - started)
        return rgb, one.scale

    def _level(self, looked: Looked, settings: MergeSettings, zoom: int) -> int:
        """The best picture that is there soon, as far as earlier ones tell."""
        if not looked.has(settings):
            return ROUGH
        for level in (EXACT, DRAFT):
            one, wanted = at_level(looked, settings, level)
            making = self._pace.expected(level, kind_of(wanted, one.last, one.faces))
            if making + self._encoding.get((level, zoom), 0.0) <= SOON_S:
                return level
        return ROUGH

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
        self.frames.close()
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
            live.broken_off = 0
            if live.job.config.to is not None:  # merged once more, it is this person's own film
                live.job.config = replace(live.job.config, overwrite=True)
            live.note = f"{live.finished['output']}: merged"
        except Cancelled:
            live.note = "stopped; what was merged is kept"
        except Refused as error:
            live.note = f"refused: {error}"
        except (ConfigError, OSError) as error:
            live.note = str(error)

    def _look(self, progress: Progress) -> None:
        self.progress = progress
        if self.live.job.config.to is None:
            self.live.broken_off += 1

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
            job.notes.append(f"settings of the last time go on; remove {path} to begin anew")
        except InputError as error:
            old = path.with_name(path.name + ".old")
            path.replace(old)
            job.notes.append(f"settings were put aside as {old.name}: {error}")
    live = LiveMerger(job, path)
    live.note = "; ".join([*job.notes, *job.source.notes[-1:]])
    return live


def at_level(looked: Looked, settings: MergeSettings, level: int) -> tuple[Looked, MergeSettings]:
    """The frame, whole or shrunk, and the settings that it is merged with."""
    if level == EXACT:
        return looked, settings
    small = looked.small()
    return small, shrunk_settings(settings, small.scale, is_rough=level == ROUGH)


def _ms_since(started: float) -> float:
    return round((time.perf_counter() - started) * 1e3, 1)


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
