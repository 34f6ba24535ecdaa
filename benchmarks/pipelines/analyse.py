"""What looking for faces costs, by network, and how steady the landmarks are.

    python benchmarks/pipelines/analyse.py CLIP [--height 1080] [--frames 120] [--batch 1]

CPU time of one thread; the frames are decoded before, so only the analysis is in it. Writes
benchmarks/results/analyse.json with one row for each clip and height that was ever measured.
"""

from __future__ import annotations

import argparse
import json
import time
from itertools import islice
from pathlib import Path
from typing import Any

import av
import cv2
import numpy as np
import torch

from accel.faces.face import Face
from accel.faces.find import FaceModels
from accel.faces.track import Analyser
from accel.kernels.planes import Planes, yuv_layout
from accel.pipelines.demo import demo_clip
from benchmarks.harness import RESULTS, Picture, Written, conditions, save


def read(path: Path, height: int | None, count: int) -> list[tuple[int, Planes]]:
    frames = []
    with av.open(str(path)) as container:
        for index, frame in enumerate(islice(container.decode(video=0), count)):
            if height and height != frame.height:
                width = round(frame.width * height / frame.height / 2) * 2
                frame = frame.reformat(width, height, "yuv420p", interpolation="BICUBIC")
            rows = frame.reformat(format="yuv420p").to_ndarray()
            luma, rest = rows[: frame.height], rows[frame.height :].reshape(2, -1)
            shape = frame.height // 2, frame.width // 2
            planes = [luma, rest[0].reshape(shape), rest[1].reshape(shape)]
            tensors = [torch.from_numpy(np.ascontiguousarray(p)) for p in planes]
            c0, c1, c2 = tensors
            frames.append((index, Planes(c0, c1, c2, yuv_layout(matrix="bt601"))))
    return frames


def measure(frames: list[tuple[int, Planes]], rounds: int, **settings: Any) -> Written:
    models = FaceModels(clock=time.process_time)
    list(Analyser(models=models, **settings).analyse(frames[:2]))  # warm
    totals, seen = [], []
    models.seconds.clear()
    before = models.stats()
    for _ in range(rounds):
        start = time.process_time()
        seen = list(Analyser(models=models, **settings).analyse(frames))
        totals.append((time.process_time() - start) / len(frames) * 1e3)
    after, frame_count = models.stats(), rounds * len(frames)
    runs = {k: (after[k] - before[k]) / frame_count for k in after if k != "seconds"}
    return {
        "frames": len(frames),
        "frames_with_face": sum(bool(faces) for _, _, faces in seen),
        "tracks": len({f.track for _, _, faces in seen for f in faces}),
        "ms_per_frame": round(float(np.median(totals)), 2),
        "ms_by_stage": {k: round(v / frame_count * 1e3, 2) for k, v in models.seconds.items()},
        "runs_per_frame": {k: round(v, 3) for k, v in runs.items()},
        **jitter(seen),
    }


def jitter(seen: list[tuple[int, Planes, list[Face]]]) -> Written:
    """Median absolute second difference of landmarks, pixels: all frames, and the stillest 30 %."""
    paths: dict[int, dict[int, list[Picture]]] = {}
    for index, _, faces in seen:
        for face in faces:
            paths.setdefault(face.track, {})[index] = [face.raw[:, :2], face.landmarks[:, :2]]
    if not paths:
        return {}
    path = max(paths.values(), key=len)
    triples = [[path[i], path[i + 1], path[i + 2]] for i in path if i + 1 in path and i + 2 in path]
    if not triples:
        return {}
    points = np.array(triples)  # [T, 3 frames, 2 raw and smoothed, 468, 2]
    second = np.abs(points[:, 0] - 2 * points[:, 1] + points[:, 2])
    speed = np.abs(points[:, 2, 0] - points[:, 0, 0]).mean(axis=(1, 2))
    still = speed <= np.quantile(speed, 0.3)
    return {
        f"jitter_{name}_px": {
            "raw": round(float(np.median(rows[:, 0])), 3),
            "smoothed": round(float(np.median(rows[:, 1])), 3),
        }
        for name, rows in (("all", second), ("still", second[still]))
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("clip", type=Path, nargs="?", help="default: the demo's clip")
    parser.add_argument("--height", type=int)
    parser.add_argument("--frames", type=int, default=120)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--batch", type=int, default=0)
    args = parser.parse_args()
    torch.set_num_threads(1)
    cv2.setNumThreads(1)
    args.clip = args.clip or demo_clip()
    frames = read(args.clip, args.height, args.frames)
    size = f"{frames[0][1].width}x{frames[0][1].height}"
    row = {"clip": args.clip.name, "size": size, "batch": args.batch}
    row |= measure(frames, args.rounds, batch=args.batch)
    print(json.dumps(row, indent=1))
    path = RESULTS / "analyse.json"
    rows = json.loads(path.read_text())["rows"] if path.exists() else []
    key = ("clip", "size", "batch")
    rows = [r for r in rows if any(r[k] != row[k] for k in key)] + [row]
    save("analyse", {"pipeline": "analyse", "rows": rows, **conditions(1)})


if __name__ == "__main__":
    main()
