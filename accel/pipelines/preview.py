"""A contact sheet: frames before and after, one above the other, with the faces enlarged."""

from __future__ import annotations

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont

from accel.faces.face import Face
from accel.kernels import crop
from accel.kernels.planes import Planes

COLUMNS = 6
THUMB_HEIGHT = 270
FACE_PX = 240
GAP = 6
FOOT = 0.14  # of the shorter side, below the pictures: room for the label of what is made
NUMBER_PX = 22
GROUND = (24, 24, 24)
LEGEND = "frame before, after; face before, after"


class ContactSheet:
    """Collects up to COLUMNS samples of a video whose length may be unknown.

    Of a video of unknown length every `stride`-th frame with a face is kept; when there are too
    many, every second one is dropped and the stride doubles, so samples stay evenly spread.
    """

    def __init__(self, expected_frames: int | None, rotation: int = 0):
        self._turns = -(rotation // 90)  # frames lie as decoded; a person wants them upright
        self._stride = max(1, (expected_frames or COLUMNS) // COLUMNS)
        self._kept: list[tuple[int, list[np.ndarray]]] = []
        self._open: dict[int, list[np.ndarray]] = {}  # frames on their way, by index
        self._next = self._stride // 2

    def before(
        self, index: int, planes: Planes, faces: list[Face], numbers: dict[int, int]
    ) -> None:
        """Look at a frame before it is swapped; keeps it when it is due and shows a face."""
        if index < self._next or not faces:
            return
        self._next = index + self._stride
        largest = max(faces, key=lambda face: float(np.ptp(face.landmarks[:, 1])))
        views = self._views(planes, largest)
        picture = Image.fromarray(views[0])
        scale = picture.height / planes.height
        draw = ImageDraw.Draw(picture)
        for face in faces:
            x, y = face.landmarks[:, :2].min(axis=0) * scale
            draw.text(
                (float(x), max(0.0, float(y) - NUMBER_PX)), str(numbers.get(face.track, "?")),
                fill=(255, 230, 0), font=ImageFont.load_default(NUMBER_PX),
                stroke_width=2, stroke_fill=GROUND,
            )  # fmt: skip
        self._open[index] = self._upright([np.asarray(picture), views[1]])

    def after(self, index: int, planes: Planes, faces: list[Face]) -> None:
        """Look at the same frame after it was swapped."""
        if index not in self._open:
            return
        largest = max(faces, key=lambda face: float(np.ptp(face.landmarks[:, 1])))
        self._kept.append(
            (index, self._open.pop(index) + self._upright(self._views(planes, largest)))
        )
        if len(self._kept) > 2 * COLUMNS:
            self._kept = self._kept[::2]
            self._stride *= 2

    def picture(self) -> np.ndarray | None:  # [H, W, 3] uint8
        """The sheet; None when no frame with a face was seen."""
        if not self._kept:
            return None
        step = len(self._kept) / min(COLUMNS, len(self._kept))
        picked = [self._kept[int(i * step)][1] for i in range(min(COLUMNS, len(self._kept)))]
        width = max(view.shape[1] for views in picked for view in views)  # pictures may differ
        wide = len(picked) * (width + GAP) + GAP
        high = max(sum(view.shape[0] + GAP for view in views) for views in picked) + GAP
        foot = max(NUMBER_PX + 2 * GAP, round(FOOT * min(wide, high)))
        sheet = Image.new("RGB", (wide, high + foot), GROUND)
        for column, (before, face_before, after, face_after) in enumerate(picked):
            x, y = GAP + column * (width + GAP), GAP
            for view in (before, after, face_before, face_after):
                sheet.paste(Image.fromarray(view), (x + (width - view.shape[1]) // 2, y))
                y += view.shape[0] + GAP
        ImageDraw.Draw(sheet).text(
            (GAP, high), LEGEND, fill=(160, 160, 160), font=ImageFont.load_default(NUMBER_PX)
        )
        return np.array(sheet)

    def _upright(self, views: list[np.ndarray]) -> list[np.ndarray]:
        return [np.ascontiguousarray(np.rot90(view, self._turns)) for view in views]

    @staticmethod
    def _views(planes: Planes, face: Face) -> list[np.ndarray]:
        scale = THUMB_HEIGHT / planes.height
        width = max(1, round(planes.width * scale))
        whole = torch.tensor([[[scale, 0, scale / 2 - 0.5], [0, scale, scale / 2 - 0.5]]])
        low, high = face.landmarks[:, :2].min(axis=0), face.landmarks[:, :2].max(axis=0)
        center, zoom = (low + high) / 2, FACE_PX / (1.35 * float((high - low).max()))
        half = (FACE_PX - 1) / 2
        near = torch.tensor(
            [[[zoom, 0, half - zoom * center[0]], [0, zoom, half - zoom * center[1]]]]
        )
        pictures = (
            crop(planes, whole, (THUMB_HEIGHT, width), layout="NHWC"),
            crop(planes, near.float(), FACE_PX, layout="NHWC"),
        )
        return [(p[0].clamp(0, 1) * 255).round().to(torch.uint8).cpu().numpy() for p in pictures]
