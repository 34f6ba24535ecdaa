"""Pictures of the face to put in, and the best one for each pose and expression."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor

from accel.faces import mesh
from accel.faces.face import head_rotation, lid_openings, mouth_opening
from accel.faces.mask import BROW_TOP_CM, edge_distance, facing, fade, with_irises
from accel.kernels.raster import raster

Array = npt.NDArray[Any]

MARGIN = 0.15  # of the face's size, kept around it in the texture
STEPS_PER_OCTAVE = 3  # scales of a texture
SHARPEN = 0.7  # of what an enlarged source has lost
STAY = 0.8  # another picture must fit this much better before it takes over
CROSS_FADE = 5  # frames
FINE_PX = 12  # deviation of a blur that loses nothing at a lower resolution


@dataclass(frozen=True)
class Texture:
    """One source picture at one scale."""

    picture: Tensor  # [1, 3, H, W] RGB 0..1
    points: Array  # [474, 2] float32 px; see `mask.with_irises`
    size_px: float  # of the face


@dataclass(frozen=True)
class PreparedSource:
    """A source picture with copies of itself at other scales, and what its choice depends on."""

    original: Texture
    facing: Array  # [468] cosine towards the viewer
    shape: Array  # [468, 3] the face turned to the front, in units of its size
    rotation: Array  # [3, 3]
    lids: Array  # [2]
    mouth: float
    scaled: dict[int, Texture]  # made when first asked for

    def texture_for(self, size_px: float) -> Texture:
        """Return a copy in which the face is about as large as the one it is painted on:
        a larger one would alias, a smaller one blur."""
        step = int(np.ceil(STEPS_PER_OCTAVE * np.log2(size_px / self.original.size_px) - 0.3))
        if step not in self.scaled:
            self.scaled[step] = _resized(self.original, 2 ** (step / STEPS_PER_OCTAVE))
        return self.scaled[step]


def prepare_source(
    picture: Tensor,  # [3, H, W] RGB 0..1
    landmarks: Array,  # [468, 3] px
    iris: Array,  # [2, 5, 2] px
) -> PreparedSource:
    """Cut the face out of a picture and describe it."""
    low, high = landmarks[:, :2].min(axis=0), landmarks[:, :2].max(axis=0)
    size = float((high - low).max())
    height, width = picture.shape[-2:]
    x0, y0 = np.maximum(np.floor(low - MARGIN * size), 0).astype(int)
    x1 = min(int(np.ceil(high[0] + MARGIN * size)), width)
    y1 = min(int(np.ceil(high[1] + MARGIN * size)), height)
    cut = picture[None, :, y0:y1, x0:x1].float().contiguous()
    places = (with_irises(landmarks, iris)[:, :2] - (x0, y0)).astype(np.float32)
    original = _bare(Texture(cut, places, size))
    return PreparedSource(
        original,
        facing(landmarks),
        frontal_shape(landmarks),
        head_rotation(landmarks),
        lid_openings(landmarks),
        mouth_opening(landmarks),
        {},
    )


def _resized(texture: Texture, scale: float) -> Texture:
    """Shrink by area, or enlarge by bicubic interpolation and sharpen what that has softened."""
    picture = texture.picture
    shape = [max(1, round(side * scale)) for side in picture.shape[-2:]]
    picture = F.interpolate(picture, shape, mode="bicubic", antialias=True)
    if scale > 1:
        rows = np.ascontiguousarray(picture[0].permute(1, 2, 0).cpu().numpy())
        soft = cv2.GaussianBlur(rows, (0, 0), 0.6 * scale)
        sharp = torch.from_numpy(rows + min(SHARPEN * (scale - 1), SHARPEN) * (rows - soft))
        picture = sharp.permute(2, 0, 1)[None].to(picture.device)
    factors = np.array([shape[1], shape[0]]) / np.array(texture.picture.shape[:1:-1])
    points = ((texture.points + 0.5) * factors - 0.5).astype(np.float32)
    return Texture(picture.clamp(0, 1).contiguous(), points, texture.size_px * scale)


def _bare(texture: Texture) -> Texture:
    """Paint over what is no skin on a source's forehead and rim with the skin around it.

    A fringe, a beard's edge, a collar or the background would else appear on the target's skin.
    Told by colour; the inner face is left alone: brows, lids and lips differ and belong there.
    """
    rgb = np.ascontiguousarray(texture.picture[0].permute(1, 2, 0).cpu().numpy())
    lab = cv2.cvtColor(rgb, cv2.COLOR_RGB2Lab)
    points = texture.points[: mesh.POINTS]
    x, y = np.round(points).astype(int).T
    height, width = lab.shape[:2]
    cheeks = lab[np.clip(y, 0, height - 1), np.clip(x, 0, width - 1)][list(CHEEKS)]
    center, spread = np.median(cheeks, axis=0), cheeks.std(axis=0)
    # Light falls off towards the rim, so lightness may differ more than colour may.
    allowed = np.maximum(2.5 * spread, (14, 6, 6)) * np.array([1.4, 1, 1])
    distance = np.sqrt((((lab - center) / allowed) ** 2).sum(axis=2)).astype(np.float32)
    skin = 1 - fade(distance, 0.9, 1.5)
    where = _rim_map(points, (height, width))
    # What borders on hair is mixed with it or lies in its shadow.
    reach = max(1, round(0.03 * texture.size_px))
    skin = cv2.erode(skin, np.ones((2 * reach + 1, 2 * reach + 1), np.uint8))
    known = np.where(where > 0, skin, 1 - fade(distance, 1.0, 1.8))
    filled, total = np.zeros_like(rgb), np.full((height, width, 1), 1e-9, np.float32)
    for share, sigma in ((1, 0.03), (1e-2, 0.08), (1e-5, 0.25)):  # the nearest skin that there is
        sigma_px = sigma * texture.size_px
        filled += share * _blurred(rgb * known[..., None], sigma_px)
        total += share * _blurred(known, sigma_px)[..., None]
    change = (where * (1 - skin))[..., None]
    picture = torch.from_numpy(rgb + change * (filled / total - rgb)).permute(2, 0, 1)[None]
    return Texture(picture.to(texture.picture.device).contiguous(), texture.points, texture.size_px)


def _blurred(values: Array, sigma_px: float) -> Array:
    """Gaussian blur; wide ones at a lower resolution, as their time grows with their width."""
    block = int(sigma_px / FINE_PX)
    if block < 2:
        return np.asarray(cv2.GaussianBlur(values, (0, 0), sigma_px))
    height, width = values.shape[:2]
    small = (-(-width // block), -(-height // block))
    shrunk = cv2.resize(values, small, interpolation=cv2.INTER_AREA)
    soft = cv2.GaussianBlur(shrunk, (0, 0), sigma_px / block)
    return np.asarray(cv2.resize(soft, (width, height), interpolation=cv2.INTER_LINEAR))


def _rim_map(points: Array, shape: tuple[int, int]) -> Array:  # [H, W] 1 on forehead and rim
    rim = np.clip(1.5 - edge_distance(mesh.OVAL) / 2, 0, 1)
    forehead = np.clip((mesh.CANONICAL[:, 1] - BROW_TOP_CM + 0.4) / 0.6, 0, 1)
    weights = torch.from_numpy(np.maximum(rim, forehead).astype(np.float32))[None]
    flat = torch.from_numpy(
        np.concatenate([points, np.zeros((mesh.POINTS, 1))], 1).astype(np.float32)
    )
    drawn = raster(
        torch.zeros(1, 3, 1, 1), flat[None, :, :2].contiguous(), flat[None], weights,
        torch.from_numpy(np.array(mesh.TRIANGLES)), torch.zeros(1, dtype=torch.int32), shape,
    )  # fmt: skip
    result: Array = drawn[0, 3].numpy()
    return result


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
        settled = self._since >= CROSS_FADE
        if settled and fits[best] < STAY * fits[self._current]:
            self._before, self._current, self._since = self._current, best, 0
        self._since += 1
        share = self._since / (CROSS_FADE + 1)
        if self._before is None or share >= 1:
            return [(self._current, 1.0)]
        return [(self._current, share), (self._before, 1 - share)]
