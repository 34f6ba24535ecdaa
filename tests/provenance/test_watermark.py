"""The invisible mark: how well it hides, what it survives, that it is not seen where none is."""

from __future__ import annotations

from functools import cache

import cv2
import numpy as np
import pytest
import torch

from accel.core import ConfigError
from accel.kernels import Planes, gbr_layout, yuv_layout
from accel.pipelines.provenance import earlier_mark
from accel.provenance import detector
from accel.provenance.detector import PRESENT, Detector, detect
from accel.provenance.tile import CELL, KEY, SIDE, cells, new_ident, tile
from accel.provenance.watermark import (
    LEAST,
    MOST,
    STILL,
    Mark,
    _enlarged,
    film_strength,
    luma_of,
    pattern,
)
from tests.provenance.film import encode, film, gray, jpeg, lumas, planes_of, portrait

IDENT = "c0ffee123456"


@cache
def marked_still() -> np.ndarray:  # [512, 512] uint8
    rgb = torch.from_numpy(portrait().copy())
    Mark(IDENT).add_rgb(rgb)
    return gray(rgb.numpy())


@cache
def marked_film(frames: int) -> list[Planes]:
    mark = Mark(IDENT)
    out = film(frames)
    for planes in out:
        mark.add(planes)
    return out


@cache
def marked_lumas() -> list[tuple[np.ndarray, float]]:
    return lumas(encode(marked_film(30)))


def seen(frames, change=lambda y: y, *, key=KEY, thorough=True):
    """What a detector finds in decoded frames, each changed."""
    detector = Detector(key=key)
    for luma, weight in frames:
        detector.add(change(luma), weight)
    return detector.find(thorough=thorough)


def psnr(a, b) -> float:
    return float(
        10 * np.log10(255**2 / np.mean((np.asarray(a, float) - np.asarray(b, float)) ** 2))
    )


def test_stays_above_45_db():
    plain, marked = planes_of(360, 640), planes_of(360, 640)
    Mark(IDENT).add(marked)
    assert psnr(plain.c0, marked.c0) >= 45
    assert torch.equal(plain.c1, marked.c1)
    assert psnr(gray(portrait()), marked_still()) >= 45


def test_large_frames_need_less():
    heights = (144, 272, 360, 720, 1080, 2160)
    strengths = [film_strength(height, height * 16 // 9) for height in heights]
    assert strengths == sorted(strengths, reverse=True)
    assert (strengths[0], strengths[-1]) == (MOST, LEAST)
    assert film_strength(1920, 1080) == film_strength(1080, 1920)


@pytest.mark.parametrize(("height", "width"), [(360, 640), (1080, 1920), (272, 640), (720, 406)])
def test_frames_of_a_film_are_marked_in_a_quarter_of_the_places(height, width):
    whole, some = (pattern(IDENT, height, width, sparse=sparse) for sparse in (False, True))
    scale = min(height, width) / SIDE
    rows, columns = (
        ((np.arange(n) + 0.5) / (scale * CELL)).astype(int) % 4 for n in (height, width)
    )
    carried = cells()[np.ix_(rows, columns)]
    assert not some[~carried].any()
    inner = cv2.erode(carried.astype(np.uint8), np.ones((3, 3))) > 0  # an edge may be rounded
    assert np.abs(some[inner].astype(int) - whole[inner]).max() <= 1
    assert 0.2 < carried.mean() < 0.3
    assert torch.equal(Mark(IDENT, strength=STILL).pattern(height, width)[:16, :16],
                       torch.from_numpy(some)[:16, :16])  # fmt: skip


def test_each_quarter_of_a_tile_is_in_one_cell_and_so_is_each_row_and_column():
    assert [list(cells().sum(axis)) for axis in (0, 1)] == [[1] * 4] * 2
    assert (cells().reshape(2, 2, 2, 2).sum((0, 2)) == 1).all()


@pytest.mark.parametrize(("height", "width"), [(360, 640), (1080, 1919), (90, 64)])
def test_a_pattern_is_the_same_whether_it_is_repeated_or_drawn_whole(height, width):
    scale = min(height, width) / SIDE
    whole = _enlarged(tile(KEY, IDENT) * np.float32(STILL), scale, height, width)
    made = pattern(IDENT, height, width, strength=STILL)
    assert np.abs(made.astype(int) - whole).max() <= 1
    assert (made != whole).mean() < 1e-3


def test_one_large_frame_is_read():
    frame = planes_of(1080, 1920)
    before = frame.c0.clone()
    Mark(IDENT).add(frame)
    assert psnr(before, frame.c0) > 50
    assert detect([frame.c0.numpy()], thorough=False).ident == IDENT


def test_a_still_is_marked_more_strongly_than_a_frame_of_its_size():
    plain = torch.full((720, 1280, 3), 128, dtype=torch.uint8)
    rgb, frame = (
        plain.clone(),
        Planes(*plain.permute(2, 0, 1).clone(), yuv_layout(shift_x=0, shift_y=0)),
    )
    Mark(IDENT).add_rgb(rgb)
    Mark(IDENT).add(frame)
    assert 45 <= psnr(plain[:, :, 1], rgb[:, :, 1]) < psnr(plain[:, :, 0], frame.c0) - 3


STILLS = {
    "as made": lambda y: y,
    "jpeg 60": lambda y: jpeg(y, 60),
    "half size": lambda y: jpeg(cv2.resize(y, None, fx=0.5, fy=0.5, interpolation=3), 75),
    "10 % cut off each side": lambda y: jpeg(y[51:-51, 51:-51], 75),
    "10 % cut off two sides": lambda y: jpeg(y[51:, 51:], 75),
    "mirrored": lambda y: jpeg(np.ascontiguousarray(y[:, ::-1]), 75),
    "turned": lambda y: np.rot90(y),
    "mirrored, turned and cut": lambda y: np.rot90(y[:, ::-1], 3)[40:, 40:],
    "with a border": lambda y: np.pad(y, 100),
    "squeezed": lambda y: cv2.resize(y, (384, 512), interpolation=cv2.INTER_AREA),
    "widened": lambda y: cv2.resize(y, (683, 512)),
    "blurred": lambda y: cv2.GaussianBlur(y, (0, 0), 1.0),
    "darker": lambda y: (((y / 255) ** 1.4) * 230 + 10).astype(np.uint8),
}


@pytest.mark.parametrize("change", STILLS, ids=str)
def test_still_is_read_after(change):
    found = detect([STILLS[change](marked_still())])
    assert found.ident == IDENT
    assert found.present


FILMS = {
    "crf 23": lambda y: y,
    "mirrored": lambda y: y[:, ::-1],
    "10 % cut off each side": lambda y: y[36:-36, 64:-64],
}


@pytest.mark.parametrize("change", FILMS, ids=str)
def test_film_is_read_after(change):
    found = seen(marked_lumas()[::2], FILMS[change])
    assert found.ident == IDENT
    assert found.turned == ("mirrored" if change == "mirrored" else "as made")


def test_film_of_half_the_size_is_read():
    assert seen(lumas(encode(marked_film(30), size=(320, 180)))).ident == IDENT


@pytest.mark.parametrize("turn", detector.TURNS, ids=str)
def test_so_weak_a_mark_is_read_where_it_must_lie_alone_in_every_turn(turn):
    weak, frames, draw = Mark(IDENT, strength=0.6), film(3), np.random.default_rng(0)
    for planes in frames:
        weak.add(planes)
    turns, is_mirrored = turn
    turned = Detector()
    for planes in frames:
        luma = planes.c0.numpy() + draw.normal(0, 5, planes.c0.shape)
        turned.add(np.ascontiguousarray(np.rot90(luma[:, ::-1] if is_mirrored else luma, turns)))
    found = turned.find()
    assert found.ident == IDENT
    assert found.turned == detector._turn_name(detector.TURNS.index(turn))
    (all_of_it,) = turned._places([(1.0, 1.0)])
    assert turned._read(all_of_it).ident is None


def test_frames_add_up():
    one = seen(marked_lumas()[10:11], thorough=False)
    many = seen(marked_lumas()[1::3], thorough=False)
    assert many.score > one.score + 2
    assert many.frames == 10


def test_detector_of_another_key_sees_nothing():
    found = seen(marked_lumas()[::3], key=b"another key")
    assert not found.present
    assert found.ident is None


def test_agreement_tells_the_id_from_others():
    found = detect([marked_still()])
    assert found.agreement(IDENT) > 8
    assert abs(found.agreement("0badc0de0001")) < 5


def unmarked(count: int):
    """Crops of the portrait, coloured noise, gratings, flat fields, each at its own size."""
    draw = np.random.default_rng(1)
    picture = gray(portrait())
    for i in range(count):
        height, width = (int(v) for v in draw.integers(96, 513, 2))
        y, x = np.mgrid[:height, :width]
        if i % 4 == 0:
            top, left = int(draw.integers(0, 513 - height)), int(draw.integers(0, 513 - width))
            part = picture[top : top + height, left : left + width]
        elif i % 4 == 1:
            rough = draw.normal(128, 60, (height, width))
            part = cv2.GaussianBlur(rough, (0, 0), float(draw.uniform(0.5, 5))) * 3 - 256
        elif i % 4 == 2:
            a, b = draw.uniform(0.02, 1.5, 2)
            part = 128 + 60 * np.sin(a * x + 1) * np.sin(b * y) + 20 * ((x // 9 + y // 7) % 2)
        else:
            part = np.full((height, width), int(draw.integers(0, 256)))
        yield np.clip(part, 0, 255).astype(np.uint8)


def test_unmarked_pictures_have_no_mark():
    assert max(found.score for found in map(_look, unmarked(12))) < PRESENT - 1


@pytest.mark.exhaustive
@pytest.mark.timeout(1800)
def test_a_thousand_unmarked_pictures_have_no_mark():
    assert max(_look(picture).score for picture in unmarked(1000)) < PRESENT


def _look(picture):
    found = detect([picture])
    assert found.ident is None
    return found


@pytest.mark.slow
@pytest.mark.parametrize(
    "how",
    [
        {"crf": 18}, {"crf": 28}, {"crf": 28, "codec": "libx265", "preset": "fast"},
        {"size": (480, 270)}, {"size": (320, 180)},
    ],
    ids=str,
)  # fmt: skip
def test_three_seconds_are_read_after(how):
    data = encode(marked_film(75), **({"preset": "medium"} | how))
    assert seen(lumas(data)).ident == IDENT


@pytest.mark.slow
@pytest.mark.parametrize("how", [{"crf": 28}, {"size": (640, 360)}], ids=str)
def test_a_film_of_720_lines_is_read_after(how):
    frames, mark = film(30, 720, 1280), Mark(IDENT)
    for planes in frames:
        mark.add(planes)
    assert seen(lumas(encode(frames, **how))).ident == IDENT


@pytest.mark.exhaustive
def test_sixty_other_keys_read_nothing():
    for k in range(60):
        found = seen(marked_lumas()[::6], key=b"key %d" % k)
        assert not found.present


def test_only_changed_samples_are_marked():
    before = planes_of(360, 640)
    after = before.clone()
    after.c0[100:200, 200:400] ^= 1
    swapped = after.clone()
    Mark(IDENT).add(after, before=before)
    assert torch.equal(after.c0[:100], before.c0[:100])
    inside = after.c0[100:200, 200:400].int() - swapped.c0[100:200, 200:400].int()
    assert inside.abs().max() > 1


def test_ten_bits_and_planar_rgb():
    mark = Mark(IDENT)
    deep = planes_of(360, 640)
    codes = deep.c0.to(torch.int32)
    ten = Planes(
        (codes * 4).to(torch.uint16), deep.c1.to(torch.uint16), deep.c2.to(torch.uint16),
        yuv_layout(bits=10),
    )  # fmt: skip
    mark.add(ten)
    assert detect([luma_of(ten)]).ident == IDENT
    rgb = torch.from_numpy(portrait().copy()).permute(2, 0, 1).contiguous()
    planar = Planes(rgb[1], rgb[2], rgb[0], gbr_layout())
    mark.add(planar)
    assert detect([luma_of(planar)]).ident == IDENT


def test_a_second_mark_is_not_read_as_a_wrong_id():
    rgb = torch.from_numpy(portrait().copy())
    Mark("0badc0de0001").add_rgb(rgb)
    Mark(IDENT).add_rgb(rgb)
    found = detect([gray(rgb.numpy())])
    assert found.present
    assert found.ident in (None, IDENT, "0badc0de0001")


@pytest.mark.parametrize("ident", ["", "c0ffee", "C0FFEE123456", "c0ffee1234567"])
def test_refuses_what_is_no_id(ident):
    with pytest.raises(ConfigError, match="twelve digits"):
        Mark(ident)


def test_refuses_frames_of_two_sizes_and_none():
    detector = Detector()
    with pytest.raises(ValueError, match="at least one frame"):
        detector.find()
    detector.add(np.zeros((360, 640), np.float32))
    with pytest.raises(ValueError, match="one size"):
        detector.add(np.zeros((360, 480), np.float32))


def test_ids_differ():
    assert len({new_ident() for _ in range(100)}) == 100


def test_a_rough_look_suspects_a_mark_that_was_cut_or_mirrored_and_none_where_there_is_none():
    def suspects(planes, change=lambda y: y):
        detector = Detector()
        detector.add(change(planes.c0.numpy()))
        return detector.is_suspect()

    plain, marked = planes_of(360, 640), planes_of(360, 640)
    Mark(IDENT).add(marked)
    assert not suspects(plain)
    assert suspects(marked)
    assert suspects(marked, lambda y: y[40:-40, 60:-60])
    assert suspects(marked, lambda y: np.ascontiguousarray(y[:, ::-1]))
    assert suspects(marked, lambda y: cv2.resize(y, (480, 360)))


def test_an_earlier_mark_is_found_in_what_was_cut_since():
    cut = [(y[30:-30, 40:-40], weight) for y, weight in marked_lumas()[:3]]
    assert earlier_mark(cut) == IDENT
    assert earlier_mark(cut, thorough=False) is None
    assert earlier_mark([]) is None
