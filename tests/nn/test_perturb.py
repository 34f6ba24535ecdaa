"""The UNet without self attention in its middle, sharing weights with the one that has it."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from accel.nn.attention import CrossAttention
from accel.nn.perturb import OwnValue, perturbed
from accel.nn.unet import Unet, UnetConfig

CONFIG = UnetConfig(
    channels=32,
    channel_mult=(1, 2),
    res_blocks=1,
    transformer_depth=(0, 1),
    middle_depth=2,
    context_width=16,
    heads=4,
)


@pytest.fixture(scope="module")
def unet():
    torch.manual_seed(0)
    return Unet(CONFIG).eval().requires_grad_(False)


def inputs():
    return torch.randn(2, 4, 8, 8), torch.tensor([500.0, 20.0]), torch.randn(2, 5, 16)


def test_only_the_middles_self_attention_differs(unet):
    x, t, context = inputs()
    before, blind = unet(x, t, context), perturbed(unet)
    assert (blind(x, t, context) - before).abs().max() > 1e-4
    assert torch.equal(unet(x, t, context), before)
    assert blind.output_blocks is unet.output_blocks
    own = dict(unet.named_parameters())
    for name, parameter in blind.output_blocks.named_parameters(prefix="output_blocks"):
        assert parameter is own[name]


def test_equals_attention_where_each_position_sees_itself_alone():
    """With one position there is nothing else to see."""
    attention, x = CrossAttention(16, 16, 4), torch.randn(7, 1, 16)
    torch.testing.assert_close(OwnValue(attention)(x), attention(x))


def test_weights_replaced_later_are_seen(unet):
    x, t, context = inputs()
    blind = perturbed(unet)
    value = unet.middle_block[1].transformer_blocks[0].attn1.to_v
    old, before = value.weight, blind(x, t, context)
    value.weight = nn.Parameter(old * 3, requires_grad=False)
    try:
        assert (blind(x, t, context) - before).abs().max() > 1e-5
    finally:
        value.weight = old
