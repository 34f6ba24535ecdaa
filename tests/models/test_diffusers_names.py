"""Our names against the very modules of diffusers and transformers."""

from __future__ import annotations

import pytest
import torch

from accel.models import stable_diffusion as sd
from accel.models.diffusers_names import open_clip_module, unet_module, vae_module
from accel.nn.text import OpenClipText, TextConfig
from accel.nn.unet import Unet
from accel.nn.vae import Vae, VaeConfig

SD1_NAMES = [
    ("time_embed.2", "time_embedding.linear_2"),
    ("input_blocks.0.0", "conv_in"),
    ("input_blocks.1.1.proj_in", "down_blocks.0.attentions.0.proj_in"),
    ("input_blocks.3.0.op", "down_blocks.0.downsamplers.0.conv"),
    ("input_blocks.5.0.in_layers.2", "down_blocks.1.resnets.1.conv1"),
    (
        "input_blocks.8.1.transformer_blocks.0.attn2.to_out.0",
        "down_blocks.2.attentions.1.transformer_blocks.0.attn2.to_out.0",
    ),
    ("middle_block.2.emb_layers.1", "mid_block.resnets.1.time_emb_proj"),
    ("output_blocks.2.1.conv", "up_blocks.0.upsamplers.0.conv"),
    ("output_blocks.5.2.conv", "up_blocks.1.upsamplers.0.conv"),
    ("output_blocks.11.0.skip_connection", "up_blocks.3.resnets.2.conv_shortcut"),
    ("out.2", "conv_out"),
]


@pytest.mark.parametrize(("ours", "theirs"), SD1_NAMES)
def test_unet_names(ours, theirs):
    assert unet_module(ours, sd.SD1.unet) == theirs


def module_paths(network) -> set[str]:
    return {name.rpartition(".")[0] for name, _ in network.named_parameters()}


@pytest.mark.parametrize("name", ["sd1", "sd2", "sdxl", "sdxl-refiner"])
def test_unet_names_are_all_of_diffusers(name):
    pytest.importorskip("diffusers", exc_type=ImportError)
    from tests.nn.test_peers import diffusers_unet

    config = sd.CONFIGS[name].unet
    with torch.device("meta"):
        ours, theirs = Unet(config), diffusers_unet(config, sd.SIZE_WIDTH)
    mapped = {unet_module(path, config) for path in module_paths(ours)}
    assert mapped == module_paths(theirs)


def test_vae_names_are_all_of_diffusers():
    diffusers = pytest.importorskip("diffusers", exc_type=ImportError)
    config = VaeConfig()
    with torch.device("meta"):
        ours = Vae(config)
        theirs = diffusers.AutoencoderKL(
            block_out_channels=config.channels,
            layers_per_block=2,
            down_block_types=["DownEncoderBlock2D"] * 4,
            up_block_types=["UpDecoderBlock2D"] * 4,
        )
    assert {vae_module(path, config) for path in module_paths(ours)} == module_paths(theirs)


def test_open_clip_names():
    config = TextConfig(
        vocabulary=9, length=5, width=8, layers=2, heads=2, projection=4, end_token=8
    )
    paths = module_paths(OpenClipText(config)) - {"", "transformer.resblocks.0.attn"}
    mapped = {open_clip_module(p) for p in paths if not p.endswith(".attn")}
    assert "text_model.encoder.layers.1.mlp.fc2" in mapped
    assert "text_model.encoder.layers.0.self_attn.out_proj" in mapped
    assert "text_model.final_layer_norm" in mapped
    assert len(mapped) == 2 * 5 + 2
