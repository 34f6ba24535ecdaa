"""Cut the faces out of one side's frames: steps 4 and 5 of the workflow.

decode -> follow -> place -> cut, encode and write, side by side; frames are placed in the caller's
thread. Faces are followed through the film, so the detector runs now and then rather than on every
frame; crops come straight from the planes.
"""

from __future__ import annotations

import os
import time
from collections.abc import Generator, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from itertools import chain, islice
from pathlib import Path
from typing import Any, TypeVar

from accel.core import (
    Cancel,
    ConfigError,
    Progress,
    ProgressCallback,
    choose_device,
    kept_memory,
    light_collector,
)
from accel.faces.between import Sparse, quick
from accel.faces.face import Face
from accel.faces.sort import recover
from accel.faces.track import Analyser, FaceModels
from accel.kernels._native import limit_threads, limited_threads
from accel.kernels.planes import Planes
from accel.pipelines.dfl.alone import alone
from accel.pipelines.dfl.extract_config import ExtractConfig
from accel.pipelines.dfl.extract_cut import Cut, Landmarker, choose, write_debug, write_faces
from accel.pipelines.dfl.extract_journal import Journal, read_journal
from accel.pipelines.dfl.frames import FrameSource, open_frames
from accel.pipelines.dfl.made import remember
from accel.pipelines.dfl.save_frames import one_opencv_thread
from accel.pipelines.dfl.workspace import Workspace, check_side, open_workspace
from accel.pipelines.run_report import end_of_report
from accel.video.stages import buffered, in_order

__all__ = ["ExtractConfig", "extract_faces", "read_journal"]

LOOKAHEAD = 24  # frames
LEAST_AHEAD, MOST_AHEAD = 6, 48  # frames decoded before they are asked for
AHEAD_BYTES = 32 << 20  # of them in between
# Every third frame is looked at, those between where they have to be. So many at a time go from
# thread to thread, too: threads that wake each other for every frame wait for each other.
STRIDE = 3
WARM_UP = 36  # frames looked at again when a run goes on, so that tracks are known

T = TypeVar("T")
Found = tuple[str, Planes, list[Face]]  # name of the frame's picture, planes, faces


def extract_faces(
    place: Workspace | Path | str,
    side: str,
    config: ExtractConfig | None = None,
    *,
    progress: ProgressCallback | None = None,
    cancel: Cancel | None = None,
    models: FaceModels | None = None,
) -> dict[str, Any]:
    """Fill one side's `aligned` folder; return the report.

    A run that was broken off goes on where it stopped; one that is complete does nothing, so faces
    deleted by hand stay away. Raises InputError when there are no frames, ConfigError where the
    folder holds other faces.
    """
    run = _Run(open_workspace(place), check_side(side), config or ExtractConfig(), models)
    return run.run(progress, cancel or Cancel())


class _Run:
    def __init__(
        self, workspace: Workspace, side: str, config: ExtractConfig, models: FaceModels | None
    ) -> None:
        if side == "dst" and config.fps is not None:
            raise ConfigError("extract: fps thins out src alone, every frame of dst is merged")
        self.workspace, self.side, self.config = workspace, side, config
        self.folder = workspace.aligned(side)
        self.debug_folder = workspace.aligned_debug(side)
        self.models = models
        self.landmarker: Landmarker | None = None
        self.journal: Journal
        self.first = 0  # frame that this run begins with

    def run(self, progress: ProgressCallback | None, cancel: Cancel) -> dict[str, Any]:
        started = time.perf_counter()
        with open_frames(self.workspace, self.side, fps=self.config.fps) as source:
            if self.config.landmarks:
                from accel.faces.fan import FanNet

                self.landmarker = FanNet(self.config.landmarks, device=self.config.device)
            self.folder.mkdir(parents=True, exist_ok=True)
            with alone(self.folder):
                recover(self.folder)  # what a sort that was killed left beside it
                return self._extract(source, progress, cancel, started)

    def _extract(
        self,
        source: FrameSource,
        progress: ProgressCallback | None,
        cancel: Cancel,
        started: float,
    ) -> dict[str, Any]:
        settings = self.config.settings() | {"frames": len(source)}
        self.journal = Journal(self.folder, settings)
        is_complete = self.journal.begin(overwrite=self.config.overwrite)
        self.first = self.journal.done
        stats: dict[str, Any] = {}
        if not is_complete:
            sparse = self._sparse()
            with light_collector(), one_opencv_thread(), kept_memory():
                self._write_all(source, sparse, progress, cancel, started)
            self.journal.save(is_complete=True)
            stats = sparse.analyser.stats | {
                "placed": sparse.placed,
                "measured_between": sparse.measured,
            }
        return self._report(source, stats, started)

    def _sparse(self) -> Sparse:
        models = self.models or FaceModels(device=self.config.device)
        analyser = Analyser(
            models=quick(models),
            lookahead=LOOKAHEAD // STRIDE,
            redetect_every=LOOKAHEAD // STRIDE,
            max_faces=self.config.max_faces or 32,
            iris_every=0,
            look_threads=os.cpu_count() or 1,
            smoothing=False,
            sure_after=2,  # of those that are looked at
            details=False,
            identities=False,
        )
        return Sparse(analyser, STRIDE, beside=_beside)

    def _write_all(
        self,
        source: FrameSource,
        sparse: Sparse,
        progress: ProgressCallback | None,
        cancel: Cancel,
        started: float,
    ) -> None:
        if self.config.debug:
            self.debug_folder.mkdir(exist_ok=True)
        workers, journal = os.cpu_count() or 1, self.journal
        # Before the first face: whatever stops this run, the next one must know its own files.
        journal.save()
        with (
            ThreadPoolExecutor(workers, initializer=limit_threads, initargs=(1,)) as pool,
            limited_threads(1),
            closing(self._found(source, sparse)) as found,
        ):
            try:
                cuts = self._chosen(found, pool, 2 * workers, cancel)
                groups = self._remembered(_groups(cuts, STRIDE))
                written = in_order(pool, self._write, groups, workers, cancel)
                for faces, dropped in chain.from_iterable(written):
                    journal.add(faces, dropped)
                    if progress:
                        done, seconds = journal.done, time.perf_counter() - started
                        progress(
                            Progress(
                                stage="extract",
                                done=done,
                                total=len(source),
                                rate=(done - self.first) / seconds,
                            )
                        )
            finally:
                journal.save()

    def _found(self, source: FrameSource, sparse: Sparse) -> Generator[Found]:
        """Frames of this run with the faces in them."""
        # Those frames are looked at which a run in one go looks at.
        begin = max(0, self.first - WARM_UP) // STRIDE * STRIDE
        earlier = set(source.names[begin : self.first])
        groups = _groups(source.start(begin), STRIDE)
        with closing(buffered(groups, _frames_ahead(source) // STRIDE, "decode")) as decoded:
            tagged = ((named.name, named.frame.view()) for group in decoded for named in group)
            with closing(sparse.analyse(tagged)) as found:
                for name, planes, faces in found:
                    if name not in earlier:
                        yield name, planes, faces

    def _chosen(
        self, found: Iterable[Found], pool: ThreadPoolExecutor, ahead: int, cancel: Cancel
    ) -> Iterator[Cut]:
        def chosen(one: Found) -> Cut:
            return choose(*one, self.config, self.landmarker)

        if self.landmarker is None:
            return map(chosen, found)
        return in_order(pool, chosen, found, ahead, cancel)  # a large network, on all cores

    def _remembered(self, groups: Iterable[list[Cut]]) -> Iterator[list[Cut]]:
        for cuts in groups:
            if any(cut.kept for cut in cuts):
                remember(self.folder, [name for cut in cuts for name in cut.files])
            if self.config.debug:
                remember(self.debug_folder, [cut.debug_file for cut in cuts])
            yield cuts

    def _write(self, cuts: list[Cut]) -> list[tuple[int, list[str]]]:
        """Runs in a pool. What is returned waits in a queue, so it holds no planes."""
        for cut in cuts:
            write_faces(cut, self.folder, self.config)
            if self.config.debug:
                write_debug(cut, self.debug_folder)
        return [(len(cut.kept), [why for _, why in cut.dropped]) for cut in cuts]

    def _report(self, source: FrameSource, stats: dict[str, Any], started: float) -> dict[str, Any]:
        seconds = time.perf_counter() - started
        journal, frames = self.journal, self.journal.done - self.first
        notes = list(source.notes)
        if journal.done and not journal.counts["faces"]:
            notes.append("no face was found in any frame")
        return {
            "command": "dfl extract",
            "workspace": str(self.workspace.root),
            "side": self.side,
            "folder": str(self.folder),
            "from": str(source.folder or source.video),
            "face_type": self.config.kind.value,
            "size": self.config.side_px,
            "frames": journal.done,
            "frames_now": frames,
            "frames_with_faces": journal.counts["frames_with_faces"],
            "faces": journal.counts["faces"],
            "dropped": dict(journal.dropped),
            "fps": round(frames / seconds, 2) if seconds else 0.0,
            "networks": stats,
            "notes": notes,
            **end_of_report(started, choose_device(self.config.device)),
        }


def _frames_ahead(source: FrameSource) -> int:
    """Frames to decode while a scene is looked at for the first time, which takes long."""
    info = source.info
    chroma = 2 / (1 << info.layout.shift_x + info.layout.shift_y)
    frame_bytes = info.width * info.height * (1 + chroma) * info.layout.dtype.itemsize
    return int(min(max(AHEAD_BYTES / frame_bytes, LEAST_AHEAD), MOST_AHEAD))


def _groups(items: Iterator[T], count: int) -> Iterator[list[T]]:
    while group := list(islice(items, count)):
        yield group


def _beside(frames: Iterator[Any]) -> Any:
    """Follow faces in a thread of its own, while those between are placed in another."""

    def alone() -> Iterator[Any]:
        limit_threads(1)
        yield from frames

    return buffered(alone(), 4, "follow")
