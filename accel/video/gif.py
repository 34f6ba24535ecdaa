"""What animated GIF asks for beyond other films: a palette for each frame, and a loop count.

Source: GIF89a specification; the NETSCAPE2.0 application extension.
"""

from __future__ import annotations

from pathlib import Path

import av

from accel.core import open_file
from accel.video.frame import Frame
from accel.video.info import VideoInfo


class GifPalette:
    """Reduces each frame to 256 colours of its own, as it comes."""

    def __init__(self, info: VideoInfo) -> None:
        graph = av.filter.Graph()
        source = graph.add_buffer(
            width=info.width, height=info.height, format=av.VideoFormat("bgra"),
            time_base=info.time_base,
        )  # fmt: skip
        split = graph.add("split", "2")
        make = graph.add("palettegen", "stats_mode=single")
        use = graph.add("paletteuse", "new=1:dither=sierra2_4a")
        sink = graph.add("buffersink")
        source.link_to(split)
        split.link_to(use, 0, 0)
        split.link_to(make, 1, 0)
        make.link_to(use, 0, 1)
        use.link_to(sink)
        graph.configure()
        self._graph = graph

    def push(self, frame: Frame) -> list[av.VideoFrame]:
        """Take a frame, return those that are ready."""
        picture = frame.picture.reformat(format="bgra")
        picture.pts, picture.time_base = frame.pts, frame.time_base
        self._graph.vpush(picture)
        return self._pull()

    def flush(self) -> list[av.VideoFrame]:
        self._graph.vpush(None)
        return self._pull()

    def _pull(self) -> list[av.VideoFrame]:
        pictures = []
        while True:
            try:
                pictures.append(self._graph.vpull())
            except (BlockingIOError, EOFError):
                return pictures


def gif_loops(path: Path) -> int:
    """Return how often a GIF asks to be repeated, as FFmpeg's muxer counts: 0 forever, -1 once.

    Anything but a GIF loops forever.
    """
    if not path.is_file():
        return 0
    with open_file(path, "a picture") as file:
        head = file.read(4096)
    if not head.startswith(b"GIF8"):
        return 0
    _, mark, rest = head.partition(b"NETSCAPE2.0\x03\x01")
    return int.from_bytes(rest[:2], "little") if mark else -1
