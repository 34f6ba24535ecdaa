"""Noise: known values, independence of the batch, variations."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from accel.core import ConfigError
from accel.sampling.noise import BatchNoise, NoiseStream, philox, philox_normal, slerp

SHAPE = (4, 8, 6)


def test_philox_known_answers():
    """From the test vectors of the generator's authors."""
    zeros, ones = np.zeros((4, 1), np.uint64), np.full((4, 1), 0xFFFFFFFF, np.uint64)
    pi = np.array([[0x243F6A88], [0x85A308D3], [0x13198A2E], [0x03707344]], np.uint64)
    assert [hex(w) for w in philox(zeros, (0, 0))[:, 0]] == [
        "0x6627e8d5",
        "0xe169c58d",
        "0xbc57ac4c",
        "0x9b00dbd8",
    ]
    assert [hex(w) for w in philox(ones, (0xFFFFFFFF, 0xFFFFFFFF))[:, 0]] == [
        "0x408f276d",
        "0x41c83b0e",
        "0xa20bc7c6",
        "0x6d5451fd",
    ]
    assert [hex(w) for w in philox(pi, (0xA4093822, 0x299F31D0))[:, 0]] == [
        "0xd16cfe09",
        "0x94fdcceb",
        "0x5001e420",
        "0x24126ea1",
    ]


def test_philox_noise_is_cudas():
    expected = torch.tensor([-0.92466259, -0.42534415, -2.6438457, 0.14518388])
    torch.testing.assert_close(philox_normal(0, 0, (4,)), expected, atol=1e-6, rtol=0)


@pytest.mark.parametrize("source", ["cpu", "philox"])
@pytest.mark.parametrize("seed", [0, 1234567, 2**63, 2**64 - 1])
def test_is_normal_and_draws_differ(source, seed):
    stream = NoiseStream(seed, source)
    first, second = stream.draw((100, 100)), stream.draw((100, 100))
    for noise in (first, second):
        assert noise.dtype == torch.float32
        assert abs(noise.mean().item()) < 0.04
        assert noise.std().item() == pytest.approx(1, abs=0.03)
    assert abs((first * second).mean().item()) < 0.04


def test_cpu_noise_is_torchs():
    generator = torch.Generator().manual_seed(42)
    expected = [torch.randn(SHAPE, generator=generator) for _ in range(2)]
    stream = NoiseStream(42)
    assert all(torch.equal(stream.draw(SHAPE), e) for e in expected)


@pytest.mark.parametrize("source", ["cpu", "philox"])
def test_a_picture_has_the_same_noise_alone_and_in_any_batch(source):
    seeds = [7, 3, 2**40]
    batch = BatchNoise(seeds, SHAPE, source)
    together = [batch.start(), batch(9.0, 3.0), batch(3.0, 1.0)]
    for i, seed in enumerate(seeds):
        alone = BatchNoise([seed], SHAPE, source)
        for noise in zip(together, [alone.start(), alone(9.0, 3.0), alone(3.0, 1.0)], strict=True):
            assert torch.equal(noise[0][i], noise[1][0])


def test_variations_lead_from_one_noise_to_the_other():
    def start(seed, strength=0.0):
        return BatchNoise([seed], SHAPE).start([9], strength)

    assert torch.equal(start(1, 0.0), start(1))
    torch.testing.assert_close(start(1, 1.0), BatchNoise([9], SHAPE).start())
    middle = start(1, 0.5)
    distances = [(middle - BatchNoise([s], SHAPE).start()).norm().item() for s in (1, 9)]
    assert distances[0] == pytest.approx(distances[1], rel=0.15)


def test_slerp_of_almost_equal_noise_is_a_line():
    a = torch.randn(SHAPE)
    torch.testing.assert_close(slerp(a, a * 1.5, 0.5), a * 1.25)


def test_refuses():
    with pytest.raises(ConfigError, match="source must be one of"):
        NoiseStream(1, "gpu")
    with pytest.raises(ConfigError, match=r"seed must lie in 0\.\.2\^64 - 1, got -1"):
        NoiseStream(-1)
    with pytest.raises(ConfigError, match="must be 2, one a picture, got 1"):
        BatchNoise([1, 2], SHAPE).start([3], 0.5)
