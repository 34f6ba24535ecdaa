"""Judge a small model by retrieval: is a sample's nearest true picture the one asked for?

Nearness is the mean absolute difference of 16 x 16 thumbnails on white.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from accel.nn.text import ClipText
from accel.nn.unet import Unet
from accel.nn.vae import Vae
from accel.sampling.guidance import Prompted, guided
from accel.sampling.ode import dpmpp_2m
from accel.sampling.schedules import NoiseSchedule, karras
from accel.training.diffusion.emoji import STYLES, Emoji
from accel.training.diffusion.pictures import Pictures
from accel.training.diffusion.run import composite

Array = NDArray[Any]
STEPS, GUIDANCE = 20, 3.0
THUMBNAIL_PX = 16


@dataclass(frozen=True)
class Score:
    """concept: share of samples whose nearest picture (in their own style) shows what was asked.

    style: share whose nearest picture of the concept asked for has the style asked for; None where
    pictures have no styles.
    """

    concept: float
    style: float | None
    psnr_db: float

    def __str__(self) -> str:
        style = "" if self.style is None else f" style@1 {self.style:.2f}"
        return f"concept@1 {self.concept:.2f}{style} psnr {self.psnr_db:.1f} dB"


@torch.no_grad()
def sample(
    text: ClipText,
    unet: Unet,
    rows: Tensor,  # [B, tokens] token rows of the prompts
    empty: Tensor,  # [1, tokens] of the empty prompt
    noise: Tensor,  # [B, 4, 16, 16]
    prediction: str = "v",
) -> Tensor:  # [B, 4, 16, 16] latents
    """Twenty steps of DPM++ 2M, Karras."""
    without = text(empty).final.expand(len(rows), -1, -1)
    told = Prompted([(text(rows).final, 1.0)], without)
    schedule = NoiseSchedule.scaled_linear()
    sigmas = karras(schedule, STEPS)
    denoise = guided(
        lambda x, t, contexts: unet(x, t, torch.cat(list(contexts))),
        GUIDANCE, told, schedule, prediction,
    )  # fmt: skip
    return dpmpp_2m(denoise, noise * sigmas[0], sigmas)


@torch.no_grad()
def decode(vae: Vae, latents: Tensor) -> Tensor:  # [B, 3, 64, 64] in -1..1
    return torch.cat([vae.decode(part) for part in latents.split(32)]).clamp(-1, 1)


def shrunk(images: Tensor) -> Array:  # [B, 3, H, W] in -1..1 -> [B, 768] in 0..1
    small = F.adaptive_avg_pool2d(images, THUMBNAIL_PX).permute(0, 2, 3, 1).flatten(1)
    return np.asarray(small.numpy() / 2 + 0.5)


def score(
    images: Tensor,  # [B, 3, H, W] in -1..1
    asked: Sequence[int],  # the picture that each should be
    pictures: Pictures,
) -> Score:
    """Compare samples with every picture of the set."""
    small = shrunk(images)
    if isinstance(pictures, Emoji):
        return _by_style(small, asked, pictures.truth)
    truth = shrunk(composite(pictures.rgba, torch.ones(3)))
    nearest = [int(np.abs(truth - s).mean(-1).argmin()) for s in small]
    right = [pictures.labels[n] == pictures.labels[a] for n, a in zip(nearest, asked)]
    return Score(float(np.mean(right)), None, _psnr(small, truth[list(asked)]))


def _by_style(small: Array, asked: Sequence[int], truth: Array) -> Score:
    concept, style = [], []
    for picture, number in zip(small, asked, strict=True):
        wanted, drawn = divmod(number, len(STYLES))
        distance = np.abs(truth - picture).mean(-1)  # [concepts, styles]
        concept.append(distance[:, drawn].argmin() == wanted)
        style.append(distance[wanted].argmin() == drawn)
    flat = truth.reshape(-1, truth.shape[-1])
    return Score(float(np.mean(concept)), float(np.mean(style)), _psnr(small, flat[list(asked)]))


def _psnr(a: Array, b: Array) -> float:
    return float(np.mean(-10 * np.log10(np.square(a - b).mean(-1))))
