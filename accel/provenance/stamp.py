"""Label and mark of the frames of one film, put into each by one native call where that can be."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import Tensor

from accel.kernels import Planes
from accel.kernels.mark import stamp
from accel.provenance.label import SHIFT, Label
from accel.provenance.watermark import Mark, is_rgb


class Stamp:
    """A label and a mark, either of which may be None, for frames that are mostly of one kind.

    still: as `Mark.add` takes it.
    """

    def __init__(self, label: Label | None, mark: Mark | None, *, still: bool = False) -> None:
        self._label, self._mark, self._still = label, mark, still
        self._kind: tuple[Any, ...] = ()
        self._at_once: Callable[[Tensor, Tensor, Tensor], None] | None = None

    def put(self, planes: Planes) -> None:
        """Draw the label into a frame and mark all of it, in place."""
        kind = planes.c0.shape, planes.layout, planes.c0.device
        if kind != self._kind:
            self._at_once, self._kind = self._prepared(planes), kind
        if self._at_once is not None:
            self._at_once(planes.c0, planes.c1, planes.c2)
            return
        if self._label is not None:
            self._label.draw(planes)
        if self._mark is not None:
            self._mark.add(planes, still=self._still)

    def _prepared(self, planes: Planes) -> Callable[[Tensor, Tensor, Tensor], None] | None:
        parts = self._label.parts(planes) if self._label is not None else ()
        pattern, device = None, str(planes.c0.device)
        if self._mark is not None:
            pattern = self._mark.pattern(planes.height, planes.width, device, still=self._still)
        return stamp(planes, pattern, 3 if is_rgb(planes) else 1, parts, SHIFT)
