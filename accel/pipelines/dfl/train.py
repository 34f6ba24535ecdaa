"""The training step of the DeepFaceLab workflow: aligned faces in, a model out."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import fields, replace
from pathlib import Path
from types import FrameType
from typing import Any

import torch

from accel.core import Cancel, ConfigError, ProgressCallback, choose_device
from accel.pipelines.dfl.alone import alone_with
from accel.pipelines.dfl.pack import beside_pak
from accel.pipelines.dfl.train_config import TrainConfig as TrainConfig
from accel.pipelines.dfl.train_run import TrainRun
from accel.pipelines.dfl.workspace import SIDES, Workspace, open_workspace
from accel.pipelines.run_report import device_name, peak_memory_mb, versions
from accel.training import model_files
from accel.training.autoencoder import AutoencoderTrainer
from accel.training.faces import FaceSet, load_faces
from accel.training.options import (
    DEFAULTS,
    QUICK96_FIXED,
    SHAPE,
    TrainOptions,
    as_report,
    with_given,
)
from accel.training.tune import tuned

FIRST_NAME = "new"  # of a model that nobody named


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
    saving fails, or losses are no longer numbers, the last save is left intact.
    """
    place = open_workspace(workspace)
    config = with_name(config or TrainConfig(), place.model)
    options, resumed = choose_options(config, place.model)
    folders = [place.need_faces(side) for side in SIDES]
    with (
        _threads(config.threads),
        _interruptible(cancel) as stop,
        alone_with(place.model, model_files.stem_of(config.name, config.model)),
    ):
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
        run = TrainRun(config, place, trainer, faces)
        first, start = trainer.iteration, time.perf_counter()
        with tuned(trainer.device):
            run(progress, stop)
        seconds = time.perf_counter() - start
        if first >= config.iterations:
            notes.append(
                f"model {config.name} has {first} iterations, {config.iterations} were asked for"
                " in total; ask for more to go on"
            )
    return _report(run, options, first, seconds, notes, stop)


def with_name(config: TrainConfig, folder: Path) -> TrainConfig:
    """The same config with the name of the model that is meant."""
    if config.name:
        return config
    of_kind = [n for n, model in model_files.saved_models(folder) if model == config.model]
    if not of_kind:
        model_files.check_new(folder, config.model)
    return replace(config, name=of_kind[0] if of_kind else FIRST_NAME)


def choose_options(config: TrainConfig, folder: Path) -> tuple[TrainOptions, bool]:
    """The options of a run, and whether it goes on from a saved model.

    Raises ConfigError if the saved model has another shape than what is asked for.
    """
    saved = model_files.saved_options(folder, config.name, config.model)
    if saved is None:
        model_files.check_new(folder, config.model, config.name)
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
    run: TrainRun,
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
