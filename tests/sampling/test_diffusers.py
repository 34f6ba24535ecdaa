"""Whole runs against diffusers' schedulers, with one network and one noise for both.

The schedulers work in float32 and in the variance-preserving x, ours here in float64 and in sigma.
"""

from __future__ import annotations

import importlib
import math

import pytest
import torch

from accel.sampling.parameterise import denoiser
from accel.sampling.samplers import run_sampler
from accel.sampling.schedules import NoiseSchedule, schedule

diffusers = pytest.importorskip("diffusers", exc_type=ImportError)

SD = NoiseSchedule.scaled_linear()
BETAS = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear"}
LEADING = {"timestep_spacing": "leading", "steps_offset": 1}
TO_MIN = {"set_alpha_to_one": False}

RUNS = [
    ("DDIM", LEADING | TO_MIN | {"clip_sample": False}, "ddim", "leading_to_min", {}),
    ("DDIM", LEADING | TO_MIN | {"clip_sample": False}, "ddim", "leading_to_min", {"eta": 0.7}),
    (
        "DDIM",
        TO_MIN | {"timestep_spacing": "trailing", "clip_sample": False},
        "ddim",
        "trailing_to_min",
        {},
    ),
    ("DDPM", LEADING | {"clip_sample": False}, "ddpm", "leading", {}),
    ("PNDM", LEADING | TO_MIN | {"skip_prk_steps": True}, "plms", "leading_to_min", {}),
    ("DPMSolverMultistep", {}, "dpmpp_2m", "dpm_linspace", {}),
    ("DPMSolverMultistep", LEADING, "dpmpp_2m", "dpm_leading", {}),
    ("DPMSolverMultistep", {"timestep_spacing": "trailing"}, "dpmpp_2m", "trailing", {}),
    ("DPMSolverMultistep", {"use_karras_sigmas": True}, "dpmpp_2m", "karras", {}),
    (
        "DPMSolverMultistep",
        {"algorithm_type": "sde-dpmsolver++"},
        "dpmpp_2m_sde",
        "dpm_linspace",
        {},
    ),
    (
        "DPMSolverMultistep",
        {"algorithm_type": "sde-dpmsolver++", "solver_type": "heun"},
        "dpmpp_2m_sde_heun",
        "dpm_linspace",
        {},
    ),
    ("UniPCMultistep", {}, "unipc", "dpm_linspace", {}),
    ("UniPCMultistep", LEADING | {"solver_order": 3}, "unipc", "dpm_leading", {"order": 3}),
    (
        "UniPCMultistep",
        # to 0 its own arithmetic gives NaN
        {"solver_order": 3, "solver_type": "bh1", "final_sigmas_type": "sigma_min"},
        "unipc_bh1",
        "dpm_linspace_to_min",
        {},
    ),
    ("DEISMultistep", {}, "deis", "dpm_linspace_to_min", {}),
    ("DEISMultistep", {"solver_order": 3}, "deis", "dpm_linspace_to_min", {"order": 3}),
    ("DEISMultistep", LEADING, "deis", "dpm_leading_to_min", {}),
    ("EulerDiscrete", LEADING, "euler", "leading", {}),
    ("EulerDiscrete", {"timestep_spacing": "linspace"}, "euler", "linspace", {}),
    ("EulerDiscrete", {"timestep_spacing": "trailing"}, "euler", "trailing", {}),
    ("EulerDiscrete", {"use_karras_sigmas": True}, "euler", "karras", {}),
    ("EulerAncestralDiscrete", LEADING, "euler_a", "leading", {}),
    ("HeunDiscrete", LEADING, "heun", "leading", {}),
    ("KDPM2Discrete", LEADING, "dpm2", "leading", {}),
    ("KDPM2AncestralDiscrete", LEADING, "dpm2_a", "leading", {}),
    ("LMSDiscrete", LEADING, "lms", "leading", {}),
    ("LCM", {"clip_sample": False}, "lcm", "lcm", {}),
    ("TCD", {"clip_sample": False}, "tcd", "tcd", {"gamma": 0.3}),
]


def network(x, t):
    """Bent in both; its answers are of the size of noise."""
    t = t.reshape(-1, 1, 1, 1)
    return torch.tanh(1.5 * x + 0.3 * torch.sin(t / 70)) + 0.2 * torch.cos(x - t / 300)


class Draws:
    def __init__(self):
        self.generator = torch.Generator().manual_seed(0)

    def __call__(self, *levels):
        return torch.randn(2, 4, 6, 5, generator=self.generator, dtype=torch.float64)


def theirs(scheduler, steps, monkeypatch, **extra):
    draws = Draws()
    home = importlib.import_module(type(scheduler).__module__)
    if hasattr(home, "randn_tensor"):
        monkeypatch.setattr(home, "randn_tensor", lambda *args, **kwargs: draws().float())
    scheduler.set_timesteps(steps)
    x = draws().float() * scheduler.init_noise_sigma
    for t in scheduler.timesteps:
        prediction = network(scheduler.scale_model_input(x, t), t.double())
        x = scheduler.step(prediction.float(), t, x, **extra).prev_sample
    return x.double()


@pytest.mark.parametrize("steps", [4, 10, 20])
@pytest.mark.parametrize("kind", ["eps", "v"])
@pytest.mark.parametrize(
    ("peer", "settings", "sampler", "spacing", "own"),
    RUNS,
    ids=[f"{r[0]}-{r[3]}-{i}" for i, r in enumerate(RUNS)],
)
def test_final_latents(peer, settings, sampler, spacing, own, kind, steps, monkeypatch):
    if kind == "v" and peer == "PNDM":
        pytest.skip("it averages velocities and not slopes: another method")
    prediction = {"prediction_type": {"eps": "epsilon", "v": "v_prediction"}[kind]}
    scheduler = getattr(diffusers, peer + "Scheduler")(**(BETAS | settings | prediction))
    extra = {name: own[name] for name in ("eta",) if name in own}
    if "gamma" in own:
        extra["eta"] = own["gamma"]
    expected = theirs(scheduler, steps, monkeypatch, **extra)

    levels = NoiseSchedule(SD.sigmas, rounded=spacing == "karras" and peer.startswith("DPM"))
    sigmas = schedule(spacing, levels, steps)
    draws = Draws()
    started = float(scheduler.init_noise_sigma)
    start = started if started > 1 else math.sqrt(1 + sigmas[0] ** 2)
    x = draws() * start
    got = run_sampler(sampler, denoiser(network, levels, kind), x, sigmas, noise=draws, **own)
    if started == 1:  # in their variance-preserving x
        got = got / math.sqrt(1 + sigmas[-1] ** 2)
    wrong = ((got - expected).abs().max() / expected.abs().max()).item()
    assert wrong < 1e-4
