"""When each frame of a film is shown."""

from __future__ import annotations

from bisect import bisect_left
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import av

from accel.core import InputError
from accel.video.read import VideoReader, main_video
from accel.video.sniff import open_demuxer, packets_of


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
            for packet in packets_of(container, [stream]):
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
