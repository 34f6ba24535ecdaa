"""Poisson cloning of one face beside OpenCV's, on one core and on two."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import cv2
import numpy as np
import torch
import torch.nn.functional as F

from accel.kernels.seamless import op
from benchmarks.harness import (
    Args,
    Call,
    Picture,
    conditions,
    figure,
    interleaved,
    print_rows,
    save,
)

SIDES = (256, 512, 1024)
MOST_CODES = 4.0
EDGE = 2  # OpenCV leaves a picture's own border alone, so it gets one


def case(side: int) -> Args:
    """A mask that reaches all four edges: both then solve for the same inside of its rectangle."""
    make = torch.Generator().manual_seed(side)
    pictures = F.interpolate(torch.rand(2, 3, 9, 9, generator=make), (side, side), mode="bicubic")
    source, target = pictures.clamp(0, 1).split(1)
    line = (torch.arange(side) - (side - 1) / 2) / (side / 2)
    round_face = (line * line + line[:, None] ** 2 < 1).byte()[None]
    return source.contiguous(), target.contiguous(), round_face


def refuse_other_work(ours: torch.Tensor, theirs: Picture) -> None:
    """Both must have cloned the same: OpenCV cuts a few codes off where it rounds."""
    cut = theirs[EDGE:-EDGE, EDGE:-EDGE].astype(float)
    off = abs(ours[0].permute(1, 2, 0).numpy() * 255 - cut)
    if off.max() > MOST_CODES:
        raise SystemExit(f"seamless: OpenCV's is {off.max():.1f} codes off, mean {off.mean():.2f}")


def opencv(
    source: torch.Tensor, target: torch.Tensor, inside: torch.Tensor
) -> Callable[[], Picture]:
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
            calls: dict[str, Call] = {"native": partial(run["native"], *args)}
            if threads == 1 and side <= 512:
                calls["reference"] = partial(run["reference"], *args)
            calls["opencv"] = opencv(*args)
            refuse_other_work(run["native"](*args), opencv(*args)())
            times = interleaved(calls, rounds=9, threads=threads)
            for name, seconds in times.items():
                label = f"{side} px, {threads} threads, {'CPU' if threads == 1 else 'wall'}"
                peer = name == "opencv"
                rows.append(figure(label, name, seconds, times["native"], peer=peer))
    print_rows("seamless", rows)
    save("seamless", {"op": "seamless", "note": "", "rows": rows, **conditions(1)})


if __name__ == "__main__":
    main()
