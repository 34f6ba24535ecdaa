"""Crops by plane-wise warp: as the reference kernel cuts them, and as OpenCV warps RGB."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
import torch

from accel.faces import cut as cut_module
from accel.faces.crops import picture_planes
from accel.faces.cut import cut_faces, cut_floats, cut_jpegs
from accel.kernels.crop import crop
from tests.faces.film import planes_of


def smooth_picture(size=(400, 300)):
    rng = np.random.default_rng(3)
    noise = rng.integers(0, 256, (size[1], size[0], 3)).astype(np.uint8)
    return cv2.normalize(cv2.GaussianBlur(noise, (0, 0), 4), None, 0, 255, cv2.NORM_MINMAX)


def turned(scale, angle=0.3, shift=(20.0, -30.0)):
    c, s = scale * np.cos(angle), scale * np.sin(angle)
    return np.array([[c, -s, shift[0]], [s, c, shift[1]]])


def psnr(one, other):
    error = ((one.astype(float) - other.astype(float)) ** 2).mean()
    return 10 * np.log10(255**2 / max(error, 1e-9))


def reference(planes, matrices, size):
    m = torch.from_numpy(np.asarray(matrices, np.float32))
    out = crop(planes, m, size, scale=255.0, layout="NHWC", bgr=True, border="zero")
    return out.round().to(torch.uint8).numpy()


@pytest.mark.parametrize("scale", [2.0, 1.0, 0.7, 0.4, 0.15])
@pytest.mark.parametrize("kind", ["yuv", "rgb"])
def test_agrees_with_the_kernel(scale, kind):
    rgb = smooth_picture()
    planes = planes_of(rgb) if kind == "yuv" else picture_planes(rgb)
    size = int(180 * min(scale, 1))
    matrix = turned(scale, shift=(0.25 * size, -0.1 * size))
    got = cut_faces(planes, [matrix], size)
    assert got.dtype == np.uint8
    inside = slice(size // 3, 2 * size // 3)
    expected = reference(planes, [matrix], size)
    assert psnr(got[:, inside, inside], expected[:, inside, inside]) > 42


def test_agrees_with_opencv_where_it_enlarges():
    rgb = cv2.GaussianBlur(smooth_picture(), (0, 0), 1)
    matrix = turned(1.5)
    expected = cv2.warpAffine(rgb[..., ::-1], matrix, (200, 200))
    assert psnr(cut_faces(picture_planes(rgb), [matrix], 200)[0], expected) > 48


def test_no_alias_where_it_shrinks():
    """Stripes finer than a pixel of the crop become grey, not wide stripes."""
    rgb = np.zeros((512, 512, 3), np.uint8)
    rgb[:, ::3] = 255
    flat = turned(0.3, 0.0, (0, 0))
    inside = slice(16, 112)
    got = cut_faces(picture_planes(rgb), [flat], 128)[0, inside, inside]
    plain = cv2.warpAffine(rgb, flat, (128, 128))[inside, inside]
    assert got.std() < 0.4 * plain.std()


def test_outside_is_black_and_several_come_at_once():
    planes = planes_of(smooth_picture())
    away, home = turned(1.0, 0.0, (5000, 0)), turned(1.0, 0.0, (0, 0))
    got = cut_faces(planes, [away, home, away], 64)
    assert got.shape == (3, 64, 64, 3)
    assert got[0].max() == got[2].max() == 0
    assert got[1].std() > 10


def test_ten_bits_are_cut_too():
    rgb = smooth_picture()
    matrix = turned(1.2)
    deep, plain = (cut_faces(planes_of(rgb, bits), [matrix], 96)[0] for bits in (10, 8))
    assert psnr(deep, plain) > 40


@pytest.mark.parametrize("kind", ["yuv", "rgb", "ten bits", "not native"])
@pytest.mark.parametrize("scale", [1.6, 0.4])
def test_jpegs_show_what_is_cut(kind, scale, monkeypatch):
    rgb = cv2.GaussianBlur(smooth_picture(), (0, 0), 4)
    if kind == "not native":
        monkeypatch.setattr(cut_module, "can_cut_jpeg", lambda: False)
    planes = picture_planes(rgb) if kind == "rgb" else planes_of(rgb, 10 if kind[0] == "t" else 8)
    matrices = [turned(scale), turned(scale, 0.1)]
    pictures = cut_faces(planes, matrices, 120)
    jpegs = cut_jpegs(planes, matrices, 120, quality=95)
    for picture, jpeg in zip(pictures, jpegs):
        decoded = cv2.imdecode(np.frombuffer(jpeg, np.uint8), cv2.IMREAD_COLOR)
        assert psnr(decoded, picture) > 38


def test_red_and_blue_of_a_picture_are_as_sharp_as_green():
    """Planes of colours were once sampled at half the resolution, as chroma is."""
    fine = np.zeros((64, 64, 3), np.uint8)
    fine[:, ::2] = 255
    still = turned(1.0, 0.0, (0, 0))
    seen = cut_floats(picture_planes(fine), [still], 64)[0]
    np.testing.assert_allclose(seen, fine / 255, atol=1e-5)
