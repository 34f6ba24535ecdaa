"""Any frame of a film without reading all before it, and those that a person goes back to.

A decoder only goes forward: the frame before this one may take all frames since the last key frame,
which are 250 in many a film. So the way there is kept, as far as there is room.
"""

from __future__ import annotations

import threading
from bisect import bisect_right
from collections import OrderedDict

import av

from accel.core import InputError
from accel.pipelines.dfl.timeline import Timeline
from accel.video.frame import Frame, planar
from accel.video.read import VideoReader, main_video
from accel.video.scope import Closing
from accel.video.sniff import open_demuxer, reason
from accel.video.upright import turned_picture, upright

CACHED = 8  # frames kept for the next question, where nobody goes back
MOST_CACHED, CACHED_BYTES = 128, 192 << 20  # where somebody does: the smaller of the two
FORWARD = 90  # frames decoded on to reach one, rather than looking for a key frame


class Seeker(Closing):
    """Any frame of a film by its number. May be called from several threads.

    What is kept is given out at once, whatever is being decoded meanwhile.
    """

    def __init__(self, reader: VideoReader, timeline: Timeline) -> None:
        self.reader, self.timeline = reader, timeline
        self._container: av.container.InputContainer | None = None
        self._pictures: object = None
        self._last = -1  # number of the frame decoded last
        self._absent: set[int] = set()  # numbers that a damaged film has no frame for
        self._decoding = threading.Lock()  # of the four above
        self._cache: OrderedDict[int, Frame] = OrderedDict()
        self._room = CACHED
        self._waiting = 0  # how many wait for a frame that is not kept
        self._lock = threading.Lock()  # of the three above

    def read(self, number: int) -> Frame:
        """Frame `number`, upright, a copy of its own that may be written into.

        Raises InputError if it cannot be decoded.
        """
        frame = self._kept(number)
        if frame is None:
            self._wait(1)
            try:
                with self._decoding:
                    frame = self._kept(number) or self._decoded(number)
            finally:
                self._wait(-1)
        copy = turned_picture(frame.picture, 0, False)
        return Frame(frame.layout, frame.pts, frame.time_base, number, copy)

    def prepare(self, number: int) -> None:
        """Make ready what somebody at `number` asks for next who goes back, until others wait.

        Raises InputError if it cannot be decoded.
        """
        with self._decoding:
            frame = self._kept(number) or self._decoded(number)
            with self._lock:
                self._room = _room_for(frame)
                near = range(number - 1, max(number - self._room // 4, 0) - 1, -1)
                there = self._absent.union(self._cache)
            missing = next((i for i in near if i not in there), None)
            if missing is not None and not self._reach(missing, gives_way=True):
                self._absent.add(missing)

    # --- what is kept -----------------------------------------------------------------------

    def _kept(self, number: int) -> Frame | None:
        with self._lock:
            if number in self._cache:
                self._cache.move_to_end(number)
            return self._cache.get(number)

    def _keep(self, number: int, picture: av.VideoFrame) -> None:
        info = self.reader.info
        frame = Frame(
            self.reader.layout, self.timeline.pts[number], info.time_base, number, planar(picture)
        )
        frame = upright(frame, info)
        with self._lock:
            self._cache[number] = frame
            self._cache.move_to_end(number)
            while len(self._cache) > self._room:
                self._cache.popitem(last=False)

    def _wait(self, more: int) -> None:
        with self._lock:
            self._waiting += more

    # --- decoding ---------------------------------------------------------------------------

    def _decoded(self, number: int) -> Frame:
        self._decode_to(number)
        frame = self._kept(number)
        assert frame is not None
        return frame

    def _decode_to(self, number: int) -> None:
        if self._reach(number):
            return
        self._start(0)  # the key frame depends on others after all, or the index of the file lies
        if not self._decode(number):
            raise InputError(f"{self.reader.path}: frame {number + 1} could not be decoded")

    def _reach(self, number: int, *, gives_way: bool = False) -> bool:
        """Decode to a frame from where the decoder is, or from the key frame before it."""
        timeline = self.timeline
        key = timeline.keys[max(0, bisect_right(timeline.keys, number) - 1)]
        is_near = self._last < number <= self._last + FORWARD or key <= self._last < number
        if self._container is None or not is_near:
            self._start(key)
        return self._decode(number, gives_way)

    def _start(self, key: int) -> None:
        self._stop()
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
                self._stop()
                return self._start(0)
        self._pictures = self._container.decode(stream)

    def _decode(self, number: int, gives_way: bool = False) -> bool:
        """Decode on to `number`; False if the film has no such frame behind this place."""
        pts = self.timeline.pts
        while self._last < number:
            if gives_way and self._waiting:
                return True
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
            # Players mostly go on to the next, or back: to the frames that lie on the way.
            if at > number - max(self._room // 2, CACHED):
                self._keep(at, picture)
        return number in self._cache

    def _stop(self) -> None:
        self._pictures = None
        if self._container is not None:
            self._container.close()
            self._container = None

    def close(self) -> None:
        self._wait(1)  # whoever prepares gives way
        with self._decoding:
            self._stop()


def _room_for(frame: Frame) -> int:
    """How many frames of this size are kept for somebody who goes back."""
    size: int = sum(plane.buffer_size for plane in frame.picture.planes)
    return min(max(CACHED_BYTES // size, CACHED), MOST_CACHED)
