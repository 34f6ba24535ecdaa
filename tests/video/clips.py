"""Small clips of every kind that the reader must take, made on the spot."""

from __future__ import annotations

from collections.abc import Iterable
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import torch

from accel.video.encode import DEFAULT_CONFIG
from accel.video.read import open_video
from accel.video.write import open_writer

SIZE = (96, 64)
FAST = {
    "libx264": {"preset": "ultrafast", "bf": "2"},
    "libx265": {"preset": "ultrafast", "x265-params": "log-level=error"},
    "libvpx-vp9": {"cpu-used": "8", "deadline": "realtime"},
    "gif": {},
}
HDR10 = (
    "log-level=error:hdr10=1:repeat-headers=1:chromaloc=2:max-cll=1000,400:"
    "master-display=G(13250,34500)B(7500,3000)R(34000,16000)WP(15635,16450)L(10000000,50)"
)
BT2020_PQ = (9, 16, 9, 1)
BT2020_HLG = (9, 18, 9, 1)


def make_clip(
    path: Path,
    *,
    codec: str = "libx264",
    pixel_format: str = "yuv420p",
    size: tuple[int, int] = SIZE,
    stamps: Iterable[int] = range(12),
    time_base: Fraction = Fraction(1, 25),
    color: tuple[int, int, int, int] | None = None,  # primaries, transfer, matrix, range
    rotation: int = 0,  # degrees counter-clockwise
    aspect: Fraction | None = None,
    options: dict[str, str] | None = None,
    metadata: dict[str, str] | None = None,
    chapters: bool = False,
    audio: tuple[str, ...] = (),  # languages
    subtitle: str = "",
    attachment: bool = False,
    data: bool = False,
    last: int = 0,  # how long the last frame is shown, in ticks
    muxer: str | None = None,
) -> Path:
    output = av.open(str(path), "w", format=muxer)
    film = output.add_stream(codec, rate=25, options=options or FAST.get(codec, {}))
    film.width, film.height = size
    film.pix_fmt = pixel_format
    film.time_base = film.codec_context.time_base = time_base
    if color:
        context = film.codec_context
        context.color_primaries, context.color_trc, context.colorspace, context.color_range = color
    if rotation:
        film.set_display_rotation(rotation)
    if aspect:
        film.codec_context.sample_aspect_ratio = aspect
    output.metadata.update(metadata or {})
    if chapters:
        halves = [(0, 200, "one"), (200, 480, "two")]
        output.set_chapters(
            [
                {"id": i, "start": a, "end": b, "time_base": Fraction(1, 1000),
                 "metadata": {"title": title}}
                for i, (a, b, title) in enumerate(halves)
            ]
        )  # fmt: skip
    sounds = []
    for language in audio:
        sound = output.add_stream("aac" if path.suffix != ".webm" else "libopus", rate=48000)
        sound.metadata["language"] = language
        sounds.append(sound)
    if audio[1:]:
        sounds[1].disposition = av.stream.Disposition.default
    texts = output.add_mux_stream(subtitle) if subtitle else None
    if texts is not None:
        texts.time_base = Fraction(1, 1000)
        texts.metadata["language"] = "fra"
    if attachment:
        output.add_attachment("font.ttf", "application/x-truetype-font", b"not a font" * 9)
    beside = output.add_data_stream("klv") if data else None

    if last:
        film.codec_context.flags |= av.codec.context.Flags.frame_duration
    stamps = list(stamps)
    for picture in pictures(stamps, size, pixel_format, time_base):
        if last:
            picture.duration = last if picture.pts == stamps[-1] else 1
        if color:
            picture.colorspace, picture.color_range = color[2], color[3]
        output.mux(film.encode(picture))
    output.mux(film.encode(None))
    for sound in sounds:
        for packet in tone(sound):
            output.mux(packet)
    if texts is not None:
        for number in range(2):
            words = f"line {number}".encode()
            packet = av.Packet(
                len(words).to_bytes(2, "big") + words if subtitle == "mov_text" else words
            )
            packet.pts = packet.dts = 100 + 200 * number
            packet.duration, packet.time_base, packet.stream = 150, Fraction(1, 1000), texts
            output.mux(packet)
    if beside is not None:
        packet = av.Packet(b"some bytes of a drone")
        packet.pts = packet.dts = 9000
        packet.time_base, packet.stream = Fraction(1, 90000), beside
        output.mux(packet)
    output.close()
    return path


def pictures(stamps, size, pixel_format, time_base):
    """A ramp with a square that moves; every sample of every plane takes part."""
    width, height = size
    y, x = np.mgrid[:height, :width]
    for number, stamp in enumerate(stamps):
        rgb = np.stack([x * 255 // width, y * 255 // height, (x + y) % 64 + 90], -1)
        left = 4 + 5 * number % (width - 24)
        rgb[10:30, left : left + 20] = (230, 40 + 6 * number % 200, 30)
        picture = av.VideoFrame.from_ndarray(rgb.astype(np.uint8), "rgb24")
        if pixel_format == "pal8":
            picture = picture.reformat(format="rgb8").reformat(format="pal8")
        else:
            picture = picture.reformat(format=pixel_format)
        picture.pts, picture.time_base = int(stamp), time_base
        yield picture


def tone(sound, seconds: float = 0.48):
    rate = 48000
    wave = np.sin(np.arange(int(rate * seconds)) * 0.05).astype(np.float32) * 0.3
    for start in range(0, len(wave) - 1023, 1024):
        part = av.AudioFrame.from_ndarray(np.stack([wave[start : start + 1024]] * 2), "fltp")
        part.sample_rate, part.pts, part.time_base = rate, start, Fraction(1, rate)
        yield from sound.encode(part)
    yield from sound.encode(None)


def transcode(source, target, config=DEFAULT_CONFIG, change=None):
    """Pass a file through reader and writer; returns both."""
    with open_video(source) as reader, open_writer(target, reader, config) as writer:
        for frame in reader:
            if change:
                change(frame)
            writer.write(frame)
    return reader, writer


def times(path: Path) -> list[Fraction]:
    """Presentation times of the packets of the film, in order, independent of our reader."""
    with av.open(str(path)) as container:
        film = container.streams.video[0]
        stamps = [p.pts * p.time_base for p in container.demux(film) if p.size]
    return sorted(stamps)


def packets(path: Path, kind: str) -> list[list[tuple[bytes, Fraction]]]:
    """Payload and time of every packet of each stream of a kind."""
    with av.open(str(path)) as container:
        streams = [s for s in container.streams if s.type == kind]
        found = {stream.index: [] for stream in streams}
        if not streams:  # demux would take none for all
            return []
        for packet in container.demux(streams):
            if packet.size:
                found[packet.stream_index].append((bytes(packet), packet.pts * packet.time_base))
    return list(found.values())


def samples(path: Path) -> list[tuple[str, bytes]]:
    """Format and raw samples of every frame, by FFmpeg's own layout."""
    with av.open(str(path)) as container:
        found = []
        for picture in container.decode(video=0):
            name = picture.format.name
            packed = {"bgr0": "rgb24", "rgb48be": "rgb48le"}  # an arbitrary byte; an odd order
            if name in packed:
                picture = picture.reformat(format=packed[name])
            found.append((name, b"".join(_rows(plane) for plane in picture.planes)))
        return found


def _rows(plane) -> bytes:
    """Every byte but the padding, which is arbitrary."""
    view = torch.from_dlpack(plane)
    return view.contiguous().numpy().tobytes()
