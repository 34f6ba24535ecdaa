"""Layouts against the standards' own numbers, and the checks on planes."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from accel.core import ConfigError
from accel.kernels.planes import LUMA_WEIGHTS, Planes, check_planes, gbr_layout, yuv_layout

from .pictures import random_planes


def codes_of(layout, rgb):
    m = np.array(layout.from_rgb).reshape(3, 4)
    return m[:, :3] @ np.array(rgb, np.float64) + m[:, 3]


@pytest.mark.parametrize("bits", [8, 10, 12, 16])
@pytest.mark.parametrize("matrix", LUMA_WEIGHTS)
def test_white_black_and_primaries_have_the_codes_of_the_standard(matrix, bits):
    unit = 1 << (bits - 8)
    limited = yuv_layout(matrix=matrix, bits=bits)
    np.testing.assert_allclose(codes_of(limited, [1, 1, 1]), np.array([235, 128, 128]) * unit)
    np.testing.assert_allclose(codes_of(limited, [0, 0, 0]), np.array([16, 128, 128]) * unit)
    # A primary is as far as its own chroma goes: blue has Cb 240, red has Cr 240.
    assert codes_of(limited, [0, 0, 1])[1] == pytest.approx(240 * unit)
    assert codes_of(limited, [1, 0, 0])[2] == pytest.approx(240 * unit)
    full = yuv_layout(matrix=matrix, bits=bits, full_range=True)
    np.testing.assert_allclose(codes_of(full, [1, 1, 1]), [256 * unit - 1, 128 * unit, 128 * unit])
    np.testing.assert_allclose(codes_of(full, [0, 0, 0]), [0, 128 * unit, 128 * unit], atol=1e-9)


def test_bt709_coefficients_as_everybody_writes_them():
    m = np.array(yuv_layout(matrix="bt709", full_range=True).to_rgb).reshape(3, 4)[:, :3] * 255
    expected = [[1, 0, 1.5748], [1, -0.1873, -0.4681], [1, 1.8556, 0]]
    np.testing.assert_allclose(m, expected, atol=5e-5)


@pytest.mark.parametrize(
    "layout",
    [
        yuv_layout(),
        yuv_layout(bits=10, full_range=True),
        yuv_layout(matrix="bt2020", bits=12),
        gbr_layout(bits=9),
    ],
    ids=["709", "10 bit full", "2020", "gbr"],
)
def test_to_rgb_undoes_from_rgb(layout):
    m = np.array(layout.to_rgb).reshape(3, 4)
    rgb = np.random.default_rng(0).random(3)
    np.testing.assert_allclose(m[:, :3] @ codes_of(layout, rgb) + m[:, 3], rgb, atol=1e-12)


def test_gbr_planes_are_green_blue_red():
    np.testing.assert_allclose(codes_of(gbr_layout(), [1, 0.5, 0]), [127.5, 0, 255])


@pytest.mark.parametrize(
    ("siting", "site"), [("left", (0, 0.5)), ("center", (0.5, 0.5)), ("topleft", (0, 0))]
)
def test_siting_of_420(siting, site):
    layout = yuv_layout(siting=siting)
    assert (layout.site_x, layout.site_y) == site


def test_an_axis_without_subsampling_has_no_offset():
    for siting in ("left", "center", "topleft"):
        assert yuv_layout(shift_x=1, shift_y=0, siting=siting).site_y == 0
        full = yuv_layout(shift_x=0, shift_y=0, siting=siting)
        assert (full.site_x, full.site_y) == (0, 0)


@pytest.mark.parametrize(
    "wrong", [{"matrix": "bt1886"}, {"siting": "right"}, {"bits": 7}, {"bits": 17}], ids=str
)
def test_refuses_what_no_standard_has(wrong):
    with pytest.raises(ConfigError, match=f"{next(iter(wrong))} must"):
        yuv_layout(**wrong)


def test_check_names_the_plane_that_does_not_fit():
    layout = yuv_layout()
    good = random_planes(layout, 5, 7)
    check_planes("crop", good)
    with pytest.raises(ValueError, match=r"c1 and c2 must be \(3, 4\) beside a 5x7 c0"):
        check_planes("crop", Planes(good.c0, good.c1[:2], good.c2[:2], layout))
    with pytest.raises(ValueError, match=r"plane c1 must be \[H, W\] torch.uint8"):
        check_planes("crop", Planes(good.c0, good.c1.to(torch.int16), good.c2, layout))
