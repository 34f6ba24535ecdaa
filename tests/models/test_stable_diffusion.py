"""Sizes and names of the family, without a single full-size tensor."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from accel.core import InputError
from accel.models import stable_diffusion as sd
from accel.nn.text import TextConfig
from accel.nn.unet import UnetConfig
from accel.nn.vae import VaeConfig
from tests.models.small import file_tensors

# Tensors and parameters; the UNets' and the autoencoder's equal those of diffusers' networks.
SIZES = {
    "sd1": {"unet": (686, 859_520_964), "towers": [(196, 123_060_480)]},
    "sd2": {"unet": (686, 865_910_724), "towers": [(293, 354_032_640)]},
    "sdxl": {
        "unet": (1680, 2_567_463_684),
        "towers": [(196, 123_060_480), (389, 694_659_840)],
    },
    "sdxl-refiner": {"unet": (1220, 2_259_526_660), "towers": [(389, 694_659_840)]},
}
VAE_SIZE = (248, 83_653_863)

UNET, CLIP_L = "model.diffusion_model.", "cond_stage_model.transformer.text_model."
KEYS = [  # names and shapes as the published files have them
    ("sd1", UNET + "input_blocks.0.0.weight", (320, 4, 3, 3)),
    ("sd1", UNET + "input_blocks.3.0.op.weight", (320, 320, 3, 3)),
    ("sd1", UNET + "input_blocks.4.0.skip_connection.weight", (640, 320, 1, 1)),
    ("sd1", UNET + "input_blocks.8.1.proj_in.weight", (1280, 1280, 1, 1)),
    ("sd1", UNET + "middle_block.1.transformer_blocks.0.ff.net.0.proj.weight", (10240, 1280)),
    ("sd1", UNET + "output_blocks.2.1.conv.weight", (1280, 1280, 3, 3)),
    ("sd1", UNET + "output_blocks.5.2.conv.bias", (1280,)),
    ("sd1", UNET + "output_blocks.11.0.in_layers.2.weight", (320, 640, 3, 3)),
    ("sd1", UNET + "out.2.weight", (4, 320, 3, 3)),
    ("sd1", CLIP_L + "embeddings.position_embedding.weight", (77, 768)),
    ("sd1", CLIP_L + "encoder.layers.11.mlp.fc1.weight", (3072, 768)),
    ("sd1", "first_stage_model.encoder.down.1.block.0.nin_shortcut.weight", (256, 128, 1, 1)),
    ("sd1", "first_stage_model.decoder.up.3.upsample.conv.weight", (512, 512, 3, 3)),
    ("sd1", "first_stage_model.encoder.mid.attn_1.q.weight", (512, 512, 1, 1)),
    ("sd1", "first_stage_model.quant_conv.weight", (8, 8, 1, 1)),
    ("sd2", UNET + "input_blocks.1.1.proj_in.weight", (320, 320)),
    ("sd2", UNET + "input_blocks.2.1.transformer_blocks.0.attn2.to_k.weight", (320, 1024)),
    ("sd2", "cond_stage_model.model.transformer.resblocks.23.attn.in_proj_weight", (3072, 1024)),
    ("sd2", "cond_stage_model.model.text_projection", (1024, 1024)),
    ("sdxl", UNET + "label_emb.0.0.weight", (1280, 2816)),
    ("sdxl", UNET + "input_blocks.8.1.transformer_blocks.9.norm3.weight", (1280,)),
    ("sdxl", UNET + "output_blocks.2.2.conv.weight", (1280, 1280, 3, 3)),
    ("sdxl", "conditioner.embedders.1.model.transformer.resblocks.9.mlp.c_proj.bias", (1280,)),
    ("sdxl", "conditioner.embedders.1.model.text_projection", (1280, 1280)),
    ("sdxl-refiner", UNET + "label_emb.0.0.weight", (1536, 2560)),
    ("sdxl-refiner", UNET + "middle_block.1.transformer_blocks.3.norm1.bias", (1536,)),
    ("sdxl-refiner", "conditioner.embedders.0.model.ln_final.weight", (1280,)),
]


@pytest.fixture(scope="module")
def full_size():
    with torch.device("meta"):
        return {name: sd.build(config) for name, config in sd.CONFIGS.items()}


@pytest.mark.parametrize("name", SIZES)
def test_full_size(full_size, name):
    model = full_size[name]
    assert size(model.unet) == SIZES[name]["unet"]
    assert size(model.vae) == VAE_SIZE
    assert [size(tower) for tower in model.towers] == SIZES[name]["towers"]


def size(network) -> tuple[int, int]:
    return len(network.state_dict()), sum(p.numel() for p in network.parameters())


@pytest.mark.parametrize(("name", "key", "shape"), KEYS)
def test_published_names_lead_to_parameters_of_their_shape(full_size, name, key, shape):
    parameter = full_size[name].get_parameter(sd.rename(key, sd.CONFIGS[name]))
    assert tuple(parameter.shape) == shape


@pytest.mark.parametrize("name", SIZES)
def test_every_parameter_has_one_name_in_a_file(full_size, name):
    model = full_size[name]
    reached = [sd.rename(key, model.config) for key in shapes_of(model)]
    assert sorted(reached) == sorted(model.state_dict())


def shapes_of(model) -> dict[str, tuple[int, ...]]:
    return {name: tuple(tensor.shape) for name, tensor in file_tensors(model).items()}


@pytest.mark.parametrize("name", SIZES)
@pytest.mark.parametrize("channels", sd.INPUT_CHANNELS)
def test_detects_members_by_shape(full_size, name, channels):
    shapes = shapes_of(full_size[name])
    first = sd.UNET_PREFIX + "input_blocks.0.0.weight"
    shapes[first] = (shapes[first][0], channels, 3, 3)
    detected = sd.detect(shapes)
    assert detected == name + sd.INPUT_CHANNELS[channels]
    expected = replace(sd.CONFIGS[name].unet, in_channels=channels)
    assert sd.config_of(detected).unet == expected


def test_detects_nothing_in_other_files(full_size):
    shapes = shapes_of(full_size["sd1"])
    assert sd.detect({"double_blocks.0.img_attn.norm.key_norm.scale": (128,)}) is None
    shapes[sd.UNET_PREFIX + "input_blocks.4.1.transformer_blocks.0.attn2.to_k.weight"] = (640, 77)
    assert sd.detect(shapes) is None


def test_refuses_input_channels_of_no_known_member(full_size):
    shapes = shapes_of(full_size["sd1"])
    shapes[sd.UNET_PREFIX + "input_blocks.0.0.weight"] = (320, 5, 3, 3)
    with pytest.raises(InputError, match=r"must take \[4, 8, 9\] channels, got 5"):
        sd.detect(shapes)


def test_refuses_an_unknown_member():
    with pytest.raises(InputError, match="model must be one of"):
        sd.config_of("sd7")


@pytest.mark.parametrize(
    "key",
    [
        "model_ema.decay",
        "alphas_cumprod",
        "first_stage_model.loss.logvar",
        "cond_stage_model.transformer.text_model.embeddings.position_ids",
        "v_pred",
    ],
)
def test_passes_over_what_is_not_used(key):
    assert sd.rename(key, sd.SD1) is None


def test_clip_names_without_their_first_part():
    key = "cond_stage_model.transformer.final_layer_norm.bias"
    assert sd.rename(key, sd.SD1) == "towers.0.text_model.final_layer_norm.bias"


def tiny(from_last: int, final_norm: bool) -> sd.StableDiffusion:
    torch.manual_seed(0)
    text = TextConfig(vocabulary=50, length=9, width=32, layers=3, heads=2, end_token=49)
    towers = tuple(
        sd.Tower(
            prefix=f"{i}.",
            config=replace(text, projection=16 * i),
            open_clip=bool(i),
            from_last=from_last,
            final_norm=final_norm,
        )
        for i in range(2)
    )
    unet = UnetConfig(
        channels=32,
        channel_mult=(1,),
        res_blocks=1,
        transformer_depth=(1,),
        context_width=64,
        vector_width=16 + 2 * sd.SIZE_WIDTH,
    )
    vae = VaeConfig(base_channels=32, channel_mult=(1,))
    return sd.build(sd.Config(unet=unet, towers=towers, vae=vae, size_numbers=2)).eval()


TOKENS = torch.tensor([[48, 3, 4, 49, 49, 49, 49, 49, 49]])


@pytest.mark.parametrize(("from_last", "skip"), [(1, 1), (1, 2), (2, 1), (2, 2)])
@pytest.mark.parametrize("final_norm", [False, True])
def test_context_comes_from_the_layer_asked_for(from_last, skip, final_norm):
    model = tiny(from_last, final_norm)
    got = model.encode_text([TOKENS, TOKENS], clip_skip=skip)
    states = []
    for tower in model.towers:
        hidden = tower(TOKENS).hidden[-(from_last + skip - 1)]
        states.append(tower.final_norm(hidden) if final_norm else hidden)
    torch.testing.assert_close(got.context, torch.cat(states, -1))
    torch.testing.assert_close(got.pooled, model.towers[1](TOKENS).pooled)


def test_second_vector_is_pooled_text_then_waves():
    model = tiny(1, True)
    pooled = torch.randn(3, 16)
    vector = model.vector(pooled, torch.tensor([[0.0, 1.0]] * 3))
    assert vector.shape == (3, 16 + 512)
    torch.testing.assert_close(vector[:, :16], pooled)
    assert vector[0, 16:144].eq(1).all()  # cos 0
    assert vector[0, 144:272].eq(0).all()  # sin 0
    torch.testing.assert_close(vector[0, 272], torch.tensor(1.0).cos())
    with pytest.raises(ValueError, match=r"numbers must be \(3, 2\), got \(3, 6\)"):
        model.vector(pooled, torch.zeros(3, 6))


def test_refuses_a_clip_skip_beyond_the_layers():
    with pytest.raises(ValueError, match=r"clip_skip must lie in 1\.\.3, got 4"):
        tiny(1, True).encode_text([TOKENS, TOKENS], clip_skip=4)
    with pytest.raises(ValueError, match="tokens must be given for 2 towers, got 1"):
        tiny(1, True).encode_text([TOKENS])
