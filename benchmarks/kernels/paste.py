"""paste of one face into a 1080p 4:2:0 frame, beside what OpenCV and numba do with the same maths.

Peers that end in "planes" compute what the operator computes, from the same arguments, in the
planes of the frame: the crop turned into code values, mask and colour averaged over each sample's
footprint, the blend. They get for free what ours finds out itself: where in the frame the mask is.
"BGR region" is the usual way of face swappers, on a picture that is BGR already: bilinear warp
of an 8-bit crop, blend; without area filter or colour correction. The conversions of the frame
that it needs are listed apart.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import cv2
import numpy as np
import torch
from numba import njit

from accel.kernels.paste import op
from accel.kernels.planes import Planes, yuv_layout
from benchmarks.harness import Args, Call, Picture, bench_kernel

LAYOUT = yuv_layout()
SIZE = (1080, 1920)


def case(face_px: int, side: int) -> Args:
    """Arguments of the op: an oval mask with a soft edge, the face turned by 8 degrees."""
    rng = torch.Generator().manual_seed(0)
    shapes = (SIZE, (SIZE[0] // 2, SIZE[1] // 2), (SIZE[0] // 2, SIZE[1] // 2))
    planes = [torch.randint(16, 235, s, generator=rng, dtype=torch.uint8) for s in shapes]
    crops = torch.rand(1, 3, side, side, generator=rng)
    line = (torch.arange(side) - (side - 1) / 2) / side
    radius = ((line / 0.42) ** 2 + (line[:, None] / 0.46) ** 2).sqrt()
    masks = ((1 - radius) / 0.15).clamp(0, 1)[None].contiguous()
    scale = side / face_px
    c, s = scale * math.cos(math.radians(8)), scale * math.sin(math.radians(8))
    x, y = 900.3, 500.6
    middle = (side - 1) / 2
    matrix = torch.tensor([[[c, s, middle - c * x - s * y], [-s, c, middle + s * x - c * y]]])
    return (
        *planes, crops, masks, matrix, torch.ones(1, 3), torch.zeros(1, 3), list(LAYOUT.from_rgb),
        1, 1, LAYOUT.site_x, LAYOUT.site_y, LAYOUT.max_code,
    )  # fmt: skip


class Part:
    """One group's share of the frame, cut to the mask's bounds, and the warp that fills it."""

    def __init__(self, args: Args, step: int, site: tuple[float, float]):
        mask, matrix = args[4][0].numpy(), args[5][0].double().numpy()
        rows, columns = np.nonzero(mask > 0)
        linear = matrix[:, :2]
        corners = [(u, v) for u in (columns.min() - 1, columns.max() + 1)
                   for v in (rows.min() - 1, rows.max() + 1)]  # fmt: skip
        xy = np.linalg.solve(linear, (np.array(corners) - matrix[:, 2]).T)
        low = np.floor((xy.min(1) - site) / step - 0.5).astype(int)
        high = np.ceil((xy.max(1) - site) / step + 0.5).astype(int) + 1
        self.cut = (slice(low[1], high[1]), slice(low[0], high[0]))
        self.size = (int(high[0] - low[0]), int(high[1] - low[1]))
        self.k = max(1, math.ceil(step * np.hypot(*linear[:, 0]) - 1e-3))
        # From a pixel of the k times larger picture to the crop.
        fine = step / self.k
        first = low * step + np.array(site) + step * (0.5 / self.k - 0.5)
        self.warp = np.column_stack([linear * fine, linear @ first + matrix[:, 2]])
        self.base = linear @ (low * step + np.array(site)) + matrix[:, 2]
        self.along = linear * step
        taps = [(i + 0.5) / self.k - 0.5 for i in range(self.k)]
        self.taps = np.array([self.along @ (x, y) for y in taps for x in taps], np.float32)

    def average(self, picture: Picture, border: int) -> Picture:
        """Return the footprint averages: a warp at k times the size, then k by k means."""
        size = (self.size[0] * self.k, self.size[1] * self.k)
        flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
        large = cv2.warpAffine(picture, self.warp, size, flags=flags, borderMode=border)
        return large if self.k == 1 else cv2.resize(large, self.size, interpolation=cv2.INTER_AREA)


def peers(*args: Any) -> dict[str, Call]:
    planes = [plane.clone().numpy() for plane in args[:3]]
    crop, mask = args[3][0].numpy(), args[4][0].numpy()
    affine = np.array(args[8], np.float32).reshape(3, 4)
    site = (args[11], args[12])
    parts = [Part(args, 1, (0, 0)), Part(args, 2, site)]

    def codes() -> Picture:
        rgb = cv2.merge([crop[0], crop[1], crop[2]])
        rgb = np.clip(rgb, 0, 1, out=rgb)
        return cv2.transform(rgb, affine)

    def blend(plane: Picture, part: Part, color: Picture, alpha: Picture) -> None:
        region = plane[part.cut]
        keep = cv2.subtract(1.0, alpha)
        old = region.astype(np.float32)
        region[:] = cv2.convertScaleAbs(cv2.blendLinear(color, old, alpha, keep))

    def cv2_planes() -> None:
        """Colour with the border repeated, the mask with zeros outside, as in the definition."""
        staged = codes()
        for part, channels in zip(parts, ((0,), (1, 2))):
            alpha = part.average(mask, cv2.BORDER_CONSTANT)
            for channel in channels:
                color = part.average(cv2.extractChannel(staged, channel), cv2.BORDER_REPLICATE)
                blend(planes[channel], part, color, alpha)

    def cv2_planes_four() -> None:
        """All four channels in one warp; equal only because this mask is 0 at the border."""
        staged = cv2.merge([*cv2.split(codes()), mask])
        for part, channels in zip(parts, ((0,), (1, 2))):
            means = cv2.split(part.average(staged, cv2.BORDER_REPLICATE))
            for channel in channels:
                blend(planes[channel], part, means[channel], means[3])

    def numba_planes() -> None:
        for part, channels in zip(parts, ((0,), (1, 2))):
            _fused(
                *(planes[channels[i % len(channels)]][part.cut] for i in (0, 1)), crop, mask,
                affine[channels[0]], affine[channels[-1]], len(channels), part.base, part.along,
                part.taps,
            )  # fmt: skip

    face = np.ascontiguousarray((crop[::-1] * 255).astype(np.uint8).transpose(1, 2, 0))
    bgr = np.random.default_rng(0).integers(0, 255, (*SIZE, 3), np.uint8)
    whole = Part(args, 1, (0, 0))
    flat = np.column_stack([whole.along, whole.base])

    def bgr_region() -> None:
        flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
        warped = cv2.warpAffine(face, flat, whole.size, flags=flags)
        alpha = cv2.warpAffine(mask, flat, whole.size, flags=flags)
        region = bgr[whole.cut]
        region[:] = cv2.blendLinear(
            warped, np.ascontiguousarray(region), alpha, cv2.subtract(1.0, alpha)
        )

    i420 = np.concatenate([plane.ravel() for plane in planes]).reshape(SIZE[0] * 3 // 2, SIZE[1])

    def convert() -> None:
        cv2.cvtColor(cv2.cvtColor(i420, cv2.COLOR_YUV2BGR_I420), cv2.COLOR_BGR2YUV_I420)

    _check(args, planes, (cv2_planes, cv2_planes_four, numba_planes))
    return {
        "cv2 planes": cv2_planes,
        "cv2 planes, four channels at once": cv2_planes_four,
        "numba planes, fused, unstaged": numba_planes,
        "cv2 BGR region, no area filter": bgr_region,
        "cv2 frame to BGR and back": convert,
    }


def _check(args: Args, planes: list[Picture], calls: Sequence[Callable[[], None]]) -> None:
    """A peer counts only if it does the same: compare each with the reference."""
    before = [plane.copy() for plane in planes]
    expected = [plane.clone() for plane in args[:3]]
    op.reference(*expected, *args[3:])
    for call in calls:
        for plane, old in zip(planes, before):
            plane[:] = old
        call()
        off = max(
            int(np.abs(p.astype(int) - e.numpy().astype(int)).max())
            for p, e in zip(planes, expected)
        )
        if off > 2:
            raise SystemExit(f"{call.__name__}: {off} codes off the reference")


@njit(fastmath={"contract", "reassoc", "nsz", "arcp"}, nogil=True)
def _fused(
    first: Picture, second: Picture, crop: Picture, mask: Picture, to_first: Picture,
    to_second: Picture, count: int, base: Picture, along: Picture, taps: Picture,
) -> None:  # fmt: skip
    """One pass straight from the crop, nothing staged: four taps of four channels a sample."""
    side = mask.shape[0]
    zero, one, last = np.float32(0), np.float32(1), np.float32(side - 1)
    share = np.float32(1.0 / len(taps))
    for j in range(first.shape[0]):
        for i in range(first.shape[1]):
            u0 = np.float32(base[0] + along[0, 0] * i + along[0, 1] * j)
            v0 = np.float32(base[1] + along[1, 0] * i + along[1, 1] * j)
            red, green, blue, alpha = zero, zero, zero, zero
            for t in range(len(taps)):
                u, v = u0 + taps[t, 0], v0 + taps[t, 1]
                if not (u >= zero and v >= zero and u < last and v < last):
                    continue
                iu, iv = int(u), int(v)
                fu, fv = u - np.float32(iu), v - np.float32(iv)
                w11 = fu * fv
                w01, w10 = fu - w11, fv - w11
                w00 = one - fu - w10
                alpha += (
                    w00 * mask[iv, iu]
                    + w01 * mask[iv, iu + 1]
                    + w10 * mask[iv + 1, iu]
                    + w11 * mask[iv + 1, iu + 1]
                )
                red += _bilinear(crop[0], iu, iv, w00, w01, w10, w11)
                green += _bilinear(crop[1], iu, iv, w00, w01, w10, w11)
                blue += _bilinear(crop[2], iu, iv, w00, w01, w10, w11)
            if alpha == zero:
                continue
            alpha, red, green, blue = alpha * share, red * share, green * share, blue * share
            for k in range(count):
                w = to_first if k == 0 else to_second
                plane = first if k == 0 else second
                new = w[0] * red + w[1] * green + w[2] * blue + w[3]
                old = np.float32(plane[j, i])
                plane[j, i] = np.uint8(old + alpha * (new - old) + np.float32(0.5))


@njit(inline="always")
def _bilinear(
    picture: Picture, x: int, y: int, w00: float, w01: float, w10: float, w11: float
) -> float:
    return (
        w00 * picture[y, x]
        + w01 * picture[y, x + 1]
        + w10 * picture[y + 1, x]
        + w11 * picture[y + 1, x + 1]
    )


def main() -> None:
    cv2.setNumThreads(1)
    cases = [
        (f"{face_px} px from {side}", case(face_px, side))
        for face_px in (200, 400)
        for side in (256, 512)
    ]
    c0, c1, c2 = cases[0][1][:3]
    frame = Planes(c0, c1, c2, LAYOUT)
    bench_kernel(
        op, cases, peers=peers,
        note=f"one face, {frame.width}x{frame.height} yuv420p 8 bit, 8 degrees, oval mask "
        f"(61 % of the crop above 0); OpenCV {cv2.__version__}",
    )  # fmt: skip


if __name__ == "__main__":
    main()
