"""Frames out of a file, one at a time, with the time stamps the file gave them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING

import av
from av.codec.hwaccel import HWAccel

from accel.core import ConfigError, InputError
from accel.video.frame import Frame, planar
from accel.video.info import VideoInfo, chroma_location_of, describe
from accel.video.scope import Closing
from accel.video.sniff import open_demuxer, packets_of, reason, sniff

if TYPE_CHECKING:
    from accel.video.stills import FolderReader, ImageReader

MAX_SIDE = 65535  # as in JPEG; kernels count on rows that are not endless
MAX_FRUITLESS = 100_000  # packets in a row that give no picture; an hour of film
MAX_FRUITLESS_BYTES = 2 << 30  # of such, once unpacked
FOUR_BYTES = ("gif", "apng")  # whose pixels take as much, where those of other films take 1.5


@dataclass(frozen=True, kw_only=True)
class Limits:
    """What a file may ask of the machine; anything above is refused.

    max_pixels: of one frame; max_film_pixels: of a film's, three eighths of that
        in a GIF or an APNG, whose pixels are larger. max_picture_mb: of a still picture once
        decoded; decoding may take twice that. max_frames and max_duration_s: of one file.
    """

    max_pixels: int = 8192 * 8192
    max_film_pixels: int = 8192 * 4320
    max_picture_mb: int = 144
    max_frames: int = 10_000_000
    max_duration_s: float = 48 * 3600.0

    def __post_init__(self) -> None:
        for name, value in vars(self).items():
            if not value > 0:
                raise ConfigError(f"{name} must be above 0, got {value}")

    def check_size(self, path: Path, width: int, height: int, most: int | None = None) -> None:
        most = most or self.max_pixels
        if max(width, height) > MAX_SIDE:
            raise InputError(
                f"{path}: a frame's sides may have {MAX_SIDE} pixels, this one is {width}x{height}"
            )
        if width * height > most:
            raise InputError(
                f"{path}: a frame may have {most} pixels, this one is {width}x{height}"
            )

    @property
    def film_pixels(self) -> int:
        return min(self.max_pixels, self.max_film_pixels)

    def check_bytes(self, path: Path, width: int, height: int, taken: float) -> None:
        """taken: bytes that a pixel of a still picture takes."""
        most = int((self.max_picture_mb << 20) / taken)
        if width * height > most:
            raise InputError(
                f"{path}: a picture may take {self.max_picture_mb} MB once decoded, which is "
                f"{most} pixels of this kind, this one is {width}x{height}; make it smaller"
            )

    def check_index(self, path: Path, index: int) -> None:
        if index >= self.max_frames:
            raise InputError(f"{path}: may have {self.max_frames} frames, has more")


DEFAULT_LIMITS = Limits()


class VideoReader(Closing):
    """The frames of a video file's main video stream; a context manager and an iterable.

    Iterating a second time reads the file again from its start. `info` is known at once, because
    the first frame is decoded when the file is opened. `notes` holds what went wrong without
    stopping the reading: a damaged or truncated file gives the frames that decode, then a note.

    threads: for decoding; 0 takes as many as the machine has cores.
    Raises InputError for a file that is missing, of another kind, holds no video, exceeds `limits`
    or gives not a single frame.
    """

    def __init__(self, path: Path, *, threads: int = 0, limits: Limits = DEFAULT_LIMITS) -> None:
        if threads < 0:
            raise ConfigError(f"threads must be 0 or more, got {threads}")
        self.path = Path(path)
        self.limits = limits
        self.threads = threads
        self.notes: list[str] = []
        self.demuxer = sniff(self.path)
        self._opened: Decoding | None = self._decoding()
        try:
            first = self._opened.first()
            self.info: VideoInfo = describe(
                self._opened.container,
                self._opened.stream,
                first,
                self.demuxer,
                self._opened.chroma_location,
            )
            self.stream_index: int = self._opened.stream.index
            self.layout = self.info.layout
            self._check_limits()
        except BaseException:
            self.close()
            raise

    def _check_limits(self) -> None:
        if (self.info.duration_s or 0) > self.limits.max_duration_s:
            raise InputError(
                f"{self.path}: may last {self.limits.max_duration_s:g} s, "
                f"lasts {self.info.duration_s:.0f} s"
            )
        if (self.info.frames or 0) > self.limits.max_frames:
            self.limits.check_index(self.path, self.info.frames or 0)

    def _decoding(self) -> Decoding:
        return Decoding(self.path, self.demuxer, self.threads, self.limits)

    def _frame(self, picture: av.VideoFrame, pts: int, index: int) -> Frame:
        picture = planar(picture)
        if picture.format.name != self.info.pixel_format:
            raise InputError(
                f"{self.path}: frame {index} must be {self.info.pixel_format} as the first "
                f"one, is {picture.format.name}"
            )
        return Frame(self.layout, pts, self.info.time_base, index, picture)

    def __iter__(self) -> Iterator[Frame]:
        decoding = self._opened or self._decoding()
        self._opened = None
        stamp = _Stamps(self.info)
        index = 0
        try:
            for picture in decoding.pictures():
                self.limits.check_index(self.path, index)
                if (picture.width, picture.height) != (self.info.width, self.info.height):
                    self._note("the frame size changes within the stream")
                yield self._frame(picture, stamp(picture), index)
                index += 1
        finally:
            decoding.close()
            for note in [*decoding.notes, *stamp.notes]:
                self._note(note)
        expected = decoding.stream_frames - decoding.hidden
        if expected and index < expected:
            self._note(f"the stream ends after frame {index} of {expected}")

    def _note(self, text: str) -> None:
        if text not in self.notes:
            self.notes.append(text)

    def close(self) -> None:
        if self._opened is not None:
            self._opened.close()
            self._opened = None


class Decoding:
    """One pass over the pictures of one stream."""

    def __init__(
        self,
        path: Path,
        demuxer: str,
        threads: int,
        limits: Limits,
        hwaccel: HWAccel | None = None,
    ) -> None:
        self.path = path
        self.notes: list[str] = []
        self._max_pixels = limits.film_pixels
        if demuxer in FOUR_BYTES:
            self._max_pixels = self._max_pixels * 3 // 8
        self._plain = planar if hwaccel is None else lambda picture: picture
        self.container = open_demuxer(path, demuxer, self._max_pixels, hwaccel)
        try:
            self.stream = main_video(self.container, path)
            limits.check_size(path, self.stream.width, self.stream.height, self._max_pixels)
        except BaseException:
            self.container.close()
            raise
        for other in self.container.streams:
            if other.index != self.stream.index:
                other.discard = av.stream.Discard.all
        self.stream_frames: int = self.stream.frames
        self.hidden = 0  # frames that an edit list cuts off, decoded only to predict others from
        context = self.stream.codec_context
        context.thread_type = "AUTO"
        context.thread_count = threads
        context.options = {"max_pixels": str(self._max_pixels)}
        self.chroma_location = chroma_location_of(self.container, self.stream.index)
        self._source = self._decode()
        self._first: av.VideoFrame | None = None

    def first(self) -> av.VideoFrame:
        """Decode the first picture, which `pictures` will give again."""
        picture = next(self._source, None)
        if picture is None:
            detail = f" ({self.notes[0]})" if self.notes else ""
            raise InputError(
                f"{self.path}: not one frame of up to {self._max_pixels} pixels "
                f"could be decoded{detail}"
            )
        self._first = self._plain(picture)
        return self._first

    def pictures(self) -> Iterator[av.VideoFrame]:
        if self._first is not None:
            first, self._first = self._first, None
            yield first
            del first
        yield from self._source

    def _decode(self) -> Iterator[av.VideoFrame]:
        given = fruitless = read = 0
        for packet in self._packets():
            self.hidden += packet is not None and packet.is_discard
            fruitless += 1  # a few bytes can hold a packet, and a file millions
            read += 0 if packet is None else packet.size
            if fruitless > MAX_FRUITLESS or read > MAX_FRUITLESS_BYTES:
                raise InputError(
                    f"{self.path}: {fruitless} packets in a row near frame {given} must hold"
                    " a picture, none does"
                )
            # The packet without dts or data at the end is what empties the decoder's queue.
            try:
                pictures = self.stream.decode(packet)
            except av.error.EOFError:
                continue
            except av.error.FFmpegError as error:
                self._damaged(given, error)
                continue
            while pictures:
                fruitless = read = 0
                given += 1
                yield pictures.pop(0)

    def _packets(self) -> Iterator[av.Packet | None]:
        try:
            yield from packets_of(self.container, [self.stream])
        except av.error.FFmpegError as error:
            self._damaged(None, error)
            yield None

    def _damaged(self, given: int | None, error: Exception) -> None:
        where = "" if given is None else f" near frame {given}"
        if not any(note.startswith("the stream is damaged") for note in self.notes):
            self.notes.append(f"the stream is damaged{where}: {reason(error)}")

    def close(self) -> None:
        self._source.close()  # type: ignore[attr-defined]
        self._first = None
        # Its threads come to rest while the interpreter is free; the binding holds it as it waits
        # for those of a decoder that goes, and one that has something to log waits for it in turn.
        self.stream.codec_context.flush_buffers()
        self.container.close()


class _Stamps:
    """Presentation times that every encoder takes: as in the file, missing ones filled in."""

    def __init__(self, info: VideoInfo) -> None:
        rate = info.average_rate or Fraction(25)
        self.step = max(1, round(1 / (rate * info.time_base)))
        self.last: int | None = None
        self.notes: list[str] = []

    def __call__(self, picture: av.VideoFrame) -> int:
        pts: int | None = picture.pts if picture.pts is not None else picture.dts
        if self.last is None:
            pts = 0 if pts is None else pts
        elif pts is None:
            pts = self.last + self.step
        elif pts <= self.last:
            pts = self.last + 1
            self.notes = ["time stamps that went backwards were moved forward"]
        self.last = pts
        return pts


def main_video(container: av.container.InputContainer, path: Path) -> av.VideoStream:
    """Return the video stream that is the film: not cover art, the default one if several are."""
    films = [
        stream
        for stream in container.streams.video
        if not stream.disposition & av.stream.Disposition.attached_pic
    ]
    if not films:
        kinds = ", ".join(sorted({stream.type for stream in container.streams})) or "nothing"
        raise InputError(f"{path}: must hold a video stream, holds {kinds}")
    default = [s for s in films if s.disposition & av.stream.Disposition.default]
    film = (default or films)[0]
    if film.codec_context is None:
        raise InputError(f"{path}: its video codec is not known to this build of FFmpeg")
    return film


def open_video(
    path: Path, *, threads: int = 0, limits: Limits = DEFAULT_LIMITS
) -> VideoReader | ImageReader | FolderReader:
    """Open a video, an animated GIF, a still picture or a folder of pictures, by content."""
    from accel.video.stills import FolderReader, ImageReader

    path = Path(path)
    if path.is_dir():
        return FolderReader(path, limits=limits)
    if sniff(path).endswith("_pipe"):
        return ImageReader(path, limits=limits)
    return VideoReader(path, threads=threads, limits=limits)
