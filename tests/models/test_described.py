"""Folders of sizes that no published model has: diffusers' own small models, whole pipelines."""

from __future__ import annotations

import json

import pytest
import torch

from accel.core import InputError
from accel.models.described import describe
from accel.models.load import load
from accel.text.bpe import END_TEXT, START_TEXT, clip_tokenizer

UNET = {
    "block_out_channels": [4, 8],
    "layers_per_block": 1,
    "in_channels": 4,
    "out_channels": 4,
    "down_block_types": ["DownBlock2D", "CrossAttnDownBlock2D"],
    "up_block_types": ["CrossAttnUpBlock2D", "UpBlock2D"],
    "cross_attention_dim": 32,
    "norm_num_groups": 2,
    "sample_size": 32,
}
UNET_XL = {
    "block_out_channels": [2, 4],
    "layers_per_block": 2,
    "in_channels": 4,
    "out_channels": 4,
    "down_block_types": ["DownBlock2D", "CrossAttnDownBlock2D"],
    "up_block_types": ["CrossAttnUpBlock2D", "UpBlock2D"],
    "attention_head_dim": [2, 4],
    "use_linear_projection": True,
    "addition_embed_type": "text_time",
    "addition_time_embed_dim": 8,
    "transformer_layers_per_block": [1, 2],
    "projection_class_embeddings_input_dim": 80,
    "cross_attention_dim": 64,
    "norm_num_groups": 1,
    "sample_size": 32,
}
VAE = {
    "block_out_channels": [4, 8],
    "in_channels": 3,
    "out_channels": 3,
    "latent_channels": 4,
    "norm_num_groups": 2,
}
TEXT = {
    "vocab_size": 1000,
    "hidden_size": 32,
    "intermediate_size": 37,
    "num_attention_heads": 4,
    "num_hidden_layers": 5,
    "bos_token_id": 998,
    "eos_token_id": 999,
    "hidden_act": "gelu",
    "projection_dim": 32,
}


def write_configs(folder, unet=UNET, vae=VAE, text=TEXT):
    for name, about in (("unet", unet), ("vae", vae), ("text_encoder", text)):
        (folder / name).mkdir()
        (folder / name / "config.json").write_text(json.dumps(about))
    return folder


def test_sizes(tmp_path):
    name, config = describe(write_configs(tmp_path))
    assert name == "sd1"
    unet = config.unet
    assert (unet.channels, unet.channel_mult, unet.res_blocks) == (4, (1, 2), 1)
    assert (unet.transformer_depth, unet.middle_depth, unet.context_width) == ((0, 1), 1, 32)
    assert (unet.heads, unet.head_width, unet.norm_groups) == (8, 0, 2)
    assert (config.vae.base_channels, config.vae.res_blocks, config.vae.factor) == (4, 1, 2)
    (tower,) = config.towers
    assert (tower.config.hidden_width, tower.config.end_token, tower.from_last) == (37, 999, 1)
    assert config.side_px == 64


@pytest.mark.parametrize(
    ("part", "change", "message"),
    [
        (
            "unet",
            {"resnet_time_scale_shift": "scale_shift"},
            "must be 'default', got 'scale_shift'",
        ),
        ("unet", {"down_block_types": ["KDownBlock2D"] * 2}, "down_block_types must be 2 of"),
        ("unet", {"up_block_types": ["UpBlock2D"] * 2}, "up_block_types must mirror"),
        ("unet", {"block_out_channels": [4, 6]}, "must be multiples of the first"),
        ("unet", {"block_out_channels": "wide"}, "block_out_channels must be counts"),
        ("unet", {"in_channels": 7}, r"must take \[4, 8, 9\] channels, got 7"),
        ("unet", {"norm_num_groups": 3}, "must be a multiple of norm_groups 3"),
        ("unet", {"layers_per_block": -1}, "layers_per_block must be 2 counts up to 128, got -1"),
        ("unet", {"addition_embed_type": "image"}, "addition_embed_type must be 'text_time'"),
        ("vae", {"use_quant_conv": False}, "use_quant_conv must be True, got False"),
        ("vae", {"scaling_factor": "big"}, "scaling_factor must be above 0"),
        ("text", {"hidden_act": "silu"}, "hidden_act must be gelu or quick_gelu, got 'silu'"),
    ],
)
def test_what_these_networks_cannot_do_is_named(tmp_path, part, change, message):
    parts = {"unet": UNET, "vae": VAE, "text": TEXT}
    parts[part] = parts[part] | change
    with pytest.raises(InputError, match=message):
        describe(write_configs(tmp_path, **parts))


# ------------------------------------------------------------------ beside diffusers


def write_tokenizer(folder, size: int, padding: str):
    """The first words that CLIP's own vocabulary learnt, and start and end as the last two."""
    transformers = pytest.importorskip("transformers", exc_type=ImportError)
    bpe = clip_tokenizer()
    words = list(bpe.ids)[: size - 2]
    vocabulary = {word: i for i, word in enumerate([*words, START_TEXT, END_TEXT])}
    pairs = sorted(bpe.ranks, key=bpe.ranks.get)[: size - 2 - 512]
    folder.mkdir()
    (folder / "v.json").write_text(json.dumps(vocabulary))
    (folder / "m.txt").write_text("#version: 0.2\n" + "".join(f"{a} {b}\n" for a, b in pairs))
    made = transformers.CLIPTokenizer(
        folder / "v.json", folder / "m.txt", pad_token=padding, model_max_length=77
    )
    (folder / "v.json").unlink()
    (folder / "m.txt").unlink()
    return made


def components(diffusers, transformers, tmp_path, xl: bool) -> dict:
    torch.manual_seed(0)
    text = transformers.CLIPTextConfig(**TEXT)
    kind = transformers.CLIPTextModelWithProjection
    made = {
        "unet": diffusers.UNet2DConditionModel(**(UNET_XL if xl else UNET)),
        "vae": diffusers.AutoencoderKL(
            down_block_types=["DownEncoderBlock2D"] * 2,
            up_block_types=["UpDecoderBlock2D"] * 2,
            **VAE,
        ),
        "text_encoder": transformers.CLIPTextModel(text),
        "tokenizer": write_tokenizer(tmp_path / "t1", 1000, END_TEXT),
        "scheduler": diffusers.EulerDiscreteScheduler(
            beta_start=0.00085,
            beta_end=0.012,
            beta_schedule="scaled_linear",
            timestep_spacing="leading",
            steps_offset=1,
        ),
    }
    if xl:
        made["text_encoder_2"] = kind(text)
        made["tokenizer_2"] = write_tokenizer(tmp_path / "t2", 1000, "!")
        return made
    return made | {"safety_checker": None, "feature_extractor": None}


@pytest.mark.parametrize("variant", [None, "fp16"])
@pytest.mark.parametrize("xl", [False, True])
def test_small_pipelines(tmp_path, monkeypatch, xl, variant):
    """Saved by diffusers, in one file or in parts, loaded by us: the same latents of a prompt."""
    diffusers = pytest.importorskip("diffusers", exc_type=ImportError)
    transformers = pytest.importorskip("transformers", exc_type=ImportError)
    from accel.pipelines.generate import load as load_model

    kind = diffusers.StableDiffusionXLPipeline if xl else diffusers.StableDiffusionPipeline
    pipeline = kind(**components(diffusers, transformers, tmp_path, xl))
    pipeline.set_progress_bar_config(disable=True)
    size = "40KB" if variant else "10GB"  # parts of that size
    pipeline.save_pretrained(tmp_path / "model", variant=variant, max_shard_size=size)
    assert bool(list((tmp_path / "model" / "unet").glob("*index*"))) == bool(variant)
    model = load_model(tmp_path / "model")
    assert model.name == ("sdxl" if xl else "sd1")

    shape = (1, 4, 16, 24)
    noise = torch.randn(shape, generator=torch.Generator().manual_seed(1))
    expected = pipeline(
        "A photo of a cat, 8k", negative_prompt="ugly", width=48, height=32, latents=noise,
        num_inference_steps=5, guidance_scale=3.0, output_type="latent",
    ).images  # fmt: skip
    got = model.sample(
        "A photo of a cat, 8k", negative="ugly", width=48, height=32, noise=noise, steps=5,
        cfg=3.0, sampler="euler", schedule="leading", output="latent",
    )  # fmt: skip
    assert got.shape == shape
    assert ((got - expected).norm() / expected.norm()).item() < 1e-3
    other = model.sample(
        "A photo of a dog", negative="ugly", width=48, height=32, noise=noise, steps=5,
        cfg=3.0, sampler="euler", schedule="leading", output="latent",
    )  # fmt: skip
    assert ((got - other).norm() / expected.norm()).item() > 1e-5
    with torch.no_grad():
        picture = pipeline.vae.decode(expected / pipeline.vae.config.scaling_factor).sample
    assert (model.decode(expected) - picture).abs().max() < 1e-4 * picture.abs().max()


def test_an_index_reaches_only_beside_itself(tmp_path):
    write_configs(tmp_path)
    index = tmp_path / "unet" / "diffusion_pytorch_model.safetensors.index.json"
    for named in ({"weight_map": {"a": "../../secret.safetensors"}}, {"weight_map": []}, []):
        index.write_text(json.dumps(named))
        with pytest.raises(InputError, match=r"index\.json: must (name|have)"):
            load(tmp_path)
