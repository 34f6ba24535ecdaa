"""Drafts: a frame merged in fewer pixels looks as the exact picture does from further away."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
import torch

from accel.faces.face_types import FaceType
from accel.faces.merge_mask import Prediction
from accel.faces.merge_place import Motion, Place
from accel.faces.merge_settings import MASKS, MODES, MergeSettings
from accel.kernels import planes_to_rgb, rgb_to_planes
from accel.kernels.planes import gbr_layout, yuv_layout
from accel.pipelines.dfl.merge_draft import (
    DRAFT,
    EXACT,
    Pace,
    draft_scale,
    kind_of,
    shrunk_faces,
    shrunk_planes,
    shrunk_settings,
)
from accel.pipelines.dfl.merge_faces import FrameFaces
from accel.pipelines.dfl.merge_looked import Looked
from tests.pipelines.dfl.merge_clip import landmarks

HEIGHT, WIDTH, PX = 360, 480, 64


def frame() -> np.ndarray:
    """A smooth picture with edges."""
    y, x = np.mgrid[:HEIGHT, :WIDTH].astype(np.float32)
    picture = np.stack([60 + x / 4, 80 + y / 4, 120 + 40 * np.sin(x / 30) * np.cos(y / 40)], 2)
    cv2.circle(picture, (250, 170), 90, (200, 150, 120), -1)
    cv2.ellipse(picture, (220, 150), (25, 12), 0, 0, 360, (40, 40, 60), -1)
    return cv2.GaussianBlur(picture, (0, 0), 1.5).clip(0, 255).astype(np.uint8)


def looked(layout=None) -> Looked:
    y, x = np.mgrid[-1 : 1 : PX * 1j, -1 : 1 : PX * 1j]
    face = np.stack([0.6 + 0.2 * x, 0.4 + 0.2 * y, 0.3 + 0.1 * x * y], 2).astype(np.float32)
    large = cv2.resize(face, (4 * PX, 4 * PX), interpolation=cv2.INTER_CUBIC)
    mask = (1 / (1 + np.exp((np.hypot(x, y) - 0.7) * 20))).astype(np.float32)
    faces = FrameFaces([Place(landmarks(170, 90, 160), FaceType.FULL)], [0], [Motion(30.0, 20.0)])
    planes = rgb_to_planes(torch.from_numpy(frame()), layout or gbr_layout())
    one = Looked(planes, faces)
    one.predictions = [Prediction(face, mask, mask, enhanced=large)]
    return one


CASES = [
    *({"mode": mode} for mode in MODES[1:6]), {"color": "sot-m"}, {"color": "mix-m"},
    {"mask": "full"}, {"erode": 30}, {"erode": -30}, {"blur": 80}, {"motion_blur": 60},
    {"face_scale": 20}, {"sharpen": "gaussian", "sharpness": 8}, {"sharpness": -60},
    {"denoise": 40}, {"denoise": 300}, {"bicubic": 40}, {"bicubic": 80}, {"color_degrade": 50},
    {"super_resolution": 60, "mode": "seamless", "color": "sot-m", "erode": 10, "blur": 20},
    {"denoise": 50, "bicubic": 20, "color_degrade": 40, "mode": "seamless-hist-match"},
]  # fmt: skip


@pytest.mark.parametrize("changes", CASES, ids=str)
def test_a_draft_looks_as_the_exact_picture_from_further_away(changes):
    settings, whole = MergeSettings(**changes), looked()
    exact = whole.merged(settings)
    small = whole.small()
    draft = small.merged(shrunk_settings(settings, small.scale, is_rough=False))
    assert draft.shape == (HEIGHT // 2, WIDTH // 2, 3)
    expected = cv2.resize(exact, (WIDTH // 2, HEIGHT // 2), interpolation=cv2.INTER_AREA)
    error = np.sqrt(((draft.astype(float) - expected) ** 2).mean())
    unchanged = cv2.resize(frame(), (WIDTH // 2, HEIGHT // 2), interpolation=cv2.INTER_AREA)
    change = np.sqrt(((unchanged.astype(float) - expected) ** 2).mean())
    assert error < 255 * 10 ** (-32 / 20)
    assert error < change / 2 or change < 2


@pytest.mark.parametrize("layout", [
    gbr_layout(), yuv_layout(), yuv_layout(bits=10, shift_y=0, siting="topleft"),
], ids=["rgb", "420", "10 bit 422"])  # fmt: skip
@pytest.mark.parametrize("size", [(90, 120), (91, 121), (5, 3), (1, 1)], ids=str)
def test_planes_of_any_kind_shrink(layout, size):
    picture = torch.from_numpy(cv2.resize(frame(), size[::-1], interpolation=cv2.INTER_AREA))
    small = shrunk_planes(rgb_to_planes(picture, layout), 0.5)
    assert (small.height, small.width) == tuple(max(1, round(n / 2)) for n in size)
    assert small.layout is layout
    rgb = planes_to_rgb(small).numpy().astype(float)
    assert np.abs(rgb.mean((0, 1)) - picture.numpy().mean((0, 1))).max() < 12


def test_what_lies_on_a_corner_of_the_picture_stays_there():
    faces = FrameFaces(
        [Place(np.array([[-0.5, -0.5], [479.5, 359.5]]), FaceType.FULL)], [0], [Motion(8.0, 45.0)]
    )
    small = shrunk_faces(faces, 0.5)
    assert small.places[0].landmarks.tolist() == [[-0.5, -0.5], [239.5, 179.5]]
    assert small.motions == [Motion(4.0, 45.0)]


def test_no_side_of_a_draft_is_long():
    def scale(width, height):
        picture = torch.zeros(height, width, 3, dtype=torch.uint8)
        return draft_scale(rgb_to_planes(picture, yuv_layout()))

    assert scale(1920, 1080) == scale(1080, 1920) == scale(320, 240) == 0.5
    assert scale(3840, 2160) == 0.25


def test_a_rough_draft_needs_nothing_that_a_network_has_not_said():
    settings = MergeSettings(super_resolution=40, mask="XSeg-prd")
    rough = shrunk_settings(settings, 0.5, is_rough=True)
    assert (rough.super_resolution, rough.mask) == (0, MASKS[4])
    whole = looked()
    whole.predictions[0].enhanced = None
    assert not whole.has(settings)
    assert whole.small().merged(rough).shape == (HEIGHT // 2, WIDTH // 2, 3)


def test_what_a_network_says_later_reaches_the_draft():
    whole = looked()
    enhanced, whole.predictions[0].enhanced = whole.predictions[0].enhanced, None
    settings = shrunk_settings(MergeSettings(super_resolution=80), 0.5, is_rough=False)
    assert not whole.small().has(settings)
    whole.predictions[0].enhanced = enhanced
    assert whole.small().has(settings)


def test_the_exact_picture_is_waited_for_only_if_its_kind_was_quick_before():
    pace, faces = Pace(), looked().faces
    before, after = MergeSettings(erode=3), MergeSettings(erode=4)
    kind = kind_of(after, before, faces)
    assert pace.expected(EXACT, kind) == float("inf")
    assert pace.expected(DRAFT, kind) == 0
    pace.note(EXACT, kind, 0.03)
    assert pace.expected(EXACT, kind) == 0.03
    assert kind_of(MergeSettings(erode=9), after, faces) == kind  # one slider, another step
    for other in (MergeSettings(erode=4, mode="seamless"), MergeSettings(erode=3, blur=1)):
        assert pace.expected(EXACT, kind_of(other, before, faces)) == float("inf")
    assert pace.expected(EXACT, kind_of(after, None, faces)) == float("inf")
