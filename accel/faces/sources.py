"""Pictures of the face to put in: prepared once, and the best one chosen per pose and expression."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt
import torch.nn.functional as F
from torch import Tensor

from accel.faces import mesh
from accel.faces.face import head_rotation, lid_openings, mouth_opening
from accel.faces.mask import BROW_TOP_CM, edge_distance, facing, fade

Array = npt.NDArray[Any]

MARGIN = 0.15  # of the face's size, kept around it in the texture
MAX_TEXTURE_PX = 1024
SMALLEST_PX = 48
STAY = 0.8  # another picture must fit this much better before it takes over
CROSS_FADE = 5  # frames


@dataclass(frozen=True)
class Texture:
    """One source picture at one scale."""

    picture: Tensor  # [1, 3, H, W] RGB 0..1
    points: Array  # [468, 2] float32 px
    size_px: float  # of the face


@dataclass(frozen=True)
class PreparedSource:
    """A source picture with smaller copies of itself, and what its choice depends on."""

    textures: tuple[Texture, ...]  # the largest first, each half the one before
    facing: Array  # [468] cosine towards the viewer
    skin: Array  # [468] 1 where the picture shows the face, 0 where hair or background covers it
    shape: Array  # [468, 3] the face turned to the front, in units of its size
    rotation: Array  # [3, 3]
    lids: Array  # [2]
    mouth: float

    def texture_for(self, size_px: float) -> Texture:
        """Return the smallest copy that is not smaller than the face it is painted on: more would
        alias, less would blur."""
        fitting = [t for t in self.textures if t.size_px >= 0.9 * size_px]
        return fitting[-1] if fitting else self.textures[0]


def prepare_source(picture: Tensor, landmarks: Array) -> PreparedSource:
    """Cut the face out of `picture` [3, H, W] and make the smaller copies."""
    low, high = landmarks[:, :2].min(axis=0), landmarks[:, :2].max(axis=0)
    size = float((high - low).max())
    height, width = picture.shape[-2:]
    x0, y0 = np.maximum(np.floor(low - MARGIN * size), 0).astype(int)
    x1 = min(int(np.ceil(high[0] + MARGIN * size)), width)
    y1 = min(int(np.ceil(high[1] + MARGIN * size)), height)
    cut = picture[None, :, y0:y1, x0:x1].float().contiguous()
    points = (landmarks[:, :2] - (x0, y0)).astype(np.float32)
    shrink = MAX_TEXTURE_PX / max(cut.shape[-2:])
    if shrink < 1:
        cut = F.interpolate(cut, scale_factor=shrink, mode="bicubic", antialias=True).clamp(0, 1)
        points = (points + 0.5) * shrink - 0.5
        size *= shrink
    textures = [Texture(cut, points.astype(np.float32), size)]
    while textures[-1].size_px >= 2 * SMALLEST_PX:
        last = textures[-1]
        half = F.avg_pool2d(last.picture, 2, ceil_mode=True, count_include_pad=False)
        textures.append(Texture(half, (last.points - 0.5) / 2, last.size_px / 2))
    return PreparedSource(
        tuple(textures), facing(landmarks), _skin(textures), frontal_shape(landmarks), head_rotation(landmarks),
        lid_openings(landmarks), mouth_opening(landmarks),
    )  # fmt: skip


def _skin(textures: Sequence[Texture]) -> Array:  # [468] 0..1
    """Tell where the rim and the forehead of a source are bare skin, by their colour.

    A fringe, a beard's edge, a collar or the background would be painted on the target's skin. The
    inner face counts as bare: brows, lids and lips differ in colour and belong there.
    """
    texture = next(t for t in reversed(textures) if t.size_px >= SMALLEST_PX or t is textures[0])
    rgb = np.ascontiguousarray(texture.picture[0].permute(1, 2, 0).cpu().numpy())
    lab = cv2.GaussianBlur(cv2.cvtColor(rgb, cv2.COLOR_RGB2Lab), (0, 0), 0.012 * texture.size_px)
    x, y = np.round(texture.points).astype(int).T
    colors = lab[np.clip(y, 0, lab.shape[0] - 1), np.clip(x, 0, lab.shape[1] - 1)]
    cheeks = colors[list(CHEEKS)]
    center, spread = np.median(cheeks, axis=0), cheeks.std(axis=0)
    # Light falls off towards the rim, so lightness may differ more than colour may.
    allowed = np.maximum(2.5 * spread, (14, 6, 6)) * np.array([1.4, 1, 1])
    distance = np.sqrt((((colors - center) / allowed) ** 2).sum(axis=1))
    bare = 1 - fade(distance, 1.0, 1.8)
    inner = (edge_distance(mesh.OVAL) > 2) & (mesh.CANONICAL[:, 1] < BROW_TOP_CM)
    return np.where(inner, 1.0, bare)


def frontal_shape(landmarks: Array) -> Array:  # [468, 3]
    """Turn a face to the front and bring it to unit size, so that only its expression is left."""
    points = landmarks * np.array([1.0, -1.0, -1.0])
    points = (points - points.mean(axis=0)) @ head_rotation(landmarks)
    shape: Array = points / np.sqrt((points**2).sum(axis=1).mean())
    return shape


CHEEKS = (50, 101, 118, 117, 123, 205, 187, 280, 330, 347, 346, 352, 425, 411, 4, 5, 195, 197)

# The points whose movement is expression: brows, lids and lips.
_MOVING = np.array([*mesh.BROWS, *mesh.EYE_RIGHT, *mesh.EYE_LEFT, *mesh.LIPS_OUTER])


def mismatch(source: PreparedSource, landmarks: Array) -> float:
    """How badly a source fits a target face: 0 for the same pose and expression.

    Radians between the two poses, plus the distance of brows, lids and lips in units of the face,
    plus the difference in how far eyes and mouth are open.
    """
    turn = (np.trace(source.rotation.T @ head_rotation(landmarks)) - 1) / 2
    pose = float(np.arccos(np.clip(turn, -1, 1)))
    shape = frontal_shape(landmarks)[_MOVING] - source.shape[_MOVING]
    expression = float(np.sqrt((shape**2).sum(axis=1).mean()))
    lids = float(np.abs(source.lids - lid_openings(landmarks)).mean())
    mouth = abs(source.mouth - mouth_opening(landmarks))
    return pose + 2 * expression + lids + 0.5 * mouth


class Chooser:
    """Picks the source for a track, frame by frame, without flip-flop and with cross-fades."""

    def __init__(self, sources: Sequence[PreparedSource]):
        self._sources = sources
        self._current: int | None = None
        self._before: int | None = None
        self._since = 0

    def choose(self, landmarks: Array) -> list[tuple[int, float]]:
        """Return (source, share) pairs: one, or two while one picture fades into the next."""
        if len(self._sources) == 1:
            return [(0, 1.0)]
        fits = [mismatch(source, landmarks) for source in self._sources]
        best = int(np.argmin(fits))
        if self._current is None:
            self._current = best
        elif best != self._current and self._since >= CROSS_FADE:
            if fits[best] < STAY * fits[self._current]:
                self._before, self._current, self._since = self._current, best, 0
        self._since += 1
        share = self._since / (CROSS_FADE + 1)
        if self._before is None or share >= 1:
            return [(self._current, 1.0)]
        return [(self._current, share), (self._before, 1 - share)]
