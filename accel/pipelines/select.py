"""Which of the faces in a frame are to be swapped; steady from frame to frame."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from accel.core import ConfigError
from accel.faces.face import Face
from accel.faces.recognise import SAME_PERSON

TAKE_OVER = 1.3  # how much larger another face must be before "largest" moves to it


class Selection:
    """Decides face by face, with memory, so that the choice does not flip between frames.

    rule: `all`; `largest`; a number N, the face that appeared N-th in the video (from left to
        right where several appear at once: the numbers on the preview picture); `reference`,
        faces whose identity lies within `max_distance` of the reference picture's.
    """

    def __init__(
        self,
        rule: str,
        reference: np.ndarray | None = None,  # [128] embedding
        max_distance: float = SAME_PERSON,
    ):
        if rule not in ("all", "largest", "reference") and not (rule.isdecimal() and int(rule)):
            raise ConfigError(
                f"select must be all, largest, reference or a number from 1, got {rule!r}"
            )
        if (rule == "reference") != (reference is not None):
            raise ConfigError("select reference and a reference picture go together")
        self.rule = rule
        self.reference = reference
        self.max_distance = max_distance
        self.numbers: dict[int, int] = {}  # track id -> order of appearance, from 1
        self._largest: int | None = None
        self._accepted: dict[int, bool] = {}

    def choose(self, faces: Sequence[Face]) -> list[Face]:
        """Return the faces of one frame that are to be swapped, in the order given."""
        for face in sorted(faces, key=lambda f: float(f.landmarks[:, 0].mean())):
            self.numbers.setdefault(face.track, len(self.numbers) + 1)
        if self.rule == "all":
            return list(faces)
        if self.rule == "largest":
            return self._choose_largest(faces)
        if self.rule == "reference":
            return [face for face in faces if self._is_reference(face)]
        return [face for face in faces if self.numbers[face.track] == int(self.rule)]

    def _choose_largest(self, faces: Sequence[Face]) -> list[Face]:
        if not faces:
            return []
        sizes = {face.track: _area(face) for face in faces}
        biggest = max(sizes, key=lambda track: sizes[track])
        held = self._largest
        if held not in sizes or sizes[biggest] > TAKE_OVER * sizes[held]:
            self._largest = biggest
        return [face for face in faces if face.track == self._largest]

    def _is_reference(self, face: Face) -> bool:
        assert self.reference is not None
        distance = float(np.linalg.norm(face.identity - self.reference))
        # A track once accepted is dropped only when its identity has clearly moved away.
        held = self._accepted.get(face.track, False)
        self._accepted[face.track] = distance < self.max_distance * (1.1 if held else 1.0)
        return self._accepted[face.track]


def _area(face: Face) -> float:
    spread = np.ptp(face.landmarks[:, :2], axis=0)
    return float(spread[0] * spread[1])
