"""What callers do that is not in the examples: odd arguments, autocast, negative slopes."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from accel.kernels import (
    attention,
    conv2d,
    geglu,
    geglu_linear,
    group_norm_silu,
    layer_norm,
    linear,
    to_uint8,
)
from accel.nn import Conv2d
from tests.kernels.check import draw


@pytest.mark.parametrize("slope", [-1.0, -0.5, 0.0, 0.1, 1.5])
@pytest.mark.parametrize(("inputs", "outputs", "kernel"), [(64, 64, 3), (3, 5, 3), (32, 3, 1)])
def test_gradients_behind_any_slope(slope, inputs, outputs, kernel):
    """With a negative slope both sides of zero come out positive: the result hides the sign."""
    x = draw(2, inputs, 9, 11).requires_grad_()
    weight = (draw(outputs, inputs, kernel, kernel) / inputs).requires_grad_()
    got = conv2d(x, weight, None, 1, kernel // 2, 1, None, slope)
    linear = F.conv2d(x, weight, None, 1, kernel // 2)
    want = torch.where(linear > 0, linear, linear * slope)
    grad = draw(*want.shape)
    torch.testing.assert_close(got, want, rtol=1e-4, atol=2e-5)
    for a, b in zip(torch.autograd.grad(got, (x, weight), grad),
                    torch.autograd.grad(want, (x, weight), grad)):  # fmt: skip
        torch.testing.assert_close(a, b, rtol=1e-3, atol=1e-3)


def test_a_padding_that_no_memory_holds_does_not_end_the_process():
    x, weight = draw(1, 3, 4, 4), draw(3, 3, 3, 3)
    got = conv2d(x, weight, None, 5000, 5001)
    torch.testing.assert_close(got, F.conv2d(x, weight, None, 5000, 5001), rtol=1e-4, atol=1e-5)
    for stride, padding in ((10**9, 10**9), (2**40, 2**39), (2**40, 0)):
        try:
            got = conv2d(x, weight, None, stride, padding)
        except (RuntimeError, MemoryError, OverflowError):
            continue
        assert got.shape == F.conv2d(x, weight, None, stride, padding).shape


def test_attention_under_autocast_takes_what_torchs_takes():
    """Normalised queries are float32, values bfloat16: torch casts them to one type."""
    q, v = draw(1, 2, 5, 16), draw(1, 2, 7, 16).bfloat16()
    with torch.autocast("cpu", torch.bfloat16):
        got, want = attention(q, v.float(), v), F.scaled_dot_product_attention(q, v.float(), v)
    assert got.dtype == want.dtype
    torch.testing.assert_close(got, want)
    with pytest.raises(TypeError, match="attention: q, k and v must be of one floating point"):
        attention(q, v.float(), v)


def test_linear_refuses_a_bias_and_residual_by_its_own_name():
    x, weight = draw(2, 3), draw(5, 3)
    for wrong in (torch.ones(4), torch.ones(1, 5), torch.ones(2, 5)):
        with pytest.raises(ValueError, match=r"linear: bias must be \[5\]"):
            linear(x, weight, wrong)
    with pytest.raises(ValueError, match=r"linear: residual must be \[0, 5\]"):
        linear(x[:0], weight, None, torch.zeros(7, 5))
    assert linear(x, weight[:0]).shape == (2, 0)
    assert linear(x, weight[:0], torch.zeros(0), torch.zeros(2, 0)).shape == (2, 0)


CALLS = {
    "attention": lambda x: attention(x, x, x),
    "conv2d": lambda x: conv2d(x, x),
    "geglu": geglu,
    "geglu_linear": lambda x: geglu_linear(x, x, x),
    "group_norm_silu": lambda x: group_norm_silu(x, 1, None, None),
    "layer_norm": layer_norm,
    "linear": lambda x: linear(x, x),
    "to_uint8": to_uint8,
}


@pytest.mark.parametrize("thing", [None, [1.0], draw(1, 1, 2, 2).numpy()], ids=type)
@pytest.mark.parametrize("name", CALLS)
def test_what_is_no_tensor_is_refused_in_one_line(name, thing):
    with pytest.raises(TypeError, match=rf"^{name}: \w+ must be Tensor, got \w+$"):
        CALLS[name](thing)


@pytest.mark.parametrize("name", ["geglu", "layer_norm"])
def test_a_sparse_tensor_is_refused_in_one_line(name):
    with pytest.raises(
        TypeError, match=rf"^{name}: x must be a dense tensor, got torch.sparse_coo"
    ):
        CALLS[name](draw(2, 4).to_sparse())


def test_a_weight_written_behind_the_layers_back_is_seen_once_it_is_told():
    """As docs/embed.md says: packed weights would otherwise stay as they were."""
    layer, x = Conv2d(64, 64, 3, padding=1), draw(1, 64, 16, 16)
    with torch.no_grad():
        for _ in range(3):
            layer(x)
        layer.weight.data[33, 21, 1, 1] = 100
        layer.weight.detach().add_(0)
        want = F.conv2d(x, layer.weight, layer.bias, padding=1)
        torch.testing.assert_close(layer(x), want, rtol=1e-4, atol=1e-2)
        layer.keeps_packed = False
        layer.weight.data[5, 6, 1, 1] = 100
        want = F.conv2d(x, layer.weight, layer.bias, padding=1)
        torch.testing.assert_close(layer(x), want, rtol=1e-4, atol=1e-2)
