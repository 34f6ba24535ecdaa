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
from itertools import pairwise

import numpy as np
import pytest
import torch

from accel.core import ConfigError
from accel.sampling.few_steps import boundary
from accel.sampling.samplers import SAMPLERS, WITH_NOISE, WITHOUT_NOISE, run_sampler
from accel.sampling.schedules import NoiseSchedule, karras, schedule, uniform
from accel.sampling.sde import restart_levels
from accel.sampling.steps import Churn

S = 0.7
ORDER = {
    "euler": 1,
    "ddim": 1,
    "heun": 2,
    "dpm2": 2,
    "dpmpp_2m": 2,
    "lms": 3,
    "plms": 2,  # its weights are for even steps; these are even in the logarithm
    "unipc": 2,  # more inside a run, but its last step is of first order
    "unipc_bh1": 2,
    "deis": 2,
    "euler_cfg_pp": 1,
    "dpmpp_2m_cfg_pp": 2,
}
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


@pytest.mark.parametrize(
    ("name", "settings", "order", "levels"),
    [
        ("plms", {}, 3.5, np.linspace),  # 4 but for its start
        ("deis", {"order": 3}, 2.1, np.geomspace),  # its second step is of order 2
        ("unipc", {"order": 1}, 1.8, np.geomspace),  # the corrector adds one
    ],
)
def test_higher_orders(name, settings, order, levels):
    def wrong(steps):
        sigmas = levels(10.0, 2.0, steps + 1).tolist()
        x = torch.full((1, 1, 1, 1), 10.0, dtype=torch.float64)
        exact = 10 * math.sqrt((S**2 + 4) / (S**2 + 100))
        return abs(run_sampler(name, ideal, x, sigmas, **settings).item() - exact)

    assert math.log2(wrong(40) / wrong(80)) > order


# LCM's answer is not a sample of Gaussian data, and TCD's timesteps are those of one model.
@pytest.mark.parametrize("sampler", sorted(set(WITH_NOISE) - {"lcm", "tcd"}))
def test_noise_is_put_back_in_the_right_measure(sampler):
    generator = torch.Generator().manual_seed(0)

    def noise(sigma, following):
        return torch.randn(1, 1, 200, 200, generator=generator)

    sigmas = [*np.geomspace(20.0, 0.02, 121).tolist(), 0.0]
    start = noise(0, 0) * math.sqrt(20**2 + S**2)
    x = run_sampler(sampler, ideal, start, sigmas, noise=noise)
    assert x.std().item() == pytest.approx(S, rel=0.05)  # 120 steps leave up to 3.5 %
    assert abs(x.mean().item()) < 0.02


def test_churn_puts_in_what_the_step_takes_out():
    generator = torch.Generator().manual_seed(0)
    asked = []

    def noise(sigma, following):
        asked.append((sigma, following))
        return torch.randn(1, 1, 200, 200, generator=generator)

    sigmas = [*np.geomspace(20.0, 0.02, 121).tolist(), 0.0]
    start = torch.randn(1, 1, 200, 200, generator=generator) * math.sqrt(20**2 + S**2)
    for name in ("euler", "heun", "dpm2"):
        churn = Churn(amount=20.0, low=0.1, high=10.0)
        x = run_sampler(name, ideal, start, sigmas, noise=noise, churn=churn)
        assert x.std().item() == pytest.approx(S, rel=0.06)
    assert all(
        0.1 <= low <= 10 and high == pytest.approx(low * (1 + 20 / 121)) for high, low in asked
    )


def test_ddim_with_eta_is_the_ancestral_step():
    x, sigmas = torch.randn(1, 4, 3, 3), [3.0, 2.0, 1.0, 0.5]

    def run(name, eta):
        return run_sampler(name, ideal, x, sigmas, noise=lambda s, t: x.flip(1), eta=eta)

    assert torch.equal(run("ddim", 0.6), run("euler_a", 0.6))
    with pytest.raises(ValueError, match=r"ddim: eta 0.5 puts noise back"):
        run_sampler("ddim", ideal, x, sigmas, eta=0.5)


def test_lcm_keeps_a_little_of_its_input_at_low_levels():
    assert boundary(0.0) == (1.0, 0.0)
    skip, out = boundary(19.0)
    assert skip == pytest.approx(0.25 / (190**2 + 0.25))
    assert out == pytest.approx(190 / math.sqrt(190**2 + 0.25))


def test_tcd_without_gamma_is_ddim_and_with_one_it_is_lcm_but_for_the_boundary():
    x, sigmas = torch.randn(1, 4, 3, 3), schedule("tcd", SD, 4)

    def run(name, **settings):
        return run_sampler(name, ideal, x, sigmas, noise=lambda s, t: x.flip(1), **settings)

    torch.testing.assert_close(run("tcd", gamma=0.0), run("ddim"))
    got = run("tcd", gamma=1.0)
    assert (got - run("lcm")).abs().max() < 0.1  # it comes down to the lowest level, not to 0


def test_restart_levels():
    """A1111's plan for 20 steps: one return to about 2, in 9 steps."""
    levels = restart_levels(karras(SD, 20))
    assert len(levels) == 20
    ups = [i for i in range(1, 20) if levels[i][0] > levels[i - 1][1]]
    assert len(ups) == 1
    assert levels[ups[0]][0] == pytest.approx(2, rel=0.2)
    assert levels[ups[0] - 1][1] == pytest.approx(0.1, rel=0.5)
    assert restart_levels(karras(SD, 19)) == list(pairwise(karras(SD, 19)))
    twice = restart_levels(karras(SD, 40))
    assert len(twice) == 40
    assert sum(a[1] < b[0] for a, b in pairwise(twice)) == 2


class TwoAnswers:
    """As guidance.guided: the guided picture, and the one without the prompt."""

    def __call__(self, x, sigma):
        return self.pair(x, sigma)[0]

    def pair(self, x, sigma):
        plain = ideal(x, sigma)
        return plain * 1.2 + torch.sin(sigma + x), plain


def test_cfg_pp_keeps_the_unguided_noise():
    x = torch.randn(1, 4, 3, 3)
    clean, other = TwoAnswers().pair(x, 3.0)
    for name in ("euler_cfg_pp", "dpmpp_2m_cfg_pp"):
        got = run_sampler(name, TwoAnswers(), x, [3.0, 2.0])
        torch.testing.assert_close(got, clean + (x - other) / 3 * 2)


@pytest.mark.parametrize("name", ["euler", "euler_a", "dpmpp_2s_a"])
def test_cfg_pp_without_a_prompt_is_the_plain_sampler(name):
    x, sigmas = torch.randn(1, 4, 3, 3), karras(SD, 8)

    def run(name):
        return run_sampler(name, ideal, x, sigmas, noise=lambda s, t: x.flip(1))

    torch.testing.assert_close(run(name + "_cfg_pp"), run(name))


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
    with pytest.raises(ConfigError, match="heun has no eta; it has churn"):
        run_sampler("heun", ideal, torch.ones(1), [1.0, 0.0], eta=1.0)
    for name, settings in (("deis", {"order": 4}), ("unipc", {"variant": "bh3"})):
        with pytest.raises(ValueError, match=name + ": "):
            run_sampler(name, ideal, torch.ones(1), [1.0, 0.0], **settings)
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
    "dpmpp_2m_sde_heun": "sample_dpmpp_2m_sde",
    "dpmpp_3m_sde": "sample_dpmpp_3m_sde",
}


@pytest.mark.parametrize("spacing", [karras, uniform])
@pytest.mark.parametrize("sampler", PEERS)
def test_agrees_with_k_diffusion(peer, sampler, spacing):
    def network(x, sigma):  # neither linear nor smooth in sigma alone
        return torch.tanh(x / (1 + sigma)) * 0.8 + 0.1 * torch.sin(sigma + x)

    def draws():
        generator = torch.Generator().manual_seed(0)
        return lambda sigma, following: torch.randn(
            2, 4, 8, 8, generator=generator, dtype=torch.float64
        )

    sigmas = spacing(SD, 12)
    x = draws()(0, 0) * sigmas[0]
    extra = {"noise_sampler": draws()} if sampler in WITH_NOISE else {}
    if sampler.endswith("_heun"):
        extra["solver_type"] = "heun"
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
