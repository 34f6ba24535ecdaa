"""Levels of noise, and what a network's prediction stands for."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from accel.sampling.parameterise import denoised, denoiser, guided
from accel.sampling.schedules import SCHEDULES, NoiseSchedule, karras, uniform

SD = NoiseSchedule.scaled_linear()


def test_stable_diffusions_levels():
    assert SD.sigma_min == pytest.approx(0.0291672, abs=1e-6)
    assert SD.sigma_max == pytest.approx(14.6146412, abs=1e-5)
    expected = [14.6146, 4.7965, 1.2741, 0.2480, 0.0292, 0.0]
    np.testing.assert_allclose(karras(SD, 5), expected, atol=6e-5)  # four digits were published


@pytest.mark.parametrize("name", SCHEDULES)
@pytest.mark.parametrize("steps", [2, 20])
def test_schedules_run_from_the_noisiest_level_to_zero(name, steps):
    sigmas = SCHEDULES[name](SD, steps)
    assert len(sigmas) == steps + 1
    assert sigmas[0] == pytest.approx(SD.sigma_max)
    assert sigmas[-2] == pytest.approx(SD.sigma_min)
    assert sigmas == sorted(set(sigmas), reverse=True)
    assert sigmas[-1] == 0


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


def test_guidance_of_one_is_the_prompt_alone():
    def predict(x, t):
        uncond, cond = x.chunk(2)
        return torch.cat([uncond * 0 + 1, cond * 0 + 3])

    x, t = torch.zeros(2, 1, 1, 1), torch.zeros(2)
    assert guided(predict, 1.0)(x, t).eq(3).all()
    assert guided(predict, 7.5)(x, t).eq(1 + 7.5 * 2).all()
