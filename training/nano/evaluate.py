"""Judge `nano` by retrieval: is a sample's nearest true picture one of the concept asked for?

    python -m training.nano.evaluate DATA.npz nano.safetensors SHEET.png [--pairs N] [--seeds N]

Nearness is the mean absolute difference of 16 x 16 thumbnails on white, against every concept in
the sample's own style (concept@1) and in every style (style@1: the nearest picture of the right
concept has the right style). Pairs that were held out of training are counted apart.
"""

from __future__ import annotations

import argparse
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from accel.nn.text import ClipText
from accel.nn.unet import Unet
from accel.nn.vae import Vae
from accel.sampling.ode import dpmpp_2m
from accel.sampling.parameterise import denoiser, guided
from accel.sampling.schedules import NoiseSchedule, karras
from training.nano.captions import STYLES, thumbnails
from training.nano.common import load_pictures, save_sheet

STEPS, GUIDANCE = 20, 3.0


@dataclass(frozen=True)
class Pair:
    """One concept in one style; `concept` counts the chosen concepts."""

    concept: int
    style: int


@dataclass(frozen=True)
class Score:
    concept: float  # share of samples whose nearest picture shows the concept asked for
    style: float
    psnr_db: float

    def __str__(self) -> str:
        return f"concept@1 {self.concept:.2f} style@1 {self.style:.2f} psnr {self.psnr_db:.1f} dB"


@torch.no_grad()
def sample(
    text: ClipText,
    unet: Unet,
    rows: Tensor,  # [B, tokens] token rows of the prompts
    empty: Tensor,  # [1, tokens] of the empty prompt
    noise: Tensor,  # [B, 4, 16, 16]
    prediction: str = "v",
) -> Tensor:  # [B, 4, 16, 16] latents
    batch = len(rows)
    context = torch.cat([text(empty).final.expand(batch, -1, -1), text(rows).final])
    schedule = NoiseSchedule.scaled_linear()
    predict = guided(lambda x, t: unet(x, t, context), GUIDANCE)
    sigmas = karras(schedule, STEPS)
    return dpmpp_2m(denoiser(predict, schedule, prediction), noise * sigmas[0], sigmas)


@torch.no_grad()
def decode(vae: Vae, latents: Tensor) -> Tensor:  # [B, 3, 64, 64] in -1..1
    return torch.cat([vae.decode(part) for part in latents.split(32)]).clamp(-1, 1)


def score(
    images: Tensor,  # [B, 3, 64, 64] in -1..1
    pairs: list[Pair],
    truth: np.ndarray,  # [concepts, styles, 768] thumbnails, 0..1
) -> Score:
    small = F.avg_pool2d(images, 4).permute(0, 2, 3, 1).flatten(1).numpy() / 2 + 0.5
    concept, style, quality = [], [], []
    for picture, pair in zip(small, pairs, strict=True):
        distance = np.abs(truth - picture).mean(-1)  # [concepts, styles]
        concept.append(distance[:, pair.style].argmin() == pair.concept)
        style.append(distance[pair.concept].argmin() == pair.style)
        error = np.square(truth[pair.concept, pair.style] - picture).mean()
        quality.append(-10 * np.log10(error))
    return Score(float(np.mean(concept)), float(np.mean(style)), float(np.mean(quality)))


def main() -> None:
    from training.nano.export import load

    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("data", type=Path)
    parser.add_argument("model", type=Path)
    parser.add_argument("sheet", type=Path)
    parser.add_argument("--pairs", type=int, default=64, help="of each kind, at most")
    parser.add_argument("--seeds", type=int, default=1)
    args = parser.parse_args()
    model = load(args.model)
    data = load_pictures(args.data)
    labels = [str(label).lower() for label in data["label"]]
    truth = thumbnails(data)[[labels.index(label) for label in model.labels]]

    everything = [Pair(c, s) for c in range(len(model.labels)) for s in range(len(STYLES))]
    held_out = [p for p in everything if (p.concept, p.style) in model.held_out]
    learnt = [p for p in everything if (p.concept, p.style) not in model.held_out]
    rows = []
    for kind, pairs in (("trained", learnt), ("held out", held_out)):
        order = torch.randperm(len(pairs), generator=torch.Generator().manual_seed(0)).tolist()
        chosen = [pairs[i] for i in order[: args.pairs]]
        prompts = [f"{model.labels[p.concept]}, {STYLES[p.style]} style" for p in chosen]
        for seed in range(args.seeds):
            noise = torch.randn(
                len(chosen), 4, 16, 16, generator=torch.Generator().manual_seed(seed)
            )
            latents = sample(model.text, model.unet, model.rows(prompts), model.rows([""]), noise)
            images = decode(model.vae, latents)
            rows.append(images[:16])
            print(f"{kind}, seed {seed}: {score(images, chosen, truth)}")
    save_sheet(args.sheet, rows)


if __name__ == "__main__":
    main()
