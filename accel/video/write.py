"""Frames into a file: encoded as the input was, all beside them copied, whole or not at all."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING

import av
from av.codec.hwaccel import HWAccel

from accel.core import ConfigError
from accel.unfinished import Unfinished, passing_name
from accel.video.encode import (
    DEFAULT_CONFIG,
    ENCODERS,
    EncodeConfig,
    choose_encoder,
    choose_format,
    choose_muxer,
    encoder_options,
)
from accel.video.frame import FULL_RANGE, Frame, reformat
from accel.video.gif import GifPalette, gif_loops
from accel.video.info import display_matrix
from accel.video.read import VideoReader
from accel.video.remux import StreamCopier, keep_tags
from accel.video.scope import KeptIfWell
from accel.video.sniff import PICTURE_SUFFIXES, reason

Finish = Callable[[Path], object]

if TYPE_CHECKING:
    from accel.video.picture_journal import PictureJournal
    from accel.video.save_stills import FolderWriter, ImageWriter
    from accel.video.stills import FolderReader, ImageReader

# Tags that the MP4 family stores in boxes of its own; others need the free-form kind.
_MP4_TAGS = {
    "title", "artist", "album_artist", "composer", "album", "date", "comment", "genre", "copyright",
    "grouping", "lyrics", "description", "synopsis", "show", "episode_id", "network", "keywords",
    "creation_time", "track", "disc", "media_type", "hd_video", "gapless_playback", "location",
    "make", "model", "author", "performer",
}  # fmt: skip


class VideoWriter(KeptIfWell):
    """Writes a video file; a context manager that keeps the file only if its block ends well.

    The file grows beside `path` under a temporary name and takes the name `path` in one step when
    it is complete; on any failure it is removed and whatever was at `path` stays. What a killed
    process left of it is removed by the next one that writes to `path`.
    `finish` is called with the complete file under its temporary name, just before it gets its own;
    what it raises gives the file up.
    `like` gives time base, colour, rotation and HDR tags, metadata, chapters, and the audio,
    subtitle, data and attachment streams, which are copied packet for packet. `notes` tells what
    the chosen container or encoder could not keep.

    Raises ConfigError for a place or a setting that cannot be used, and when the disk is full.
    """

    def __init__(
        self,
        path: Path,
        like: VideoReader | ImageReader | FolderReader,
        config: EncodeConfig = DEFAULT_CONFIG,
        *,
        finish: Finish | None = None,
    ) -> None:
        self.path = Path(path)
        self._finish = finish
        self.notes: list[str] = []
        self.frames = 0
        self._like = like
        self._config = config
        self._copier: StreamCopier | None = None
        self._output: av.container.OutputContainer | None = None
        self._muxer = choose_muxer(self.path.suffix)
        check_place(self.path, like.path)
        self.encoder, notes = choose_encoder(like.info, self._muxer, config)
        self._pixel_format, more = self._choose_format()
        self.notes += notes + more
        self._palette = GifPalette(like.info) if self.encoder == "gif" else None
        try:
            self._unfinished = Unfinished(self.path)
        except OSError as error:
            raise ConfigError(f"{self.path}: cannot be written: {reason(error)}") from error
        try:
            self._open()
        except BaseException as error:
            self.abort()
            self._explain(error)
            raise

    @property
    def partial(self) -> Path:
        """The name under which the file grows."""
        return self._unfinished.path

    def _choose_format(self) -> tuple[str, list[str]]:
        return choose_format(self.encoder, self._like.info)

    def _accelerator(self) -> HWAccel | None:
        """What encodes, in place of the host."""
        return None

    def _prepare(self, context: av.video.codeccontext.VideoCodecContext) -> None:
        """Last settings before the encoder opens."""

    def _open(self) -> None:
        like, info = self._like, self._like.info
        self._output = av.open(
            f"file:{self.partial}", "w", format=self._muxer, container_options=self._mux_options()
        )
        if isinstance(like, VideoReader):
            self._copier = StreamCopier(
                like.path, like.demuxer, like.stream_index, self._output, self._add_film,
                self.notes, like.limits.max_pixels,
            )  # fmt: skip
        else:
            self._add_film(None)
        # SVT-AV1 prints its settings to the terminal unless this is set before it starts
        os.environ.setdefault("SVT_LOG", "1")
        try:
            self._stream.codec_context.open(strict=False)
        except (av.error.FFmpegError, OSError) as error:
            raise ConfigError(
                f"{self.path}: {self.encoder} cannot encode {info.width}x{info.height} "
                f"{self._pixel_format} here: {reason(error)}"
            ) from error
        self._output.start_encoding()
        out_base = self._stream.time_base
        is_counted = self._muxer == "avi" and not info.is_vfr
        if (info.time_base / out_base).denominator != 1 and not is_counted:
            self.notes.append(f"{self._muxer} rounds time stamps to {float(out_base) * 1e3:g} ms")

    def _mux_options(self) -> dict[str, str]:
        # Streams with gaps (subtitles) would otherwise hold ten seconds of the others in memory.
        options = {"max_interleave_delta": "1000000"}
        info = self._like.info
        if self._muxer in ("mp4", "mov"):
            flags = ["+faststart"] if self._config.faststart else []
            if {*keep_tags(info.metadata or {})} - _MP4_TAGS:
                flags.append("+use_metadata_tags")
            if flags:
                options["movflags"] = "".join(flags)
            if info.time_base.numerator == 1:
                options["video_track_timescale"] = str(info.time_base.denominator)
        if self._muxer == "avi":
            # Sound that begins before 0, as AAC's does, would push every frame but the first back.
            options["avoid_negative_ts"] = "disabled"
        if self._muxer == "gif":
            options["loop"] = str(gif_loops(self._like.path))
        return options

    def _add_film(self, template: av.VideoStream | None) -> None:
        info, row = self._like.info, ENCODERS[self.encoder]
        options = encoder_options(self.encoder, info, self._config)
        rate = info.average_rate or Fraction(25)
        assert self._output is not None
        carries_side_data = info.mastering_display or info.content_light
        by_host = self._accelerator() is None
        if template is not None and carries_side_data and row.codec == info.codec and by_host:
            # The template's parameters hold the container's own HDR boxes, which have no other way.
            stream = self._output.add_stream_from_template(template, opaque=False)
            context = stream.codec_context
            context.extradata, context.bit_rate, context.level = None, 0, -99
            context.options = options
            context.framerate = rate
        else:
            stream = self._output.add_stream(
                self.encoder, rate=rate, options=options, hwaccel=self._accelerator()
            )
        self._stream = stream
        context = stream.codec_context
        context.width, context.height = info.width, info.height
        context.pix_fmt = self._pixel_format
        self._prepare(context)
        stream.time_base = context.time_base = self._ticks(rate)
        context.thread_count = self._config.threads
        context.thread_type = "AUTO"  # the binding's default is slices, which costs quality
        context.flags |= av.codec.context.Flags.frame_duration
        self._tag_color(context)
        if info.sample_aspect_ratio:
            context.sample_aspect_ratio = info.sample_aspect_ratio
            is_lost = self._muxer in ("matroska", "webm") and row.codec in ("vp9", "av1", "prores")
            if is_lost and info.sample_aspect_ratio != 1:
                self.notes.append(f"pixel aspect is left out: {row.codec} in {self._muxer}")
        if info.field_order > 1:
            context.field_order = info.field_order
            context.flags |= av.codec.context.Flags.interlaced_dct
        if self._muxer in ("mp4", "mov") and row.codec == "hevc":
            context.codec_tag = "hvc1"  # Apple's players know no other
        if self._muxer == "avi" and row.codec in ("h264", "hevc"):
            context.max_b_frames = 0  # AVI has no presentation times
        self._turn(template)
        if template is not None:
            stream.metadata.update(keep_tags(template.metadata))
            stream.disposition = template.disposition
        if info.has_dynamic_hdr:
            self.notes.append("dynamic HDR data (Dolby Vision, HDR10+) is left out")

    def _ticks(self, rate: Fraction) -> Fraction:
        """Return the time base to encode in: the input's, but AVI counts frames."""
        if self._muxer == "avi" and not self._like.info.is_vfr:
            return 1 / rate
        return self._like.info.time_base

    def _tag_color(self, context: av.video.codeccontext.VideoCodecContext) -> None:
        color, was_rgb = self._like.info.color, self._like.info.pixel_format.startswith("gbr")
        is_rgb = self._pixel_format in ("rgb24", "pal8") or self._pixel_format.startswith("gbr")
        context.color_primaries = color.primaries
        context.color_trc = color.transfer
        if was_rgb and not is_rgb:
            context.colorspace, context.color_range = 1, 1  # BT.709, limited: see _fit
        elif not is_rgb:
            context.colorspace = color.matrix
            full = self._like.info.pixel_format.startswith("yuvj")
            context.color_range = FULL_RANGE if full else color.range

    def _turn(self, template: av.VideoStream | None) -> None:
        info = self._like.info
        matrix = info.display_matrix or display_matrix(info.rotation, info.mirrored)
        if info.rotation or info.mirrored:
            if self._muxer in ("mp4", "mov", "matroska", "webm"):
                self._stream.set_display_matrix(matrix)
            else:
                self.notes.append(f"rotation is left out: {self._muxer} cannot tell it")

    def write(self, frame: Frame) -> None:
        """Encode one frame; its presentation time must lie after that of the one before."""
        if self._output is None:
            raise ValueError("VideoWriter: write was called after close or abort")
        try:
            for picture in self._fit(frame):
                self._mux(self._stream.encode(picture))
        except (av.error.FFmpegError, OSError) as error:
            self.abort()
            self._explain(error)
            raise
        self.frames += 1

    def _fit(self, frame: Frame) -> list[av.VideoFrame]:
        picture, context = frame.picture, self._stream.codec_context
        if self._palette is not None:
            pictures = self._palette.push(frame)
        else:
            if (picture.width, picture.height) != (context.width, context.height):
                picture = picture.reformat(width=context.width, height=context.height)
            if picture.format.name != context.pix_fmt:
                picture = self._convert(picture)
            picture.pts, picture.time_base = frame.pts, frame.time_base
            pictures = [picture]
        for picture in pictures:
            picture.pict_type = 0  # or the encoder would repeat the input's choice of key frames
        return pictures

    def _convert(self, picture: av.VideoFrame) -> av.VideoFrame:
        was_rgb = picture.format.name.startswith("gbr")
        if was_rgb and self._pixel_format.startswith("yuv"):
            return picture.reformat(
                format=self._pixel_format, dst_colorspace="ITU709", dst_color_range="MPEG"
            )
        return reformat(picture, self._pixel_format)

    def _mux(self, packets: list[av.Packet]) -> None:
        assert self._output is not None
        for packet in packets:
            if self._copier is not None and packet.dts is not None:
                self._copier.advance(packet.dts * packet.time_base)
            self._output.mux(packet)

    def close(self) -> None:
        """Finish the file and give it its name."""
        if self._output is None:
            return
        try:
            if self._palette is not None:
                for picture in self._palette.flush():
                    picture.pict_type = 0
                    self._mux(self._stream.encode(picture))
            self._mux(self._stream.encode(None))
            if self._copier is not None:
                self._copier.advance(None)
                self._copier.close()
            output, self._output = self._output, None
            output.close()
            if self._finish is not None:
                self._finish(self.partial)
            os.replace(self.partial, self.path)
            self._unfinished.close()
        except BaseException as error:
            self.abort()
            self._explain(error)
            raise

    def abort(self) -> None:
        """Give up: close what is open and remove the unfinished file."""
        if self._copier is not None:
            self._copier.close()
        output, self._output = self._output, None
        # Without a name the muxer cannot start to move an index to the front of a file nobody wants
        with contextlib.suppress(OSError):
            self.partial.unlink(missing_ok=True)
        if output is not None:
            with contextlib.suppress(av.error.FFmpegError, OSError):  # the disk may be full
                output.close()
        self.partial.unlink(missing_ok=True)
        self._unfinished.close()

    def _explain(self, error: BaseException) -> None:
        if isinstance(error, ConfigError):
            return
        if isinstance(error, OSError) and error.errno in range(1, 200) and error.errno != 22:
            raise ConfigError(f"{self.path}: cannot be written: {reason(error)}") from error
        if isinstance(error, (av.error.FFmpegError, OSError)):
            raise ConfigError(
                f"{self.path}: {self.encoder} in {self._muxer} refused a frame: {reason(error)}"
            ) from error


def partial_name(path: Path, source: Path) -> Path:
    """Return the temporary name beside `path`, after checking that `path` can be written at all."""
    check_place(path, source)
    return passing_name(path)


def check_place(path: Path, source: Path) -> None:
    """Raise ConfigError where `path` cannot be written, or is what is read."""
    folder = path.parent
    if not folder.is_dir():
        raise ConfigError(f"{path}: the folder must exist, {folder} does not")
    if not os.access(folder, os.W_OK):
        raise ConfigError(f"{path}: the folder must be writable, {folder} is not")
    if path.is_dir():
        raise ConfigError(f"{path}: must be a file, is a folder")
    if path.exists() and source.exists() and path.samefile(source):
        raise ConfigError(f"{path}: the output must not be the input")


def check_output(
    path: Path,
    like: VideoReader | ImageReader | FolderReader,
    config: EncodeConfig = DEFAULT_CONFIG,
) -> None:
    """Raise ConfigError for what `open_writer` would refuse of a film on the host.

    It costs nothing, so it can be asked before anything is opened that takes long.
    """
    if not is_pictures(path):
        check_place(path, like.path)
        choose_encoder(like.info, choose_muxer(path.suffix), config)


def is_pictures(path: Path) -> bool:
    """Whether what `open_writer` opens for this name is a picture or a folder of them, no film."""
    return path.suffix.lower() in PICTURE_SUFFIXES or is_folder(path)


def is_folder(path: Path) -> bool:
    """Whether it is a folder of pictures."""
    return path.suffix.lower() not in PICTURE_SUFFIXES and (path.is_dir() or not path.suffix)


def open_writer(
    path: Path,
    like: VideoReader | ImageReader | FolderReader,
    config: EncodeConfig = DEFAULT_CONFIG,
    *,
    finish: Finish | None = None,
    journal: PictureJournal | None = None,
) -> VideoWriter | ImageWriter | FolderWriter:
    """Open what the name fits: a picture file, a folder (no suffix or there already), a video.

    finish: called with the complete file or folder under its temporary name, and before that with
        each picture of a folder. journal: of a folder, see `FolderWriter`.
    """
    from accel.video.device import open_film_writer
    from accel.video.save_stills import FolderWriter, ImageWriter

    path = Path(path)
    if path.suffix.lower() in PICTURE_SUFFIXES:
        return ImageWriter(path, like, finish=finish)
    if is_pictures(path):
        return FolderWriter(path, like, finish=finish, journal=journal)
    on_device = open_film_writer(path, like, config, finish=finish)
    return on_device or VideoWriter(path, like, config, finish=finish)
