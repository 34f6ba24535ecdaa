"""feather and blend_pyramid beside OpenCV's erode + GaussianBlur and pyrDown / pyrUp."""

from __future__ import annotations

import math

import cv2
import numpy as np
import torch

from accel.kernels.blend import blend_op, feather_op
from benchmarks.harness import Call, Picture, bench_kernel

LEVELS = 4


def mask(size: int) -> torch.Tensor:  # [1, size, size] an ellipse about as large as a face
    at = (torch.arange(size) - size / 2) / size
    far = (at[:, None] / 0.42) ** 2 + (at[None, :] / 0.34) ** 2
    return ((1.05 - far) * 10).clamp(0, 1)[None]


def opencv_feather(masks: torch.Tensor, erode_px: float, blur_px: float) -> dict[str, Call]:
    cv2.setNumThreads(1)
    picture = masks[0].numpy()
    reach = int(erode_px)
    y, x = np.mgrid[-reach : reach + 1, -reach : reach + 1]
    disc = (x * x + y * y <= erode_px * erode_px).astype(np.uint8)
    side = (2 * math.ceil(3 * blur_px) + 1,) * 2

    def run() -> Picture:
        eroded = cv2.erode(picture, disc, borderType=cv2.BORDER_CONSTANT, borderValue=0)
        return cv2.GaussianBlur(eroded, side, blur_px, borderType=cv2.BORDER_CONSTANT)

    return {"cv2 erode + GaussianBlur": run}


def opencv_pyramid(
    front: torch.Tensor, back: torch.Tensor, masks: torch.Tensor, levels: int
) -> dict[str, Call]:
    """Pyramids of all three pictures, as the textbooks have it, on [H, W, 3] as OpenCV likes it."""
    cv2.setNumThreads(1)
    three = masks[:, None].expand_as(front)
    pictures = [t[0].permute(1, 2, 0).contiguous().numpy() for t in (front, back, three)]

    def run() -> Picture:
        pyramids: list[list[Picture]] = []
        for picture in pictures:
            pyramids.append([picture])
            for _ in range(levels):
                pyramids[-1].append(cv2.pyrDown(pyramids[-1][-1]))
        fronts, backs, share = pyramids
        out = backs[-1] + share[-1] * (fronts[-1] - backs[-1])
        for i in range(levels - 1, -1, -1):
            size = fronts[i].shape[1::-1]
            f, b = (p[i] - cv2.pyrUp(p[i + 1], dstsize=size) for p in (fronts, backs))
            out = b + share[i] * (f - b) + cv2.pyrUp(out, dstsize=size)
        return out

    return {"cv2 pyrDown + pyrUp": run}


def main() -> None:
    bench_kernel(
        feather_op,
        [(f"{size} px, {radius} px", (mask(size), float(radius), float(radius)))
         for size, radius in ((128, 4), (256, 8), (512, 8), (512, 16))],
        peers=opencv_feather,
        rounds=7,
        note="erode_px = blur_px, as given second",
    )  # fmt: skip
    generator = torch.Generator().manual_seed(0)
    pictures = {s: torch.rand(2, 1, 3, s, s, generator=generator) for s in (128, 256, 512)}
    bench_kernel(
        blend_op,
        [(f"{s} px", (front, back, mask(s), LEVELS)) for s, (front, back) in pictures.items()],
        peers=opencv_pyramid,
        rounds=7,
        note=f"{LEVELS} levels, three channels",
    )


if __name__ == "__main__":
    main()
