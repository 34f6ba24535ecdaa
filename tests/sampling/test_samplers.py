"""Samplers on a problem with a known answer, and against k-diffusion where it is installed.

The problem: data that is Gaussian with deviation S. The ideal denoiser is x S^2 / (S^2 + sigma^2),
the exact solution of the ODE x0 sqrt((S^2 + sigma^2) / (S^2 + sigma0^2)), so that the answer and
the order of convergence can be asserted; samplers with noise must reach the data's deviation.
"""

from __future__ import annotations

import importlib.util
import math
import sys
import types

import numpy as np
import pytest
import torch

from accel.core import ConfigError
from accel.sampling.samplers import SAMPLERS, WITH_NOISE, WITHOUT_NOISE, run_sampler
from accel.sampling.schedules import NoiseSchedule, karras, uniform

S = 0.7
ORDER = {"euler": 1, "ddim": 1, "heun": 2, "dpm2": 2, "dpmpp_2m": 2, "lms": 3}
SD = NoiseSchedule.scaled_linear()


def ideal(x, sigma):
    return x * S**2 / (S**2 + sigma**2)


def error(sampler: str, steps: int) -> float:
    first, last = 10.0, 0.05
    sigmas = np.geomspace(first, last, steps + 1).tolist()
    x0 = torch.full((1, 1, 1, 1), first, dtype=torch.float64)
    exact = first * math.sqrt((S**2 + last**2) / (S**2 + first**2))
    return abs(run_sampler(sampler, ideal, x0, sigmas).item() - exact)


@pytest.mark.parametrize("sampler", WITHOUT_NOISE)
def test_converges_with_its_order(sampler):
    # LMS looks back on four slopes, but its first steps have fewer, which costs part of the order.
    observed = math.log2(error(sampler, 40) / error(sampler, 80))
    assert observed > ORDER[sampler] - 0.15
    assert error(sampler, 320) < (0.02 if ORDER[sampler] == 1 else 5e-5)


@pytest.mark.parametrize("sampler", sorted(set(WITH_NOISE) - {"lcm"}))
def test_noise_is_put_back_in_the_right_measure(sampler):
    generator = torch.Generator().manual_seed(0)

    def noise(sigma, following):
        return torch.randn(1, 1, 200, 200, generator=generator)

    sigmas = [*np.geomspace(20.0, 0.02, 121).tolist(), 0.0]
    x = run_sampler(sampler, ideal, noise(0, 0) * math.sqrt(20**2 + S**2), sigmas, noise=noise)
    assert x.std().item() == pytest.approx(S, rel=0.05)  # 120 steps leave up to 3.5 %
    assert abs(x.mean().item()) < 0.02


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_last_step_to_zero_returns_the_denoised_picture(sampler):
    x = torch.randn(2, 4, 3, 3)
    got = run_sampler(sampler, ideal, x, [3.0, 0.0], noise=lambda s, t: torch.full_like(x, 99))
    torch.testing.assert_close(got, ideal(x, 3.0))


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_callback_sees_every_step_and_may_stop_it(sampler):
    x, seen = torch.ones(1, 1, 1, 1), []

    def stop(i, clean):
        seen.append(i)
        if i == 1:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run_sampler(sampler, ideal, x, [3.0, 2.0, 1.0, 0.0], noise=lambda s, t: x, callback=stop)
    assert seen == [0, 1]


@pytest.mark.parametrize("sigmas", [[1.0, 2.0], [1.0, 1.0], [1.0, -1.0], [1.0, float("nan")]])
def test_refuses_levels_that_do_not_go_down(sigmas):
    with pytest.raises(ValueError, match="sigmas must go down"):
        run_sampler("euler", ideal, torch.ones(1), sigmas)


def test_refuses_unknown_names_and_missing_noise():
    with pytest.raises(ConfigError, match="no sampler is called 'euler_b'; near: euler"):
        run_sampler("euler_b", ideal, torch.ones(1), [1.0, 0.0])
    with pytest.raises(ValueError, match="euler_a puts noise back"):
        run_sampler("euler_a", ideal, torch.ones(1), [1.0, 0.0])


@pytest.fixture(scope="module")
def peer():
    """k-diffusion's samplers alone: the package's other modules want packages of their own."""
    found = importlib.util.find_spec("k_diffusion")
    if found is None:
        pytest.skip("k-diffusion is not installed")
    for needed in ("torchsde", "torchdiffeq", "scipy"):
        pytest.importorskip(needed)
    folder = found.submodule_search_locations[0]
    package = types.ModuleType("k_peer")
    package.__path__ = [folder]
    utils = types.ModuleType("k_peer.utils")
    utils.append_dims = lambda x, n: x[(...,) + (None,) * (n - x.ndim)]
    sys.modules |= {"k_peer": package, "k_peer.utils": utils}
    spec = importlib.util.spec_from_file_location("k_peer.sampling", f"{folder}/sampling.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


PEERS = {
    "euler": "sample_euler",
    "heun": "sample_heun",
    "dpm2": "sample_dpm_2",
    "dpmpp_2m": "sample_dpmpp_2m",
    "lms": "sample_lms",
    "euler_a": "sample_euler_ancestral",
    "dpm2_a": "sample_dpm_2_ancestral",
    "dpmpp_2s_a": "sample_dpmpp_2s_ancestral",
    "dpmpp_sde": "sample_dpmpp_sde",
    "dpmpp_2m_sde": "sample_dpmpp_2m_sde",
    "dpmpp_3m_sde": "sample_dpmpp_3m_sde",
}


@pytest.mark.parametrize("schedule", [karras, uniform])
@pytest.mark.parametrize("sampler", PEERS)
def test_agrees_with_k_diffusion(peer, sampler, schedule):
    def network(x, sigma):  # neither linear nor smooth in sigma alone
        return torch.tanh(x / (1 + sigma)) * 0.8 + 0.1 * torch.sin(sigma + x)

    def draws():
        generator = torch.Generator().manual_seed(0)
        return lambda sigma, following: torch.randn(
            2, 4, 8, 8, generator=generator, dtype=torch.float64
        )

    sigmas = schedule(SD, 12)
    x = draws()(0, 0) * sigmas[0]
    extra = {"noise_sampler": draws()} if sampler in WITH_NOISE else {}
    expected = getattr(peer, PEERS[sampler])(
        lambda x, sigma: network(x, sigma.view(-1, 1, 1, 1)),
        x,
        torch.tensor(sigmas, dtype=torch.float64),
        disable=True,
        **extra,
    )

    def denoise(x, sigma):
        return network(x, torch.tensor(sigma, dtype=torch.float64))

    got = run_sampler(sampler, denoise, x, sigmas, noise=draws())
    assert ((got - expected).abs().max() / expected.abs().max()).item() < 1e-9
