"""Still pictures and folders of them, read and written through the interface of videos."""

from __future__ import annotations

import ctypes
import gc
import logging
import os
import re
import shutil
import struct
import warnings
import zlib
from collections.abc import Iterator
from contextlib import closing, suppress
from dataclasses import replace
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
from PIL import Image

from accel.core import ConfigError, InputError
from accel.video.frame import Frame, planar
from accel.video.info import VideoInfo, describe, display_matrix
from accel.video.read import DEFAULT_LIMITS, Limits, VideoReader, main_video
from accel.video.scope import Closing, KeptIfWell
from accel.video.sniff import PICTURE_SUFFIXES, open_demuxer, reason, sniff
from accel.video.write import Finish, partial_name

# Pillow tells of damaged TIFF on standard error, beside the exception that says the same.
logging.getLogger("PIL").addHandler(logging.NullHandler())

# EXIF orientation to (degrees clockwise that a viewer turns, mirrored left to right before that)
_ORIENTATIONS = {
    1: (0, False), 2: (0, True), 3: (180, False), 4: (180, True),
    5: (270, True), 6: (90, False), 7: (90, True), 8: (270, False),
}  # fmt: skip
# What Pillow raises over damaged headers, whose values have any type.
DAMAGED = (OSError, ValueError, SyntaxError, TypeError, AttributeError, LookupError, EOFError,
           ArithmeticError, RuntimeError, struct.error)  # fmt: skip
_USUAL_BYTES = 3  # a pixel, decoded
_GROWTH = 12  # from a file to its picture of more than that; what cameras write grows less
_LARGE_PX = 1 << 24  # from which on it pays to look for memory that nobody uses
_RATE = 25  # pictures have no time; a video made of them shows this many a second
_STRIP, _MARGIN = 256, 16  # rows that are converted at a time, and those around them


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
        if not self.demuxer.endswith("_pipe"):
            raise InputError(f"{path}: must be a still picture, is {self.demuxer}")
        rotation, mirrored, self.extras = _header(self.path, limits)
        picture, info = _decode(self.path, self.demuxer, limits)
        self._picture: av.VideoFrame | None = picture
        self.info: VideoInfo = VideoInfo(
            **{
                **vars(info),
                "time_base": Fraction(1, _RATE),
                "average_rate": Fraction(_RATE),
                "duration_s": None,
                "frames": 1,
                "rotation": rotation,
                "mirrored": mirrored,
                "display_matrix": display_matrix(rotation, mirrored),
                "streams": (),
                "metadata": {},
            }
        )
        self.layout = self.info.layout

    def __iter__(self) -> Iterator[Frame]:
        yield self.frame(0)

    def frame(self, index: int) -> Frame:
        """Return the picture as frame `index`; decoded again from the second call on."""
        picture, self._picture = self._picture, None
        if picture is None:
            picture, _ = _decode(self.path, self.demuxer, self.limits)
        return Frame(self.layout, index, self.info.time_base, index, picture)

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
        return _header(self.path / self.names[index], self.limits)[:2]

    def close(self) -> None:
        """Nothing stays open between frames."""


class ImageWriter(KeptIfWell):
    """Writes one picture: PNG, WebP, BMP and TIFF without loss, JPEG at quality 95 with the input's
    chroma sampling. EXIF, orientation and colour profile are kept where the format has them.

    Raises ConfigError for a place that cannot be written, and for a second frame.
    """

    encoder = "picture"

    def __init__(
        self,
        path: Path,
        like: VideoReader | ImageReader | FolderReader,
        *,
        quality: int = 95,
        finish: Finish | None = None,
    ) -> None:
        self.path = Path(path)
        self._finish = finish
        self.notes: list[str] = []
        self.frames = 0
        self._like = like
        self._quality = quality
        self._partial = partial_name(self.path, like.path)
        self._is_finished = False

    def write(self, frame: Frame) -> None:
        if self.frames:
            self.abort()
            raise ConfigError(
                f"{self.path}: a {self.path.suffix} file holds one picture, the input has more; "
                "name a folder or a video file"
            )
        extras = self._like.extras if isinstance(self._like, ImageReader) else {}
        try:
            save_picture(frame, self._partial, extras, self._like.info, quality=self._quality)
        except OSError as error:
            self.abort()
            raise ConfigError(f"{self.path}: cannot be written: {reason(error)}") from error
        self.frames += 1

    def close(self) -> None:
        if self.frames and not self._is_finished:
            if self._finish is not None:
                try:
                    self._finish(self._partial)
                except BaseException:
                    self.abort()
                    raise
            os.replace(self._partial, self.path)
            self._is_finished = True

    def abort(self) -> None:
        self._partial.unlink(missing_ok=True)


class FolderWriter(KeptIfWell):
    """Writes each frame as a picture into a folder that appears when all of them are there.

    The names are the input folder's; frames of a video become 000000.png and so on.
    Raises ConfigError when the folder is there already and not empty, or cannot be made.
    """

    encoder = "pictures"

    def __init__(
        self,
        path: Path,
        like: VideoReader | ImageReader | FolderReader,
        *,
        finish: Finish | None = None,
    ) -> None:
        self.path = Path(path)
        self._finish = finish
        self.notes: list[str] = []
        self.frames = 0
        self._like = like
        if self.path.exists() and (not self.path.is_dir() or any(self.path.iterdir())):
            raise ConfigError(f"{path}: the output folder must be new or empty")
        parent = self.path.absolute().parent
        if not parent.is_dir() or not os.access(parent, os.W_OK):
            raise ConfigError(f"{path}: the folder it lies in must exist and be writable")
        self._partial = partial_name(parent / f"{self.path.name}.folder", like.path)
        try:
            self._partial.mkdir()
        except OSError as error:
            raise ConfigError(f"{path}: cannot be made: {reason(error)}") from error

    def write(self, frame: Frame) -> None:
        extras: dict[str, Any] = {}
        name = picture_name(self._like, frame.index)
        like: VideoReader | ImageReader | FolderReader = self._like
        if isinstance(like, FolderReader):
            like = like.open(frame.index)
        if isinstance(like, ImageReader):
            extras = like.extras
        try:
            save_picture(frame, self._partial / name, extras, like.info)
        except OSError as error:
            self.abort()
            raise ConfigError(f"{self.path}: cannot be written: {reason(error)}") from error
        self.frames += 1

    def close(self) -> None:
        if self._partial.exists():
            if self._finish is not None:
                try:
                    self._finish(self._partial)
                except BaseException:
                    self.abort()
                    raise
            if self.path.exists():
                self.path.rmdir()  # it was empty
            os.replace(self._partial, self.path)

    def abort(self) -> None:
        shutil.rmtree(self._partial, ignore_errors=True)


def picture_name(reader: VideoReader | ImageReader | FolderReader, index: int) -> str:
    """What a frame is called in a folder: as in the folder it came from, or 000000.png."""
    return reader.names[index] if isinstance(reader, FolderReader) else f"{index:06}.png"


def save_picture(
    frame: Frame, path: Path, extras: dict[str, Any], info: VideoInfo, *, quality: int = 95
) -> None:
    """Write a frame as a picture in the format that the suffix of `path` names.

    extras: `exif` and `icc_profile` bytes, as Pillow takes them. Where EXIF is there the
    orientation in it stays true of the unturned picture; else the picture is turned here.
    """
    suffix = path.suffix.lower()
    picture = frame.picture
    if picture.width * picture.height >= _LARGE_PX:
        _give_back()
    if suffix == ".bmp":
        extras = {}
    has_orientation = "exif" in extras
    if frame.layout.bits > 8 and suffix == ".png" and picture.format.name.startswith("gbr"):
        path.write_bytes(_deep_png(picture, extras.get("exif", b"")))
        return
    if suffix in (".jpg", ".jpeg"):
        image, sampling = _jpeg_image(frame)
        options: dict[str, Any] = {"quality": quality, "subsampling": sampling, "optimize": True}
    else:
        image = _rgb_image(picture, frame)
        options = {}
        if suffix == ".webp":
            is_lossless = info.pixel_format.startswith("gbr")
            options = {"lossless": is_lossless, "quality": 80 if is_lossless else quality}
    if not has_orientation:
        image = _turn(image, info)
    image.save(path, **options, **extras)


def _jpeg_image(frame: Frame) -> tuple[Image.Image, int]:
    """Return an image and Pillow's number for its chroma sampling.

    Full-range BT.601 planes, as JPEG has them, reach the encoder without a detour over RGB: chroma
    is repeated here and averaged back to the very same samples there.
    """
    name = frame.picture.format.name
    samplings = {"yuvj444p": 0, "yuvj422p": 1, "yuvj420p": 2}
    if name not in samplings or frame.picture.colorspace not in (2, 5, 6):
        return _rgb_image(frame.picture, frame).convert("RGB"), 0
    planes = frame.planes
    height, width = planes.c0.shape
    bands = [Image.fromarray(np.ascontiguousarray(planes.c0.numpy()))]
    for chroma in planes[1:3]:
        rows = chroma.numpy().repeat(1 << frame.layout.shift_y, 0)
        full = rows.repeat(1 << frame.layout.shift_x, 1)[:height, :width]
        bands.append(Image.fromarray(np.ascontiguousarray(full)))
    return Image.merge("YCbCr", bands), samplings[name]


def _rgb_image(picture: av.VideoFrame, frame: Frame) -> Image.Image:
    name = picture.format.name
    has_alpha = name.startswith(("gbrap", "yuva"))
    matrix = None
    if picture.colorspace == 2 and not name.startswith("gbr"):
        is_sd = picture.height <= 576 and picture.width <= 1024
        matrix = "ITU601" if is_sd else "ITU709"
    if name.startswith("yuva4") and picture.width % 2:  # swscale leaves out the last column
        range_, space = picture.color_range, picture.colorspace
        picture = picture.reformat(format="yuva444p")
        picture.color_range, picture.colorspace = range_, space
    form, channels = ("rgba", 4) if has_alpha else ("rgb24", 3)
    image = Image.new("RGBA" if has_alpha else "RGB", (picture.width, picture.height))
    for rows, strip, shown in _strips(picture, frame.layout.shift_y):
        rgb = strip.reformat(format=form, src_colorspace=matrix)
        values = np.frombuffer(rgb.planes[0], np.uint8).reshape(-1, rgb.planes[0].line_size)
        values = np.ascontiguousarray(values[shown, : rgb.width * channels])
        image.paste(Image.fromarray(values.reshape(-1, rgb.width, channels)), (0, rows.start))
    return image


def _strips(picture: av.VideoFrame, shift_y: int) -> Iterator[tuple[slice, av.VideoFrame, slice]]:
    """A large picture in parts of a few rows, so that it is not there once more as RGB.

    Of each: which rows, a picture of them and of _MARGIN more above and below (for the filter that
    enlarges chroma), and where they are in it. A picture that is not large comes whole, and one of
    odd sides: swscale places the chroma of those by the height of what it is given.
    """
    height = picture.height
    if picture.width * height < _LARGE_PX or picture.width % 2 or height % 2:
        yield slice(0, height), picture, slice(0, height)
        return
    for top in range(0, height, _STRIP):
        bottom = min(top + _STRIP, height)
        first, last = max(top - _MARGIN, 0), min(bottom + _MARGIN, height)
        part = av.VideoFrame(picture.width, last - first, picture.format.name)
        part.colorspace, part.color_range = picture.colorspace, picture.color_range
        for source, target in zip(picture.planes, part.planes):
            shift = shift_y if source.height < height else 0
            from_, into = (
                np.frombuffer(plane, np.uint8).reshape(-1, plane.line_size)
                for plane in (source, target)
            )
            width = min(source.line_size, target.line_size)
            into[:, :width] = from_[first >> shift :][: target.height, :width]
        yield slice(top, bottom), part, slice(top - first, bottom - first)


def _deep_png(picture: av.VideoFrame, exif: bytes) -> bytes:
    # Pillow has no RGB of 16 bits
    context = av.CodecContext.create("png", "w")
    has_alpha = picture.format.name.startswith("gbra")
    context.width, context.height = picture.width, picture.height
    context.pix_fmt = "rgba64be" if has_alpha else "rgb48be"
    context.time_base = Fraction(1, _RATE)
    deep = picture.reformat(format=context.pix_fmt)
    deep.pts, deep.time_base = 0, context.time_base
    png = b"".join(bytes(p) for p in [*context.encode(deep), *context.encode(None)])
    if not exif:
        return png
    body = b"eXIf" + exif.removeprefix(b"Exif\0\0")
    chunk = struct.pack(">I", len(body) - 4) + body + struct.pack(">I", zlib.crc32(body))
    return png[:33] + chunk + png[33:]  # after the signature and IHDR


def _turn(image: Image.Image, info: VideoInfo) -> Image.Image:
    if info.mirrored:
        image = image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    turns = {
        90: Image.Transpose.ROTATE_270,  # Pillow counts the other way round
        180: Image.Transpose.ROTATE_180,
        270: Image.Transpose.ROTATE_90,
    }
    return image.transpose(turns[info.rotation]) if info.rotation else image


def _header(path: Path, limits: Limits) -> tuple[int, bool, dict[str, Any]]:
    """Read orientation, EXIF and colour profile, and check the size, without decoding."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of damaged EXIF, and of sizes that are checked below
        try:
            with Image.open(path) as image:
                width, height = image.size
                bands = len(image.getbands())
                is_deep = ";16" in str([tile[3] for tile in image.tile[:1]])
                extras = {}
                if image.info.get("icc_profile") and image.mode not in ("CMYK", "L"):
                    extras["icc_profile"] = image.info["icc_profile"]
                exif = image.getexif()
                if exif and image.format != "TIFF":  # whose tags describe how it is stored
                    with suppress(*DAMAGED):  # what cannot be written again is left out
                        extras["exif"] = exif.tobytes()
                orientation = exif.get(0x0112, 1)
        except Image.DecompressionBombError as error:
            raise InputError(
                f"{path}: a frame may have {limits.max_pixels} pixels, this one has far more"
            ) from error
        except DAMAGED as error:
            raise InputError(f"{path}: must be a whole picture: its header is damaged") from error
    limits.check_size(path, width, height)
    _check_growth(path, width * height * bands << is_deep, limits)
    turn = _ORIENTATIONS.get(orientation) if isinstance(orientation, int) else None
    return *(turn or (0, False)), extras


def _check_growth(path: Path, size: int, limits: Limits) -> None:
    """Refuse a small file that becomes a picture of deep or many samples, several to a pixel.

    size: of the decoded picture in bytes.
    """
    most = max(_USUAL_BYTES * limits.max_pixels, _GROWTH * path.stat().st_size)
    if size > most:
        raise InputError(
            f"{path}: from a file of this size a picture may take {most >> 20} MB, "
            f"this one takes {size >> 20} MB"
        )


def _decode(path: Path, demuxer: str, limits: Limits) -> tuple[av.VideoFrame, VideoInfo]:
    with closing(open_demuxer(path, demuxer, limits.max_pixels)) as container:
        stream = main_video(container, path)
        stream.codec_context.options = {"max_pixels": str(limits.max_pixels)}
        try:
            with closing(container.decode(stream)) as pictures:
                picture = next(pictures, None)
        except (av.error.FFmpegError, OSError) as error:
            raise InputError(f"{path}: the picture is damaged: {reason(error)}") from error
        if picture is None:
            raise InputError(f"{path}: the picture is damaged: nothing could be decoded")
        info = describe(container, stream, picture, demuxer)
    # The decoder keeps a picture of its own, and is held in a circle of references.
    del container, stream, pictures
    if picture.width * picture.height >= _LARGE_PX:
        _give_back()
    picture = planar(picture)
    return picture, replace(info, pixel_format=picture.format.name)


def _give_back() -> None:
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
