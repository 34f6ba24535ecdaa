"""Losses beyond reconstruction: colours of the destination, codes that pass for the source's.

What they measure and their weights are DeepFaceLab's SAEHD's.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from accel.faces.autoencoder import AutoencoderConfig, initialise
from accel.faces.autoencoder_loss import dssim, gaussian_blur, windows

STYLE, BACKGROUND = 100.0, 10.0  # of face_style and background_style of one
CRITIC_CHANNELS, CRITIC_MOST = 256, 8
SLOPE = 0.1
SMALL = 1e-5


def face_style_loss(face: Tensor, target: Tensor, mask: Tensor) -> Tensor:  # [B, 3, R, R] -> [B]
    """How far mean and spread of the face's colours, blurred, are from the target's."""
    face, target, mask = face.float(), target.float(), mask.float()
    sigma = face.shape[-1] // 8
    a, b = (gaussian_blur(t * mask, sigma) for t in (face, target))
    far = (a.mean((2, 3)) - b.mean((2, 3))).square()
    wide = (_spread(a) - _spread(b)).square()
    return STYLE * (far + wide).mean(1)


def background_style_loss(face: Tensor, target: Tensor, mask: Tensor) -> Tensor:  # -> [B]
    """How far what lies around the face is from what lies around the target's."""
    face, target, outside = face.float(), target.float(), 1 - mask.float()
    a, b = face * outside, target * outside
    loss = BACKGROUND * (a - b).square().mean((1, 2, 3))
    _, window = windows(face.shape[-1])[0]
    return loss + BACKGROUND * dssim(b, a, window).mean(1)


def _spread(x: Tensor) -> Tensor:
    return (x.var((2, 3), correction=0) + SMALL).sqrt()


class CodeCritic(nn.Module):
    """Tells codes of the source's faces from codes of the destination's."""

    def __init__(self, config: AutoencoderConfig, generator: torch.Generator | None = None):
        super().__init__()
        side = config.dense_px * (1 if config.has("t") else 2)
        before = config.ae_dims
        self.convs = nn.ModuleList()
        for i in range(1 + side // 8):
            channels = CRITIC_CHANNELS * min(2**i, CRITIC_MOST)
            kernel = 4 if i == 0 else 3
            self.convs.append(nn.Conv2d(before, channels, kernel, stride=2, padding=1))
            before = channels
        self.out_conv = nn.Conv2d(before, 1, 1)
        initialise(self, generator)

    def forward(self, code: Tensor) -> Tensor:  # [B, C, side, side] -> logits
        for conv in self.convs:
            code = F.leaky_relu(conv(code), SLOPE)
        logits: Tensor = self.out_conv(code)
        return logits


def verdict(logits: Tensor, source: bool) -> Tensor:  # -> [B]
    """How wrong it is to say so, on average over places."""
    logits = logits.float()
    wanted = torch.full_like(logits, float(source))
    return F.binary_cross_entropy_with_logits(logits, wanted, reduction="none").mean((1, 2, 3))
