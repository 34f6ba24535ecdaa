"""Small clips that the tests make: the public-domain portrait in motion, in many formats."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path

import av
import numpy as np

from accel.pipelines.demo import moving_portrait


def write_clip(
    path: Path,
    frames: int = 12,
    *,
    width: int = 320,
    height: int = 240,
    codec: str = "libx264",
    pix_fmt: str = "yuv420p",
    pts: list[int] | None = None,
    time_base: Fraction = Fraction(1, 24),
    audio: bool = False,
    rotation: int = 0,
    options: dict[str, str] | None = None,
    pictures: list[np.ndarray] | None = None,
) -> Path:
    """Write a clip; `pts` in units of `time_base` makes it one of variable frame rate.

    rotation: degrees counter-clockwise that a player turns the frames by.
    """
    pictures = pictures or list(moving_portrait(frames, width, height))
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=24, options=options or {})
        stream.width, stream.height, stream.pix_fmt = width, height, pix_fmt
        stream.time_base = stream.codec_context.time_base = time_base
        if rotation:
            stream.set_display_rotation(rotation)
        sound = container.add_stream("aac", rate=48000) if audio else None
        for index, picture in enumerate(pictures):
            frame = av.VideoFrame.from_ndarray(picture, format="rgb24").reformat(format=pix_fmt)
            frame.pts = pts[index] if pts else index
            frame.time_base = time_base
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
        if sound:
            tone = np.sin(np.arange(48000) * 0.05).astype(np.float32)[None]
            for start in range(0, 48000 - 1024, 1024):
                chunk = np.ascontiguousarray(tone[:, start : start + 1024])
                packet = av.AudioFrame.from_ndarray(chunk, format="fltp", layout="mono")
                packet.sample_rate, packet.pts = 48000, start
                container.mux(sound.encode(packet))
            container.mux(sound.encode(None))
    return path


def decode(path: Path) -> list[tuple[int, list[np.ndarray]]]:
    """Every frame as (pts in microseconds, its planes)."""
    found = []
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        for frame in container.decode(stream):
            found.append((round(frame.pts * stream.time_base * 10**6), planes(frame)))
    return found


def planes(frame: av.VideoFrame) -> list[np.ndarray]:
    """The samples of each plane without row padding."""
    wide = 2 if frame.format.components[0].bits > 8 else 1
    dtype = np.uint16 if wide == 2 else np.uint8
    out = []
    for plane in frame.planes:
        rows = np.frombuffer(plane, dtype).reshape(plane.height, plane.line_size // wide)
        out.append(rows[:, : plane.width].copy())
    return out


def audio_packets(path: Path) -> list[bytes]:
    with av.open(str(path)) as container:
        return [bytes(p) for p in container.demux(audio=0) if p.size]
