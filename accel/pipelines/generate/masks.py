"""Inpainting as A1111 does it: the mask's soft edge, what lies under it, what part is worked on.

Sizes are (width, height), boxes (left, top, right, bottom), as Pillow has them.
"""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image

Box = tuple[int, int, int, int]
# Blurs by which the surroundings flow into a masked part, coarse to fine: radius, times laid on.
FLOWS = ((256, 1), (64, 1), (16, 2), (4, 4), (2, 2), (0, 1))


def softened(mask: Image.Image, blur: int) -> Image.Image:  # L
    """Blurred with a deviation of `blur` pixels, cut off at two and a half deviations."""
    if not blur:
        return mask
    side = 2 * int(2.5 * blur + 0.5) + 1
    return Image.fromarray(cv2.GaussianBlur(np.asarray(mask), (side, side), blur))


def flowed(picture: Image.Image, mask: Image.Image) -> Image.Image:
    """The masked part covered with colours that flow in from around it."""
    keep = 1 - np.asarray(mask, np.float32)[..., None] / 255
    colours = np.asarray(picture, np.float32) / 255 * keep
    premultiplied = np.concatenate([colours, keep], axis=-1)  # [H, W, 4]
    out = np.zeros_like(colours)
    covered = np.zeros_like(keep)
    for radius, times in FLOWS:
        layer = premultiplied
        if radius:
            layer = cv2.GaussianBlur(premultiplied, (0, 0), radius, borderType=cv2.BORDER_REPLICATE)
        colour, alpha = layer[..., :3], layer[..., 3:]
        for _ in range(times):  # laid over what is there
            out = colour + out * (1 - alpha)
            covered = alpha + covered * (1 - alpha)
    out = out / np.maximum(covered, 1e-6)
    return Image.fromarray((out * 255).round().clip(0, 255).astype(np.uint8))


def masked_box(mask: Image.Image, padding: int, aspect: tuple[int, int]) -> Box | None:
    """The masked part with `padding` pixels around it, made longer on one side to fit the aspect.

    None where nothing is masked.
    """
    found = mask.getbbox()
    if found is None:
        return None
    left, top = max(found[0] - padding, 0), max(found[1] - padding, 0)
    right, bottom = min(found[2] + padding, mask.width), min(found[3] + padding, mask.height)
    ratio = aspect[0] / aspect[1]
    if (right - left) / (bottom - top) < ratio:
        left, right = widened(left, right, round((bottom - top) * ratio), mask.width)
    else:
        top, bottom = widened(top, bottom, round((right - left) / ratio), mask.height)
    return left, top, right, bottom


def widened(begin: int, end: int, length: int, limit: int) -> tuple[int, int]:
    """Longer around its middle, shifted to stay in 0..limit, cut where it cannot."""
    length = min(max(length, end - begin), limit)
    begin = begin - (length - (end - begin)) // 2
    begin = min(max(begin, 0), limit - length)
    return begin, begin + length


def latent_mask(
    mask: Image.Image,
    size: tuple[int, int],
    *,
    nearest: bool = False,  # as diffusers does: the mask at the upper left of each place
) -> NDArray[np.float32]:  # [h, w] 0 or 1
    """The mask at the latent's size, without half measures: 1 is repainted."""
    if nearest:
        values = np.asarray(mask, np.float32) / 255
        rows = np.arange(size[1]) * mask.height // size[1]
        columns = np.arange(size[0]) * mask.width // size[0]
        return np.asarray(values[rows][:, columns] >= 0.5, np.float32)
    small = np.asarray(mask.resize(size, Image.Resampling.BICUBIC), np.float32) / 255
    return np.asarray(np.around(small), np.float32)


def laid_over(picture: Image.Image, original: Image.Image, mask: Image.Image) -> Image.Image:
    """The original wherever nothing is masked, the picture where all is, a blend at the edge."""
    return Image.composite(picture, original, mask)


def hardened(mask: Image.Image) -> Image.Image:
    """Twice as opaque: a blurred mask lets what was repainted show up to its edge."""
    return Image.fromarray((np.asarray(mask, np.uint16) * 2).clip(0, 255).astype(np.uint8))


def border_mask(size: tuple[int, int], added: Box, overlap: int) -> Image.Image:
    """White where `added` pixels at each side are new, and `overlap` pixels into the old."""
    left, top, right, bottom = (side + overlap if side else 0 for side in added)
    mask = np.full((size[1], size[0]), 255, np.uint8)
    mask[top : size[1] - bottom, left : size[0] - right] = 0
    return Image.fromarray(mask)
