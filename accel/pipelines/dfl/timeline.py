"""When each frame of a film is shown, and any one of them without reading all before it."""

from __future__ import annotations

import threading
from bisect import bisect_left, bisect_right
from collections import OrderedDict
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import av

from accel.core import InputError
from accel.video.frame import Frame, planar
from accel.video.read import VideoReader, main_video
from accel.video.scope import Closing
from accel.video.sniff import open_demuxer, reason
from accel.video.upright import turned_picture, upright

CACHED = 8  # frames kept for the next question
FORWARD = 90  # frames decoded on to reach one, rather than looking for a key frame


@dataclass(frozen=True)
class Timeline:
    """Presentation times of all frames, rising. keys: indices of those that need no other.

    is_stored: whether the file's packets say these times; else they were found by decoding.
    """

    time_base: Fraction
    pts: tuple[int, ...]
    keys: tuple[int, ...]
    is_stored: bool

    def at_most(self, fps: float | None) -> list[int]:
        """Indices of the frames that remain at `fps` a second; none is shown twice."""
        if fps is None:
            return list(range(len(self.pts)))
        chosen, last = [], -1
        for i, pts in enumerate(self.pts):
            # A rate that divides the film's must take every n-th frame, rounded times or not.
            slot = int(float((pts - self.pts[0]) * self.time_base) * fps + 0.01)
            if slot > last:
                chosen.append(i)
                last = slot
        return chosen


def read_timeline(reader: VideoReader) -> Timeline:
    """Read the packets of a film, without decoding where they hold the times."""
    stamps: list[int] = []
    keys: list[int] = []
    with open_demuxer(reader.path, reader.demuxer, reader.limits.max_pixels) as container:
        stream = main_video(container, reader.path)
        is_stored = True
        try:
            for packet in container.demux(stream):
                if packet.size == 0 or packet.is_discard:
                    continue
                if packet.pts is None:
                    is_stored = False
                    break
                stamps.append(packet.pts)
                if packet.is_keyframe:
                    keys.append(packet.pts)
        except av.error.FFmpegError:
            pass  # a film that is cut short: what is there counts, reading it will say so
    rising = sorted(set(stamps))
    if not is_stored or not rising or len(rising) != len(stamps):
        rising, keys = [frame.pts for frame in reader], []
        is_stored = False
    if not rising:
        raise InputError(f"{reader.path}: not one frame could be decoded")
    places = tuple(bisect_left(rising, pts) for pts in sorted(set(keys)))
    return Timeline(reader.info.time_base, tuple(rising), places or (0,), is_stored)


class Seeker(Closing):
    """Any frame of a film by its number. May be called from several threads, one at a time."""

    def __init__(self, reader: VideoReader, timeline: Timeline) -> None:
        self.reader, self.timeline = reader, timeline
        self._container: av.container.InputContainer | None = None
        self._pictures: object = None
        self._last = -1  # number of the frame decoded last
        self._cache: OrderedDict[int, Frame] = OrderedDict()
        self._lock = threading.Lock()

    def read(self, number: int) -> Frame:
        """Frame `number`, upright, a copy of its own that may be written into.

        Raises InputError if it cannot be decoded.
        """
        with self._lock:
            if number not in self._cache:
                self._decode_to(number)
            frame = self._cache[number]
            self._cache.move_to_end(number)
            copy = turned_picture(frame.picture, 0, False)
        return Frame(frame.layout, frame.pts, frame.time_base, number, copy)

    def _decode_to(self, number: int) -> None:
        timeline = self.timeline
        key = timeline.keys[max(0, bisect_right(timeline.keys, number) - 1)]
        is_near = self._last < number <= self._last + FORWARD or key <= self._last < number
        if self._container is None or not is_near:
            self._start(key)
        if self._decode(number):
            return
        self._start(0)  # the key frame depends on others after all, or the index of the file lies
        if not self._decode(number):
            raise InputError(f"{self.reader.path}: frame {number + 1} could not be decoded")

    def _start(self, key: int) -> None:
        self.close()
        reader = self.reader
        self._container = open_demuxer(reader.path, reader.demuxer, reader.limits.max_pixels)
        stream = main_video(self._container, reader.path)
        stream.codec_context.thread_type = "AUTO"
        stream.codec_context.options = {"max_pixels": str(reader.limits.max_pixels)}
        self._last = -1
        if key and self.timeline.is_stored:
            try:
                self._container.seek(self.timeline.pts[key], stream=stream)
                self._last = key - 1
            except av.error.FFmpegError:
                self.close()
                return self._start(0)
        self._pictures = self._container.decode(stream)

    def _decode(self, number: int) -> bool:
        pts = self.timeline.pts
        while self._last < number:
            try:
                picture = next(self._pictures, None)  # type: ignore[call-overload]
            except av.error.FFmpegError as error:
                raise InputError(
                    f"{self.reader.path}: frame {number + 1} is damaged: {reason(error)}"
                ) from error
            if picture is None:
                return False
            at = self._last + 1
            if self.timeline.is_stored:
                at = max(0, bisect_right(pts, picture.pts) - 1)
                if at > number and number not in self._cache:
                    return False
            self._last = at
            if at > number - CACHED:  # players mostly go on to the next, or one back
                self._keep(at, picture)
        return number in self._cache

    def _keep(self, number: int, picture: av.VideoFrame) -> None:
        info = self.reader.info
        frame = Frame(
            self.reader.layout, self.timeline.pts[number], info.time_base, number, planar(picture)
        )
        self._cache[number] = upright(frame, info)
        while len(self._cache) > CACHED:
            self._cache.popitem(last=False)

    def close(self) -> None:
        self._pictures = None
        if self._container is not None:
            self._container.close()
            self._container = None


def locate(timeline: Timeline, pts: int, last: int) -> int:
    """The number of the frame shown at `pts`, above `last`: damaged films skip numbers."""
    return max(last + 1, bisect_left(timeline.pts, pts))


def film(path: Path) -> VideoReader:
    """Open a film of a workspace. Raises InputError if it is a still picture."""
    from accel.video.read import open_video

    reader = open_video(path)
    if not isinstance(reader, VideoReader):
        reader.close()
        raise InputError(f"{path}: must be a film, is a still picture")
    return reader
