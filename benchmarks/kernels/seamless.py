"""Poisson cloning of one face beside OpenCV's, on one core and on two."""

from __future__ import annotations

import cv2
import numpy as np
import torch
import torch.nn.functional as F

from accel.kernels.seamless import op
from benchmarks.harness import _print, conditions, interleaved, save

SIDES = (256, 512, 1024)
EDGE = 2  # OpenCV leaves a picture's own border alone, so it gets one


def case(side: int):
    make = torch.Generator().manual_seed(side)
    pictures = F.interpolate(torch.rand(2, 3, 9, 9, generator=make), (side, side), mode="bicubic")
    source, target = pictures.clamp(0, 1).split(1)
    y, x = torch.meshgrid(*[torch.linspace(-1, 1, side)] * 2, indexing="ij")
    return source.contiguous(), target.contiguous(), (x * x + y * y < 1).byte()[None]


def opencv(source, target, inside):
    edges = ((EDGE, EDGE), (EDGE, EDGE), (0, 0))
    below, above = (
        np.pad((p[0].permute(1, 2, 0) * 255).byte().numpy(), edges) for p in (target, source)
    )
    mask = np.pad(inside[0].numpy() * 255, EDGE)
    x, y, width, height = cv2.boundingRect(mask)
    middle = (x + width // 2, y + height // 2)
    # It writes into the mask, so each call gets its own.
    return lambda: cv2.seamlessClone(above, below, mask.copy(), middle, cv2.NORMAL_CLONE)


def main() -> None:
    run = {i.name: i.run for i in op.implementations}
    rows = []
    for threads in (1, 2):
        cv2.setNumThreads(threads)
        for side in SIDES:
            args = case(side)
            calls = {"native": lambda args=args: run["native"](*args)}
            if threads == 1 and side <= 512:
                calls["reference"] = lambda args=args: run["reference"](*args)
            calls["opencv"] = opencv(*args)
            times = interleaved(calls, rounds=9, threads=threads)
            for name, seconds in times.items():
                clock = "CPU" if threads == 1 else "wall"
                rows.append(
                    {
                        "case": f"{side} px, {threads} threads, {clock}",
                        "implementation": name,
                        "peer": name == "opencv",
                        "median_ms": round(seconds * 1e3, 3),
                        "ratio_to_ours": round(seconds / times["native"], 3),
                    }
                )
    _print("seamless", rows)
    save("seamless", {"op": "seamless", "note": "", "rows": rows, **conditions(1)})


if __name__ == "__main__":
    main()
