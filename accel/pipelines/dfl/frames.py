"""The frames of one side of a workspace, from its folder of pictures or straight from its film.

Both ways give the same names, so that aligned faces, merged frames and the result fit together.
`frames.json` beside the pictures says when each is shown; films of varying rate come back as they
were.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from fractions import Fraction
from functools import cached_property
from itertools import pairwise
from pathlib import Path
from typing import Any

from accel.core import ConfigError, InputError, read_json
from accel.kernels._native import limit_threads
from accel.pipelines.dfl.seek import Seeker
from accel.pipelines.dfl.timeline import Timeline, film, locate, read_timeline
from accel.pipelines.dfl.workspace import Workspace, check_side, open_workspace
from accel.unfinished import write_whole
from accel.video.frame import Frame
from accel.video.info import VideoInfo
from accel.video.read import VideoReader
from accel.video.scope import Closing
from accel.video.sniff import PICTURE_SUFFIXES
from accel.video.stages import in_order
from accel.video.stills import FolderReader
from accel.video.upright import upright, upright_info

INDEX_NAME = "frames.json"
MOST_AT_ONCE, PIXELS_AT_ONCE = 8, 1 << 26  # pictures of a folder that are decoded side by side
VERSION = 1


@dataclass(frozen=True)
class NamedFrame:
    """name: of the frame's picture, such as `00001.png`, whether or not there is one."""

    name: str
    frame: Frame


@dataclass
class FrameIndex:
    """What `frames.json` holds. pts: by name, in units of time_base, in the order shown.

    fps: the rate that frames were thinned out to, None when all are there.
    """

    video: str | None
    time_base: Fraction
    fps: float | None = None
    suffix: str = ".png"
    is_complete: bool = False
    pts: dict[str, int] = field(default_factory=dict)

    def save(self, path: Path) -> None:
        """Write it whole or not at all."""
        values = {
            "version": VERSION,
            "video": self.video,
            "time_base": str(self.time_base),
            "fps": self.fps,
            "suffix": self.suffix,
            "complete": self.is_complete,
            "pts": self.pts,
        }
        write_whole(path, json.dumps(values).encode())


def load_index(path: Path) -> FrameIndex | None:
    """Read an index; None if there is none. Raises InputError if it is damaged."""
    if not path.exists():
        return None
    values: dict[str, Any] = read_json(path, "an index of frames")
    try:
        if values["version"] != VERSION:
            raise ValueError(f"version {values['version']}")
        pts = {str(name): int(value) for name, value in values["pts"].items()}
        rising = list(pts.values())
        if any(b <= a for a, b in pairwise(rising)):
            raise ValueError("time stamps that do not rise")
        if not re.fullmatch(r"\d{1,10}(/\d{1,10})?", str(values["time_base"])):
            raise ValueError(f"time base {values['time_base']!r:.40}")
        base = Fraction(values["time_base"])
        if not base > 0:
            raise ValueError(f"time base {base}")
        fps = values["fps"]
        return FrameIndex(
            video=values["video"],
            time_base=base,
            fps=None if fps is None else float(fps),
            suffix=str(values["suffix"]),
            is_complete=bool(values["complete"]),
            pts=pts,
        )
    except (ValueError, KeyError, TypeError, AttributeError, ArithmeticError) as error:
        raise InputError(
            f"{path}: must be an index of frames, is damaged: {error}; run `frames` again"
        ) from error


class FrameSource(Closing):
    """The frames of one side: iterate for NamedFrames in order, or `read` one by name.

    names: of all frames, in order. info: of the frames as given out, upright; for pictures their
    own size and format. video: the film, None if there is none. folder: of the pictures, None when
    the film is read directly. index: when each is shown. notes: what went wrong without stopping.
    """

    def __init__(self, workspace: Workspace, side: str) -> None:
        self.workspace, self.side = workspace, check_side(side)
        self.video: Path | None = workspace.video(side)
        self.folder: Path | None = None
        self.notes: list[str] = []
        self.names: list[str] = []
        self.info: VideoInfo
        self.index: FrameIndex

    def __len__(self) -> int:
        return len(self.names)

    def __iter__(self) -> Iterator[NamedFrame]:
        return self.start(0)

    def start(self, at: int) -> Iterator[NamedFrame]:
        """Iterate from frame number `at` of `names` on."""
        raise NotImplementedError

    def read(self, name: str) -> Frame:
        """One frame by name; its planes may be written into. Raises InputError."""
        raise NotImplementedError

    def prepare(self, name: str) -> None:
        """Make the frames before this one ready to be read, where that takes long."""

    def number(self, name: str) -> int:
        """Place of a frame in `names`, by its name or its name without suffix."""
        found = self._numbers.get(Path(name).stem)
        if found is None:
            raise InputError(f"{self.workspace.frames(self.side)}: holds no frame {name!r:.60}")
        return found

    @cached_property
    def _numbers(self) -> dict[str, int]:
        return {Path(name).stem: i for i, name in enumerate(self.names)}


def open_frames(
    place: Workspace | Path | str,
    side: str,
    *,
    fps: float | None = None,
    from_video: bool = False,
) -> FrameSource:
    """Open a side's frames: its folder's pictures if there are any, else its film.

    fps: thin a film out to at most so many frames a second; a folder is taken as it is.
    from_video: read the film even where there are pictures.
    Raises InputError when there is neither, or what is there cannot be read.
    """
    workspace = open_workspace(place)
    folder = workspace.frames(side)
    if fps is not None and not 0 < fps <= 1000:
        raise ConfigError(f"fps must lie in 0..1000, got {fps}")
    if not from_video and _has_pictures(folder):
        return PictureFrames(workspace, side)
    if workspace.video(side) is None:
        workspace.need_video(side)
    return FilmFrames(workspace, side, fps)


def _has_pictures(folder: Path) -> bool:
    return folder.is_dir() and any(
        entry.suffix.lower() in PICTURE_SUFFIXES and not entry.name.startswith(".")
        for entry in folder.iterdir()
    )


class FilmFrames(FrameSource):
    """Frames straight from a film, in the planes that the decoder gave."""

    def __init__(self, workspace: Workspace, side: str, fps: float | None = None) -> None:
        super().__init__(workspace, side)
        self.video = workspace.need_video(side)
        self.reader: VideoReader = film(self.video)
        try:
            self.info = upright_info(self.reader.info)
            self.timeline: Timeline = read_timeline(self.reader)
        except BaseException:
            self.reader.close()
            raise
        self._chosen = self.timeline.at_most(fps)
        self.names = [f"{i:05d}.png" for i in range(1, len(self._chosen) + 1)]
        self._name_of = dict(zip(self._chosen, self.names))
        self.index = FrameIndex(
            video=self.video.name,
            time_base=self.timeline.time_base,
            fps=fps,
            is_complete=True,
            pts={n: self.timeline.pts[i] for n, i in zip(self.names, self._chosen)},
        )
        self._seeker = Seeker(self.reader, self.timeline)

    def start(self, at: int) -> Iterator[NamedFrame]:
        number = -1
        first = self._chosen[at] if at < len(self._chosen) else len(self.timeline.pts)
        for frame in self.reader:
            number = locate(self.timeline, frame.pts, number)
            name = self._name_of.get(number)
            if name is not None and number >= first:
                yield NamedFrame(name, upright(frame, self.reader.info))
        for note in self.reader.notes:
            if note not in self.notes:
                self.notes.append(note)

    def read(self, name: str) -> Frame:
        return self._seeker.read(self._chosen[self.number(name)])

    def prepare(self, name: str) -> None:
        self._seeker.prepare(self._chosen[self.number(name)])

    def close(self) -> None:
        self._seeker.close()
        self.reader.close()


class PictureFrames(FrameSource):
    """Frames from a folder of pictures, shown when its index or its film says."""

    def __init__(self, workspace: Workspace, side: str) -> None:
        super().__init__(workspace, side)
        self.folder = workspace.frames(side)
        self._pictures = FolderReader(self.folder)
        self.names = self._pictures.names
        info = self._pictures.info
        self.index = self._when()
        self.info = replace(
            upright_info(info),
            time_base=self.index.time_base,
            average_rate=_average_rate(self.index),
        )

    def _when(self) -> FrameIndex:
        saved = load_index(self.folder / INDEX_NAME) if self.folder else None
        stems = {Path(n).stem: p for n, p in saved.pts.items()} if saved else {}
        if saved and not saved.is_complete:
            self.notes.append(
                f"{self.folder}: holds only {len(self.names)} of {len(stems)} frames,"
                " `frames` was broken off; run it again"
            )
        if saved and all(Path(name).stem in stems for name in self.names):
            return replace(saved, pts={name: stems[Path(name).stem] for name in self.names})
        if saved:
            self.notes.append(f"{INDEX_NAME} does not know all pictures and is not used")
        if self.video is not None:
            with film(self.video) as reader:
                timeline = read_timeline(reader)
                rate = reader.info.average_rate or Fraction(25)
            if len(timeline.pts) == len(self.names):
                pts = dict(zip(self.names, timeline.pts))
                return FrameIndex(self.video.name, timeline.time_base, is_complete=True, pts=pts)
            self.notes.append(
                f"{len(self.names)} pictures are shown evenly: {self.video.name} has"
                f" {len(timeline.pts)} frames and there is no usable {INDEX_NAME}"
            )
        else:
            rate = Fraction(25)
        pts = {name: i for i, name in enumerate(self.names)}
        return FrameIndex(None, 1 / rate, is_complete=True, pts=pts)

    def start(self, at: int) -> Iterator[NamedFrame]:
        # Files know nothing of each other: each core decodes one.
        large = self.info.width * self.info.height * MOST_AT_ONCE > PIXELS_AT_ONCE
        workers = 1 if large else min(os.cpu_count() or 1, MOST_AT_ONCE)
        ahead = 1 if large else 3 * workers  # faces are sought in some frames, which takes longer
        names = self.names[at:]
        with ThreadPoolExecutor(workers, initializer=limit_threads, initargs=(1,)) as pool:
            for name, frame in zip(names, in_order(pool, self.read, names, ahead)):
                yield NamedFrame(name, frame)

    def read(self, name: str) -> Frame:
        number = self.number(name)
        name = self.names[number]
        with self._pictures.open(number) as reader:
            frame = reader.frame(number)
            index = self.index
            stamped = Frame(frame.layout, index.pts[name], index.time_base, number, frame.picture)
            return upright(stamped, reader.info)

    def close(self) -> None:
        self._pictures.close()


def _average_rate(index: FrameIndex) -> Fraction:
    times = list(index.pts.values())
    if len(times) < 2:
        return Fraction(25)
    return Fraction(len(times) - 1, times[-1] - times[0]) / index.time_base
