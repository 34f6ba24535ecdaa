"""Noise levels: the training schedule of a model, and the sequence that a sampler walks down.

A level is sigma, the noise's deviation per unit of signal: x = x0 + sigma * noise. Everything is
Python floats, computed once on the CPU. Sources: Ho et al. 2020 (arXiv:2006.11239); Karras et al.
2022 (arXiv:2206.00364).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class NoiseSchedule:
    """The discrete levels that a model was trained on.

    sigmas: float64, ascending, one per timestep.
    """

    sigmas: np.ndarray

    @classmethod
    def scaled_linear(
        cls, first: float = 0.00085, last: float = 0.012, steps: int = 1000
    ) -> NoiseSchedule:
        """Square roots of beta evenly spaced: Stable Diffusion 1.x, 2.x and SDXL."""
        betas = np.linspace(math.sqrt(first), math.sqrt(last), steps) ** 2
        signal = np.cumprod(1 - betas)
        return cls(np.sqrt((1 - signal) / signal))

    @property
    def sigma_min(self) -> float:
        return float(self.sigmas[0])

    @property
    def sigma_max(self) -> float:
        return float(self.sigmas[-1])

    def timestep(self, sigma: float) -> float:
        """The (fractional) timestep of a level, by its logarithm."""
        steps = np.arange(len(self.sigmas))
        return float(np.interp(math.log(sigma), np.log(self.sigmas), steps))

    def sigma(self, timestep: float) -> float:
        steps = np.arange(len(self.sigmas))
        return float(np.exp(np.interp(timestep, steps, np.log(self.sigmas))))


def uniform(noise: NoiseSchedule, steps: int) -> list[float]:
    """Timesteps evenly spaced from the last to the first."""
    last = len(noise.sigmas) - 1
    return [*(noise.sigma(t) for t in np.linspace(last, 0, steps)), 0.0]


def karras(noise: NoiseSchedule, steps: int, rho: float = 7.0) -> list[float]:
    """Evenly spaced in sigma^(1/rho): Karras et al., equation 5."""
    high, low = noise.sigma_max ** (1 / rho), noise.sigma_min ** (1 / rho)
    return [*(float(s) ** rho for s in np.linspace(high, low, steps)), 0.0]


def exponential(noise: NoiseSchedule, steps: int) -> list[float]:
    """Evenly spaced in the logarithm."""
    high, low = math.log(noise.sigma_max), math.log(noise.sigma_min)
    return [*(math.exp(s) for s in np.linspace(high, low, steps)), 0.0]


SCHEDULES: dict[str, Callable[[NoiseSchedule, int], list[float]]] = {
    "uniform": uniform,
    "karras": karras,
    "exponential": exponential,
}
