"""A plane averaged and blurred before a crop is sampled from it, beside OpenCV's two steps."""

from __future__ import annotations

import math

import cv2
import numpy as np
import torch

from accel.kernels.shrink import op
from benchmarks.harness import Args, Call, bench_kernel

AREA = cv2.INTER_AREA


def case(height: int, width: int, side: int, variance: float = 0.0) -> Args:
    rng = np.random.default_rng(0)
    frame = torch.from_numpy(rng.integers(0, 256, (1080, 1920), dtype=np.uint8))
    return frame[:height, :width], side, round(128 * variance), 1 / side**2


def opencv(plane: torch.Tensor, side: int, beside: float, share: float) -> dict[str, Call]:
    """As many taps in the blur; OpenCV takes them from a deviation."""
    array, sigma = plane.numpy(), math.sqrt(beside / 128)
    size = array.shape[1] // side, array.shape[0] // side

    def run() -> object:
        small = array if side == 1 else cv2.resize(array, size, interpolation=AREA)
        return cv2.GaussianBlur(small, (3, 3), sigma) if beside else small

    return {"opencv": run}


def main() -> None:
    cv2.setNumThreads(1)
    cases = [
        ("1080p: a face's crop, blurred", case(1000, 1200, 1, 0.4)),
        ("1080p: the same, in halves", case(1000, 1200, 2, 0.4)),
        ("1080p: for the mesh network", case(1000, 1200, 6)),
        ("1080p: a patch to compare", case(800, 1000, 17)),
        ("360p: for the mesh network", case(300, 300, 2)),
    ]
    bench_kernel(op, cases, peers=opencv)


if __name__ == "__main__":
    main()
