"""planes_to_rgb and rgb_to_planes: against the reference, float64 numpy and swscale."""

from __future__ import annotations

import av
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from accel.kernels import _native
from accel.kernels.planes import gbr_layout, yuv_layout
from accel.kernels.planes_rgb import planes_to_rgb, rgb_to_planes, to_planes_op, to_rgb_op

from .check import check_kernel
from .pictures import picture_at, random_planes

LAYOUTS = {
    "420 left": yuv_layout(),
    "420 10 bit topleft": yuv_layout(matrix="bt2020", bits=10, siting="topleft"),
    "420 jpeg": yuv_layout(matrix="bt601", full_range=True, siting="center"),
    "422": yuv_layout(shift_y=0),
    "440": yuv_layout(shift_x=0),
    "444 12 bit": yuv_layout(shift_x=0, shift_y=0, bits=12),
    "410": yuv_layout(shift_x=2, shift_y=2, siting="center"),
    "gbr": gbr_layout(),
}
DTYPES = [torch.uint8, torch.uint16, torch.float32]
layouts = pytest.mark.parametrize("layout", LAYOUTS.values(), ids=LAYOUTS)


def to_rgb_args(planes, dtype):
    of = planes.layout
    return (
        planes.c0, planes.c1, planes.c2, list(of.to_rgb), of.shift_x, of.shift_y,
        of.site_x, of.site_y, dtype,
    )  # fmt: skip


def to_planes_args(rgb, of):
    return rgb, list(of.from_rgb), of.shift_x, of.shift_y, of.site_x, of.site_y, of.bits


def random_rgb(height, width, dtype=torch.uint8, seed=0):
    rgb = torch.rand((height, width, 3), generator=torch.Generator().manual_seed(seed))
    top = {torch.uint8: 255, torch.uint16: 65535, torch.float32: 0}[dtype]
    return (rgb * top).round().to(torch.int32).to(dtype) if top else rgb * 1.2 - 0.1


def one_code(dtype):  # a value that lies halfway may go either way
    return {"atol": 1e-5 if dtype == torch.float32 else 1.0, "rtol": 0}


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("store", ["padded", "nv12"])
@layouts
def test_to_rgb_agrees_with_reference(layout, store, dtype):
    planes = random_planes(layout, 27, 43, store=store)
    only = ("reference", "native") if dtype != torch.uint16 else ("reference", "native", "triton")
    ran = check_kernel(to_rgb_op, to_rgb_args(planes, dtype), only=only, **one_code(dtype))
    assert set(ran) >= set(only) - {"native"}
    ours, expected = (
        planes_to_rgb(planes, dtype=dtype),
        to_rgb_op.reference(*to_rgb_args(planes, dtype)),
    )
    assert (ours.double() != expected.double()).double().mean() < 0.01 or dtype == torch.float32


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@layouts
def test_to_planes_agrees_with_reference(layout, dtype):
    args = to_planes_args(random_rgb(27, 43, dtype), layout)
    ran = check_kernel(to_planes_op, args, only=("reference", "native"), atol=1.0, rtol=0)
    assert "reference" in ran
    if dtype == torch.float32:  # the interpreter's time goes with the number of programs
        args = to_planes_args(random_rgb(13, 21, dtype), layout)
        assert check_kernel(to_planes_op, args, only=("triton",), atol=1.0, rtol=0) == ["triton"]


@pytest.mark.skipif(bool(_native.reason), reason=_native.reason or "built")
@settings(max_examples=40, deadline=None)
@given(
    size=st.tuples(st.integers(1, 30), st.integers(1, 70)),
    shifts=st.tuples(st.integers(0, 2), st.integers(0, 2)),
    siting=st.sampled_from(["left", "center", "topleft"]),
    bits=st.sampled_from([8, 10]),
)
def test_native_agrees_at_any_size(size, shifts, siting, bits):
    layout = yuv_layout(shift_x=shifts[0], shift_y=shifts[1], siting=siting, bits=bits)
    args = to_rgb_args(random_planes(layout, *size), torch.float32)
    assert check_kernel(to_rgb_op, args, only=("native",)) == ["native"]
    args = to_planes_args(random_rgb(*size), layout)
    assert check_kernel(to_planes_op, args, only=("native",), atol=1.0, rtol=0) == ["native"]


@layouts
def test_to_rgb_against_float64_numpy(layout):
    planes = random_planes(layout, 21, 34)
    v, u = np.mgrid[:21, :34].astype(np.float64)
    expected = picture_at(planes, u, v)
    ours = planes_to_rgb(planes, dtype=torch.float32)
    np.testing.assert_allclose(ours.numpy(), expected, atol=2e-6)
    rounded = planes_to_rgb(planes).numpy()
    np.testing.assert_allclose(rounded, expected * 255, atol=0.5001)


@pytest.mark.parametrize(
    ("siting", "taps_x", "taps_y"),
    [
        ("left", {-1: 0.25, 0: 0.5, 1: 0.25}, {0: 0.5, 1: 0.5}),
        ("center", {0: 0.5, 1: 0.5}, {0: 0.5, 1: 0.5}),
        ("topleft", {-1: 0.25, 0: 0.5, 1: 0.25}, {-1: 0.25, 0: 0.5, 1: 0.25}),
    ],
)
def test_chroma_is_the_mean_around_its_siting(siting, taps_x, taps_y):
    """One blue pixel at a time: how much of it each chroma sample holds is its filter."""
    layout = yuv_layout(siting=siting, full_range=True, bits=16)
    span = layout.from_rgb[6] * 0.999  # codes that one full blue pixel would add
    for dy in range(-2, 4):
        for dx in range(-2, 4):
            rgb = torch.zeros(16, 16, 3)
            rgb[8 + dy, 8 + dx, 2] = 0.999
            planes = rgb_to_planes(rgb, layout)
            share = (int(planes.c1[4, 4]) - 32768) / span
            assert share == pytest.approx(taps_x.get(dx, 0) * taps_y.get(dy, 0), abs=1e-3)
            assert int(planes.c0[8 + dy, 8 + dx]) > 0


@layouts
def test_a_flat_picture_comes_back(layout):
    rgb = torch.tensor([200, 90, 30], dtype=torch.uint8).expand(13, 17, 3)
    planes = rgb_to_planes(rgb, layout)
    assert planes.c1.shape == (-(-13 // (1 << layout.shift_y)), -(-17 // (1 << layout.shift_x)))
    back = planes_to_rgb(planes)
    assert (back.int() - rgb.int()).abs().max() <= 2  # limited range has 219 steps for 255


def test_444_survives_the_round_trip():
    rgb = random_rgb(19, 23)
    layout = yuv_layout(shift_x=0, shift_y=0, bits=10, full_range=True)
    assert torch.equal(planes_to_rgb(rgb_to_planes(rgb, layout)), rgb)
    assert torch.equal(planes_to_rgb(rgb_to_planes(rgb, gbr_layout())), rgb)


def smooth_rgb(height=64, width=96):
    """Slow waves, so that how a converter filters chroma does not matter."""
    y, x = np.mgrid[:height, :width]
    waves = [np.sin(x / 23 + c) * np.cos(y / 19 - 2 * c) for c in range(3)]
    return np.round(127.5 + 110 * np.stack(waves, -1)).astype(np.uint8)


SWSCALE = {  # layout: pixel format, colour space and range of swscale
    "709": (yuv_layout(siting="left"), "yuv420p", "ITU709", "MPEG"),
    "601 full": (yuv_layout(matrix="bt601", full_range=True), "yuv420p", "ITU601", "JPEG"),
    "422": (yuv_layout(shift_y=0), "yuv422p", "ITU709", "MPEG"),
    "444": (yuv_layout(shift_x=0, shift_y=0), "yuv444p", "ITU709", "MPEG"),
    "10 bit": (yuv_layout(bits=10), "yuv420p10le", "ITU709", "MPEG"),
}


@pytest.mark.parametrize(("layout", "name", "matrix", "range_"), SWSCALE.values(), ids=SWSCALE)
def test_agrees_with_swscale(layout, name, matrix, range_):
    space, extent = av.video.reformatter.Colorspace[matrix], av.video.reformatter.ColorRange
    rgb = smooth_rgb()
    picture = av.VideoFrame.from_ndarray(rgb, format="rgb24")
    theirs = picture.reformat(
        format=name, dst_colorspace=space, dst_color_range=extent[range_],
        src_color_range=extent.JPEG, interpolation="BILINEAR",
    )  # fmt: skip
    ours = rgb_to_planes(torch.from_numpy(rgb), layout)
    unit = 1 << (layout.bits - 8)
    inner = slice(2, -2)
    for plane, codes in zip(theirs.planes, ours[:3]):
        kind = np.uint8 if layout.bits == 8 else np.uint16
        rows = np.frombuffer(plane, kind).reshape(plane.height, -1)[:, : plane.width]
        difference = rows.astype(int)[inner, inner] - codes.numpy().astype(int)[inner, inner]
        assert np.abs(difference).max() <= 2 * unit
        assert np.abs(difference).mean() < 0.8 * unit
    np.testing.assert_allclose(planes_to_rgb(ours).numpy(), rgb, atol=6)


def test_a_picture_without_pixels_of_its_own_is_refused():
    with pytest.raises(ValueError, match=r"rgb must be \[H, W, 3\]"):
        rgb_to_planes(torch.zeros(4, 4, 4), yuv_layout())
    with pytest.raises(ValueError, match="dtype must be"):
        planes_to_rgb(random_planes(yuv_layout(), 4, 4), dtype=torch.int32)


def test_registration():
    checks = ("test_schema", "test_faketensor")
    planes = random_planes(yuv_layout(), 6, 7)
    torch.library.opcheck(
        torch.ops.accel.planes_to_rgb.default, to_rgb_args(planes, torch.uint8), test_utils=checks
    )
    torch.library.opcheck(
        torch.ops.accel.rgb_to_planes.default,
        to_planes_args(random_rgb(6, 7), yuv_layout(bits=10)),
        test_utils=checks,
    )
