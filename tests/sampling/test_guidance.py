"""Guidance: its sums, what it leaves out, and how often it asks the network."""

from __future__ import annotations

import pytest
import torch

from accel.core import ConfigError
from accel.sampling.guidance import Guidance, Prompted, combined, edit_weights, guided
from accel.sampling.parameterise import denoiser
from accel.sampling.samplers import calls_of, run_sampler
from accel.sampling.schedules import NoiseSchedule, karras

SD = NoiseSchedule.scaled_linear()
X = torch.randn(2, 4, 6, 5, generator=torch.Generator().manual_seed(1)) * 3


class Network:
    """A condition is a number; remembers how many it was asked for at each call."""

    def __init__(self, bend: float = 0.0):
        self.bend, self.asked = bend, []

    def __call__(self, x, t, conditions):
        self.asked.append(list(conditions))
        batch = len(x) // len(conditions)
        which = torch.tensor(conditions).repeat_interleave(batch)[:, None, None, None]
        return torch.tanh(x * which + t[:, None, None, None] / 1000 + self.bend)

    def one(self, condition):
        return denoiser(lambda x, t: self(x, t, [condition]), SD, "eps")


def test_guidance_is_the_known_sum():
    network = Network()
    got = guided(network, 7.5, Prompted([(0.3, 1.0)], 0.9), SD)(X, 2.0)
    cond, uncond = network.one(0.3)(X, 2.0), network.one(0.9)(X, 2.0)
    torch.testing.assert_close(got, uncond + 7.5 * (cond - uncond))
    assert network.asked[0] == [0.9, 0.3]  # one batch, the negative first


def test_prompts_joined_by_and_add_up_with_their_weights():
    network = Network()
    prompts = Prompted([(0.3, 1.0), (0.5, -0.4)], 0.9)
    got = guided(network, 5.0, prompts, SD)(X, 2.0)
    a, b, n = (network.one(c)(X, 2.0) for c in (0.3, 0.5, 0.9))
    torch.testing.assert_close(got, n + 5 * (a - n) - 2 * (b - n))


def test_scale_one_does_not_ask_for_the_negative():
    network = Network()
    got = guided(network, 1.0, Prompted([(0.3, 1.0)], 0.9), SD)(X, 2.0)
    assert network.asked == [[0.3]]
    torch.testing.assert_close(got, network.one(0.3)(X, 2.0))


def test_two_scales_for_editing():
    """Against the sum as its paper writes it."""
    network = Network()
    text, image = edit_weights(7.5, 1.5)
    got = guided(network, 1.0, Prompted([(0.3, text), (0.5, image)], 0.9), SD)(X, 2.0)
    both, picture, n = (network.one(c)(X, 2.0) for c in (0.3, 0.5, 0.9))
    torch.testing.assert_close(got, n + 7.5 * (both - picture) + 1.5 * (picture - n))


def test_rescale_brings_the_deviation_back():
    cond, uncond = X, X.flip(3) * 0.5
    whole = combined(uncond, [cond], [1.0], 9.0, rescale=1.0)
    torch.testing.assert_close(whole.std((1, 2, 3)), cond.std((1, 2, 3)))
    plain = combined(uncond, [cond], [1.0], 9.0)
    torch.testing.assert_close(combined(uncond, [cond], [1.0], 9.0, 0.7), 0.3 * plain + 0.7 * whole)


def test_rescale_is_diffusers():
    pytest.importorskip("diffusers", exc_type=ImportError)
    from diffusers.pipelines.stable_diffusion.pipeline_stable_diffusion import rescale_noise_cfg

    cond, uncond = X, X.flip(3) * 0.5
    plain = combined(uncond, [cond], [1.0], 9.0)
    expected = rescale_noise_cfg(plain, cond, guidance_rescale=0.7)
    torch.testing.assert_close(combined(uncond, [cond], [1.0], 9.0, 0.7), expected)


def run(guidance, steps=10, sampler="euler"):
    network = Network()
    denoise = guided(
        network, guidance, Prompted([(0.3, 1.0)], 0.9), SD, calls=calls_of(sampler, steps)
    )
    run_sampler(sampler, denoise, X * 5, karras(SD, steps))
    return [len(conditions) for conditions in network.asked]


def test_early_calls_are_made_without_the_negative():
    assert run(Guidance(scale=5, skip_early=0.2)) == [1, 1, 1, 2, 2, 2, 2, 2, 2, 2]
    assert run(Guidance(scale=5, skip_early=0.2), 5, "heun") == [1, 1, 1, 2, 2, 2, 2, 2, 2]


def test_every_other_late_call_is_made_without_the_negative():
    sigmas = karras(SD, 10)
    s = (sigmas[4] + sigmas[5]) / 2
    assert run(Guidance(scale=5, s_min_uncond=s)) == [2, 2, 2, 2, 2, 1, 2, 1, 2, 1]
    assert run(Guidance(scale=5, s_min_uncond=s, every_call=True)) == [2] * 5 + [1] * 5


def test_perturbed_attention_goes_away_from_what_it_gives():
    network, blind = Network(), Network(bend=0.5)
    for scale in (1.0, 4.0):
        denoise = guided(
            network,
            Guidance(scale=scale, pag=3.0),
            Prompted([(0.3, 1.0)], 0.9),
            SD,
            perturbed=blind,
        )
        c, n = network.one(0.3)(X, 2.0), network.one(0.9)(X, 2.0)
        expected = n + scale * (c - n) + 3 * (c - blind.one(0.3)(X, 2.0))
        torch.testing.assert_close(denoise(X, 2.0), expected)


def test_conditions_may_change_from_call_to_call():
    network = Network()
    denoise = guided(network, 2.0, lambda call: Prompted([(0.1 * call, 1.0)], 0.9), SD)
    run_sampler("euler", denoise, X, [3.0, 2.0, 1.0])
    assert network.asked == [[0.9, 0.0], [0.9, 0.1]]


def test_pair_gives_the_unguided_picture_at_any_scale():
    network = Network()
    for scale in (1.0, 0.6, 7.0):
        clean, other = guided(network, scale, Prompted([(0.3, 1.0)], 0.9), SD).pair(X, 2.0)
        c, n = network.one(0.3)(X, 2.0), network.one(0.9)(X, 2.0)
        torch.testing.assert_close(other, n)
        torch.testing.assert_close(clean, n + scale * (c - n))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"rescale": 1.5}, r"rescale must lie in 0\.\.1, got 1.5"),
        ({"skip_early": -0.1}, r"skip_early must lie in 0\.\.1"),
        ({"s_min_uncond": -1.0}, "s_min_uncond must be 0 or above"),
        ({"scale": float("nan")}, "scale must be a finite number"),
    ],
)
def test_refuses_settings(settings, message):
    with pytest.raises(ConfigError, match=message):
        Guidance(**settings)


def test_refuses_what_lacks_something():
    prompts = Prompted([(0.3, 1.0)], 0.9)
    with pytest.raises(ConfigError, match="pag needs a network"):
        guided(Network(), Guidance(pag=1.0), prompts, SD)
    with pytest.raises(ConfigError, match="skip_early needs the number of calls"):
        guided(Network(), Guidance(skip_early=0.5), prompts, SD)
    with pytest.raises(ValueError, match="must give 4 predictions, got 2"):
        guided(lambda x, t, c: x[:2], 5.0, prompts, SD)(X, 2.0)
