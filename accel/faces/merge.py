"""Put a face that a trained autoencoder made into its frame, the way DeepFaceLab's merger does.

Everything happens in the face's part of the frame: what lies outside the crop's square cannot
change, so it is not looked at. Pictures are [H, W, 3] float32 RGB 0..1. The order of the steps, and
what each setting means, is DeepFaceLab's; a colour transfer draws its directions from a seed, so
that equal input gives equal output and a track does not flicker.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar

import cv2
import numpy as np
import numpy.typing as npt
import torch

from accel.core import Cancel
from accel.faces.align import Array
from accel.faces.face_types import crop_matrix
from accel.faces.merge_effects import motion_blur, sharpen
from accel.faces.merge_mask import (
    FAINTEST,
    FINER,
    Pixels,
    Prediction,
    choose_mask,
    hull_mask,
    resized,
    shape_mask,
)
from accel.faces.merge_place import STILL, Motion, Place
from accel.faces.merge_settings import MergeSettings
from accel.kernels.color_transfer import color_transfer
from accel.kernels.seamless import seamless

SMALLEST = 4  # faces whose mask spans fewer pixels are left as they are
SEEN = 0.1  # what of the mask counts for that, and is cloned
Made = TypeVar("Made")


@dataclass(frozen=True)
class Merged:
    """One face's part of a frame after merging."""

    picture: Pixels  # [H, W, 3]
    mask: Pixels  # [H, W] how much of it is the new face
    changed: npt.NDArray[np.bool_]  # [H, W] nothing else differs from what was there


def input_crop(picture: Pixels, place: Place, px: int) -> Pixels:  # [px, px, 3]
    """What the network is shown: the face, upright."""
    return warp(picture, crop_matrix(place.landmarks, place.face_type, px), (px, px))


class Stages:
    """What the steps of a face's merge gave last, each with all that it was made from.

    A step is made again when that changed. For calls with the same picture, face and seed; results
    are shared, so nothing may write into them.
    """

    def __init__(self) -> None:
        self._made: dict[str, tuple[object, Any]] = {}

    def once(self, name: str, key: object, make: Callable[[], Made]) -> Made:
        """What step `name` gives for `key`, made only if the last time was for another."""
        if name not in self._made or self._made[name][0] != key:
            self._made[name] = key, make()
        made: Made = self._made[name][1]
        return made


def merge_face(
    picture: Pixels,  # [H, W, 3] the face's part of the frame
    place: Place,  # in that part
    prediction: Prediction,
    settings: MergeSettings,
    *,
    background: Pixels | None = None,  # [H, W, 3] the same part after the frame was degraded
    motion: Motion = STILL,
    seed: int = 0,
    variant: str = "dfl",
    stages: Stages | None = None,
    cancel: Cancel | None = None,
) -> Merged:
    """Merge one face.

    motion: of the face, for `motion_blur`. seed, variant: of the colour transfer, see there; the
    variant is that of the cloning, too, see `clone`.
    stages: of earlier calls, whose steps are not made again where settings did not touch them.
    Raises ConfigError for a mask that needs an XSeg network whose masks are not there; Cancelled.
    """
    work = _Work(
        picture, place, prediction, settings, motion, seed, variant, stages or Stages(),
        cancel or Cancel(),
    )  # fmt: skip
    mask = work.mask()
    if settings.mode == "original":
        return Merged(picture, mask, np.zeros(mask.shape, np.bool_))
    if settings.mode.startswith("raw"):
        pasted, shown = work.raw()
        return Merged(mixed(picture, pasted, shown), mask, shown > 0)
    if not _is_large_enough(mask):
        return Merged(picture if background is None else background, mask, mask > 1)
    merged = work.merged()
    if _is_finished_in_crop(settings) or background is not None:
        below = picture if background is None else background
        merged = mixed(below, work.finished(), mask).clip(0, 1)
    return Merged(merged, mask, mask > 0)


class _Work:
    """The steps of one merge. Those that others build on come with a key that tells them apart."""

    def __init__(
        self,
        picture: Pixels,
        place: Place,
        prediction: Prediction,
        settings: MergeSettings,
        motion: Motion,
        seed: int,
        variant: str,
        stages: Stages,
        cancel: Cancel,
    ) -> None:
        self.picture, self.place, self.prediction = picture, place, prediction
        self.settings, self.motion, self.seed, self.variant = settings, motion, seed, variant
        self.stages, self.cancel = stages, cancel
        self.height, self.width = picture.shape[:2]
        self.px = prediction.px
        self.size = prediction.large_px if settings.super_resolution else self.px
        self.zoom = zoomed(settings.face_scale)
        self.to_crop = crop_matrix(place.landmarks, place.face_type, self.size)
        self.to_paste = scaled(self.to_crop, self.size, self.zoom)
        self.is_raw = settings.mode.startswith("raw")
        self.shape_key = settings.mask, settings.erode, settings.blur, self.size, self.is_raw
        self.mask_key = *self.shape_key, self.zoom

    def once(self, name: str, key: object, make: Callable[[], Made]) -> Made:
        self.cancel.check()
        return self.stages.once(name, key, make)

    # --- the mask ---------------------------------------------------------------------------

    def shaped(self) -> Pixels:  # [4 R, 4 R]
        return self.once("shaped", self.shape_key, self._shaped)

    def _shaped(self) -> Pixels:
        hull = np.zeros((self.size, self.size), np.float32)
        if self.settings.mask == "dst":
            hull = hull_mask(self.place.landmarks, self.height, self.width, self.place.expand)
            hull = warp(hull, self.to_crop, (self.size, self.size))
        chosen = choose_mask(self.settings, self.prediction, hull, self.size)
        if self.is_raw:
            return resized(chosen, FINER * self.px)
        return shape_mask(chosen, self.settings, self.px)

    def mask(self) -> Pixels:  # [H, W]
        return self.once("mask", self.mask_key, self._mask)

    def _mask(self) -> Pixels:
        fine = FINER * self.px
        matrix = crop_matrix(self.place.landmarks, self.place.face_type, fine)
        back = scaled(matrix, fine, self.zoom)
        mask = self._unwarp(self.shaped(), back, outside=cv2.BORDER_CONSTANT)
        mask[mask < FAINTEST] = 0
        return mask

    def area(self) -> Pixels:  # [S, S] 1 where the mask is
        return self.once("area", self.shape_key, self._area)

    def _area(self) -> Pixels:
        return (resized(self.shaped(), self.size) > 0).astype(np.float32)

    # --- the face ---------------------------------------------------------------------------

    def there(self) -> Pixels:  # [S, S, 3] what lies where the face goes
        return self.once("there", self.size, lambda: self._crop(self.picture))

    def face(self) -> tuple[object, Pixels]:  # key, [S, S, 3]
        """The face as it is pasted."""
        settings, share = self.settings, self.settings.super_resolution
        key: object = share, self.prediction.enhanced is None
        face = self.once("face", key, lambda: predicted_face(self.prediction, share))
        if settings.is_seamless or self.is_raw:
            return key, face
        if settings.color != "none":
            key, face = self._transferred("color", key, face)
        if settings.mode == "hist-match":
            key, face = self._matched("match", key, face, self.area())
        return key, face

    def _transferred(self, name: str, key: object, face: Pixels) -> tuple[object, Pixels]:
        color = self.settings.color
        new = key, self.shape_key, color, self.seed, self.variant

        def make() -> Pixels:
            return transfer(face, self.there(), self.area(), color, self.seed, self.variant)

        return new, self.once(name, new, make)

    def _matched(self, name: str, key: object, face: Pixels, area: Pixels) -> tuple[object, Pixels]:
        settings = self.settings
        new = key, self.shape_key, settings.masked_hist_match, settings.hist_match_threshold
        there = self.there()
        return new, self.once(name, new, lambda: match_histogram(face, there, area, settings))

    def raw(self) -> tuple[Pixels, Pixels]:
        """The whole square [H, W, 3], and where it lies [H, W]."""
        square = np.ones((self.size, self.size), np.float32)
        shown = self._unwarp(square, self.to_paste, outside=cv2.BORDER_CONSTANT)
        return self._unwarp(self.face()[1], self.to_paste), shown

    # --- in the frame -----------------------------------------------------------------------

    def _merged(self) -> tuple[object, Pixels]:
        face_key, face = self.face()
        mask, key = self.mask(), (face_key, self.mask_key, self.settings.is_seamless)
        pasted_key = face_key, self.zoom
        pasted = self.once("pasted", pasted_key, lambda: self._unwarp(face, self.to_paste))
        if self.settings.is_seamless:
            pasted = self.once(
                "clone", key, lambda: clone(pasted, self.picture, mask, self.variant)
            )
        return key, self.once("merged", key, lambda: mixed(self.picture, pasted, mask))

    def merged(self) -> Pixels:  # [H, W, 3]
        return self._merged()[1]

    def finished(self) -> Pixels:  # [H, W, 3]
        """The pasted face after what is done to it upright again."""
        key, merged = self._merged()
        settings = self.settings
        crop = self.once("again", key, lambda: self._crop(merged))
        if settings.is_seamless and settings.color != "none":
            key, crop = self._transferred("late color", key, crop)
        if settings.mode == "seamless-hist-match":
            key, crop = self._matched("late match", key, crop, np.ones_like(crop[..., 0]))
        power = self.motion.length * settings.motion_blur / 100
        if settings.motion_blur and power >= 1:
            twice = bool(settings.super_resolution)
            key, soft = (key, power, self.motion.degrees), crop
            crop = self.once(
                "blurred", key, lambda: motion_blur(soft, power, self.motion.degrees, twice=twice)
            )
        key = key, settings.sharpen, settings.sharpness
        return self.once("finished", key, lambda: self._sharpened_back(crop))

    def _sharpened_back(self, crop: Pixels) -> Pixels:
        sharp = sharpen(crop, self.settings.sharpen, self.settings.sharpness)
        return self._unwarp(sharp, self.to_crop)

    def _crop(self, picture: Pixels) -> Pixels:
        return warp(picture, self.to_crop, (self.size, self.size))

    def _unwarp(self, crop: Pixels, to_crop: Array, outside: int = cv2.BORDER_REPLICATE) -> Pixels:
        return unwarp(crop, to_crop, self.width, self.height, outside)


def predicted_face(prediction: Prediction, super_resolution: int) -> Pixels:
    """The face as it is pasted: enlarged, with so many per cent of what super-resolution drew."""
    if not super_resolution:
        return prediction.face
    size, share = prediction.large_px, super_resolution / 100
    # Linear, as what is mixed in brings the detail.
    large: Pixels = cv2.resize(prediction.face, (size, size))
    if prediction.enhanced is None:
        return large
    return mixed(large, prediction.enhanced, np.full((size, size), share, np.float32))


def _is_large_enough(mask: Pixels) -> bool:
    seen = mask >= SEEN
    columns, rows = np.flatnonzero(seen.any(0)), np.flatnonzero(seen.any(1))
    return len(columns) > 0 and bool(min(np.ptp(columns), np.ptp(rows)) >= SMALLEST)


def _is_finished_in_crop(settings: MergeSettings) -> bool:
    late_color = settings.is_seamless and settings.color != "none"
    return bool(
        late_color
        or settings.mode == "seamless-hist-match"
        or settings.motion_blur
        or settings.sharpness
    )


# --- colours ------------------------------------------------------------------------------------


def transfer(
    face: Pixels, there: Pixels, area: Pixels, mode: str, seed: int, variant: str
) -> Pixels:
    """Give a face the colours of what lies there, as `color_transfer` does."""
    crops, targets, masks = batch(face), batch(there), torch.from_numpy(area)[None]
    return unbatch(color_transfer(crops, targets, masks, mode, seed=seed, variant=variant))


def match_histogram(face: Pixels, there: Pixels, area: Pixels, settings: MergeSettings) -> Pixels:
    """Match each channel's values; with `masked_hist_match` all outside the mask is white."""
    white = np.float32(settings.masked_hist_match) * (1 - area)[..., None]
    crops, targets = batch((face + white).clip(0, 1)), batch((there + white).clip(0, 1))
    masks = torch.ones(1, *area.shape)
    threshold = float(settings.hist_match_threshold)
    matched = color_transfer(crops, targets, masks, "hist-match", threshold=threshold)
    return unbatch(matched)


def clone(pasted: Pixels, picture: Pixels, mask: Pixels, variant: str = "dfl") -> Pixels:
    """Poisson cloning of what the mask shows; the rest of the part is the picture's.

    A mask reaches the part's edge only where that is the frame's own. There OpenCV, which
    DeepFaceLab calls, leaves the frame's outermost pixels out and centres what is left where the
    middle was before: a face whose masked part has an odd side moves by one pixel. `dfl` does as
    they do, `exact` puts the face where it belongs.
    """
    level = next((i / 10 for i in range(1, 10) if (mask > i / 10).any()), None)
    if level is None:
        return pasted
    inside = mask > level
    x, y, width, height = cv2.boundingRect(inside.view(np.uint8))
    middle = x + width // 2, y + height // 2
    if variant == "dfl":
        inside[[0, -1]] = inside[:, [0, -1]] = False
        x, y, width, height = cv2.boundingRect(inside.view(np.uint8))
    x_to, y_to = middle[0] - width // 2, middle[1] - height // 2
    there = slice(y_to, y_to + height), slice(x_to, x_to + width)
    box = slice(y, y + height), slice(x, x + width)
    result = picture.copy()
    cloned = seamless(
        batch(pasted[box]), batch(picture[there]), torch.from_numpy(inside[box]).float()[None]
    )
    result[there] = unbatch(cloned)
    return result


def batch(picture: Pixels) -> torch.Tensor:  # [H, W, 3] -> [1, 3, H, W]
    return torch.from_numpy(np.ascontiguousarray(picture.transpose(2, 0, 1)))[None]


def unbatch(pictures: torch.Tensor) -> Pixels:
    return np.ascontiguousarray(pictures[0].numpy().transpose(1, 2, 0))


def mixed(below: Pixels, above: Pixels, share: Pixels) -> Pixels:  # share: [H, W]
    """`share` of what is above, the rest of what is below."""
    return below + share[..., None] * (above - below)


# --- there and back -----------------------------------------------------------------------------


def zoomed(face_scale: int) -> float:
    return 1 + 0.01 * face_scale


def scaled(to_crop: Array, size: int, scale: float) -> Array:
    """A matrix to a crop that shows less, enlarged, about the same middle."""
    result = to_crop * scale
    result[:, 2] += (1 - scale) * size / 2
    return result


def warp(picture: Pixels, to_crop: Array, size: tuple[int, int]) -> Pixels:
    """The crop of a picture; what lies outside is black."""
    crop: Pixels = cv2.warpAffine(picture, to_crop, size, flags=cv2.INTER_CUBIC)
    return crop.clip(0, 1)


def unwarp(
    crop: Pixels, to_crop: Array, width: int, height: int, outside: int = cv2.BORDER_REPLICATE
) -> Pixels:
    """A crop back where it came from."""
    flags = cv2.INTER_CUBIC | cv2.WARP_INVERSE_MAP
    back: Pixels = cv2.warpAffine(crop, to_crop, (width, height), flags=flags, borderMode=outside)
    return back.clip(0, 1)
