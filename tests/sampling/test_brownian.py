"""The Brownian motion that SDE samplers ask: statistics, consistency, portability."""

from __future__ import annotations

import math
from itertools import pairwise

import pytest
import torch

from accel.sampling.brownian import BrownianNoise
from accel.sampling.samplers import BROWNIAN, run_sampler
from accel.sampling.schedules import NoiseSchedule, karras

SHAPE = (4, 30, 30)
SD = NoiseSchedule.scaled_linear()


def change(noise, high, low):
    """W(high) - W(low)."""
    return noise(high, low) * math.sqrt(high - low)


@pytest.mark.parametrize(("high", "low"), [(14.6, 9.1), (1.31, 1.3), (4096, 0.1), (0.029, 0.0)])
def test_is_normal(high, low):
    noise = BrownianNoise([5], SHAPE)(high, low)
    assert noise.dtype == torch.float32
    assert noise.shape == (1, *SHAPE)
    assert noise.std().item() == pytest.approx(1, abs=0.06)
    assert abs(noise.mean().item()) < 0.06


def test_changes_add_up_whatever_the_steps():
    noise = BrownianNoise([5], SHAPE)
    levels = [14.6, 9.0, 8.0, 7.99, 3.3, 1.0, 0.7, 0.03]
    total = sum(change(noise, a, b) for a, b in pairwise(levels))
    torch.testing.assert_close(total, change(noise, 14.6, 0.03), rtol=1e-4, atol=1e-4)
    assert torch.equal(noise(3.3, 9.0), -noise(9.0, 3.3))


def test_steps_apart_are_independent_and_overlapping_ones_are_not():
    noise = BrownianNoise([5], SHAPE)
    apart = (noise(9.0, 5.0) * noise(5.0, 3.0)).mean().item()
    assert abs(apart) < 0.06
    overlap = (noise(9.0, 5.0) * noise(9.0, 3.0)).mean().item()
    assert overlap == pytest.approx(math.sqrt(4 / 6), abs=0.06)


def test_known_values():
    """Four numbers by which another machine is judged."""
    got = BrownianNoise([0], (4,))(2.5, 0.3)[0].tolist()
    assert got == pytest.approx([-0.1551583, 1.9890496, -0.0540984, 0.9543463], abs=1e-6)


def test_does_not_depend_on_the_batch_or_on_what_was_asked_before():
    both, alone = BrownianNoise([1, 2], SHAPE), BrownianNoise([2], SHAPE)
    both(14.0, 2.0)
    assert torch.equal(both(3.0, 1.0)[1], alone(3.0, 1.0)[0])


@pytest.mark.parametrize("name", sorted(BROWNIAN))
def test_finer_steps_come_to_the_same_sample(name):
    """One motion: halving the steps changes a sample by the solver's error, not by new noise."""

    def ideal(x, sigma):
        return x * 0.49 / (0.49 + sigma**2)

    start = torch.randn(1, *SHAPE, generator=torch.Generator().manual_seed(0)) * SD.sigma_max

    def run(steps, seed):
        noise = BrownianNoise([seed], SHAPE)
        return run_sampler(name, ideal, start, karras(SD, steps), noise=noise)

    apart = (run(24, 1) - run(48, 1)).std().item()
    assert apart < 0.25 * (run(24, 1) - run(48, 2)).std().item()


def test_refuses_levels_beyond_reason():
    with pytest.raises(ValueError, match="levels must lie below"):
        BrownianNoise([5], SHAPE)(1e9, 1.0)
