"""Put a face that a trained autoencoder made into its frame, the way DeepFaceLab's merger does.

Everything happens in the face's part of the frame: what lies outside the crop's square cannot
change, so it is not looked at. Pictures are [H, W, 3] float32 RGB 0..1. The order of the steps, and
what each setting means, is DeepFaceLab's; a colour transfer draws its directions from a seed, so
that equal input gives equal output and a track does not flicker.
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
import numpy.typing as npt
import torch

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


@dataclass(frozen=True)
class Merged:
    """One face's part of a frame after merging."""

    picture: Pixels  # [H, W, 3]
    mask: Pixels  # [H, W] how much of it is the new face
    changed: npt.NDArray[np.bool_]  # [H, W] nothing else differs from what was there


def input_crop(picture: Pixels, place: Place, px: int) -> Pixels:  # [px, px, 3]
    """What the network is shown: the face, upright."""
    return warp(picture, crop_matrix(place.landmarks, place.face_type, px), (px, px))


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
) -> Merged:
    """Merge one face.

    motion: of the face, for `motion_blur`. seed, variant: of the colour transfer, see there.
    Raises ConfigError for a mask that needs an XSeg network whose masks are not there.
    """
    px = prediction.px
    size = px * FINER if settings.super_resolution else px
    height, width = picture.shape[:2]
    to_crop = crop_matrix(place.landmarks, place.face_type, size)
    face = predicted_face(prediction, settings.super_resolution)
    hull = np.zeros((size, size), np.float32)
    if settings.mask == "dst":
        hull = warp(hull_mask(place.landmarks, height, width, place.expand), to_crop, (size, size))
    chosen = choose_mask(settings, prediction, hull, size)
    is_raw = settings.mode.startswith("raw")
    shaped = resized(chosen, FINER * px) if is_raw else shape_mask(chosen, settings, px)
    zoom = zoomed(settings.face_scale)
    back = scaled(crop_matrix(place.landmarks, place.face_type, FINER * px), FINER * px, zoom)
    mask = unwarp(shaped, back, width, height, outside=cv2.BORDER_CONSTANT)
    mask[mask < FAINTEST] = 0
    if settings.mode == "original":
        return Merged(picture, mask, np.zeros(mask.shape, np.bool_))
    to_paste = scaled(to_crop, size, zoom)
    if is_raw:
        return _raw(picture, face, mask, to_paste)
    if not _is_large_enough(mask):
        return Merged(picture if background is None else background, mask, mask > 1)
    there = warp(picture, to_crop, (size, size))
    area = (resized(shaped, size) > 0).astype(np.float32)
    if not settings.is_seamless and settings.color != "none":
        face = transfer(face, there, area, settings.color, seed, variant)
    if settings.mode == "hist-match":
        face = match_histogram(face, there, area, settings)
    pasted = unwarp(face, to_paste, width, height)
    if settings.is_seamless:
        pasted = clone(pasted, picture, mask)
    merged = mixed(picture, pasted, mask)
    if _is_finished_in_crop(settings) or background is not None:
        crop = warp(merged, to_crop, (size, size))
        crop = _finish(crop, there, area, settings, motion, seed, variant)
        pasted = unwarp(crop, to_crop, width, height)
        merged = mixed(picture if background is None else background, pasted, mask).clip(0, 1)
    return Merged(merged, mask, mask > 0)


def predicted_face(prediction: Prediction, super_resolution: int) -> Pixels:
    """The face as it is pasted: enlarged, with so many per cent of what super-resolution drew."""
    if not super_resolution:
        return prediction.face
    size, share = prediction.px * FINER, super_resolution / 100
    # Linear, as what is mixed in brings the detail.
    large: Pixels = cv2.resize(prediction.face, (size, size))
    if prediction.enhanced is None:
        return large
    return mixed(large, prediction.enhanced, np.full((size, size), share, np.float32))


def _raw(picture: Pixels, face: Pixels, mask: Pixels, to_paste: Array) -> Merged:
    height, width = picture.shape[:2]
    square = np.ones(face.shape[:2], np.float32)
    shown = unwarp(square, to_paste, width, height, outside=cv2.BORDER_CONSTANT)
    pasted = unwarp(face, to_paste, width, height)
    return Merged(mixed(picture, pasted, shown), mask, shown > 0)


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


def _finish(
    crop: Pixels,
    there: Pixels,
    area: Pixels,
    settings: MergeSettings,
    motion: Motion,
    seed: int,
    variant: str,
) -> Pixels:
    """What is done to the pasted face, seen upright again."""
    if settings.is_seamless and settings.color != "none":
        crop = transfer(crop, there, area, settings.color, seed, variant)
    if settings.mode == "seamless-hist-match":
        crop = match_histogram(crop, there, np.ones_like(area), settings)
    power = motion.length * settings.motion_blur / 100
    if settings.motion_blur and power >= 1:
        twice = 2 if settings.super_resolution else 1
        crop = motion_blur(crop, power * twice, motion.degrees)
    return sharpen(crop, settings.sharpen, settings.sharpness)


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


def clone(pasted: Pixels, picture: Pixels, mask: Pixels) -> Pixels:
    """Poisson cloning of what the mask shows; the rest of the part is the picture's."""
    level = next((i / 10 for i in range(1, 10) if (mask > i / 10).any()), None)
    if level is None:
        return pasted
    inside = mask > level
    columns, rows = np.flatnonzero(inside.any(0)), np.flatnonzero(inside.any(1))
    y0, y1, x0, x1 = rows[0], rows[-1] + 1, columns[0], columns[-1] + 1
    box = slice(y0, y1), slice(x0, x1)
    result = picture.copy()
    cloned = seamless(
        batch(pasted[box]), batch(picture[box]), torch.from_numpy(inside[box]).float()[None]
    )
    result[box] = unbatch(cloned)
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
