"""The loop of one training run: steps, and by the clock saves, backups and previews."""

from __future__ import annotations

import math
import os
import time
from collections.abc import Callable
from contextlib import ExitStack, closing
from pathlib import Path

from accel.core import Cancel, ConfigError, ProgressCallback
from accel.pipelines.dfl.live import LivePage
from accel.pipelines.dfl.made import remember
from accel.pipelines.dfl.train_config import TrainConfig, TrainProgress
from accel.pipelines.dfl.workspace import Workspace
from accel.training import model_files
from accel.training.autoencoder import AutoencoderTrainer, Batches
from accel.training.faces import FaceSet
from accel.training.preview import as_png, chosen, loss_curve, preview_grid
from accel.training.state import NotSaved, back_up
from accel.unfinished import write_whole

RATE_OVER_S = 20.0  # how far back the shown speed looks
AGAIN_S = 60.0  # after a save that failed, where saves are not due sooner


class TrainRun:
    """The loop of one run and what it does by the clock."""

    def __init__(
        self,
        config: TrainConfig,
        place: Workspace,
        trainer: AutoencoderTrainer,
        faces: list[FaceSet],
    ) -> None:
        self.config, self.workspace, self.folder = config, place, place.model
        self.trainer, self.faces = trainer, faces
        self.stem = model_files.stem_of(config.name, config.model)
        self.samples = [chosen(side) for side in faces]
        self.page: LivePage | None = None
        self.notes: list[str] = []
        self.warnings: dict[str, str] = {}  # by what could not be done, until it can
        self._known = self._files()  # a model that was brought along is not ours to clear
        self.saves = 0
        self.save_seconds = 0.0

    def __call__(self, progress: ProgressCallback | None, cancel: Cancel) -> None:
        trainer, config = self.trainer, self.config
        if trainer.iteration >= config.iterations:
            return
        self.folder.mkdir(parents=True, exist_ok=True)
        if not os.access(self.folder, os.W_OK):  # before hours are spent
            raise ConfigError(f"{self.folder}: must be a folder that can be written, it is not")
        src, dst = self.faces
        with ExitStack() as stack:
            if config.preview_port is not None:
                self.page = stack.enter_context(closing(LivePage(config.preview_port)))
            batches = stack.enter_context(
                closing(
                    Batches(trainer.options, src, dst, trainer.iteration, workers=config.workers)
                )
            )
            tasks = [
                _Every(config.preview_minutes * 60, self.preview),
                _Every(config.save_minutes * 60, lambda: self._try("save", self.save)),
            ]
            if config.backup_hours:
                hours = config.backup_hours
                tasks.append(_Every(hours * 3600, lambda: self._try("backup", self.back_up)))
            self.preview()
            rate = _Rate()
            while trainer.iteration < config.iterations and not cancel.is_set:
                losses = trainer.step(*next(batches))
                self._check(losses)
                self._tell(progress, losses, rate())
                for task in tasks:
                    task()
            # The save comes first: it is what must not be lost.
            self.save()
            self.preview()

    def _try(self, name: str, write: Callable[[], None]) -> bool:
        """Save now if the disk lets us; if not say so and train on, for it may have room later."""
        try:
            write()
        except NotSaved as error:
            text = f"{error}; the training goes on and tries again"
            if text not in self.warnings.values():  # once, however often it is tried
                self.notes.append(f"{text} (iteration {self.trainer.iteration})")
            self.warnings[name] = text
            return False
        self.warnings.pop(name, None)
        return True

    def _check(self, losses: tuple[float, float]) -> None:
        """Stop a training that came apart. In fp16 it may: such a step moves no weight."""
        if self.trainer.loss_scale is None and not all(map(math.isfinite, losses)):
            raise ConfigError(
                f"{self.folder}: losses of model {self.config.name} must be finite, got"
                f" {losses[0]} and {losses[1]} at iteration {self.trainer.iteration};"
                " what was saved is intact, go on from it with a lower lr or with clip"
            )

    def _tell(
        self, progress: ProgressCallback | None, losses: tuple[float, float], rate: float
    ) -> None:
        warning = "; ".join(dict.fromkeys(self.warnings.values()))
        if self.page:
            text = _sentence(self.trainer.iteration, self.config.iterations, losses, rate)
            self.page.say(f"{text} · WARNING: {warning}" if warning else text)
        if progress:
            progress(
                TrainProgress(
                    stage="train",
                    done=self.trainer.iteration,
                    total=self.config.iterations,
                    rate=rate,
                    loss_src=losses[0],
                    loss_dst=losses[1],
                    page=self.page.url if self.page else None,
                    warning=warning,
                )
            )

    def save(self) -> None:
        start = time.perf_counter()
        model_files.save(self.trainer, self.folder, self.config.name)
        self.saves += 1
        self.save_seconds += time.perf_counter() - start
        self._remember()

    def back_up(self) -> None:
        self.save()
        copy = back_up(self.folder, self.stem, self.config.backups)
        self._list(copy, {path.name for path in copy.iterdir()})

    def _files(self) -> set[str]:
        return {path.name for path in self.folder.glob(f"{self.stem}_*") if path.is_file()}

    def _remember(self) -> None:
        """So that clearing the workspace finds what was made here."""
        new = self._files() - self._known
        if new and self._list(self.folder, new):
            self._known |= new

    def _list(self, folder: Path, names: set[str]) -> bool:
        try:
            remember(folder, sorted(names))
        except OSError as error:  # costs only that clearing leaves them; the save is worth more
            self.notes.append(f"{folder}: clearing will not find all in it ({error.strerror})")
            return False
        return True

    def preview(self) -> None:
        pictures = {
            "preview": preview_grid(self.trainer, *self.samples),
            "loss": loss_curve(self.trainer.history),
        }
        for name, picture in pictures.items():
            data = as_png(picture)
            try:
                write_whole(self.picture(name), data)
            except OSError as error:  # not worth a training; the save will say it
                self.notes.append(f"{self.picture(name)}: not written ({error.strerror})")
            if self.page:
                self.page.show(name, data)
        self._remember()

    def picture(self, name: str) -> Path:
        return self.folder / f"{self.stem}_{name}.png"


class _Every:
    """Calls a function once so many seconds have passed since it last returned.

    Sooner, in AGAIN_S, where it returned False: that it failed.
    """

    def __init__(self, seconds: float, call: Callable[[], bool | None]) -> None:
        self.seconds, self.call, self.due = seconds, call, time.monotonic() + seconds

    def __call__(self) -> None:
        if time.monotonic() >= self.due:
            failed = self.call() is False
            wait = min(self.seconds, AGAIN_S) if failed else self.seconds
            self.due = time.monotonic() + wait


class _Rate:
    """Steps a second over the last seconds."""

    def __init__(self) -> None:
        self.times = [time.monotonic()]

    def __call__(self) -> float:
        self.times.append(time.monotonic())
        while len(self.times) > 2 and self.times[-1] - self.times[1] > RATE_OVER_S:
            self.times.pop(0)
        return (len(self.times) - 1) / max(self.times[-1] - self.times[0], 1e-9)


def _sentence(done: int, total: int, losses: tuple[float, float], rate: float) -> str:
    left = (total - done) / max(rate, 1e-9)
    return (
        f"iteration {done} of {total} · loss src {losses[0]:.4f} dst {losses[1]:.4f} · "
        f"{rate:.2f} iterations/s · {left / 3600:.1f} h left"
    )
