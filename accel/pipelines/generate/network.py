"""A checkpoint's UNet as the sampling package's guidance calls it, one picture at a time.

The UNet sees the same shapes whatever the number of pictures: matrix products of another batch size
may round otherwise, and a picture must not depend on its neighbours.
"""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from accel.models.stable_diffusion import Conditioning, StableDiffusion
from accel.nn.control import ControlNet
from accel.nn.perturb import perturbed
from accel.nn.reuse import Answers, Levels, Prompts, ReusingControl, ReusingUnet
from accel.nn.unet import Cut
from accel.pipelines.generate.controls import Steer, steering
from accel.pipelines.generate.step_cache import Added, StepCache, rows_of
from accel.sampling.guidance import Guided

if TYPE_CHECKING:
    from accel.pipelines.generate.graphs import GraphedRun

MOST_BATCHES = 8  # combinations of prompts whose keys and values are kept: SDXL's take 50 MB a row


@dataclass(frozen=True)
class Told:
    """What one call of the network is told beside x.

    sizes: [1, size_numbers] for networks that take them (SDXL). extra: [1, channels, H, W] that
    inpainting and editing networks see beside x. steers: controls that are in effect. gate: "last"
    at the call whose cross attention is kept, "after" at those that get it again.
    """

    conditioning: Conditioning
    sizes: Tensor | None = None
    extra: Tensor | None = None
    steers: tuple[Steer, ...] = ()
    gate: str = ""


class Known:
    """What the layers of one run have made of its prompts and timesteps, for all its pictures.

    unet, blind: the network, and the one for perturbed attention. graphed: passes that were
    captured on a GPU. With weights that are changed, take a new one.
    """

    def __init__(
        self,
        model: StableDiffusion,
        dtype: torch.dtype,
        *,
        merging: float = 0.0,
        pag: bool = False,
        guidance: float | None = None,  # for networks that are told it
    ):
        self.model, self.dtype = model, dtype
        self.unet = ReusingUnet(model.unet, merging)
        self.blind = ReusingUnet(perturbed(model.unet), merging) if pag else None
        self.levels = Levels(model.unet, dtype, guidance)
        self.graphed: dict[tuple[Any, ...], GraphedRun] = {}
        self._controls: dict[ControlNet, tuple[ReusingControl, Levels]] = {}
        self._batches: OrderedDict[tuple[int, ...], tuple[Prompts, Sequence[Told]]] = OrderedDict()

    def control(self, network: ControlNet) -> tuple[ReusingControl, Levels]:
        if network not in self._controls:
            self._controls[network] = ReusingControl(network), Levels(network, self.dtype)
        return self._controls[network]

    def prompts(self, told: Sequence[Told]) -> Prompts:
        key = tuple(id(part) for one in told for part in (one.conditioning, one.sizes))
        if key not in self._batches:
            # What the key names is held too: the id of what is gone may come back.
            self._batches[key] = Prompts(*batched(self.model, self.dtype, told)), told
            if len(self._batches) > MOST_BATCHES:
                self._batches.popitem(last=False)
        self._batches.move_to_end(key)
        return self._batches[key][0]


def batched(
    model: StableDiffusion, dtype: torch.dtype, told: Sequence[Told]
) -> tuple[Tensor, Tensor | None]:
    """Context and vector for a call of the UNet."""
    context = torch.cat([one.conditioning.context for one in told]).to(dtype)
    pooled = [one.conditioning.pooled for one in told if one.conditioning.pooled is not None]
    sizes = [one.sizes for one in told if one.sizes is not None]
    if not sizes:
        return context, None
    return context, model.vector(torch.cat(pooled), torch.cat(sizes)).to(dtype)


class Network:
    """The UNet of one pass over one picture."""

    def __init__(
        self,
        model: StableDiffusion,
        dtype: torch.dtype,
        unet: ReusingUnet | None = None,
        known: Known | None = None,
        *,
        one_by_one: bool = False,
        cache: StepCache | None = None,
    ):
        """unet: in place of the model's own, with `known`. one_by_one: each prompt in its own call.
        cache: for step caching.
        """
        self.model, self.dtype, self.unet, self.known = model, dtype, unet, known
        self.one_by_one, self.cache, self.answers = one_by_one, cache, Answers()

    def __call__(
        self,
        x: Tensor,  # [N, 4, H, W] scaled, one picture N times over
        t: Tensor,  # [N] the same N times, on the CPU
        told: Sequence[Told],  # N
    ) -> Tensor:  # [N, 4, H, W] float32
        """One call for prompts of equal length, one more for each other length."""
        gate = told[0].gate
        if gate == "last":
            self.answers.clear()
        elif gate == "after":
            self.answers.freeze()
        if self.cache is not None:
            self.cache.begin(whole=gate == "last")
        if self.one_by_one:
            alone = [self._call(x[i : i + 1], t[i : i + 1], told[i : i + 1]) for i in range(len(x))]
            return torch.cat(alone).float()
        answers: dict[int, Tensor] = {}
        for length in dict.fromkeys(one.conditioning.context.shape[1] for one in told):
            which = [i for i, one in enumerate(told) if one.conditioning.context.shape[1] == length]
            out = self._call(rows_of(x, which), rows_of(t, which), [told[i] for i in which])
            answers |= {i: out[row : row + 1] for row, i in enumerate(which)}
        return torch.cat([answers[i] for i in range(len(told))]).float()

    def _call(self, x: Tensor, t: Tensor, told: Sequence[Told]) -> Tensor:
        extra = [one.extra for one in told if one.extra is not None]
        if extra:
            x = torch.cat([x, torch.cat(extra)], dim=1)
        x = x.to(self.dtype)
        if self.unet is None or self.known is None:  # an exported one
            context, vector = batched(self.model, self.dtype, told)
            out: Tensor = self.model.unet(x, t.to(x.device), context, vector)
            return out
        prompts, levels = self.known.prompts(told), self.known.levels
        answers = self.answers if told[0].gate else None
        recalled = None if self.cache is None else self.cache.recall(told)
        if recalled is not None:
            cut, added = recalled
            return self.unet(x, float(t[0]), prompts, levels, *added, cut=cut, answers=answers)
        fresh = None if self.cache is None else Cut(self.cache.branch)
        added = self._steered(x, float(t[0]), prompts, told, self.known)
        out = self.unet(x, float(t[0]), prompts, levels, *added, cut=fresh, answers=answers)
        if self.cache is not None and fresh is not None:
            self.cache.keep(told, fresh, added)
        return out

    def _steered(
        self, x: Tensor, t: float, prompts: Prompts, told: Sequence[Told], known: Known
    ) -> Added:
        steers = [one.steers for one in told]
        if not any(steers):
            return None, None
        return steering(steers, self.model.unet.config, x, t, prompts, known)


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
