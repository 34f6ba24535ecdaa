"""Colour transfers of one face crop: beside the published formulas in NumPy and OpenCV."""

from __future__ import annotations

from functools import partial

import cv2
import numpy as np
import torch
import torch.nn.functional as F

from accel.kernels.color_transfer import SOT_STEPS, color_transfer
from benchmarks.harness import Call, Picture, conditions, figure, interleaved, print_rows, save

SIDE = 256
MODES = ("rct", "lct", "mkl-m", "idt-m", "sot", "sot-m", "mix-m", "hist-match")
DIRECTIONS = {"sot": 5, "sot-m": 30}


def crops() -> tuple[torch.Tensor, ...]:
    make = torch.Generator().manual_seed(0)
    small = F.interpolate(torch.rand(2, 3, 6, 6, generator=make), (SIDE, SIDE), mode="bicubic")
    noise = 0.03 * torch.randn(2, 3, SIDE, SIDE, generator=make)
    return (small + noise).clamp(0, 1).split(1)


def numpy_sot(source: Picture, target: Picture, directions: int) -> Picture:
    """What is published: full sorts of both projections, then the filter of the difference."""
    make = np.random.default_rng(0)
    moved = source.copy()
    for _ in range(SOT_STEPS):
        added = np.zeros_like(moved).reshape(-1, 3)
        for _ in range(directions):
            way = make.standard_normal(3).astype(np.float32)
            way /= np.linalg.norm(way)
            along, wanted = (moved * way).sum(-1).ravel(), (target * way).sum(-1).ravel()
            order, order_wanted = np.argsort(along), np.argsort(wanted)
            apart = wanted[order_wanted] - along[order]
            for channel in range(3):
                added[order, channel] += apart * way[channel]
        moved += added.reshape(moved.shape) / directions
    filtered: Picture = source + cv2.bilateralFilter(moved - source, 0, 5.0, 16.0)
    return filtered


def main() -> None:
    cv2.setNumThreads(1)
    crop, target = crops()
    mask = torch.ones(1, SIDE, SIDE)  # the whole crop, as the published formula has it
    a, b = (np.ascontiguousarray(p[0].permute(1, 2, 0).numpy()) for p in (crop, target))
    rows = []
    for mode in MODES:
        calls: dict[str, Call] = {"ours": partial(color_transfer, crop, target, mask, mode)}
        if mode in DIRECTIONS:
            calls["numpy + opencv"] = partial(numpy_sot, a, b, DIRECTIONS[mode])
        times = interleaved(calls, rounds=2)
        for name, seconds in times.items():
            case = f"{mode} {SIDE} px"
            rows.append(figure(case, name, seconds, times["ours"], peer=name != "ours"))
    print_rows("color_transfer", rows)
    save("color_transfer", {"op": "color_transfer", "note": "", "rows": rows, **conditions(1)})


if __name__ == "__main__":
    main()
