"""Weights of 16 bits beside float32: the bytes are those of the same weights in float32."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest
import torch

from accel.kernels import _native
from accel.kernels.conv2d import HALVES, conv2d, linear, op, pack
from accel.nn.conv import Conv2d, Linear
from tests.kernels.test_conv2d import EMPTY, SHAPES, inputs

LAYOUTS = (torch.contiguous_format, torch.channels_last)
needs_native = pytest.mark.skipif(bool(_native.why_not()), reason="needs the compiled module")


def halves(shape, dtype, layout=torch.contiguous_format):
    """x, weight of 16 bits, bias, residual; numbers of every kind among the weights."""
    x, weight, bias, residual = inputs(shape, layout)[:4]
    weight = (weight * torch.logspace(-9, 1, weight.shape[0])[:, None, None, None]).to(dtype)
    weight.view(-1)[:: max(1, weight.numel() // 5)] = -0.0
    return x, weight, bias, residual


@pytest.mark.parametrize("dtype", HALVES)
@pytest.mark.parametrize("shape", SHAPES + EMPTY)
def test_bytes_are_those_of_wide_weights(shape, dtype):
    stride, padding = shape[6:]
    for layout in LAYOUTS:
        x, weight, bias, residual = halves(shape, dtype, layout)
        wide, packed = weight.float(), pack(weight, stride)
        expected = conv2d(x, wide, bias, stride, padding, 1, residual, 0.2)
        before = torch.get_num_threads()
        try:
            for threads in (1, 2):
                torch.set_num_threads(threads)
                for ahead in (None, packed):
                    made = conv2d(x, weight, bias, stride, padding, 1, residual, 0.2, ahead)
                    assert torch.equal(made, expected)
                    assert made.stride() == expected.stride()
        finally:
            torch.set_num_threads(before)
        assert (packed is None) == (pack(wide, stride) is None)


@pytest.mark.parametrize("dtype", HALVES)
@pytest.mark.parametrize("size", [(7, 40, 9), (1, 320, 1280), (300, 333, 70), (154, 768, 640)])
def test_bytes_of_linear(size, dtype):
    rows, width, outputs = size
    x, residual = torch.randn(2, rows, width), torch.randn(2, rows, outputs)
    weight, bias = torch.randn(outputs, width).to(dtype), torch.randn(outputs)
    packed = pack(weight[:, :, None, None])
    for ahead in (None, packed):
        made = linear(x, weight, bias, residual, ahead)
        assert torch.equal(made, linear(x, weight.float(), bias, residual))


@pytest.mark.parametrize("dtype", HALVES)
def test_every_number_is_widened_exactly(dtype):
    every = torch.arange(1 << 16, dtype=torch.int32).to(torch.int16).view(dtype)
    weight = every[every.isfinite()][:, None, None, None]
    x = torch.ones(1, 1, 1, 2)
    assert torch.equal(conv2d(x, weight), conv2d(x, weight.float()))
    wide = weight.flatten().float()
    least = torch.finfo(torch.float32).tiny  # some processors take smaller numbers for zero
    is_normal = (wide.abs() >= least) | (wide == 0)
    assert torch.equal(conv2d(x, weight)[0, is_normal, 0, 0], wide[is_normal])


@pytest.mark.parametrize("dtype", HALVES)
@pytest.mark.parametrize("bad", [float("nan"), float("inf"), 3e38])
def test_what_is_not_finite_is_summed_again_alike(bad, dtype):
    for shape in (SHAPES[0], SHAPES[7], SHAPES[9], SHAPES[10]):
        x, weight, bias, residual = halves(shape, dtype)
        x[0, 1, 2, 3] = bad
        made, expected = (
            conv2d(x, w, bias, *shape[6:], residual=residual) for w in (weight, weight.float())
        )
        assert torch.equal(made.nan_to_num(), expected.nan_to_num())
        assert torch.equal(made.isnan(), expected.isnan())


@pytest.mark.parametrize("dtype", HALVES)
def test_a_changed_weight_is_used_in_place_of_the_packed_one(dtype):
    x, weight, _, _ = halves(SHAPES[0], dtype)
    packed = pack(weight)
    weight.neg_()
    assert torch.equal(conv2d(x, weight, packed=packed), conv2d(x, weight.float()))


@pytest.mark.parametrize("dtype", HALVES)
@pytest.mark.parametrize("padding_mode", ["zeros", "circular"])
def test_layers(dtype, padding_mode):
    layers = [Conv2d(20, 36, 3, padding=1, padding_mode=padding_mode), Linear(33, 50)]
    for layer, x in zip(layers, (torch.randn(2, 20, 9, 11), torch.randn(2, 7, 33))):
        layer.requires_grad_(False)
        layer.weight.data = layer.weight.to(dtype)
        made = [layer(x) for _ in range(3)]  # the third runs on packed weights
        layer.weight.data = layer.weight.float()
        assert all(torch.equal(one, layer(x)) for one in made)


@pytest.mark.parametrize("dtype", HALVES)
@pytest.mark.parametrize("stride", [1, 2])
def test_gradients(dtype, stride):
    x, weight, bias, _ = halves((2, 33, 40, 9, 10, 3, stride, 1), dtype)
    found = []
    for w in (weight.clone(), weight.float()):
        leaves = [t.clone().requires_grad_() for t in (x, w, bias)]
        conv2d(*leaves, stride, 1, slope=0.2).square().sum().backward()
        found.append([leaf.grad for leaf in leaves])
    (x_grad, weight_grad, bias_grad), (x_wide, weight_wide, bias_wide) = found
    assert torch.equal(x_grad, x_wide)
    assert torch.equal(bias_grad, bias_wide)
    assert torch.equal(weight_grad, weight_wide.to(dtype))


@pytest.mark.parametrize("dtype", HALVES)
def test_the_reference_and_other_types(dtype):
    x, weight, bias, residual = halves(SHAPES[2], dtype)
    rest = (bias, residual, 1, 0, 1, 0.2)
    assert torch.equal(op.reference(x, weight, *rest), op.reference(x, weight.float(), *rest))
    fake = torch.compile(lambda *args: conv2d(*args) * 2, backend="eager", fullgraph=True)
    assert torch.equal(fake(x, weight, bias), conv2d(x, weight.float(), bias) * 2)
    with pytest.raises(RuntimeError, match="type"):
        conv2d(x.double(), weight)
    assert linear(torch.empty(0, 4), torch.ones(3, 4, dtype=dtype)).dtype == torch.float32


@needs_native
@pytest.mark.skipif("ACCEL_CONV_ISA" in os.environ, reason="one of them is asked for already")
@pytest.mark.parametrize("isa", ["plain", "avx2", "avx512"])
def test_other_processors(isa):
    code = """
import torch
from tests.kernels import test_conv2d_halves as t
for dtype in t.HALVES:
    for shape in t.SHAPES[2:5] + t.SHAPES[7:11] + t.SHAPES[18:22]:
        t.test_bytes_are_those_of_wide_weights(shape, dtype)
    for size in ((7, 40, 9), (30, 333, 70)):
        t.test_bytes_of_linear(size, dtype)
    t.test_every_number_is_widened_exactly(dtype)
    for bad in (float("nan"), 3e38):
        t.test_what_is_not_finite_is_summed_again_alike(bad, dtype)
"""
    done = subprocess.run(
        [sys.executable, "-c", code],
        env=os.environ | {"ACCEL_CONV_ISA": isa},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-2000:]
