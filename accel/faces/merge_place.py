"""Where a face lies in a frame, what of the frame its merge touches, and how it moves."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from accel.faces.align import Array
from accel.faces.face_types import FaceType, crop_corners

MARGIN = 4  # pixels around the crop's square that a cubic filter and the siting of chroma reach


@dataclass(frozen=True)
class Motion:
    """How far, in pixels of the frame, a face moves from the frame before to the one after."""

    length: float = 0.0
    degrees: float = 0.0  # against the clock, of the picture


STILL = Motion()


@dataclass(frozen=True)
class Place:
    """A face in a frame. landmarks: [68, 2] in the frame; expand: see `hull_mask`."""

    landmarks: Array
    face_type: FaceType
    expand: float = 1.0

    def rectangle(
        self, height: int, width: int, unit: int = 1, scale: float = 1.0
    ) -> tuple[int, int, int, int]:
        """x0, y0, x1, y1 of the part of the frame that a merge reads or writes; ends excluded.

        unit: both ends of the rectangle are multiples of it, or the frame's own end.
        scale: how far the pasted square is zoomed into, see `zoomed`.
        """
        corners = crop_corners(self.landmarks, self.face_type)
        middle = corners.mean(0)
        corners = middle + (corners - middle) * max(1.0, 1 / scale)
        if not np.isfinite(corners).all():
            return 0, 0, 0, 0
        low = np.floor((corners.min(0) - MARGIN) / unit) * unit
        high = np.ceil((corners.max(0) + MARGIN + 1) / unit) * unit
        x0, y0 = (int(v) for v in np.clip(low, 0, [width, height]))
        x1, y1 = (int(v) for v in np.clip(high, 0, [width, height]))
        return (x0, y0, x1, y1) if x1 > x0 and y1 > y0 else (0, 0, 0, 0)

    @property
    def side(self) -> float:
        """Of the crop's square, in pixels of the frame."""
        corners = crop_corners(self.landmarks, self.face_type)
        return float(np.hypot(*(corners[1] - corners[0])))

    def moved(self, x: float, y: float) -> Place:
        return Place(self.landmarks - [x, y], self.face_type, self.expand)


def motion_between(before: Place | None, after: Place | None) -> Motion:
    """Of a face between the frame before and the one after; none at an end of its track."""
    if before is None or after is None:
        return STILL
    way = middle_of(after) - middle_of(before)
    return Motion(float(np.hypot(*way)), float(-np.degrees(np.arctan2(way[1], way[0]))))


def middle_of(place: Place) -> Array:  # [2]
    """Where a face is: the middle of its crop of the full face, in the frame."""
    middle: Array = crop_corners(place.landmarks, FaceType.FULL).mean(0)
    return middle
