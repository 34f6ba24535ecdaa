"""The autoencoder in tiles: against the whole, and across the tiles' borders; half precision."""

from __future__ import annotations

import pytest
import torch

from accel.core import ConfigError
from accel.models import tiling
from accel.models.tiling import decode_tiled, decoder_reach, encode_tiled, encoder_reach, pieces
from accel.models.vae_16bit import scale_activations
from accel.nn.vae import Vae, VaeConfig

CONFIG = VaeConfig(base_channels=16, channel_mult=(1, 2, 2), res_blocks=1, norm_groups=8, scale=0.2)


def build(seed=0, gain=1.0):
    torch.manual_seed(seed)
    vae = Vae(CONFIG).eval().requires_grad_(False)
    for name, parameter in vae.named_parameters():
        if "norm" in name:
            parameter.normal_(1.0 if name.endswith("weight") else 0.0, 0.3)
        elif name.endswith("weight"):
            parameter.mul_(gain)
    return vae


@pytest.fixture(scope="module")
def vae():
    return build()


def uneven(*shape):
    """Noise that is stronger and brighter at one side: tiles have other statistics."""
    torch.manual_seed(1)
    ramp = torch.linspace(0.2, 2.0, shape[-1])
    return torch.randn(shape) * ramp + ramp - 1


def difference(got, expected):
    return ((got - expected).abs().max() / expected.std()).item()


def test_decoding_is_that_of_the_whole(vae):
    latent = uneven(2, 4, 20, 36)
    assert difference(decode_tiled(vae, latent, 16), vae.decode(latent)) < 1e-4


def test_encoding_is_that_of_the_whole(vae):
    image = uneven(1, 3, 96, 160).clamp(-1, 1)
    assert difference(encode_tiled(vae, image, 24), vae.encode(image)) < 1e-4


def test_tiles_alone_would_not_do(vae):
    latent = uneven(1, 4, 16, 64)
    naive = torch.cat([vae.decode(part) for part in latent.split(32, dim=3)], dim=3)
    assert difference(naive, vae.decode(latent)) > 0.1


def test_the_reach_is_enough_and_not_much_more():
    """How far one pixel's change is seen, measured."""
    vae = build()
    latent = torch.zeros(1, 4, 64, 64)
    start = vae.decoder.mid(vae.decoder.conv_in(vae.post_quant_conv(latent)))
    shared = tiling.Shared()
    norms = [shared.twin(level) for level in reversed(vae.decoder.up)]
    shared.look_at(*(tiling.Piece(0, 64, 0, 64),) * 2)

    def rest(h):
        for level in norms:
            h = level(h)
        return vae.decoder.conv_out(h)

    for norm in shared.norms:
        with pytest.raises(tiling.Measured):
            rest(start)
        norm.settle()
    changed = start.clone()
    changed[:, :, 32, 32] += 5
    seen = ((rest(changed) - rest(start)).abs().amax((0, 1, 2)) > 1e-4).nonzero().flatten()
    reach = max(32 - seen[0].item() / 4, (seen[-1].item() + 1) / 4 - 33)
    assert reach <= decoder_reach(CONFIG) <= reach + 2.1


def test_one_tile_is_the_whole_to_the_bit(vae):
    latent, image = uneven(1, 4, 16, 16), uneven(1, 3, 64, 64)
    assert torch.equal(decode_tiled(vae, latent, 16), vae.decode(latent))
    assert torch.equal(encode_tiled(vae, image, 16), vae.encode(image))


def test_pieces_cover_everything_once():
    for size in (17, 64, 100, 129, 1000):
        found = pieces(size, 32, 5)
        assert [p.first for p in found[1:]] == [p.last for p in found[:-1]]
        assert (found[0].first, found[-1].last) == (0, size)
        assert all(p.begin == max(0, p.first - 5) for p in found)
    assert encoder_reach(VaeConfig()) == 1 + 4 * 15 + 2 * 7


def test_refuses(vae):
    with pytest.raises(ConfigError, match="tile must be above 0"):
        decode_tiled(vae, torch.zeros(1, 4, 8, 8), 0)
    with pytest.raises(ValueError, match="H and W multiples of 4"):
        encode_tiled(vae, torch.zeros(1, 3, 130, 8), 8)


# ------------------------------------------------------------------ half precision


def test_scaled_activations_give_the_same_pictures():
    plain, small = build(), build()
    scale_activations(small, 2.0**-4)
    latent, image = torch.randn(1, 4, 8, 8), torch.rand(1, 3, 32, 32) * 2 - 1
    torch.testing.assert_close(small.decode(latent), plain.decode(latent), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(small.encode(image), plain.encode(image), rtol=1e-4, atol=1e-5)


def test_half_precision_survives_activations_beyond_its_range():
    def loud():
        vae = build()
        for level in vae.decoder.up:  # as trained autoencoders have it: a few blocks are loud
            for block in level.block:
                block.conv2.weight.mul_(3e5)
        return vae

    latent = torch.randn(1, 4, 8, 8)
    expected = loud().decode(latent)
    assert not loud().half().decode(latent.half()).isfinite().all()
    safe = loud()
    scale_activations(safe, 2.0**-8)
    got = safe.half().decode(latent.half()).float()
    assert (got - expected).square().mean().sqrt() < 0.01 * expected.std()


def test_refuses_a_scale():
    with pytest.raises(ConfigError, match=r"scale must lie in 0\.\.1, got 2"):
        scale_activations(build(), 2.0)
