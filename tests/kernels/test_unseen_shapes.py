"""Shapes that nobody chose, against torch: values and gradients, wherever numbers lie."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from accel.kernels import attention, geglu, group_norm_silu
from accel.nn import Conv2d

FEW = settings(max_examples=40, deadline=None, derandomize=True)
small = st.integers(1, 5)


def draw(seed, *shape):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


@FEW
@given(st.data())
def test_conv2d_is_torchs(data):
    groups, kernel = data.draw(st.sampled_from([1, 1, 1, 2, 3])), data.draw(st.integers(1, 5))
    inputs, outputs = (groups * data.draw(st.integers(1, 40)) for _ in range(2))
    stride, padding = data.draw(st.integers(1, 3)), data.draw(st.integers(0, 6))
    dilation = data.draw(st.sampled_from([1, 1, 2]))
    least = max(1, dilation * (kernel - 1) + 1 - 2 * padding)
    height, width = (data.draw(st.integers(least, least + 23)) for _ in range(2))
    options = (inputs, outputs, kernel, stride, padding, dilation, groups, data.draw(st.booleans()))
    ours, theirs = Conv2d(*options), torch.nn.Conv2d(*options)
    for i, tensor in enumerate(theirs.parameters()):
        tensor.data.copy_(draw(i, *tensor.shape) / (inputs * kernel))
    ours.load_state_dict(theirs.state_dict())
    x = draw(7, data.draw(small), inputs, height, width)
    if data.draw(st.booleans()):
        x = x.contiguous(memory_format=torch.channels_last)
    with torch.no_grad():
        for _ in range(3):  # the third call has packed weights
            again = ours(x)
    a, b = x.clone().requires_grad_(), x.clone().requires_grad_()
    got, want = ours(a), theirs(b)
    torch.testing.assert_close(got, want, rtol=1e-4, atol=3e-5)
    torch.testing.assert_close(again, got.detach(), rtol=0, atol=0)
    got.square().sum().backward()
    want.square().sum().backward()
    torch.testing.assert_close(a.grad, b.grad, rtol=1e-3, atol=1e-3)
    for mine, other in zip(ours.parameters(), theirs.parameters()):
        torch.testing.assert_close(mine.grad, other.grad, rtol=1e-3, atol=2e-2)


@FEW
@given(small, small, st.integers(1, 70), st.integers(1, 150), st.integers(1, 90), st.booleans())
def test_attention_is_torchs(batch, heads, queries, keys, width, causal):
    given_ = [draw(i, batch, n, heads, width).transpose(1, 2) for i, n in
              enumerate((queries, keys, keys))]  # fmt: skip
    got = attention(*given_, causal=causal)
    want = F.scaled_dot_product_attention(*given_, is_causal=causal)
    torch.testing.assert_close(got, want, rtol=1e-4, atol=1e-5)


@FEW
@given(small, small, small, st.integers(1, 40), st.integers(1, 40), st.booleans())
def test_group_norm_and_gate_are_torchs(batch, groups, each, height, width, last):
    x = 3 * draw(0, batch, groups * each, height, width) + 5
    if last:
        x = x.contiguous(memory_format=torch.channels_last)
    weight, bias = draw(1, groups * each), draw(2, groups * each)
    if each * height * width > 1:
        want = F.silu(F.group_norm(x.double(), groups, weight.double(), bias.double()))
        got = group_norm_silu(x, groups, weight, bias)
        torch.testing.assert_close(got, want.float(), rtol=2e-4, atol=2e-4)
    pair = draw(3, batch, height, 2 * width)
    value, gate = pair.chunk(2, -1)
    torch.testing.assert_close(geglu(pair), value * F.gelu(gate), rtol=1e-5, atol=1e-5)
