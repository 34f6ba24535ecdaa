"""A batch of training samples bent and turned, beside what OpenCV needs two passes for."""

from __future__ import annotations

import cv2
import numpy as np
import torch

from accel.kernels.warp import op, straight_grid
from benchmarks.harness import Args, Call, bench_kernel

GRID = 9
SIZES = {"Quick96 x4": (4, 96), "128 px x8": (8, 128), "256 px x4": (4, 256)}


def case(n: int, size: int) -> Args:
    make = torch.Generator().manual_seed(0)
    pictures = torch.randint(0, 256, (n, size, size, 3), dtype=torch.uint8, generator=make)
    grids = straight_grid(size, size, GRID).repeat(n, 1, 1, 1)
    grids[:, :, 1:-1, 1:-1] += torch.randn(n, 2, GRID - 2, GRID - 2, generator=make) * size / 80
    turn = torch.tensor([[0.99, 0.1, -2.0], [-0.1, 0.99, 3.0]])
    return pictures, grids, turn.repeat(n, 1, 1).contiguous(), True


def opencv(
    pictures: torch.Tensor, grids: torch.Tensor, matrices: torch.Tensor, cubic: bool
) -> dict[str, Call]:
    """As training code has it: floats, a map drawn out, remap, then warpAffine."""
    cv2.setNumThreads(1)

    def run() -> object:
        out = []
        for picture, grid, matrix in zip(pictures.numpy(), grids.numpy(), matrices.numpy()):
            size = len(picture)
            half = size // (GRID - 1) // 2
            across, down = (
                cv2.resize(m, (size + 2 * half,) * 2)[half : half + size, half : half + size]
                for m in grid
            )
            values = picture.astype(np.float32) / 255
            bent = cv2.remap(values, across, down, cv2.INTER_CUBIC, borderMode=cv2.BORDER_REPLICATE)
            turned = cv2.warpAffine(
                bent, matrix, (size, size), flags=cv2.INTER_CUBIC | cv2.WARP_INVERSE_MAP,
                borderMode=cv2.BORDER_REPLICATE,
            )  # fmt: skip
            out.append(np.ascontiguousarray(turned.clip(0, 1).transpose(2, 0, 1)))
        return np.stack(out)

    return {"cv2 remap + warpAffine": run}


def main() -> None:
    bench_kernel(op, [(label, case(*size)) for label, size in SIZES.items()], peers=opencv)


if __name__ == "__main__":
    main()
