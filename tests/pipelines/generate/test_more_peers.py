"""Whole runs beside diffusers' own pipelines, on equal random weights: inpainting with 4 and 9
channels, SDXL, v-prediction, LCM.
"""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image

from tests.pipelines.generate.tiny import CONFIG

diffusers = pytest.importorskip("diffusers", exc_type=ImportError)
pytest.importorskip("transformers", exc_type=ImportError)

from tests.pipelines.generate.peers import (  # noqa: E402
    DDIM,
    LEADING,
    SD2,
    SDXL,
    STEPS,
    TRAILING,
    asked,
    draws_of,
    error,
    make_with,
    pipeline_of,
)

SCHEDULERS = {  # our sampler and schedule; diffusers' class and its settings
    "euler leading": ("euler", "leading", "EulerDiscreteScheduler", LEADING),
    "euler trailing": ("euler", "trailing", "EulerDiscreteScheduler", TRAILING),
    "euler_a": ("euler_a", "leading", "EulerAncestralDiscreteScheduler", LEADING),
    "ddim": ("ddim", "leading_to_min", "DDIMScheduler", DDIM),
    "dpmpp_2m": ("dpmpp_2m", "dpm_leading", "DPMSolverMultistepScheduler", LEADING),
    "unipc": ("unipc", "dpm_linspace", "UniPCMultistepScheduler", {}),
    "lcm": ("lcm", "lcm", "LCMScheduler", {}),
}


@pytest.fixture
def make(tmp_path, monkeypatch):
    return make_with(tmp_path, monkeypatch)


def scheduler_of(name: str, prediction: str = "epsilon"):
    _, _, kind, settings = SCHEDULERS[name]
    betas = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear"}
    return getattr(diffusers, kind)(prediction_type=prediction, **betas, **settings)


def ours(model, name: str, noise, **rest) -> torch.Tensor:
    sampler, schedule, _, _ = SCHEDULERS[name]
    options = {
        "negative": "b", "sampler": sampler, "schedule": schedule, "steps": STEPS, "cfg": 3.0,
        "noise": noise, "convention": "diffusers", "width": 64, "height": 64,
    }  # fmt: skip
    return model.sample("a", output="latent", **options | rest)


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
