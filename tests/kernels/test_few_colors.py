"""Few colours: both implementations to the last bit, and beside Pillow's median cut."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image

from accel.kernels import few_colors
from accel.kernels._native import why_not
from accel.kernels.few_colors import op
from tests.kernels.check import check_kernel


def picture(height=60, width=80, seed=0):
    make = torch.Generator().manual_seed(seed)
    smooth = F.interpolate(torch.rand(1, 3, 4, 5, generator=make), (height, width), mode="bicubic")
    noisy = smooth[0] + 0.02 * torch.randn(3, height, width, generator=make)
    return (noisy.clamp(0, 1) * 255).byte().permute(1, 2, 0).contiguous()


@pytest.mark.parametrize("shape", [(60, 80), (1, 1), (3, 700), (0, 4)], ids=str)
@pytest.mark.parametrize(("colors", "share"), [(256, 100), (256, 37), (5, 100), (1, 0)])
def test_agrees_with_reference(shape, colors, share):
    args = (picture(*(max(s, 1) for s in shape))[: shape[0]], colors, share)
    if args[0].numel() == 0:
        assert few_colors(*args).shape == args[0].shape
        return
    ran = check_kernel(op, args, rtol=0, atol=0)
    assert why_not() or "native" in ran


def test_is_as_close_as_pillows():
    given = picture(200, 300)
    few = few_colors(given).numpy().astype(float)
    assert len(np.unique(few.reshape(-1, 3), axis=0)) <= 256
    pillow = Image.fromarray(given.numpy()).convert("P", palette=Image.Palette.ADAPTIVE, colors=256)
    wanted = np.asarray(pillow.convert("RGB"), float)
    errors = [((p - given.numpy()) ** 2).mean() for p in (few, wanted)]
    assert errors[0] < 1.25 * errors[1]


def test_a_share_is_mixed_and_rounded():
    given = picture()
    few = few_colors(given).int()
    wanted = (given.int() * 60 + few * 40 + 50) // 100
    assert torch.equal(few_colors(given, 256, 40).int(), wanted)
    assert torch.equal(few_colors(given, 256, 0), given)


def test_few_different_colours_come_near_what_they_were():
    given = torch.tensor([[[0, 0, 0], [255, 255, 255], [255, 0, 0]]] * 4, dtype=torch.uint8)
    assert (few_colors(given).int() - given.int()).abs().max() <= 2
    assert len(few_colors(given, 2).reshape(-1, 3).unique(dim=0)) == 2


def test_threads_do_not_change_a_bit():
    given, before, results = picture(600, 700), torch.get_num_threads(), []
    for threads in (1, 2):
        torch.set_num_threads(threads)
        results.append(few_colors(given))
    torch.set_num_threads(before)
    assert torch.equal(*results)


@pytest.mark.parametrize("wrong", [
    (picture().float(), 256, 100), (picture()[..., :2], 256, 100), (picture(), 0, 100),
    (picture(), 257, 100), (picture(), 256, 101),
], ids=["dtype", "shape", "colors", "more colors", "share"])  # fmt: skip
def test_refuses_what_it_cannot_do(wrong):
    with pytest.raises(ValueError, match="few_colors: "):
        few_colors(*wrong)


def test_registration():
    checks = ("test_schema", "test_faketensor")
    torch.library.opcheck(
        torch.ops.accel.few_colors.default, (picture(), 256, 50), test_utils=checks
    )
