"""mark on luma planes: an invisible pattern added once a frame. It moves memory and little else.

The peer is OpenCV's saturating add of an int16 pattern, the same sum.

Run: python -m benchmarks.kernels.mark
"""

from __future__ import annotations

import cv2
import numpy as np
import torch

from accel.kernels.mark import op
from benchmarks.harness import Args, Call, bench_kernel

SIZES = {"360p": (360, 640), "720p": (720, 1280), "1080p": (1080, 1920), "2160p": (2160, 3840)}


def case(height: int, width: int, changed: bool = False) -> Args:
    draw = torch.Generator().manual_seed(0)
    plane = torch.randint(16, 236, (height, width), generator=draw).to(torch.uint8)
    pattern = torch.randint(-3, 4, (height, width), generator=draw).to(torch.int8)
    return plane, pattern, plane.clone() if changed else None, 8, 0, 0


def peers(
    plane: torch.Tensor,
    pattern: torch.Tensor,
    before: torch.Tensor | None,
    bits: int,
    top: int,
    left: int,
) -> dict[str, Call]:
    cv2.setNumThreads(1)
    if before is not None:
        return {}
    codes, add = plane.numpy().copy(), pattern.numpy().astype(np.int16)
    return {"cv2.add int16": lambda: cv2.add(codes, add, dst=codes, dtype=cv2.CV_8U)}


def main() -> None:
    cases = [(label, case(*size)) for label, size in SIZES.items()]
    cases.append(("1080p, changed samples", case(1080, 1920, changed=True)))
    bench_kernel(
        op, cases, peers=peers, rounds=7, bytes_moved=lambda plane, *rest: 3 * plane.numel()
    )


if __name__ == "__main__":
    main()
