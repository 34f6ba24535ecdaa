"""planes_to_rgb and rgb_to_planes on 1080p, beside swscale.

swscale's fast path repeats chroma instead of interpolating it; ours interpolates at the siting.

Run: python -m benchmarks.kernels.planes_rgb
"""

from __future__ import annotations

import av
import torch

from accel.kernels.planes_rgb import to_planes_op, to_rgb_op
from benchmarks.harness import bench_kernel
from benchmarks.kernels.crop import HEIGHT, WIDTH, frame, picture


def main() -> None:
    planes = frame()
    of = planes.layout
    layout = (of.shift_x, of.shift_y, of.site_x, of.site_y)
    to_rgb = (planes.c0, planes.c1, planes.c2, list(of.to_rgb), *layout, torch.uint8)
    rgb = to_rgb_op.run(*to_rgb)
    convert = av.video.reformatter.VideoReformatter().reformat
    yuv = picture(*planes[:3])
    packed = av.VideoFrame.from_ndarray(rgb.numpy(), format="rgb24")
    bench_kernel(
        to_rgb_op,
        [("1080p 4:2:0 to u8", to_rgb)],
        peers=lambda *args: {"swscale": lambda: convert(yuv, format="rgb24", threads=1)},
        bytes_moved=lambda *args: HEIGHT * WIDTH * 9 // 2,
        rounds=9,
        note="swscale repeats chroma, ours interpolates it",
    )
    bench_kernel(
        to_planes_op,
        [("1080p u8 to 4:2:0", (rgb, list(of.from_rgb), *layout, 8))],
        peers=lambda *args: {"swscale": lambda: convert(packed, format="yuv420p", threads=1)},
        bytes_moved=lambda *args: HEIGHT * WIDTH * 9 // 2,
        rounds=9,
    )


if __name__ == "__main__":
    main()
