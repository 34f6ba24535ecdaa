"""One frame merged: against the whole-frame arithmetic, mask by mask, setting by setting."""

from __future__ import annotations

from dataclasses import replace

import cv2
import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper

from accel.core import Cancel, ConfigError, InputError
from accel.faces import merge_effects
from accel.faces.face_types import FaceType, crop_matrix
from accel.faces.merge import merge_face, scaled, zoomed
from accel.faces.merge_effects import (
    bicubic_degrade,
    degrade_colors,
    denoise,
    line_kernel,
    motion_blur,
    sharpen,
)
from accel.faces.merge_mask import Prediction, blurred, choose_mask, hull_mask, shape_mask
from accel.faces.merge_place import Motion, Place, motion_between
from accel.faces.merge_settings import MASKS, MODES, MergeSettings
from accel.kernels import planes_to_rgb, rgb_to_planes
from accel.kernels.planes import gbr_layout, yuv_layout
from accel.pipelines.dfl.merge_faces import FrameFaces, follow
from accel.pipelines.dfl.merge_frame import Kept, merge_frame
from accel.pipelines.dfl.merge_model import Predictor, open_model, open_xseg
from tests.pipelines.dfl.merge_clip import HEIGHT, WIDTH, drawn, landmarks, place, write_model

PX = 32
FRAME = np.float32(drawn(1)[..., ::-1]) / 255
HERE = Place(place(1), FaceType.FULL)


def prediction() -> Prediction:
    y, x = np.mgrid[-1 : 1 : PX * 1j, -1 : 1 : PX * 1j]
    face = np.stack([0.6 + 0.2 * x, 0.4 + 0.2 * y, 0.3 + 0.1 * x * y], 2).astype(np.float32)
    masks = [(np.hypot(x - s, y) < 0.8).astype(np.float32) for s in (-0.1, 0.1)]
    return Prediction(face, *masks)


def planes_of(layout):
    return rgb_to_planes(torch.from_numpy((FRAME * 255).astype(np.uint8)), layout)


def faces() -> FrameFaces:
    return FrameFaces([HERE], [0], [Motion(6.0, 30.0)])


def whole_frame(settings: MergeSettings) -> tuple[np.ndarray, np.ndarray]:
    """The steps as they are described, on whole frames with OpenCV; overlay and seamless."""
    made, size, zoom = prediction(), PX, zoomed(settings.face_scale)
    to_crop = crop_matrix(HERE.landmarks, HERE.face_type, size)
    chosen = made.mask * made.mask_dst
    large = cv2.resize(chosen, (4 * PX, 4 * PX), interpolation=cv2.INTER_CUBIC).clip(0, 1)
    padded = np.pad(large, PX)
    element = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (abs(settings.erode) or 1,) * 2)
    padded = (cv2.erode if settings.erode > 0 else cv2.dilate)(padded, element)
    border = PX + settings.blur // 2
    inside = np.zeros_like(padded)
    inside[border:-border, border:-border] = 1
    padded = padded * inside
    if settings.blur:
        padded = cv2.GaussianBlur(padded, (settings.blur | 1,) * 2, 0)
    mask_back = scaled(crop_matrix(HERE.landmarks, HERE.face_type, 4 * PX), 4 * PX, zoom)
    flags = cv2.INTER_CUBIC | cv2.WARP_INVERSE_MAP
    mask = cv2.warpAffine(
        padded[PX:-PX, PX:-PX].clip(0, 1), mask_back, (WIDTH, HEIGHT), flags=flags
    )
    mask = np.where(mask < 1 / 255, 0, mask.clip(0, 1)).astype(np.float32)
    pasted = cv2.warpAffine(
        made.face, scaled(to_crop, size, zoom), (WIDTH, HEIGHT), flags=flags,
        borderMode=cv2.BORDER_REPLICATE,
    ).clip(0, 1)  # fmt: skip
    if settings.mode == "seamless":
        binary = ((mask > 0.1) * 255).astype(np.uint8)
        x, y, width, height = cv2.boundingRect(binary)
        codes = [(p * 255).astype(np.uint8) for p in (pasted, FRAME)]
        middle = (int(x + width / 2), int(y + height / 2))
        pasted = cv2.seamlessClone(*codes, binary, middle, cv2.NORMAL_CLONE) / np.float32(255)
    return FRAME * (1 - mask[..., None]) + pasted * mask[..., None], mask


PLAIN = [
    {}, {"erode": 9}, {"erode": -8}, {"blur": 12}, {"blur": 31, "erode": 4}, {"face_scale": 15},
    {"face_scale": -30}, {"mode": "seamless"}, {"mode": "seamless", "blur": 10, "erode": 5},
]  # fmt: skip


@pytest.mark.parametrize("changes", PLAIN, ids=str)
def test_the_faces_part_alone_gives_what_whole_frames_give(changes):
    settings = MergeSettings(color="none", **changes)
    expected, mask = whole_frame(settings)
    planes = planes_of(gbr_layout())
    merged = merge_frame(planes, faces(), [prediction()], settings)
    rgb = planes_to_rgb(planes).numpy() / 255
    assert np.abs(merged.mask - mask).max() < 2e-3
    # 8-bit rounding here, and inside of OpenCV's cloning.
    assert np.abs(rgb - expected).max() < (3 if settings.is_seamless else 1) / 255
    assert 0.01 < (mask > 0).mean() < 0.6


@pytest.mark.parametrize("layout", [gbr_layout(), yuv_layout(matrix="bt709")], ids=["rgb", "yuv"])
@pytest.mark.parametrize("mode", MODES)
def test_samples_outside_the_mask_are_not_touched(layout, mode):
    planes, before = planes_of(layout), planes_of(layout)
    merged = merge_frame(planes, faces(), [prediction()], MergeSettings(mode=mode))
    luma_mask = merged.mask if mode != "raw-rgb" else np.pad(np.zeros((1, 1)), 0)
    if mode == "raw-rgb":
        x0, y0, x1, y1 = HERE.rectangle(HEIGHT, WIDTH)
        luma_mask = np.zeros((HEIGHT, WIDTH))
        luma_mask[y0:y1, x0:x1] = 1
    still = torch.from_numpy(luma_mask == 0)
    assert torch.equal(planes.c0[still], before.c0[still])
    block = HEIGHT // planes.c1.shape[0]
    still = torch.from_numpy(
        luma_mask.reshape(HEIGHT // block, block, WIDTH // block, block).max((1, 3)) == 0
    )
    assert torch.equal(planes.c1[still], before.c1[still])
    assert torch.equal(planes.c0, before.c0) == (mode in ("original", "raw-predict"))


def test_deep_frames_keep_their_depth():
    layout = yuv_layout(matrix="bt2020", bits=10)
    planes = rgb_to_planes(torch.from_numpy(np.ascontiguousarray(FRAME)), layout)
    before = planes.clone()
    merged = merge_frame(planes, faces(), [prediction()], MergeSettings(denoise=30))
    assert planes.c0.dtype == torch.uint16
    assert planes.c0.numpy().max() > 255
    assert merged.mask.any()
    assert not np.array_equal(planes.c0.numpy(), before.c0.numpy())


def test_a_face_at_the_edge_of_the_frame():
    near = FrameFaces([Place(landmarks(-25, 90), FaceType.FULL)], [0], [Motion()])
    for layout in (gbr_layout(), yuv_layout(matrix="bt601")):
        planes = planes_of(layout)
        merged = merge_frame(planes, near, [prediction()], MergeSettings(mode="seamless"))
        assert merged.mask[-20:, :15].any()
    away = FrameFaces([Place(landmarks(900, 900), FaceType.FULL)], [0], [Motion()])
    planes = planes_of(gbr_layout())
    assert not merge_frame(planes, away, [prediction()], MergeSettings()).mask.any()


def test_a_face_of_a_few_pixels_is_left_alone():
    tiny = FrameFaces([Place(landmarks(60, 60, unit=1.5), FaceType.FULL)], [0], [Motion()])
    planes, before = planes_of(gbr_layout()), planes_of(gbr_layout())
    merge_frame(planes, tiny, [prediction()], MergeSettings())
    assert torch.equal(planes.c0, before.c0)


def test_landmarks_on_one_point_are_left_alone():
    bad = FrameFaces([Place(np.full((68, 2), 50.0), FaceType.FULL)], [0], [Motion()])
    planes, before = planes_of(gbr_layout()), planes_of(gbr_layout())
    merge_frame(planes, bad, [prediction()], MergeSettings())
    assert torch.equal(planes.c0, before.c0)


def test_two_faces_lie_over_each_other():
    both = FrameFaces([HERE, HERE.moved(-20, 0)], [0, 1], [Motion(), Motion()])
    planes = planes_of(gbr_layout())
    made = [prediction(), replace(prediction(), face=np.ones((PX, PX, 3), np.float32))]
    merged = merge_frame(planes, both, made, MergeSettings(color="none"))
    assert (planes.c0.numpy()[merged.mask == 1] == 255).any()
    one = merge_frame(planes_of(gbr_layout()), faces(), made[:1], MergeSettings(color="none"))
    assert (merged.mask >= one.mask).all()


# --- masks --------------------------------------------------------------------------------------


@pytest.mark.parametrize("mask", MASKS)
def test_masks_are_the_products_of_their_names(mask):
    made = replace(
        prediction(), xseg_prd=np.full((256, 256), 0.5, np.float32),
        xseg_dst=np.full((256, 256), 0.8, np.float32),
    )  # fmt: skip
    hull = np.full((PX, PX), 0.3, np.float32)
    known = {
        "full": 1.0, "dst": 0.3, "learned-prd": made.mask, "learned-dst": made.mask_dst,
        "XSeg-prd": 0.5, "XSeg-dst": 0.8,
    }  # fmt: skip
    if "+" in mask:
        wanted = (made.mask + made.mask_dst).clip(0, 1)
    else:
        wanted = np.prod([np.broadcast_to(known[n], (PX, PX)) for n in mask.split("*")], 0)
    got = choose_mask(MergeSettings(mask=mask), made, hull, PX)
    assert np.allclose(got, wanted, atol=1e-5)


def test_xseg_masks_without_their_network_are_refused():
    with pytest.raises(ConfigError, match="needs xseg"):
        choose_mask(MergeSettings(mask=MASKS[8]), prediction(), np.ones((PX, PX)), PX)


def test_the_mask_ends_before_the_crop_does():
    full = np.ones((PX, PX), np.float32)
    for blur in (0, 1, 8, 40):
        shaped = shape_mask(full, MergeSettings(blur=blur), PX)
        assert shaped.shape == (4 * PX, 4 * PX)
        assert shaped[2 * PX, 2 * PX] > 0.99
        if blur > 1:
            assert shaped[0].max() < 0.02
            assert (np.diff(shaped[2 * PX, : 2 * PX]) > -1e-6).all()


@pytest.mark.parametrize("taps", [95, 97, 201, 401])
def test_wide_blurs_are_made_of_less(taps):
    mask = np.zeros((1152, 1152), np.float32)  # of a model of 192 pixels
    cv2.ellipse(mask, (570, 585), (120, 170), 20, 0, 360, 1.0, -1)
    assert np.abs(blurred(mask, taps) - cv2.GaussianBlur(mask, (taps, taps), 0)).max() < 5e-3


def test_the_hull_holds_the_face_and_the_brows_can_be_raised():
    points = place(1)
    mask = hull_mask(points, HEIGHT, WIDTH)
    for x, y in points[[27, 30, 33, 51, 57, 8, 19, 24]].astype(int):
        assert mask[y, x] == 1
    assert mask[5, 5] == 0
    higher = hull_mask(points, HEIGHT, WIDTH, expand=3.0)
    assert higher.sum() > mask.sum() > hull_mask(points, HEIGHT, WIDTH, expand=0.0).sum()


# --- effects ------------------------------------------------------------------------------------


def test_motion_blur_runs_along_the_way():
    dot = np.zeros((41, 41, 3), np.float32)
    dot[20, 20] = 1
    for degrees, across in ((0, 0), (90, 1)):
        spread = motion_blur(dot, 12, degrees)[..., 0]
        reach = [np.ptp(np.flatnonzero(spread.max(axis) > 1e-3)) for axis in (0, 1)]
        assert reach[across] >= 10 > 3 >= reach[1 - across]
        assert abs(spread.sum() - 1) < 1e-3
    assert motion_blur(dot, 0.9, 0) is dot
    taps = (motion_blur(dot, 12, 0, twice=twice).max((0, 2)) > 1e-3 for twice in (False, True))
    assert [int(count.sum()) for count in taps] == [13, 26]
    assert line_kernel(50, 33).shape == (50, 50)


def test_motion_is_from_the_frame_before_to_the_one_after():
    frames = [
        FrameFaces([Place(landmarks(50 + 4 * i, 40 - 4 * i), FaceType.FULL)]) for i in range(3)
    ]
    follow(frames)
    assert [frame.tracks for frame in frames] == [[0], [0], [0]]
    assert frames[0].motions == frames[2].motions == [Motion()]
    assert np.isclose(frames[1].motions[0].length, 8 * 2**0.5)
    assert np.isclose(frames[1].motions[0].degrees, 45)
    assert motion_between(None, HERE) == Motion()


def test_tracks_follow_faces_and_not_their_order():
    left, right = (Place(landmarks(x, 40, unit=20), FaceType.FULL) for x in (20, 110))
    frames = [FrameFaces([left, right]), FrameFaces([right.moved(1, 0), left.moved(-1, 0)]),
              FrameFaces([]), FrameFaces([left])]  # fmt: skip
    follow(frames)
    assert [frame.tracks for frame in frames] == [[0, 1], [1, 0], [], [2]]


def test_sharpening_and_its_opposite():
    def edges(picture):
        return np.abs(np.diff(picture, axis=1)).mean()

    assert sharpen(FRAME, "none", 30) is FRAME
    assert sharpen(FRAME, "box", 0) is FRAME
    for kind in ("box", "gaussian"):
        assert edges(sharpen(FRAME, kind, 2)) > 1.1 * edges(FRAME)
        assert edges(sharpen(FRAME, kind, -20)) < edges(FRAME)
    smooth = cv2.GaussianBlur(FRAME, (3, 3), 0)
    assert np.allclose(sharpen(FRAME, "gaussian", 4), 3 * FRAME - 2 * smooth, atol=1e-5)


def test_denoise_repeats_a_median_and_kept_passes_change_nothing():
    once = cv2.medianBlur(FRAME, 5)
    assert np.allclose(denoise(FRAME, 5), FRAME * 0.95 + once * 0.05, atol=1e-6)
    codes = (FRAME * 255).astype(np.uint8)
    keeper, planes = Kept(), planes_of(gbr_layout())
    for power in (130, 127, 40):
        made = keeper.background(planes, MergeSettings(denoise=power), Cancel())
        kept = planes_to_rgb(made).numpy()
        assert np.array_equal(kept, denoise(codes, power))
        # Rounding to 8 bits in between is all that tells it from floating point.
        apart = kept / 255 - denoise(codes.astype(np.float32) / 255, power)
        assert -20 * np.log10(np.sqrt((apart**2).mean())) > 45


def test_bicubic_and_colour_degrade():
    soft = bicubic_degrade(FRAME, 80)
    assert soft.shape == FRAME.shape
    assert np.abs(np.diff(soft, axis=1)).mean() < 0.6 * np.abs(np.diff(FRAME, axis=1)).mean()
    codes = (FRAME * 255).astype(np.uint8)
    few = degrade_colors(codes, 100)
    assert len(np.unique(few.reshape(-1, 3), axis=0)) <= 256
    assert cv2.PSNR(few, codes) > 30
    half = degrade_colors(codes, 50)
    assert np.abs(half - (few.astype(float) + codes) / 2).max() <= 0.5


@pytest.mark.parametrize("change", [
    {"sharpen": "box", "sharpness": 3}, {"sharpness": -20}, {"motion_blur": 100}, {"denoise": 50},
    {"bicubic": 50}, {"color_degrade": 100}, {"super_resolution": 60}, {"color": "sot-m"},
    {"mode": "hist-match", "hist_match_threshold": 100},
    {"mode": "hist-match", "masked_hist_match": False},
], ids=str)  # fmt: skip
def test_every_setting_shows(change):
    made = prediction()
    make = np.random.default_rng(0)
    made.face = (made.face + make.normal(0, 0.05, made.face.shape)).clip(0, 1).astype(np.float32)
    made.enhanced = cv2.resize(made.face, (4 * PX, 4 * PX), interpolation=cv2.INTER_CUBIC).clip(
        0, 1
    )
    without = MergeSettings(mode=change.get("mode", "overlay"))
    pictures = []
    for settings in (without, without.with_changes(change)):
        planes = planes_of(gbr_layout())
        merge_frame(planes, faces(), [made], settings)
        pictures.append(planes_to_rgb(planes).numpy())
    assert not np.array_equal(*pictures)


def test_chance_comes_from_the_seed_and_the_track():
    settings = MergeSettings(color="sot-m", mask="full")
    results = []
    for seed, track in ((0, 0), (0, 0), (1, 0), (0, 1)):
        merged = merge_face(FRAME, HERE, prediction(), settings, seed=seed + track)
        results.append(merged.picture)
    assert np.array_equal(results[0], results[1])
    assert not np.array_equal(results[0], results[2])
    assert np.array_equal(results[2], results[3])


# --- networks -----------------------------------------------------------------------------------


def xseg_file(path, channels=1):
    """A network of XSeg's signature: the blue channel is the mask."""
    weights = np.zeros((channels, 3, 1, 1), np.float32)
    weights[:, 0] = 1
    nodes = [
        helper.make_node("Transpose", ["in_face:0"], ["a"], perm=[0, 3, 1, 2]),
        helper.make_node("Conv", ["a", "w"], ["b"], kernel_shape=[1, 1]),
        helper.make_node("Transpose", ["b"], ["out_mask:0"], perm=[0, 2, 3, 1]),
    ]
    graph = helper.make_graph(
        nodes, "xseg",
        [helper.make_tensor_value_info("in_face:0", TensorProto.FLOAT, [1, 256, 256, 3])],
        [helper.make_tensor_value_info("out_mask:0", TensorProto.FLOAT, [1, 256, 256, channels])],
        [numpy_helper.from_array(weights, "w")],
    )  # fmt: skip
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 12)])
    model.ir_version = 8
    onnx.save(model, path)
    return path


def test_xseg_looks_at_both_faces_in_bgr(tmp_path):
    write_model(tmp_path / "model")
    model = open_model(tmp_path / "model")
    predictor = Predictor(model, xseg_file(tmp_path / "xseg.onnx"))
    frame = FRAME.copy()
    frame[..., 2] = np.linspace(0, 1, WIDTH)  # blue
    settings = MergeSettings(mask="XSeg-dst")
    (made,) = predictor.predict([frame], [HERE], settings)
    x = int(HERE.landmarks[30, 0])
    middle = made.xseg_dst[128, 128]
    assert abs(middle - x / WIDTH) < 0.05
    blue = made.face[..., 2].mean()
    assert abs(made.xseg_prd.mean() - (blue if blue > 0.1 else 0)) < 0.1
    with pytest.raises(ConfigError, match="needs xseg"):
        Predictor(model).predict([frame], [HERE], settings)


def test_an_xseg_file_of_another_signature_is_refused(tmp_path):
    with pytest.raises(InputError, match="an XSeg network must take"):
        open_xseg(xseg_file(tmp_path / "xseg.onnx", channels=2))


def test_super_resolution_draws_the_face_four_times_as_large(tmp_path):
    write_model(tmp_path / "model")
    predictor = Predictor(open_model(tmp_path / "model"))
    settings = MergeSettings(super_resolution=50)
    made = replace(prediction(), face=FRAME[30:94, 40:104])
    predictor.complete(made, FRAME, HERE, settings)
    assert made.enhanced.shape == (256, 256, 3)
    small = cv2.resize(made.enhanced, (64, 64), interpolation=cv2.INTER_AREA)
    assert np.abs(small - made.face).mean() < 0.05
    again = made.enhanced
    predictor.complete(made, FRAME, HERE, settings)
    assert made.enhanced is again


def test_the_model_is_fed_bgr_and_answers_in_rgb(tmp_path):
    network = write_model(tmp_path / "model")
    predictor = Predictor(open_model(tmp_path / "model"))
    (made,) = predictor.predict([FRAME], [HERE], MergeSettings())
    crop = cv2.warpAffine(
        FRAME, crop_matrix(HERE.landmarks, FaceType.FULL, 64), (64, 64), flags=cv2.INTER_CUBIC
    ).clip(0, 1)  # fmt: skip
    with torch.inference_mode():
        face, mask, _ = network(torch.from_numpy(crop[..., ::-1].copy()).permute(2, 0, 1)[None])
    assert np.allclose(made.face[..., ::-1], face[0].permute(1, 2, 0), atol=1e-5)
    assert np.allclose(made.mask, mask[0, 0], atol=1e-5)


# --- settings -----------------------------------------------------------------------------------


@pytest.mark.parametrize(("text", "mask"), [
    ("4", MASKS[4]), ("prdxdst", MASKS[4]), ("learned-prd*dst", MASKS[4]), ("xseg-prd", MASKS[6]),
    ("ALL", MASKS[9]), ("prd+dst", MASKS[5]), (7, MASKS[7]),
])  # fmt: skip
def test_masks_have_short_names(text, mask):
    assert MergeSettings(mask=text).mask == mask


@pytest.mark.parametrize("wrong", [
    {"erode": 401}, {"blur": -1}, {"blur": 1.0}, {"erode": True}, {"mode": "7"}, {"color": "sepia"},
    {"masked_hist_match": 1}, {"hist_match_threshold": 256}, {"denoise": float("nan")},
], ids=str)  # fmt: skip
def test_settings_out_of_range_are_refused(wrong):
    with pytest.raises(ConfigError, match=next(iter(wrong))):
        MergeSettings(**wrong)


@pytest.mark.parametrize("power", [50, 95, 130])
def test_a_filter_in_strips_is_the_filter(power):
    """Large pictures are filtered in strips; nothing of them shows."""
    make = np.random.default_rng(0)
    picture = make.integers(0, 256, (500, 400, 3), dtype=np.uint8)
    assert len(picture) >= 2 * merge_effects.STRIP_PX
    assert np.array_equal(
        merge_effects.denoise(picture, power), merge_effects._shared(picture, power, 100)
    )
    assert np.array_equal(merge_effects.median(picture, 3), merge_effects._repeated(picture, 3))
