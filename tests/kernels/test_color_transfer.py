"""Colour transfers against NumPy written from the published formulas, and OpenCV's filter."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
import torch
import torch.nn.functional as F

from accel.kernels import color_transfer as transfer_function
from accel.kernels._native import why_not
from accel.kernels.bilateral import op as bilateral_op
from accel.kernels.color import lab_op
from accel.kernels.color_transfer import (
    IDT_ROTATIONS,
    MODES,
    SOT_STEPS,
    color_transfer,
    random_rotation,
    reinhard_op,
)
from accel.kernels.transport import axes_op, sliced_op
from tests.kernels.check import check_kernel

NATIVE = pytest.mark.skipif(bool(why_not()), reason=why_not())


def picture(side=48, seed=0, scale=1.0, shift=0.0):
    make = torch.Generator().manual_seed(seed)
    smooth = F.interpolate(torch.rand(1, 3, 5, 5, generator=make), (side, side), mode="bicubic")
    noisy = smooth + 0.02 * torch.randn(1, 3, side, side, generator=make)
    return noisy.clamp(0, 1) * scale + shift


def disc(side=48):
    y, x = torch.meshgrid(*[torch.linspace(-1, 1, side)] * 2, indexing="ij")
    return (x * x + y * y < 0.7).float()[None]


CROP, TARGET = picture(seed=1), picture(seed=2, scale=0.7, shift=0.1)
FULL = torch.ones(1, 48, 48)


def points(pictures, mask=None):  # [n, 3] float64
    flat = pictures[0].flatten(1).T.double().numpy()
    return flat if mask is None else flat[mask.flatten().numpy() > 0.5]


def psnr(a, b):
    return float(-10 * torch.log10((a - b).square().mean().clamp(min=1e-12)))


@NATIVE
@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("variant", ["exact", "dfl"])
def test_pictures_whose_channels_lie_last_are_no_slower(mode, variant, monkeypatch):
    lie_last = [p.contiguous(memory_format=torch.channels_last) for p in (CROP, TARGET)]
    wanted = color_transfer(CROP, TARGET, disc(), mode, variant=variant)
    for op in (bilateral_op, sliced_op, axes_op, reinhard_op):
        native = [one for one in op.implementations if one.name == "native"]
        monkeypatch.setattr(op, "implementations", native)
    found = color_transfer(*lie_last, disc(), mode, variant=variant)
    assert torch.equal(found, wanted)
    assert found.is_contiguous()


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("variant", ["exact", "dfl"])
def test_colours_come_closer_and_stay_in_range(mode, variant):
    mask = disc()
    moved = color_transfer(CROP, TARGET, mask, mode, variant=variant)
    assert moved.shape == CROP.shape
    assert moved.isfinite().all()
    assert 0 <= moved.min() <= moved.max() <= 1
    away, before = (
        np.abs(points(p, mask).mean(0) - points(TARGET, mask).mean(0)).max() for p in (moved, CROP)
    )
    # The whole pictures' means differ from those under the mask, idt goes two thirds of the way,
    # and black pixels that count pull at the mean.
    near = mode in ("rct", "mkl-m", "sot-m", "mix-m") and (variant == "exact" or mode == "mix-m")
    assert away < (0.2 if near else 0.75) * before


@pytest.mark.parametrize("mode", MODES)
def test_a_seed_repeats_itself_and_the_mask_limits(mode):
    mask = disc()
    first = color_transfer(CROP, TARGET, mask, mode, seed=5)
    assert torch.equal(first, color_transfer(CROP, TARGET, mask, mode, seed=5))
    if mode.startswith(("idt", "sot", "mix")):
        assert not torch.equal(first, color_transfer(CROP, TARGET, mask, mode, seed=6))
    if mode.endswith("-m") and not mode.startswith("mkl"):
        outside = mask[0] < 0.5
        torch.testing.assert_close(first[0][:, outside], CROP[0][:, outside])


def test_a_batch_is_its_pictures_one_by_one():
    crops, targets = torch.cat([CROP, TARGET]), torch.cat([TARGET, CROP])
    masks = torch.cat([disc(), FULL])
    both = color_transfer(crops, targets, masks, "sot-m")
    for i in range(2):
        one = color_transfer(crops[i : i + 1], targets[i : i + 1], masks[i : i + 1], "sot-m")
        assert torch.equal(both[i : i + 1], one)


def test_an_empty_mask_and_an_empty_batch():
    for mode in MODES:
        assert torch.equal(color_transfer(CROP, TARGET, 0 * FULL, mode), CROP)
    assert color_transfer(CROP[:0], TARGET[:0], FULL[:0], "rct").shape == (0, 3, 48, 48)


def test_same_colours_change_nothing():
    mild = CROP * 0.3 + 0.35  # mix moves chroma at one lightness, where no strong colours exist
    for mode in MODES:
        moved = color_transfer(mild, mild, FULL, mode)
        assert psnr(moved, mild) > (45 if mode.startswith(("idt", "mix")) else 60), mode


def test_flat_pictures_do_not_divide_by_zero():
    grey = torch.full((1, 3, 16, 16), 0.5)
    for mode in MODES:
        assert color_transfer(grey, grey * 0.5, torch.ones(1, 16, 16), mode).isfinite().all(), mode


def to_lab(pictures):
    return cv2.cvtColor(pictures[0].permute(1, 2, 0).numpy(), cv2.COLOR_RGB2Lab)


@pytest.mark.parametrize("variant", ["exact", "dfl"])
def test_rct_is_mean_and_deviation_in_lab(variant):
    mask = disc()
    crop, target = to_lab(CROP), to_lab(TARGET)
    inside = mask[0].numpy() > 0.5
    if variant == "dfl":
        of_crop, of_target = (p * inside[..., None] for p in (crop, target))
        of_crop, of_target = of_crop.reshape(-1, 3), of_target.reshape(-1, 3)
    else:
        of_crop, of_target = crop[inside], target[inside]
    lab = (crop - of_crop.mean(0)) * of_target.std(0) / of_crop.std(0) + of_target.mean(0)
    lab = np.clip(lab, [0, -127, -127], [100, 127, 127]).astype(np.float32)
    wanted = np.clip(cv2.cvtColor(lab, cv2.COLOR_Lab2RGB), 0, 1)
    moved = color_transfer(CROP, TARGET, mask, "rct", variant=variant)
    assert psnr(moved, torch.from_numpy(wanted).permute(2, 0, 1)[None]) > 60


def test_lct_is_the_formula():
    a, b = points(CROP), points(TARGET)
    floor = 1e-5 * np.eye(3)
    roots = []
    for p in (a, b):
        values, vectors = np.linalg.eigh(np.cov(p.T, bias=True) + floor)
        roots.append(vectors @ np.diag(np.sqrt(values)) @ vectors.T)
    wanted = (a - a.mean(0)) @ (roots[1] @ np.linalg.inv(roots[0])).T + b.mean(0)
    moved = points(color_transfer(CROP, TARGET, FULL, "lct"))
    np.testing.assert_allclose(moved, np.clip(wanted, 0, 1), atol=1e-5)


@pytest.mark.parametrize("mode", ["mkl", "mkl-m"])
def test_mkl_is_the_formula(mode):
    mask = disc() if mode == "mkl-m" else FULL
    a, b = points(CROP, mask), points(TARGET, mask)
    values, vectors = np.linalg.eig(np.cov(a.T))
    root = np.diag(np.sqrt(values))
    middle, turn = np.linalg.eig(root @ vectors.T @ np.cov(b.T) @ vectors @ root)
    back = np.diag(1 / np.sqrt(values))
    matrix = vectors @ back @ turn @ np.diag(np.sqrt(middle)) @ turn.T @ back @ vectors.T
    wanted = np.clip((a - a.mean(0)) @ matrix + b.mean(0), 0, 1)
    moved = points(color_transfer(CROP, TARGET, mask, mode), mask)
    assert np.abs(moved - wanted).max() < 3e-3  # ours keeps a floor under the covariances


@pytest.mark.parametrize("threshold", [255, 238])
def test_hist_match_is_the_formula(threshold):
    moved = color_transfer(CROP, TARGET, FULL, "hist-match", threshold=threshold)
    for channel in range(3):
        a, b = CROP[0, channel].numpy().ravel(), TARGET[0, channel].numpy().ravel()
        _, index, counts = np.unique(a, return_inverse=True, return_counts=True)
        steps, counts_b = np.unique(b, return_counts=True)
        rank = threshold * counts.cumsum() / a.size
        wanted = np.interp(rank, 255 * counts_b.cumsum() / b.size, steps)[index]
        np.testing.assert_allclose(moved[0, channel].numpy().ravel(), wanted, atol=1e-5)


def test_idt_is_the_formula():
    a, b = points(CROP).T, points(TARGET).T
    make = torch.Generator().manual_seed(3)
    for _ in range(IDT_ROTATIONS):
        rotation = random_rotation(make).numpy()
        turned, wanted, matched = rotation @ a, rotation @ b, np.empty_like(a)
        for j in range(3):
            ends = min(turned[j].min(), wanted[j].min()), max(turned[j].max(), wanted[j].max())
            counts, edges = np.histogram(turned[j], 256, ends)
            counts_b, _ = np.histogram(wanted[j], 256, ends)
            ranks, ranks_b = counts.cumsum() / a.shape[1], counts_b.cumsum() / a.shape[1]
            levels = np.interp(ranks, ranks_b, edges[1:])
            matched[j] = np.interp(turned[j], edges[1:], levels)
        a = a + np.linalg.solve(rotation, matched - turned) / IDT_ROTATIONS
    moved = color_transfer(CROP, TARGET, FULL, "idt", seed=3)
    wanted = torch.tensor(a.reshape(1, 3, 48, 48)).float().clamp(0, 1)
    assert psnr(moved, wanted) > 45


def test_rotations_are_rotations():
    make = torch.Generator().manual_seed(0)
    drawn = torch.stack([random_rotation(make) for _ in range(300)])
    torch.testing.assert_close(drawn @ drawn.mT, torch.eye(3).double().expand(300, 3, 3))
    torch.testing.assert_close(torch.linalg.det(drawn), torch.ones(300).double())
    assert drawn.mean(0).abs().max() < 0.15  # no direction is preferred


@pytest.mark.parametrize(("mode", "count"), [("sot", 5), ("sot-m", 30)])
@pytest.mark.parametrize("variant", ["exact", "dfl"])
def test_sot_is_the_formula(mode, count, variant):
    """Plain NumPy with full sorts and OpenCV's bilateral filter."""
    mask = FULL if variant == "exact" or mode == "sot" else disc()
    make = torch.Generator().manual_seed(0)
    ways = torch.randn(SOT_STEPS, count, 3, generator=make)
    ways = (ways / ways.norm(dim=2, keepdim=True)).numpy()
    weight = mask[0].numpy()[..., None]
    source, target = (p[0].permute(1, 2, 0).numpy() * weight for p in (CROP, TARGET))
    moved, goal = source.reshape(-1, 3).copy(), target.reshape(-1, 3)
    for step in ways:
        added = np.zeros_like(moved)
        for way in step:
            along, wanted = moved @ way, goal @ way
            order = np.argsort(along, kind="stable")
            added[order] += (np.sort(wanted) - along[order])[:, None] * way
        moved += added / count
    difference = cv2.bilateralFilter(moved.reshape(48, 48, 3) - source, 0, 5.0, 16.0)
    wanted = torch.from_numpy(np.clip(source + difference, 0, 1)).permute(2, 0, 1)[None]
    got = color_transfer(CROP, TARGET, mask, mode, variant=variant)
    assert psnr(got, wanted) > 60


def test_mix_keeps_the_targets_lightness():
    from accel.kernels.color import rgb_to_lab

    mask = disc()
    moved = color_transfer(CROP, TARGET, mask, "mix-m")
    inside = mask[0] > 0.5
    light, wanted = (rgb_to_lab(p)[0, 0][inside] for p in (moved, TARGET))
    assert abs(light.mean() - wanted.mean()) < 1
    assert abs(light.std() - wanted.std()) < 1


# --- the two kernels ----------------------------------------------------------------------------


def cloud(count, seed=0):
    make = torch.Generator().manual_seed(seed)
    ways = torch.randn(2, 4, 3, generator=make)
    pair = (torch.rand(3, count, generator=make) for _ in range(2))
    return [*pair, ways / ways.norm(dim=2, keepdim=True)]


@pytest.mark.parametrize("count", [1, 2, 7, 5000, 70_001])
def test_transport_agrees_with_reference(count):
    # Points nearer than a step of the sort may change places: more than that only in thin tails.
    args = cloud(count)
    assert "reference" in check_kernel(sliced_op, args, atol=5e-3, rtol=0)
    assert psnr(torch.ops.accel.sliced_transport(*args), sliced_op.reference(*args)) > 75


@pytest.mark.parametrize("count", [1, 2, 7, 5000, 120_001])
def test_transport_by_steps_is_near_the_reference(count):
    """Ranks by the step a point lies in, and of very many points some asked for all."""
    args = (*cloud(count), False)
    assert psnr(torch.ops.accel.sliced_transport(*args), sliced_op.reference(*args)) > 55


def test_points_of_one_colour_stay_together():
    source, target, ways = cloud(3000)
    source[:, ::2] = 0.25
    moved = torch.ops.accel.sliced_transport(source, target, ways, False)
    assert moved[:, ::2].std(1).max() < 1e-6
    wanted = sliced_op.reference(source, target, ways)
    assert (moved[:, ::2].mean(1) - wanted[:, ::2].mean(1)).abs().max() < 2e-3
    assert psnr(moved[:, 1::2], wanted[:, 1::2]) > 35  # the others may take other places


def test_many_points_of_one_colour():
    """Half the source is one colour, as behind a mask; half the target another."""
    source, target, ways = cloud(3000)
    source[:, ::2], target[:, 1::2] = 0.0, 0.4
    args = (source, target, ways)
    check_kernel(sliced_op, args, atol=5e-3, rtol=0)


@pytest.mark.parametrize("counts", [(1, 1), (300, 7), (5000, 70_001), (70_001, 5000)], ids=str)
def test_matching_axes_agrees_with_reference(counts):
    source, target = cloud(counts[0])[0], cloud(counts[1], seed=1)[1] ** 2
    make = torch.Generator().manual_seed(2)
    turns = torch.stack([random_rotation(make) for _ in range(IDT_ROTATIONS)]).float()
    args = (source, target, turns, 256)
    # A value on the border of two bins may be counted in either.
    assert "reference" in check_kernel(axes_op, args, atol=3e-3, rtol=0)
    assert psnr(torch.ops.accel.match_axes(*args), axes_op.reference(*args)) > 60


def test_transport_reaches_the_targets_distribution():
    source, target, _ = cloud(2000)
    ways = torch.eye(3)[None].expand(30, 3, 3).contiguous()
    moved = torch.ops.accel.sliced_transport(source, target * 0.3 + 0.5, ways)
    wanted = (target * 0.3 + 0.5).sort(1).values
    assert (moved.sort(1).values - wanted).abs().max() < 0.02


@NATIVE
def test_threads_do_not_change_a_bit():
    before, args = torch.get_num_threads(), cloud(20_000)
    results = []
    for threads in (1, 2):
        torch.set_num_threads(threads)
        moved = torch.ops.accel.sliced_transport(*args)
        smooth = torch.ops.accel.bilateral(CROP, FULL, 0.1, 3.0)
        turns = torch.linalg.qr(cloud(9)[2][0, :3])[0].expand(4, 3, 3).contiguous()
        matched = torch.ops.accel.match_axes(args[0], args[1], turns, 64)
        by_steps = torch.ops.accel.sliced_transport(*cloud(50_000), False)
        few = torch.ops.accel.bilateral(CROP, FULL, 5.0, 8.0, 3)
        lab = torch.ops.accel.reinhard(CROP[0], TARGET[0], FULL[0] > 0, True)
        results.append((moved, smooth, matched, by_steps, few, lab))
    torch.set_num_threads(before)
    assert all(torch.equal(a, b) for a, b in zip(*results))


@NATIVE
@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
def test_what_is_not_finite_does_no_harm(bad):
    source, target, ways = cloud(500)
    source[1, 7] = target[2, 9] = bad
    native = next(i for i in sliced_op.implementations if i.name == "native")
    assert native.run(source, target, ways).shape == source.shape
    assert native.run(source, target, ways, False).shape == source.shape
    native = next(i for i in axes_op.implementations if i.name == "native")
    assert native.run(source, target, torch.eye(3)[None], 256).shape == source.shape
    broken = CROP.clone()
    broken[0, 0, 5, 5] = bad
    native = next(i for i in bilateral_op.implementations if i.name == "native")
    assert native.run(broken, FULL, 0.1, 3.0).shape == CROP.shape


@pytest.mark.parametrize(("color", "step", "least"), [(5.0, 4, 60), (5.0, 2, 70), (0.1, 2, 38)])
def test_few_neighbours_do_for_all(color, step, least):
    pictures, masks = (CROP - TARGET)[..., :40].contiguous(), disc()[..., :40].contiguous()
    got = torch.ops.accel.bilateral(pictures, masks, color, 8.0, step)
    wanted = bilateral_op.reference(pictures, masks, color, 8.0)
    inside = masks[0] > 0.5
    assert psnr(got[0][:, inside], wanted[0][:, inside]) > least


@pytest.mark.parametrize("side", [1, 5, 48])
def test_lab_there_and_back_agrees_with_reference(side):
    pictures = torch.cat([picture(side, 3), picture(side, 4)])
    assert why_not() or "native" in check_kernel(lab_op, [pictures, False], atol=1e-3, rtol=0)
    lab = lab_op.reference(pictures, False)
    assert "reference" in check_kernel(lab_op, [lab, True], atol=1e-5, rtol=0)
    assert torch.ops.accel.convert_lab(pictures[:0], False).shape == (0, 3, side, side)


@pytest.mark.parametrize("side", [1, 5, 48, 70])
@pytest.mark.parametrize("counts_all", [False, True])
def test_reinhard_agrees_with_reference(side, counts_all):
    crop, target = picture(side, 3)[0], picture(side, 4, 0.6, 0.1)[0]
    inside = disc(side)[0] > 0.5 if side > 1 else torch.ones(1, 1, dtype=torch.bool)
    args = (crop, target, inside, counts_all)
    ran = check_kernel(reinhard_op, args, atol=2e-4 if side > 1 else 1e-3, rtol=0)
    assert why_not() or "native" in ran


@pytest.mark.parametrize("shape", [(1, 3, 20, 27), (2, 3, 5, 3), (1, 3, 1, 1), (0, 3, 4, 4)])
@pytest.mark.parametrize(("color", "space"), [(5.0, 3.0), (0.1, 2.0)])
def test_bilateral_agrees_with_reference(shape, color, space):
    make = torch.Generator().manual_seed(0)
    pictures = torch.rand(shape, generator=make) - 0.5
    masks = (torch.rand(shape[0], *shape[2:], generator=make) > 0.3).float()
    assert "reference" in check_kernel(bilateral_op, [pictures, masks, color, space])


@pytest.mark.parametrize(("color", "space"), [(5.0, 16.0), (0.2, 3.0)])
def test_bilateral_is_opencvs(color, space):
    wide = CROP[..., :40].contiguous()
    got = torch.ops.accel.bilateral(wide, torch.ones(1, 48, 40), color, space)
    wanted = cv2.bilateralFilter(
        np.ascontiguousarray(wide[0].permute(1, 2, 0).numpy()), 0, color, space
    )
    torch.testing.assert_close(got[0].permute(1, 2, 0), torch.from_numpy(wanted), atol=1e-5, rtol=0)


def test_pixels_outside_the_mask_count_nowhere():
    spoiled, mask = CROP.clone(), disc()
    spoiled[0][:, mask[0] < 0.5] = 7.0
    inside = mask[0] > 0.5
    one, two = (torch.ops.accel.bilateral(p, mask, 1.0, 4.0) for p in (CROP, spoiled))
    torch.testing.assert_close(one[0][:, inside], two[0][:, inside], atol=1e-5, rtol=0)


def test_registration():
    checks = ("test_schema", "test_faketensor")
    torch.library.opcheck(
        torch.ops.accel.sliced_transport.default, tuple(cloud(50)), test_utils=checks
    )
    args = (CROP[..., :9, :9].contiguous(), FULL[:, :9, :9].contiguous(), 0.5, 1.0)
    torch.library.opcheck(torch.ops.accel.bilateral.default, args, test_utils=checks)


def test_refuses_what_it_cannot_do():
    with pytest.raises(ValueError, match="mode must be one of rct"):
        color_transfer(CROP, TARGET, FULL, "sepia")
    with pytest.raises(ValueError, match="variant one of exact"):
        color_transfer(CROP, TARGET, FULL, "rct", variant="mine")
    with pytest.raises(ValueError, match="crops and targets"):
        color_transfer(CROP, TARGET[..., 1:], FULL, "rct")
    with pytest.raises(ValueError, match="masks must be"):
        color_transfer(CROP, TARGET, FULL[..., 1:], "rct")
    assert transfer_function is color_transfer
