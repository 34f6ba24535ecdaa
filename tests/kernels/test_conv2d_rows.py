"""Plain products of many rows, which threads share by rows."""

import pytest
import torch

from accel.kernels.conv2d import conv2d, pack

SHAPES = [  # batch, side, inputs, outputs
    (2, 32, 320, 320),
    (1, 33, 330, 321),  # nothing is a whole number of tiles
    (3, 17, 1280, 40),  # more stretches of rows than threads, few outputs
    (1, 23, 2560, 70),  # sums in several groups of channels
]


def run(threads, *args):
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        return conv2d(*args[:-1], packed=args[-1])
    finally:
        torch.set_num_threads(before)


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("shape", SHAPES)
def test_bytes_do_not_depend_on_threads_or_packing(shape, layout):
    batch, side, inputs, outputs = shape
    make = torch.Generator().manual_seed(0)
    x = torch.randn(batch, inputs, side, side, generator=make).to(memory_format=layout)
    weight = torch.randn(outputs, inputs, 1, 1, generator=make)
    bias = torch.randn(batch, outputs, generator=make)
    residual = torch.randn(batch, outputs, side, side, generator=make).to(memory_format=layout)
    call = (x, weight, bias, 1, 0, 1, residual, 0.2)
    alone = run(1, *call, None)
    exact = torch.nn.functional.conv2d(x.double(), weight.double()) + bias[:, :, None, None]
    exact = torch.nn.functional.leaky_relu(exact + residual, 0.2)
    assert (alone - exact).abs().max() <= 1e-5 * exact.abs().max()
    for threads in (2, 3):
        assert torch.equal(run(threads, *call, None), alone)
        assert torch.equal(run(threads, *call, pack(weight)), alone)
