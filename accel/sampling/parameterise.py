"""From what a network predicts (noise, velocity, the picture) to the denoised picture.

Sources: Ho et al. 2020 (arXiv:2006.11239) for noise; Salimans & Ho 2022 (arXiv:2202.00512) for
velocity; Liu et al. 2022 (arXiv:2209.03003) for flow.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Protocol

import torch
from torch import Tensor

PREDICTIONS = ("eps", "v", "x0", "flow")
Denoise = Callable[[Tensor, float], Tensor]  # x at level sigma, sigma -> denoised x
Predict = Callable[[Tensor, Tensor], Tensor]  # scaled x [B, ...], timesteps [B] -> prediction


class NoiseLevels(Protocol):
    """How a network is told a level: schedules.NoiseSchedule, schedules.FlowSchedule."""

    def scaled(self, x: Tensor, sigma: float) -> Tensor:
        """What the network sees of x."""

    def timestep(self, sigma: float) -> float: ...


def denoised(
    prediction: Tensor,
    x: Tensor,  # at level sigma, not scaled
    sigma: float,
    kind: str,
) -> Tensor:  # the picture that the prediction stands for
    """Raises ValueError for a kind that is not one of PREDICTIONS."""
    if kind in ("eps", "flow"):  # x is x0 + sigma * noise, or x0 + sigma * (noise - x0)
        return x - sigma * prediction
    if kind == "v":
        variance = sigma * sigma + 1
        return x / variance - prediction * (sigma / math.sqrt(variance))
    if kind == "x0":
        return prediction
    raise ValueError(f"prediction must be one of {PREDICTIONS}, got {kind!r}")


def denoiser(predict: Predict, noise: NoiseLevels, kind: str) -> Denoise:
    """Wrap a network for samplers that think in sigmas."""

    def denoise(x: Tensor, sigma: float) -> Tensor:
        t = torch.full((x.shape[0],), noise.timestep(sigma), device=x.device)
        return denoised(predict(noise.scaled(x, sigma), t), x, sigma, kind)

    return denoise
