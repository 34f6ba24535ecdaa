from __future__ import annotations

import cv2
import numpy as np
import pytest
import torch

from accel.faces import scene
from accel.faces.scene import difference, mark_cuts, thumbnail
from accel.kernels.planes import Planes, yuv_layout
from tests.faces.film import grey, move, picture, planes_of, portrait


def cuts(*frames: np.ndarray) -> list[int]:
    marked = list(mark_cuts((i, planes_of(f)) for i, f in enumerate(frames)))
    assert [token for token, *_ in marked] == list(range(len(frames)))
    return [token for token, _, cut, _ in marked if cut]


HERE, THERE = grey(1), grey(2)


def test_the_first_frame_begins_a_scene_and_a_cut_the_next():
    assert cuts(*[HERE] * 4, *[THERE] * 4) == [0, 4]
    assert cuts() == []
    assert cuts(HERE) == [0]


def test_a_cut_to_the_mirrored_picture():
    off_middle = picture(move(dx=-60))
    assert cuts(*[off_middle] * 3, *[off_middle[:, ::-1]] * 3) == [0, 3]


def test_one_and_two_frame_flashes_are_no_cuts():
    white = np.full_like(HERE, 250)
    assert cuts(*[HERE] * 4, white, *[HERE] * 4) == [0]
    assert cuts(*[HERE] * 4, white, white, *[HERE] * 4) == [0]


def test_a_change_of_exposure_is_no_cut():
    dark = (HERE * 0.55).astype(np.uint8)
    assert cuts(*[HERE] * 4, *[dark] * 4) == [0]


def test_a_pan_and_a_cross_fade_are_no_cuts():
    wide = cv2.resize(portrait(), (1024, 768))
    pan = [wide[200:440, 14 * i : 14 * i + 320] for i in range(20)]
    assert cuts(*pan) == [0]
    fade = [cv2.addWeighted(HERE, 1 - i / 15, THERE, i / 15, 0) for i in range(16)]
    assert cuts(*fade) == [0]


def test_someone_walking_into_the_picture_is_no_cut():
    assert cuts(*[picture(move(dx=-200 + 14 * i)) for i in range(20)]) == [0]


def test_noise_on_a_dark_wall_is_no_cut():
    rng = np.random.default_rng(0)
    assert cuts(*[rng.integers(10, 20, (240, 320, 3)).astype(np.uint8) for _ in range(8)]) == [0]


def test_difference_of_a_picture_and_itself_is_nothing():
    thumb = thumbnail(planes_of(HERE))
    assert difference(thumb, thumb) < 1e-6
    assert difference(thumb, thumb * 0.7) < 0.1


def test_thumbnails_average_and_know_their_bits():
    for bits, dtype in ((8, np.uint8), (10, np.uint16)):
        top = (1 << bits) - 1
        luma = np.zeros((540, 960), dtype)
        luma[:, ::2] = top
        chroma = torch.zeros(270, 480, dtype=torch.uint8 if bits == 8 else torch.uint16)
        planes = Planes(torch.from_numpy(luma), chroma, chroma, yuv_layout(bits=bits))
        thumb = thumbnail(planes)
        assert thumb.shape == (27, 48)
        np.testing.assert_allclose(thumb, 0.5, atol=0.01)


@pytest.mark.skipif(scene.native is None, reason="needs the native module")
def test_native_code_gives_the_same(monkeypatch):
    rng = np.random.default_rng(0)
    pictures = [planes_of(p) for p in (HERE, THERE, picture(move(dx=30)), HERE // 3)]
    pictures += [
        planes_of(rng.integers(0, 256, size, np.uint8)) for size in ((97, 61, 3), (3, 2, 3))
    ]
    ours = [thumbnail(p) for p in pictures]
    pairs = [(a, b) for a in ours for b in ours]
    apart = [difference(a, b) for a, b in pairs]
    monkeypatch.setattr(scene, "native", None)
    for native, plain in zip(ours, map(thumbnail, pictures)):
        np.testing.assert_allclose(native, plain, atol=1e-6)
    # A value on the border of two tones may fall on either side of it.
    np.testing.assert_allclose(apart, [difference(a, b) for a, b in pairs], atol=0.01)


def test_tiny_frames():
    assert cuts(*[np.full((2, 2, 3), v, np.uint8) for v in (9, 9, 9)]) == [0]
