"""Still pictures and folders of them, read through the interface of videos."""

from __future__ import annotations

import ctypes
import gc
import os
import re
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path

import av

from accel.core import InputError, open_file
from accel.video.frame import Frame, planar
from accel.video.info import ColorTags, VideoInfo, display_matrix
from accel.video.picture_header import LARGE_PX, read_header
from accel.video.png import decode_png
from accel.video.read import DEFAULT_LIMITS, Limits
from accel.video.scope import Closing
from accel.video.sniff import PICTURE_SUFFIXES, reason, sniff

_CODECS = {"png_pipe": "png", "jpeg_pipe": "mjpeg", "bmp_pipe": "bmp", "tiff_pipe": "tiff",
           "webp_pipe": "webp"}  # fmt: skip
_RATE = 25  # pictures have no time; a video made of them shows this many a second


class ImageReader(Closing):
    """One still picture as a film of one frame; EXIF and colour profile ride in `extras`.

    `info.rotation` and `info.mirrored` come from EXIF; the planes are not turned.
    Raises InputError for a file that is missing, damaged, no picture, or above `limits`.
    """

    def __init__(self, path: Path, *, limits: Limits = DEFAULT_LIMITS) -> None:
        self.path = Path(path)
        self.limits = limits
        self.notes: list[str] = []
        self.demuxer = sniff(self.path)
        if self.demuxer not in _CODECS:
            raise InputError(f"{path}: must be a still picture, is {self.demuxer}")
        rotation, mirrored, self.extras = read_header(self.path, limits)
        picture, aspect = self._decode()
        self._picture: av.VideoFrame | None = picture
        self.info: VideoInfo = VideoInfo(
            width=picture.width,
            height=picture.height,
            pixel_format=picture.format.name,
            codec=_CODECS[self.demuxer],
            container=self.demuxer,
            time_base=Fraction(1, _RATE),
            average_rate=Fraction(_RATE),
            frames=1,
            rotation=rotation,
            mirrored=mirrored,
            display_matrix=display_matrix(rotation, mirrored),
            sample_aspect_ratio=aspect,
            color=ColorTags(
                primaries=int(picture.color_primaries),
                transfer=int(picture.color_trc),
                matrix=int(picture.colorspace),
                range=int(picture.color_range),
                chroma_location="center" if self.demuxer == "jpeg_pipe" else "unspecified",
            ),
            metadata={},
            is_image=True,
        )
        self.layout = self.info.layout

    def __iter__(self) -> Iterator[Frame]:
        yield self.frame(0)

    def frame(self, index: int) -> Frame:
        """Return the picture as frame `index`; decoded again from the second call on."""
        picture, self._picture = self._picture, None
        if picture is None:
            picture, _ = self._decode()
        return Frame(self.layout, index, self.info.time_base, index, picture)

    def _decode(self) -> tuple[av.VideoFrame, Fraction | None]:
        """The picture in planes, and the shape of its pixels where the file tells it.

        The file goes to the decoder in one piece: a demuxer would hold it twice beside that.
        """
        packet = _packet(self.path)
        read = decode_png(packet) if self.demuxer == "png_pipe" else None
        if read is None:
            read = self._by_ffmpeg(packet)
        picture, aspect = read
        del packet, read
        if picture.width * picture.height >= LARGE_PX:
            give_back()
        return planar(picture), aspect

    def _by_ffmpeg(self, packet: av.Packet) -> tuple[av.VideoFrame, Fraction | None]:
        decoder = av.CodecContext.create(_CODECS[self.demuxer], "r")
        decoder.options = {"max_pixels": str(self.limits.max_pixels)}
        decoder.thread_count = 1  # of which more would hold the picture back
        try:
            found = decoder.decode(packet) or decoder.decode(None)
        except av.error.FFmpegError as error:
            raise InputError(f"{self.path}: the picture is damaged: {reason(error)}") from error
        if not found:
            raise InputError(f"{self.path}: the picture is damaged: nothing could be decoded")
        return found.pop(), decoder.sample_aspect_ratio or None

    def close(self) -> None:
        self._picture = None


class FolderReader(Closing):
    """The pictures of a folder, in the order of the numbers in their names.

    Files of other kinds are passed over. Each frame has its own size and layout; `info` is the
    first one's. `names` holds the file names in order.
    Raises InputError for a folder without pictures.
    """

    def __init__(self, path: Path, *, limits: Limits = DEFAULT_LIMITS) -> None:
        self.path = Path(path)
        self.limits = limits
        self.notes: list[str] = []
        self.names = sorted(
            (
                entry.name
                for entry in self.path.iterdir()
                if entry.is_file() and entry.suffix.lower() in PICTURE_SUFFIXES
            ),
            key=_natural,
        )
        if not self.names:
            kinds = ", ".join(PICTURE_SUFFIXES)
            raise InputError(f"{path}: the folder must hold pictures ({kinds}), holds none")
        limits.check_index(self.path, len(self.names) - 1)
        with ImageReader(self.path / self.names[0], limits=limits) as first:
            info = first.info
        self.info: VideoInfo = VideoInfo(
            **{
                **vars(info),
                "frames": len(self.names),
                "duration_s": len(self.names) / _RATE,
                "is_image": False,
                "is_folder": True,
            }
        )
        self.layout = self.info.layout

    def __iter__(self) -> Iterator[Frame]:
        for index in range(len(self.names)):
            yield self.open(index).frame(index)

    def open(self, index: int) -> ImageReader:
        return ImageReader(self.path / self.names[index], limits=self.limits)

    def orientation(self, index: int) -> tuple[int, bool]:
        """How a viewer turns a picture: degrees clockwise, and whether it is mirrored before."""
        return read_header(self.path / self.names[index], self.limits)[:2]

    def close(self) -> None:
        """Nothing stays open between frames."""


def check_still(path: Path, limits: Limits = DEFAULT_LIMITS) -> None:
    """Raise InputError for a file that can be told to be of no use without decoding anything."""
    if sniff(path) in _CODECS:
        read_header(path, limits)


def _packet(path: Path) -> av.Packet:
    with open_file(path, "a picture") as file:
        size = os.fstat(file.fileno()).st_size
        packet = av.Packet(size)
        if file.readinto(memoryview(packet)) != size:  # type: ignore[attr-defined]  # of typeshed
            raise InputError(f"{path}: could not be read to its end")
    return packet


def give_back() -> None:
    """Memory that nobody uses any more, to the system: a large picture needs much by itself."""
    gc.collect(1)
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None) if os.name == "posix" else None
    if trim is not None:  # of glibc
        trim(0)


def _natural(name: str) -> list[tuple[int, str]]:
    """Sort key: 2.png before 10.png."""
    return [
        (int(part), "") if part.isdecimal() else (-1, part.lower())
        for part in re.split(r"(\d+)", name)
        if part
    ]
