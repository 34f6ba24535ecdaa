"""warp beside OpenCV's remap, whose coordinates are rounded to 1/32 of a pixel."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
import torch

from accel.kernels._op import INTERPRETED
from accel.kernels.warp import op, straight_grid, warp
from tests.kernels.check import check_kernel


def picture(n, height, width, channels, seed=0):
    """Smooth enough that a 32nd of a pixel is a small thing, as photographs are."""
    rng = np.random.default_rng(seed)
    made = rng.integers(0, 256, (n, height, width, channels)).astype(np.uint8)
    for i, noise in enumerate(made):
        made[i] = cv2.GaussianBlur(noise, (0, 0), 1.2).reshape(height, width, channels)
    return torch.from_numpy(made)


def inputs(n=2, height=24, width=32, channels=3, side=5, seed=0):
    make = torch.Generator().manual_seed(seed)
    grids = straight_grid(height, width, side).repeat(n, 1, 1, 1)
    grids[:, :, 1:-1, 1:-1] += torch.randn(n, 2, side - 2, side - 2, generator=make) * 2
    matrices = torch.tensor([[0.97, 0.12, -1.3], [-0.1, 1.04, 2.2]]).repeat(n, 1, 1)
    matrices += torch.randn(n, 2, 3, generator=make) * 0.02
    return picture(n, height, width, channels, seed), grids, matrices


def opencv(pictures, grids, matrices, cubic):
    """The map drawn out over the picture, turned, then read by remap."""
    _, height, width, channels = pictures.shape
    out = []
    for image, grid, matrix in zip(pictures.numpy(), grids.numpy(), matrices.numpy()):
        cells = grid.shape[-1] - 1
        y, x = np.mgrid[:height, :width].astype(np.float32)
        u = np.clip(matrix[0, 0] * x + matrix[0, 1] * y + matrix[0, 2], 0, width - 1)
        v = np.clip(matrix[1, 0] * x + matrix[1, 1] * y + matrix[1, 2], 0, height - 1)
        maps = [
            cv2.remap(
                np.ascontiguousarray(m),
                (u * cells / width).astype(np.float32),
                (v * cells / height).astype(np.float32),
                cv2.INTER_LINEAR,
                borderMode=cv2.BORDER_REPLICATE,
            )
            for m in grid
        ]
        kind = cv2.INTER_CUBIC if cubic else cv2.INTER_LINEAR
        read = cv2.remap(image.astype(np.float32), *maps, kind, borderMode=cv2.BORDER_REPLICATE)
        out.append(read.reshape(height, width, channels).transpose(2, 0, 1))
    return np.clip(np.stack(out) / 255, 0, 1)


def psnr(a, b):
    return -10 * np.log10(max(np.square(a - b).mean(), 1e-12))


@pytest.mark.parametrize("cubic", [True, False])
@pytest.mark.parametrize("shape", [(2, 24, 32, 3), (1, 17, 13, 1), (0, 8, 8, 3)], ids=str)
def test_agrees_with_reference(shape, cubic):
    ran = check_kernel(op, [*inputs(*shape), cubic], atol=2e-4)
    assert "reference" in ran


@pytest.mark.skipif(not INTERPRETED, reason="runs in the interpreter: TRITON_INTERPRET=1")
def test_triton_was_checked():
    assert "triton" in check_kernel(op, [*inputs(1, 12, 16), True], only=["triton"], atol=2e-4)


@pytest.mark.parametrize("cubic", [True, False])
def test_is_opencvs_remap(cubic):
    for size in (64, 96):
        args = inputs(3, size, size, 3, 9)
        assert psnr(warp(*args, cubic=cubic).numpy(), opencv(*args, cubic)) > 45


def test_nothing_bent_nothing_turned_is_the_picture():
    pictures = picture(2, 20, 28, 3)
    straight = torch.tensor([[1.0, 0, 0], [0, 1, 0]]).repeat(2, 1, 1)
    out = warp(pictures, straight_grid(20, 28, 3).repeat(2, 1, 1, 1), straight)
    torch.testing.assert_close(out, pictures.permute(0, 3, 1, 2) / 255, atol=1e-4, rtol=0)


def test_a_finer_grid_of_the_same_bend_changes_nothing():
    pictures, coarse, matrices = inputs(1, 32, 32, 3, 3)
    rows = torch.nn.functional.interpolate(coarse, size=5, mode="bilinear", align_corners=True)
    a, b = warp(pictures, coarse, matrices), warp(pictures, rows, matrices)
    torch.testing.assert_close(a, b, atol=1e-3, rtol=0)


def test_a_matrix_that_mirrors():
    pictures = picture(1, 16, 16, 1)
    mirror = torch.tensor([[[-1.0, 0, 15], [0, 1, 0]]])
    out = warp(pictures, straight_grid(16, 16)[None], mirror, cubic=False)
    torch.testing.assert_close(out[0, 0], pictures[0, :, :, 0].flip(1) / 255, atol=1e-4, rtol=0)


def test_beyond_the_border_all_is_as_at_the_border():
    pictures = picture(1, 16, 16, 3)
    away = torch.tensor([[[1.0, 0, 1e9], [0, 1, -1e9]]])
    out = warp(pictures, straight_grid(16, 16)[None], away)
    corner = pictures[0, 0, 15] / 255
    assert (out[0] - corner[:, None, None]).abs().max() < 0.02


def test_numbers_that_are_none_do_no_harm():
    for implementation in op.implementations:
        args = picture(1, 8, 8, 3), torch.full((1, 2, 2, 2), torch.nan), torch.ones(1, 2, 3)
        if not implementation.why_not(*args, True) and implementation.name != "reference":
            assert implementation.run(*args, True).shape == (1, 3, 8, 8)


@pytest.mark.parametrize(
    ("change", "error"),
    [
        (lambda p, g, m: (p.float(), g, m), TypeError),
        (lambda p, g, m: (p, g.double(), m), TypeError),
        (lambda p, g, m: (p[..., :2], g, m), ValueError),
        (lambda p, g, m: (p, g[:1], m), ValueError),
        (lambda p, g, m: (p, g[..., :1], m), ValueError),
        (lambda p, g, m: (p, g, m[:, :1]), ValueError),
    ],
)
def test_refuses_what_does_not_fit(change, error):
    with pytest.raises(error, match="warp: pictures must be"):
        warp(*change(*inputs()))


def test_registration():
    torch.library.opcheck(torch.ops.accel.warp.default, (*inputs(1, 8, 12), True))
