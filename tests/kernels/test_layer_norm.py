"""layer_norm: every implementation against float64, on awkward shapes."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from accel.kernels import layer_norm
from accel.kernels.layer_norm import op
from tests.kernels.check import check_kernel


def normal(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def exact(x, weight=None, bias=None, eps=1e-5):
    double = [None if t is None else t.double() for t in (weight, bias)]
    return F.layer_norm(x.double(), x.shape[-1:], *double, eps)


@pytest.mark.parametrize(
    "shape", [(3, 320), (2, 5, 77), (1, 1), (4, 7), (3, 2051), (0, 8)], ids=str
)
def test_agrees(shape):
    x = normal(*shape) * 3 + 2
    weight, bias = normal(shape[-1], seed=1), normal(shape[-1], seed=2)
    for args in ((weight, bias), (None, None), (weight, None), (None, bias)):
        ran = check_kernel(op, (x, *args, 1e-5))
        assert len(ran) > bool(x.numel())
        got = layer_norm(x, *args)
        assert got.shape == x.shape
        assert x.numel() == 0 or (got - exact(x, *args)).abs().max() <= 5e-6


@pytest.mark.parametrize("dtype", [torch.float16, torch.float32], ids=str)
def test_agrees_in_half_precision(dtype):
    x, weight, bias = (normal(*s, seed=i).to(dtype) for i, s in enumerate(((5, 96), (96,), (96,))))
    check_kernel(op, (x, weight, bias, 1e-5), atol=2e-3 if dtype == torch.float16 else 1e-5)


def test_holds_where_one_value_lies_far_from_the_rest():
    """As the first channel of a text tower does: about it, the squares say nothing."""
    x = normal(4, 768)
    x[:, 0] = 20000
    got = layer_norm(x)
    assert (got - exact(x)).abs().max() < 2e-5
    assert (layer_norm(normal(4, 768) + 5000) - exact(normal(4, 768) + 5000)).abs().max() < 2e-3


def test_what_is_not_finite_stays_in_its_row():
    x = normal(4, 33)
    x[1, 5], x[2, 6] = float("nan"), float("inf")
    got = layer_norm(x)
    assert got[1:3].isnan().all()
    assert got[[0, 3]].isfinite().all()


def test_views_and_odd_addresses():
    room = normal(6 * 34 + 1)
    for x in (room[1:].view(6, 34), room[:-1].view(34, 6).t(), room[:-1].view(6, 34)[::2]):
        torch.testing.assert_close(layer_norm(x), F.layer_norm(x, x.shape[-1:]))


@pytest.mark.parametrize("threads", [1, 2, 3])
def test_bytes_do_not_depend_on_rows_or_threads(threads):
    x, weight = normal(600, 321), normal(321, seed=1)
    alone = torch.cat([layer_norm(row[None], weight, weight) for row in x[:7]])
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        assert torch.equal(layer_norm(x, weight, weight)[:7], alone)
    finally:
        torch.set_num_threads(before)


def test_gradients_are_those_of_torch():
    x, weight, bias = (
        normal(*s, seed=i).requires_grad_() for i, s in enumerate(((3, 8), (8,), (8,)))
    )
    layer_norm(x, weight, bias).pow(2).sum().backward()
    ours = [t.grad.clone() for t in (x, weight, bias)]
    for t in (x, weight, bias):
        t.grad = None
    F.layer_norm(x, (8,), weight, bias).pow(2).sum().backward()
    for mine, t in zip(ours, (x, weight, bias), strict=True):
        torch.testing.assert_close(mine, t.grad)


@pytest.mark.parametrize("name", ["weight", "bias"])
def test_refuses(name):
    with pytest.raises(ValueError, match=rf"{name} must be \[4\], got \(3,\)"):
        layer_norm(torch.zeros(2, 4), **{name: torch.zeros(3)})
    with pytest.raises(ValueError, match=r"x must be \[\.\.\., D\]"):
        layer_norm(torch.tensor(1.0))
