"""A face cut out of the planes of a film, beside OpenCV's warps of the three planes."""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np
import torch

from accel.kernels.cut import backward, op
from accel.kernels.planes import yuv_layout
from benchmarks.harness import Args, Call, bench_kernel


def case(size: int, scale: float, step: int, as_float: bool) -> Args:
    rng = np.random.default_rng(0)
    planes = [
        torch.from_numpy(cv2.GaussianBlur(rng.integers(0, 256, s, dtype=np.uint8), (0, 0), 2))
        for s in ((360, 640), (180, 320), (180, 320))
    ]
    c, s = scale * np.cos(0.08), scale * np.sin(0.08)
    luma = np.array([[c, -s, -60], [s, c, -40]])
    chroma = luma * [[2, 2, 1]]
    color = list(yuv_layout(matrix="bt709").to_rgb)
    return (
        *planes, backward("luma", luma, 1), backward("chroma", chroma, step), size, color,
        [16.0, 128.0, 128.0], step, as_float,
    )  # fmt: skip


def opencv(
    c0: torch.Tensor, c1: torch.Tensor, c2: torch.Tensor, luma: list[float], chroma: list[float],
    size: int, color: list[float],
    outside: list[int], step: int, as_float: bool,
) -> dict[str, Call]:  # fmt: skip
    """Every plane warped at full size, then the colours: what there is without a kernel."""
    matrices = [np.array(luma).reshape(2, 3)] + [np.array(_full(chroma, step))] * 2
    matrix = np.array(color).reshape(3, 4) * 255
    flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP

    def run() -> object:
        codes = [
            cv2.warpAffine(p.numpy(), m, (size, size), flags=flags, borderValue=o)
            for p, m, o in zip((c0, c1, c2), matrices, outside)
        ]
        picture = cv2.transform(cv2.merge(codes), matrix)
        return picture.astype(np.float32) / 255 if as_float else picture

    return {"opencv": run}


def _full(back: Sequence[float], step: int) -> list[list[float]]:
    """The matrix of single pixels, from that of squares of `step` pixels."""
    a, b, x, c, d, y = back
    shift = (step - 1) / 2 / step
    return [
        [a / step, b / step, x - (a + b) * shift],
        [c / step, d / step, y - (c + d) * shift],
    ]


def main() -> None:
    cv2.setNumThreads(1)
    cases = [
        ("512 px, for a 4:2:0 JPEG", case(512, 1.25, 2, False)),
        ("512 px, full chroma", case(512, 1.25, 1, False)),
        ("192 px floats for a network", case(192, 0.98, 1, True)),
    ]
    bench_kernel(op, cases, peers=opencv)


if __name__ == "__main__":
    main()
