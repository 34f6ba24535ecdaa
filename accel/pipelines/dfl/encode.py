"""Put merged frames back into a film: step 8 of the workflow.

The result has the sound, the tags and the time stamps of the target's film, frame by frame.
"""

from __future__ import annotations

import copy
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import replace
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import torch

from accel.core import Cancel, ConfigError, InputError, Progress, ProgressCallback
from accel.kernels import planes_to_rgb, rgb_to_planes
from accel.kernels.planes import PlaneLayout
from accel.pipelines.dfl.frames import FrameSource, open_frames
from accel.pipelines.dfl.made import remember
from accel.pipelines.dfl.timeline import film
from accel.pipelines.dfl.workspace import Workspace, open_workspace
from accel.pipelines.provenance import (
    Marker,
    Marking,
    ProvenanceConfig,
    earlier_mark,
    first_lumas,
)
from accel.pipelines.run_report import end_of_report
from accel.pipelines.verify import decoded
from accel.provenance.c2pa import sidecar_of
from accel.video.encode import EncodeConfig
from accel.video.frame import Frame
from accel.video.info import VideoInfo
from accel.video.read import VideoReader
from accel.video.scope import KeptIfWell
from accel.video.sniff import PICTURE_SUFFIXES
from accel.video.stages import buffered, in_order
from accel.video.stills import FolderReader
from accel.video.upright import upright_info
from accel.video.write import VideoWriter


def encode_result(
    place: Workspace | Path | str,
    output: Path | str | None = None,
    config: EncodeConfig | None = None,
    *,
    mask_output: Path | str | None = None,
    provenance: ProvenanceConfig | None = None,
    overwrite: bool = False,
    progress: ProgressCallback | None = None,
    cancel: Cancel | None = None,
) -> dict[str, Any]:
    """Encode `merged` (and `merged_mask` to `mask_output`) into films; return the report.

    output: `result.mp4` of the workspace by default; its suffix chooses the container.
    Frames of the target that were not merged are taken from the target itself. The film of masks
    has no sound.
    provenance: what marks the film gets, `frame` or `off` for the invisible one; masks get none.
    Raises InputError when there is nothing merged; nothing is left under the output's name unless
    all goes well.
    """
    workspace, config = open_workspace(place), config or EncodeConfig()
    provenance = provenance or ProvenanceConfig()
    if provenance.watermark == "face":
        raise ConfigError("encode: watermark must be frame or off, which samples are new is lost")
    output = Path(output) if output else workspace.result
    jobs = [(workspace.merged, output)]
    if mask_output:
        jobs.append((workspace.merged_mask, Path(mask_output)))
        if Path(mask_output).resolve() == output.resolve():
            raise ConfigError(f"{output}: the film and that of its masks must have two names")
    for folder, path in jobs:
        if not _pictures(folder):
            raise InputError(
                f"{folder}: must hold merged frames, found none;"
                f" run `accel dfl merge {workspace.root}`"
            )
        if path.exists() and not overwrite:
            raise ConfigError(f"{path} exists; choose another name, remove it, or overwrite")
    started = time.perf_counter()
    marker = Marker(provenance, task="face_swap", settings={"workflow": "dfl"})
    reports = []
    with open_frames(workspace, "dst") as source:
        for folder, path in jobs:
            job = _Encoding(source, folder, path, config, marker if path == output else None)
            reports.append(job.run(progress, cancel))
            if path.resolve().parent == workspace.root.resolve():
                remember(workspace.root, [path.name, sidecar_of(path).name])
    notes = [note for r in reports for note in r["notes"]]
    return {
        "command": "dfl encode",
        "workspace": str(workspace.root),
        "output": str(output),
        "mask_output": mask_output and str(mask_output),
        "frames": reports[0]["frames"],
        "merged": reports[0]["merged"],
        "codec": reports[0]["codec"],
        "marked": marker.report(),
        "notes": list(dict.fromkeys(notes)),
        **end_of_report(started),
    }


class ResultWriter(KeptIfWell):
    """Writes frames of the target, changed or not, as a film that is like the target's.

    Takes frames in the target's planes, and RGB ones, which are converted. Sound, subtitles, tags
    and chapters are the target's; without a film there are none.

    marking: the marks that every frame gets as it is written, None without a marker. The film is
    sealed as altered only if a frame was. is_silent: take over what is seen alone.
    """

    def __init__(
        self,
        path: Path,
        source: FrameSource,
        config: EncodeConfig,
        size: tuple[int, int],
        marker: Marker | None = None,
        is_silent: bool = False,
    ) -> None:
        self.path = Path(path)
        self.marking: Marking | None = None
        self._is_altered = False
        if marker is not None:
            earlier = None if marker.config.watermark == "off" else _earlier(source)
            self.marking = marker.begin(target=_target(source), earlier=earlier)
        self._reader: VideoReader | None = None
        if source.video is not None:
            self._reader = film(source.video)
            info = upright_info(self._reader.info)
        else:
            info = source.info
        info = _encodable(replace(info, width=size[0], height=size[1]), self.path)
        info = replace(
            info,
            time_base=source.index.time_base,
            average_rate=_average_rate(source, info),
            is_image=False,
            is_folder=False,
        )
        like: Any
        if self._reader is not None and not is_silent:
            like = copy.copy(self._reader)
            like.info = info
        else:
            like = _Like(source.video or self.path.with_name(".no-film"), info)
        self.info, self.layout = info, info.layout
        try:
            self._writer = VideoWriter(self.path, like, config, finish=self._seal)
        except BaseException:
            self._close_reader()
            raise

    @property
    def notes(self) -> list[str]:
        return self._writer.notes

    @property
    def encoder(self) -> str:
        return self._writer.encoder

    @property
    def frames(self) -> int:
        return self._writer.frames

    def write(self, frame: Frame, altered: bool = True) -> None:
        """Mark and encode a frame; its planes are written into. altered: a face was put in."""
        frame = in_layout(frame, self.info)
        self._is_altered |= altered
        if self.marking is not None:
            self.marking.mark_frame(frame.planes)
        self._writer.write(frame)

    def _seal(self, partial: Path) -> None:
        sidecar_of(self.path).unlink(missing_ok=True)  # of an earlier file of this name
        if self.marking is not None and self._is_altered:
            self.marking.seal(partial, self.path)

    def close(self) -> None:
        try:
            self._writer.close()
        except BaseException:
            self.abort()
            raise
        self._close_reader()

    def abort(self) -> None:
        self._writer.abort()
        if self.marking is not None:
            self.marking.unseal()
        self._close_reader()

    def _close_reader(self) -> None:
        if self._reader is not None:
            self._reader.close()


def open_result(
    path: Path | str,
    source: FrameSource,
    config: EncodeConfig | None = None,
    *,
    size: tuple[int, int] | None = None,
    marker: Marker | None = None,
    is_silent: bool = False,
) -> ResultWriter:
    """Open a film for the target's frames.

    size: width and height, the source's by default. marker: marks what is written; give one to
    whatever shows a swapped face. is_silent: no sound, subtitles, tags or chapters.
    """
    own = (source.info.width, source.info.height)
    return ResultWriter(
        Path(path), source, config or EncodeConfig(), size or own, marker, is_silent
    )


def _target(source: FrameSource) -> Path:
    """The file that is altered: the film, or the first picture where there is none."""
    if source.video is not None:
        return source.video
    assert source.folder is not None
    return source.folder / source.names[0]


def _earlier(source: FrameSource) -> str | None:
    """Id of a mark that the target carries already."""
    if source.video is None:
        return None
    with closing(decoded(source.video)) as frames:
        return earlier_mark(first_lumas(frames))


class _Like:
    """What a writer asks of a film, where there is none."""

    def __init__(self, path: Path, info: VideoInfo) -> None:
        self.path, self.info = path, info


def _encodable(info: VideoInfo, path: Path) -> VideoInfo:
    """RGB films and pictures become 4:2:0 BT.709, what every player shows."""
    if not info.pixel_format.startswith("gbr") and "a" not in info.pixel_format.removeprefix("yuv"):
        return info
    is_even = info.width % 2 == 0 and info.height % 2 == 0
    color = replace(info.color, matrix=1, primaries=1, transfer=1, range=1)
    return replace(
        info,
        pixel_format="yuv420p" if is_even else "yuv444p",
        codec="gif" if path.suffix.lower() == ".gif" else "h264",
        color=replace(color, chroma_location="left"),
    )


def _average_rate(source: FrameSource, info: VideoInfo) -> Fraction | None:
    return info.average_rate if source.video is not None else source.info.average_rate


def in_layout(frame: Frame, info: VideoInfo) -> Frame:
    """The frame in the pixel format of `info`: itself, or converted through RGB."""
    own, wanted = frame.layout, info.layout
    # Grey pictures are planes of full range, whatever the film has: the name alone does not tell.
    if frame.picture.format.name == info.pixel_format and own.to_rgb == wanted.to_rgb:
        return frame
    deep = max(frame.layout.bits, info.layout.bits) > 8
    rgb = planes_to_rgb(frame.planes, dtype=torch.uint16 if deep else torch.uint8)
    height, width = rgb.shape[:2]
    return frame_of(rgb, info.layout, info.pixel_format, frame, (width, height))


def frame_of(
    rgb: torch.Tensor,  # [H, W, 3] uint8 or uint16 at full scale
    layout: PlaneLayout,
    pixel_format: str,
    like: Frame,
    size: tuple[int, int],
) -> Frame:
    """A frame of planes from an RGB picture, shown when `like` is."""
    picture = av.VideoFrame(*size, pixel_format)
    kind = np.uint8 if layout.bits == 8 else np.uint16
    for plane, target in zip(rgb_to_planes(rgb, layout)[:3], picture.planes):
        rows = np.frombuffer(target, kind).reshape(target.height, -1)
        rows[:, : target.width] = plane.numpy()
    return Frame(layout, like.pts, like.time_base, like.index, picture)


class _Encoding:
    """One film made of one folder of pictures."""

    def __init__(
        self,
        source: FrameSource,
        folder: Path,
        path: Path,
        config: EncodeConfig,
        marker: Marker | None,
    ) -> None:
        self.source, self.path, self.config, self.marker = source, path, config, marker
        self.pictures = FolderReader(folder)
        self.places = {Path(name).stem: i for i, name in enumerate(self.pictures.names)}
        self.merged = sum(Path(name).stem in self.places for name in source.names)
        if not self.merged:
            raise InputError(
                f"{folder}: pictures must be named as the target's frames, such as"
                f" {source.names[0]}, got {self.pictures.names[0]}"
            )

    def run(self, progress: ProgressCallback | None, cancel: Cancel | None) -> dict[str, Any]:
        started, total = time.perf_counter(), len(self.source)
        size = (self.pictures.info.width, self.pictures.info.height)
        stage = "encode" if self.marker else "masks"
        with (
            open_result(
                self.path,
                self.source,
                self.config,
                size=size,
                marker=self.marker,
                is_silent=self.marker is None,
            ) as writer,
            closing(buffered(self._converted(writer.info, cancel), 4, "read")) as frames,
        ):
            for done, (frame, is_merged) in enumerate(frames, 1):
                writer.write(frame, altered=is_merged)
                if progress:
                    rate = done / (time.perf_counter() - started)
                    progress(Progress(stage=stage, done=done, total=total, rate=rate))
        notes = [*self.source.notes, *writer.notes, *self._notes()]
        return {
            "frames": writer.frames,
            "merged": self.merged,
            "codec": writer.encoder,
            "notes": notes,
        }

    def _notes(self) -> list[str]:
        notes = []
        missing = len(self.source) - self.merged
        if missing:
            own = "the target's own" if self.marker else "black"
            notes.append(f"{missing} frames were not merged; they are {own}")
        known = {Path(name).stem for name in self.source.names}
        strangers = [name for name in self.pictures.names if Path(name).stem not in known]
        if strangers:
            notes.append(f"{len(strangers)} pictures belong to no frame, such as {strangers[0]}")
        return notes

    def _converted(self, info: VideoInfo, cancel: Cancel | None) -> Iterator[tuple[Frame, bool]]:
        """Merged frames, and the target's own where there is none, ready to be encoded."""
        # Two at a time: reading PNG takes longer than encoding it.
        with ThreadPoolExecutor(2) as pool:
            numbers = range(len(self.source))
            yield from in_order(pool, lambda i: self._load(i, info), numbers, 4, cancel)

    def _load(self, number: int, info: VideoInfo) -> tuple[Frame, bool]:
        name = self.source.names[number]
        place = self.places.get(Path(name).stem)
        if place is None:
            frame = self.source.read(name)
            if self.marker is None:  # a mask of a frame in which nothing was changed
                black = torch.zeros(info.height, info.width, 3, dtype=torch.uint8)
                size = info.width, info.height
                return frame_of(black, info.layout, info.pixel_format, frame, size), False
            return in_layout(frame, info), False
        with self.pictures.open(place) as reader:
            read = reader.frame(number)
        index = self.source.index
        frame = Frame(read.layout, index.pts[name], index.time_base, number, read.picture)
        return in_layout(frame, info), True


def _pictures(folder: Path) -> list[Path]:
    if not folder.is_dir():
        return []
    return [p for p in folder.iterdir() if p.suffix.lower() in PICTURE_SUFFIXES]
