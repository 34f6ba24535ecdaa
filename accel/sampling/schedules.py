"""Noise levels: the training schedule of a model, and the sequence that a sampler walks down.

A level is sigma, the noise's deviation per unit of signal: x = x0 + sigma * noise. Everything is
Python floats, computed once on the CPU. Sources: Ho et al. 2020 (arXiv:2006.11239); Karras et al.
2022 (arXiv:2206.00364).
"""

from __future__ import annotations

import difflib
import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import partial

import numpy as np
from torch import Tensor

from accel.core import ConfigError

AYS_SD1 = (14.615, 6.475, 3.861, 2.697, 1.886, 1.396, 0.963, 0.652, 0.399, 0.152, 0.029)
LITTLE_SIGNAL = 2.0**-24  # as diffusers has it: sigma 4096
AYS_SDXL = (14.615, 6.315, 3.771, 2.181, 1.342, 0.862, 0.555, 0.380, 0.234, 0.113, 0.029)


@dataclass(frozen=True)
class NoiseSchedule:
    """The discrete levels that a model was trained on.

    sigmas: float64, ascending, one per timestep.
    rounded: the network is told whole timesteps only, as diffusers does in some schedulers when
        levels lie between those of training (and A1111's option "quantize").
    """

    sigmas: np.ndarray
    rounded: bool = False

    @classmethod
    def scaled_linear(
        cls,
        first: float = 0.00085,
        last: float = 0.012,
        steps: int = 1000,
        *,
        zero_terminal_snr: bool = False,
    ) -> NoiseSchedule:
        """Square roots of beta evenly spaced: Stable Diffusion 1.x, 2.x and SDXL."""
        betas = np.linspace(math.sqrt(first), math.sqrt(last), steps) ** 2
        return cls.of_signal(np.cumprod(1 - betas), zero_terminal_snr=zero_terminal_snr)

    @classmethod
    def linear(
        cls,
        first: float = 0.0001,
        last: float = 0.02,
        steps: int = 1000,
        *,
        zero_terminal_snr: bool = False,
    ) -> NoiseSchedule:
        """Beta evenly spaced: DDPM's own."""
        betas = np.linspace(first, last, steps)
        return cls.of_signal(np.cumprod(1 - betas), zero_terminal_snr=zero_terminal_snr)

    @classmethod
    def of_signal(cls, signal: np.ndarray, *, zero_terminal_snr: bool = False) -> NoiseSchedule:
        """From the share of the picture in the variance at each timestep (alphas_cumprod).

        `zero_terminal_snr` stretches its root until the last is 0, as models trained with
        Lin et al. 2023 (arXiv:2305.08891), algorithm 1, need it; so that sigma stays a number, the
        last is then LITTLE_SIGNAL.
        """
        if zero_terminal_snr:
            root = np.sqrt(signal)
            signal = ((root - root[-1]) * (root[0] / (root[0] - root[-1]))) ** 2
            signal[-1] = LITTLE_SIGNAL
        return cls(np.sqrt((1 - signal) / signal))

    def stretched(self, sigma_min: float, sigma_max: float) -> NoiseSchedule:
        """The same levels between other ends, in their logarithm."""
        if not 0 < sigma_min < sigma_max < math.inf:
            raise ConfigError(
                f"a range of levels must be 0 < sigma_min < sigma_max, got {(sigma_min, sigma_max)}"
            )
        logs = np.log(self.sigmas)
        low, high = math.log(sigma_min), math.log(sigma_max)
        share = (logs - logs[0]) / (logs[-1] - logs[0])
        return NoiseSchedule(np.exp(low + share * (high - low)))

    @property
    def last(self) -> int:
        """The noisiest timestep."""
        return len(self.sigmas) - 1

    @property
    def sigma_min(self) -> float:
        return float(self.sigmas[0])

    @property
    def sigma_max(self) -> float:
        return float(self.sigmas[-1])

    def scaled(self, x: Tensor, sigma: float) -> Tensor:
        """x at level sigma as the network sees it: of deviation 1, as it was in training."""
        return x / math.sqrt(sigma * sigma + 1)

    def timestep(self, sigma: float) -> float:
        """The (fractional) timestep of a level, by its logarithm."""
        steps = np.arange(len(self.sigmas))
        timestep = float(np.interp(math.log(sigma), np.log(self.sigmas), steps))
        return round(timestep) if self.rounded else timestep

    def sigma(self, timestep: float) -> float:
        steps = np.arange(len(self.sigmas))
        return float(np.exp(np.interp(timestep, steps, np.log(self.sigmas))))


STABLE_DIFFUSION = NoiseSchedule.scaled_linear()


@dataclass(frozen=True)
class FlowSchedule:
    """Levels of a rectified flow: x = (1 - sigma) * x0 + sigma * noise, sigma in 0..1.

    shift: above 1, more of the steps lie near pure noise, as large pictures need.
    """

    shift: float = 1.0
    timesteps: int = 1000

    def scaled(self, x: Tensor, sigma: float) -> Tensor:
        return x

    def timestep(self, sigma: float) -> float:
        return sigma * self.timesteps

    def levels(self, steps: int) -> list[float]:
        """Evenly spaced from 1, shifted (Esser et al. 2024, arXiv:2403.03206, section 5.3.2)."""
        even = (1 - i / steps for i in range(steps))
        return [*(self.shift * s / (1 + (self.shift - 1) * s) for s in even), 0.0]


def uniform(noise: NoiseSchedule, steps: int) -> list[float]:
    """Timesteps evenly spaced from the last to the first, sigma interpolated by its logarithm."""
    return at_timesteps(noise, np.linspace(noise.last, 0, steps))


def karras(noise: NoiseSchedule, steps: int, rho: float = 7.0) -> list[float]:
    """Evenly spaced in sigma^(1/rho): Karras et al., equation 5."""
    return karras_between(noise.sigma_min, noise.sigma_max, steps, rho)


def karras_between(low: float, high: float, steps: int, rho: float = 7.0) -> list[float]:
    even = np.linspace(high ** (1 / rho), low ** (1 / rho), steps)
    return [*(float(s) ** rho for s in even), 0.0]


def exponential(noise: NoiseSchedule, steps: int) -> list[float]:
    """Evenly spaced in the logarithm."""
    return polyexponential(noise, steps, rho=1.0)


def polyexponential(noise: NoiseSchedule, steps: int, rho: float = 1.0) -> list[float]:
    """Powers of an even ramp in the logarithm; A1111's default is rho 1."""
    high, low = math.log(noise.sigma_max), math.log(noise.sigma_min)
    return [*(math.exp(low + s**rho * (high - low)) for s in np.linspace(1, 0, steps)), 0.0]


def sgm_uniform(noise: NoiseSchedule, steps: int) -> list[float]:
    """As uniform, but the first timestep itself is never reached: the last step is longer."""
    return at_timesteps(noise, np.linspace(noise.last, 0, steps + 1)[:-1])


def simple(noise: NoiseSchedule, steps: int) -> list[float]:
    """Every so-and-so-many-th trained level, counted from the noisiest."""
    count = len(noise.sigmas)
    return [*(float(noise.sigmas[-(1 + int(i * count / steps))]) for i in range(steps)), 0.0]


def ddim_uniform(noise: NoiseSchedule, steps: int) -> list[float]:
    """Every (1000 // steps)-th trained level from the second; rounding may add steps."""
    stride = max(len(noise.sigmas) // steps, 1)
    return [*(float(s) for s in noise.sigmas[1::stride][::-1]), 0.0]


def beta(noise: NoiseSchedule, steps: int) -> list[float]:
    """Quantiles of Beta(0.6, 0.6) between sigma_min and sigma_max, as A1111 and diffusers do.

    Source: Lee et al. 2024 (arXiv:2407.12173), who map them to timesteps: `beta_timesteps`.
    """
    quantiles = [beta_quantile(1 - i / (steps - 1)) for i in range(steps)] if steps > 1 else [1.0]
    low, high = noise.sigma_min, noise.sigma_max
    return [*(low + q * (high - low) for q in quantiles), 0.0]


def beta_timesteps(noise: NoiseSchedule, steps: int) -> list[float]:
    """Trained levels at quantiles of Beta(0.6, 0.6), as ComfyUI does; equal ones are joined."""
    quantiles = (beta_quantile(1 - i / steps) for i in range(steps))
    timesteps = dict.fromkeys(round(q * noise.last) for q in quantiles)
    return [*(float(noise.sigmas[t]) for t in timesteps), 0.0]


def align_your_steps(
    noise: NoiseSchedule, steps: int, levels: tuple[float, ...] = AYS_SD1
) -> list[float]:
    """Levels found by optimisation for ten steps, interpolated in the logarithm for others.

    Source: Sabour et al. 2024 (arXiv:2404.14507). SDXL has its own: AYS_SDXL.
    """
    if steps == len(levels):
        return [*levels, 0.0]
    at = np.linspace(0, 1, steps)
    known = np.linspace(0, 1, len(levels))
    return [*(float(s) for s in np.exp(np.interp(at, known, np.log(levels)))), 0.0]


def kl_optimal(noise: NoiseSchedule, steps: int) -> list[float]:
    """Evenly spaced in the arc tangent (the same paper, equation for Gaussian data)."""
    high, low = math.atan(noise.sigma_max), math.atan(noise.sigma_min)
    return [*(math.tan(float(a)) for a in np.linspace(high, low, steps)), 0.0]


def turbo(noise: NoiseSchedule, steps: int) -> list[float]:
    """Multiples of 1000 / steps, less one: for models distilled to few steps."""
    count = len(noise.sigmas)
    timesteps = (round((i + 1) * count / steps - 1) for i in reversed(range(steps)))
    return [*(float(noise.sigmas[t]) for t in timesteps), 0.0]


# ------------------------------------------------------------------ as diffusers spaces them
#
# Its three spacings mean one thing for most schedulers and another for the multistep ones of
# DPM-Solver's kind (DPMSolverMultistep, UniPC, DEIS), here `dpm_...`. A run of DDIM, PNDM, TCD or
# DEIS ends at the lowest trained level, here `..._to_min`, all others at 0.


def leading(noise: NoiseSchedule, steps: int, offset: int = 1) -> list[float]:
    """diffusers' "leading" spacing; Stable Diffusion's own configurations have offset 1."""
    stride = len(noise.sigmas) // steps
    return on_grid(noise, (i * stride + offset for i in reversed(range(steps))))


def linspace(noise: NoiseSchedule, steps: int) -> list[float]:
    """diffusers' "linspace" spacing: as uniform, but sigma itself is interpolated."""
    at = np.linspace(noise.last, 0, steps)
    return [*(float(s) for s in np.interp(at, np.arange(noise.last + 1), noise.sigmas)), 0.0]


def trailing(noise: NoiseSchedule, steps: int) -> list[float]:
    """diffusers' "trailing" spacing: begins at the very last timestep."""
    count = len(noise.sigmas)
    return on_grid(noise, np.arange(count, 0, -count / steps).round().astype(int) - 1)


def dpm_leading(noise: NoiseSchedule, steps: int, offset: int = 1) -> list[float]:
    stride = len(noise.sigmas) // (steps + 1)
    return on_grid(noise, (i * stride + offset for i in range(steps, 0, -1)))


def dpm_linspace(noise: NoiseSchedule, steps: int) -> list[float]:
    return on_grid(noise, np.linspace(0, noise.last, steps + 1).round().astype(int)[:0:-1])


def lcm(noise: NoiseSchedule, steps: int, original: int = 50) -> list[float]:
    """Some of the `original` evenly spaced timesteps that a consistency model was distilled at."""
    if steps > original:
        raise ConfigError(f"lcm: steps must lie in 1..{original}, got {steps}")
    stride = len(noise.sigmas) // original
    chosen = np.linspace(0, original, steps, endpoint=False).astype(int)
    return on_grid(noise, ((original - i) * stride - 1 for i in chosen))


def to_min(
    spacing: Callable[[NoiseSchedule, int], list[float]], noise: NoiseSchedule, steps: int
) -> list[float]:
    """A spacing that ends at the lowest trained level and not at 0."""
    return [s for s in spacing(noise, steps)[:-1] if s > noise.sigma_min] + [noise.sigma_min]


def on_grid(noise: NoiseSchedule, timesteps: Iterable[int]) -> list[float]:
    return [*(float(noise.sigmas[t]) for t in timesteps), 0.0]


def at_timesteps(noise: NoiseSchedule, timesteps: np.ndarray) -> list[float]:
    return [*(noise.sigma(float(t)) for t in timesteps), 0.0]


def beta_quantile(probability: float, shape: float = 0.6) -> float:
    """The x below which a Beta(shape, shape) variable lies with this probability (bisection)."""
    if probability > 0.5:  # symmetric, and the series below converges fast on the lower half
        return 1 - beta_quantile(1 - probability, shape)
    half = incomplete_beta(0.5, shape)
    low, high = 0.0, 0.5
    for _ in range(80):
        middle = (low + high) / 2
        if incomplete_beta(middle, shape) < 2 * probability * half:
            low = middle
        else:
            high = middle
    return (low + high) / 2


def incomplete_beta(x: float, shape: float) -> float:
    """The integral of (t (1 - t))^(shape - 1) over 0..x, for x up to 1/2, as a power series."""
    total, factor = 0.0, 1.0
    for n in range(60):
        total += factor * x**n / (shape + n)
        factor *= (1 - shape + n) / (n + 1)
    return float(x**shape) * total


SCHEDULES: dict[str, Callable[[NoiseSchedule, int], list[float]]] = {
    "uniform": uniform,
    "normal": uniform,
    "karras": karras,
    "exponential": exponential,
    "polyexponential": polyexponential,
    "sgm_uniform": sgm_uniform,
    "simple": simple,
    "ddim_uniform": ddim_uniform,
    "beta": beta,
    "beta_timesteps": beta_timesteps,
    "align_your_steps": align_your_steps,
    "align_your_steps_sdxl": partial(align_your_steps, levels=AYS_SDXL),
    "kl_optimal": kl_optimal,
    "turbo": turbo,
    "leading": leading,
    "linspace": linspace,
    "trailing": trailing,
    "leading_to_min": partial(to_min, leading),
    "trailing_to_min": partial(to_min, trailing),
    "dpm_leading": dpm_leading,
    "dpm_linspace": dpm_linspace,
    "dpm_leading_to_min": partial(to_min, dpm_leading),
    "dpm_linspace_to_min": partial(to_min, dpm_linspace),
    "lcm": lcm,
    "tcd": partial(to_min, lcm),
}


def schedule(name: str, noise: NoiseSchedule, steps: int) -> list[float]:
    """Levels from the noisiest to 0 for a sampler; ConfigError for what cannot be made."""
    if name not in SCHEDULES:
        near = difflib.get_close_matches(name, SCHEDULES, n=3, cutoff=0.4) or sorted(SCHEDULES)
        raise ConfigError(f"no schedule is called {name!r}; near: {', '.join(near)}")
    if not 1 <= steps <= len(noise.sigmas) // 2:
        raise ConfigError(f"steps must lie in 1..{len(noise.sigmas) // 2}, got {steps}")
    return SCHEDULES[name](noise, steps)
