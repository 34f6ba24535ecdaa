"""What a merge does to a pasted face and to its frame so that they look filmed by one camera.

Pictures are [H, W, 3] float32 RGB 0..1. Kernels, strengths and repetitions are DeepFaceLab's.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

import cv2
import numpy as np
import numpy.typing as npt
import torch

from accel.kernels.few_colors import few_colors

Pixels = npt.NDArray[np.float32]
AnyPicture = TypeVar("AnyPicture", bound=npt.NDArray[Any])
MEDIAN_PX = 5
LONGEST_BLUR = 50
STRIP_PX = 180  # rows of a film's picture whose three channels fit a core's cache


def motion_blur(picture: Pixels, power: float, degrees: float, *, twice: bool = False) -> Pixels:
    """Blur along a line of `power` pixels, or twice as many; nothing happens below one."""
    length = int(power)
    if length < 1:
        return picture
    taps = min(max(length + 1, 2), LONGEST_BLUR) * (2 if twice else 1)
    kernel = line_kernel(taps, degrees)
    blurred: Pixels = cv2.filter2D(picture, -1, kernel)
    return blurred


def line_kernel(size: int, degrees: float) -> Pixels:  # [size, size], sum 1
    """A line through the middle, turned against the clock."""
    kernel = np.zeros((size, size), np.float32)
    kernel[(size - 1) // 2] = 1
    middle = size / 2 - 0.5
    turn = cv2.getRotationMatrix2D((middle, middle), degrees, 1.0)
    turned: Pixels = cv2.warpAffine(kernel, turn, (size, size))
    return np.asarray(turned / turned.sum(), np.float32)


def sharpen(picture: Pixels, kind: str, amount: int) -> Pixels:
    """Sharpen with a 3 x 3 `box` or `gaussian`; below 0 blur by a median instead."""
    if amount < 0:
        return _median_passes(picture, -amount, 10)
    if amount == 0 or kind == "none":
        return picture
    if kind == "box":
        kernel = np.full((3, 3), -amount / 9, np.float32)
        kernel[1, 1] += 1 + amount
        sharp: Pixels = cv2.filter2D(picture, -1, kernel)
        return sharp
    soft = cv2.GaussianBlur(picture, (3, 3), 0)
    sharp = cv2.addWeighted(picture, 1 + 0.5 * amount, soft, -0.5 * amount, 0)
    return sharp


def denoise(picture: AnyPicture, power: int) -> AnyPicture:
    """A median filter a tenth of `power` times; the passes below 100 in part.

    Takes uint8 and uint16 too: a picture of 8 bits is filtered three times as fast.
    """
    return _median_passes(picture, power, 100)


def median(picture: AnyPicture, passes: int = 1) -> AnyPicture:
    """So many passes of the filter."""
    return _in_strips(lambda part: _repeated(part, passes), picture, passes)


def _repeated(picture: AnyPicture, passes: int) -> AnyPicture:
    smooth: Any = picture
    for _ in range(passes):
        smooth = cv2.medianBlur(smooth, MEDIAN_PX)
    result: AnyPicture = smooth
    return result


def _median_passes(picture: AnyPicture, power: int, whole: int) -> AnyPicture:
    """From `whole` on a pass counts fully, below it as the share of `whole` that is left."""
    passes = -(-max(power, 0) // 10)
    return _in_strips(lambda part: _shared(part, power, whole), picture, passes)


def _in_strips(
    work: Callable[[AnyPicture], AnyPicture], picture: AnyPicture, passes: int
) -> AnyPicture:
    """Filter a large picture in strips on all cores: the passes over one stay in its cache.

    A strip is wider by what the passes reach, so it is as if the whole had been filtered.
    """
    reach, height = MEDIAN_PX // 2 * passes, len(picture)
    if not passes or height < 2 * STRIP_PX or picture[0].size < STRIP_PX or reach > STRIP_PX:
        return work(picture)
    strip = max(STRIP_PX, 2 * reach)  # what is made twice must stay little
    result: Any = np.empty_like(picture)

    def one(top: int) -> None:
        first = max(top - reach, 0)
        wide: Any = picture[first : min(top + strip + reach, height)]
        made = work(wide)
        part = result[top : top + strip]
        part[:] = made[top - first : top - first + len(part)]

    with ThreadPoolExecutor(os.cpu_count()) as pool:
        list(pool.map(one, range(0, height, strip)))
    filtered: AnyPicture = result
    return filtered


def _shared(picture: AnyPicture, power: int, whole: int) -> AnyPicture:
    while power > 0:
        smooth: Any = _repeated(picture, 1)
        if power < whole:
            smooth = cv2.addWeighted(picture, 1 - power / whole, smooth, power / whole, 0)
        picture = smooth
        power -= 10
    return picture


def bicubic_degrade(picture: AnyPicture, power: int) -> AnyPicture:
    """Make smaller and large again; 100 leaves a hundredth of the side."""
    height, width = picture.shape[:2]
    scale = 1 - power / 101
    small = max(int(width * scale), 1), max(int(height * scale), 1)
    less = cv2.resize(picture, small, interpolation=cv2.INTER_CUBIC)
    result: AnyPicture = cv2.resize(less, (width, height), interpolation=cv2.INTER_CUBIC)
    return result


def degrade_colors(codes: npt.NDArray[np.uint8], power: int) -> npt.NDArray[np.uint8]:
    """So many per cent of a picture of 8 bits in 256 colours; see `few_colors`."""
    return few_colors(torch.from_numpy(codes), 256, power).numpy()
