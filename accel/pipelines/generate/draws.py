"""The seeds of a run's pictures, and each picture's noise."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from accel.core import ConfigError
from accel.pipelines.generate.model import Model
from accel.pipelines.generate.options import Options
from accel.sampling.brownian import BrownianNoise
from accel.sampling.noise import BatchNoise
from accel.sampling.samplers import BROWNIAN


def seeds_of(options: Options, index: int) -> tuple[int, int | None]:
    """Seed and variation seed of a picture: the second is counted up where it has an effect."""
    variation = options.variation_seed
    if variation is not None and options.variation_strength:
        return options.seed, (variation + index) % (1 << 64)
    return (options.seed + index) % (1 << 64), None


class Draws:
    """The noise of one picture: its seed's, or what the caller gave, in the order of use."""

    def __init__(
        self,
        model: Model,
        options: Options,
        seeds: tuple[int, int | None],
        index: int,
        given: Any,
    ):
        self.model, self.options, self.seeds = model, options, seeds
        self.shape: tuple[int, int, int] = (0, 0, 0)
        draws = [given] if isinstance(given, Tensor) else list(given or ())
        self.given = [draw[index : index + 1] if draw.ndim == 4 else draw[None] for draw in draws]
        self._stream: BatchNoise | None = None

    def stream(self) -> BatchNoise:
        if self._stream is None:
            self._stream = BatchNoise(
                [self.seeds[0]], self.shape, self.options.noise_source, self.model.device
            )
        return self._stream

    def start(self) -> Tensor:  # [1, z, h, w]
        if self.given:
            return self._next()
        variation = self.seeds[1]
        variations = None if variation is None else [variation]
        return self.stream().start(variations, self.options.variation_strength)

    def noise(self, sigmas: Sequence[float]) -> Callable[[float, float], Tensor]:
        if self.given:
            return lambda sigma, following: self._next()
        if self.options.sampler in BROWNIAN:
            return BrownianNoise([self.seeds[0]], self.shape, self.model.device)
        return self.stream()

    def _next(self) -> Tensor:
        if not self.given:
            raise ConfigError("noise: must hold a draw for every step that puts noise back")
        draw = self.given.pop(0)
        if tuple(draw.shape) != (1, *self.shape):
            raise ConfigError(f"noise: must be {(1, *self.shape)} a picture, got {draw.shape}")
        return draw.to(self.model.device, torch.float32)
