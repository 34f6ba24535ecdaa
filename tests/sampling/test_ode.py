"""Samplers on a problem with a known answer: data that is Gaussian with deviation S.

The ideal denoiser is x S^2 / (S^2 + sigma^2), the exact solution x0 sqrt((S^2 + sigma^2) / (S^2 +
sigma0^2)), so that the answer and the order of convergence can be asserted.
"""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from accel.sampling.ode import SAMPLERS
from accel.sampling.parameterise import denoised, denoiser, guided
from accel.sampling.schedules import SCHEDULES, NoiseSchedule, karras, uniform

S = 0.7
ORDER = {"euler": 1, "dpmpp_2m": 2}
SD = NoiseSchedule.scaled_linear()


def ideal(x, sigma):
    return x * S**2 / (S**2 + sigma**2)


def error(sampler: str, steps: int, last: float = 0.05) -> float:
    first = 10.0
    sigmas = np.geomspace(first, last, steps + 1).tolist()
    x0 = torch.full((1, 1, 1, 1), first, dtype=torch.float64)
    exact = first * math.sqrt((S**2 + last**2) / (S**2 + first**2))
    return abs(SAMPLERS[sampler](ideal, x0, sigmas).item() - exact)


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_converges_with_its_order(sampler):
    observed = math.log2(error(sampler, 80) / error(sampler, 160))
    assert observed == pytest.approx(ORDER[sampler], abs=0.15)
    assert error(sampler, 640) < (0.01 if ORDER[sampler] == 1 else 1e-4)


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_last_step_to_zero_returns_the_denoised_picture(sampler):
    x = torch.randn(2, 4, 3, 3)
    torch.testing.assert_close(SAMPLERS[sampler](ideal, x, [3.0, 0.0]), ideal(x, 3.0))


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_callback_sees_every_step(sampler):
    seen = []
    SAMPLERS[sampler](
        ideal, torch.ones(1, 1, 1, 1), [3.0, 1.0, 0.0], callback=lambda i, x: seen.append(i)
    )
    assert seen == [0, 1]


@pytest.mark.parametrize("sigmas", [[1.0, 2.0], [1.0, 1.0], [1.0, -1.0], [1.0, float("nan")]])
def test_refuses_levels_that_do_not_go_down(sigmas):
    with pytest.raises(ValueError, match="sigmas must go down"):
        SAMPLERS["euler"](ideal, torch.ones(1), sigmas)


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
