"""Still pictures and folders of them, written through the interface of videos."""

from __future__ import annotations

import os
import shutil
import struct
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import av
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from accel.core import ConfigError
from accel.video.frame import Frame
from accel.video.info import VideoInfo
from accel.video.picture_header import LARGE_PX
from accel.video.picture_journal import PictureJournal
from accel.video.read import VideoReader
from accel.video.scope import KeptIfWell
from accel.video.sniff import reason
from accel.video.stills import FolderReader, ImageReader, give_back
from accel.video.write import Finish, partial_name

_STRIP, _MARGIN = 256, 16  # rows that are converted at a time, and those around them
_HARD_WEBP_PX = 1 << 23
_MOST_WEBP_PX = (6144 * 4096, 4096 * 3072)  # lossy, lossless: up to 12 and 28 bytes a pixel
_BLOCK = 64  # rows that are compressed at a time
_STEPS = {"rgb24": 3, "rgba": 4, "rgb48be": 6, "rgba64be": 8}  # bytes of a pixel
_TURNS = {  # clockwise; Pillow counts the other way round
    90: Image.Transpose.ROTATE_270,
    180: Image.Transpose.ROTATE_180,
    270: Image.Transpose.ROTATE_90,
}


_Like = VideoReader | ImageReader | FolderReader


class _PictureWriter(KeptIfWell):
    """What both writers do: everything lies beside its place until the last of it is written."""

    def __init__(self, path: Path, like: _Like, beside: Path, finish: Finish | None) -> None:
        self.path = path
        self.notes: list[str] = []
        self.frames = 0
        self._like = like
        self._finish = finish
        self._partial = partial_name(beside, like.path)

    def _save(self, frame: Frame, path: Path, like: _Like, quality: int = 95) -> None:
        extras = like.extras if isinstance(like, ImageReader) else {}
        try:
            save_picture(frame, path, extras, like.info, quality=quality)
        except OSError as error:
            self.abort()
            raise ConfigError(f"{self.path}: cannot be written: {reason(error)}") from error
        self.frames += 1

    def _finish_partial(self) -> None:
        if self._finish is not None:
            try:
                self._finish(self._partial)
            except BaseException:
                self.abort()
                raise


class ImageWriter(_PictureWriter):
    """Writes one picture: PNG, WebP, BMP and TIFF without loss, JPEG at quality 95 with the input's
    chroma sampling. EXIF, orientation and colour profile are kept where the format has them.

    Raises ConfigError for a place that cannot be written, a WebP of too many pixels, and a second
    frame.
    """

    encoder = "picture"

    def __init__(
        self, path: Path, like: _Like, *, quality: int = 95, finish: Finish | None = None
    ) -> None:
        super().__init__(Path(path), like, Path(path), finish)
        _check_size(self.path, like.info)
        self._quality = quality
        self._is_finished = False

    def write(self, frame: Frame) -> None:
        if self.frames:
            self.abort()
            raise ConfigError(
                f"{self.path}: a {self.path.suffix} file holds one picture, the input has more; "
                "name a folder or a video file"
            )
        self._save(frame, self._partial, self._like, self._quality)

    def close(self) -> None:
        if self.frames and not self._is_finished:
            self._finish_partial()
            os.replace(self._partial, self.path)
            self._is_finished = True

    def abort(self) -> None:
        self._partial.unlink(missing_ok=True)


class FolderWriter(_PictureWriter):
    """Writes each frame as a picture into a folder that appears when all of them are there.

    The names are the input folder's; frames of a video become 000000.png and so on.
    finish: called with every picture, and at the end with the folder.
    journal: where pictures lie meanwhile, so that a later run goes on: those that are done there
        must not be written again. What `finish` returns of a picture is listed with it. Without
        one, nothing stays of a folder that is given up.
    Raises ConfigError when the folder is there already and not empty, or cannot be made.
    """

    encoder = "pictures"

    def __init__(
        self,
        path: Path,
        like: _Like,
        *,
        finish: Finish | None = None,
        journal: PictureJournal | None = None,
    ) -> None:
        path = Path(path)
        parent = path.absolute().parent
        super().__init__(path, like, parent / f"{path.name}.folder", finish)
        self._journal = journal
        check_folder(path)
        if journal is not None:
            self._partial = journal.folder
            self.frames = len(journal.done)
            return
        try:
            self._partial.mkdir()
        except OSError as error:
            raise ConfigError(f"{path}: cannot be made: {reason(error)}") from error

    def write(self, frame: Frame) -> None:
        path = self._partial / picture_name(self._like, frame.index)
        like = self._like
        if isinstance(like, FolderReader):
            like = like.open(frame.index)
        self._save(frame, path, like)
        told = self._finish(path) if self._finish else None
        if self._journal is not None:
            try:
                self._journal.add(frame.index, told)
            except OSError as error:
                raise ConfigError(f"{self.path}: cannot be written: {reason(error)}") from error

    def close(self) -> None:
        if not self._partial.exists():
            return
        self._finish_partial()
        if self._journal is not None:
            self._journal.place()
            return
        if self.path.exists():
            self.path.rmdir()  # it was empty
        os.replace(self._partial, self.path)

    def abort(self) -> None:
        if self._journal is not None:
            self._journal.close()
        else:
            shutil.rmtree(self._partial, ignore_errors=True)


def check_folder(path: Path) -> None:
    """Raise ConfigError where a folder of pictures cannot be made."""
    parent = path.absolute().parent
    if path.exists() and (not path.is_dir() or any(path.iterdir())):
        raise ConfigError(f"{path}: the output folder must be new or empty")
    if not parent.is_dir() or not os.access(parent, os.W_OK):
        raise ConfigError(f"{path}: the folder it lies in must exist and be writable")


def picture_name(reader: _Like, index: int) -> str:
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
    _check_size(path, info)
    is_large = picture.width * picture.height >= LARGE_PX
    if is_large:
        give_back()
    if suffix == ".bmp":
        extras = {}
    has_orientation = "exif" in extras
    turn = (0, False) if has_orientation else (info.rotation, info.mirrored)
    is_deep = frame.layout.bits > 8 and picture.format.name.startswith("gbr")
    if suffix == ".png" and (is_deep or (is_large and turn == (0, False))):
        _write_png(frame, path, extras)
        return
    if suffix in (".jpg", ".jpeg"):
        image, sampling = _jpeg_image(frame, turn)
        # Codes made for the picture cost its coefficients, twice the memory of its samples.
        options: dict[str, Any] = {
            "quality": quality, "subsampling": sampling, "optimize": not is_large,
        }  # fmt: skip
    else:
        image = _rgb_image(frame, turn)
        options = {}
        if suffix == ".webp":
            is_lossless = _is_lossless(info)
            options = {"lossless": is_lossless, "quality": 80 if is_lossless else quality}
            if picture.width * picture.height > _HARD_WEBP_PX:
                options["method"] = 0 if is_lossless else 2  # the better ones take far more memory
    image.save(path, **options, **extras)


def _check_size(path: Path, info: VideoInfo) -> None:
    """Refuse a WebP that libwebp would take a gigabyte to make."""
    most = _MOST_WEBP_PX[_is_lossless(info)]
    if path.suffix.lower() == ".webp" and info.width * info.height > most:
        raise ConfigError(
            f"{path.name}: a WebP like this may have {most} pixels, "
            f"this one would have {info.width}x{info.height}; name a .png or .jpg"
        )


def _is_lossless(info: VideoInfo) -> bool:
    return info.pixel_format.startswith("gbr")


class _Canvas:
    """A picture put together from strips of rows, each of them turned as the whole is to be.

    Turned as a whole, a large picture would be there twice.
    """

    def __init__(self, mode: str, picture: av.VideoFrame, turn: tuple[int, bool]) -> None:
        self._rotation, self._is_mirrored = turn
        self._height = picture.height
        size = (picture.width, picture.height)
        self.image = Image.new(mode, size[::-1] if self._rotation in (90, 270) else size)

    def put(self, strip: Image.Image, top: int) -> None:
        bottom = top + strip.height
        if self._is_mirrored:
            strip = strip.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
        if self._rotation:
            strip = strip.transpose(_TURNS[self._rotation])
        after = self._height - bottom
        place = {0: (0, top), 90: (after, 0), 180: (0, after), 270: (top, 0)}
        self.image.paste(strip, place[self._rotation])


def _jpeg_image(frame: Frame, turn: tuple[int, bool]) -> tuple[Image.Image, int]:
    """Return an image and Pillow's number for its chroma sampling.

    Full-range BT.601 planes, as JPEG has them, reach the encoder without a detour over RGB: chroma
    is repeated here and averaged back to the very same samples there.
    """
    picture = frame.picture
    samplings = {"yuvj444p": 0, "yuvj422p": 1, "yuvj420p": 2}
    if picture.format.name not in samplings or picture.colorspace not in (2, 5, 6):
        image = _rgb_image(frame, turn)
        return image if image.mode == "RGB" else image.convert("RGB"), 0
    canvas = _Canvas("YCbCr", picture, turn)
    for top in range(0, picture.height, _STRIP):
        canvas.put(_ycc_rows(frame, top, min(top + _STRIP, picture.height)), top)
    return canvas.image, samplings[picture.format.name]


def _ycc_rows(frame: Frame, top: int, bottom: int) -> Image.Image:
    """Rows from `top`, which is even, with chroma repeated for every pixel."""
    planes, layout = frame.planes, frame.layout
    luma = planes.c0[top:bottom].numpy()
    bands = [Image.fromarray(np.ascontiguousarray(luma))]
    for chroma in planes[1:3]:
        rows = chroma[top >> layout.shift_y : -(-bottom >> layout.shift_y)].numpy()
        full = rows.repeat(1 << layout.shift_y, 0).repeat(1 << layout.shift_x, 1)
        bands.append(Image.fromarray(np.ascontiguousarray(full[: len(luma), : luma.shape[1]])))
    return Image.merge("YCbCr", bands)


def _rgb_image(frame: Frame, turn: tuple[int, bool]) -> Image.Image:
    has_alpha = _has_alpha(frame.picture)
    canvas = _Canvas("RGBA" if has_alpha else "RGB", frame.picture, turn)
    top, channels = 0, 4 if has_alpha else 3
    for values in _rgb_rows(frame, "rgba" if has_alpha else "rgb24"):
        strip = np.ascontiguousarray(values).reshape(len(values), -1, channels)
        canvas.put(Image.fromarray(strip), top)
        top += len(values)
    return canvas.image


def _has_alpha(picture: av.VideoFrame) -> bool:
    return bool(picture.format.name.startswith(("gbrap", "yuva")))


def _rgb_rows(frame: Frame, form: str) -> Iterator[NDArray[np.uint8]]:  # [rows, bytes of a row]
    """The picture in a packed format of RGB, strip by strip from the top."""
    picture = frame.picture
    name = picture.format.name
    matrix = None
    if picture.colorspace == 2 and not name.startswith("gbr"):
        is_sd = picture.height <= 576 and picture.width <= 1024
        matrix = "ITU601" if is_sd else "ITU709"
    if name.startswith("yuva4") and picture.width % 2:  # swscale leaves out the last column
        range_, space = picture.color_range, picture.colorspace
        picture = picture.reformat(format="yuva444p")
        picture.color_range, picture.colorspace = range_, space
    row_bytes = picture.width * _STEPS[form]
    for strip, shown in _strips(picture, frame.layout.shift_y):
        packed = strip.reformat(format=form, src_colorspace=matrix).planes[0]
        yield np.frombuffer(packed, np.uint8).reshape(-1, packed.line_size)[shown, :row_bytes]


def _strips(picture: av.VideoFrame, shift_y: int) -> Iterator[tuple[av.VideoFrame, slice]]:
    """A large picture in parts of a few rows, so that it is not there once more as RGB.

    Of each: a picture of them and of _MARGIN more above and below (for the filter that enlarges
    chroma), and which of its rows are meant. A picture that is not large comes whole. Of an odd
    height, chroma lies a hundredth of a row elsewhere in strips: swscale goes by what it is given.
    """
    height = picture.height
    if picture.width * height < LARGE_PX:
        yield picture, slice(0, height)
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
        yield part, slice(top - first, bottom - first)


def _write_png(frame: Frame, path: Path, extras: dict[str, Any]) -> None:
    """PNG of 8 or 16 bits without the picture being there again.

    Pillow has no RGB of 16 bits and keeps four bytes a pixel; FFmpeg's encoder wants it all twice.
    """
    picture = frame.picture
    bits = 16 if frame.layout.bits > 8 and picture.format.name.startswith("gbr") else 8
    forms = {8: ("rgb24", "rgba"), 16: ("rgb48be", "rgba64be")}
    form, kind = forms[bits][_has_alpha(picture)], 6 if _has_alpha(picture) else 2
    with open(path, "wb") as file:
        file.write(b"\x89PNG\r\n\x1a\n")
        size = struct.pack(">2I5B", picture.width, picture.height, bits, kind, 0, 0, 0)
        file.write(_chunk(b"IHDR", size))
        if "icc_profile" in extras:
            packed = zlib.compress(extras["icc_profile"])
            file.write(_chunk(b"iCCP", b"ICC Profile\0\0" + packed))
        if "exif" in extras:
            file.write(_chunk(b"eXIf", extras["exif"].removeprefix(b"Exif\0\0")))
        packer = zlib.compressobj()
        above = np.zeros((1, picture.width * _STEPS[form]), np.uint8)
        for values in _rgb_rows(frame, form):
            for rows in np.split(values, range(_BLOCK, len(values), _BLOCK)):
                told = _told_by_neighbours(rows, above, _STEPS[form])
                file.write(_chunk(b"IDAT", packer.compress(told.tobytes())))
                above = rows[-1:].copy()
        file.write(_chunk(b"IDAT", packer.flush()) + _chunk(b"IEND", b""))


def _told_by_neighbours(
    rows: NDArray[np.uint8],  # [R, B]
    above: NDArray[np.uint8],  # [1, B] the row before them
    step: int,  # bytes of a pixel
) -> NDArray[np.uint8]:  # [R, 1 + B] as PNG keeps them with filter 4, Paeth's
    around = np.zeros((len(rows) + 1, step + rows.shape[1]), np.int16)
    around[0, step:], around[1:, step:] = above, rows
    left, up, corner = around[1:, :-step], around[:-1, step:], around[:-1, :-step]
    by_left, by_up = abs(up - corner), abs(left - corner)
    by_corner = abs(left + up - 2 * corner)
    told = np.where(by_up <= by_corner, up, corner)
    told = np.where((by_left <= by_up) & (by_left <= by_corner), left, told)
    out = np.full((len(rows), 1 + rows.shape[1]), 4, np.uint8)
    out[:, 1:] = rows - told.astype(np.uint8)
    return out


def _chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
