"""Whole runs beside diffusers' schedulers, with the same network and the same noise."""

from __future__ import annotations

import pytest
import torch

diffusers = pytest.importorskip("diffusers")

BETAS = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear",
         "prediction_type": "v_prediction"}  # fmt: skip
LEADING = {"timestep_spacing": "leading", "steps_offset": 1}
CASES = [  # our sampler and schedule; diffusers' class and its settings
    ("euler", "leading", "EulerDiscreteScheduler", LEADING),
    ("euler", "trailing", "EulerDiscreteScheduler", {"timestep_spacing": "trailing"}),
    ("euler", "linspace", "EulerDiscreteScheduler", {"timestep_spacing": "linspace"}),
    ("euler_a", "leading", "EulerAncestralDiscreteScheduler",
     LEADING),
    ("ddim", "leading_to_min", "DDIMScheduler",
     {"steps_offset": 1, "set_alpha_to_one": False, "clip_sample": False}),
    ("ddim", "trailing", "DDIMScheduler", {"timestep_spacing": "trailing", "clip_sample": False}),
    ("dpmpp_2m", "karras", "DPMSolverMultistepScheduler", {"use_karras_sigmas": True}),
    ("dpmpp_2m", "dpm_linspace", "DPMSolverMultistepScheduler", {}),
    ("dpmpp_2m", "dpm_leading", "DPMSolverMultistepScheduler",
     LEADING),
    ("unipc", "dpm_linspace", "UniPCMultistepScheduler", {}),
    ("deis", "dpm_linspace_to_min", "DEISMultistepScheduler", {}),
    ("heun", "linspace", "HeunDiscreteScheduler", {}),
    ("lcm", "lcm", "LCMScheduler", {}),
]  # fmt: skip


def theirs(nano, scheduler, steps, cfg, draws, start=None, strength=1.0) -> torch.Tensor:
    """diffusers' own loop over a scheduler, guidance included."""
    told = [nano.encode_text(text) for text in ("", "a red apple")]
    draws = list(draws)

    def drawn(shape, **unused):
        return draws.pop(0)

    scheduler.set_timesteps(steps)
    timesteps = scheduler.timesteps
    x = draws.pop(0)
    if start is None:
        x = x * scheduler.init_noise_sigma
    else:
        begin = len(timesteps) - min(int(steps * strength), steps) * scheduler.order
        timesteps = timesteps[max(begin, 0) :]
        if hasattr(scheduler, "set_begin_index"):
            scheduler.set_begin_index(max(begin, 0))
        x = scheduler.add_noise(start, x, timesteps[:1])
    module = __import__(type(scheduler).__module__, fromlist=["randn_tensor"])
    if hasattr(module, "randn_tensor"):
        module.randn_tensor = drawn
    for t in timesteps:
        scaled = scheduler.scale_model_input(x, t)
        uncond, cond = (nano.denoise(scaled, t, one) for one in told)
        x = scheduler.step(uncond + cfg * (cond - uncond), t, x).prev_sample
    return x


def draws_of(count: int) -> list[torch.Tensor]:
    random = torch.Generator().manual_seed(0)
    return [torch.randn(1, 4, 16, 16, generator=random) for _ in range(count)]


@pytest.mark.parametrize(("sampler", "schedule", "kind", "settings"), CASES)
def test_text_to_picture(nano, sampler, schedule, kind, settings):
    steps, draws = 5, draws_of(6)
    peer = getattr(diffusers, kind).from_config(BETAS | settings)
    expected = theirs(nano, peer, steps, 3.0, draws)
    got = nano.sample(
        "a red apple", sampler=sampler, schedule=schedule, steps=steps, cfg=3.0, noise=draws,
        convention="diffusers", output="latent",
    )  # fmt: skip
    assert ((got - expected).norm() / expected.norm()).item() < 1e-3


@pytest.mark.parametrize("index", [0, 4, 7])
def test_picture_to_picture(nano, index):
    sampler, schedule, kind, settings = CASES[index]
    steps, draws = 6, draws_of(7)
    start = torch.rand(1, 3, 64, 64, generator=torch.Generator().manual_seed(1)) * 2 - 1
    peer = getattr(diffusers, kind).from_config(BETAS | settings)
    expected = theirs(nano, peer, steps, 3.0, draws, nano.encode(start), 0.6)
    got = nano.sample(
        "a red apple", sampler=sampler, schedule=schedule, steps=steps, cfg=3.0, noise=draws,
        convention="diffusers", output="latent", init=start, strength=0.6,
    )  # fmt: skip
    assert ((got - expected).norm() / expected.norm()).item() < 1e-3
