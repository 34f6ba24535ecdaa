"""Convolutions of few input or few output channels: what their faster forms must not change."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from accel.kernels._native import why_not
from accel.kernels.conv2d import conv2d, op
from tests.kernels.test_conv2d import MAX_ERROR, error, in_float64, inputs

pytestmark = pytest.mark.skipif(bool(why_not()), reason=why_not() or "native module is there")
LAYOUTS = [torch.contiguous_format, torch.channels_last]
# batch, inputs, outputs, height, width, kernel, stride, padding
SHAPES = [
    (2, 3, 64, 37, 70, 3, 1, 1),  # rows and columns left over by tiles and panels
    (1, 3, 32, 64, 48, 3, 1, 0),  # whole ones
    (2, 8, 33, 9, 35, 3, 1, 2),
    (1, 1, 7, 4, 40, 3, 1, 5),  # more padding than kernel: rows and columns of nothing but zeros
    (1, 4, 320, 21, 19, 3, 1, 1),
    (1, 3, 40, 200, 33, 3, 1, 1),  # more rows than are worked on together
    (2, 320, 4, 18, 50, 3, 1, 1),
    (1, 65, 3, 7, 21, 3, 1, 0),
    (1, 40, 1, 13, 64, 3, 1, 2),
    (2, 9, 2, 5, 3, 3, 1, 1),
    (1, 3, 32, 66, 70, 3, 2, 1),
    (2, 4, 70, 33, 66, 3, 2, 0),
    (1, 3, 64, 60, 62, 7, 2, 3),
]


@pytest.mark.parametrize("layout", LAYOUTS, ids=str)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_error_against_float64(shape, layout):
    args = inputs(shape, layout)
    for slope in (1.0, 0.1):
        args[-1] = slope
        assert error(op.run(*args), in_float64(*args)) <= MAX_ERROR


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_bytes_do_not_depend_on_batch_threads_or_layout(shape):
    x, weight, _, residual, *rest = inputs((3, *shape[1:]))
    bias = torch.randn(3, shape[2], generator=torch.Generator().manual_seed(1))
    before, results = torch.get_num_threads(), []
    for threads in (1, 2, 3):
        torch.set_num_threads(threads)
        results.append(op.run(x, weight, bias, residual, *rest))
    torch.set_num_threads(before)
    alone = [
        op.run(x[i : i + 1], weight, bias[i : i + 1], residual[i : i + 1], *rest) for i in range(3)
    ]
    results.append(torch.cat(alone))
    x, residual = (t.to(memory_format=torch.channels_last) for t in (x, residual))
    results.append(op.run(x, weight, bias, residual, *rest))
    assert all(torch.equal(results[0], other) for other in results[1:])


@pytest.mark.parametrize("layout", LAYOUTS, ids=str)
@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("channels", [(3, 40), (40, 3)], ids=str)
def test_what_is_not_finite_reaches_what_it_reaches_in_a_plain_sum(channels, bad, layout):
    x, weight, bias, residual, *_ = inputs((2, *channels, 13, 19, 3, 1, 1), layout)
    x[1, 2, 5, 6] = x[0, 0, 0, 0] = x[0, 1, 12, 18] = bad
    plain = F.conv2d(x, weight, bias, padding=1) + residual
    for slope, expected in ((1.0, plain), (0.1, F.leaky_relu(plain, 0.1)), (0.0, F.relu(plain))):
        got = conv2d(x, weight, bias, padding=1, residual=residual, slope=slope)
        torch.testing.assert_close(got, expected, equal_nan=True, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("channels", [(4, 9), (9, 4)], ids=str)
def test_large_values_do_not_overflow_inside(channels):
    x = torch.full((1, channels[0], 9, 18), 2e38)
    weight = torch.zeros(channels[1], channels[0], 3, 3)
    weight[:, 0, 1, 1] = 1
    for slope in (1.0, 0.0):
        got = conv2d(x, weight, padding=1, slope=slope)
        torch.testing.assert_close(got, torch.full_like(got, 2e38))
