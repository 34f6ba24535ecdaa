"""Poisson cloning against OpenCV's, and against the equations it is to solve."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
import torch

from accel.kernels import morphology
from accel.kernels._native import why_not
from accel.kernels.morphology import chords, erode_ellipse
from accel.kernels.seamless import MARGIN, _folded_sines, op, seamless
from tests.kernels.check import check_kernel

NATIVE = pytest.mark.skipif(bool(why_not()), reason=why_not())
SHAPES = [(1, 3, 40, 61), (2, 1, 31, 30), (1, 3, 3, 3), (1, 3, 9, 4), (1, 3, 4, 17), (1, 1, 20, 3)]


def picture(shape, seed):
    make = np.random.default_rng(seed)
    small = make.random((shape[0] * shape[1], 6, 6)).astype(np.float32)
    large = [cv2.resize(p, (shape[3], shape[2]), interpolation=cv2.INTER_CUBIC) for p in small]
    return torch.from_numpy(np.stack(large).clip(0, 1)).reshape(shape)


def ellipse(height, width):
    mask = np.zeros((height, width), np.uint8)
    cv2.ellipse(mask, (width // 2, height // 2), (width // 2, height // 2), 0, 0, 360, 255, -1)
    return mask


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_agrees_with_reference(shape):
    inside = torch.from_numpy(ellipse(*shape[2:]) > 0)[None].repeat(shape[0], 1, 1)
    args = (picture(shape, 1), picture(shape, 2), inside.to(torch.uint8))
    ran = check_kernel(op, args, atol=2e-5)
    assert "reference" in ran
    assert why_not() or "native" in ran


def test_is_opencvs_normal_clone():
    mask = np.zeros((150, 180), np.uint8)
    cv2.ellipse(mask, (95, 70), (60, 45), 25, 0, 360, 255, -1)
    source, target = (picture((1, 3, 150, 180), seed) for seed in (1, 2))
    eight = [np.ascontiguousarray((p[0].permute(1, 2, 0) * 255).byte()) for p in (source, target)]
    x, y, width, height = cv2.boundingRect(mask)
    middle = (x + width // 2, y + height // 2)
    theirs = cv2.seamlessClone(*eight, mask.copy(), middle, cv2.NORMAL_CLONE)
    box = slice(y, y + height), slice(x, x + width)
    crops = [torch.from_numpy(p[box].copy()).permute(2, 0, 1)[None].float() / 255 for p in eight]
    ours = seamless(*crops, torch.from_numpy(mask[box].copy() > 0)[None].float())
    apart = ours[0].permute(1, 2, 0).numpy() * 255 - theirs[box]
    assert -20 * np.log10(np.sqrt((apart**2).mean()) / 255) > 45
    assert np.abs(apart).max() < 2  # they cut off what is behind the point


@NATIVE
def test_inside_are_the_sources_differences_and_the_border_is_the_targets():
    source, target = 0.4 + 0.2 * picture((1, 3, 60, 50), 1), 0.4 + 0.2 * picture((1, 3, 60, 50), 2)
    made = seamless(source, target, torch.ones(1, 60, 50))

    def laplacian(p):
        return (
            p[..., 1:-1, 2:]
            + p[..., 1:-1, :-2]
            + p[..., 2:, 1:-1]
            + p[..., :-2, 1:-1]
            - 4 * (p[..., 1:-1, 1:-1])
        )

    inner = slice(MARGIN + 1, -MARGIN - 1)
    wanted = laplacian(source)[..., inner, inner]
    torch.testing.assert_close(laplacian(made)[..., inner, inner], wanted, atol=2e-5, rtol=0)
    for edge in (np.s_[..., 0, :], np.s_[..., -1, :], np.s_[..., 0], np.s_[..., -1]):
        assert torch.equal(made[edge], target[edge])


def test_an_empty_mask_changes_nothing():
    source, target = picture((1, 3, 20, 20), 1), picture((1, 3, 20, 20), 2)
    made = seamless(source, target, torch.zeros(1, 20, 20))
    torch.testing.assert_close(made, target, atol=1e-6, rtol=0)


@pytest.mark.parametrize("height", [0, 1, 2])
def test_a_rectangle_without_inside_is_the_target(height):
    target = torch.rand(1, 3, height, 9)
    assert torch.equal(
        seamless(torch.rand(1, 3, height, 9), target, torch.ones(1, height, 9)), target
    )


def test_shapes_that_do_not_fit_are_refused():
    with pytest.raises(ValueError, match="sources and targets must be"):
        seamless(torch.rand(1, 3, 8, 8), torch.rand(1, 3, 8, 9), torch.ones(1, 8, 8))
    with pytest.raises(ValueError, match="masks must be"):
        seamless(torch.rand(1, 3, 8, 8), torch.rand(1, 3, 8, 8), torch.ones(8, 8))


@pytest.mark.parametrize("columns", [1, 2, 3, 8, 9])
def test_folded_sines_are_the_sine_transform(columns):
    odd, even = _folded_sines(columns)
    row = torch.rand(columns)
    half = (columns + 1) // 2
    mirrored = row.flip(0)
    sums = (row + mirrored)[:half].clone()
    if columns % 2:
        sums[-1] = row[half - 1]
    spectrum = torch.zeros(columns)
    spectrum[0::2] = sums @ odd
    spectrum[1::2] = (row - mirrored)[: columns - half] @ even
    at = torch.arange(1, columns + 1)
    whole = torch.sin(torch.pi / (columns + 1) * at[:, None] * at)
    torch.testing.assert_close(spectrum, row @ whole)


# --- erosion by an ellipse ----------------------------------------------------------------------


@pytest.mark.parametrize("size", [1, 2, 3, 4, 5, 8, 13, 30, 77, 200])
def test_erosion_is_opencvs(size):
    mask = np.random.default_rng(size).random((61, 90)).astype(np.float32)
    element = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (size, size))
    expected = torch.from_numpy(cv2.erode(mask, element))
    assert torch.equal(erode_ellipse(torch.from_numpy(mask), size), expected)
    if size > 1:
        ran = check_kernel(morphology.op, (torch.from_numpy(mask), size), rtol=0, atol=0)
        assert why_not() or "native" in ran


def test_chords_make_the_ellipse():
    for size in (2, 5, 12):
        element = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (size, size))
        drawn = np.zeros_like(element)
        for row, first, last in chords(size):
            drawn[row + size // 2, first + size // 2 : last + size // 2 + 1] = 1
        assert np.array_equal(drawn, element)


def test_erosion_refuses_what_is_no_mask():
    with pytest.raises(ValueError, match="mask must be"):
        erode_ellipse(torch.zeros(3, 3, 3), 3)
    with pytest.raises(ValueError, match=r"size must lie in 1\.\.4096"):
        erode_ellipse(torch.zeros(3, 3), 0)
