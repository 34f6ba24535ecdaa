from __future__ import annotations

import math

import cv2
import numpy as np
import pytest
import torch

from accel.kernels.blend import blend_op, blend_pyramid, feather, feather_op
from tests.kernels.check import check_kernel

NAMES = ("reference", "native", "triton")


@pytest.fixture(params=NAMES)
def name(request):
    return request.param


def run(op, name, *args):
    implementation = next(i for i in op.implementations if i.name == name)
    if reason := implementation.why_not(*args):
        pytest.skip(reason)
    return implementation.run(*args)


def rand(*shape, seed=0):
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed))


def blob(height, width):
    """A mask like a face's: an ellipse with a soft edge."""
    y, x = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    far = ((y - height / 2) / (0.42 * height)) ** 2 + ((x - width / 2) / (0.38 * width)) ** 2
    return ((1.1 - far) * 5).clamp(0, 1)


# ---- feather


@pytest.mark.parametrize(
    ("shape", "erode", "blur"),
    [
        ((2, 21, 37), 2.3, 1.2),
        ((1, 40, 70), 0.0, 0.0),  # more than a tile wide
        ((1, 24, 9), 1.0, 5.0),  # the Gaussian is wider than the picture
        ((1, 5, 6), 9.0, 1.0),  # so is the disc
        ((1, 1, 1), 0.0, 0.0),
    ],
)
def test_feather_agrees_with_reference(shape, erode, blur):
    ran = check_kernel(feather_op, [rand(*shape) + 0.2, erode, blur], atol=2e-6, rtol=0)
    assert set(ran) == set(NAMES)


@pytest.mark.parametrize(
    ("erode", "blur"), [(8.0, 8.0), (3.0, 0.4), (40.5, 2.0), (0.9, 20.0), (1.5, 4.7), (16.0, 16.0)]
)
def test_feather_agrees_with_reference_at_full_size(erode, blur):
    masks = torch.stack([blob(130, 161), rand(130, 161) + 0.1, torch.zeros(130, 161)])
    ran = check_kernel(feather_op, [masks, erode, blur], ("native",), atol=2e-6, rtol=0)
    assert ran == ["native"] or "native" not in {i.name for i in feather_op.implementations}


@pytest.mark.parametrize(("erode", "blur"), [(3.0, 2.0), (4.7, 0.0), (0.0, 3.0)])
def test_feather_is_erosion_and_blur_of_opencv_away_from_the_border(erode, blur):
    mask = blob(96, 80)
    mask[:20] = 0
    y, x = np.mgrid[-5:6, -5:6]
    disc = (x * x + y * y <= erode * erode).astype(np.uint8)
    expected = cv2.erode(mask.numpy(), disc, borderType=cv2.BORDER_CONSTANT, borderValue=0)
    if blur:
        side = 2 * math.ceil(3 * blur) + 1
        expected = cv2.GaussianBlur(expected, (side, side), blur, borderType=cv2.BORDER_CONSTANT)
    inner = (slice(None), slice(8, -8), slice(8, -8))  # 2 sigma of ramp on each side
    got = feather(mask[None], erode, blur)
    torch.testing.assert_close(
        got[inner], torch.from_numpy(expected)[None][inner], atol=1e-5, rtol=0
    )


def test_feather_shrinks_by_the_distance_in_every_direction(name):
    mask = torch.ones(1, 31, 31)
    mask[0, 15, 15] = 0  # grows to a disc
    out = run(feather_op, name, mask, 2.3, 0.0)
    y, x = torch.meshgrid(torch.arange(31) - 15, torch.arange(31) - 15, indexing="ij")
    hole = x * x + y * y <= 2.3 * 2.3
    inner = (x.abs() <= 13) & (y.abs() <= 13)  # outside of the crop is 0, which eats 2 pixels
    assert torch.equal(out[0] == 1, inner & ~hole)


def test_feather_blurs_an_edge_into_the_error_function(name):
    mask = torch.zeros(1, 40, 60)
    mask[:, :, 30:] = 1
    out = run(feather_op, name, mask, 0.0, 2.0)[0, 20, 20:40]
    at = torch.arange(20, 40) - 29.5
    torch.testing.assert_close(out, 0.5 + 0.5 * torch.erf(at / (2 * 2**0.5)), atol=5e-3, rtol=0)


def test_feather_is_zero_on_the_border_and_rises_in_two_sigma(name):
    out = run(feather_op, name, torch.ones(1, 33, 41), 0.0, 2.0)[0]
    for line in (out[0], out[-1], out[:, 0], out[:, -1]):
        assert not line.any()
    middle = out[16, :21]
    assert (middle.diff()[:4] > 0).all()
    assert middle[8:].min() > 0.999
    torch.testing.assert_close(out, out.flip(0))
    torch.testing.assert_close(out, out.flip(1))


def test_feather_without_blur_leaves_a_border_of_one_pixel(name):
    out = run(feather_op, name, torch.full((1, 6, 7), 0.5), 0.0, 0.0)
    expected = torch.zeros(1, 6, 7)
    expected[:, 1:-1, 1:-1] = 0.5
    assert torch.equal(out, expected)


@pytest.mark.parametrize("sizes", [(-1.0, 0.0), (0.0, -0.1), (math.nan, 1.0), (0.0, math.inf)])
def test_feather_refuses_sizes_below_zero(sizes):
    with pytest.raises(ValueError, match="must be 0 or more"):
        feather(rand(1, 4, 4), *sizes)


def test_feather_refuses_other_masks():
    with pytest.raises(TypeError, match=r"masks must be float32, got torch\.float16"):
        feather(rand(1, 4, 4).half(), 1, 1)
    with pytest.raises(ValueError, match=r"\[N, H, W\], got \(4, 4\)"):
        feather(rand(4, 4), 1, 1)
    assert feather(rand(0, 4, 4), 1, 1).shape == (0, 4, 4)


# ---- pyramid


@pytest.mark.parametrize(
    ("shape", "levels"),
    [
        ((1, 1, 18, 70), 2),  # more than a tile each way
        ((2, 2, 7, 5), 1),  # a mask to each picture
        ((1, 1, 17, 9), 3),  # odd at every level
        ((1, 1, 8, 2), 9),  # runs out of levels
        ((1, 2, 3, 5), 0),
        ((1, 3, 1, 1), 2),
    ],
)
def test_pyramid_agrees_with_reference(shape, levels):
    args = [rand(*shape), rand(*shape, seed=1), rand(shape[0], *shape[2:], seed=2), levels]
    assert set(check_kernel(blend_op, args, atol=2e-6, rtol=0)) == set(NAMES)


@pytest.mark.parametrize("shape", [(1, 3, 128, 160), (2, 3, 97, 131)])
def test_pyramid_agrees_with_reference_at_full_size(shape):
    args = [rand(*shape), rand(*shape, seed=1), rand(shape[0], *shape[2:], seed=2), 4]
    check_kernel(blend_op, args, ("native",), atol=2e-6, rtol=0)


def opencv_blend(front, back, mask, levels):
    """The textbook way, pyramids of all three pictures, on [H, W] arrays."""
    pyramids = []
    for picture in (front, back, mask):
        pyramid = [picture]
        for _ in range(levels):
            pyramid.append(cv2.pyrDown(pyramid[-1]))
        pyramids.append(pyramid)
    front, back, mask = pyramids
    out = mask[-1] * front[-1] + (1 - mask[-1]) * back[-1]
    for i in range(levels - 1, -1, -1):
        size = front[i].shape[::-1]
        f, b = (p[i] - cv2.pyrUp(p[i + 1], dstsize=size) for p in (front, back))
        out = mask[i] * f + (1 - mask[i]) * b + cv2.pyrUp(out, dstsize=size)
    return out


@pytest.mark.parametrize(("height", "width", "levels"), [(16, 24, 3), (16, 48, 1), (16, 16, 0)])
def test_pyramid_is_that_of_opencv(name, height, width, levels):
    front, back, mask = (rand(1, 1, height, width, seed=s) for s in range(3))
    out = run(blend_op, name, front, back, mask[:, 0], levels)
    expected = opencv_blend(*(t[0, 0].numpy() for t in (front, back, mask)), levels)
    torch.testing.assert_close(out[0, 0], torch.from_numpy(expected), atol=5e-6, rtol=0)


def test_pyramid_takes_front_where_the_mask_is_one_and_back_where_zero(name):
    front, back, mask = rand(1, 1, 16, 96), rand(1, 1, 16, 96, seed=1), torch.zeros(1, 16, 96)
    mask[:, :, 48:] = 1
    out = run(blend_op, name, front, back, mask, 2)
    torch.testing.assert_close(out[..., 64:], front[..., 64:], atol=1e-6, rtol=0)
    torch.testing.assert_close(out[..., :32], back[..., :32], atol=0, rtol=0)
    between = out[..., 46:50]
    assert (between - front[..., 46:50]).abs().max() > 0.1
    assert (between - back[..., 46:50]).abs().max() > 0.1


def test_pyramid_of_equal_pictures_is_that_picture(name):
    picture = rand(1, 1, 13, 22)
    out = run(blend_op, name, picture, picture, rand(1, 13, 22, seed=1), 3)
    assert torch.equal(out, picture)


def test_pyramid_spreads_the_seam_of_a_flat_difference(name):
    front, back, mask = torch.ones(1, 1, 8, 64), torch.zeros(1, 1, 8, 64), torch.zeros(1, 8, 64)
    mask[:, :, 32:] = 1
    line = run(blend_op, name, front, back, mask, 3)[0, 0, 4]
    assert (line.diff() >= -1e-3).all()
    assert line.diff().max() < 0.12  # a plain mix would jump by 1
    torch.testing.assert_close(run(blend_op, name, front, back, mask, 0)[0, 0], mask[0])


def test_pyramid_refuses_what_does_not_fit():
    front, mask = rand(1, 3, 8, 8), rand(1, 8, 8)
    with pytest.raises(ValueError, match=r"got \(1, 3, 8, 8\), \(1, 3, 8, 9\) and \(1, 8, 8\)"):
        blend_pyramid(front, rand(1, 3, 8, 9), mask)
    with pytest.raises(ValueError, match="masks"):
        blend_pyramid(front, front, rand(2, 8, 8))
    with pytest.raises(ValueError, match="levels must be 0 or more, got -1"):
        blend_pyramid(front, front, mask, -1)
    with pytest.raises(TypeError, match=r"torch\.float64"):
        blend_pyramid(front.double(), front, mask)
    assert blend_pyramid(front[:0], front[:0], mask[:0]).shape == (0, 3, 8, 8)


@pytest.mark.parametrize("op", ["feather", "blend_pyramid"])
def test_registration(op):
    picture, mask = rand(1, 3, 8, 9), rand(1, 8, 9, seed=1)
    args = {"feather": (mask, 1.5, 0.8), "blend_pyramid": (picture, picture, mask, 2)}[op]
    torch.library.opcheck(getattr(torch.ops.accel, op).default, args)


def test_gradients_are_those_of_linear_maps():
    front, mask = rand(1, 1, 8, 9).requires_grad_(), torch.ones(1, 8, 9, requires_grad=True)
    blend_pyramid(front, torch.zeros(1, 1, 8, 9), mask, 2).sum().backward()
    torch.testing.assert_close(front.grad, torch.ones_like(front))
    mask.grad = None
    feather(mask, 0.0, 0.0).sum().backward()
    assert mask.grad.sum() == 6 * 7
