"""Gaussian noise that is the same on every device, per picture and not per batch.

Two sources: `cpu` is torch's Mersenne Twister, as diffusers draws with a CPU generator; `philox` is
the counter-based generator of Salmon et al. 2011 (doi:10.1145/2063384.2063405) with ten rounds and
the Box-Muller transform, in the order in which CUDA's normal generator uses it.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from accel.core import ConfigError

SOURCES = ("cpu", "philox")
MULTIPLIERS = (np.uint64(0xD2511F53), np.uint64(0xCD9E8D57))
KEY_STEPS = (0x9E3779B9, 0xBB67AE85)
ROUNDS = 10
LOW_HALF, HALF_BITS = np.uint64(0xFFFFFFFF), np.uint64(32)
ALMOST_PARALLEL = 0.9995  # mean cosine above which a great circle is not worth its rounding


class NoiseStream:
    """The noise of one picture: the first draw is its starting point, later ones feed a sampler."""

    def __init__(self, seed: int, source: str = "cpu"):
        if source not in SOURCES:
            raise ConfigError(f"noise source must be one of {SOURCES}, got {source!r}")
        if not 0 <= seed < 1 << 64:
            raise ConfigError(f"seed must lie in 0..2^64 - 1, got {seed}")
        self.seed, self.source = seed, source
        self.draws = 0
        # torch's own seed is signed; the same 64 bits select the same stream.
        signed = seed - (1 << 64) if seed >= 1 << 63 else seed
        self._generator = torch.Generator().manual_seed(signed) if source == "cpu" else None

    def draw(self, shape: Sequence[int]) -> Tensor:  # float32 of this shape, on the CPU
        if self._generator is not None:
            noise = torch.randn(tuple(shape), generator=self._generator)
        else:
            noise = philox_normal(self.seed, self.draws, shape)
        self.draws += 1
        return noise


class BatchNoise:
    """One stream per picture, so that a picture does not depend on the batch it is made in.

    Calling it gives the next draw of every stream, as samplers ask for it.
    """

    def __init__(
        self,
        seeds: Sequence[int],
        shape: Sequence[int],  # of one picture's latent: [C, H, W]
        source: str = "cpu",
        device: torch.device | str = "cpu",
    ):
        self.streams = [NoiseStream(seed, source) for seed in seeds]
        self.shape, self.device = tuple(shape), device

    def start(
        self,
        variations: Sequence[int] | None = None,  # one more seed a picture
        strength: float = 0.0,  # 0: the seed's noise; 1: the variation's
    ) -> Tensor:  # [B, C, H, W]
        noise = [stream.draw(self.shape) for stream in self.streams]
        if variations is not None and strength:
            if len(variations) != len(noise):
                raise ConfigError(
                    f"variation seeds must be {len(noise)}, one a picture, got {len(variations)}"
                )
            others = [NoiseStream(v, self.streams[0].source).draw(self.shape) for v in variations]
            noise = [slerp(a, b, strength) for a, b in zip(noise, others, strict=True)]
        return torch.stack(noise).to(self.device)

    def __call__(self, sigma: float, following: float) -> Tensor:  # [B, C, H, W]
        return torch.stack([stream.draw(self.shape) for stream in self.streams]).to(self.device)


def slerp(
    a: Tensor,  # [C, H, W]
    b: Tensor,  # [C, H, W]
    share: float,  # 0: a; 1: b
) -> Tensor:  # [C, H, W]
    """Along the great circle, each column of each channel on its own, as A1111 does."""
    unit_a, unit_b = a / a.norm(dim=1, keepdim=True), b / b.norm(dim=1, keepdim=True)
    cosine = (unit_a * unit_b).sum(dim=1, keepdim=True)
    if cosine.mean() > ALMOST_PARALLEL:
        return torch.lerp(a, b, share)
    angle = cosine.acos()
    mixed: Tensor = ((1 - share) * angle).sin() * a + (share * angle).sin() * b
    out: Tensor = mixed / angle.sin()
    return out


def philox_normal(
    seed: int,
    draw: int,  # which draw of the stream: 0 is the first
    shape: Sequence[int],
    branch: int = 0,  # 0: the stream that CUDA gives; above, others that share nothing with it
) -> Tensor:  # float32 of this shape
    """Draw number `draw` of a seed's stream: normal numbers by Box and Muller, one a counter."""
    count = math.prod(shape)
    counters = np.zeros((4, count), np.uint64)
    counters[0] = draw
    counters[2] = np.arange(count)
    counters[3] = branch
    first, second, *_ = philox(counters, (seed & 0xFFFFFFFF, seed >> 32))
    # Into the open interval (0, 1): halves keep log and the angle off their ends.
    u = first.astype(np.float64) * 2.0**-32 + 2.0**-33
    angle = second.astype(np.float64) * (2.0**-32 * 2 * math.pi) + 2.0**-33 * 2 * math.pi
    normal = np.sqrt(-2.0 * np.log(u)) * np.sin(angle)
    return torch.from_numpy(normal.astype(np.float32)).reshape(tuple(shape))


def philox(
    counters: np.ndarray,  # [4, N] uint64 holding 32-bit words
    key: tuple[int, int],
) -> np.ndarray:  # [4, N] uint64 holding 32-bit words
    """The random words of some counters under one key."""
    c0, c1, c2, c3 = counters
    k0, k1 = key
    for _ in range(ROUNDS):
        a, b = c0 * MULTIPLIERS[0], c2 * MULTIPLIERS[1]
        c0, c1, c2, c3 = (
            (b >> HALF_BITS) ^ c1 ^ np.uint64(k0),
            b & LOW_HALF,
            (a >> HALF_BITS) ^ c3 ^ np.uint64(k1),
            a & LOW_HALF,
        )
        k0, k1 = (k0 + KEY_STEPS[0]) & 0xFFFFFFFF, (k1 + KEY_STEPS[1]) & 0xFFFFFFFF
    return np.stack([c0, c1, c2, c3])
