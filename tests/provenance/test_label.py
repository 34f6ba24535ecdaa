"""The visible label: in its corner, readable, upright, nothing else touched."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from accel.core import ConfigError
from accel.kernels import Planes, yuv_layout
from accel.provenance.label import WORDS, Label, local_language
from accel.weights.assets import asset
from tests.provenance.film import planes_of


def gray_planes(height: int, width: int, code: int = 128) -> Planes:
    luma = torch.full((height, width), code, dtype=torch.uint8)
    chroma = torch.full((height // 2, width // 2), 128, dtype=torch.uint8)
    return Planes(luma, chroma, chroma.clone(), yuv_layout())


@pytest.mark.parametrize("code", [16, 128, 235])
@pytest.mark.parametrize("which", WORDS, ids=" ".join)
def test_letters_stand_out_from_their_ground(which, code):
    planes = gray_planes(360, 640, code)
    label = Label(which[0], language=which[1])
    label.draw(planes)
    x0, y0, x1, y1 = label.box(360, 640)
    inside = planes.c0[y0:y1, x0:x1].numpy()
    assert inside.max() >= 220
    assert np.median(inside) <= 110
    assert 0.05 < (inside > 180).mean() < 0.5
    assert y1 - y0 >= 0.05 * 360


def test_everything_else_stays():
    before = planes_of(360, 640)
    after = before.clone()
    label = Label("face_swap", language="en")
    label.draw(after)
    x0, y0, x1, y1 = label.box(360, 640)
    changed = torch.nonzero(after.c0 != before.c0)
    assert len(changed) > 500
    assert changed[:, 0].min() >= y0 - 1
    assert changed[:, 1].min() >= x0 - 1
    assert changed[:, 0].max() <= y1
    assert changed[:, 1].max() <= x1
    assert x0 > 320
    assert y0 > 300


@pytest.mark.parametrize("bits", [8, 10, 16])
def test_black_and_white_of_full_range_stay_in_range(bits):
    layout, top = yuv_layout(full_range=True, bits=bits), (1 << bits) - 1
    kind = torch.uint8 if bits == 8 else torch.uint16
    drawn = []
    for code in (0, top // 2, top):
        luma = torch.full((360, 640), code, dtype=torch.int32).to(kind)
        chroma = torch.full((180, 320), code, dtype=torch.int32).to(kind)
        planes = Planes(luma, chroma, chroma.clone(), layout)
        Label("face_swap", language="en").draw(planes)
        drawn.append(planes.c0.to(torch.int32))
    black, grey, white = drawn
    assert (black <= grey).all()
    assert (grey <= white).all()
    assert white[0, 0] == white.max() == top
    assert black.max() > 0.95 * top  # the letters are white


@pytest.mark.parametrize("mirrored", [False, True])
@pytest.mark.parametrize("rotation", [0, 90, 180, 270])
def test_stands_upright_for_the_viewer(rotation, mirrored):
    shown = gray_planes(480, 640)
    Label("face_swap", language="ko").draw(shown)
    size = (640, 480) if rotation in (90, 270) else (480, 640)
    stored = gray_planes(*size)
    Label("face_swap", language="ko", rotation=rotation, mirrored=mirrored).draw(stored)
    seen = stored.c0.numpy()
    seen = np.rot90(seen[:, ::-1] if mirrored else seen, -(rotation // 90))
    apart = np.abs(seen.astype(int) - shown.c0.numpy())
    assert (apart > 8).mean() < 0.001


@pytest.mark.parametrize("size", [(64, 64), (16, 400), (400, 16), (1080, 1920)])
def test_any_size_takes_it(size):
    planes = gray_planes(*size)
    Label("face_swap", language="en").draw(planes)
    assert (planes.c0 != 128).any()


@pytest.mark.parametrize("language", ["ko", "en"])
@pytest.mark.parametrize("size", [(176, 144), (256, 96), (64, 80), (144, 176)])
def test_words_of_small_pictures_are_smaller_and_never_cut(size, language):
    planes, label = gray_planes(*size), Label("face_swap", language=language)
    label.draw(planes)
    x0, y0, x1, y1 = label.box(*size)
    bright = planes.c0[y0:y1, x0:x1] > 160
    columns = torch.nonzero(bright.any(0))
    assert columns.min() >= 1  # ground is left on both sides of the letters
    assert columns.max() <= x1 - x0 - 2


def test_language_follows_the_user(monkeypatch):
    for name in ("LC_ALL", "LC_MESSAGES", "LANGUAGE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("LANG", "ko_KR.UTF-8")
    assert local_language() == "ko"
    assert Label("generate").words == "AI 생성"
    monkeypatch.setenv("LANG", "C")
    assert local_language() == "en"


def test_refuses_other_languages_and_turns():
    with pytest.raises(ConfigError, match="in ko or en"):
        Label("face_swap", language="fr")
    with pytest.raises(ConfigError, match="multiple of 90"):
        Label("face_swap", language="en", rotation=45)


def test_the_picture_of_the_words_is_the_one_shipped():
    assert asset("labels.png").is_file()
