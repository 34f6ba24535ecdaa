"""A checkpoint's UNet as the sampling package's guidance calls it, one picture at a time.

The UNet sees the same shapes whatever the number of pictures: matrix products of another batch size
may round otherwise, and a picture must not depend on its neighbours.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from accel.models.stable_diffusion import Conditioning, StableDiffusion
from accel.nn.unet import Unet
from accel.pipelines.generate.controls import Steer, steering
from accel.sampling.guidance import Guided


@dataclass(frozen=True)
class Told:
    """What one call of the network is told beside x.

    sizes: [1, size_numbers] for networks that take them (SDXL). extra: [1, channels, H, W] that
    inpainting and editing networks see beside x. steers: controls that are in effect.
    """

    conditioning: Conditioning
    sizes: Tensor | None = None
    extra: Tensor | None = None
    steers: tuple[Steer, ...] = ()


class Network:
    def __init__(
        self,
        model: StableDiffusion,
        dtype: torch.dtype,
        unet: Unet | None = None,
        one_by_one: bool = False,
    ):
        """unet: one that stands in for the model's own. one_by_one: each prompt in its own call."""
        self.model, self.dtype, self.unet = model, dtype, unet or model.unet
        self.one_by_one = one_by_one

    def __call__(
        self,
        x: Tensor,  # [N, 4, H, W] scaled, one picture N times over
        t: Tensor,  # [N]
        told: Sequence[Told],  # N
    ) -> Tensor:  # [N, 4, H, W] float32
        """One call for prompts of equal length, one more for each other length."""
        if self.one_by_one:
            alone = [self._call(x[i : i + 1], t[i : i + 1], told[i : i + 1]) for i in range(len(x))]
            return torch.cat(alone).float()
        answers: dict[int, Tensor] = {}
        for length in dict.fromkeys(one.conditioning.context.shape[1] for one in told):
            which = [i for i, one in enumerate(told) if one.conditioning.context.shape[1] == length]
            out = self._call(x[which], t[which], [told[i] for i in which])
            answers |= {i: out[row : row + 1] for row, i in enumerate(which)}
        return torch.cat([answers[i] for i in range(len(told))]).float()

    def _call(self, x: Tensor, t: Tensor, told: Sequence[Told]) -> Tensor:
        extra = [one.extra for one in told if one.extra is not None]
        if extra:
            x = torch.cat([x, torch.cat(extra)], dim=1)
        context = torch.cat([one.conditioning.context for one in told]).to(self.dtype)
        pooled = [one.conditioning.pooled for one in told if one.conditioning.pooled is not None]
        sizes = [one.sizes for one in told if one.sizes is not None]
        vector = None
        if sizes:
            vector = self.model.vector(torch.cat(pooled), torch.cat(sizes)).to(self.dtype)
        x = x.to(self.dtype)
        steers = [one.steers for one in told]
        if not any(steers):
            out: Tensor = self.unet(x, t, context, vector)
            return out
        added = steering(steers, self.unet.config, x, t, context, vector)
        out = self.unet(x, t, context, vector, *added)
        return out


class Masked:
    """A denoiser that keeps what lies outside a mask.

    With `held`, the noise that lies on the picture there, x too is set to picture and noise before
    every call at a level under `below`, as diffusers does; without, only the answer is, as A1111
    does.
    """

    def __init__(
        self,
        denoise: Guided[Told],
        latent: Tensor,  # [1, z, h, w] of the picture
        mask: Tensor,  # [1, 1, h, w] 1 is repainted
        held: Tensor | None = None,  # [1, z, h, w]
        below: float = math.inf,
    ):
        self.denoise, self.latent, self.mask = denoise, latent, mask
        self.held, self.below = held, below

    def __call__(self, x: Tensor, sigma: float) -> Tensor:
        return self._kept(self.denoise(self._noised(x, sigma), sigma))

    def pair(self, x: Tensor, sigma: float) -> tuple[Tensor, Tensor]:
        clean, other = self.denoise.pair(self._noised(x, sigma), sigma)
        return self._kept(clean), self._kept(other)

    def _noised(self, x: Tensor, sigma: float) -> Tensor:
        if self.held is None or sigma >= self.below:
            return x
        return torch.where(self.mask > 0, x, self.latent + self.held * sigma)

    def _kept(self, clean: Tensor) -> Tensor:
        return torch.where(self.mask > 0, clean, self.latent)


@contextmanager
def seamless(*networks: nn.Module, wanted: bool = True) -> Iterator[None]:
    """Inside, every convolution sees the opposite edge beyond an edge: results can be tiled."""
    every = (m for network in networks for m in network.modules()) if wanted else ()
    convolutions = [m for m in every if isinstance(m, nn.Conv2d)]
    before = [c.padding_mode for c in convolutions]
    try:
        for convolution in convolutions:
            convolution.padding_mode = "circular"
        yield
    finally:
        for convolution, mode in zip(convolutions, before, strict=True):
            convolution.padding_mode = mode
