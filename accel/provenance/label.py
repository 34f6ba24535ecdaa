"""A label that people see: a few words in a corner of every frame, in Korean or English.

The words are a small picture made once (`assets/labels.png`), so that neither a font nor a text
engine is needed. White on a dark ground reads on any picture; the letters are a twentieth of the
shorter side high.
"""

from __future__ import annotations

import os
from functools import cache
from importlib import resources
from typing import Any, NamedTuple

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from accel.core import ConfigError
from accel.kernels import Planes, _native, paste
from accel.kernels.planes import PlaneLayout

LANGUAGES = ("ko", "en")
WORDS = {  # the rows of the picture
    ("face_swap", "ko"): "AI 합성 · 딥페이크",
    ("face_swap", "en"): "AI-altered · deepfake",
    ("generate", "ko"): "AI 생성",
    ("generate", "en"): "AI-generated",
    ("edit", "ko"): "AI 수정",
    ("edit", "en"): "AI-altered",
}
_ROW = 96  # pixels of the picture; capitals are 53 high
_CAPITALS = 53
_BESIDE = 12  # ground beside the words
_LETTERS, _SMALLEST_PX = 0.05, 10  # height of capitals, of the shorter side
_GROUND = 0.6  # how dark the ground is
SHIFT = 7  # bits after the point of a factor: codes of 8 bits times it fit into 16

Array = NDArray[Any]


def local_language() -> str:
    """`ko` where the user's locale is Korean, else `en`."""
    for name in ("LC_ALL", "LC_MESSAGES", "LANGUAGE", "LANG"):
        if value := os.environ.get(name):
            return "ko" if value.lower().startswith("ko") else "en"
    return "en"


class Part(NamedTuple):
    """What drawing does in a plane: code' = (code * keep + add) >> SHIFT, from a sample on."""

    top: int
    left: int
    keep: Tensor  # [h, w] int16 for 8-bit codes, int32 for others
    add: Tensor  # as keep


class Label:
    """The words for one clip, ready to be drawn into its frames.

    task: `face_swap`, `generate` or `edit`. language: `ko` or `en`; None takes the user's.
    rotation, mirrored: how a viewer turns the stored picture (degrees clockwise, after mirroring
    left to right), so that the label stands upright in what people see.
    """

    def __init__(
        self,
        task: str,
        *,
        language: str | None = None,
        rotation: int = 0,
        mirrored: bool = False,
    ) -> None:
        self.language = language or local_language()
        if (task, self.language) not in WORDS:
            raise ConfigError(
                f"a label must be for face_swap, generate or edit in {' or '.join(LANGUAGES)}, "
                f"got {task!r} in {self.language!r}"
            )
        if rotation % 90:
            raise ConfigError(f"rotation must be a multiple of 90 degrees, got {rotation}")
        self.words = WORDS[task, self.language]
        self._row = list(WORDS).index((task, self.language))
        self._quarters, self._mirrored = rotation // 90 % 4, mirrored
        self._made: dict[tuple[int, int, str], _Made] = {}

    def draw(self, planes: Planes) -> None:
        """Blend the label into a frame, in place."""
        parts = self.parts(planes)
        if _native.module is not None and planes.c0.is_cpu:
            # torch would let go of the interpreter's lock five times a plane.
            for plane, part in zip(planes[:3], parts):
                _native.module.shade(plane, *part, SHIFT)
            return
        for plane, (top, left, keep, add) in zip(planes[:3], parts):
            under = plane[top : top + keep.shape[0], left : left + keep.shape[1]]
            under.copy_(under.to(keep.dtype).mul_(keep).add_(add).bitwise_right_shift_(SHIFT))

    def parts(self, planes: Planes) -> list[Part]:
        """What drawing does to each plane of frames like this one; none where there is no room."""
        made = self._made.get((planes.height, planes.width, str(planes.c0.device)))
        if made is None or made.layout != planes.layout:
            made = self._make(planes)
            self._made[planes.height, planes.width, str(planes.c0.device)] = made
        return made.parts

    def box(self, height: int, width: int) -> tuple[int, int, int, int]:
        """Where in the stored picture it lies: x0, y0, x1, y1 in pixels, ends excluded."""
        shown = (width, height) if self._quarters % 2 else (height, width)
        margin = _margin(min(shown))
        rows, columns = self._picture(*shown).shape
        x1, y1 = shown[1] - margin, shown[0] - margin
        x0, y0 = max(0, x1 - columns), max(0, y1 - rows)
        high, wide = shown
        for _ in range(self._quarters):  # back, anticlockwise
            x0, y0, x1, y1 = y0, wide - x1, y1, wide - x0
            high, wide = wide, high
        if self._mirrored:
            x0, x1 = width - x1, width - x0
        return x0, y0, x1, y1

    def _picture(self, height: int, width: int) -> Array:  # [h, w] 0 ground, 1 letters
        """The words for a picture that is shown so large."""
        shorter, words = min(height, width), _rows()[self._row]
        used = np.flatnonzero(words.any(0))
        words = words[:, : used[-1] + 3].astype(np.float32) / 255
        scale = max(_SMALLEST_PX, _LETTERS * shorter) / _CAPITALS
        room = width - 2 * _margin(shorter) - 1
        scale = min(scale, max(room, 1) / (words.shape[1] + 2 * _BESIDE))  # small rather than cut
        size = (max(1, round(words.shape[1] * scale)), max(1, round(_ROW * scale)))
        small = cv2.resize(words, size, interpolation=cv2.INTER_AREA)
        return np.pad(np.clip(small, 0, 1), ((0, 0), (round(_BESIDE * scale),) * 2))

    def _make(self, planes: Planes) -> _Made:
        """Find what blending does to each sample, as a factor and a summand, in integers.

        `paste` is what defines it; it is asked once, with a frame of the lowest and one of the
        highest codes, because drawing with it costs several times as much in every frame.
        """
        height, width, layout = planes.height, planes.width, planes.layout
        x0, y0, x1, y1 = self.box(height, width)
        if x1 <= x0 or y1 <= y0:  # a picture of a few pixels has no place for it
            return _Made(layout, [])
        across, down = 1 << layout.shift_x, 1 << layout.shift_y
        left, top = max(0, x0 // across - 1) * across, max(0, y0 // down - 1) * down
        drawn = self._drawn(height, width, x0 - left, y0 - top)
        parts, kind = [], torch.int16 if layout.bits == 8 else torch.int32
        low, high = (
            [plane[top // dy :, left // dx :].clone().fill_(code).cpu() for plane, dx, dy in
             ((planes.c0, 1, 1), (planes.c1, across, down), (planes.c2, across, down))]
            for code in (0, layout.max_code)
        )  # fmt: skip
        for ground in (low, high):
            paste(Planes(ground[0], ground[1], ground[2], layout), *drawn)
        for index, (least, most) in enumerate(zip(low, high)):
            dx, dy = (across, down) if index else (1, 1)
            dark, one = least.to(torch.int32), 1 << SHIFT
            share = (most.to(torch.int32) - dark) / layout.max_code
            keep = (share * one).round().to(torch.int32)
            room = (layout.max_code + 1) * one - 1 - layout.max_code * keep  # white stays in range
            add = torch.minimum(dark * one + one // 2, room)  # half a code, as shifting cuts off
            device = planes.c0.device
            parts.append(Part(top // dy, left // dx, keep.to(device, kind), add.to(device, kind)))
        return _Made(layout, parts)

    def _drawn(self, height: int, width: int, x: int, y: int) -> tuple[Tensor, Tensor, Tensor]:
        """The label as `paste` takes it, with its corner at (x, y)."""
        x0, y0, x1, y1 = self.box(height, width)
        shown = (width, height) if self._quarters % 2 else (height, width)
        picture = np.rot90(self._picture(*shown), self._quarters)
        if self._mirrored:
            picture = picture[:, ::-1]
        picture = picture[: y1 - y0, : x1 - x0]
        side = max(picture.shape)
        crop, mask = np.zeros((side, side), np.float32), np.zeros((side, side), np.float32)
        rows, columns = picture.shape
        crop[:rows, :columns] = picture / (picture + _GROUND * (1 - picture))  # undoes the mask's
        mask[:rows, :columns] = picture + _GROUND * (1 - picture)  # letters solid, ground half so
        matrix = torch.tensor([[[1.0, 0.0, -x], [0.0, 1.0, -y]]])
        return (
            torch.from_numpy(crop).expand(1, 3, side, side).contiguous(),
            torch.from_numpy(mask)[None],
            matrix,
        )


def _margin(shorter: int) -> int:
    """Pixels between label and edge."""
    return max(2, round(shorter * 0.02))


class _Made(NamedTuple):
    layout: PlaneLayout
    parts: list[Part]


@cache
def _rows() -> Array:  # [6, 96, W] uint8
    data = (resources.files("accel") / "assets" / "labels.png").read_bytes()
    picture = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_GRAYSCALE)
    return np.asarray(picture).reshape(len(WORDS), _ROW, -1)
