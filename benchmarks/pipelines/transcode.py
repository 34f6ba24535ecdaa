"""What reading and writing through our classes costs beside a bare decode and encode loop.

Same file, encoder and settings, in turn; CPU seconds of the whole process. `touched` also asks
for the planes of every frame, which copies those that the decoder still predicts from.

    python -m benchmarks.pipelines.transcode [VIDEO]
"""

from __future__ import annotations

import sys
import tempfile
from fractions import Fraction
from pathlib import Path

import av
import numpy as np

from accel.video.encode import EncodeConfig
from accel.video.read import VideoReader
from accel.video.stages import buffered
from accel.video.write import VideoWriter
from benchmarks.harness import conditions, interleaved, save

CONFIG = EncodeConfig(codec="h264", preset="veryfast", crf=18, faststart=False)


def bare(source: Path, target: Path) -> None:
    with av.open(str(source)) as given, av.open(str(target), "w") as made:
        film = given.streams.video[0]
        film.thread_type = "AUTO"
        out = made.add_stream(
            "libx264", rate=film.average_rate, options={"preset": "veryfast", "crf": "18"}
        )
        out.width, out.height, out.pix_fmt = film.width, film.height, film.pix_fmt
        out.time_base = out.codec_context.time_base = film.time_base
        out.thread_type = "AUTO"
        for picture in given.decode(film):
            picture.pict_type = 0
            made.mux(out.encode(picture))
        made.mux(out.encode(None))


def ours(source: Path, target: Path, *, touch: bool = False) -> None:
    with VideoReader(source) as reader, VideoWriter(target, reader, CONFIG) as writer:
        for frame in buffered(reader):
            if touch:
                frame.planes  # noqa: B018
            writer.write(frame)


def make_source(path: Path, frames: int = 60) -> None:
    """1080p, moving, with noise that does not repeat: about as hard as a film."""
    rng = np.random.default_rng(0)
    wide = rng.integers(0, 256, (68, 240, 3), dtype=np.uint8)
    with av.open(str(path), "w") as made:
        out = made.add_stream("libx264", rate=25, options={"preset": "veryfast", "crf": "20"})
        out.width, out.height, out.pix_fmt = 1920, 1080, "yuv420p"
        out.time_base = out.codec_context.time_base = Fraction(1, 25)
        for number in range(frames):
            part = np.roll(wide, number, 1)[:, :120] // 2
            part = part + rng.integers(0, 6, part.shape, dtype=np.uint8)
            picture = av.VideoFrame.from_ndarray(part.astype(np.uint8), "rgb24")
            picture = picture.reformat(width=1920, height=1080, format="yuv420p")
            picture.pts = number
            made.mux(out.encode(picture))
        made.mux(out.encode(None))


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        source = Path(folder) / "source.mp4"
        if len(sys.argv) > 1:
            source = Path(sys.argv[1])
        else:
            make_source(source)
        target = Path(folder) / "out.mp4"
        with VideoReader(source) as reader:
            info = reader.info
        medians = interleaved(
            {
                "bare loop": lambda: bare(source, target),
                "ours": lambda: ours(source, target),
                "ours, touched": lambda: ours(source, target, touch=True),
            },
            rounds=5,
        )
    base = medians["bare loop"]
    rows = [
        {"name": name, "cpu_s": round(seconds, 3), "ratio_to_bare": round(seconds / base, 4)}
        for name, seconds in medians.items()
    ]
    for row in rows:
        print(f"{row['name']:16} {row['cpu_s']:8.3f} s {row['ratio_to_bare']:8.4f} x")
    what = f"{info.width}x{info.height}, {info.frames} frames, libx264 veryfast crf 18"
    save("transcode", {"case": what, "rows": rows, **conditions(1)})


if __name__ == "__main__":
    main()
