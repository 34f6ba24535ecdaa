"""Frames that the interactive merger looks at: what networks said of them, and what merging took.

What is likely looked at next is made ready by a thread of its own.
"""

from __future__ import annotations

import os
import sys
import threading
from collections import OrderedDict
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import suppress
from dataclasses import replace

import cv2
import numpy as np
import numpy.typing as npt

from accel.core import Cancel, ConfigError, InputError
from accel.faces.merge_mask import Prediction
from accel.faces.merge_settings import MASKS, MergeSettings
from accel.kernels import planes_to_rgb
from accel.kernels._native import limit_threads
from accel.kernels.planes import Planes
from accel.pipelines.dfl.merge_draft import (
    complete_shrunk,
    draft_scale,
    shrunk_faces,
    shrunk_planes,
    shrunk_prediction,
)
from accel.pipelines.dfl.merge_faces import FrameFaces
from accel.pipelines.dfl.merge_frame import (
    Kept,
    complete_predictions,
    merge_frame,
    predict_faces,
    raw_picture,
)
from accel.pipelines.dfl.merge_job import MergeJob
from accel.pipelines.dfl.merge_model import Predictor

XSEG_MASK = MASKS[6]
FRAMES_KEPT = 6
READERS = 4  # frames that are waited for at a time; some may have been gone away from
CHECKER_PX = 12
BEHIND = 10  # niceness of threads that make ready what nobody asked for yet

Rgb = npt.NDArray[np.uint8]


class Looked:
    """A frame, whole or shrunk, and what is known of it.

    scale: its size as a part of the frame. last: settings of its last picture, whose steps are
    kept.
    """

    def __init__(self, planes: Planes, faces: FrameFaces, scale: float = 1.0) -> None:
        self.planes, self.faces, self.scale = planes, faces, scale
        self.predictions: list[Prediction] | None = None
        self.last: MergeSettings | None = None
        self.kept = Kept()
        self.merging, self._asking, self._shrinking = (threading.Lock() for _ in range(3))
        self._small: Looked | None = None

    def has(self, settings: MergeSettings) -> bool:
        """Whether the networks said all that a merge with these settings needs."""
        if self.predictions is None:
            return False
        return all(
            not (settings.super_resolution and one.enhanced is None)
            and not (settings.needs_xseg and one.xseg_prd is None)
            for one in self.predictions
        )

    def ask(self, predictor: Predictor, settings: MergeSettings) -> None:
        """Let the networks say what a merge with these settings needs; who asks last waits."""
        if self.has(settings):
            return
        with self._asking:
            if self.predictions is None:
                self.predictions = predict_faces(self.planes, self.faces, predictor, settings)
            complete_predictions(self.predictions, self.planes, self.faces, predictor, settings)

    def small(self) -> Looked:
        """The frame shrunk for drafts, with what the networks have said of it."""
        scale = draft_scale(self.planes)
        with self._shrinking:
            if self._small is None:
                planes, faces = shrunk_planes(self.planes, scale), shrunk_faces(self.faces, scale)
                self._small = Looked(planes, faces, scale)
            small, known = self._small, self.predictions or []
            if small.predictions is None and self.predictions is not None:
                small.predictions = [shrunk_prediction(one, scale) for one in known]
            for little, one in zip(small.predictions or [], known):
                complete_shrunk(little, one)
        return small

    def merged(
        self,
        settings: MergeSettings,
        *,
        seed: int = 0,
        variant: str = "dfl",
        is_checkered: bool = False,
        cancel: Cancel | None = None,
    ) -> Rgb:  # [H, W, 3]
        """The frame merged. Raises Cancelled between two steps; what was made till then is kept."""
        assert self.predictions is not None
        with self.merging:
            if cancel:
                cancel.check()
            planes = self.planes.clone()
            made = merge_frame(
                planes, self.faces, self.predictions, settings, seed=seed, variant=variant,
                kept=self.kept, cancel=cancel,
            )  # fmt: skip
            self.last = settings
        if made.crops:
            return raw_picture(made.crops)
        rgb: Rgb = planes_to_rgb(planes).numpy()
        if not is_checkered:
            return rgb
        return on_checkerboard(rgb, made.mask, max(1, round(CHECKER_PX * self.scale)))

    def forget_steps(self) -> None:
        """Let go of what merging took, which is as large as many frames."""
        self.kept, self.last = Kept(), None
        if self._small is not None:
            self._small.forget_steps()


class LookedFrames:
    """The frames looked at last, and those that may be next. For several threads."""

    def __init__(self, job: MergeJob) -> None:
        self._job = job
        self._looked: OrderedDict[int, Looked] = OrderedDict()
        self._making: dict[int, Future[Looked]] = {}
        self._lock = threading.Lock()  # of both
        self._ahead = ThreadPoolExecutor(1, "accel-ahead", initializer=give_way)
        self._back = ThreadPoolExecutor(1, "accel-back", initializer=give_way)
        self._reading = ThreadPoolExecutor(READERS, "accel-read")
        self._middle = 0

    def look(self, number: int) -> Looked:
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
            frame = self._job.source.read(self._job.source.names[number])
            looked = Looked(frame.planes.clone(), self._job.table.by_frame[number])
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

    def look_within(self, number: int, seconds: float) -> Looked | None:
        """What is known of a frame, None if reading it takes longer; it is read nevertheless."""
        with self._lock:
            if number in self._looked:
                self._looked.move_to_end(number)
                return self._looked[number]
        reading = self._reading.submit(self.look, number)
        return reading.result() if wait([reading], seconds).done else None

    def forget_steps(self, of: Callable[[int], bool] = lambda number: True) -> None:
        """Let go of what merging some frames took."""
        with self._lock:
            for number, looked in self._looked.items():
                if of(number):
                    looked.forget_steps()

    def look_ahead(self, number: int) -> None:
        """Let networks say what is likely asked for next: of the neighbours, of other settings."""
        self._middle = number
        self.forget_steps(lambda n: abs(n - number) > 1)
        for near in (number, number + 1, number - 1):
            if 0 <= near < len(self._job.session.names):
                self._ahead.submit(self._make_ready, near)
        self._back.submit(self._read_back, number)

    def _read_back(self, number: int) -> None:
        """Decode what lies before a frame: who goes back asks for it one after the other."""
        if number == self._middle:
            source = self._job.source
            with suppress(InputError):  # whoever goes there is told
                source.prepare(source.names[number])

    def _make_ready(self, number: int) -> None:
        if abs(number - self._middle) > 1:
            return
        limit_threads(1)
        settings = self._job.session.settings(number)
        predictor = self._job.predictor
        with suppress(ConfigError, InputError):  # whoever goes there is told
            looked = self.look(number)
            looked.ask(predictor, settings)
            looked.small()
            if number == self._middle:
                looked.ask(predictor, replace(settings, super_resolution=1))
                if predictor.xseg is not None:
                    looked.ask(predictor, replace(settings, mask=XSEG_MASK))
                looked.small()

    def close(self) -> None:
        for pool in (self._reading, self._back, self._ahead):
            pool.shutdown(cancel_futures=True)


def give_way() -> None:
    """Let this thread, and those that it begins, run after others, where a thread can be told."""
    if sys.platform == "linux":
        os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), BEHIND)


def on_checkerboard(rgb: Rgb, mask: npt.NDArray[np.float32], side: int) -> Rgb:
    """The picture where the mask is, a checkerboard where it is not."""
    rows, columns = (np.arange(n) // side for n in mask.shape)
    light = ((rows[:, None] + columns) % 2).astype(np.uint8) * 64 + 128
    shown: Rgb = cv2.merge([light] * 3)
    x, y, width, height = cv2.boundingRect((mask > 0).view(np.uint8))
    box = slice(y, y + height), slice(x, x + width)  # few pixels are mixed
    below = shown[box].astype(np.float32)
    shown[box] = below + mask[box][..., None] * (rgb[box] - below) + 0.5
    return shown
