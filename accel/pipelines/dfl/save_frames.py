"""Take a film apart into pictures: steps 2 and 3 of the workflow."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

from accel.core import Cancel, ConfigError, Progress, ProgressCallback
from accel.kernels import planes_to_rgb
from accel.kernels._native import limit_threads
from accel.kernels.planes import Planes
from accel.pipelines.dfl.frames import (
    INDEX_NAME,
    FilmFrames,
    FrameIndex,
    NamedFrame,
    load_index,
)
from accel.pipelines.dfl.made import made_in, remember
from accel.pipelines.dfl.workspace import Workspace, check_side, open_workspace
from accel.pipelines.run_report import end_of_report
from accel.unfinished import write_whole
from accel.video.sniff import PICTURE_SUFFIXES
from accel.video.stages import buffered, in_order

FORMATS = ("png", "jpg")
PNG_LEVEL = 1  # zlib's; higher ones take several times as long for a tenth of the size


@dataclass(frozen=True, kw_only=True)
class FramesConfig:
    """How a film is taken apart.

    fps: at most so many frames a second; None takes all, as the target needs.
    format: png, or jpg of `quality` (1 to 100).
    overwrite: remove pictures made with other settings.
    """

    fps: float | None = None
    format: str = "png"
    quality: int = 95
    overwrite: bool = False

    def __post_init__(self) -> None:
        if self.format not in FORMATS:
            raise ConfigError(f"format must be png or jpg, got {self.format!r:.20}")
        if not 1 <= self.quality <= 100:
            raise ConfigError(f"quality must lie in 1..100, got {self.quality}")
        if self.fps is not None and not 0 < self.fps <= 1000:
            raise ConfigError(f"fps must lie in 0..1000, got {self.fps}")


def save_frames(
    place: Workspace | Path | str,
    side: str,
    config: FramesConfig | None = None,
    *,
    progress: ProgressCallback | None = None,
    cancel: Cancel | None = None,
) -> dict[str, Any]:
    """Write the pictures of one side's film and the index that says when each is shown.

    A run that was broken off goes on where it stopped. Raises InputError for a film that cannot be
    read, ConfigError where the folder holds other pictures.
    """
    workspace, config = open_workspace(place), config or FramesConfig()
    check_side(side)
    folder = workspace.frames(side)
    started = time.perf_counter()
    with FilmFrames(workspace, side, config.fps) as film:
        index = _begin(folder, film, config)
        there = {path.name for path in folder.iterdir() if path.suffix == index.suffix}
        wanted = [name for name in index.pts if name not in there]
        remember(folder, [INDEX_NAME, *wanted])
        written = 0
        if wanted:
            total = len(index.pts)
            for written, _ in enumerate(_written(film, folder, config, there, cancel), 1):
                if progress:
                    rate = written / (time.perf_counter() - started)
                    done = total - len(wanted) + written
                    progress(Progress(stage="frames", done=done, total=total, rate=rate))
        index.is_complete = True
        index.save(folder / INDEX_NAME)
        return {
            "command": "dfl frames",
            "workspace": str(workspace.root),
            "side": side,
            "video": str(film.video),
            "folder": str(folder),
            "frames": len(index.pts),
            "written": written,
            "kept": len(index.pts) - len(wanted),
            "missing": len(wanted) - written,
            "fps": config.fps,
            "width": film.info.width,
            "height": film.info.height,
            "notes": _notes(film, len(wanted) - written),
            **end_of_report(started),
        }


def _notes(film: FilmFrames, missing: int) -> list[str]:
    notes = list(film.notes)
    if film.info.layout.bits > 8:
        notes.append("pictures have 8 bits, the film more; leave this step out to keep them")
    if missing:
        notes.append(f"{missing} frames could not be decoded; their numbers are left out")
    return notes


def _begin(folder: Path, film: FilmFrames, config: FramesConfig) -> FrameIndex:
    """Check what is in the folder; return the index, saved, of what will be."""
    suffix = f".{config.format}"
    names = {f"{Path(name).stem}{suffix}": pts for name, pts in film.index.pts.items()}
    index = FrameIndex(film.index.video, film.index.time_base, config.fps, suffix, False, names)
    folder.mkdir(exist_ok=True)
    pictures = {p.name for p in folder.iterdir() if p.suffix.lower() in PICTURE_SUFFIXES}
    before = load_index(folder / INDEX_NAME)
    is_same = before is not None and (before.pts, before.fps) == (index.pts, index.fps)
    if pictures and not is_same:
        mine = {path.name for path in made_in(folder)}
        others = sorted(pictures - mine)
        if others:
            raise ConfigError(
                f"{folder}: holds pictures that were not made here, such as {others[0]};"
                " move them away, or go on with `extract`, which takes them as they are"
            )
        if not config.overwrite:
            raise ConfigError(
                f"{folder}: holds {len(pictures)} pictures made with other settings;"
                " use --overwrite to make them anew"
            )
        for name in pictures:
            (folder / name).unlink()
    if not is_same:
        index.save(folder / INDEX_NAME)
    return index


def _written(
    film: FilmFrames, folder: Path, config: FramesConfig, there: set[str], cancel: Cancel | None
) -> Iterator[Path]:
    """Write frames on all cores, in order, few at a time in memory."""
    workers = os.cpu_count() or 1

    def save(named: NamedFrame) -> Path:
        path = folder / f"{Path(named.name).stem}.{config.format}"
        picture = bgr_of(named.frame.planes)
        write_whole(path, encode_picture(picture, path.suffix, quality=config.quality))
        return path

    def missing() -> Iterator[NamedFrame]:
        for named in film:
            if f"{Path(named.name).stem}.{config.format}" not in there:
                yield named

    with (
        one_opencv_thread(),
        ThreadPoolExecutor(workers, initializer=limit_threads, initargs=(1,)) as pool,
        closing(buffered(missing(), 4, "decode")) as frames,
    ):
        yield from in_order(pool, save, frames, 2 * workers, cancel)


@contextmanager
def one_opencv_thread() -> Iterator[None]:
    """Keep OpenCV's own threads out of the way of a pool that takes all cores already."""
    before = cv2.getNumThreads()
    cv2.setNumThreads(1)
    try:
        yield
    finally:
        cv2.setNumThreads(before)


def bgr_of(planes: Planes) -> npt.NDArray[np.uint8]:  # [H, W, 3]
    """A frame as OpenCV has pictures."""
    rgb = planes_to_rgb(planes).numpy()
    return np.asarray(cv2.cvtColor(rgb, cv2.COLOR_RGB2BGR), np.uint8)


def encode_picture(picture: npt.NDArray[np.uint8], suffix: str, *, quality: int = 95) -> bytes:
    """PNG bytes of a picture, [H, W, 3] BGR or [H, W] grey, or those of a JPEG of 4:4:4."""
    if suffix == ".png":
        options = [cv2.IMWRITE_PNG_COMPRESSION, PNG_LEVEL]
    else:
        options = [cv2.IMWRITE_JPEG_QUALITY, quality]
        options += [cv2.IMWRITE_JPEG_SAMPLING_FACTOR, cv2.IMWRITE_JPEG_SAMPLING_FACTOR_444]
    good, data = cv2.imencode(suffix, picture, options)
    if not good:
        raise ConfigError(f"{suffix}: OpenCV could not encode a picture of {picture.shape}")
    return data.tobytes()
