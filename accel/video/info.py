"""What a video file says about itself, gathered once when it is opened.

Sources: SMPTE ST 2086 (mastering display), CTA-861.3 (content light level), ISO 14496-12 6.2.2
(display matrix), ITU-T H.273.
"""

from __future__ import annotations

import itertools
import math
import re
import struct
import threading
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

import av

from accel.kernels.planes import PlaneLayout
from accel.video.frame import choose_layout

_LEVELS = threading.Lock()
_JPEG_CODECS = ("mjpeg", "jpegls", "jpeg2000", "webp")
_UNREADABLE = ("ICC_PROFILE",)
_FEW_PX = 16  # along a side
_LOCATIONS = ("left", "center", "topleft", "top", "bottomleft", "bottom")


@dataclass(frozen=True, kw_only=True)
class ColorTags:
    """Colour as the file tags it, in the code numbers of H.273 (2: unspecified) and FFmpeg.

    range: 0 unspecified, 1 limited, 2 full. chroma_location: `unspecified`, or where chroma sample
    (0, 0) lies: left, center, topleft, top, bottomleft, bottom.
    """

    primaries: int = 2
    transfer: int = 2
    matrix: int = 2
    range: int = 0
    chroma_location: str = "unspecified"


@dataclass(frozen=True, kw_only=True)
class MasteringDisplay:
    """The display a film was graded on: xy chromaticities and luminance in cd/m², exact."""

    red: tuple[Fraction, Fraction]
    green: tuple[Fraction, Fraction]
    blue: tuple[Fraction, Fraction]
    white: tuple[Fraction, Fraction]
    min_luminance: Fraction
    max_luminance: Fraction


@dataclass(frozen=True, kw_only=True)
class StreamInfo:
    """One stream of a file: kind is video, audio, subtitle, data, attachment or unknown."""

    index: int
    kind: str
    codec: str
    language: str = ""
    title: str = ""


@dataclass(frozen=True, kw_only=True)
class VideoInfo:
    """What the first video stream of a file is, and what lies beside it.

    pixel_format: of the frames as they are given out (planar).
    frames: how many are expected; an estimate, None when unknown.
    rotation: degrees clockwise (0, 90, 180, 270) that a player turns the picture by; the planes are
        not turned. mirrored: whether it is flipped left to right before that.
    display_matrix: the nine numbers this was read from, None when there are none.
    field_order: 0 or 1 progressive, above that interlaced (FFmpeg's codes).
    content_light: MaxCLL and MaxFALL in cd/m².
    """

    width: int
    height: int
    pixel_format: str
    codec: str
    container: str
    time_base: Fraction
    average_rate: Fraction | None = None
    is_vfr: bool = False
    duration_s: float | None = None
    frames: int | None = None
    rotation: int = 0
    mirrored: bool = False
    display_matrix: tuple[int, ...] | None = None
    sample_aspect_ratio: Fraction | None = None
    field_order: int = 0
    color: ColorTags = ColorTags()
    mastering_display: MasteringDisplay | None = None
    content_light: tuple[int, int] | None = None
    has_dynamic_hdr: bool = False
    streams: tuple[StreamInfo, ...] = ()
    chapters: tuple[dict[str, Any], ...] = ()
    metadata: dict[str, str] | None = None
    is_image: bool = False
    is_folder: bool = False

    @property
    def layout(self) -> PlaneLayout:
        return choose_layout(
            self.pixel_format,
            width=self.width,
            height=self.height,
            matrix=self.color.matrix,
            color_range=self.color.range,
            chroma_location=self.color.chroma_location,
            is_jpeg=self.codec in _JPEG_CODECS,
        )


def describe(
    container: av.container.InputContainer,
    stream: av.VideoStream,
    picture: av.VideoFrame,  # the first one decoded, planar
    demuxer: str,
    chroma_location: str,
) -> VideoInfo:
    """Gather VideoInfo from an open file, its first picture, and what `chroma_location_of` said."""
    sides = side_data(picture)
    matrix = struct.unpack("9i", sides["DISPLAYMATRIX"]) if "DISPLAYMATRIX" in sides else None
    if matrix is None and picture.rotation:  # counter-clockwise there
        matrix = display_matrix(round(-picture.rotation / 90) * 90 % 360, False)
    rotation, mirrored = orientation(matrix) if matrix else (0, False)
    duration_s = _duration_s(container, stream)
    rate = stream.average_rate or stream.guessed_rate
    frames = stream.frames or None
    if frames is None and duration_s and rate:
        frames = max(1, round(duration_s * rate))
    context = stream.codec_context
    return VideoInfo(
        width=picture.width,
        height=picture.height,
        pixel_format=picture.format.name,
        codec=context.codec.canonical_name,
        container=demuxer,
        time_base=stream.time_base,
        average_rate=rate,
        is_vfr=_is_vfr(stream),
        duration_s=duration_s,
        frames=frames,
        rotation=rotation,
        mirrored=mirrored,
        display_matrix=matrix,
        sample_aspect_ratio=stream.sample_aspect_ratio or None,
        field_order=int(context.field_order),
        color=_color_tags(picture, chroma_location),
        mastering_display=_mastering(sides.get("MASTERING_DISPLAY_METADATA")),
        content_light=_content_light(sides.get("CONTENT_LIGHT_LEVEL")),
        has_dynamic_hdr=bool(
            {"DOVI_METADATA", "DOVI_RPU_BUFFER", "DYNAMIC_HDR_PLUS", "DYNAMIC_HDR_VIVID"} & {*sides}
        ),
        streams=tuple(_stream_info(other) for other in container.streams),
        chapters=tuple(container.chapters()),
        metadata=dict(container.metadata),
        is_image=demuxer.endswith("_pipe"),
    )


def side_data(picture: av.VideoFrame) -> dict[str, bytes]:
    """Return the side data of a picture by type name, colour profile and EXIF left out.

    The binding frees the profile's metadata twice when it looks at it, which ends the process, and
    refuses the whole list for EXIF, which it has no name for. So both are taken from a second
    reference to the picture before it is looked at.

    What was looked at and its list then hold each other, until the garbage collector comes by. A
    picture that is held keeps all of the decoder's, so a few samples are copied to go in its place.
    """
    graph = av.filter.Graph()
    steps = [
        graph.add_buffer(
            width=picture.width,
            height=picture.height,
            format=picture.format,
            time_base=picture.time_base or Fraction(1, 25),
        )
    ]
    steps += [graph.add("sidedata", f"mode=delete:type={kind}") for kind in _UNREADABLE]
    steps.append(graph.add("crop", f"w=min(iw\\,{_FEW_PX}):h=min(ih\\,{_FEW_PX}):x=0:y=0:exact=1"))
    steps.append(graph.add("buffersink"))
    graph.link_nodes(*steps).configure()
    graph.vpush(picture)
    readable = graph.vpull()
    readable.make_writable()
    try:
        return {data.type.name: bytes(data) for data in readable.side_data}
    except ValueError:
        return {}


def orientation(matrix: tuple[int, ...]) -> tuple[int, bool]:
    """Return (degrees clockwise in quarter turns, mirrored first) of a display matrix."""
    a, b, c, d = matrix[0], matrix[1], matrix[3], matrix[4]
    mirrored = a * d - b * c < 0
    if mirrored:
        a, b = -a, -b
    return round(math.degrees(math.atan2(b, a)) / 90) * 90 % 360, mirrored


def display_matrix(rotation: int, mirrored: bool) -> tuple[int, ...]:
    """Return the matrix that `orientation` reads as these two."""
    one = 1 << 16
    cos = {0: 1, 90: 0, 180: -1, 270: 0}[rotation]
    sin = {0: 0, 90: 1, 180: 0, 270: -1}[rotation]
    flip = -1 if mirrored else 1
    return (flip * cos * one, flip * sin * one, 0, -sin * one, cos * one, 0, 0, 0, 1 << 30)


def _color_tags(picture: av.VideoFrame, chroma_location: str) -> ColorTags:
    return ColorTags(
        primaries=int(picture.color_primaries),
        transfer=int(picture.color_trc),
        matrix=int(picture.colorspace),
        range=int(picture.color_range),
        chroma_location=chroma_location,
    )


def chroma_location_of(container: av.container.InputContainer, index: int) -> str:
    """Where a stream's chroma samples lie, in FFmpeg's words; to be asked before it is decoded.

    The binding has no attribute for it; FFmpeg prints it when it is verbose. A decoder's threads
    would then be told too, and who is told waits for the interpreter: should that close the decoder
    meanwhile, it waits for them, for good.
    """
    with _LEVELS:
        before = av.logging.get_level()
        av.logging.set_level(av.logging.VERBOSE)
        av.logging.set_libav_level(av.logging.VERBOSE)
        try:
            text = container.dumps_format()
        finally:
            av.logging.set_libav_level(av.logging.INFO)
            av.logging.set_level(before)
    for line in text.splitlines():
        if re.match(rf"\s*Stream #0:{index}\b", line):
            words = re.findall(r"[a-z]+", " ".join(re.findall(r"\(([^()]*)\)", line)))
            return next((word for word in words if word in _LOCATIONS), "unspecified")
    return "unspecified"


def _duration_s(container: av.container.InputContainer, stream: av.VideoStream) -> float | None:
    if stream.duration:
        return float(stream.duration * stream.time_base)
    return container.duration / av.time_base if container.duration else None


def _is_vfr(stream: av.VideoStream) -> bool:
    stamps = [entry.timestamp for entry in stream.index_entries]
    if len(stamps) > 2 and len(stamps) == stream.frames:  # an index of every frame, as MP4 has
        steps = {after - before for before, after in itertools.pairwise(stamps)}
        return bool(max(steps) - min(steps) > 1)  # one tick of rounding is no variation
    average, base = stream.average_rate, stream.base_rate
    return bool(average and base and abs(average / base - 1) > 0.005)


def _mastering(data: bytes | None) -> MasteringDisplay | None:
    if data is None or len(data) < 88:
        return None
    numbers = struct.unpack("22i", data[:88])
    if not (numbers[20] and numbers[21]):  # has_primaries, has_luminance
        return None
    values = [Fraction(n, d or 1) for n, d in zip(numbers[:20:2], numbers[1:20:2])]
    return MasteringDisplay(
        red=(values[0], values[1]),
        green=(values[2], values[3]),
        blue=(values[4], values[5]),
        white=(values[6], values[7]),
        min_luminance=values[8],
        max_luminance=values[9],
    )


def _content_light(data: bytes | None) -> tuple[int, int] | None:
    if data is None or len(data) < 8:
        return None
    brightest, average = struct.unpack("2I", data[:8])
    return brightest, average


def _stream_info(stream: av.stream.Stream) -> StreamInfo:
    context = stream.codec_context
    name = context.codec.canonical_name if context else getattr(stream, "name", None)
    return StreamInfo(
        index=stream.index,
        kind=stream.type,
        codec=str(name or ""),
        language=stream.metadata.get("language", ""),
        title=stream.metadata.get("title", ""),
    )
