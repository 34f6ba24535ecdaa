"""The whole swap against a bare decode -> encode of the same file with the same settings.

The bare loop is what any engine must pay: PyAV, same encoder, same preset, no look at the pixels.
The two run in turn in fresh processes; wall seconds on all cores; the ratio is what to quote.
"""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

from benchmarks.harness import Written, conditions, save

BARE = """
import sys, time, av
start = time.perf_counter()
with av.open(sys.argv[1]) as source, av.open(sys.argv[2], "w") as target:
    video = source.streams.video[0]
    video.thread_type = "AUTO"
    out = target.add_stream("libx264", rate=video.average_rate,
                            options={"preset": sys.argv[3], "crf": "18"})
    out.width, out.height, out.pix_fmt = video.width, video.height, "yuv420p"
    out.thread_type = "AUTO"
    out.time_base = out.codec_context.time_base = video.time_base
    frames = 0
    for frame in source.decode(video):
        frame.pict_type = 0
        frames += 1
        for packet in out.encode(frame):
            target.mux(packet)
    for packet in out.encode(None):
        target.mux(packet)
print(frames / (time.perf_counter() - start))
"""
SWAP = """
import json, sys
import accel
from accel.pipelines.swap import EncodeConfig
report = accel.swap_video(sys.argv[1], sys.argv[2], sources=[sys.argv[4]],
                          encode=EncodeConfig(codec="libx264", preset=sys.argv[3], crf=18))
print(json.dumps(report))
"""


def run(code: str, *args: str) -> str:
    done = subprocess.run(
        [sys.executable, "-c", code, *args], capture_output=True, text=True, check=True
    )
    return done.stdout.strip().splitlines()[-1]


def measure(clip: Path, source: Path, rounds: int = 3, preset: str = "veryfast") -> Written:
    """Swap and bare transcode in turn; fps of each (loading excluded), and the ratio."""
    bare, swap, reports = [], [], []
    with tempfile.TemporaryDirectory() as folder:
        for i in range(rounds):
            bare.append(float(run(BARE, str(clip), f"{folder}/bare{i}.mp4", preset)))
            report = json.loads(run(SWAP, str(clip), f"{folder}/swap{i}.mp4", preset, str(source)))
            streaming = report["seconds"] - report["stage_seconds"]["prepare"]
            swap.append(report["frames"] / streaming)
            reports.append(report)
    last = reports[-1]
    return {
        "clip": clip.name,
        "frames": last["frames"],
        "preset": preset,
        "bare_fps": round(statistics.median(bare), 2),
        "swap_fps": round(statistics.median(swap), 2),
        "ratio": round(statistics.median(s / b for s, b in zip(swap, bare)), 3),
        "stage_seconds": last["stage_seconds"],
        "peak_memory_mb": last["peak_memory_mb"],
        "kernels": last["kernels"],
    }


def upscaled(clip: Path, folder: Path, frames: int = 240) -> Path:
    """The clip's first frames at 1080p, so that the figure can be quoted for that size."""
    import av

    target = folder / f"{clip.stem}_1080p.mp4"
    with av.open(str(clip)) as source, av.open(str(target), "w") as out:
        video = source.streams.video[0]
        stream = out.add_stream("libx264", rate=video.average_rate, options={"crf": "16"})
        stream.width, stream.height, stream.pix_fmt = 1920, 1080, "yuv420p"
        for index, frame in enumerate(source.decode(video)):
            if index == frames:
                break
            frame = frame.reformat(1920, 1080, "yuv420p", interpolation="BICUBIC")
            frame.pict_type = 0
            for packet in stream.encode(frame):
                out.mux(packet)
        for packet in stream.encode(None):
            out.mux(packet)
    return target


def main() -> None:
    from accel.pipelines.demo import PORTRAIT, demo_clip
    from accel.weights.assets import asset

    with tempfile.TemporaryDirectory() as folder:
        clip = demo_clip()
        rows = [
            measure(upscaled(clip, Path(folder)), asset(PORTRAIT)),
            measure(clip, asset(PORTRAIT)),
        ]
    for row in rows:
        print(f"  {row['clip']}: bare {row['bare_fps']} fps, swap {row['swap_fps']} fps,"
              f" ratio {row['ratio']}")  # fmt: skip
    save("swap_pipeline", {"rows": rows, **conditions(threads=2)})


if __name__ == "__main__":
    main()
