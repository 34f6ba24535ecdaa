"""Swap a face into every film of a folder: each as `swap_video` does it.

Networks, sources and the swapper are opened once. Films that are there already are passed over, so
a run that was broken off goes on; one that cannot be swapped does not keep the others from it.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from accel.core import (
    Cancel,
    Cancelled,
    ConfigError,
    InputError,
    Progress,
    ProgressCallback,
    Refused,
    choose_device,
)
from accel.pipelines.gate import Gate
from accel.pipelines.run_report import device_name, peak_memory_mb, versions
from accel.pipelines.swap import SwapConfig, SwapRun
from accel.pipelines.swap_checks import check_sources
from accel.pipelines.swap_config import swap_config
from accel.pipelines.swap_tools import SwapTools
from accel.video.encode import MUXERS
from accel.video.sniff import FILM_SUFFIXES, PICTURE_SUFFIXES, reason

CORES_A_FILM = 4  # its stages run side by side
MOST_AT_ONCE = 8  # each holds its frames in memory


def holds_films(folder: Path) -> bool:
    """Whether a folder is one of films.

    Raises ConfigError where it holds pictures beside them: nobody can tell which are meant.
    """
    if not folder.is_dir():
        return False
    films = len(films_of(folder))
    pictures = sum(path.suffix.lower() in PICTURE_SUFFIXES for path in _shown(folder))
    if films and pictures:
        raise ConfigError(
            f"{folder}: must hold films or pictures, holds {films} and {pictures} of them"
        )
    return films > 0


def films_of(folder: Path) -> list[Path]:
    """The films in a folder, by the ends of their names; in the order of the names."""
    return sorted(path for path in _shown(folder) if path.suffix.lower() in FILM_SUFFIXES)


def _shown(folder: Path) -> list[Path]:
    return [one for one in folder.iterdir() if one.is_file() and not one.name.startswith(".")]


def swap_films(
    input: Path | str,
    output: Path | str,
    config: SwapConfig | None = None,
    *,
    jobs: int | None = None,
    progress: ProgressCallback | None = None,
    cancel: Cancel | None = None,
    gates: Callable[[], Gate] | None = None,
    **settings: Any,
) -> dict[str, Any]:
    """Swap a face into every film of folder `input`; return the report that `--json` writes.

    output: folder for the swapped films, under the names they had; made where there is none. One of
        a kind that is not written here, such as .wmv, gets .mp4 behind its name.
    config, or its fields as keyword arguments, as for `swap_video`; with `overwrite`, films that
        are in `output` are made again. It cannot ask for a preview.
    jobs: how many films share the cores; one for every four of them by default.
    gates: makes a content gate for each film, in place of `accel.pipelines.gate.ContentGate`.

    Raises InputError and ConfigError for what is wrong with all films, Cancelled. What is wrong
    with one of them is in the report under `failed`.
    """
    config = swap_config(config, settings)
    if jobs is not None and jobs < 1:
        raise ConfigError(f"jobs must be at least 1, got {jobs}")
    job = _Films(Path(input), Path(output), config, progress, cancel or Cancel(), gates)
    return job.run(jobs or max(1, min(MOST_AT_ONCE, (os.cpu_count() or 1) // CORES_A_FILM)))


@dataclass
class _Films:
    """One run over a folder."""

    input: Path
    output: Path
    config: SwapConfig
    progress: ProgressCallback | None
    cancel: Cancel
    gates: Callable[[], Gate] | None
    reports: dict[Path, dict[str, Any]] = field(default_factory=dict)
    failed: dict[Path, dict[str, str]] = field(default_factory=dict)

    def run(self, at_once: int) -> dict[str, Any]:
        started = time.perf_counter()
        self._check()
        named = {film: self.output / name for film, name in names(films_of(self.input)).items()}
        done = [film for film, to in named.items() if to.exists() and not self.config.overwrite]
        todo = [film for film in named if film not in done]
        notes: list[str] = []
        if todo:
            device = choose_device(self.config.device)
            tools = SwapTools(self.config, device)
            notes += tools.notes
            self.output.mkdir(exist_ok=True)
            at_once = min(at_once, len(todo))
            self._swap([(film, named[film]) for film in todo], tools, at_once)
        seconds = time.perf_counter() - started
        frames = sum(report["frames"] for report in self.reports.values())
        return {
            "input": str(self.input),
            "output": str(self.output),
            "films": [self.reports[film] for film in todo if film in self.reports],
            "there_already": [str(named[film]) for film in done],
            "failed": [self.failed[film] for film in todo if film in self.failed],
            "jobs": at_once,
            "frames": frames,
            "seconds": round(seconds, 3),
            "fps": round(frames / seconds, 2),
            "peak_memory_mb": peak_memory_mb(),
            "device": device_name(choose_device(self.config.device)),
            "notes": notes,
            "versions": versions(),
        }

    def _check(self) -> None:
        if not self.input.is_dir():
            raise InputError(f"{self.input}: must be a folder of films")
        if not holds_films(self.input):
            kinds = ", ".join(FILM_SUFFIXES)
            raise InputError(f"{self.input}: the folder must hold films ({kinds}), holds none")
        if self.output.resolve() == self.input.resolve():
            raise ConfigError(f"{self.output}: the output must be another folder than the input")
        if self.output.exists() and not self.output.is_dir():
            raise ConfigError(f"{self.output}: must be a folder, for films, is a file")
        if not self.output.absolute().parent.is_dir():
            raise ConfigError(f"{self.output}: its folder must exist")
        if self.config.preview is not None:
            raise ConfigError("preview must be left out for a folder of films")
        check_sources(self.config)

    def _swap(self, films: Sequence[tuple[Path, Path]], tools: SwapTools, at_once: int) -> None:
        meter = _Meter(self.progress, len(films))

        def one(film: Path, to: Path) -> dict[str, Any]:
            self.cancel.check()
            run = SwapRun(
                film, to, self.config, meter.of(film), self.cancel,
                None, self.gates and self.gates(), tools, at_once,
            )  # fmt: skip
            return run.run()

        with ThreadPoolExecutor(at_once, thread_name_prefix="film") as pool:
            waiting = {pool.submit(one, film, to): film for film, to in films}
            try:
                for future in as_completed(waiting):
                    film = waiting[future]
                    try:
                        self.reports[film] = future.result()
                    except (InputError, ConfigError, Refused, OSError) as error:
                        self.failed[film] = _failure(film, error)
                    meter.end(film)
            except BaseException as error:  # Ctrl-C comes here, not to the threads
                self.cancel.set()
                pool.shutdown(cancel_futures=True)
                if isinstance(error, Cancelled | KeyboardInterrupt):
                    raise Cancelled(self._so_far(len(films))) from error
                raise

    def _so_far(self, of: int) -> str:
        return f"{len(self.reports)} of {of} films are done, the same command goes on"


def names(films: Sequence[Path]) -> dict[Path, str]:
    """What each film's output is called."""
    return {
        film: film.name if film.suffix.lower() in MUXERS else f"{film.name}.mp4" for film in films
    }


def _failure(film: Path, error: Exception) -> dict[str, str]:
    kind = "refused" if isinstance(error, Refused) else "error"
    told = reason(error) if isinstance(error, OSError) else str(error)
    return {"input": str(film), "kind": kind, "error": told}


class _Meter:
    """Adds up the frames of films that are swapped side by side, for one bar."""

    def __init__(self, progress: ProgressCallback | None, films: int) -> None:
        self._progress, self._films = progress, films
        self._lock = threading.Lock()
        self._frames: dict[Path, Progress] = {}
        self._ended: set[Path] = set()
        self._began = time.perf_counter()

    def of(self, film: Path) -> ProgressCallback | None:
        """What the run of one film tells."""
        return None if self._progress is None else lambda event: self._tell(film, event)

    def end(self, film: Path) -> None:
        """Count a film as done, whatever became of it."""
        with self._lock:
            self._ended.add(film)
            if film in self._frames:  # what its header says need not be what it holds
                last = self._frames[film]
                self._frames[film] = replace(last, total=last.done)

    def _tell(self, film: Path, event: Progress) -> None:
        assert self._progress is not None
        with self._lock:
            self._frames[film] = event
            known = [one.total or one.done for one in self._frames.values()]
            done = sum(one.done for one in self._frames.values())
            # Films that have not begun are taken to be as long as those that have.
            total = round(sum(known) * self._films / len(known))
            rate = done / (time.perf_counter() - self._began)
            stage = f"{len(self._ended)} of {self._films} films"
            self._progress(Progress(stage=stage, done=done, total=max(total, done), rate=rate))
