"""Which part of a swapped face is put into its frame.

Masks are float32, 0..1. What the network, the landmarks or an XSeg network say is combined, drawn
in or out by an ellipse, softened, and taken to the frame, at four times the model's resolution.
The steps and their order are DeepFaceLab's.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt
import torch

from accel.core import ConfigError
from accel.faces.align import Array
from accel.faces.merge_settings import MASKS, MergeSettings
from accel.kernels.morphology import erode_ellipse

Pixels = npt.NDArray[np.float32]
FINER = 4  # masks are shaped at this many times the model's resolution
FAINTEST = 1 / 255  # less is nothing
# Points of the 68 whose hulls make up a face: jaw right and left of the chin with a brow's end,
# brows with the chin, brows with nose and chin.
HULLS = (
    (*range(9), 17),
    (*range(8, 17), 26),
    (17, 18, 19, 8),
    (24, 25, 26, 8),
    (*range(19, 25), 8),
    (*range(17, 22), 27, *range(31, 36), 8),
    (*range(22, 27), 27, *range(31, 36), 8),
    (*range(27, 36),),
)


@dataclass
class Prediction:
    """What networks say of one face. Pictures are RGB 0..1, R the model's resolution."""

    face: Pixels  # [R, R, 3] the source's
    mask: Pixels  # [R, R] where the source's face is
    mask_dst: Pixels  # [R, R] where the destination's is
    enhanced: Pixels | None = None  # [4 R, 4 R, 3] the face as super-resolution draws it; or less
    xseg_prd: Pixels | None = None  # [256, 256] what an XSeg network says of the new face
    xseg_dst: Pixels | None = None  # [256, 256] and of the one that is there

    @property
    def px(self) -> int:
        return len(self.face)

    @property
    def large_px(self) -> int:
        """Side of the face that super-resolution draws."""
        return self.px * FINER if self.enhanced is None else len(self.enhanced)


def hull_mask(
    landmarks: Array,  # [68, 2] in the picture
    height: int,
    width: int,
    expand: float = 1.0,  # how far brows are moved up, by half their distance from the eyes
) -> Pixels:  # [height, width]
    """1 inside the landmarks' outline, 0 outside."""
    points = raise_brows(landmarks, expand)
    mask = np.zeros((height, width), np.float32)
    for hull in HULLS:
        corners = cv2.convexHull(np.round(points[list(hull)]).astype(np.int32))
        cv2.fillConvexPoly(mask, corners, 1.0)
    return mask


def raise_brows(landmarks: Array, expand: float) -> Array:  # [68, 2] -> [68, 2]
    points = np.array(landmarks, np.float64)
    ends = [(points[a] + 3 * points[b]) / 4 for a, b in ((0, 36), (16, 45))]
    below = np.concatenate([ends[:1], points[36:40], points[42:46], ends[1:]])
    points[17:27] += expand * 0.5 * (points[17:27] - below)
    return points


def choose_mask(
    settings: MergeSettings,
    prediction: Prediction,
    hull: Pixels,  # [S, S] the landmarks' outline in the crop
    size: int,  # S, of the mask that is wanted
) -> Pixels:  # [S, S]
    """The mask that the settings name. Raises ConfigError if it needs an XSeg network."""
    if settings.needs_xseg and prediction.xseg_prd is None and prediction.xseg_dst is None:
        raise ConfigError(f"mask {settings.mask} needs xseg, an ONNX file of an XSeg network")
    parts = {
        "full": np.ones((size, size), np.float32),
        "dst": hull,
        "learned-prd": prediction.mask,
        "learned-dst": prediction.mask_dst,
        "XSeg-prd": prediction.xseg_prd,
        "XSeg-dst": prediction.xseg_dst,
    }
    if settings.mask == MASKS[5]:
        both = resized(prediction.mask, size) + resized(prediction.mask_dst, size)
        chosen = both.clip(0, 1)
    else:
        chosen = np.ones((size, size), np.float32)
        for name in settings.mask.split("*"):
            part = parts[name]
            assert part is not None  # both XSeg masks are made, or none
            chosen = chosen * resized(part, size)
    chosen[chosen < FAINTEST] = 0
    return chosen


def shape_mask(
    chosen: Pixels,  # [S, S]
    settings: MergeSettings,
    px: int,  # R, the model's resolution
) -> Pixels:  # [4 R, 4 R]
    """Draw a mask in or out and soften its edge, so that it is nothing where the crop ends."""
    mask = resized(chosen, FINER * px)
    mask = np.pad(mask, px)
    if settings.erode:
        mask = _eroded(mask, settings.erode)
    # The blur reaches this far, and nothing may be seen of the crop's border.
    border = px + settings.blur // 2
    mask[:border] = mask[-border:] = mask[:, :border] = mask[:, -border:] = 0
    if settings.blur:
        mask = blurred(mask, settings.blur | 1)
    return np.ascontiguousarray(mask[px:-px, px:-px].clip(0, 1))


def _eroded(mask: Pixels, amount: int) -> Pixels:
    if amount > 0:
        return erode_ellipse(torch.from_numpy(mask), amount).numpy()
    return -erode_ellipse(torch.from_numpy(-mask), -amount).numpy()


def blurred(mask: Pixels, taps: int) -> Pixels:
    """A Gaussian of so many taps, as wide as OpenCV takes it for them.

    A wide one is made of a smaller picture: nothing is left that it could not show. That is within
    0.005 of what the mask would be.
    """
    less = next(times for least, times in ((201, 4), (97, 2), (0, 1)) if taps >= least)
    if less == 1 or len(mask) % less:
        result: Pixels = cv2.GaussianBlur(mask, (taps, taps), 0)
        return result
    sigma = 0.3 * ((taps - 1) * 0.5 - 1) + 0.8
    small = cv2.resize(mask, (len(mask) // less,) * 2, interpolation=cv2.INTER_AREA)
    rest = (sigma**2 - (less**2 - 1) / 12) ** 0.5 / less  # its means blur by that much already
    width = 2 * round(taps // 2 / less) + 1
    small = cv2.GaussianBlur(small, (width, width), rest)
    result = cv2.resize(small, mask.shape, interpolation=cv2.INTER_CUBIC)
    return result


def resized(picture: Any, size: int) -> Pixels:
    """A square picture at another size, cubic, within 0..1."""
    if len(picture) == size:
        return np.array(picture, np.float32)
    cubic: Pixels = cv2.resize(picture, (size, size), interpolation=cv2.INTER_CUBIC)
    return cubic.clip(0, 1)
