"""Sharpness and grain of one picture given to another, so that neither looks pasted.

Both are read from second differences of luma along rows, v = l(x - d) - 2 l(x) + l(x + d). Noise
that is white shows in the median at d = 1, which edges hardly move; the largest few at d = 2 are
edges of eyes, nostrils and lips, which all faces have, and say how sharp the picture is.
"""

from __future__ import annotations

import math
from functools import lru_cache
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor

Array = npt.NDArray[Any]

BANK_PX = 1024
ROWS = 4  # one in so many is looked at
EDGES = 98.0  # percentile
ALLOWED = 1.4  # a source sharper by no more than this is left alone: pasting softens it again
EVERY, FRESH = 3, 8  # look at every third frame, at first at every one
STEP = 0.25  # how fast the blur follows
MAX_BLUR_PX, LEAST_BLUR_PX = 6.0, 0.35
MIN_PIXELS = 200
MOST_GRAIN = 0.06


def texture_level(picture: Tensor, weight: Tensor) -> tuple[float, float] | None:
    """Return (sharpness, noise) of [3, S, S] where weight [S, S] is high, or None: too few pixels.

    Both are in units of RGB 0..1; sharpness is a high percentile of |v| at d = 2.
    """
    luma = picture[1, ::ROWS].float().cpu().numpy()  # green stands for luma; waits on a GPU
    valid = weight[::ROWS].cpu().numpy()[:, 2:-2] > 0.9
    if valid.sum() < MIN_PIXELS:
        return None
    near = luma[:, 1:-3] - 2 * luma[:, 2:-2] + luma[:, 3:-1]
    far = luma[:, :-4] - 2 * luma[:, 2:-2] + luma[:, 4:]
    noise = float(np.median(np.abs(near[valid]))) * 1.4826 / math.sqrt(6)
    return max(float(np.percentile(np.abs(far[valid]), EDGES)), 1e-4), noise


class DetailMatch:
    """Blurs and grains one track's faces, with amounts that settle over its frames."""

    def __init__(self, seed: int) -> None:
        self._seed = seed
        self._frames = 0
        self.blur_px = 0.0
        self.grain = 0.0  # deviation, RGB 0..1

    def __call__(self, front: Tensor, target: Tensor, mask: Tensor) -> Tensor:  # [3, S, S] each
        """Return `front` no sharper and no cleaner than `target` under `mask`."""
        front = soften(front, self.blur_px)
        if self._frames < FRESH or self._frames % EVERY == 0:
            source, wanted = texture_level(front, mask), texture_level(target, mask)
            if source and wanted:
                self._follow(source, wanted)
        self._frames += 1
        if self.grain < 0.5 / 255:
            return front
        return front + self.grain * _grain(front.shape[-1], self._seed + self._frames).to(
            front.device
        )

    def _follow(self, source: tuple[float, float], wanted: tuple[float, float]) -> None:
        # Blurring by sigma takes a share of sigma² from the power, so sigma² is what is steered.
        too_sharp = math.log(source[0] / (ALLOWED * wanted[0]))
        step = STEP if self._frames >= FRESH else 0.6
        square = self.blur_px**2 + step * 2 * float(np.clip(too_sharp, -1, 1))
        self.blur_px = math.sqrt(min(max(square, 0.0), MAX_BLUR_PX**2))
        missing = math.sqrt(max(wanted[1] ** 2 - source[1] ** 2, 0.0))
        self.grain += max(STEP / 2, 1 / (1 + self._frames)) * (
            min(missing, MOST_GRAIN) - self.grain
        )


def soften(picture: Tensor, sigma: float) -> Tensor:  # [3, H, W] -> [3, H, W]
    """Gaussian blur; none below LEAST_BLUR_PX, where it would only cost time."""
    if sigma < LEAST_BLUR_PX:
        return picture
    if picture.device.type == "cpu":
        planes = [cv2.GaussianBlur(plane, (0, 0), sigma) for plane in picture.numpy()]
        return torch.from_numpy(np.stack(planes))
    radius = math.ceil(3 * sigma)
    at = torch.arange(-radius, radius + 1, device=picture.device, dtype=torch.float32)
    taps = torch.exp(-0.5 * (at / sigma) ** 2)
    taps = (taps / taps.sum()).view(1, 1, 1, -1)
    padded = F.pad(picture[:, None], (radius,) * 4, mode="replicate")
    return F.conv2d(F.conv2d(padded, taps), taps.transpose(2, 3))[:, 0]


def shrink(picture: Tensor, times: int) -> Tensor:  # [C, H, W] -> [C, H // times, W // times]
    """Average squares of times x times pixels; rows and columns that are left over are dropped."""
    if times == 1:
        return picture
    if picture.device.type != "cpu":
        return F.avg_pool2d(picture, times)
    height, width = (side // times for side in picture.shape[-2:])
    whole = picture[:, : height * times, : width * times].numpy()
    # Many times faster than torch's pooling, which walks the picture pixel by pixel.
    small = [cv2.resize(p, (width, height), interpolation=cv2.INTER_AREA) for p in whole]
    return torch.from_numpy(np.stack(small))


def enlarge(picture: Tensor, times: int, side: int) -> Tensor:  # [C, h, w] -> [C, side, side]
    """Undo `shrink`: bilinear, with the last pixels repeated to fill `side`."""
    if times == 1:
        return picture
    size = [n * times for n in picture.shape[-2:]]
    if picture.device.type != "cpu":
        large = F.interpolate(picture[None], size, mode="bilinear")[0]
    else:
        planes = [
            cv2.resize(p, size[::-1], interpolation=cv2.INTER_LINEAR) for p in picture.numpy()
        ]
        large = torch.from_numpy(np.stack(planes))
    gap = side - size[0]
    return F.pad(large[None], (0, gap, 0, gap), mode="replicate")[0] if gap else large


def _grain(side: int, seed: int) -> Tensor:  # [side, side] deviation 1, the same for the same seed
    bank = _bank()
    spare = max(BANK_PX - side, 0) + 1
    random = np.random.default_rng(seed)
    x, y = random.integers(spare, size=2)
    return bank[y : y + side, x : x + side]


@lru_cache(maxsize=1)
def _bank() -> Tensor:
    return torch.randn(BANK_PX, BANK_PX, generator=torch.Generator().manual_seed(468))
