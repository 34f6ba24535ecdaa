"""Whole runs beside diffusers' own pipelines, on equal random weights: inpainting with 4 and 9
channels, SDXL, v-prediction, LCM.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image

from accel.models import stable_diffusion as sd
from accel.nn.text import TextConfig
from accel.pipelines.generate import load
from tests.pipelines.generate.tiny import CONFIG, write_checkpoint

diffusers = pytest.importorskip("diffusers", exc_type=ImportError)
pytest.importorskip("transformers", exc_type=ImportError)

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
LEADING = {"timestep_spacing": "leading", "steps_offset": 1}
TRAILING = {"timestep_spacing": "trailing"}
DDIM = LEADING | {"set_alpha_to_one": False, "clip_sample": False}
SCHEDULERS = {  # our sampler and schedule; diffusers' class and its settings
    "euler leading": ("euler", "leading", "EulerDiscreteScheduler", LEADING),
    "euler trailing": ("euler", "trailing", "EulerDiscreteScheduler", TRAILING),
    "euler_a": ("euler_a", "leading", "EulerAncestralDiscreteScheduler", LEADING),
    "ddim": ("ddim", "leading_to_min", "DDIMScheduler", DDIM),
    "dpmpp_2m": ("dpmpp_2m", "dpm_leading", "DPMSolverMultistepScheduler", LEADING),
    "unipc": ("unipc", "dpm_linspace", "UniPCMultistepScheduler", {}),
    "lcm": ("lcm", "lcm", "LCMScheduler", {}),
}
STEPS = 5


@pytest.fixture
def make(tmp_path, monkeypatch):
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
    unet.load_state_dict(convert_ldm_unet_checkpoint(named, unet.config))
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


def scheduler_of(name: str, prediction: str = "epsilon"):
    _, _, kind, settings = SCHEDULERS[name]
    betas = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear"}
    return getattr(diffusers, kind)(prediction_type=prediction, **betas, **settings)


def draws_of(monkeypatch, scheduler, *modules) -> list[torch.Tensor]:
    """Draws for ours, which diffusers' pipeline and scheduler are given too, in the same order."""
    random = torch.Generator().manual_seed(3)
    draws = [torch.randn(1, 4, 8, 8, generator=random) for _ in range(STEPS + 2)]
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


def ours(model, name: str, noise, **rest) -> torch.Tensor:
    sampler, schedule, _, _ = SCHEDULERS[name]
    options = {
        "negative": "b", "sampler": sampler, "schedule": schedule, "steps": STEPS, "cfg": 3.0,
        "noise": noise, "convention": "diffusers", "width": 64, "height": 64,
    }  # fmt: skip
    return model.sample("a", output="latent", **options | rest)


def pipeline_of(kind, scheduler, parts, **rest):
    nothing = {"text_encoder": None, "tokenizer": None}
    if "XL" in kind:
        nothing |= {"text_encoder_2": None, "tokenizer_2": None, "add_watermarker": False}
    else:
        nothing |= {"safety_checker": None, "feature_extractor": None,
                    "requires_safety_checker": False}  # fmt: skip
    pipeline = getattr(diffusers, kind)(scheduler=scheduler, **parts, **nothing, **rest)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def error(got, expected) -> float:
    return ((got - expected).norm() / expected.norm()).item()


@pytest.mark.parametrize("channels", [4, 9])
@pytest.mark.parametrize("strength", [0.6, 1.0])
@pytest.mark.parametrize("name", ["euler leading", "euler trailing", "euler_a", "ddim", "dpmpp_2m"])
def test_inpaint(make, monkeypatch, channels, strength, name):
    from diffusers.models.autoencoders.vae import DiagonalGaussianDistribution

    # diffusers draws from the posterior; the mean is what both can have.
    monkeypatch.setattr(DiagonalGaussianDistribution, "sample", lambda self, *a, **k: self.mode())
    model, parts = make("sd1", CONFIG, channels)
    random = np.random.default_rng(0)
    picture = Image.fromarray(random.integers(0, 256, (64, 64, 3), np.uint8))
    mask = Image.new("L", (64, 64))
    mask.paste(255, (16, 8, 48, 40))
    scheduler = scheduler_of(name)
    kind = "StableDiffusionInpaintPipeline"
    module = getattr(diffusers, kind).__module__
    noise = draws_of(monkeypatch, scheduler, module)
    expected = pipeline_of(kind, scheduler, parts)(
        **asked(model, image=picture, mask_image=mask, strength=strength)
    ).images
    got = ours(model, name, noise, init=picture, mask=mask, strength=strength)
    assert error(got, expected) < 1e-3
    plain = ours(model, name, noise)
    assert error(plain, expected) > 1e-2


@pytest.mark.parametrize("name", ["euler leading", "euler trailing", "euler_a", "ddim",
                                  "dpmpp_2m", "unipc"])  # fmt: skip
def test_sdxl(make, monkeypatch, name):
    """With the pooled text and the sizes, both of which count."""
    model, parts = make("sdxl", SDXL)
    scheduler = scheduler_of(name)
    kind = "StableDiffusionXLPipeline"
    noise = draws_of(monkeypatch, scheduler, getattr(diffusers, kind).__module__)
    expected = pipeline_of(kind, scheduler, parts)(**asked(model)).images
    got = ours(model, name, noise)
    assert error(got, expected) < 1e-3
    left = [draw.clone() for draw in noise]
    draws_of(monkeypatch, scheduler, getattr(diffusers, kind).__module__)
    other = pipeline_of(kind, scheduler_of(name), parts)(
        **asked(model, original_size=(1024, 512), crops_coords_top_left=(64, 0))
    ).images
    assert error(ours(model, name, left), other) > 1e-2


@pytest.mark.parametrize("rescale", [0.0, 0.7])
@pytest.mark.parametrize("name", ["euler leading", "euler trailing", "euler_a", "ddim",
                                  "dpmpp_2m", "unipc"])  # fmt: skip
def test_v_prediction(make, monkeypatch, name, rescale):
    model, parts = make("sd2", SD2, prediction="v")
    scheduler = scheduler_of(name, "v_prediction")
    kind = "StableDiffusionPipeline"
    noise = draws_of(monkeypatch, scheduler, getattr(diffusers, kind).__module__)
    expected = pipeline_of(kind, scheduler, parts)(**asked(model, guidance_rescale=rescale)).images
    assert error(ours(model, name, noise, cfg_rescale=rescale), expected) < 1e-3


@pytest.mark.parametrize("cfg", [1.0, 1.8])
def test_lcm(make, monkeypatch, cfg):
    """As LCM-LoRA are used: the plain pipeline with LCM's scheduler."""
    model, parts = make("sd1", CONFIG)
    scheduler = scheduler_of("lcm")
    kind = "StableDiffusionPipeline"
    noise = draws_of(monkeypatch, scheduler, getattr(diffusers, kind).__module__)
    expected = pipeline_of(kind, scheduler, parts)(**asked(model, guidance_scale=cfg)).images
    assert error(ours(model, "lcm", noise, cfg=cfg), expected) < 1e-3
