"""to_uint8: every implementation gives the reference's bytes."""

from __future__ import annotations

import pytest
import torch

from accel.kernels import to_uint8
from accel.kernels.to_uint8 import op


def pictures(*shape):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(0)) * 0.8


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16], ids=str)
@pytest.mark.parametrize(
    "shape", [(2, 3, 9, 7), (1, 1, 1, 1), (1, 4, 5, 33), (0, 3, 8, 8)], ids=str
)
@pytest.mark.parametrize("form", ["contiguous", "channels-last", "view"])
def test_all_give_the_same_bytes(shape, form, dtype):
    x = pictures(*shape).to(dtype)
    if form == "channels-last":
        x = x.contiguous(memory_format=torch.channels_last)
    if form == "view":
        x = x.transpose(2, 3).flip(0)[:, :, ::2]
    wanted = op.reference(x)
    ran = [i for i in op.implementations[:-1] if not i.why_not(x)]
    assert ran or not x.numel()
    for implementation in ran:
        got = implementation.run(x)
        assert got.shape == (x.shape[0], *x.shape[2:], x.shape[1])
        assert torch.equal(got, wanted), implementation.name


def test_ends_halves_and_what_is_not_finite():
    halves = torch.arange(256) + 0.5
    values = [-1.0, 1.0, 0.0, -9.0, 9.0, float("inf"), float("-inf"), float("nan")]
    x = torch.cat([torch.tensor(values), (halves - 127.5) / 127.5])[None, None, None]
    wanted = [0, 255, 128, 0, 255, 255, 0, 0]
    assert to_uint8(x).flatten().tolist()[: len(wanted)] == wanted
    for implementation in op.implementations:
        if not implementation.why_not(x):
            assert torch.equal(implementation.run(x), op.reference(x)), implementation.name


@pytest.mark.parametrize("threads", [1, 2, 3])
def test_bytes_do_not_depend_on_threads(threads):
    x = pictures(2, 3, 200, 111)
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        assert torch.equal(to_uint8(x), op.reference(x))
    finally:
        torch.set_num_threads(before)


def test_refuses():
    with pytest.raises(ValueError, match=r"x must be \[N, C, H, W\], got \(3, 4\)"):
        to_uint8(torch.zeros(3, 4))
    with pytest.raises(TypeError, match=r"x must be floating, got torch.int32"):
        to_uint8(torch.zeros(1, 3, 2, 2, dtype=torch.int32))
