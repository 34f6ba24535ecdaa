"""Planes made smaller and blurred: every implementation against the reference, bit for bit."""

from __future__ import annotations

import os
import subprocess
import sys

import numpy as np
import pytest
import torch

from accel.kernels.shrink import op, shrink
from tests.kernels.check import check_kernel


def plane(height=61, width=103, bits=8, seed=0):
    codes = np.random.default_rng(seed).integers(0, 1 << bits, (height, width))
    return torch.from_numpy(codes.astype(np.uint8 if bits == 8 else np.uint16))


@pytest.mark.parametrize("variance", [0.0, 0.1, 0.5])
@pytest.mark.parametrize("side", [1, 2, 3, 4, 5, 6, 7, 8, 16, 61])
@pytest.mark.parametrize("bits", [8, 10, 16])
def test_agrees_with_reference(bits, side, variance):
    args = (plane(bits=bits), side, round(128 * variance), 255 / ((1 << bits) - 1) / side**2)
    ran = check_kernel(op, args, atol=0, rtol=0)
    assert "native" in ran or "native" not in [i.name for i in op.implementations]


@pytest.mark.parametrize(("height", "width"), [(1, 1), (2, 1), (1, 9), (3, 2), (4, 64), (5, 200)])
def test_small_planes(height, width):
    args = (plane(height, width), 1, 40, 1.0)
    check_kernel(op, args, atol=0, rtol=0)


@pytest.mark.parametrize("beside", [1, 46, 63, 64, 65, 127, 128])
def test_black_beside_white_is_blurred_exactly(beside):
    """The largest differences there are, at every weight; rows of several vectors and a rest."""
    args = ((plane(40, 331) % 2) * 255, 1, beside, 1.0)
    check_kernel(op, args, atol=0, rtol=0)


def test_parts_of_larger_planes_are_read_where_they_lie():
    part = plane(200, 300)[20:110, 41:160]
    assert torch.equal(shrink(part, 3, variance=0.3), shrink(part.clone(), 3, variance=0.3))


def test_whole_squares_are_averaged_and_the_rest_is_left_out():
    codes = plane(31, 47)
    got = shrink(codes, 4)
    assert got.shape == (7, 11)
    expected = codes[:28, :44].double().reshape(7, 4, 11, 4).mean((1, 3))
    assert (got.double() - expected).abs().max() <= 0.5


@pytest.mark.parametrize("variance", [0.1, 0.25, 0.5])
def test_the_blur_is_as_wide_as_asked(variance):
    spot = torch.zeros(9, 9, dtype=torch.uint8)
    spot[4, 4] = 255
    got = shrink(spot, variance=variance).double().sum(0)
    away = torch.arange(9) - 4.0
    assert abs((got * away).sum()) < 1e-9
    assert abs((got * away**2).sum() / got.sum() - variance) < 0.02


def test_flat_planes_stay_flat_and_the_brightest_code_is_255():
    for bits in (8, 10, 12, 16):
        top = (1 << bits) - 1
        flat = torch.full((20, 20), top, dtype=torch.uint8 if bits == 8 else torch.uint16)
        assert (shrink(flat, 3, variance=0.3, max_code=top) == 255).all()


@pytest.mark.parametrize("lanes", [4, 8])
def test_narrower_processors_give_the_same_codes(lanes, tmp_path):
    code = "import sys; from tests.kernels.test_shrink import *; torch.save(shrunk(), sys.argv[1])"
    path = tmp_path / "shrunk.pt"
    environment = dict(os.environ, ACCEL_LANES=str(lanes))
    subprocess.run([sys.executable, "-c", code, str(path)], env=environment, check=True)
    assert all(torch.equal(a, b) for a, b in zip(torch.load(path), shrunk(), strict=True))


def shrunk():
    return [shrink(plane(bits=b), s, variance=0.3) for b in (8, 12) for s in (1, 2, 3, 7)]


def test_refuses_what_cannot_be():
    with pytest.raises(TypeError, match=r"must be \[H, W\] uint8 or uint16, got \[61, 103\]"):
        shrink(plane().float())
    with pytest.raises(ValueError, match="side must lie in"):
        shrink(plane(), 62)
    with pytest.raises(ValueError, match="side must lie in"):
        shrink(plane(), 0)
    with pytest.raises(ValueError, match="variance must lie in"):
        shrink(plane(), 2, variance=float("nan"))


def test_registration():
    args = (plane(), 2, 40, 0.25)
    torch.library.opcheck(torch.ops.accel.shrink.default, args)
