"""What a run tells of its steps while it takes them."""

from __future__ import annotations

import time
from collections.abc import Callable

from torch import Tensor

from accel.core import Cancel, Progress, ProgressCallback

Callback = Callable[[int, Tensor], None]  # step just taken, its denoised latent; may raise


class Reporter:
    """Tells progress after every step, and stops there when asked to."""

    def __init__(
        self,
        progress: ProgressCallback | None,
        cancel: Cancel | None,
        callback: Callback | None,
    ):
        self.progress, self.cancel, self.callback = progress, cancel, callback
        self.done, self.total, self.began = 0, 0, time.perf_counter()
        self.index = 0  # the step that is being taken, from 0

    def step(self, index: int, clean: Tensor) -> None:
        self.done += 1
        self.index = index + 1
        if self.callback:
            self.callback(index, clean)
        if self.progress:
            rate = self.done / max(time.perf_counter() - self.began, 1e-9)
            self.progress(Progress(stage="sample", done=self.done, total=self.total, rate=rate))
        if self.cancel:
            self.cancel.check()
