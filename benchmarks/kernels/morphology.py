"""Erosion by an ellipse beside OpenCV's, which visits every pixel of the ellipse."""

from __future__ import annotations

import cv2
import torch

from accel.kernels.morphology import op
from benchmarks.harness import Args, Call, bench_kernel

SIZES = (10, 40, 120)


def case(side: int, size: int) -> Args:
    y, x = torch.meshgrid(*[torch.linspace(-1, 1, side)] * 2, indexing="ij")
    return (1.2 - 2 * (x * x + y * y)).clamp(0, 1).contiguous(), size


def opencv(mask: torch.Tensor, size: int) -> dict[str, Call]:
    array, element = mask.numpy(), cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (size, size))
    return {"opencv": lambda: cv2.erode(array, element)}


def main() -> None:
    cv2.setNumThreads(1)
    cases = [(f"mask 576, ellipse {size}", case(576, size)) for size in SIZES]
    bench_kernel(op, cases, peers=opencv, rounds=5)


if __name__ == "__main__":
    main()
