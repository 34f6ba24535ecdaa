"""T2I-Adapter: files of both kinds of names, the features' places, parity with diffusers."""

from __future__ import annotations

import re

import pytest
import torch
from safetensors.torch import save_file

from accel.core import InputError
from accel.models import stable_diffusion as sd
from accel.models.adapter import load_adapter
from accel.nn.adapter import Adapter, AdapterConfig, placed, places
from accel.nn.unet import Unet, UnetConfig

CONFIGS = {
    "full": AdapterConfig(channels=(32, 64, 64, 64)),
    "full-xl": AdapterConfig(kind="full-xl", channels=(32, 64, 128, 128), factor=16),
    "light": AdapterConfig(kind="light", channels=(32, 64, 64, 64), blocks=4),
    "sketch": AdapterConfig(in_channels=1, channels=(32, 64, 64, 64)),
}


def network(name):
    torch.manual_seed(0)
    return Adapter(CONFIGS[name]).eval().requires_grad_(False)


def image(config, sides=(64, 128)):
    return torch.rand(2, config.in_channels, *sides, generator=torch.Generator().manual_seed(1))


def old_names(name, key):
    """As TencentARC's own programs name it."""
    if name == "light":
        return key.replace(".resnets.", ".body.")
    stage, rest = re.fullmatch(r"body\.(\d+)\.(.*)|.*", key).groups()
    if stage is None:
        return key
    block = re.fullmatch(r"resnets\.(\d+)\.(.*)", rest)
    if block is None:
        return f"body.{2 * int(stage)}.{rest}"
    return f"body.{2 * int(stage) + int(block[1])}.{block[2]}"


@pytest.mark.parametrize("layout", ["diffusers", "original"])
@pytest.mark.parametrize("name", CONFIGS)
def test_files(name, layout, tmp_path):
    ours = network(name)
    if layout == "diffusers":
        tensors = {"adapter." + k: v for k, v in ours.state_dict().items()}
    else:
        tensors = {old_names(name, k): v for k, v in ours.state_dict().items()}
    assert len(tensors) == len(ours.state_dict())
    save_file(tensors, tmp_path / "a.safetensors")
    loaded = load_adapter(tmp_path / "a.safetensors")
    assert loaded.config == CONFIGS[name]
    x = image(CONFIGS[name])
    for got, expected in zip(loaded(x), ours(x), strict=True):
        assert torch.equal(got, expected)


def test_places_are_those_of_the_published_adapters():
    assert places(sd.SD1.unet) == [2, 5, 8, 11]
    assert places(sd.SD2.unet) == [2, 5, 8, 11]
    assert places(sd.SDXL.unet) == [3, 5, 8, 9]


def test_features_must_have_places():
    with pytest.raises(ValueError, match="features must be at most 4, got 5"):
        placed([torch.ones(1)] * 5, sd.SD1.unet)


PEERS = {
    "sd1": (UnetConfig(channels=32, context_width=24), AdapterConfig(channels=(32, 64, 128, 128))),
    "sdxl": (
        UnetConfig(
            channels=32,
            channel_mult=(1, 2, 4),
            transformer_depth=(0, 1, 2),
            middle_depth=2,
            context_width=24,
            heads=0,
            head_width=16,
            linear_projection=True,
        ),
        AdapterConfig(kind="full-xl", channels=(32, 64, 128, 128), factor=16),
    ),
}


@pytest.mark.parametrize("name", PEERS)
def test_agrees_with_diffusers(name, tmp_path):
    """Features, and the UNet that they are added to."""
    diffusers = pytest.importorskip("diffusers", exc_type=ImportError)
    from diffusers.loaders.single_file_utils import convert_ldm_unet_checkpoint

    config, sizes = PEERS[name]
    kind = {"full": "full_adapter", "full-xl": "full_adapter_xl"}[sizes.kind]
    peer = diffusers.T2IAdapter(
        channels=list(sizes.channels), adapter_type=kind, downscale_factor=sizes.factor
    ).eval()
    peer.save_pretrained(tmp_path)
    ours, x = load_adapter(tmp_path), image(sizes, (128, 128))
    with torch.no_grad():
        expected = peer(x)
    for got, feature in zip(ours(x), expected, strict=True):
        assert (got - feature).abs().max() < 1e-5 * feature.abs().max()

    torch.manual_seed(0)
    unet = Unet(config).eval().requires_grad_(False)
    theirs = diffusers_unet(diffusers, config)
    named = {"model.diffusion_model." + k: v for k, v in unet.state_dict().items()}
    theirs.load_state_dict(convert_ldm_unet_checkpoint(named, theirs.config))
    latent, t, context = torch.randn(2, 4, 16, 16), torch.tensor([40.0, 9.0]), torch.randn(2, 7, 24)
    with torch.no_grad():
        wanted = theirs(
            latent, t, context, down_intrablock_additional_residuals=[f.clone() for f in expected]
        ).sample
    got = unet(latent, t, context, features=placed(ours(x), config))
    assert (got - wanted).abs().max() < 1e-4 * wanted.abs().max()
    assert (unet(latent, t, context) - wanted).abs().max() > 1e-3 * wanted.abs().max()


def diffusers_unet(diffusers, config):
    def kind(depth, way):
        return f"CrossAttn{way}Block2D" if depth else f"{way}Block2D"

    depths = config.transformer_depth
    return diffusers.UNet2DConditionModel(
        block_out_channels=config.widths,
        layers_per_block=config.res_blocks,
        down_block_types=[kind(d, "Down") for d in depths],
        up_block_types=[kind(d, "Up") for d in reversed(depths)],
        transformer_layers_per_block=[max(d, 1) for d in depths],
        cross_attention_dim=config.context_width,
        attention_head_dim=config.heads or [w // config.head_width for w in config.widths],
        use_linear_projection=config.linear_projection,
    ).eval()


def test_refuses_files_of_another_kind(tmp_path):
    path = tmp_path / "other.safetensors"
    save_file({"x.alpha": torch.ones(1)}, path)
    with pytest.raises(InputError, match="must be a T2I-Adapter, got 1 tensors"):
        load_adapter(path)
    tensors = {"adapter." + k: v for k, v in network("full").state_dict().items()}
    tensors["adapter.conv_in.weight"] = torch.ones(32, 7, 3, 3)
    save_file(tensors, path)
    with pytest.raises(InputError, match="first layer must take one of"):
        load_adapter(path)
    with pytest.raises(ValueError, match="H and W multiples of 8"):
        network("full")(torch.rand(1, 3, 90, 64))
