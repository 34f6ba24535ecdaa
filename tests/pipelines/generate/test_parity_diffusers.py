"""Whole runs beside diffusers' own pipelines: every sampler that both have, from noise and from
pictures, for noise and velocity; and prompts through its own tokenizer and text encoders.
"""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image

from tests.pipelines.generate.tiny import CONFIG

diffusers = pytest.importorskip("diffusers", exc_type=ImportError)
transformers = pytest.importorskip("transformers", exc_type=ImportError)

from tests.pipelines.generate.peers import (  # noqa: E402
    DDIM,
    LEADING,
    STEPS,
    TRAILING,
    asked,
    draws_of,
    error,
    make_with,
    pipeline_of,
)

pytestmark = pytest.mark.slow
LIMIT = 1e-3
KARRAS = {"use_karras_sigmas": True}
SDE = {"algorithm_type": "sde-dpmsolver++"}
T2I, I2I = "StableDiffusionPipeline", "StableDiffusionImg2ImgPipeline"
RUNS = {  # diffusers' class and settings; our sampler and schedule
    "DDIM leading": ("DDIM", DDIM, "ddim", "leading_to_min"),
    "DDIM trailing": ("DDIM", TRAILING | {"clip_sample": False}, "ddim", "trailing"),
    "DDPM": ("DDPM", LEADING | {"clip_sample": False}, "ddpm", "leading"),
    "PNDM": (
        "PNDM",
        LEADING | {"set_alpha_to_one": False, "skip_prk_steps": True},
        "plms",
        "leading_to_min",
    ),
    "2M linspace": ("DPMSolverMultistep", {}, "dpmpp_2m", "dpm_linspace"),
    "2M leading": ("DPMSolverMultistep", LEADING, "dpmpp_2m", "dpm_leading"),
    "2M trailing": ("DPMSolverMultistep", TRAILING, "dpmpp_2m", "trailing"),
    "2M Karras": ("DPMSolverMultistep", KARRAS, "dpmpp_2m", "karras"),
    "2M SDE": ("DPMSolverMultistep", SDE, "dpmpp_2m_sde", "dpm_linspace"),
    "2M SDE Karras": ("DPMSolverMultistep", SDE | KARRAS, "dpmpp_2m_sde", "karras"),
    "2M SDE Heun": (
        "DPMSolverMultistep",
        SDE | {"solver_type": "heun"},
        "dpmpp_2m_sde_heun",
        "dpm_linspace",
    ),
    "UniPC linspace": ("UniPCMultistep", {}, "unipc", "dpm_linspace"),
    "UniPC leading": ("UniPCMultistep", LEADING, "unipc", "dpm_leading"),
    "UniPC Karras": ("UniPCMultistep", KARRAS, "unipc", "karras"),
    "DEIS": ("DEISMultistep", {}, "deis", "dpm_linspace_to_min"),
    "DEIS leading": ("DEISMultistep", LEADING, "deis", "dpm_leading_to_min"),
    "Euler leading": ("EulerDiscrete", LEADING, "euler", "leading"),
    "Euler trailing": ("EulerDiscrete", TRAILING, "euler", "trailing"),
    "Euler linspace": ("EulerDiscrete", {}, "euler", "linspace"),
    "Euler Karras": ("EulerDiscrete", KARRAS, "euler", "karras"),
    "Euler exponential": (
        "EulerDiscrete",
        {"use_exponential_sigmas": True},
        "euler",
        "exponential",
    ),
    "Euler a leading": ("EulerAncestralDiscrete", LEADING, "euler_a", "leading"),
    "Euler a trailing": ("EulerAncestralDiscrete", TRAILING, "euler_a", "trailing"),
    "Heun leading": ("HeunDiscrete", LEADING, "heun", "leading"),
    "Heun Karras": ("HeunDiscrete", KARRAS, "heun", "karras"),
    "DPM2": ("KDPM2Discrete", LEADING, "dpm2", "leading"),
    "DPM2 a": ("KDPM2AncestralDiscrete", LEADING, "dpm2_a", "leading"),
    "LMS leading": ("LMSDiscrete", LEADING, "lms", "leading"),
    "LMS Karras": ("LMSDiscrete", KARRAS, "lms", "karras"),
    "SDE leading": ("DPMSolverSDE", LEADING, "dpmpp_sde", "leading"),
    "SDE Karras": ("DPMSolverSDE", KARRAS, "dpmpp_sde", "karras"),
    "LCM": ("LCM", {}, "lcm", "lcm"),
    "TCD": ("TCD", {"clip_sample": False}, "tcd", "tcd"),
}
# Another method in diffusers: it averages velocities, ours and A1111's average slopes.
NOT_FOR_V = {"PNDM"}
# diffusers counts the steps that a picture spares as if they had been made: PNDM then tells the
# network the next step's time, LMS weighs slopes that it does not have.
NOT_FROM_PICTURES = {"PNDM", "LMS leading", "LMS Karras"}


@pytest.fixture
def make(tmp_path, monkeypatch):
    from diffusers.models.autoencoders.vae import DiagonalGaussianDistribution

    # diffusers draws from the posterior; the mean is what both can have.
    monkeypatch.setattr(DiagonalGaussianDistribution, "sample", lambda self, *a, **k: self.mode())
    return make_with(tmp_path, monkeypatch)


@pytest.fixture
def picture():
    return Image.fromarray(np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8))


def scheduler_of(name: str, prediction: str = "epsilon"):
    kind, settings, _, _ = RUNS[name]
    betas = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear"}
    return getattr(diffusers, kind + "Scheduler")(
        **(betas | {"prediction_type": prediction} | settings)
    )


def shared_draws(monkeypatch, scheduler, kind: str) -> list[torch.Tensor]:
    """Draws for both; DPMSolverSDE has them from a tree, twice a step."""
    draws = draws_of(monkeypatch, scheduler, getattr(diffusers, kind).__module__, count=3 * STEPS)
    module = __import__(type(scheduler).__module__, fromlist=["BrownianTreeNoiseSampler"])
    if hasattr(module, "BrownianTreeNoiseSampler"):
        left = draws[1:]
        monkeypatch.setattr(
            module,
            "BrownianTreeNoiseSampler",
            lambda *a, **k: lambda sigma, following: left.pop(0),
        )
    return draws


def ours(model, name: str, noise, **rest) -> torch.Tensor:
    _, _, sampler, schedule = RUNS[name]
    options = {
        "negative": "b", "sampler": sampler, "schedule": schedule, "steps": STEPS, "cfg": 3.0,
        "noise": noise, "convention": "diffusers", "width": 64, "height": 64,
    }  # fmt: skip
    return model.sample("a", output="latent", **options | rest)


@pytest.mark.parametrize("prediction", ["eps", "v"])
@pytest.mark.parametrize("name", RUNS)
def test_every_sampler(make, monkeypatch, picture, name, prediction):
    """From noise, then from a picture, where a run begins in the middle of the schedule."""
    if prediction == "v" and name in NOT_FOR_V:
        pytest.skip("another method in diffusers")
    kind = {"eps": "epsilon", "v": "v_prediction"}[prediction]
    model, parts = make("sd1", CONFIG, prediction=prediction)
    same = {"eta": 0.3} if name == "TCD" else {}  # 0 is the pipelines' default, 0.3 the method's
    scheduler = scheduler_of(name, kind)
    noise = shared_draws(monkeypatch, scheduler, T2I)
    expected = pipeline_of(T2I, scheduler, parts)(**asked(model, **same)).images
    first = error(ours(model, name, noise, **same), expected)
    assert first < LIMIT, "from noise"
    if name in NOT_FROM_PICTURES:
        return

    scheduler = scheduler_of(name, kind)
    noise = shared_draws(monkeypatch, scheduler, I2I)
    told = asked(model, image=picture, strength=0.6, **same)
    del told["width"], told["height"]
    expected = pipeline_of(I2I, scheduler, parts)(**told).images
    second = error(ours(model, name, noise, init=picture, strength=0.6, **same), expected)
    assert second < LIMIT, "from a picture"
