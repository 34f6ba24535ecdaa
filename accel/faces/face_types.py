"""How much of a head an aligned face shows, and the square that is cut for it.

A similarity is fitted from 33 of the 68 landmarks (brows, nose, eyes, mouth corners) to a mean face
in the unit square; the unit square, enlarged and shifted by the face type, is the crop. Types,
paddings and shifts are DeepFaceLab's, so that its facesets and ours mean the same.
"""

from __future__ import annotations

import cmath
import math
from enum import StrEnum

import numpy as np

from accel.core import ConfigError
from accel.faces.align import AnyArray, Array, similarity, transform
from accel.weights.pickles import FaceTypeCode

# Brows, nose, eyes (points 17..47), mouth corner 48, mouth corner 54.
FITTED = (*range(17, 49), 54)
_FITTED = np.array(FITTED)
# The 51-point template that faceswap and others ship, moved left as DeepFaceLab has it.
_SHIFT_X = 0.009873
_TEMPLATE = (
    (0.010086, 0.106454), (0.085135, 0.038915), (0.191003, 0.018748), (0.300643, 0.034489),
    (0.403270, 0.077391), (0.596729, 0.077391), (0.699356, 0.034489), (0.808997, 0.018748),
    (0.914864, 0.038915), (0.989913, 0.106454), (0.500000, 0.203352), (0.500000, 0.307009),
    (0.500000, 0.409805), (0.500000, 0.515625), (0.376753, 0.587326), (0.435909, 0.609345),
    (0.500000, 0.628106), (0.564090, 0.609345), (0.623246, 0.587326), (0.131610, 0.216423),
    (0.196995, 0.178758), (0.275698, 0.179852), (0.344479, 0.231733), (0.270791, 0.245099),
    (0.192616, 0.244077), (0.655520, 0.231733), (0.724301, 0.179852), (0.803005, 0.178758),
    (0.868389, 0.216423), (0.807383, 0.244077), (0.729208, 0.245099), (0.264022, 0.780233),
    (0.735977, 0.780233),
)  # fmt: skip
MEAN_FACE = np.array(_TEMPLATE) - [_SHIFT_X, 0.0]  # [33, 2] of the unit square


class FaceType(StrEnum):
    """The value is the word in an aligned face's metadata."""

    HALF = "half_face"
    MID_FULL = "midfull_face"
    FULL = "full_face"
    FULL_NO_ALIGN = "full_face_no_align"
    WHOLE = "whole_face"
    HEAD = "head"
    HEAD_NO_ALIGN = "head_no_align"
    MARK_ONLY = "mark_only"

    @property
    def code(self) -> FaceTypeCode:
        """The number that stands for it in a faceset.pak."""
        return CODES[self]

    @property
    def padding(self) -> float:
        """What is added around the unit square, as DeepFaceLab counts it; see `side`."""
        if self not in PADDINGS:
            raise ConfigError(f"face type must be one that is cut out, got {self.value}")
        return PADDINGS[self]

    @property
    def side(self) -> float:
        """The crop's side by the unit square's."""
        return 1 + 2 * 2**0.5 * self.padding

    @property
    def turns(self) -> bool:
        """Whether the crop turns with the head."""
        return self not in (FaceType.FULL_NO_ALIGN, FaceType.HEAD_NO_ALIGN)

    @property
    def default_px(self) -> int:
        """The side of a crop when none is asked for."""
        return 768 if self in (FaceType.HEAD, FaceType.HEAD_NO_ALIGN) else 512


CODES = {
    FaceType.HALF: FaceTypeCode.HALF,
    FaceType.MID_FULL: FaceTypeCode.MID_FULL,
    FaceType.FULL: FaceTypeCode.FULL,
    FaceType.FULL_NO_ALIGN: FaceTypeCode.FULL_NO_ALIGN,
    FaceType.WHOLE: FaceTypeCode.WHOLE_FACE,
    FaceType.HEAD: FaceTypeCode.HEAD,
    FaceType.HEAD_NO_ALIGN: FaceTypeCode.HEAD_NO_ALIGN,
    FaceType.MARK_ONLY: FaceTypeCode.MARK_ONLY,
}
PADDINGS = {
    FaceType.HALF: 0.0,
    FaceType.MID_FULL: 0.0675,
    FaceType.FULL: 0.2109375,
    FaceType.FULL_NO_ALIGN: 0.2109375,
    FaceType.WHOLE: 0.40,
    FaceType.HEAD: 0.70,
    FaceType.HEAD_NO_ALIGN: 0.70,
}
# What users type, besides the words of the metadata.
SHORT = {
    "half": FaceType.HALF,
    "h": FaceType.HALF,
    "midfull": FaceType.MID_FULL,
    "mid-full": FaceType.MID_FULL,
    "mf": FaceType.MID_FULL,
    "full": FaceType.FULL,
    "f": FaceType.FULL,
    "whole": FaceType.WHOLE,
    "whole-face": FaceType.WHOLE,
    "wf": FaceType.WHOLE,
}


def face_type(name: str) -> FaceType:
    """Find a face type by DeepFaceLab's word or a short one.

    Raises ConfigError that lists the words for any other.
    """
    try:
        return SHORT.get(name) or FaceType(name)
    except ValueError:
        known = ", ".join([*SHORT, *(kind.value for kind in FaceType)])
        raise ConfigError(f"face type must be one of {known}, got {name!r:.60}") from None


def unit_matrix(landmarks: AnyArray) -> Array:  # [..., 68, 2] -> [..., 2, 3]
    """The similarity that takes landmarks to the mean face in the unit square."""
    points = np.asarray(landmarks, np.float64)
    if points.ndim < 2 or points.shape[-2:] != (68, 2):
        raise ValueError(f"unit_matrix: landmarks must be [..., 68, 2], got {points.shape}")
    return similarity(points.take(_FITTED, axis=-2), MEAN_FACE)


def crop_corners(
    landmarks: AnyArray,  # [68, 2] points in the frame
    kind: FaceType,
) -> Array:  # [4, 2] top left, top right, bottom right, bottom left, in the frame
    """Where the corners of a face's crop lie. NaN if the landmarks are one point."""
    centre, across = _square(landmarks, kind)
    down = 1j * across
    corners = [centre - across - down, centre + across - down, centre + across + down,
               centre - across + down]  # fmt: skip
    return np.array([[corner.real, corner.imag] for corner in corners])


def _square(landmarks: AnyArray, kind: FaceType) -> tuple[complex, complex]:
    """The middle of a face's crop, and from there to the middle of its right edge: x + iy."""
    unit = unit_matrix(landmarks)
    (a, _, x), (b, _, y) = unit.tolist()
    turn = complex(a, b)
    if not cmath.isfinite(turn) or turn == 0:
        return complex("nan+nanj"), complex("nan+nanj")
    right = 1 / turn  # one edge of the unit square, as it lies in the frame
    down = 1j * right
    centre = (0.5 + 0.5j - complex(x, y)) * right
    if kind is FaceType.WHOLE:
        centre -= 0.07 * down
    elif kind in (FaceType.HEAD, FaceType.HEAD_NO_ALIGN):
        yaw = float(yaw_of(transform(unit, landmarks)))
        centre += right * (yaw * abs(math.tanh(2 * yaw)) / 2) - 0.5 * down
    if not kind.turns:
        right = complex(abs(right))
    return centre, kind.side / 2 * right


def crop_matrix(
    landmarks: AnyArray,  # [68, 2] points in the frame
    kind: FaceType,
    size: int,  # side of the crop in pixels
) -> Array:  # [2, 3] maps frame to crop
    """The matrix that DeepFaceLab calls image_to_face_mat.

    The square's corners go to (0, 0), (size, 0) and (size, size), where a pixel's number is taken
    for its place: its first pixel is centred on the corner. Facesets hold matrices of this kind.
    """
    centre, across = _square(landmarks, kind)
    if not cmath.isfinite(across):
        return np.full((2, 3), np.nan)
    turn = size / (2 * across)
    shift = -turn * (centre - across - 1j * across)
    return np.array([[turn.real, -turn.imag, shift.real], [turn.imag, turn.real, shift.imag]])


def yaw_of(
    unit_landmarks: AnyArray,  # [..., 68, 2] in the unit square
) -> Array:  # [...] above 0: the face looks to the picture's left
    """How much further the nose's bridge is from the right end of the jaw than from the left."""
    x = np.asarray(unit_landmarks, np.float64)[..., 0]
    bridge = x[..., 27:30]
    left = (bridge - x[..., 0:3]).mean(-1)
    right = (x[..., [16, 15, 14]] - bridge).mean(-1)
    return np.asarray(right - left)
