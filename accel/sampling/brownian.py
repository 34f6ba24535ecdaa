"""One Brownian motion per picture, the same for any schedule, batch and device.

The samplers of the SDE kind ask for the noise of steps that may overlap or be halved: an answer is
the change of one motion W over the step, divided to deviation 1. W is a function of the seed and
the level alone. Each octave of levels, 2^k to 2^(k+1), has its own change; inside it, W is found by
halving: the middle of an interval lies at the mean of its ends plus noise of a quarter of the
interval's variance (Levy's construction). All noise is counter-based, so that no draw has to be
made before another.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import lru_cache

import torch
from torch import Tensor

from accel.sampling.noise import philox_normal

HALVINGS = 16  # of an octave; below that, W is taken to be straight: a 65536th of the level
LOWEST, HIGHEST = -24, 24  # octaves; below 2^LOWEST there is nothing


class BrownianNoise:
    """Call it as samplers do, with a step's two levels."""

    def __init__(
        self,
        seeds: Sequence[int],  # 0..2^64 - 1, one a picture
        shape: Sequence[int],  # of one picture's latent: [C, H, W]
        device: torch.device | str = "cpu",
    ):
        self.device = device
        self.motions = [Motion(seed, shape) for seed in seeds]

    def __call__(self, sigma: float, following: float) -> Tensor:  # [B, C, H, W] float32
        low, high = sorted((sigma, following))
        scale = 1 / math.sqrt(high - low) if sigma >= following else -1 / math.sqrt(high - low)
        changes = [motion.change(low, high) * scale for motion in self.motions]
        return torch.stack(changes).float().to(self.device)


class Motion:
    """W of one seed."""

    def __init__(self, seed: int, shape: Sequence[int]):
        self.seed, self.shape = seed, tuple(shape)
        # Neighbouring levels share the larger intervals around them.
        self.draw = lru_cache(maxsize=2 * HALVINGS)(self._draw)

    def change(self, low: float, high: float) -> Tensor:  # float64: W(high) - W(low)
        first, last = octave_of(low), octave_of(high)
        total = self.within(last, high) - self.within(first, low)
        for octave in range(first, last):
            total = total + self.whole(octave)
        return total

    def whole(self, octave: int) -> Tensor:
        return self.draw(octave, 0) * math.sqrt(2.0**octave)  # an octave is as long as it is high

    def within(self, octave: int, level: float) -> Tensor:
        """W(level) - W(2^octave)."""
        length = 2.0**octave
        place = (max(level, length) - length) / length  # 0..1
        left, right = torch.zeros(self.shape, dtype=torch.float64), self.whole(octave)
        node = 1
        for _ in range(HALVINGS):
            if place == 0:
                return left
            middle = (left + right) / 2 + self.draw(octave, node) * math.sqrt(length / 4)
            length /= 2
            node, place = 2 * node, 2 * place
            if place >= 1:
                left, node, place = middle, node + 1, place - 1
            else:
                right = middle
        return torch.lerp(left, right, place)

    def _draw(self, octave: int, node: int) -> Tensor:
        return philox_normal(self.seed, octave - LOWEST + 1, self.shape, node + 1).double()


def octave_of(level: float) -> int:
    if level >= 2.0**HIGHEST:
        raise ValueError(f"BrownianNoise: levels must lie below 2^{HIGHEST}, got {level}")
    return max(LOWEST, math.frexp(level)[1] - 1) if level > 0 else LOWEST
