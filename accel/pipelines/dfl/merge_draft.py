"""A frame to be merged in fewer pixels, for a picture soon, and how it is known when to make one.

Frame, faces, what the networks said and the settings shrink together, so that a draft looks as the
exact picture does from further away, for a quarter of its work.
"""

from __future__ import annotations

import math
from collections.abc import Hashable
from dataclasses import replace

import cv2
import torch

from accel.faces.merge_mask import Pixels, Prediction
from accel.faces.merge_place import Motion, Place
from accel.faces.merge_settings import MASKS, MergeSettings
from accel.kernels import planes_to_rgb, rgb_to_planes
from accel.kernels.planes import Planes
from accel.pipelines.dfl.merge_faces import FrameFaces

DRAFT_PX = 960  # no side of a draft is longer
LEAST_FACE_PX, LARGE_FACE_PX = 16, 256  # some color transfers take as long as a face has pixels
SOON_S = 0.07  # a picture that takes longer is preceded by a draft
EXACT, DRAFT, ROUGH = range(3)  # rough: a draft without what only networks can tell


def draft_scale(planes: Planes) -> float:
    """How large a draft is, as a part of its frame."""
    return min(0.5, DRAFT_PX / max(planes.width, planes.height))


def shrunk_planes(planes: Planes, scale: float) -> Planes:
    deep = torch.uint16 if planes.layout.bits > 8 else torch.uint8
    rgb = planes_to_rgb(planes, dtype=deep).numpy()
    size = max(1, round(planes.width * scale)), max(1, round(planes.height * scale))
    less = cv2.resize(rgb, size, interpolation=cv2.INTER_AREA)
    return rgb_to_planes(torch.from_numpy(less), planes.layout)


def shrunk_faces(faces: FrameFaces, scale: float) -> FrameFaces:
    places = [  # the middle of the first pixel is 0, its corner is what stays
        Place((place.landmarks + 0.5) * scale - 0.5, place.face_type, place.expand)
        for place in faces.places
    ]
    motions = [Motion(motion.length * scale, motion.degrees) for motion in faces.motions]
    return FrameFaces(places, faces.tracks, motions)


def shrunk_prediction(prediction: Prediction, scale: float) -> Prediction:
    px = max(LEAST_FACE_PX, round(prediction.px * scale))
    return Prediction(
        *(_smaller(p, px) for p in (prediction.face, prediction.mask, prediction.mask_dst))
    )


def complete_shrunk(small: Prediction, prediction: Prediction) -> None:
    """Add what networks have said since."""
    if small.enhanced is None and prediction.enhanced is not None:
        share = small.px / prediction.px
        large = min(round(prediction.large_px * share), max(small.px, LARGE_FACE_PX))
        small.enhanced = _smaller(prediction.enhanced, large)
    small.xseg_prd, small.xseg_dst = prediction.xseg_prd, prediction.xseg_dst


def _smaller(picture: Pixels, px: int) -> Pixels:
    less: Pixels = cv2.resize(picture, (px, px), interpolation=cv2.INTER_AREA)
    return less


def shrunk_settings(settings: MergeSettings, scale: float, *, is_rough: bool) -> MergeSettings:
    """Settings that do to a shrunk frame what these do to the whole one.

    is_rough: without what networks may not have said yet, or what takes longest to put to use.
    """
    softer = _passes(-settings.sharpness, scale, 10)
    sharper = round(settings.sharpness * scale * 0.8)  # edges are a pixel wide there and here
    small = replace(
        settings,
        erode=round(settings.erode * scale),
        blur=round(settings.blur * scale),
        denoise=_passes(settings.denoise, scale, 100),
        sharpness=-softer if settings.sharpness < 0 else sharper,
        bicubic=max(0, math.floor(101 - (101 - settings.bicubic) / scale)),
    )
    if is_rough:
        return replace(small, super_resolution=0, mask=MASKS[4] if small.needs_xseg else small.mask)
    return small


def _passes(power: int, scale: float, whole: int) -> int:
    """Power of repeated medians; from `whole` on each pass counts fully.

    Fitted on frames of films: at half the size within 40 dB of what the whole frame becomes.
    """
    return round(scale * min(power, whole) + scale**3 * max(power - whole, 0))


class Pace:
    """How long pictures took, by their kind and by what had changed since the one before."""

    def __init__(self) -> None:
        self._seconds: dict[Hashable, float] = {}

    def note(self, level: int, kind: Hashable, seconds: float) -> None:
        self._seconds[level, kind] = seconds

    def expected(self, level: int, kind: Hashable) -> float:
        """Seconds. What was never made is tried as a draft, not waited for as the exact picture."""
        return self._seconds.get((level, kind), math.inf if level == EXACT else 0.0)


def kind_of(settings: MergeSettings, last: MergeSettings | None, faces: FrameFaces) -> Hashable:
    """What decides how long a picture takes after one with the settings `last`, if there was."""
    changes = None if last is None else frozenset(settings.differences(last))
    sides = sum(place.side for place in faces.places)
    return (
        changes, settings.mode, settings.color, bool(settings.super_resolution),
        settings.denoise // 50, bool(settings.bicubic), bool(settings.color_degrade),
        int(sides).bit_length(),
    )  # fmt: skip
