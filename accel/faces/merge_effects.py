"""What a merge does to a pasted face and to its frame so that they look filmed by one camera.

Pictures are [H, W, 3] float32 RGB 0..1. Kernels, strengths and repetitions are DeepFaceLab's.
"""

from __future__ import annotations

from typing import Any

import cv2
import numpy as np
import numpy.typing as npt
from PIL import Image

Pixels = npt.NDArray[np.float32]
MEDIAN_PX = 5
LONGEST_BLUR = 50
PALETTE_PIXELS = 1 << 17  # more make a palette no better


def motion_blur(picture: Pixels, power: float, degrees: float) -> Pixels:
    """Blur along a line of `power` pixels; nothing happens below one."""
    length = int(power)
    if length < 1:
        return picture
    kernel = line_kernel(min(max(length + 1, 2), LONGEST_BLUR), degrees)
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


def denoise(picture: Pixels, power: int) -> Pixels:
    """A median filter a tenth of `power` times; the passes below 100 in part."""
    return _median_passes(picture, power, 100)


def _median_passes(picture: Pixels, power: int, whole: int) -> Pixels:
    """From `whole` on a pass counts fully, below it as the share of `whole` that is left."""
    while power > 0:
        smooth: Any = cv2.medianBlur(picture, MEDIAN_PX)
        if power < whole:
            smooth = cv2.addWeighted(picture, 1 - power / whole, smooth, power / whole, 0)
        picture = smooth
        power -= 10
    return picture


def bicubic_degrade(picture: Pixels, power: int) -> Pixels:
    """Make smaller and large again; 100 leaves a hundredth of the side."""
    height, width = picture.shape[:2]
    scale = 1 - power / 101
    small = max(int(width * scale), 1), max(int(height * scale), 1)
    less = cv2.resize(picture, small, interpolation=cv2.INTER_CUBIC)
    result: Pixels = cv2.resize(less, (width, height), interpolation=cv2.INTER_CUBIC)
    return result


def degrade_colors(picture: Pixels, power: int) -> Pixels:
    """Mix with the same picture in 256 colours, found by median cut among evenly spread pixels."""
    codes = (picture.clip(0, 1) * 255).astype(np.uint8)
    step = max(1, int((codes.shape[0] * codes.shape[1] / PALETTE_PIXELS) ** 0.5))
    sample = Image.fromarray(np.ascontiguousarray(codes[::step, ::step]))
    palette = sample.convert("P", palette=Image.Palette.ADAPTIVE, colors=256)
    few = Image.fromarray(codes).quantize(palette=palette, dither=Image.Dither.NONE)
    reduced = np.asarray(few.convert("RGB"), np.float32) / 255
    share = power / 100
    return np.asarray(picture * (1 - share) + reduced * share, np.float32)
