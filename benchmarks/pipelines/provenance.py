"""What marking and the content gate cost a swap, of its processor time, so finely that 3 % is seen.

A film of ten seconds is made of each clip at 360, 720 and 1080 lines. Two swaps of one film differ
by more than marking costs, so the cost is counted where it arises and added up:

* `own`: marking's own steps, from the search for an earlier mark to the ledger, by the clocks of
  the threads they run in, in swaps that each have a process of their own;
* `encoder`: what x264 needs more for frames with label and mark. Both films are encoded frame by
  frame in turn, several times, and of each frame's times the least counts;
* `gate`: the content gate, by its thread's clock, opened before the first frame and all.

All are shares of the processor time of a swap without any of them, from its first frame to the
finished file. Each comes with an interval that holds it 19 times in 20, drawn again from the runs.
`whole_swap` is the plain comparison of neighbouring swaps, with its wide interval.

Run: python -m benchmarks.pipelines.provenance [--preset veryfast] [CLIP ...]     six minutes a
clip; rows of films and presets that were not measured again stay as they were
"""

from __future__ import annotations

import os

os.environ.setdefault("OMP_WAIT_POLICY", "passive")  # as the command does, see accel/cli

import argparse
import io
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from itertools import islice
from pathlib import Path
from typing import Any
from unittest.mock import patch

import av
import numpy as np

from accel.faces.scene import thumbnail
from accel.kernels import Planes
from accel.pipelines import swap
from accel.pipelines.gate import ContentGate
from accel.pipelines.provenance import Marker, Marking, ProvenanceConfig
from accel.pipelines.swap import EncodeConfig, swap_video
from accel.provenance.label import Label
from accel.provenance.ledger import look
from accel.provenance.watermark import Mark
from accel.video.read import open_video
from benchmarks.harness import conditions, interleaved, kept, save
from tests.provenance.film import planes_of

OFF = ProvenanceConfig(watermark="off", label="off", credentials=False, ledger=False)
LINES, SECONDS = (360, 720, 1080), 10
ENCODED, PASSES = 240, 3  # frames at most, and how often each is encoded
DRAWS = 2000
STEPS = {  # of a swap, where each is called from
    "open": (Marker, "__init__"),
    "copies for the search": (swap, "luma_of"),
    "earlier mark": (swap, "earlier_mark"),
    "frames": (Marking, "mark_frame"),
    "seal": (Marking, "seal"),
    "gate: open": (ContentGate, "__init__"),
    "gate: looks": (ContentGate, "check"),
}


class Open:
    def check(self, frames) -> None: ...


def one_swap(clip: Path, preset: str, way: str) -> dict[str, Any]:
    """Swap once; CPU seconds from the first frame on, when networks are open, and of each step."""
    from accel.pipelines.demo import PORTRAIT
    from accel.weights.assets import asset

    begun: list[float] = []

    def progress(event) -> None:
        begun.append(time.process_time())

    with tempfile.TemporaryDirectory() as folder, own_steps() as spent:
        out = Path(folder) / "out.mp4"
        report = swap_video(
            clip, out, sources=[asset(PORTRAIT)], progress=progress,
            provenance=OFF if way == "plain" else ProvenanceConfig(),
            gate=Open() if way == "plain" else None,
            encode=EncodeConfig(codec="libx264", preset=preset),
        )  # fmt: skip
        cpu_s = time.process_time() - begun[0]
        size = out.stat().st_size
    return {"cpu_s": cpu_s, "bytes": size, "frames": report["frames"], "steps": spent}


@contextmanager
def own_steps() -> Iterator[dict[str, float]]:
    """CPU seconds that the steps of marking take, by the clock of the thread each runs in."""
    spent = dict.fromkeys(STEPS, 0.0)

    def counted(name: str, step: Callable) -> Callable:
        def call(*args: Any, **kwargs: Any) -> Any:
            start = time.thread_time()
            try:
                return step(*args, **kwargs)
            finally:
                spent[name] += time.thread_time() - start

        return call

    with ExitStack() as patches:
        for name, (home, step) in STEPS.items():
            call = counted(name, getattr(home, step))
            patches.enter_context(patch.object(home, step, call))
        yield spent


def in_a_process(*args: str) -> dict[str, Any]:
    command = [sys.executable, "-m", "benchmarks.pipelines.provenance", "--one", *args]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    result: dict[str, Any] = json.loads(done.stdout.strip().splitlines()[-1])
    return result


def make_film(clip: Path, lines: int, folder: Path) -> Path:
    """The clip over and over, `SECONDS` long and `lines` high."""
    path = folder / f"{clip.stem}_{lines}.mp4"
    with open_video(clip) as reader:
        rate, info = reader.info.average_rate, reader.info
    width = round(info.width * lines / info.height / 2) * 2
    wanted = round(SECONDS * float(rate))
    with av.open(str(path), "w") as out:
        stream = out.add_stream("libx264", rate=rate, options={"crf": "16", "preset": "veryfast"})
        stream.width, stream.height, stream.pix_fmt = width, lines, "yuv420p"
        frames = 0
        while frames < wanted:
            with av.open(str(clip)) as file:
                for picture in islice(file.decode(video=0), wanted - frames):
                    scaled = picture.reformat(width, lines, "yuv420p", interpolation="AREA")
                    # Left to itself the time base would be the clip's own: a film of 10 ms, in
                    # which the gate looks once and x264 takes another quantiser.
                    scaled.pts, scaled.time_base, scaled.pict_type = frames, 1 / rate, 0
                    frames += 1
                    out.mux(stream.encode(scaled))
        out.mux(stream.encode())
    return path


def encoder(film: Path, preset: str) -> tuple[np.ndarray, dict[str, int]]:
    """Seconds of [pass, plain or marked, frame] in x264 with one thread, and the files' bytes."""
    with open_video(film) as reader:
        frames = [frame.planes.clone() for frame in islice(reader, ENCODED)]
        rate = reader.info.average_rate
    marked, mark, label = [], Mark("c0ffee123456"), Label("face_swap", language="en")
    for planes in frames:
        copy = planes.clone()
        label.draw(copy)
        mark.add(copy)
        marked.append(copy)
    seconds, sizes = np.empty((PASSES, 2, len(frames) + 1)), {}
    for turn in range(PASSES):
        with ExitStack() as files:
            outs = {}
            for way in ("plain", "marked"):
                outs[way] = _x264(files, rate, frames[0], preset)
            for k, pair in enumerate(zip([*frames, None], [*marked, None])):
                for way, planes in list(enumerate(pair))[:: 1 if k % 2 else -1]:
                    file, stream, _ = outs["marked" if way else "plain"]
                    picture = None if planes is None else _picture(planes)
                    start = time.thread_time()
                    packets = stream.encode(picture)
                    seconds[turn, way, k] = time.thread_time() - start
                    file.mux(packets)
        sizes = {way: len(data.getvalue()) for way, (_, _, data) in outs.items()}
    return seconds, sizes


def _x264(files: ExitStack, rate: Any, like: Planes, preset: str) -> tuple[Any, Any, io.BytesIO]:
    data = io.BytesIO()
    file = files.enter_context(av.open(data, "w", format="mp4"))
    stream = file.add_stream("libx264", rate=rate, options={"crf": "18", "preset": preset})
    stream.width, stream.height, stream.pix_fmt = like.width, like.height, "yuv420p"
    stream.codec_context.thread_count = 1
    return file, stream, data


def _picture(planes: Planes) -> av.VideoFrame:
    rows = [plane.numpy().reshape(-1, planes.width) for plane in planes[:3]]
    return av.VideoFrame.from_ndarray(np.concatenate(rows), format="yuv420p")


def measure(film: Path, lines: int, preset: str, rounds: int) -> dict[str, Any]:
    runs: dict[str, list[dict]] = {"plain": [], "all": []}
    for turn in range(rounds):
        for way in list(runs)[:: 1 if turn % 2 else -1]:
            runs[way].append(in_a_process(str(film), way, "--preset", preset))
    seconds, sizes = encoder(film, preset)
    frames = runs["plain"][0]["frames"]
    plain_s, all_s = (np.array([run["cpu_s"] for run in runs[way]]) for way in runs)
    steps = {name: np.array([run["steps"][name] for run in runs["all"]]) for name in STEPS}
    own_s = sum(values for name, values in steps.items() if not name.startswith("gate"))
    gate_s = sum(values for name, values in steps.items() if name.startswith("gate"))

    def shares(some: np.ndarray, passes: np.ndarray) -> list[float]:
        whole_s = np.median(plain_s[some])
        plain, marked = seconds[passes].min(0).sum(1)
        more = (marked - plain) / (seconds.shape[2] - 1) * frames / whole_s
        own, gate = np.median(own_s[some]) / whole_s, np.median(gate_s[some]) / whole_s
        whole_swap = np.median(all_s[some] / plain_s[some]) - 1
        return [own, more, own + more, gate, marked / plain - 1, whole_swap]

    draw = np.random.default_rng(0)
    drawn = [shares(draw.integers(0, rounds, rounds), draw.integers(0, PASSES, PASSES))
             for _ in range(DRAWS)]  # fmt: skip
    low, high = np.quantile(drawn, (0.025, 0.975), axis=0)
    named = ("own", "encoder", "marking", "gate", "encoder_alone", "whole_swap")
    found = shares(np.arange(rounds), np.arange(PASSES))
    return {
        "film": film.name, "lines": lines, "preset": preset, "frames": frames, "rounds": rounds,
        "swap_ms_per_frame": round(float(np.median(plain_s)) / frames * 1e3, 2),
        "shares": {k: round(float(v), 4) for k, v in zip(named, found)},
        "shares_95": {k: [round(float(a), 4), round(float(b), 4)]
                      for k, a, b in zip(named, low, high)},
        "steps_ms": {k: round(float(np.median(v)) * 1e3, 2) for k, v in steps.items()},
        "bytes_growth_crf18": round(sizes["marked"] / sizes["plain"] - 1, 4),
    }  # fmt: skip


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


def main() -> None:
    from accel.pipelines.demo import demo_clip

    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("clips", nargs="*", type=Path)
    parser.add_argument("--rounds", type=int, default=5, help="pairs of swaps of each film")
    parser.add_argument("--lines", type=int, nargs="+", default=LINES, help="heights of the films")
    parser.add_argument("--preset", default="medium", help="of x264; medium is a swap's default")
    parser.add_argument("--steps", action="store_true", help="only the cost of each step")
    parser.add_argument("--one", nargs=2, metavar=("FILM", "WAY"), help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.one:
        print(json.dumps(one_swap(Path(args.one[0]), args.preset, args.one[1])))
        return
    if args.steps:
        rows = [steps(720, 1280), steps(1080, 1920)]
        print(*rows, sep="\n")
        save("provenance_steps", {"unit": "ms", "rows": rows, **conditions(threads=1)})
        return
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        for clip in args.clips or [demo_clip()]:
            for lines in args.lines:
                film = make_film(clip, lines, Path(folder))
                rows.append(measure(film, lines, args.preset, args.rounds))
                for name, share in rows[-1]["shares"].items():
                    low, high = rows[-1]["shares_95"][name]
                    print(f"  {film.name} {name:14} {share:7.2%} ({low:.2%} to {high:.2%})")
                print(f"  {rows[-1]['steps_ms']}", flush=True)
    rows = [*kept("provenance_cost", rows, "film", "preset"), *rows]
    save("provenance_cost", {"rows": rows, **conditions(2), "clock": "CPU"})


if __name__ == "__main__":
    main()
