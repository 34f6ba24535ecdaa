"""What comparisons with diffusers' pipelines share: tiny families, the same weights for both."""

from __future__ import annotations

from dataclasses import replace

import diffusers
import torch

from accel.models import stable_diffusion as sd
from accel.nn.text import TextConfig
from accel.pipelines.generate import load
from tests.pipelines.generate.tiny import CONFIG, write_checkpoint

STEPS = 5
LEADING = {"timestep_spacing": "leading", "steps_offset": 1}
TRAILING = {"timestep_spacing": "trailing"}
DDIM = LEADING | {"set_alpha_to_one": False, "clip_sample": False}
SD2 = replace(CONFIG, unet=replace(CONFIG.unet, heads=0, head_width=16, linear_projection=True))
SDXL = replace(
    SD2,
    unet=replace(
        SD2.unet,
        transformer_depth=(0, 2),
        middle_depth=2,
        context_width=40,
        vector_width=24 + 6 * sd.SIZE_WIDTH,
    ),
    towers=(
        replace(sd.SDXL.towers[0], config=TextConfig(width=16, layers=3, heads=2)),
        replace(
            sd.SDXL.towers[1],
            config=TextConfig(width=24, layers=3, heads=2, quick_gelu=False, projection=24),
        ),
    ),
    vae=replace(CONFIG.vae, scale=0.13025),
    size_numbers=6,
)


def make_with(tmp_path, monkeypatch):
    """A tiny model of a family, and the parts of diffusers' pipelines with the same weights."""

    def make(family: str, config: sd.Config, channels: int = 4, prediction: str | None = None):
        monkeypatch.setattr(sd, "CONFIGS", {family: config})
        path = write_checkpoint(tmp_path / "tiny.safetensors", channels, config)
        model = load(path, prediction=prediction)
        return model, {"unet": unet_of(model), "vae": vae_of(model)}

    return make


def unet_of(model):
    from diffusers.loaders.single_file_utils import convert_ldm_unet_checkpoint

    from tests.nn.test_peers import diffusers_unet

    unet = diffusers_unet(model.loaded.model.config.unet, size_width=sd.SIZE_WIDTH)
    unet.register_to_config(sample_size=8)  # diffusers' inpainting asks for it
    own = model.loaded.model.unet.state_dict()
    named = {sd.UNET_PREFIX + name: tensor for name, tensor in own.items()}
    converted = convert_ldm_unet_checkpoint(named, unet.config)
    if sd.GUIDANCE in own:  # which it forgets
        converted["time_embedding.cond_proj.weight"] = own[sd.GUIDANCE]
    unet.load_state_dict(converted)
    return unet


def vae_of(model):
    from diffusers.loaders.single_file_utils import convert_ldm_vae_checkpoint

    config = model.loaded.model.config.vae
    levels = len(config.channels)
    vae = diffusers.AutoencoderKL(
        block_out_channels=config.channels,
        layers_per_block=config.res_blocks,
        down_block_types=["DownEncoderBlock2D"] * levels,
        up_block_types=["UpDecoderBlock2D"] * levels,
        latent_channels=config.latent_channels,
        scaling_factor=config.scale,
    ).eval()
    own = model.loaded.model.vae.state_dict()
    named = {sd.VAE_PREFIX + name: tensor for name, tensor in own.items()}
    vae.load_state_dict(convert_ldm_vae_checkpoint(named, vae.config))
    return vae


def draws_of(monkeypatch, scheduler, *modules, count: int = STEPS + 2) -> list[torch.Tensor]:
    """Draws for ours, which diffusers' pipeline and scheduler are given too, in the same order."""
    random = torch.Generator().manual_seed(3)
    draws = [torch.randn(1, 4, 8, 8, generator=random) for _ in range(count)]
    left = list(draws)
    for module in (type(scheduler).__module__, *modules):
        module = __import__(module, fromlist=["randn_tensor"])
        if hasattr(module, "randn_tensor"):
            monkeypatch.setattr(module, "randn_tensor", lambda *a, **k: left.pop(0))
    return draws


def asked(model, **rest):
    """What all of diffusers' pipelines are asked."""
    positive, negative = model.encode_text("a"), model.encode_text("b")
    told = {"prompt_embeds": positive.context, "negative_prompt_embeds": negative.context}
    if positive.pooled is not None:
        told |= {
            "pooled_prompt_embeds": positive.pooled,
            "negative_pooled_prompt_embeds": negative.pooled,
        }
    return {
        **told, "width": 64, "height": 64, "num_inference_steps": STEPS, "guidance_scale": 3.0,
        "output_type": "latent", **rest,
    }  # fmt: skip


def pipeline_of(kind, scheduler, parts, **rest):
    nothing = {"text_encoder": None, "tokenizer": None}
    if "XL" in kind:
        nothing |= {"text_encoder_2": None, "tokenizer_2": None, "add_watermarker": False}
    else:
        nothing |= {"safety_checker": None, "feature_extractor": None,
                    "requires_safety_checker": False}  # fmt: skip
    if "XLAdapter" in kind:
        del nothing["add_watermarker"]
    pipeline = getattr(diffusers, kind)(scheduler=scheduler, **(nothing | parts | rest))
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def error(got, expected) -> float:
    return ((got - expected).norm() / expected.norm()).item()
