"""Poisson cloning as DeepFaceLab asks OpenCV for it, wherever in the frame the face is."""

from __future__ import annotations

import cv2
import numpy as np
import pytest

from accel.faces.merge import clone
from tests.pipelines.dfl.merge_formula import clone as formula

HEIGHT, WIDTH = 240, 320
# Middle of an ellipse and its half axes: beyond each edge of the frame, sides even and odd.
PLACES = {
    f"{where}, {'odd' if axis % 2 else 'even'}": (*middle, axis)
    for where, middle in {
        "inside": (160, 120), "left": (20, 120), "right": (300, 120), "top": (160, 15),
        "bottom": (160, 225), "top left": (10, 12), "bottom right": (309, 226),
    }.items()
    for axis in (70, 71)
}  # fmt: skip


def picture(seed: int) -> np.ndarray:  # [H, W, 3] uint8; grain shows a shift by one pixel
    make = np.random.default_rng(seed)
    smooth = cv2.resize(make.random((8, 8, 3)), (WIDTH, HEIGHT), interpolation=cv2.INTER_CUBIC)
    grain = make.normal(0, 0.04, smooth.shape)
    return np.rint((smooth * 0.6 + 0.2 + grain).clip(0, 1) * 255).astype(np.uint8)


def mask_at(x: int, y: int, axis: int) -> np.ndarray:
    mask = np.zeros((HEIGHT, WIDTH), np.float32)
    cv2.ellipse(mask, (x, y), (axis, axis + 20), 10, 0, 360, 1.0, -1)
    return mask


def psnr(one: np.ndarray, two: np.ndarray) -> float:
    apart = (np.asarray(one, np.float64) - two) ** 2
    return float(-10 * np.log10(max(apart.mean(), 1e-12)))


def opencv(face: np.ndarray, frame: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """As DeepFaceLab calls it: about the middle of the mask's rectangle."""
    codes = np.uint8(mask * 255)
    x, y, width, height = cv2.boundingRect(codes)
    middle = int(x + width / 2), int(y + height / 2)
    return cv2.seamlessClone(face, frame, codes, middle, cv2.NORMAL_CLONE)


@pytest.mark.parametrize("where", PLACES)
def test_a_clone_is_opencvs_at_the_frames_edge_too(where):
    mask = mask_at(*PLACES[where])
    face, frame = picture(1), picture(2)
    ours = clone(np.float32(face) / 255, np.float32(frame) / 255, mask)
    theirs = opencv(face, frame, mask)
    seen = mask > 0
    assert psnr(ours[seen], theirs[seen] / 255) > 48
    assert np.abs(ours * 255 - theirs).max() < 2  # they cut off what is behind the point


@pytest.mark.parametrize("variant", ["dfl", "exact"])
@pytest.mark.parametrize("where", PLACES)
def test_a_clone_is_its_formula(where, variant):
    mask = mask_at(*PLACES[where])
    face, frame = (np.float32(picture(seed)) / 255 for seed in (1, 2))
    ours = clone(face, frame, mask, variant)
    assert psnr(ours, formula(face, frame, mask, variant)) > 70


def test_exact_cloning_moves_no_face():
    """A face that is cloned onto itself is itself, and at an edge, too; OpenCV's has moved."""
    face = np.float32(picture(1)) / 255
    mask = mask_at(*PLACES["left, odd"])
    assert np.abs(clone(face, face, mask, "exact") - face).max() < 1e-4
    assert np.abs(clone(face, face, mask, "dfl") - face).max() > 0.1


@pytest.mark.parametrize("variant", ["dfl", "exact"])
def test_a_mask_on_the_outermost_pixels_alone_changes_nothing_else(variant):
    face, frame = (np.float32(picture(seed)) / 255 for seed in (1, 2))
    mask = np.zeros((HEIGHT, WIDTH), np.float32)
    mask[0, 40:90] = 1
    np.testing.assert_allclose(clone(face, frame, mask, variant), frame, atol=1e-6)
