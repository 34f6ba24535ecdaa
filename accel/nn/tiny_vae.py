"""TAESD: an autoencoder in small that stands in for the large one, for previews and speed.

It speaks the same latents, as the diffusion model sees them (scaled). Parameter names are those of
its own files, `taesd_encoder` and `taesd_decoder`, numbered as they lie in a row.

Source: Ollin Boer Bohan, https://github.com/madebyollin/taesd.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from accel.nn.conv import Conv2d
from accel.nn.layers import channels_last, upsample

WIDTH = 64
HALVINGS = 3
BLOCKS = 3  # a level
LATENT_REACH = 3.0  # latents are squashed softly to within this


class TinyBlock(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Sequential(
            conv(WIDTH, WIDTH), nn.ReLU(), conv(WIDTH, WIDTH), nn.ReLU(), conv(WIDTH, WIDTH)
        )

    def forward(self, x: Tensor) -> Tensor:
        first, _, second, _, third = self.conv
        h = second(first(x, slope=0.0), slope=0.0)  # with the ReLU of the list, fused
        return third(h, residual=x, slope=0.0)


class Double(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return upsample(x)


class Squash(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return torch.tanh(x / LATENT_REACH) * LATENT_REACH


class TinyEncoder(nn.Sequential):
    def __init__(self, latent_channels: int = 4):
        layers: list[nn.Module] = [conv(3, WIDTH), TinyBlock()]
        for _ in range(HALVINGS):
            layers.append(Conv2d(WIDTH, WIDTH, 3, stride=2, padding=1, bias=False))
            layers += [TinyBlock() for _ in range(BLOCKS)]
        super().__init__(*layers, conv(WIDTH, latent_channels))

    def forward(
        self,
        image: Tensor,  # [B, 3, H, W] in -1..1; H and W multiples of 8
    ) -> Tensor:  # [B, latent_channels, H/8, W/8] scaled, as the diffusion model sees it
        return super().forward(channels_last(image) * 0.5 + 0.5)


class TinyDecoder(nn.Sequential):
    def __init__(self, latent_channels: int = 4):
        layers: list[nn.Module] = [Squash(), conv(latent_channels, WIDTH), nn.ReLU()]
        for _ in range(HALVINGS):
            layers += [TinyBlock() for _ in range(BLOCKS)]
            layers += [Double(), Conv2d(WIDTH, WIDTH, 3, padding=1, bias=False)]
        super().__init__(*layers, TinyBlock(), conv(WIDTH, 3))

    def forward(
        self,
        latent: Tensor,  # [B, latent_channels, h, w] scaled, as the diffusion model makes it
    ) -> Tensor:  # [B, 3, 8h, 8w] about -1..1, not clamped
        return super().forward(channels_last(latent)) * 2 - 1


def conv(inputs: int, outputs: int) -> Conv2d:
    return Conv2d(inputs, outputs, 3, padding=1)
