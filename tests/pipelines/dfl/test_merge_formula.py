"""The merger beside its published formulas, combination by combination, and what must never be."""

from __future__ import annotations

import itertools

import cv2
import numpy as np
import pytest
import torch

from accel.faces.face_types import FaceType
from accel.faces.merge_mask import Prediction
from accel.faces.merge_place import Motion, Place
from accel.faces.merge_settings import COLORS, MASKS, MODES, MergeSettings
from accel.kernels import planes_to_rgb, rgb_to_planes
from accel.kernels.planes import gbr_layout, yuv_layout
from accel.pipelines.dfl.merge_faces import FrameFaces
from accel.pipelines.dfl.merge_frame import Kept, merge_frame
from tests.pipelines.dfl.merge_clip import HEIGHT, WIDTH, drawn, landmarks, place
from tests.pipelines.dfl.merge_formula import clone, clone_box, evaluate

PX = 32
CODES = drawn(1)[..., ::-1].copy()
FRAME = np.float32(CODES) / 255
HERE = Place(place(1), FaceType.FULL)
MOTION = Motion(7.0, 30.0)
# Taken in turn, so that every setting meets every mode, mask and transfer.
SETTINGS = (
    {}, {"erode": 9, "blur": 12}, {"erode": -14, "blur": 5}, {"face_scale": 15},
    {"face_scale": -20, "blur": 31}, {"super_resolution": 60}, {"motion_blur": 80},
    {"sharpen": "box", "sharpness": 1}, {"sharpen": "gaussian", "sharpness": 2},
    {"sharpness": -13}, {"denoise": 25}, {"bicubic": 40}, {"hist_match_threshold": 150},
    {"masked_hist_match": False}, {"denoise": 120, "motion_blur": 50, "super_resolution": 30},
)  # fmt: skip
EVERY = [
    {"mode": mode, "mask": mask, "color": color} | SETTINGS[i % len(SETTINGS)]
    for i, (mode, mask, color) in enumerate(itertools.product(MODES, MASKS, COLORS))
    if mode != "raw-predict"
]


def prediction(px: int = PX) -> Prediction:
    y, x = np.mgrid[-1 : 1 : px * 1j, -1 : 1 : px * 1j]
    grain = np.random.default_rng(0).normal(0, 0.02, (px, px, 3))
    face = np.stack([0.6 + 0.2 * x, 0.4 + 0.2 * y, 0.3 + 0.1 * x * y], 2) + grain
    face = face.clip(0, 1).astype(np.float32)
    masks = [(np.hypot(x - s, y) < 0.8).astype(np.float32) for s in (-0.1, 0.1)]
    sharp = cv2.resize(face, (4 * px, 4 * px), interpolation=cv2.INTER_CUBIC).clip(0, 1)
    y, x = np.mgrid[-1:1:256j, -1:1:256j]
    xseg = [(np.hypot(x, y - s) < 0.85).astype(np.float32) for s in (-0.1, 0.1)]
    return Prediction(face, *masks, sharp, *xseg)


def merged(layout, settings, faces=None, made=None, codes=CODES):
    faces = faces or FrameFaces([HERE], [3], [MOTION])
    made = made or [prediction() for _ in faces.places]
    planes = rgb_to_planes(torch.from_numpy(codes), layout)
    return planes, merge_frame(planes, faces, made, settings, seed=4)


def psnr(one: np.ndarray, two: np.ndarray) -> float:
    return float(-10 * np.log10(max(((one - two) ** 2).mean(), 1e-12)))


def least_psnr(settings: MergeSettings) -> float:
    """45 dB, less where the formula itself makes much of little."""
    least = 45.0
    if settings.sharpness > 0:
        least -= 10  # it multiplies what differs by three
    if settings.color.startswith("idt"):
        least -= 2  # rounding tells on which side of a bin's border the black around a face lies
    if "hist-match" in settings.mode and settings.color != "none":
        # Equal values are one level, and rounding before tells whether they are equal.
        least -= 10 if settings.color in ("idt-m", "mix-m", "sot-m") else 5
    return least


def check(changes: dict) -> None:
    settings = MergeSettings(**changes)
    wanted, mask = evaluate(FRAME, HERE, prediction(), settings, MOTION, seed=7)
    planes, got = merged(gbr_layout(), settings)
    rgb = planes_to_rgb(planes).numpy() / 255
    assert np.abs(got.mask - mask).max() < 2e-3
    # Where the face is; elsewhere both are the frame.
    where = mask > 0 if settings.mode != "raw-rgb" else np.ones(mask.shape, bool)
    assert psnr(rgb[where], wanted[where]) > least_psnr(settings), changes
    assert np.abs(rgb - wanted)[~where].max(initial=0) < 2 / 255


@pytest.mark.parametrize("changes", EVERY[::7], ids=lambda c: "-".join(map(str, c.values())))
def test_a_merge_is_its_formula(changes):
    check(changes)


@pytest.mark.slow
@pytest.mark.parametrize(("mode", "mask"), list(itertools.product(MODES[:-1], MASKS)))
def test_every_merge_is_its_formula(mode, mask):
    for changes in EVERY:
        if (changes["mode"], changes["mask"]) == (mode, mask):
            check(changes)


def test_the_formula_clones_as_opencv_does():
    mask = np.zeros((HEIGHT, WIDTH), np.float32)
    cv2.circle(mask, (80, 60), 40, 1.0, -1)
    other = np.roll(FRAME[::-1], 25, 1)
    rows, columns, *_ = clone_box(mask)
    middle = (columns.start + columns.stop) // 2, (rows.start + rows.stop) // 2
    codes = (other * 255).round().astype(np.uint8)
    wanted = cv2.seamlessClone(codes, CODES, np.uint8(mask * 255), middle, cv2.NORMAL_CLONE)
    assert np.abs(clone(other, FRAME, mask) * 255 - wanted).max() < 3


# --- what must never be -------------------------------------------------------------------------

LAYOUTS = {
    "rgb": gbr_layout(),
    "4:2:0": yuv_layout(matrix="bt709"),
    "4:2:0, 10 bits": yuv_layout(matrix="bt2020", bits=10),
}
FACES = {
    "at the left edge": [landmarks(-25, 40)],
    "at the corner": [landmarks(WIDTH - 15, HEIGHT - 20)],
    "larger than the frame": [landmarks(-150, -150, unit=400)],
    "of 20 pixels": [landmarks(70, 50, unit=9)],
    "of 6 pixels": [landmarks(70, 50, unit=2.7)],
    "upside down": [landmarks(50, 35)[:, :] * [1, -1] + [0, HEIGHT]],
    "two, over each other": [landmarks(40, 30), landmarks(60, 40)],
    "three": [landmarks(5, 5, unit=25), landmarks(60, 40), landmarks(110, 20, unit=25)],
    "none": [],
}
ROUGH = (
    {"mode": "overlay", "color": "sot-m", "erode": 400, "mask": "full"},
    {"mode": "overlay", "color": "rct", "erode": -400, "blur": 400, "super_resolution": 100},
    {"mode": "hist-match", "color": "mix-m", "blur": 7, "denoise": 35, "color_degrade": 40},
    {"mode": "seamless", "color": "idt-m", "mask": "dst", "bicubic": 100, "face_scale": -50},
    {"mode": "seamless-hist-match", "color": "lct", "motion_blur": 100, "face_scale": 50},
    {"mode": "seamless", "color": "mkl", "sharpen": "gaussian", "sharpness": 100,
     "color_degrade": 100},
    {"mode": "overlay", "color": "mkl-m", "sharpness": -100, "denoise": 500},
    {"mode": "raw-rgb", "face_scale": -30, "mask": "all"},
)  # fmt: skip


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("where", FACES)
def test_no_setting_breaks_a_frame(where, layout):
    """Odd sizes, faces that hang out of the frame or are tiny: all stays finite and inside."""
    points = FACES[where]
    motions = [Motion(11.0, -70.0)] * len(points)
    faces = FrameFaces([Place(p, FaceType.FULL) for p in points], list(range(len(points))), motions)
    codes = np.ascontiguousarray(CODES[:-1, :-3])  # 119 x 157
    for changes in ROUGH:
        settings = MergeSettings(**changes)
        before = rgb_to_planes(torch.from_numpy(codes), LAYOUTS[layout])
        planes, got = merged(LAYOUTS[layout], settings, faces, codes=codes)
        assert got.mask.shape == codes.shape[:2]
        assert np.isfinite(got.mask).all()
        assert 0 <= got.mask.min() <= got.mask.max() <= 1
        assert int(planes.c0.int().max()) <= LAYOUTS[layout].max_code
        if settings.changes_background and points:
            continue
        still = got.mask == 0
        if settings.mode == "raw-rgb":
            still[:] = not points
        assert torch.equal(planes.c0[still], before.c0[still]), changes


@pytest.mark.parametrize("where", ["at the corner", "two, over each other", "three"])
def test_kept_steps_change_no_bit(where):
    """Settings that change one after another, as keys do it, and each merged anew."""
    points = FACES[where]
    faces = FrameFaces(
        [Place(p, FaceType.FULL) for p in points], list(range(len(points))),
        [Motion(11.0, -70.0)] * len(points),
    )  # fmt: skip
    made = [prediction() for _ in points]
    make, kept, settings = np.random.default_rng(0), Kept(), MergeSettings()
    for i in range(40):
        name, value = [
            ("mode", MODES[make.integers(6)]), ("mask", MASKS[make.integers(10)]),
            ("color", COLORS[make.integers(9)]), ("erode", int(make.integers(-20, 20))),
            ("blur", int(make.integers(20))), ("motion_blur", int(make.integers(100))),
            ("face_scale", int(make.integers(-20, 20))), ("sharpness", int(make.integers(-9, 9))),
            ("super_resolution", int(make.integers(2)) * 50), ("denoise", int(make.integers(130))),
            ("bicubic", int(make.integers(2)) * 30), ("sharpen", "box"),
            ("masked_hist_match", bool(make.integers(2))),
            ("hist_match_threshold", int(make.integers(100, 255))),
            ("color_degrade", int(make.integers(2)) * 50),
        ][make.integers(15)]  # fmt: skip
        settings = settings.with_changes({name: value})
        results = []
        for way in (None, kept):
            planes = rgb_to_planes(torch.from_numpy(CODES), LAYOUTS["4:2:0"])
            merge_frame(planes, faces, made, settings, kept=way)
            results.append(planes)
        for one, other in zip(*(planes[:3] for planes in results)):
            assert torch.equal(one, other), (i, settings)
