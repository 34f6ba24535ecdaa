"""crop: implementations against the reference, and that against other people's maths."""

from __future__ import annotations

import math

import cv2
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from accel.kernels import _native
from accel.kernels.crop import crop, op, sampling
from accel.kernels.planes import gbr_layout, yuv_layout

from .check import check_kernel
from .pictures import picture_at, placed, random_planes

FAST = ("native", "reference")
NUMBA = (*FAST, "numba")  # compiles for seconds for each kind of plane, so it gets fewer cases
LAYOUTS = {
    "420 8 bit": yuv_layout(),
    "420 10 bit 2020 topleft": yuv_layout(matrix="bt2020", bits=10, siting="topleft"),
    "420 jpeg": yuv_layout(matrix="bt601", full_range=True, siting="center"),
    "422": yuv_layout(shift_y=0),
    "444 16 bit": yuv_layout(shift_x=0, shift_y=0, bits=16, full_range=True),
    "410": yuv_layout(shift_x=2, shift_y=2, siting="center"),
    "gbr": gbr_layout(),
}
PLACES = {  # shrink, degrees, centre x, centre y in a 97 x 75 frame
    "same scale": (1.0, 0, 48, 37),
    "shifted": (1.0, 0, 48.3, 36.8),
    "turned": (1.3, 12, 50, 35),
    "enlarged": (0.31, -40, 20, 60),
    "shrunk": (2.6, 0, 48, 37),
    "shrunk and turned": (3.2, 200, 48, 37),
    "over a corner": (1.7, 33, 3, 70),
    "over a corner, straight": (1.7, 0, 94, 2),
    "off the frame": (1.1, 5, -200, 37),
    "upside down": (1.4, 180, 48, 37),
}


def op_args(planes, matrices, size, dtype=torch.float32, channels_last=False, zero=False):
    of, (height, width) = planes.layout, (size, size) if isinstance(size, int) else size
    return (
        planes.c0, planes.c1, planes.c2, matrices, height, width, list(of.to_rgb),
        [2.0, 4.0, 1.0], [-1.0, 0.25, 0.0], of.shift_x, of.shift_y, of.site_x, of.site_y,
        dtype, channels_last, zero,
    )  # fmt: skip


def native_run(*args):
    return {i.name: i for i in op.implementations}["native"].run(*args)


needs_native = pytest.mark.skipif(bool(_native.reason), reason=_native.reason or "built")


@pytest.mark.parametrize("zero", [False, True], ids=["replicate", "zero"])
@pytest.mark.parametrize("store", ["planar", "padded", "nv12"])
@pytest.mark.parametrize("layout", LAYOUTS.values(), ids=LAYOUTS)
def test_agrees_with_reference(layout, store, zero):
    planes = random_planes(layout, 75, 97, store=store)
    size = (21, 34)  # fills no block
    matrices = torch.stack([placed(*place, size) for place in PLACES.values()])
    only = NUMBA if store == "padded" else FAST
    ran = check_kernel(op, op_args(planes, matrices, size, zero=zero), only=only, atol=3e-5)
    assert set(ran) >= set(only) - {"native"}


@pytest.mark.parametrize("channels_last", [False, True], ids=["NCHW", "NHWC"])
def test_half_precision_and_order_of_channels(channels_last):
    planes = random_planes(LAYOUTS["420 8 bit"], 40, 50, store="padded")
    matrices = torch.stack([placed(1.2, 9, 25, 20, 19), placed(2.2, 0, 25, 20, 19)])
    args = op_args(planes, matrices, 19, torch.float16, channels_last)
    for name in check_kernel(op, args, only=NUMBA, rtol=2e-3, atol=2e-3):
        out = {i.name: i for i in op.implementations}[name].run(*args)
        assert out.is_contiguous()
        assert out.dtype == torch.float16
        assert tuple(out.shape) == ((2, 19, 19, 3) if channels_last else (2, 3, 19, 19))


@pytest.mark.parametrize(
    ("layout", "store", "dtype", "channels_last", "zero"),
    [
        (LAYOUTS["420 8 bit"], "nv12", torch.float32, False, False),
        (LAYOUTS["420 10 bit 2020 topleft"], "padded", torch.float16, True, True),
    ],
    ids=["nv12", "10 bit to half, black border"],
)
def test_triton_in_the_interpreter(layout, store, dtype, channels_last, zero):
    planes = random_planes(layout, 30, 41, store=store)
    places = [(1.0, 0, 20, 15), (2.3, 30, 2, 15), (0.4, -100, 25, 20)]
    matrices = torch.stack([placed(*place, 13) for place in places])
    args = op_args(planes, matrices, 13, dtype, channels_last, zero)
    tolerance = {} if dtype == torch.float32 else {"rtol": 2e-3, "atol": 2e-3}
    assert check_kernel(op, args, only=("triton",), **tolerance) == ["triton"]


@needs_native
@settings(max_examples=60, deadline=None)
@given(
    frame=st.tuples(st.integers(1, 40), st.integers(1, 70)),
    size=st.tuples(st.integers(1, 40), st.integers(1, 40)),
    place=st.tuples(
        st.floats(0.2, 6), st.sampled_from([0.0, 90.0, 180.0, 17.3, -120.0]),
        st.floats(-30, 60), st.floats(-30, 60),
    ),
    bits=st.sampled_from([8, 10]),
    store=st.sampled_from(["planar", "nv12"]),
    zero=st.booleans(),
)  # fmt: skip
def test_native_agrees_at_any_size(frame, size, place, bits, store, zero):
    planes = random_planes(yuv_layout(bits=bits), *frame, store=store)
    args = op_args(planes, placed(*place, size)[None], size, zero=zero)
    assert check_kernel(op, args, only=("native",), atol=5e-5) == ["native"]


@needs_native
@pytest.mark.parametrize("store", ["planar", "nv12"])
@pytest.mark.parametrize("bits", [8, 10])
def test_vector_and_scalar_code_give_the_same_bytes(bits, store):
    planes = random_planes(yuv_layout(bits=bits), 75, 97, store=store)
    for place in PLACES.values():
        for dtype in (torch.float32, torch.float16):
            args = op_args(planes, placed(*place, 37)[None], 37, dtype, zero=True)
            plain = torch.full((1, 3, 37, 37), float("nan"), dtype=dtype)
            _native.module.crop(
                *args[:4], plain, *args[6:9], 1 << args[9], 1 << args[10], *args[11:13],
                False, True, simd=False,
            )  # fmt: skip
            assert torch.equal(native_run(*args), plain), place


@pytest.mark.parametrize("place", PLACES.values(), ids=PLACES)
@pytest.mark.parametrize("layout", LAYOUTS.values(), ids=LAYOUTS)
def test_values_against_float64_numpy(layout, place):
    """Only where nothing shrinks: there the definition is one bilinear sample."""
    shrink, degrees, x, y = place
    shrink = min(shrink, 1.0)
    planes = random_planes(layout, 75, 97)
    matrix = placed(shrink, degrees, x, y, 24)
    inverse = np.linalg.inv(np.vstack([matrix.double().numpy(), [0, 0, 1]]))
    down, right = np.mgrid[:24, :24].astype(np.float64)
    u, v, _ = np.einsum("ij,jhw->ihw", inverse, np.stack([right, down, np.ones_like(right)]))
    ours = crop(planes, matrix[None], 24, layout="NHWC")[0].numpy()
    np.testing.assert_allclose(ours, picture_at(planes, u, v), atol=3e-5)


def test_a_whole_shrink_is_the_area_average():
    planes = random_planes(gbr_layout(), 24, 32)
    matrix = torch.tensor([[[0.25, 0, -0.375], [0, 0.25, -0.375]]])  # pixel 0 shows pixels 0..3
    ours = crop(planes, matrix, (6, 8))[0]
    green = planes.c0.double().reshape(6, 4, 8, 4)
    # Samples lie between pixels: a share of one half falls on the neighbours at either end.
    rgb = torch.stack([planes.c2, planes.c0, planes.c1]).numpy().transpose(1, 2, 0)
    area = cv2.resize(rgb, (8, 6), interpolation=cv2.INTER_AREA)
    np.testing.assert_allclose(ours[1], green.mean(dim=(1, 3)) / 255, atol=0.12)
    exact = torch.tensor([[[0.2, 0, -0.4], [0, 0.2, -0.4]]])  # five: samples fall on pixels
    planes = random_planes(gbr_layout(), 25, 35)
    rgb = torch.stack([planes.c2, planes.c0, planes.c1]).numpy().transpose(1, 2, 0)
    area = cv2.resize(rgb.astype(np.float64), (7, 5), interpolation=cv2.INTER_AREA)
    ours = crop(planes, exact, (5, 7), layout="NHWC")[0]
    np.testing.assert_allclose(ours, area / 255, atol=1e-6)


def zone_plate(side: int) -> np.ndarray:
    """Rings that grow finer outwards: 0.35 cycles per pixel at the edge."""
    y, x = np.mgrid[:side, :side] - (side - 1) / 2
    return 0.5 + 0.5 * np.cos(0.7 * np.pi * (x * x + y * y) / side)


@pytest.mark.parametrize("degrees", [0, 12])
@pytest.mark.parametrize(("shrink", "gain_db"), [(2.5, 5), (5.0, 9)])
def test_rings_too_fine_for_the_crop_turn_grey(shrink, gain_db, degrees):
    """OpenCV's INTER_AREA, which is bilinear in an affine warp, shows rings that are not there."""
    side, size = 512, int(360 / shrink)
    codes = torch.from_numpy(np.round(zone_plate(side) * 255).astype(np.uint8))
    planes = random_planes(gbr_layout(), side, side)._replace(c0=codes, c1=codes, c2=codes)
    matrix = placed(shrink, degrees, 255.5, 255.5, size)
    ours = crop(planes, matrix[None], size)[0, 1].numpy()
    theirs = cv2.warpAffine(
        codes.numpy().astype(np.float32) / 255, matrix.double().numpy(), (size, size),
        flags=cv2.INTER_AREA,
    )  # fmt: skip
    y, x = np.mgrid[:size, :size] - (size - 1) / 2
    finer = 0.7 * np.hypot(x, y) * shrink / side > 0.6 / shrink  # 1.2 times what it can show
    assert finer.mean() > 0.15
    # The ideal picture is grey there, so contrast is error; an area average leaves some of it.
    assert 20 * math.log10(theirs[finer].std() / ours[finer].std()) > gain_db


@pytest.mark.parametrize("along", [0, 1], ids=["x", "y"])
def test_sharpness_does_not_jump_where_shrinking_begins(along):
    planes = random_planes(yuv_layout(shift_x=0, shift_y=0), 80, 80)
    crops = crop(planes, torch.stack([placed(s, 8, 40, 40, 32) for s in (0.9999, 1.0025)]), 32)
    assert (crops[0] - crops[1]).abs().mean() < 0.02


def test_filter_has_the_variance_it_claims():
    for shrink in (1.01, 1.5, 2.0, 2.7, 6.4):
        table = sampling(placed(shrink, 25, 0, 0, 9)[None], 9, 9, 0, 0, 0.0, 0.0)[0, 0]
        count, apart = table[8].item(), table[10].item() * shrink
        assert apart < 1.08
        comb = apart**2 * (count**2 - 1) / 12
        assert comb == pytest.approx((shrink**2 - 1) / 12, rel=1e-3)


def test_same_scale_agrees_with_warp_affine():
    rng = np.random.default_rng(3)
    rgb = rng.random((60, 80, 3), np.float32)
    codes = [torch.from_numpy(np.round(rgb[..., c] * 65535).astype(np.uint16)) for c in (1, 2, 0)]
    planes = random_planes(gbr_layout(bits=16), 60, 80)
    planes = planes._replace(c0=codes[0], c1=codes[1], c2=codes[2])
    matrix = placed(1.0, 25, 40, 30, 32)
    theirs = cv2.warpAffine(
        rgb, matrix.double().numpy(), (32, 32), flags=cv2.INTER_LINEAR,
        borderMode=cv2.BORDER_REPLICATE,
    )  # fmt: skip
    ours = crop(planes, matrix[None], 32, layout="NHWC")[0].numpy()
    # Older OpenCV rounds coordinates to 1/32 pixel, so a tolerance of that share of the contrast.
    np.testing.assert_allclose(ours, theirs, atol=2 / 32)
    assert np.abs(ours - theirs).mean() < 0.006


def test_black_border_agrees_with_warp_affine():
    planes = random_planes(gbr_layout(bits=16), 60, 80)
    rgb = np.stack([p.numpy() for p in (planes.c2, planes.c0, planes.c1)], -1).astype(np.float32)
    matrix = torch.tensor([[[1.0, 0, 10.5], [0, 1.0, -20.5]]])  # halfway, where rounding is exact
    theirs = cv2.warpAffine(rgb / 65535, matrix[0].double().numpy(), (40, 60))
    ours = crop(planes, matrix, (60, 40), layout="NHWC", border="zero")[0].numpy()
    np.testing.assert_allclose(ours, theirs, atol=1e-4)
    assert (ours[50:] == 0).all()


def test_a_red_frame_gives_a_red_crop():
    for layout in LAYOUTS.values():
        planes = random_planes(layout, 20, 20)
        m = np.array(layout.from_rgb).reshape(3, 4)
        codes = np.round(m[:, 0] + m[:, 3]).clip(0, layout.max_code).astype(int)
        for plane, code in zip(planes[:3], codes):
            plane.copy_(torch.full(plane.shape, int(code), dtype=torch.int32).to(plane.dtype))
        matrix = placed(1.5, 10, 10, 10, 8)[None]
        red = crop(planes, matrix, 8)[0]
        torch.testing.assert_close(
            red.mean(dim=(1, 2)), torch.tensor([1.0, 0, 0]), atol=0.02, rtol=0
        )
        blue_first = crop(planes, matrix, 8, bgr=True, mean=(0.5, 0, 0), scale=(2, 1, 1))[0]
        torch.testing.assert_close(
            blue_first.mean(dim=(1, 2)), torch.tensor([0.0, 0, 1.0]), atol=0.04, rtol=0
        )


@pytest.mark.parametrize(
    ("siting", "expected"), [("left", (0.0, 0.5)), ("center", (0.5, 0.5)), ("topleft", (0.0, 0.0))]
)
def test_a_chroma_edge_lies_where_its_siting_says(siting, expected):
    """Chroma that grows by one code a sample tells by its value where it was read."""
    layout = yuv_layout(siting=siting, full_range=True)
    planes = random_planes(layout, 64, 64)
    planes.c0.fill_(128)
    for axis, site in enumerate(expected):
        ramp = torch.arange(32, dtype=torch.int32).to(torch.uint8) + 112
        planes.c1.copy_(ramp.expand(32, 32) if axis == 0 else ramp[:, None].expand(32, 32))
        planes.c2.fill_(128)
        blue = crop(planes, placed(1.0, 0, 32, 32, 16)[None], 16)[0, 2]
        code = (blue - 128 / 255) * 255 / 1.8556 + 128 - 112  # in chroma samples
        frame = torch.arange(16) + 32 - 7.5
        read = code[8] if axis == 0 else code[:, 8]
        torch.testing.assert_close(read, (frame - site) / 2, atol=1e-3, rtol=0)


def test_no_faces_no_work():
    planes = random_planes(yuv_layout(), 20, 20)
    for implementation in op.implementations:
        args = op_args(planes, torch.zeros(0, 2, 3), 8)
        if not implementation.why_not(*args):
            assert implementation.run(*args).shape == (0, 3, 8, 8)
    assert crop(planes, torch.zeros(0, 2, 3), 8, layout="NHWC").shape == (0, 8, 8, 3)


@pytest.mark.parametrize(
    "matrix",
    [
        [[float("nan"), 0, 0], [0, 1, 0]],
        [[1, 0, float("inf")], [0, 1, 0]],
        [[0, 0, 0], [0, 0, 0]],
        [[1, 2, 0], [2, 4, 0]],
    ],
    ids=["nan", "inf", "zero", "flat"],
)
def test_refuses_a_matrix_without_an_inverse(matrix):
    planes = random_planes(yuv_layout(), 20, 20)
    with pytest.raises(ValueError, match="matrix 1 must be finite and invertible"):
        crop(planes, torch.stack([placed(1, 0, 9, 9, 8), torch.tensor(matrix)]), 8)


@needs_native
@pytest.mark.parametrize("store", ["planar", "nv12"])
@pytest.mark.parametrize("value", [float("nan"), float("inf"), 1e30, -1e-30, 0.0, 1e9])
def test_native_survives_any_matrix(value, store):
    """The public function refuses some of these; memory must be safe even past it."""
    planes = random_planes(yuv_layout(), 20, 30, store=store)
    for i in range(6):
        matrix = placed(1.3, 7, 9, 9, 16).flatten()
        matrix[i] = value
        straight = torch.tensor([0.5, 0, 1, 0, 0.5, 1.0])
        straight[i] = value
        for m in (matrix, straight):
            out = native_run(*op_args(planes, m.reshape(1, 2, 3), 16, zero=True))
            assert torch.isfinite(out).all()


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"size": 0}, "size must lie in"),
        ({"layout": "CHW"}, "layout must be"),
        ({"border": "wrap"}, "border must be"),
        ({"dtype": torch.bfloat16}, "dtype must be"),
        ({"mean": (0.5, 0.5)}, "mean must be"),
        ({"scale": float("nan")}, "scale must be"),
        ({"matrices": torch.eye(3)[None]}, "matrices must be"),
    ],
    ids=lambda v: next(iter(v)) if isinstance(v, dict) else "",
)
def test_says_what_is_wrong(wrong, message):
    args = {"matrices": placed(1, 0, 9, 9, 8)[None], "size": 8} | wrong
    with pytest.raises(ValueError, match=message):
        crop(random_planes(yuv_layout(), 20, 20), **args)


def test_registration():
    planes = random_planes(yuv_layout(), 12, 14)
    args = op_args(planes, placed(1, 0, 6, 6, 8)[None], 8, torch.float16, True)
    checks = ("test_schema", "test_faketensor")
    torch.library.opcheck(torch.ops.accel.crop.default, args, test_utils=checks)
