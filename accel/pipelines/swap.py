"""Swap a face into a video, a picture or a folder of pictures: the whole way, streaming.

read -> analyse -> swap -> paste -> write, each an iterator; memory does not grow with the length.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing, suppress
from dataclasses import dataclass, replace
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any, TypeVar

from accel.core import (
    Cancel,
    ConfigError,
    Progress,
    ProgressCallback,
    choose_device,
    light_collector,
)
from accel.faces.face import Face
from accel.faces.find import FaceModels
from accel.faces.swap import Job, Swapper
from accel.faces.track import Analyser
from accel.kernels import OPS, paste
from accel.kernels._native import limit_threads
from accel.kernels.planes import Planes
from accel.pipelines.gate import ContentGate, Gate
from accel.pipelines.marked_output import MarkedOutput
from accel.pipelines.preview import ContactSheet
from accel.pipelines.provenance import FIRST_FRAMES, Marker, Marking, content_hash, earlier_mark
from accel.pipelines.run_report import device_name, peak_memory_mb, versions
from accel.pipelines.select import Selection
from accel.pipelines.swap_checks import check_paths
from accel.pipelines.swap_config import SwapConfig as SwapConfig
from accel.pipelines.swap_config import swap_config
from accel.pipelines.swap_resume import going_on, open_journal, went_on
from accel.pipelines.swap_tools import SwapTools
from accel.provenance.detector import weight_of
from accel.provenance.watermark import luma_of
from accel.video.device import open_film
from accel.video.encode import EncodeConfig as EncodeConfig
from accel.video.frame import Frame
from accel.video.info import VideoInfo
from accel.video.read import VideoReader, open_video
from accel.video.sniff import reason
from accel.video.stages import buffered
from accel.video.write import check_output, is_folder, open_writer

LOOKAHEAD = 12  # frames from being taken to being given out, while faces are followed
AHEAD_PX = 12 * 4096 * 2304  # of the frames that wait at one place
BATCH = 4  # frames whose faces are swapped in one call
T = TypeVar("T")
_Analysed = tuple[Frame, Planes, list[Face]]


def swap_video(
    input: Path | str,
    output: Path | str,
    config: SwapConfig | None = None,
    *,
    progress: ProgressCallback | None = None,
    cancel: Cancel | None = None,
    swapper: Swapper | None = None,
    gate: Gate | None = None,
    **settings: Any,
) -> dict[str, Any]:
    """Swap a face into `input` and write `output`; return the report that `--json` writes.

    input: video file, animated gif, still picture or folder of pictures.
    config, or its fields as keyword arguments: `swap_video(a, b, sources=[face])`.
    progress: called after each frame. cancel: set it from another thread to stop within a frame.
    swapper: your own, in place of the one that `config.swapper` names.
    gate: your own content gate, in place of `accel.pipelines.gate.ContentGate`.

    Raises InputError for a file that cannot be used, ConfigError for a setting, Refused when the
    gate says no, Cancelled.
    Nothing is left under the output's name unless the run completes. Of a folder of pictures, those
    that are done are kept beside it, and the same call goes on after them.
    """
    config = swap_config(config, settings)
    job = SwapRun(Path(input), Path(output), config, progress, cancel or Cancel(), swapper, gate)
    return job.run()


@dataclass
class _Swapped:
    """A frame on its way to the encoder."""

    frame: Frame
    faces: int  # found in it
    swapped: int


class _NothingAltered(Exception):
    """Not a face was swapped in a film that was marked frame by frame."""


class SwapRun:
    """One film's run: holds the counters, so that the stages stay small.

    tools: what films share; opened for this one alone when it is left out.
    side_by_side: how many films share the cores.
    """

    def __init__(
        self,
        input: Path,
        output: Path,
        config: SwapConfig,
        progress: ProgressCallback | None,
        cancel: Cancel,
        swapper: Swapper | None,
        gate: Gate | None = None,
        tools: SwapTools | None = None,
        side_by_side: int = 1,
    ):
        self.input, self.output, self.config = input, output, config
        self.progress, self.cancel = progress, cancel
        self.device = choose_device(config.device)
        self.tools, self.threads = tools, threads_a_stage(side_by_side)
        self.seconds = dict.fromkeys(
            ("prepare", "decode", "analyse", "gate", "swap", "paste", "mark", "encode"), 0.0
        )
        self.frames = self.frames_with_faces = self.frames_swapped = 0
        self.faces = self.swapped = 0
        self.swapper, self.gate = swapper, gate
        self.sheet: ContactSheet | None = None
        self.notes: list[str] = []
        self.selection: Selection
        self.output_marks: MarkedOutput
        self.kept = 0  # pictures that an earlier run finished
        self.own_swapper = swapper is not None
        self.earlier: Future[str | None] | None = None

    def run(self) -> dict[str, Any]:
        started = time.perf_counter()
        check_paths(self.input, self.output, self.config)
        marker = Marker(self.config.provenance, task="face_swap", sources=self.config.sources)
        with open_film(self.input, self.device) as reader:
            if self.device.type == "cpu":  # a GPU's own encoder has other settings
                check_output(self.output, reader, self.config.encode)
            self.output_marks = MarkedOutput(marker, reader, self.output)
            models = self._take_tools()
            if self.config.preview:
                self.sheet = ContactSheet(reader.info.frames, reader.info.rotation)
            analyser = Analyser(
                models=models,
                rotation=reader.info.rotation,
                lookahead=frames_ahead(reader.info, LOOKAHEAD),
                redetect_every=12,
            )
            info = reader.info
            self.gate = self.gate or ContentGate(rotation=info.rotation, stills=info.is_folder)
            self._tell(marker)
            self.seconds["prepare"] = time.perf_counter() - started
            try:
                with light_collector():
                    writer = self._write(reader, analyser, started)
            except BaseException:
                self.output_marks.give_up()
                raise
            notes = [*self.notes, *reader.notes, *writer.notes]
            notes += self._save_preview()
        report = self._report(time.perf_counter() - started, analyser, writer.encoder, notes)
        return report | {"marked": marker.report()}

    def _take_tools(self) -> FaceModels:
        """Open the networks and the sources, or take those that films share."""
        tools = self.tools or SwapTools(self.config, self.device, self.swapper)
        if self.tools is None:
            self.notes += tools.notes
        models, self.swapper = tools.for_a_film()
        config = self.config
        self.selection = Selection(config.select, tools.reference, config.max_distance)
        return models

    def _write(self, reader: Any, analyser: Analyser, started: float) -> Any:
        """Stream all frames into the output, mark and name it; return the closed writer."""
        with suppress(_NothingAltered):
            return self._write_swapped(reader, analyser, started)
        # What was not altered must not be called so: it is written again as it came.
        with (
            open_video(self.input) as again,
            open_writer(self.output, again, self.config.encode, finish=self._finish) as writer,
        ):
            for frame in again:
                self.cancel.check()
                writer.write(frame)
        return writer

    def _write_swapped(self, reader: Any, analyser: Analyser, started: float) -> Any:
        journal = None
        if is_folder(self.output) and not self.own_swapper:  # nobody knows a stranger's settings
            journal = open_journal(self.output, reader, self.config, self.output_marks)
            self.kept = len(journal.done)
            self.notes += went_on(journal)
        few = partial(frames_ahead, reader.info)
        encode = self.config.encode
        with (
            going_on(journal),
            open_writer(
                self.output, reader, encode, finish=self._finish, journal=journal
            ) as writer,
        ):
            with closing(buffered(self._swapped(reader, analyser), few(4), "swap")) as swapped:
                for done in swapped:
                    self.cancel.check()
                    start = time.perf_counter()
                    if done.frame.index >= self.kept:
                        writer.write(done.frame)
                    self.seconds["encode"] += time.perf_counter() - start
                    self._count(done, reader.info.frames, started)
            self.cancel.check()
            if self.output_marks.marks_for_nothing:
                raise _NothingAltered
        return writer

    def _finish(self, unfinished: Path) -> Any:
        start = time.perf_counter()
        told = self.output_marks.finish(unfinished)
        self.seconds["mark"] += time.perf_counter() - start
        return told

    def _save_preview(self) -> list[str]:
        """Write the sheet of before and after, marked too; notes say why there is none."""
        path = self.config.preview
        if path is None or self.sheet is None:
            return []
        sheet = self.sheet.picture()
        if sheet is None:
            return ["no preview was written: no frame showed a face to swap"]
        chosen = self.config.provenance
        whole = "off" if chosen.watermark == "off" else "frame"
        marks = replace(chosen, watermark=whole, ledger=False)  # the run itself is in the list
        marker = Marker(marks, task="face_swap", sources=self.config.sources)
        try:
            marker.save(sheet, path, target=self.input)
        except (ConfigError, OSError) as error:  # the film is there already
            return [f"{path}: no preview was written: {reason(error)}"]
        return []

    def _tell(self, marker: Marker) -> None:
        """Say in the credential which networks did the work, by hash, and how."""
        files = {
            "swapper": Path(self.config.swapper) if self.config.swapper != "mesh" else None,
            "recogniser": self.config.recogniser,
            "converter": self.config.converter,
        }
        if not self.config.provenance.credentials:
            return
        marker.networks |= {
            name: content_hash(path) for name, path in files.items() if path and path.exists()
        }
        marker.settings |= {
            "swapper": "mesh" if self.config.swapper == "mesh" else "network",
            "watermark": self.config.provenance.watermark,
            "label": "corner" if marker.is_labelled else "off",
        }

    def _swapped(self, reader: Any, analyser: Analyser) -> Iterator[_Swapped]:
        """Frames after swapping, in order; runs in a thread of its own."""
        limit_threads(self.threads)
        # Closed by name: an error's traceback would keep the stages before it alive and waiting.
        few = partial(frames_ahead, reader.info)
        with closing(buffered(self._analysed(reader, analyser), few(4), "analyse")) as analysed:
            chunk = list(islice(analysed, BATCH))
            start = time.perf_counter()
            self.output_marks.start(self.earlier.result() if self.earlier else None)
            self.seconds["mark"] += time.perf_counter() - start
            while chunk:
                self._check(chunk)
                known = [one for one in chunk if one[0].index < self.kept]
                yield from self._pass_on(known)
                yield from self._swap_chunk(chunk[len(known) :])
                chunk = list(islice(analysed, BATCH))

    def _check(self, chunk: Sequence[_Analysed]) -> None:
        assert self.gate is not None
        start = time.perf_counter()
        self.gate.check([frame for frame, _, _ in chunk])
        self.seconds["gate"] += time.perf_counter() - start

    def _pass_on(self, chunk: Sequence[_Analysed]) -> Iterator[_Swapped]:
        """Pictures that are done: counted, and looked at by a swapper that remembers tracks."""
        for frame, planes, faces in chunk:
            picked = self._choose(faces)
            if hasattr(self.swapper, "apart"):
                assert self.swapper is not None
                self.swapper.swap([Job(planes, face, 0) for face in picked])
            yield _Swapped(frame, len(faces), len(picked))

    def _swap_chunk(self, chunk: Sequence[_Analysed]) -> Iterator[_Swapped]:
        chosen = [self._choose(faces) for _, _, faces in chunk]
        if self.sheet:
            for (frame, planes, _), faces in zip(chunk, chosen):
                self.sheet.before(frame.index, planes, faces, self.selection.numbers)
        marks = self.output_marks
        markings = [
            marks.of(frame) if picked or marks.is_film else None
            for (frame, _, _), picked in zip(chunk, chosen)
        ]
        self._swap([planes for _, planes, _ in chunk], chosen, markings)
        for (frame, planes, faces), picked, marking in zip(chunk, chosen, markings):
            if self.sheet:
                self.sheet.after(frame.index, planes, picked)
            if picked:
                self._download(planes, frame.planes)
            start = time.perf_counter()
            marks.finished(frame, marking, bool(picked))
            self.seconds["mark"] += time.perf_counter() - start
            yield _Swapped(frame, len(faces), len(picked))

    def _analysed(self, reader: Any, analyser: Analyser) -> Iterator[_Analysed]:
        """Frames with the faces found in them; runs in a thread of its own."""
        limit_threads(self.threads)
        ahead = frames_ahead(reader.info, 8)
        frames = self._watched(self._timed(reader, "decode"), reader)
        with closing(buffered(frames, ahead, "decode")) as decoded:
            tagged = ((frame, self._upload(frame.planes)) for frame in decoded)
            yield from self._timed(analyser.analyse(tagged), "analyse")

    def _watched(self, frames: Iterator[Frame], reader: Any) -> Iterator[Frame]:
        """Pass frames on; an earlier mark is sought in the first of a film, in a thread of its own.

        What is seen of them is copied, since they are altered while the search may still run.
        """
        if self.config.provenance.watermark == "off" or not isinstance(reader, VideoReader):
            yield from frames
            return
        first = list(islice(frames, frames_ahead(reader.info, FIRST_FRAMES)))
        seen = [(luma_of(frame.planes), weight_of(frame.picture)) for frame in first]
        with ThreadPoolExecutor(1) as aside:
            self.earlier = aside.submit(earlier_mark, seen)
            yield from first
            yield from frames

    def _choose(self, faces: Sequence[Face]) -> list[Face]:
        sure = [face for face in faces if face.score >= self.config.min_score]
        return self.selection.choose(sure)

    def _swap(
        self,
        planes: Sequence[Planes],
        chosen: Sequence[Sequence[Face]],
        markings: Sequence[Marking | None],
    ) -> None:
        """Swap every chosen face of a few frames in one batch, then paste frame by frame."""
        assert self.swapper is not None
        start = time.perf_counter()
        jobs = [Job(p, face, 0) for p, faces in zip(planes, chosen) for face in faces]
        patches = iter(self.swapper.swap(jobs))
        swapped = time.perf_counter()
        self.seconds["swap"] += swapped - start
        for p, faces, marking in zip(planes, chosen, markings):
            for _, patch in zip(faces, patches):  # crops may differ in size, so one at a time
                assert marking is not None  # every frame with a face that is swapped has one
                with marking.changing(p, patch.matrix, patch.mask.shape[-1]):
                    paste(
                        p,
                        patch.crop[None],
                        patch.mask[None],
                        patch.matrix[None],
                        gain=None if patch.gain is None else patch.gain[None],
                        bias=None if patch.bias is None else patch.bias[None],
                    )
        self.seconds["paste"] += time.perf_counter() - swapped

    def _upload(self, planes: Planes) -> Planes:
        if planes.c0.device.type == self.device.type:
            return planes  # a surface that its decoder left there, or all is on the CPU
        c0, c1, c2 = (plane.to(self.device, non_blocking=True) for plane in planes[:3])
        return Planes(c0, c1, c2, planes.layout)

    def _download(self, planes: Planes, into: Planes) -> None:
        """Bring swapped planes back into the memory that the encoder reads."""
        if planes.c0 is into.c0:
            return  # they are that memory
        for plane, target in zip(planes[:3], into[:3]):
            target.copy_(plane)  # the one wait of a frame

    def _timed(self, items: Iterable[T], stage: str) -> Iterator[T]:
        iterator = iter(items)
        while True:
            start = time.perf_counter()
            try:
                item = next(iterator)
            except StopIteration:
                return
            finally:
                self.seconds[stage] += time.perf_counter() - start
            yield item

    def _count(self, done: _Swapped, total: int | None, started: float) -> None:
        self.frames += 1
        self.faces += done.faces
        self.swapped += done.swapped
        self.frames_with_faces += done.faces > 0
        self.frames_swapped += done.swapped > 0
        if self.progress:
            rate = self.frames / (time.perf_counter() - started)
            self.progress(Progress(stage="swap", done=self.frames, total=total, rate=rate))

    def _report(
        self, seconds: float, analyser: Analyser, codec: str, notes: Sequence[str]
    ) -> dict[str, Any]:
        if self.frames and not self.frames_with_faces:
            notes = [*notes, "no face was found in any frame; the output is the input, re-encoded"]
        elif self.frames and not self.frames_swapped:
            notes = [*notes, f"no face was swapped: select {self.config.select} chose none"]
        return {
            "input": str(self.input),
            "output": str(self.output),
            "sources": [str(path) for path in self.config.sources],
            "swapper": getattr(self.swapper, "name", type(self.swapper).__name__),
            "frames": self.frames,
            "frames_with_faces": self.frames_with_faces,
            "frames_swapped": self.frames_swapped,
            "faces": self.faces,
            "swapped": self.swapped,
            "tracks": analyser.stats.get("tracks"),
            "cuts": analyser.stats.get("cuts"),
            "seconds": round(seconds, 3),
            "fps": round(self.frames / seconds, 2) if seconds else 0.0,
            # Stages run side by side, so these add up to more than the whole.
            "stage_seconds": {name: round(value, 3) for name, value in self.seconds.items()},
            "peak_memory_mb": peak_memory_mb(),
            "device": device_name(self.device),
            "kernels": {name: sorted(op.used) for name, op in OPS.items() if op.used},
            "codec": codec,
            "notes": list(notes),
            "versions": versions(),
        }


def frames_ahead(info: VideoInfo, most: int) -> int:
    """How many frames may wait at one place: fewer where each of them is large."""
    return max(1, min(most, AHEAD_PX // (info.width * info.height)))


def threads_a_stage(side_by_side: int = 1) -> int:
    """Four stages of each film run side by side, so each may use a quarter of its share."""
    return max(1, (os.cpu_count() or 1) // (4 * side_by_side))
