"""Lab statistics, light and relighting against definitions, known colours and OpenCV."""

import cv2
import numpy as np
import pytest
import torch

from accel.kernels._native import why_not
from accel.kernels.color import (
    color_stats,
    color_stats_op,
    illumination,
    illumination_op,
    relight,
    relight_op,
    rgb_to_lab,
)
from tests.kernels.check import check_kernel

LAB = {"rtol": 0, "atol": 2e-3}  # in units of 100; 3e-5 of the range is far below what is seen
SHAPES = [
    (1, 64, 64),
    (2, 33, 47),  # divides into no cells and fills no vector
    (1, 5, 7),  # fewer pixels than cells
    (0, 8, 8),  # nothing to do
]


def inputs(count, height, width, dtype=torch.float32, seed=0):
    make = torch.Generator().manual_seed(seed)
    crops = torch.rand(count, 3, height, width, generator=make).to(dtype)
    masks = torch.rand(count, height, width, generator=make).sub(0.3).clamp(min=0)
    return crops, masks


def lights(count, grid=16, seed=1):
    make = torch.Generator().manual_seed(seed)
    stats = [torch.rand(count, 2, 3, generator=make) * 30 + 10 for _ in range(2)]
    light = [torch.rand(count, 4, grid, grid, generator=make) * 30 for _ in range(2)]
    return [*stats, *light]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16], ids=str)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_color_stats_agrees_with_reference(shape, dtype):
    ran = check_kernel(color_stats_op, list(inputs(*shape, dtype)), **LAB)
    assert "reference" in ran


@pytest.mark.parametrize("grid", [1, 3, 16])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_illumination_agrees_with_reference(shape, grid):
    # One Triton program a cell: 256 of them would take the interpreter many seconds.
    only = None if grid < 16 else ("reference", "native")
    ran = check_kernel(illumination_op, [*inputs(*shape), grid], only, **LAB)
    assert "reference" in ran


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16], ids=str)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_relight_agrees_with_reference(shape, dtype):
    crops, _ = inputs(*shape, dtype)
    args = [crops, *lights(shape[0], grid=5), 0.75, 1.6]
    tolerance = 1e-3 if dtype == torch.float16 else 3e-5
    assert "reference" in check_kernel(relight_op, args, rtol=0, atol=tolerance)


@pytest.mark.skipif(bool(why_not()), reason=why_not() or "native module is there")
def test_native_serves_plain_calls():
    color_stats(*inputs(1, 16, 16))
    assert "native" in color_stats_op.used


@pytest.mark.skipif(bool(why_not()), reason=why_not() or "native module is there")
def test_result_does_not_depend_on_threads():
    crops, masks = inputs(4, 256, 256)
    before = torch.get_num_threads()
    results = []
    for threads in (1, 2):
        torch.set_num_threads(threads)
        light = illumination(crops, masks)
        results.append((color_stats(crops, masks), light, relight(crops, *lights(4))))
    torch.set_num_threads(before)
    for one, two in zip(*results):
        assert torch.equal(one, two)


def test_agrees_with_opencv():
    crops, _ = inputs(1, 64, 64)
    picture = np.ascontiguousarray(crops[0].permute(1, 2, 0).numpy())
    lab = cv2.cvtColor(picture, cv2.COLOR_RGB2Lab).reshape(-1, 3)
    found = color_stats(crops, torch.ones(1, 64, 64))[0].numpy()
    # OpenCV reads colours from a coarse table of 33 steps a side, interpolated.
    np.testing.assert_allclose(found[0], lab.mean(0), atol=0.15)
    np.testing.assert_allclose(found[1], lab.std(0), atol=0.15)
    back = cv2.cvtColor(rgb_to_lab(crops)[0].permute(1, 2, 0).numpy(), cv2.COLOR_Lab2RGB)
    np.testing.assert_allclose(back, picture, atol=2e-3)


@pytest.mark.parametrize(
    ("rgb", "lab"),
    [  # published values for sRGB and D65
        ((1, 1, 1), (100, 0, 0)),
        ((0, 0, 0), (0, 0, 0)),
        ((1, 0, 0), (53.24, 80.09, 67.20)),
        ((0, 1, 0), (87.73, -86.18, 83.18)),
        ((0, 0, 1), (32.30, 79.19, -107.86)),
    ],
    ids=str,
)
def test_known_colours(rgb, lab):
    crops = torch.tensor(rgb, dtype=torch.float32).view(1, 3, 1, 1).expand(1, 3, 8, 8).contiguous()
    stats = color_stats(crops, torch.ones(1, 8, 8))
    torch.testing.assert_close(stats[0, 0], torch.tensor(lab), rtol=0, atol=0.05, check_dtype=False)
    torch.testing.assert_close(stats[0, 1], torch.zeros(3), rtol=0, atol=1e-4)


@pytest.mark.parametrize("name", ["reference", "native", "triton"])
def test_every_implementation_orders_red_before_blue(name):
    """A swap of channels or of a and b must not pass by symmetry."""
    crops = torch.zeros(1, 3, 4, 4)
    crops[:, 0] = 1
    ones = torch.ones(1, 4, 4)
    implementation = next(i for i in color_stats_op.implementations if i.name == name)
    reason = implementation.why_not(crops, ones)
    if reason:
        pytest.skip(reason)
    light, a, b = implementation.run(crops, ones)[0, 0].tolist()
    assert (round(light), round(a), round(b)) == (53, 80, 67)


def test_an_empty_mask_gives_zeros():
    crops, masks = inputs(2, 16, 16)
    masks[1] = 0
    crops[1] = float("nan")
    assert color_stats(crops, masks)[1].eq(0).all()
    assert illumination(crops, masks)[1].eq(0).all()
    assert color_stats(crops, masks)[0].ne(0).all()


def test_nan_outside_the_mask_does_not_count_and_inside_is_not_hidden():
    crops, masks = inputs(2, 16, 16)
    masks[:, 3, 3] = 0
    clean = color_stats(crops, masks)
    crops[:, :, 3, 3] = float("nan")
    torch.testing.assert_close(color_stats(crops, masks), clean)
    assert illumination(crops, masks).isfinite().all()
    masks[0, 3, 3] = 1
    stats = color_stats(crops, masks)
    assert stats[0, 0].isnan().all()
    torch.testing.assert_close(stats[1], clean[1])
    moved = relight(crops, *lights(2))
    assert moved[:, :, 3, 3].isnan().all()
    assert int(moved.isnan().sum()) == 6


def test_colours_outside_the_range_are_clamped():
    crops = torch.tensor([-0.5, 1.5, 0.5]).view(1, 3, 1, 1).expand(1, 3, 4, 4).contiguous()
    ones = torch.ones(1, 4, 4)
    torch.testing.assert_close(color_stats(crops, ones), color_stats(crops.clamp(0, 1), ones))


def test_light_is_found_where_it_falls():
    ramp = torch.linspace(0.2, 0.8, 64).expand(1, 3, 64, 64).contiguous()  # brighter to the right
    light = illumination(ramp, torch.ones(1, 64, 64))[0]
    assert (light[0, :, 1:] > light[0, :, :-1]).all()
    torch.testing.assert_close(light[0], light[0, :1].expand(16, 16), rtol=0, atol=1e-3)
    down = illumination(ramp.transpose(2, 3).contiguous(), torch.ones(1, 64, 64))[0]
    torch.testing.assert_close(down[0], light[0].T, rtol=0, atol=1e-3)
    assert light[3].eq(1).all()


def test_holes_are_filled_from_around():
    crops = torch.full((1, 3, 64, 64), 0.6)
    crops[..., 20:40, 20:40] = 0  # black, but not part of the face
    masks = torch.ones(1, 64, 64)
    masks[:, 20:40, 20:40] = 0
    light = illumination(crops, masks)[0]
    torch.testing.assert_close(light[0], light[0, 0, 0].expand(16, 16), rtol=0, atol=1e-3)
    assert light[3, 5:10, 5:10].eq(0).all()


def test_relight_reaches_the_target_statistics():
    make = torch.Generator().manual_seed(0)
    source = 0.4 + 0.2 * torch.rand(1, 3, 64, 64, generator=make)
    target = 0.5 + 0.15 * torch.rand(1, 3, 64, 64, generator=make)
    ones = torch.ones(1, 64, 64)
    stats = color_stats(source, ones), color_stats(target, ones)
    level = torch.zeros(1, 3, 4, 4)
    moved = relight(source, *stats, level, level, strength=0.0)
    torch.testing.assert_close(color_stats(moved, ones), stats[1], rtol=0, atol=0.05)


def test_relight_takes_over_the_slope_of_light():
    ramp = torch.linspace(0.3, 0.7, 128).expand(1, 3, 128, 128).contiguous()
    flat = torch.full((1, 3, 128, 128), 0.5)
    ones = torch.ones(1, 128, 128)
    stats = color_stats(flat, ones)
    light = illumination(flat, ones), illumination(ramp, ones)
    moved = relight(flat, stats, stats, *light, strength=1.0)
    found = illumination(moved, ones)
    inner = slice(4, 12)  # the outer cells of a blurred ramp are flatter than the ramp
    slope = (found - light[1])[0, 0, inner, inner].abs().max()
    assert slope < 1.0
    assert (found[0, 0, 8, 12] - found[0, 0, 8, 3]) > 10


def test_relight_with_equal_sides_changes_nothing():
    crops, masks = inputs(2, 32, 32)
    stats, light = color_stats(crops, masks), illumination(crops, masks)
    moved = relight(crops, stats, stats, light, light)
    torch.testing.assert_close(moved, crops, rtol=0, atol=5e-5)


def test_contrast_is_limited():
    crops, masks = inputs(1, 32, 32)
    stats = color_stats(crops * 0.2 + 0.4, masks)
    strong = stats.clone()
    strong[:, 1] *= 10
    level = torch.zeros(1, 3, 4, 4)
    moved = relight(crops * 0.2 + 0.4, stats, strong, level, level, 0.0, 1.6)
    gain = color_stats(moved, masks)[:, 1] / stats[:, 1]
    torch.testing.assert_close(gain, torch.full((1, 3), 1.6), rtol=0, atol=0.02)


@pytest.mark.parametrize(
    ("call", "says"),
    [
        (lambda c, m: color_stats(c[0], m), "crops must be"),
        (lambda c, m: color_stats(c, m[:, 1:]), "masks must be"),
        (lambda c, m: color_stats(c.byte(), m), "crops must be"),
        (lambda c, m: illumination(c, m, 0), "grid must lie in 1..64, got 0"),
        (lambda c, m: relight(c, *lights(1)), r"source_stats must be \[2, 2, 3\]"),
        (lambda c, m: relight(c, *lights(2), 0.5, 0.9), "max_gain must be at least 1"),
        (lambda c, m: relight(c, *lights(2)[:3], lights(2, 4)[3]), "target_light must be like"),
    ],
)
def test_wrong_arguments_are_named(call, says):
    with pytest.raises(ValueError, match=says):
        call(*inputs(2, 8, 8))


def test_registration():
    crops, masks = inputs(1, 8, 8)
    crops.requires_grad_()
    for op, args in (
        ("color_stats", (crops, masks)),
        ("illumination", (crops, masks, 4)),
        ("relight", (crops, *lights(1, 4), 0.75, 1.6)),
    ):
        torch.library.opcheck(
            getattr(torch.ops.accel, op).default,
            args,
            test_utils=("test_schema", "test_faketensor", "test_autograd_registration"),
        )


@pytest.mark.skipif(bool(why_not()), reason=why_not())
def test_crops_whose_channels_lie_last_are_no_slower(monkeypatch):
    crops, masks = inputs(2, 33, 47)
    lie_last = crops.contiguous(memory_format=torch.channels_last)
    for op in (color_stats_op, illumination_op, relight_op):
        native = [one for one in op.implementations if one.name == "native"]
        monkeypatch.setattr(op, "implementations", native)
    calls = (color_stats, illumination, lambda crops, masks: relight(crops, *lights(2)))
    for call in calls:
        assert torch.equal(call(lie_last, masks), call(crops, masks))
