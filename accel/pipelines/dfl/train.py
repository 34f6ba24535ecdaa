"""The training step of the DeepFaceLab workflow: aligned faces in, a model out."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from types import FrameType
from typing import Any

import torch

from accel.core import Cancel, ConfigError, Progress, ProgressCallback, choose_device
from accel.pipelines.dfl.live import LivePage
from accel.pipelines.dfl.made import remember
from accel.pipelines.dfl.pack import beside_pak
from accel.pipelines.dfl.workspace import SIDES, Workspace, open_workspace
from accel.pipelines.run_report import device_name, peak_memory_mb, versions
from accel.training import model_files
from accel.training.autoencoder import AutoencoderTrainer, Batches
from accel.training.faces import FaceSet, load_faces
from accel.training.options import (
    DEFAULTS,
    MODELS,
    QUICK96_FIXED,
    SHAPE,
    TrainOptions,
    as_report,
    with_given,
)
from accel.training.preview import as_png, chosen, loss_curve, preview_grid
from accel.training.state import back_up
from accel.training.tune import tuned
from accel.unfinished import write_whole

FIRST_NAME = "new"  # of a model that nobody named
RATE_OVER_S = 20.0  # how far back the shown speed looks


@dataclass(frozen=True, kw_only=True)
class TrainConfig:
    """One run of a training.

    model: quick96 or saehd. name: of the model; its files begin with it. Left empty, the one of
        that kind that was saved last goes on, or one called `new` begins.
    iterations: to reach in total; a run that finds more done does nothing.
    options: what `TrainOptions` and the network's shape have, where they are not to be as saved or
        as usual. The shape of a saved model cannot be changed.
    device: auto, cpu, cuda or cuda:N. precision: fp32; bf16 is several times faster where the
        machine has units for it; fp16 for older GPUs.
    threads: of the networks on a CPU; 0 takes all cores. workers: threads that make samples.
    save_minutes, preview_minutes: how often the model and the preview pictures are written.
    backup_hours: how often a copy of the model is set aside, 0 never; backups: how many are kept.
    preview_port: a local page shows the preview and the curve there; 0 takes a free port, None
        serves none.
    """

    model: str = "quick96"
    name: str = ""
    iterations: int = 100_000
    options: Mapping[str, Any] = field(default_factory=dict)
    device: str = "auto"
    precision: str = "fp32"
    threads: int = 0
    workers: int = 1
    save_minutes: float = 15.0
    preview_minutes: float = 2.0
    backup_hours: float = 0.0
    backups: int = 3
    preview_port: int | None = None

    def __post_init__(self) -> None:
        if self.model not in MODELS:
            raise ConfigError(f"model must be one of {', '.join(MODELS)}, got {self.model!r:.40}")
        if self.name:
            model_files.stem_of(self.name, self.model)
        for name, least in (("iterations", 1), ("threads", 0), ("workers", 1), ("backups", 1)):
            if getattr(self, name) < least:
                raise ConfigError(f"{name} must be {least} or more, got {getattr(self, name)}")
        for name in ("save_minutes", "preview_minutes"):
            if not getattr(self, name) > 0:
                raise ConfigError(f"{name} must be above 0, got {getattr(self, name)}")
        if not self.backup_hours >= 0:
            raise ConfigError(f"backup_hours must be 0 or more, got {self.backup_hours}")


@dataclass(frozen=True, kw_only=True)
class TrainProgress(Progress):
    """What is told after each step, with the step's losses."""

    loss_src: float = 0.0
    loss_dst: float = 0.0
    page: str | None = None


def train(
    workspace: Workspace | Path | str,
    config: TrainConfig | None = None,
    *,
    progress: ProgressCallback | None = None,
    cancel: Cancel | None = None,
) -> dict[str, Any]:
    """Train a model of `workspace` up to `config.iterations`, or on from where it was stopped.

    Going on gives the very weights that an uninterrupted run gives, on the same machine with the
    same settings. Ctrl-C or `cancel` saves and returns early. Returns a report.

    Raises ConfigError or InputError, one line, for settings and facesets that cannot be used. When
    saving fails the last save is left intact.
    """
    place = open_workspace(workspace)
    config = with_name(config or TrainConfig(), place.model)
    options, resumed = choose_options(config, place.model)
    folders = [place.need_faces(side) for side in SIDES]
    with _threads(config.threads), _interruptible(cancel) as stop:
        # What may be wrong with the model is said before a large faceset is read.
        if resumed:
            model_files.outlined(options.network, place.model, config.name, options.kind)
        trainer = AutoencoderTrainer(
            options, choose_device(config.device), precision=config.precision
        )
        notes = model_files.load(trainer, place.model, config.name) if resumed else []
        faces = [_faces(folder, options, config, progress, stop) for folder in folders]
        for one in faces:
            notes += beside_pak(one.place)
            if one.bad:
                notes.append(f"{len(one.bad)} faces of {one.place} left out, such as {one.bad[0]}")
        run = _Run(config, place, trainer, faces)
        first, start = trainer.iteration, time.perf_counter()
        with tuned(trainer.device):
            run(progress, stop)
        seconds = time.perf_counter() - start
    return _report(run, options, first, seconds, notes, stop)


def with_name(config: TrainConfig, folder: Path) -> TrainConfig:
    """The same config with the name of the model that is meant."""
    if config.name:
        return config
    of_kind = [n for n, model in model_files.saved_models(folder) if model == config.model]
    return replace(config, name=of_kind[0] if of_kind else FIRST_NAME)


def choose_options(config: TrainConfig, folder: Path) -> tuple[TrainOptions, bool]:
    """The options of a run, and whether it goes on from a saved model.

    Raises ConfigError if the saved model has another shape than what is asked for.
    """
    saved = model_files.saved_options(folder, config.name, config.model)
    chosen_options = with_given(saved or DEFAULTS[config.model], config.options)
    if saved and chosen_options.network != saved.network:
        name = next(
            n
            for n in (*SHAPE, "face_type")
            if getattr(chosen_options.network, n) != getattr(saved.network, n)
        )
        raise ConfigError(
            f"{folder}: model {config.name} has {name} {getattr(saved.network, name)}, got "
            f"{getattr(chosen_options.network, name)}; choose another name to begin a new one"
        )
    return chosen_options, saved is not None


def current_options(
    workspace: Workspace | Path | str, config: TrainConfig
) -> tuple[dict[str, Any], bool]:
    """What a run would train with, by the names of options, and whether its model is a new one."""
    folder = open_workspace(workspace).model
    options, resumed = choose_options(with_name(config, folder), folder)
    found = {f.name: getattr(options, f.name) for f in fields(options)}
    found |= {name: getattr(options.network, name) for name in SHAPE}
    found["face_type"] = options.network.face_type.value
    fixed = QUICK96_FIXED if options.model == "quick96" else ()
    return {name: value for name, value in found.items() if name not in fixed}, not resumed


def _faces(
    folder: Path,
    options: TrainOptions,
    config: TrainConfig,
    progress: ProgressCallback | None,
    cancel: Cancel,
) -> FaceSet:
    return load_faces(
        folder,
        options.network.resolution,
        options.network.face_type,
        threads=config.threads,
        progress=progress,
        cancel=cancel,
    )


class _Run:
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
        self.known = self._files()  # a model that was brought along is not ours to clear
        self.saves = 0
        self.save_seconds = 0.0

    def __call__(self, progress: ProgressCallback | None, cancel: Cancel) -> None:
        trainer, config = self.trainer, self.config
        if trainer.iteration >= config.iterations:
            return
        self.folder.mkdir(parents=True, exist_ok=True)
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
                _Every(config.save_minutes * 60, self.save),
            ]
            if config.backup_hours:
                tasks.append(_Every(config.backup_hours * 3600, self.back_up))
            self.preview()
            rate = _Rate()
            while trainer.iteration < config.iterations and not cancel.is_set:
                losses = trainer.step(*next(batches))
                self._tell(progress, losses, rate())
                for task in tasks:
                    task()
            # The save comes first: it is what must not be lost.
            self.save()
            self.preview()

    def _tell(
        self, progress: ProgressCallback | None, losses: tuple[float, float], rate: float
    ) -> None:
        if self.page:
            self.page.say(_sentence(self.trainer.iteration, self.config.iterations, losses, rate))
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
        remember(copy, sorted(path.name for path in copy.iterdir()))

    def _files(self) -> set[str]:
        return {path.name for path in self.folder.glob(f"{self.stem}_*") if path.is_file()}

    def _remember(self) -> None:
        """So that clearing the workspace finds what was made here."""
        new = self._files() - self.known
        if new:
            remember(self.folder, sorted(new))
            self.known |= new

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
    """Calls a function once so many seconds have passed since it last returned."""

    def __init__(self, seconds: float, call: Callable[[], None]) -> None:
        self.seconds, self.call, self.last = seconds, call, time.monotonic()

    def __call__(self) -> None:
        if time.monotonic() - self.last >= self.seconds:
            self.call()
            self.last = time.monotonic()


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


@contextmanager
def _threads(count: int) -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(count or os.cpu_count() or 1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


@contextmanager
def _interruptible(cancel: Cancel | None) -> Iterator[Cancel]:
    """Ctrl-C sets the flag, so that no step is torn apart; a second one stops at once."""
    stop = cancel or Cancel()
    if threading.current_thread() is not threading.main_thread():
        yield stop
        return

    def interrupt(number: int, frame: FrameType | None) -> None:
        if stop.is_set:
            raise KeyboardInterrupt
        stop.set()

    before = signal.signal(signal.SIGINT, interrupt)
    try:
        yield stop
    finally:
        signal.signal(signal.SIGINT, before)


def _report(
    run: _Run,
    options: TrainOptions,
    first: int,
    seconds: float,
    notes: list[str],
    cancel: Cancel,
) -> dict[str, Any]:
    trainer = run.trainer
    steps = trainer.iteration - first
    src, dst = trainer.history[-1] if trainer.history else (None, None)
    return {
        "command": "dfl train",
        "workspace": str(run.workspace.root),
        "model": run.config.model,
        "name": run.config.name,
        "folder": str(run.folder),
        "iterations": trainer.iteration,
        "steps": steps,
        "finished": trainer.iteration >= run.config.iterations,
        "cancelled": cancel.is_set,
        "loss_src": src,
        "loss_dst": dst,
        "seconds": round(seconds, 2),
        "iterations_per_s": round(steps / seconds, 4) if steps else 0.0,
        "saves": run.saves,
        "save_seconds": round(run.save_seconds, 2),
        "faces": {"src": len(run.faces[0]), "dst": len(run.faces[1])},
        "preview": str(run.picture("preview")),
        "loss_curve": str(run.picture("loss")),
        "options": as_report(options),
        "device": device_name(trainer.device, run.config.threads or os.cpu_count()),
        "precision": trainer.precision,
        "threads": run.config.threads or os.cpu_count(),
        "peak_memory_mb": peak_memory_mb(),
        "notes": notes + list(dict.fromkeys(run.notes)),
        "versions": versions(),
    }
