"""What marking and the content gate cost a swap: with and without, in turn.

`plain` is `--watermark off --label off --no-credential --no-ledger` and an open gate, `marks` all
of them but the gate, `all` a swap as it is by default. Each run is a fresh process; CPU seconds of
the whole process without its start (`prepare`) are compared, as wall time on a shared machine says
little. With --preset veryfast an encoder takes less, and our own steps are more of the whole.

Run: python -m benchmarks.pipelines.provenance [--preset veryfast] [CLIP ...]; rows of clips and
presets that were not measured again stay as they were
"""

from __future__ import annotations

import argparse
import io
import json
import statistics
import subprocess
import sys
import tempfile
import time
from itertools import islice
from pathlib import Path

import av
import numpy as np

from accel.faces.scene import thumbnail
from accel.pipelines.gate import ContentGate
from accel.provenance.label import Label
from accel.provenance.ledger import look
from accel.provenance.watermark import Mark
from accel.video.read import open_video
from benchmarks.harness import conditions, interleaved, kept, save
from tests.provenance.film import planes_of

SWAP = """
import json, sys, time
from accel.pipelines.provenance import ProvenanceConfig
from accel.pipelines.swap import EncodeConfig, swap_video

class Open:
    def check(self, frames): pass

clip, out, source, preset, how = sys.argv[1:]
off = ProvenanceConfig(watermark="off", label="off", credentials=False, ledger=False)
config = off if how == "plain" else ProvenanceConfig()
gate = None if how == "all" else Open()
begun = {}
def progress(event):
    begun.setdefault("cpu", time.process_time())  # at the first frame: networks are open
    begun.setdefault("wall", time.perf_counter())
report = swap_video(clip, out, sources=[source], provenance=config, gate=gate, progress=progress,
                    encode=EncodeConfig(codec="libx264", preset=preset))
print(json.dumps({
    "cpu_s": time.process_time() - begun["cpu"], "wall_s": time.perf_counter() - begun["wall"],
    "stages": report["stage_seconds"], "frames": report["frames"],
    "bytes": __import__("os").path.getsize(out)}))
"""
WAYS = ("plain", "marks", "all")  # nothing; marks without the gate; both, as by default


def measure(clip: Path, source: Path, preset: str, rounds: int) -> dict:
    found: dict[str, list[dict]] = {way: [] for way in WAYS}
    with tempfile.TemporaryDirectory() as folder:
        for i in range(rounds):
            for way in WAYS if i % 2 else WAYS[::-1]:  # a machine that warms up favours none
                args = [str(clip), f"{folder}/{way}{i}.mp4", str(source), preset, way]
                done = subprocess.run(
                    [sys.executable, "-c", SWAP, *args], capture_output=True, text=True, check=True
                )
                found[way].append(json.loads(done.stdout.splitlines()[-1]))
    row = {"clip": clip.name, "preset": preset, "frames": found["all"][0]["frames"]}
    for way, runs in found.items():
        row[f"{way}_cpu_s"] = round(statistics.median(one["cpu_s"] for one in runs), 3)
        row[f"{way}_wall_s"] = round(statistics.median(one["wall_s"] for one in runs), 3)
    for way in WAYS[1:]:
        ratios = [b["cpu_s"] / a["cpu_s"] for a, b in zip(found["plain"], found[way])]
        row[f"{way}_ratio"] = round(statistics.median(ratios), 4)
        row[f"{way}_ratios"] = [round(one, 4) for one in sorted(ratios)]
    last = found["all"][-1]
    row["stage_seconds"] = last["stages"]
    row["bytes_growth_crf18"] = round(last["bytes"] / found["plain"][-1]["bytes"] - 1, 4)
    return row


def steps(height: int, width: int) -> dict:
    """Milliseconds of CPU that each step takes for one frame, one thread."""
    planes, gate = planes_of(height, width), ContentGate()
    mark, label = Mark("c0ffee123456"), Label("face_swap", language="en")
    calls = {
        "mark": lambda: mark.add(planes),
        "label": lambda: label.draw(planes),
        "look of a frame (8 to 15 a film)": lambda: look(planes.c0.numpy()),
        "gate: is a look due": lambda: thumbnail(planes),
        "gate: a look (1 a second)": lambda: gate._judge(planes, "a frame"),
    }
    medians = interleaved(calls, rounds=5, threads=1)
    return {"frame": f"{width}x{height}"} | {k: round(v * 1e3, 3) for k, v in medians.items()}


def encoder(clip: Path, preset: str, frames: int = 120) -> dict:
    """What an encoder of one thread needs for marked frames, beside one for the same unmarked.

    Both get each frame in turn, so that whatever else the machine does slows both alike.
    """
    mark, label = Mark("c0ffee123456"), Label("face_swap", language="en")
    files, streams = {}, {}
    seconds = dict.fromkeys(("plain", "marked"), 0.0)
    with open_video(clip) as reader:
        height, width = reader.info.height, reader.info.width
        for way in seconds:
            files[way] = io.BytesIO()
            out = av.open(files[way], "w", format="mp4")
            options = {"crf": "18", "preset": preset}
            stream = out.add_stream("libx264", rate=reader.info.average_rate, options=options)
            stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
            stream.codec_context.thread_count = 1
            streams[way] = (out, stream)
        for frame in islice(reader, frames):
            marked = frame.planes.clone()
            label.draw(marked)
            mark.add(marked)
            for way, planes in (("plain", frame.planes), ("marked", marked)):
                rows = [plane.numpy().reshape(-1, width) for plane in planes[:3]]
                picture = av.VideoFrame.from_ndarray(np.concatenate(rows), format="yuv420p")
                start = time.thread_time()
                packets = streams[way][1].encode(picture)
                seconds[way] += time.thread_time() - start
                streams[way][0].mux(packets)
    for out, stream in streams.values():  # not timed: what was held back comes out at once
        out.mux(stream.encode(None))
        out.close()
    count = frame.index + 1
    return {
        "clip": clip.name, "preset": preset, "frames": count,
        "ratio": round(seconds["marked"] / seconds["plain"], 4),
        "bytes_growth_crf18": round(
            len(files["marked"].getvalue()) / len(files["plain"].getvalue()) - 1, 4
        ),
    }  # fmt: skip


def main() -> None:
    from accel.pipelines.demo import PORTRAIT, demo_clip, render_clip
    from accel.weights.assets import asset

    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("clips", nargs="*", type=Path)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--preset", default="medium", help="of x264; medium is a swap's default")
    parser.add_argument("--steps", action="store_true", help="only the cost of each step")
    parser.add_argument("--encoder", action="store_true", help="only what encoding costs more")
    args = parser.parse_args()
    if args.encoder:
        rows = [encoder(clip, args.preset) for clip in args.clips or [demo_clip()]]
        print(*rows, sep="\n")
        rows = [*kept("provenance_encoder", rows, "clip", "preset"), *rows]
        save("provenance_encoder", {"rows": rows, **conditions(threads=1)})
        return
    if args.steps:
        rows = [steps(720, 1280), steps(1080, 1920)]
        print(*rows, sep="\n")
        save("provenance_steps", {"unit": "ms", "rows": rows, **conditions(threads=1)})
        return
    with tempfile.TemporaryDirectory() as folder:
        clips = args.clips or [demo_clip(), render_clip(Path(folder) / "rendered.mp4")]
        rows = [measure(clip, asset(PORTRAIT), args.preset, args.rounds) for clip in clips]
    for row in rows:
        print(f"  {row['clip']}: CPU seconds with marks {row['marks_ratio']:.3f} of without,"
              f" with the gate too {row['all_ratio']:.3f}")  # fmt: skip
    rows = [*kept("provenance", rows, "clip", "preset"), *rows]
    save("provenance", {"rows": rows, **conditions(2), "clock": "CPU and wall, as named"})


if __name__ == "__main__":
    main()
