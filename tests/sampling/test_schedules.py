"""Levels of noise, and what a network's prediction stands for."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from accel.core import ConfigError
from accel.sampling.parameterise import denoised, denoiser
from accel.sampling.schedules import (
    SCHEDULES,
    FlowSchedule,
    NoiseSchedule,
    beta_quantile,
    karras,
    schedule,
    uniform,
)

SD = NoiseSchedule.scaled_linear()


def test_stable_diffusions_levels():
    assert SD.sigma_min == pytest.approx(0.0291672, abs=1e-6)
    assert SD.sigma_max == pytest.approx(14.6146412, abs=1e-5)
    expected = [14.6146, 4.7965, 1.2741, 0.2480, 0.0292, 0.0]
    np.testing.assert_allclose(karras(SD, 5), expected, atol=6e-5)  # four digits were published


OTHER_LENGTH = ("ddim_uniform", "beta_timesteps")  # rounding adds steps, or joins some
TO_SIGMA_MIN = ("uniform", "karras", "exponential", "beta", "kl_optimal", "linspace")


@pytest.mark.parametrize("name", SCHEDULES)
@pytest.mark.parametrize("steps", [1, 2, 7, 10, 11, 20, 50, 150])
def test_schedules_run_down_to_zero(name, steps):
    if name in ("lcm", "tcd") and steps > 50:
        with pytest.raises(ConfigError, match=r"steps must lie in 1\.\.50, got 150"):
            schedule(name, SD, steps)
        return
    sigmas = schedule(name, SD, steps)
    assert sigmas == sorted(set(sigmas), reverse=True)
    assert sigmas[-1] == (SD.sigma_min if name.endswith("to_min") or name == "tcd" else 0)
    assert sigmas[0] <= SD.sigma_max * 1.0001
    assert len(sigmas) == steps + 1 or name in OTHER_LENGTH
    if name in TO_SIGMA_MIN and steps > 1:
        assert sigmas[0] == pytest.approx(SD.sigma_max)
        assert sigmas[-2] == pytest.approx(SD.sigma_min)


@pytest.mark.parametrize(
    ("name", "timesteps"),
    [
        ("simple", [999, 799, 599, 399, 199]),
        ("ddim_uniform", [801, 601, 401, 201, 1]),
        ("turbo", [999, 799, 599, 399, 199]),
        ("leading", [801, 601, 401, 201, 1]),
        ("trailing", [999, 799, 599, 399, 199]),
        ("sgm_uniform", [999, 799.2, 599.4, 399.6, 199.8]),
        ("dpm_leading", [831, 665, 499, 333, 167]),
        ("dpm_linspace", [999, 799, 599, 400, 200]),
        ("lcm", [999, 799, 599, 399, 199]),
        ("uniform", [999, 749.25, 499.5, 249.75, 0]),
    ],
)
def test_schedules_by_timestep(name, timesteps):
    expected = [*(SD.sigma(t) for t in timesteps), 0.0]
    assert schedule(name, SD, 5) == pytest.approx(expected, rel=1e-9)


def test_levels_that_end_at_the_lowest():
    assert schedule("tcd", SD, 5) == [*schedule("lcm", SD, 5)[:-1], SD.sigma_min]
    got = schedule("leading_to_min", SD, 5)
    assert got == [*schedule("leading", SD, 5)[:-1], SD.sigma_min]


def test_zero_terminal_snr():
    whole = NoiseSchedule.scaled_linear(zero_terminal_snr=True)
    assert whole.sigma_max == pytest.approx(4096)
    assert whole.sigma_min == pytest.approx(SD.sigma_min)
    assert (np.diff(whole.sigmas) > 0).all()
    assert NoiseSchedule.linear().sigma_max == pytest.approx(157.4, abs=0.05)


def test_whole_timesteps_on_demand():
    rounded = NoiseSchedule(SD.sigmas, rounded=True)
    assert rounded.timestep(SD.sigma(320.6)) == 321


def test_flow():
    flow = FlowSchedule(shift=3.0)
    assert flow.levels(4) == pytest.approx([1.0, 0.9, 0.75, 0.5, 0.0])
    clean, noise = torch.randn(2, 4, 3, 3), torch.randn(2, 4, 3, 3)
    x = 0.1 * clean + 0.9 * noise

    def predict(given, t):
        assert given is x
        assert t.tolist() == pytest.approx([900.0, 900.0])
        return noise - clean

    torch.testing.assert_close(denoiser(predict, flow, "flow")(x, 0.9), clean)


def test_ays_keeps_its_published_levels():
    assert schedule("align_your_steps", SD, 11)[:3] == [14.615, 6.475, 3.861]
    assert schedule("align_your_steps_sdxl", SD, 20)[-2] == pytest.approx(0.029)


def test_beta_quantiles():
    """Beta(1/2, 1/2) is the arcsine law, Beta(1, 1) even; the third is scipy's."""
    assert beta_quantile(0.3, 0.5) == pytest.approx(math.sin(0.15 * math.pi) ** 2, rel=1e-12)
    assert beta_quantile(0.9, 1.0) == pytest.approx(0.9, rel=1e-12)
    assert (beta_quantile(0.0), beta_quantile(1.0)) == pytest.approx((0.0, 1.0), abs=1e-20)
    scipy_stats = pytest.importorskip("scipy.stats")
    for p in (0.001, 0.1, 0.25, 0.5, 0.77, 0.999):
        assert beta_quantile(p) == pytest.approx(scipy_stats.beta.ppf(p, 0.6, 0.6), rel=1e-9)


@pytest.mark.parametrize("steps", [0, 501])
def test_refuses_a_number_of_steps(steps):
    with pytest.raises(ConfigError, match=rf"steps must lie in 1\.\.500, got {steps}"):
        schedule("karras", SD, steps)


def test_refuses_an_unknown_schedule():
    with pytest.raises(ConfigError, match="no schedule is called 'karas'; near: karras"):
        schedule("karas", SD, 5)


@pytest.mark.parametrize("steps", [3, 10, 20, 30])
@pytest.mark.parametrize(
    ("name", "settings"),
    [
        ("leading", {"timestep_spacing": "leading", "steps_offset": 1}),
        ("linspace", {"timestep_spacing": "linspace"}),
        ("trailing", {"timestep_spacing": "trailing"}),
        ("karras", {"timestep_spacing": "linspace", "use_karras_sigmas": True}),
        ("exponential", {"timestep_spacing": "linspace", "use_exponential_sigmas": True}),
        ("beta", {"timestep_spacing": "linspace", "use_beta_sigmas": True}),
    ],
)
def test_agrees_with_diffusers(name, settings, steps):
    diffusers = pytest.importorskip("diffusers", exc_type=ImportError)
    peer = diffusers.EulerDiscreteScheduler(
        beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", **settings
    )
    peer.set_timesteps(steps)
    # diffusers computes the products of alpha in float32.
    np.testing.assert_allclose(schedule(name, SD, steps), peer.sigmas.numpy(), rtol=2e-4)


def test_timesteps_and_levels_are_inverse():
    for t in (0.0, 12.5, 500.0, 999.0):
        assert SD.timestep(SD.sigma(t)) == pytest.approx(t, abs=1e-6)
    assert uniform(SD, 1000)[:3] == pytest.approx(SD.sigmas[:-4:-1].tolist())


@pytest.mark.parametrize("sigma", [0.05, 1.0, 14.0])
def test_three_predictions_of_one_picture_agree(sigma):
    clean, noise = torch.randn(2, 4, 3, 3, dtype=torch.float64), torch.randn(2, 4, 3, 3).double()
    x = clean + sigma * noise
    signal = 1 / math.sqrt(1 + sigma**2)
    velocity = signal * noise - sigma * signal * clean
    for kind, prediction in (("eps", noise), ("v", velocity), ("x0", clean)):
        torch.testing.assert_close(denoised(prediction, x, sigma, kind), clean)
    with pytest.raises(ValueError, match="prediction must be one of"):
        denoised(clean, x, sigma, "score")


def test_denoiser_scales_the_input_and_tells_the_timestep():
    asked = []

    def predict(x, t):
        asked.append((x, t))
        return torch.zeros_like(x)

    x = torch.randn(3, 4, 2, 2)
    sigma = SD.sigma(321.5)
    torch.testing.assert_close(denoiser(predict, SD, "eps")(x, sigma), x)
    torch.testing.assert_close(asked[0][0], x / math.sqrt(1 + sigma**2))
    torch.testing.assert_close(asked[0][1], torch.full((3,), 321.5))
