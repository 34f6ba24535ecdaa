"""What marking and the content gate cost a swap: with and without, in turn, in one process.

`plain` is `--watermark off --label off --no-credential --no-ledger` and an open gate, `marks` all
of them but the gate, `all` a swap as it is by default. CPU seconds from the first frame to the
finished file are compared, each run with the one beside it, since wall time on a shared machine
says little; the median of the ratios comes with an interval that holds it 19 times in 20. What
marking does itself is also counted by the clocks of the threads it runs in. With --preset veryfast
an encoder takes less, and our own steps are more of the whole.

Run: python -m benchmarks.pipelines.provenance [--preset veryfast] [CLIP ...]; rows of clips and
presets that were not measured again stay as they were
"""

from __future__ import annotations

import os

os.environ.setdefault("OMP_WAIT_POLICY", "passive")  # as the command does, see accel/cli

import argparse
import io
import math
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from typing import Any
from unittest.mock import patch

import av
import numpy as np

from accel.faces.scene import thumbnail
from accel.pipelines import provenance, swap
from accel.pipelines.gate import ContentGate
from accel.pipelines.provenance import Marking, ProvenanceConfig
from accel.pipelines.swap import EncodeConfig, swap_video
from accel.provenance.label import Label
from accel.provenance.ledger import look
from accel.provenance.watermark import Mark
from accel.video.read import open_video
from benchmarks.harness import conditions, interleaved, kept, save
from tests.provenance.film import planes_of

OFF = ProvenanceConfig(watermark="off", label="off", credentials=False, ledger=False)
WAYS = ("plain", "marks", "all")  # nothing; marks without the gate; both, as by default


class Open:
    def check(self, frames) -> None: ...


def run(clip: Path, out: Path, source: Path, preset: str, way: str) -> dict[str, float]:
    """Swap once; CPU and wall seconds from the first frame on, when networks are open."""
    begun: dict[str, float] = {}

    def progress(event) -> None:
        begun.setdefault("cpu_s", time.process_time())
        begun.setdefault("wall_s", time.perf_counter())

    report = swap_video(
        clip, out, sources=[source], progress=progress,
        provenance=OFF if way == "plain" else ProvenanceConfig(),
        gate=None if way == "all" else Open(),
        encode=EncodeConfig(codec="libx264", preset=preset),
    )  # fmt: skip
    taken = {"cpu_s": time.process_time() - begun["cpu_s"]}
    taken["wall_s"] = time.perf_counter() - begun["wall_s"]
    bytes_written = out.stat().st_size
    out.unlink()
    return taken | {"bytes": bytes_written, "frames": report["frames"]}


@contextmanager
def own_steps() -> Iterator[dict[str, float]]:
    """CPU seconds that the steps of marking take, by the clock of the thread each runs in."""
    spent = dict.fromkeys(("earlier mark", "frames", "seal"), 0.0)

    def counted(name: str, step: Callable) -> Callable:
        def call(*args: Any, **kwargs: Any) -> Any:
            start = time.thread_time()
            try:
                return step(*args, **kwargs)
            finally:
                spent[name] += time.thread_time() - start

        return call

    with (
        patch.object(swap, "earlier_mark", counted("earlier mark", provenance.earlier_mark)),
        patch.object(Marking, "mark_frame", counted("frames", Marking.mark_frame)),
        patch.object(Marking, "seal", counted("seal", Marking.seal)),
    ):
        yield spent


def measure(clip: Path, source: Path, preset: str, rounds: int) -> dict:
    found: dict[str, list[dict]] = {way: [] for way in WAYS}
    with tempfile.TemporaryDirectory() as folder, own_steps() as spent:
        for i in range(-1, rounds):  # the first warms up
            turn = i % len(WAYS)  # each way is first, second and third equally often
            for way in WAYS[turn:] + WAYS[:turn]:
                taken = run(clip, Path(folder) / f"{way}{i}.mp4", source, preset, way)
                if i >= 0:
                    found[way].append(taken)
    plain = found["plain"]
    cpu_s = statistics.median(one["cpu_s"] for one in plain)
    row = {"clip": clip.name, "preset": preset, "frames": plain[0]["frames"]}
    for way, runs in found.items():
        row[f"{way}_cpu_s"] = round(statistics.median(one["cpu_s"] for one in runs), 3)
        row[f"{way}_wall_s"] = round(statistics.median(one["wall_s"] for one in runs), 3)
    for way in WAYS[1:]:
        ratios = sorted(b["cpu_s"] / a["cpu_s"] for a, b in zip(plain, found[way]))
        row[f"{way}_ratio"] = round(statistics.median(ratios), 4)
        row[f"{way}_ratio_95"] = [round(one, 4) for one in interval(ratios)]
        row[f"{way}_ratios"] = [round(one, 4) for one in ratios]
    marked_runs = 2 * (rounds + 1)
    row["own_steps_ms"] = {k: round(v / marked_runs * 1e3, 1) for k, v in spent.items()}
    row["own_steps_share"] = round(sum(spent.values()) / marked_runs / cpu_s, 4)
    row["bytes_growth_crf18"] = round(found["marks"][-1]["bytes"] / plain[-1]["bytes"] - 1, 4)
    return row


def interval(values: list[float]) -> tuple[float, float]:
    """Two ranks between which the median lies in 95 of 100 cases, whatever the distribution.

    Of fewer than six values even the least and the greatest hold it less often.
    """
    count, below = len(values), 0.0
    for rank in range(count // 2):
        below += math.comb(count, rank) / 2**count
        if below > 0.025:
            return sorted(values)[max(0, rank - 1)], sorted(values)[min(count - 1, count - rank)]
    return min(values), max(values)


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
    parser.add_argument("--rounds", type=int, default=9)
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
        for way in WAYS[1:]:
            low, high = row[f"{way}_ratio_95"]
            print(f"  {row['clip']}: CPU seconds with {way} {row[f'{way}_ratio']:.3f}"
                  f" ({low:.3f} to {high:.3f}) of without")  # fmt: skip
        print(f"  marking itself, in ms: {row['own_steps_ms']}, {row['own_steps_share']:.2%}")
    rows = [*kept("provenance", rows, "clip", "preset"), *rows]
    save("provenance", {"rows": rows, **conditions(2), "clock": "CPU and wall, as named"})


if __name__ == "__main__":
    main()
