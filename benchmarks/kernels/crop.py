"""crop on 1080p yuv420p: a face for a network, and the whole frame for the detector.

The peers turn the whole frame into RGB with swscale (PyAV's default, whose chroma is not
interpolated), then warp. Two forms of it: 8-bit pixels warped and only the crop made float, which
is their best, and the whole frame made float first, as most face programs do. The detector's
picture they may also take from swscale's own scaler, which is their best there.

Run: python -m benchmarks.kernels.crop
"""

from __future__ import annotations

import math

import av
import cv2
import numpy as np
import torch

from accel.kernels.crop import op
from accel.kernels.planes import Planes, yuv_layout
from benchmarks.harness import Args, Call, Picture, bench_kernel

WIDTH, HEIGHT = 1920, 1080
FACES = [(200, 192), (200, 256), (200, 512), (400, 192), (400, 256), (400, 512)]
DETECTORS = [128, 192, 256]


def frame() -> Planes:
    """Waves and noise; what the samples are changes no implementation's work."""
    draw = np.random.default_rng(0)
    planes: list[torch.Tensor] = []
    for shape in ((HEIGHT, WIDTH), (HEIGHT // 2, WIDTH // 2), (HEIGHT // 2, WIDTH // 2)):
        y, x = np.mgrid[: shape[0], : shape[1]]
        wave = 128 + 60 * np.sin(x / 37) * np.cos(y / 23) + draw.normal(0, 8, shape)
        planes.append(torch.from_numpy(wave.clip(16, 235).astype(np.uint8)))
    c0, c1, c2 = planes
    return Planes(c0, c1, c2, yuv_layout())


def face(face_px: int, size: int, degrees: float = 7.0) -> torch.Tensor:
    scale = size / face_px
    c, s = math.cos(math.radians(degrees)) * scale, math.sin(math.radians(degrees)) * scale
    x, y = WIDTH / 2, HEIGHT / 2
    half = (size - 1) / 2
    return torch.tensor([[[c, -s, half - c * x + s * y], [s, c, half - s * x - c * y]]])


def whole(size: int) -> torch.Tensor:
    scale = size / WIDTH
    down = (size - scale * HEIGHT) / 2
    edge = (scale - 1) / 2  # pixel centres at integers: borders meet borders
    return torch.tensor([[[scale, 0, edge], [0, scale, edge + down]]])


def case(planes: Planes, matrices: torch.Tensor, size: int) -> Args:
    of = planes.layout
    return (
        planes.c0, planes.c1, planes.c2, matrices, size, size, list(of.to_rgb), [2.0] * 3,
        [-1.0] * 3, of.shift_x, of.shift_y, of.site_x, of.site_y, torch.float32, False, True,
    )  # fmt: skip


def picture(*planes: torch.Tensor) -> av.VideoFrame:
    out = av.VideoFrame(WIDTH, HEIGHT, "yuv420p")
    for to, codes in zip(out.planes, planes):
        rows = np.frombuffer(to, np.uint8).reshape(to.height, to.line_size)
        rows[:, : to.width] = codes.numpy()
    return out


def peers(
    c0: torch.Tensor,
    c1: torch.Tensor,
    c2: torch.Tensor,
    matrices: torch.Tensor,
    size: int,
    *rest: object,
) -> dict[str, Call]:
    cv2.setNumThreads(1)
    source, matrix = picture(c0, c1, c2), matrices[0].double().numpy()
    convert = av.video.reformatter.VideoReformatter().reformat
    shrink = av.video.reformatter.VideoReformatter().reformat
    calm = {"threads": 1}  # the clock counts every thread, so a second one gains nothing

    def rgb() -> Picture:
        return convert(source, format="rgb24", **calm).to_ndarray()

    def warp_then_scale() -> Picture:
        warped = cv2.warpAffine(rgb(), matrix, (size, size))
        return np.ascontiguousarray((warped.astype(np.float32) * (2 / 255) - 1).transpose(2, 0, 1))

    def warp_then_blob() -> Picture:
        warped = cv2.warpAffine(rgb(), matrix, (size, size))
        return cv2.dnn.blobFromImage(warped, 2 / 255, mean=(127.5,) * 3)

    def scale_then_warp() -> Picture:
        full = rgb().astype(np.float32) * np.float32(2 / 255) - 1
        return np.ascontiguousarray(cv2.warpAffine(full, matrix, (size, size)).transpose(2, 0, 1))

    calls: dict[str, Call] = {
        "swscale, warp u8, float": warp_then_scale,
        "swscale, warp u8, blob": warp_then_blob,
        "swscale, float, warp": scale_then_warp,
    }
    if matrix[0, 1] == 0:

        def shrunk() -> Picture:
            high = size * HEIGHT // WIDTH
            small = shrink(
                source, format="rgb24", width=size, height=high, interpolation="AREA", **calm
            ).to_ndarray()
            top = (size - high) // 2
            boxed = cv2.copyMakeBorder(small, top, size - high - top, 0, 0, cv2.BORDER_CONSTANT)
            return cv2.dnn.blobFromImage(boxed, 2 / 255, mean=(127.5,) * 3)

        calls["swscale area, blob"] = shrunk
    return calls


def main() -> None:
    planes = frame()
    cases = [(f"{px} px face to {side}", case(planes, face(px, side), side)) for px, side in FACES]
    cases += [(f"frame to {side}", case(planes, whole(side), side)) for side in DETECTORS]
    for _, args in cases:  # the two ways must show the same picture before they are timed
        ours = op.run(*args)[0].numpy()
        theirs = next(iter(peers(*args).values()))()
        assert np.median(np.abs(ours - theirs)) < 0.1, "peer and kernel show different pictures"
    bench_kernel(op, cases, peers=peers, rounds=9, note="1080p yuv420p to NCHW float32; " + NOTE)


NOTE = (
    "peers shrink without a filter except 'swscale area'; 'float' peers convert the crop, or the"
    " whole frame, as their name says"
)

if __name__ == "__main__":
    main()
