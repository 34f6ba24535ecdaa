"""Merge the faces of one frame, in the frame's own planes.

Each face's part of the frame is read as RGB, merged, and written back; samples that no mask reaches
stay as they were. Only settings that change the whole picture (denoise, bicubic, colour degrade)
read and write all of it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from accel.core import Cancel, ConfigError
from accel.faces.merge import Stages, merge_face, zoomed
from accel.faces.merge_effects import bicubic_degrade, degrade_colors, denoise, median
from accel.faces.merge_mask import Pixels, Prediction
from accel.faces.merge_place import Place
from accel.faces.merge_settings import MergeSettings
from accel.kernels import planes_to_rgb, rgb_to_planes
from accel.kernels.planes import Planes
from accel.pipelines.dfl.merge_faces import FrameFaces
from accel.pipelines.dfl.merge_model import Predictor

KEPT_PASSES = 8  # every so many are kept: enough to come back soon, few enough to hold
Box = tuple[int, int, int, int]  # x0, y0, x1, y1 in luma samples, ends excluded


class Kept:
    """What merging one frame took, for the next settings: sliders move little and come back.

    Only for calls with the same frame and the same predictions of its faces, one at a time.
    """

    def __init__(self) -> None:
        self._passes: dict[int, np.ndarray] = {}  # pictures after so many passes of the filter
        self._background: tuple[tuple[int, int], Planes] | None = None
        self._stages: dict[int, tuple[Box, Stages]] = {}

    def background(self, planes: Planes, settings: MergeSettings, cancel: Cancel) -> Planes:
        """The frame as `denoise` and `bicubic` leave it."""
        key = (settings.denoise, settings.bicubic)
        if self._background is None or self._background[0] != key:
            picture = self._denoised(planes, settings.denoise, cancel)
            if settings.bicubic:
                picture = bicubic_degrade(picture, settings.bicubic)
            made = rgb_to_planes(torch.from_numpy(picture), planes.layout)
            self._background = key, made
        return self._background[1]

    def stages(self, face: int, box: Box) -> Stages:
        """Of a face whose part of the frame is `box`."""
        if face not in self._stages or self._stages[face][0] != box:
            self._stages[face] = box, Stages()
        return self._stages[face][1]

    def _denoised(self, planes: Planes, power: int, cancel: Cancel) -> np.ndarray:
        """Whole passes of the filter, which many powers have in common, are made once."""
        passes = max(power // 10 - 9, 0)  # those that begin at 100 or more
        if not self._passes:
            self._passes[0] = planes_to_rgb(planes, dtype=_depth(planes)).numpy()
        nearest = max(done for done in self._passes if done <= passes)
        whole = self._passes[nearest]
        for done in range(nearest, passes):
            cancel.check()
            whole = median(whole)
            if (done + 1) % KEPT_PASSES == 0 or done + 1 == passes:
                self._passes[done + 1] = whole
        for done in [d for d in self._passes if d % KEPT_PASSES and d != passes]:
            del self._passes[done]
        return denoise(whole, power - 10 * passes)


@dataclass
class MergedFrame:
    """What a merge made of a frame, beside what it wrote into its planes.

    mask: [H, W] 0..1 how much of each pixel is a new face.
    crops: [R, R, 3] the faces as the network gave them, in mode raw-predict.
    """

    mask: Pixels
    crops: list[Pixels]


def predict_faces(
    planes: Planes, faces: FrameFaces, predictor: Predictor, settings: MergeSettings
) -> list[Prediction]:
    """What the networks say of a frame's faces."""
    parts, places = face_parts(planes, faces)
    return predictor.predict(parts, places, settings)


def complete_predictions(
    made: Sequence[Prediction],
    planes: Planes,
    faces: FrameFaces,
    predictor: Predictor,
    settings: MergeSettings,
) -> None:
    """Add to predictions what settings changed since need."""
    for prediction, picture, place in zip(made, *face_parts(planes, faces)):
        predictor.complete(prediction, picture, place, settings)


def face_parts(planes: Planes, faces: FrameFaces) -> tuple[list[Pixels], list[Place]]:
    parts: list[Pixels] = []
    places: list[Place] = []
    for place in faces.places:
        box = place.rectangle(planes.height, planes.width, _unit(planes))
        parts.append(read_box(planes, box))
        places.append(place.moved(box[0], box[1]))
    return parts, places


def merge_frame(
    planes: Planes,  # written in place
    faces: FrameFaces,
    predictions: Sequence[Prediction],
    settings: MergeSettings,
    *,
    seed: int = 0,
    variant: str = "dfl",
    kept: Kept | None = None,
    cancel: Cancel | None = None,
) -> MergedFrame:
    """Merge all faces of a frame, later ones over earlier ones.

    seed: of what chance decides; each track adds its number to it. variant: of colour transfers.
    kept: of earlier calls with the same frame, whose work is not done again.
    Raises Cancelled, between two steps.
    """
    mask = np.zeros((planes.height, planes.width), np.float32)
    if not faces.places:
        return MergedFrame(mask, [])
    if settings.mode == "raw-predict":
        return MergedFrame(mask, [p.face for p in predictions])
    kept, cancel = kept or Kept(), cancel or Cancel()
    source = planes
    if settings.roughens_background:
        source = planes.clone()
        _copy(kept.background(source, settings, cancel), planes)
    zoom = zoomed(settings.face_scale)
    done: list[Box] = []
    for i, (place, prediction) in enumerate(zip(faces.places, predictions)):
        box = place.rectangle(planes.height, planes.width, _unit(planes), zoom)
        x0, y0, x1, y1 = box
        if x1 <= x0:
            continue
        # What another face changed is another picture than the last time.
        is_alone = source is not planes or not any(_overlap(box, other) for other in done)
        merged = merge_face(
            read_box(source, box), place.moved(x0, y0), prediction, settings,
            background=None if source is planes else read_box(planes, box),
            motion=faces.motions[i], seed=seed + faces.tracks[i], variant=variant,
            stages=kept.stages(i, box) if is_alone else None, cancel=cancel,
        )  # fmt: skip
        if merged.changed.any():
            write_box(planes, box, merged.picture, merged.changed)
        into = mask[y0:y1, x0:x1]
        np.maximum(into, merged.mask, out=into)
        done.append(box)
    if settings.color_degrade and settings.changes_background:
        cancel.check()
        few = degrade_colors(planes_to_rgb(planes).numpy(), settings.color_degrade)
        _copy(rgb_to_planes(torch.from_numpy(few), planes.layout), planes)
    return MergedFrame(mask, [])


def raw_picture(crops: Sequence[Pixels]) -> np.ndarray:  # [H, W, 3] uint8 RGB
    """What mode raw-predict shows: the faces side by side.

    Raises ConfigError if there is none.
    """
    if not crops:
        raise ConfigError("raw-predict: the frame must have a face, but has none")
    return (np.concatenate(list(crops), 1) * 255 + 0.5).astype(np.uint8)


# --- parts of planes ----------------------------------------------------------------------------


def _unit(planes: Planes) -> int:
    """Boxes that begin at multiples of this hold whole chroma samples."""
    return 1 << max(planes.layout.shift_x, planes.layout.shift_y)


def cut(planes: Planes, box: Box) -> Planes:
    """A view of a part of a picture. Its ends are multiples of `_unit`, or the picture's own."""
    x0, y0, x1, y1 = box
    sx, sy = planes.layout.shift_x, planes.layout.shift_y
    columns = slice(x0 >> sx, -(-x1 >> sx))
    rows = slice(y0 >> sy, -(-y1 >> sy))
    luma = planes.c0[y0:y1, x0:x1]
    return Planes(luma, planes.c1[rows, columns], planes.c2[rows, columns], planes.layout)


def read_box(planes: Planes, box: Box) -> Pixels:  # [h, w, 3]
    """A part of a picture as RGB 0..1."""
    x0, y0, x1, y1 = box
    if x1 <= x0 or y1 <= y0:
        return np.zeros((1, 1, 3), np.float32)
    return planes_to_rgb(cut(planes, box), dtype=torch.float32).numpy()


def _overlap(a: Box, b: Box) -> bool:
    return a[0] < b[2] and b[0] < a[2] and a[1] < b[3] and b[1] < a[3]


def _copy(source: Planes, target: Planes) -> None:
    for one, other in zip(source[:3], target[:3]):
        other.copy_(one)


def _depth(planes: Planes) -> torch.dtype:
    return torch.uint16 if planes.layout.bits > 8 else torch.uint8


def write_box(planes: Planes, box: Box, picture: Pixels, changed: np.ndarray) -> None:
    """Put a part back; a sample is written where `changed` [h, w] is set for a pixel it covers."""
    part = cut(planes, box)
    codes = rgb_to_planes(torch.from_numpy(np.ascontiguousarray(picture)), planes.layout)
    inside = torch.from_numpy(changed)
    small = _covering(inside, part.layout.shift_x, part.layout.shift_y)
    for target, source, where in zip(part[:3], codes[:3], (inside, small, small)):
        target.copy_(torch.where(where, source, target))


def _covering(inside: Tensor, shift_x: int, shift_y: int) -> Tensor:
    """Which chroma samples stand for a set pixel."""
    if not (shift_x or shift_y):
        return inside
    size = (1 << shift_y, 1 << shift_x)
    pooled = F.max_pool2d(inside[None].float(), size, size, ceil_mode=True)
    return pooled[0] > 0
