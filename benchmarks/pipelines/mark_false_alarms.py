"""How often a mark is seen where none is: a thousand unmarked pictures, sixty other keys.

Pictures are frames of the clips given (JPEG at random qualities, random crops and sizes), crops of
the embedded portrait, coloured noise, gratings and flat fields. Each gets the whole search: crops,
enlargements, turns, mirrorings, squeezes. Other keys look at three seconds of each film, as it is
and marked, with the same whole search.

Run: python -m benchmarks.pipelines.mark_false_alarms CLIP ...     takes ten minutes; with
--pictures 0 what was measured of pictures stays as it was
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator
from itertools import islice
from multiprocessing import get_context
from multiprocessing.pool import Pool
from pathlib import Path

import cv2
import numpy as np
import torch

from accel.kernels import Planes
from accel.provenance.detector import PRESENT, Detector, Found, detect
from accel.provenance.tile import KEY
from accel.provenance.watermark import Mark
from accel.video.read import open_video
from benchmarks.harness import RESULTS, conditions, save
from tests.provenance.film import encode, film, jpeg, lumas
from tests.provenance.test_watermark import unmarked

IDENT = "c0ffee123456"
FRAMES = 75  # three seconds


def frames_of(clips: list[Path]) -> list[np.ndarray]:
    found = []
    for clip in clips:
        with open_video(clip) as reader:
            step = max(1, (reader.info.frames or 200) // 25)
            found += [f.planes.c0.numpy().copy() for f in reader if f.index % step == 0]
    return found


def pictures(clips: list[Path], count: int) -> Iterator[tuple[str, np.ndarray]]:
    """Half of them pieces of real frames, half synthetic."""
    draw, frames = np.random.default_rng(2), frames_of(clips)
    synthetic = unmarked(count)
    for index in range(count):
        if index % 2 or not frames:
            yield "synthetic", next(synthetic)
            continue
        frame = frames[int(draw.integers(len(frames)))]
        share = draw.uniform(0.5, 1)
        height, width = (max(64, int(n * share)) for n in frame.shape)
        top, left = (int(draw.integers(0, a - b + 1)) for a, b in zip(frame.shape, (height, width)))
        part = frame[top : top + height, left : left + width]
        scale = min(1.0, draw.uniform(256, 512) / min(part.shape))
        small = cv2.resize(part, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA)
        yield "real frames", jpeg(small, int(draw.integers(50, 96)))


def one_thread() -> None:
    cv2.setNumThreads(1)
    torch.set_num_threads(1)


def look(job: tuple[str, np.ndarray]) -> tuple[str, float, bool]:
    kind, picture = job
    found = detect([picture])
    return kind, found.score, found.ident is not None


def of_unmarked(clips: list[Path], count: int, pool: Pool) -> dict:
    scores: dict[str, list[float]] = {}
    idents = 0
    for done, (kind, score, is_read) in enumerate(pool.imap(look, pictures(clips, count), 4), 1):
        scores.setdefault(kind, []).append(score)
        idents += is_read
        if done % 100 == 0:
            print(
                f"  {done}: highest {max(map(max, scores.values())):.2f}, ids {idents}", flush=True
            )
    return {
        "pictures": {kind: len(some) for kind, some in scores.items()},
        "highest_score": {kind: round(max(some), 2) for kind, some in scores.items()},
        "median_score": {kind: round(float(np.median(some)), 2) for kind, some in scores.items()},
        "reported_present": sum(score >= PRESENT for some in scores.values() for score in some),
        "ids_read": idents,
    }


def watched(film: list[Planes]) -> Detector:
    detector = Detector()
    for luma, weight in lumas(encode(film))[::3]:
        detector.add(luma, weight)
    return detector


def look_with(job: tuple[bytes, Detector]) -> Found:
    key, seen = job
    detector = Detector(key=key)
    detector.join(seen)
    return detector.find()


def films(clips: list[Path]) -> Iterator[tuple[str, list[Planes]]]:
    yield "portrait 360p", film(FRAMES)
    for clip in clips:
        with open_video(clip) as reader:
            yield clip.stem, [frame.planes.clone() for frame in islice(reader, FRAMES)]


def of_other_keys(clips: list[Path], count: int, pool: Pool) -> dict:
    keys = [KEY, *(b"other key %d" % k for k in range(count))]
    rows = []
    for label, frames in films(clips):
        plain = watched(frames)
        mark = Mark(IDENT)
        for planes in frames:
            mark.add(planes)
        for kind, seen in (("unmarked", plain), ("marked", watched(frames))):
            right, *others = pool.map(look_with, [(key, seen) for key in keys], 4)
            row = {
                "film": label,
                "kind": kind,
                "highest_score": round(max(one.score for one in others), 2),
                "reported_present": sum(one.present for one in others),
                "ids_read": sum(one.ident is not None for one in others),
                "score_of_the_right_key": round(right.score, 2),
                "right_key_reads": right.ident,
            }
            print(f"  {row}", flush=True)
            rows.append(row)
    return {"keys": count, "films": rows}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("clips", nargs="*", type=Path)
    parser.add_argument("--pictures", type=int, default=1000)
    parser.add_argument("--keys", type=int, default=60)
    parser.add_argument("--jobs", type=int, default=2, help="processes")
    args = parser.parse_args()
    with get_context("spawn").Pool(args.jobs, one_thread) as pool:
        result = {
            "unmarked": of_unmarked(args.clips, args.pictures, pool)
            if args.pictures
            else json.loads((RESULTS / "mark_false_alarms.json").read_text())["unmarked"],
            "keys": of_other_keys(args.clips, args.keys, pool),
        }
    print(result)
    save("mark_false_alarms", {"threshold": PRESENT, **result, **conditions(threads=1)})


if __name__ == "__main__":
    main()
