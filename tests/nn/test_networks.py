"""What the networks refuse, and what must hold without a peer to ask."""

from __future__ import annotations

import pytest
import torch

from accel.core import ConfigError
from accel.nn.attention import ROWS, FeedForward
from accel.nn.control import ControlNet
from accel.nn.layers import attention, geglu, sinusoids
from accel.nn.text import ClipText, TextConfig
from accel.nn.tiny_vae import TinyDecoder, TinyEncoder
from accel.nn.unet import Unet, UnetConfig
from accel.nn.vae import Vae, VaeConfig

UNET = UnetConfig(
    channels=16,
    channel_mult=(1, 2),
    res_blocks=1,
    transformer_depth=(0, 1),
    context_width=8,
    heads=2,
    norm_groups=8,
    vector_width=5,
)
VAE = VaeConfig(base_channels=8, channel_mult=(1, 2), res_blocks=1, norm_groups=8)


def test_attention_is_softmax_of_scaled_products():
    q, k, v = torch.randn(3, 2, 5, 12).unbind(0)
    out = attention(q, k, v, heads=3)
    for head in range(3):
        part = slice(4 * head, 4 * head + 4)
        weights = (q[..., part] @ k[..., part].transpose(1, 2) / 2).softmax(-1)
        torch.testing.assert_close(out[..., part], weights @ v[..., part])


def test_causal_attention_does_not_see_what_follows():
    q, k, v = torch.randn(3, 1, 6, 8).unbind(0)
    before = attention(q, k, v, 2, causal=True)
    k[:, 4:], v[:, 4:] = 9.0, -9.0
    after = attention(q, k, v, 2, causal=True)
    torch.testing.assert_close(after[:, :4], before[:, :4])
    assert not torch.allclose(after[:, 4:], before[:, 4:])


def test_geglu_gates_with_its_second_half():
    x = torch.tensor([2.0, 3.0, 0.0, 50.0])
    torch.testing.assert_close(geglu(x), torch.tensor([0.0, 150.0]))


def test_feed_forward_in_pieces_gives_the_same_bytes():
    layer, x = FeedForward(32, 2), torch.randn(2, ROWS // 2 + 300, 32)
    assert not layer.in_pieces(x)  # gradients are recorded of the whole
    with torch.no_grad():
        assert layer.in_pieces(x)
        assert torch.equal(layer(x, x), layer.whole(x, x))
        assert torch.equal(layer(x), layer.whole(x, None))


def test_sinusoids_are_cosines_then_sines():
    got = sinusoids(torch.tensor([0.0, 2.0]), 4)
    angle = torch.tensor([2.0, 0.02])
    torch.testing.assert_close(got[0], torch.tensor([1.0, 1.0, 0.0, 0.0]))
    torch.testing.assert_close(got[1], torch.cat([angle.cos(), angle.sin()]))


def unet_inputs(**changed):
    inputs = {
        "x": torch.zeros(2, 4, 8, 8),
        "t": torch.zeros(2),
        "context": torch.zeros(2, 3, 8),
        "vector": torch.zeros(2, 5),
    }
    return inputs | changed


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"x": torch.zeros(2, 9, 8, 8)}, "x must be .2, 4|x must be .B, 4"),
        ({"x": torch.zeros(2, 4, 8, 0)}, "x must be .B, 4, H, W., got .2, 4, 8, 0."),
        ({"t": torch.zeros(1)}, "t must be .2., got .1,."),
        ({"context": torch.zeros(2, 3, 7)}, "context must be .2, tokens, 8."),
        ({"vector": None}, "vector must be of shape .2, 5., got None"),
    ],
)
def test_unet_refuses(changed, message):
    with pytest.raises(ValueError, match=message):
        Unet(UNET)(**unet_inputs(**changed))


def test_unet_uses_every_input():
    torch.manual_seed(0)
    network = Unet(UNET).eval()
    inputs = {name: torch.randn_like(value) for name, value in unet_inputs().items()}
    with torch.no_grad():
        out = network(**inputs)
        assert out.shape == (2, 4, 8, 8)
        for name, value in inputs.items():
            assert not torch.allclose(network(**inputs | {name: value + 1}), out), name


def test_control_of_nothing_changes_nothing():
    torch.manual_seed(0)
    unet, network = Unet(UNET).eval(), ControlNet(UNET).eval()
    inputs = {name: torch.randn_like(value) for name, value in unet_inputs().items()}
    hint = torch.rand(2, 3, 64, 64)
    with torch.no_grad():
        free = unet(**inputs)
        none = unet(**inputs, control=network(hint=hint, scale=0.0, **inputs))
        some = unet(**inputs, control=network(hint=hint, **inputs))
    assert torch.equal(none, free)
    assert not torch.allclose(some, free)


def test_control_net_refuses_a_hint_of_another_size():
    with pytest.raises(ValueError, match=r"hint must be \(2, 3, 64, 64\), got \(2, 3, 8, 8\)"):
        ControlNet(UNET)(hint=torch.zeros(2, 3, 8, 8), **unet_inputs())


def test_vae_shapes_and_scale():
    torch.manual_seed(0)
    vae = Vae(VAE).eval()
    image = torch.rand(2, 3, 16, 24) * 2 - 1
    with torch.no_grad():
        mean, log_variance = vae.moments(image)
        latent = vae.encode(image)
        assert mean.shape == log_variance.shape == latent.shape == (2, 4, 8, 12)
        torch.testing.assert_close(latent, mean * VAE.scale)
        assert vae.decode(latent).shape == image.shape


def test_vae_refuses_sides_it_cannot_halve():
    with pytest.raises(ValueError, match="multiples of 2, got"):
        Vae(VAE).encode(torch.zeros(1, 3, 15, 16))


def test_tiny_vae_shapes_and_names():
    encoder, decoder = TinyEncoder(), TinyDecoder()
    assert encoder(torch.zeros(1, 3, 32, 16)).shape == (1, 4, 4, 2)
    assert decoder(torch.zeros(1, 4, 4, 2)).shape == (1, 3, 32, 16)
    assert {"1.weight", "3.conv.0.weight", "7.weight", "18.conv.4.bias", "19.bias"} <= set(
        decoder.state_dict()
    )
    assert {"0.weight", "1.conv.0.weight", "2.weight", "14.bias"} <= set(encoder.state_dict())


def test_text_tower_refuses_more_tokens_than_positions():
    config = TextConfig(vocabulary=10, length=4, width=8, layers=1, heads=2, end_token=9)
    with pytest.raises(ValueError, match=r"tokens must be \[B, at most 4\], got \(1, 5\)"):
        ClipText(config)(torch.zeros(1, 5, dtype=torch.long))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: UnetConfig(transformer_depth=(1, 1)), "one entry a level"),
        (lambda: UnetConfig(head_width=64), "one of heads and head_width"),
        (lambda: UnetConfig(channels=40), "multiple of norm_groups 32"),
        (lambda: VaeConfig(base_channels=40), "norm_groups must divide"),
        (lambda: TextConfig(heads=7), "multiple of heads 7"),
    ],
)
def test_configs_check_themselves(make, message):
    with pytest.raises(ConfigError, match=message):
        make()
