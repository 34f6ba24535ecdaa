"""Tensors as callers have them: off any boundary, far apart, turned, of one number or of none.

What an operator gives depends on its numbers alone. `make sanitize` runs this with every read and
write checked: the shifted tensors end where their memory ends.
"""

from __future__ import annotations

import pytest
import torch

from accel.kernels import (
    attention,
    blend_pyramid,
    color_stats,
    conv2d,
    feather,
    geglu,
    group_norm_silu,
    illumination,
    layer_norm,
    to_uint8,
)
from tests.kernels.check import draw

FAR = 4099  # numbers between rows


def shifted(x):
    """Begins one number behind a boundary, ends where its memory ends."""
    flat = torch.empty(x.numel() + 1, dtype=x.dtype)
    return flat[1:].view(x.shape).copy_(x)


def far(x):
    if x.ndim < 2:
        return shifted(x)
    wide = torch.full((*x.shape[:-1], x.shape[-1] + FAR), float("nan"), dtype=x.dtype)
    part = wide[..., 7 : 7 + x.shape[-1]]
    return part.copy_(x)


def turned(x):
    """The last two dimensions lie the other way round."""
    return x.mT.contiguous().mT if x.ndim > 1 else shifted(x)


def every_other(x):
    """Between any two rows of the first dimension lies one that must not be read."""
    twice = torch.full((2 * x.shape[0], *x.shape[1:]), float("nan"), dtype=x.dtype)
    return twice[::2].copy_(x) if x.ndim > 1 else shifted(x)


PLACED = [shifted, far, turned, every_other]


def softened(*shape):
    return draw(*shape).sigmoid()


CASES = {
    "attention": (attention, [(1, 2, 5, 40), (1, 2, 7, 40), (1, 2, 7, 40)]),
    "attention of one": (attention, [(1, 1, 1, 8), (1, 1, 1, 8), (1, 1, 1, 8)]),
    "attention of odd heads": (attention, [(2, 3, 33, 13), (2, 3, 19, 13), (2, 3, 19, 13)]),
    "attention of nothing": (attention, [(0, 2, 5, 40), (0, 2, 7, 40), (0, 2, 7, 40)]),
    "group norm": (lambda x, w, b: group_norm_silu(x, 3, w, b, 1e-5), [(2, 9, 7, 5), (9,), (9,)]),
    "group norm of one": (
        lambda x, w, b: group_norm_silu(x, 1, w, b, 1e-5), [(1, 1, 1, 1), (1,), (1,)],
    ),
    "layer norm": (lambda x, w, b: layer_norm(x, w, b, 1e-5), [(3, 5, 37), (37,), (37,)]),
    "layer norm of one": (lambda x, w, b: layer_norm(x, w, b, 1e-5), [(1, 1), (1,), (1,)]),
    "layer norm of nothing": (lambda x, w, b: layer_norm(x, w, b, 1e-5), [(0, 5), (5,), (5,)]),
    "geglu": (geglu, [(3, 5, 34)]),
    "geglu of one": (geglu, [(1, 2)]),
    "to bytes": (to_uint8, [(2, 3, 7, 13)]),
    "to bytes, one": (to_uint8, [(1, 1, 1, 1)]),
    "to bytes, nothing": (to_uint8, [(0, 3, 4, 4)]),
    "feather": (lambda m: feather(m, 2.0, 1.5), [(2, 13, 17)]),
    "colour statistics": (lambda x, m: color_stats(x, m.sigmoid()), [(2, 3, 11, 13), (2, 11, 13)]),
    "light": (lambda x, m: illumination(x, m.sigmoid(), 4), [(2, 3, 19, 13), (2, 19, 13)]),
    "blend": (
        lambda a, b, m: blend_pyramid(a, b, m.sigmoid(), 2),
        [(1, 3, 33, 29), (1, 3, 33, 29), (1, 33, 29)],
    ),
}  # fmt: skip


@pytest.mark.parametrize("place", PLACED, ids=lambda f: f.__name__)
@pytest.mark.parametrize("case", CASES)
def test_where_numbers_lie_changes_nothing(case, place):
    run, shapes = CASES[case]
    make = softened if case in ("colour statistics", "light", "blend") else draw
    given = [make(*shape) for shape in shapes]
    placed = [place(x) for x in given]
    before = [x.clone() for x in placed]
    expected, got = run(*given), run(*placed)
    assert got.shape == expected.shape
    if expected.dtype == torch.uint8:
        assert torch.equal(got, expected)
    else:
        close = 1e-4 if case == "light" else 1e-5  # sums over cells, in an order of their own
        torch.testing.assert_close(got, expected, rtol=close, atol=close)
    for x, was in zip(placed, before):
        assert torch.equal(x, was)  # nothing was written into what is only read


CONVOLUTIONS = [  # channels in and out, kernel, stride, pad, height, width
    (64, 64, 3, 1, 1, 17, 19),  # Winograd
    (33, 65, 3, 1, 1, 5, 7),
    (3, 16, 3, 2, 1, 9, 8),
    (16, 24, 1, 1, 0, 7, 3),
    (8, 8, 5, 2, 2, 11, 13),
    (1, 1, 1, 1, 0, 1, 1),
    (4, 4, 3, 1, 1, 1, 40),
    (40, 70, 1, 2, 0, 1, 1),
]


@pytest.mark.parametrize("last", [False, True], ids=["NCHW", "NHWC"])
@pytest.mark.parametrize("place", PLACED, ids=lambda f: f.__name__)
@pytest.mark.parametrize("case", CONVOLUTIONS, ids=str)
def test_convolutions_wherever_numbers_lie(case, place, last):
    inputs, outputs, kernel, stride, pad, height, width = case
    x, weight = draw(2, inputs, height, width), draw(outputs, inputs, kernel, kernel)
    bias, weight = draw(outputs), weight / (inputs * kernel * kernel) ** 0.5
    expected = torch.nn.functional.conv2d(x, weight, bias, stride, pad)
    there = x.contiguous(memory_format=torch.channels_last) if last else place(x)
    got = conv2d(there, place(weight), shifted(bias), stride, pad)
    torch.testing.assert_close(got, expected, rtol=1e-4, atol=2e-5)
    residual = place(draw(*expected.shape))
    got = conv2d(there, weight, None, stride, pad, 1, residual, 0.2)
    expected = torch.nn.functional.conv2d(x, weight, None, stride, pad) + residual
    expected = torch.nn.functional.leaky_relu(expected, 0.2)
    torch.testing.assert_close(got, expected, rtol=1e-4, atol=2e-5)


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
def test_what_is_not_finite_stays_in_its_row(bad):
    """Of an odd width, so that the rest of a vector lies beside it."""
    x = draw(4, 2, 9, 21)
    x[1, 0, 3, 20] = bad
    clean = torch.ones(4, dtype=torch.bool)
    clean[1] = False
    for run in (
        lambda t: group_norm_silu(t, 2, torch.ones(2), torch.zeros(2), 1e-5),
        lambda t: layer_norm(t, torch.ones(21), torch.zeros(21), 1e-5),
        lambda t: conv2d(t, torch.ones(3, 2, 3, 3), None, 1, 1),
        to_uint8,
    ):
        zeros = x.clone()
        zeros[1, 0, 3, 20] = 0
        assert torch.equal(run(x)[clean], run(zeros)[clean])
