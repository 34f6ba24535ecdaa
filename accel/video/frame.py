"""A video frame: the planes the decoder gave, when it is shown, and what rides along."""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction

import av

from accel.kernels.planes import Planes


@dataclass
class Frame:
    """One picture of a stream, still in its planes.

    planes: views on the memory of `picture`; writing into them changes the frame that is encoded.
    pts: presentation time in units of `time_base`, exactly as the file had it.
    index: 0 for the first frame that the reader gave.
    picture: owns the memory and carries colour tags and side data.
    """

    planes: Planes
    pts: int
    time_base: Fraction
    index: int
    picture: av.VideoFrame

    @property
    def time_s(self) -> float:
        return float(self.pts * self.time_base)
