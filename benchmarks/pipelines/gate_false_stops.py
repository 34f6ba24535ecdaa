"""How often the content gate stops at films and pictures that show nothing sexual.

Looked at are four frames a second of each film and every picture, whole and as close-ups: their
middle half and quarter, where skin fills the view. What it misses is not measured: that would need
pictures which this project neither keeps nor makes.

Run: python -m benchmarks.pipelines.gate_false_stops CLIP_OR_PICTURE ...     all of them harmless
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from accel.core import Refused
from accel.kernels import Planes
from accel.pipelines.gate import THRESHOLD, ContentGate
from accel.video.read import VideoReader, open_video
from benchmarks.harness import conditions, save

A_SECOND = 4
VIEWS = {"whole": 1, "middle half": 2, "middle quarter": 4}  # of each side


def frames_of(path: Path) -> Iterator[Planes]:
    with open_video(path) as reader:
        rate = float(reader.info.average_rate or 25)
        step = max(1, round(rate / A_SECOND)) if isinstance(reader, VideoReader) else 1
        yield from (frame.planes for frame in reader if frame.index % step == 0)


def middle(planes: Planes, part: int) -> Planes:
    """The middle of a frame, one `part`th of its height and width."""
    height, width = (side // part // 2 * 2 for side in (planes.height, planes.width))
    top, left = (planes.height - height) // 4 * 2, (planes.width - width) // 4 * 2
    down, across = 1 << planes.layout.shift_y, 1 << planes.layout.shift_x
    luma = planes.c0[top : top + height, left : left + width]
    colour = [
        plane[top // down : (top + height) // down, left // across : (left + width) // across]
        for plane in planes[1:3]
    ]
    return Planes(luma, colour[0], colour[1], planes.layout)


def score(gate: ContentGate, planes: Planes) -> tuple[float, bool]:
    """What the first look says, and whether the gate stops after the others."""
    first = gate._score(gate._view(planes, planes.width, planes.height))
    try:
        gate._judge(planes, "a frame")
    except Refused:
        return first, True
    return first, False


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("paths", nargs="+", type=Path)
    args = parser.parse_args()
    gate, rows = ContentGate(), []
    for name, part in VIEWS.items():
        for path in args.paths:
            seen = [score(gate, middle(planes, part)) for planes in frames_of(path)]
            firsts = np.array([first for first, _ in seen])
            rows.append({
                "of": path.name, "view": name, "looks": len(seen),
                "first_look_above": int((firsts >= THRESHOLD).sum()),
                "stops": sum(stops for _, stops in seen), "highest": round(float(firsts.max()), 3),
            })  # fmt: skip
            print(" ", rows[-1], flush=True)
    total = {
        name: {
            key: sum(row[key] for row in rows if row["view"] == name)
            for key in ("looks", "first_look_above", "stops")
        }
        for name in VIEWS
    }
    print(total)
    save("gate_false_stops", {"total": total, "rows": rows, **conditions(1)})


if __name__ == "__main__":
    main()
