"""T2I-Adapter: a small network that turns a picture into features added on the UNet's way down.

Source: Mou et al. 2023 (arXiv:2302.08453). Parameter names are those that follow `adapter.` in
diffusers' files.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch.nn.functional as F
from torch import Tensor, nn

from accel.core import ConfigError
from accel.nn.unet import UnetConfig

KINDS = ("full", "full-xl", "light")


@dataclass(frozen=True, kw_only=True)
class AdapterConfig:
    """Sizes of one adapter.

    kind: "full" and "light" for SD 1.x, "full-xl" for SDXL, whose levels halve otherwise.
    in_channels: of the picture: 3, or 1 for sketches.
    channels: of each feature, in the UNet's widths.
    blocks: residual blocks a feature.
    factor: pixels along one side that become channels at the start.
    """

    kind: str = "full"
    in_channels: int = 3
    channels: tuple[int, ...] = (320, 640, 1280, 1280)
    blocks: int = 2
    factor: int = 8

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise ConfigError(f"AdapterConfig: kind must be one of {KINDS}, got {self.kind!r}")
        if len(self.channels) < 2:
            raise ConfigError(f"AdapterConfig: channels must be several, got {self.channels}")

    @property
    def halvings(self) -> tuple[bool, ...]:
        """Whether a feature has half the side of the one before."""
        if self.kind == "full-xl":
            return tuple(i == 2 for i in range(len(self.channels)))
        return tuple(i > 0 for i in range(len(self.channels)))


class Adapter(nn.Module):
    """Gives one feature for each of `places`."""

    def __init__(self, config: AdapterConfig):
        super().__init__()
        self.config = config
        pixels = config.in_channels * config.factor**2
        widths = (config.channels[0], *config.channels)
        if config.kind == "light":
            widths = (pixels, *config.channels)
        else:
            self.conv_in = nn.Conv2d(pixels, config.channels[0], 3, padding=1)
        kind = LightStage if config.kind == "light" else FullStage
        self.body = nn.ModuleList(
            kind(before, width, config.blocks, halves)
            for before, width, halves in zip(widths, config.channels, config.halvings, strict=False)
        )

    def forward(
        self,
        image: Tensor,  # [B, in_channels, H, W] in 0..1; H and W multiples of config.factor
    ) -> list[Tensor]:  # [B, channels, ...], from the largest to the smallest
        unit, inputs = self.config.factor, self.config.in_channels
        if image.ndim != 4 or image.shape[1] != inputs or any(s % unit for s in image.shape[2:]):
            raise ValueError(
                f"Adapter: image must be [B, {inputs}, H, W] with H and W multiples of {unit},"
                f" got {tuple(image.shape)}"
            )
        h = F.pixel_unshuffle(image, self.config.factor)
        if self.config.kind != "light":
            h = self.conv_in(h)
        features = []
        for stage in self.body:
            h = stage(h)
            features.append(h)
        return features


def halved(x: Tensor, halves: bool) -> Tensor:
    return F.avg_pool2d(x, 2, ceil_mode=True) if halves else x


class Block(nn.Module):
    def __init__(self, channels: int, last_kernel: int):
        super().__init__()
        self.block1 = nn.Conv2d(channels, channels, 3, padding=1)
        self.block2 = nn.Conv2d(channels, channels, last_kernel, padding=last_kernel // 2)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.block2(F.relu(self.block1(x)))


class FullStage(nn.Module):
    def __init__(self, before: int, channels: int, blocks: int, halves: bool):
        super().__init__()
        self.halves = halves
        if before != channels:
            self.in_conv = nn.Conv2d(before, channels, 1)
        self.resnets = nn.Sequential(*(Block(channels, 1) for _ in range(blocks)))

    def forward(self, x: Tensor) -> Tensor:
        x = halved(x, self.halves)
        return self.resnets(self.in_conv(x) if hasattr(self, "in_conv") else x)


class LightStage(nn.Module):
    def __init__(self, before: int, channels: int, blocks: int, halves: bool):
        super().__init__()
        self.halves = halves
        self.in_conv = nn.Conv2d(before, channels // 4, 1)
        self.resnets = nn.Sequential(*(Block(channels // 4, 3) for _ in range(blocks)))
        self.out_conv = nn.Conv2d(channels // 4, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.out_conv(self.resnets(self.in_conv(halved(x, self.halves))))


def places(config: UnetConfig) -> list[int]:
    """The UNet's input blocks behind which features are added; one past the last is the middle.

    After the last residual block of each level; a level without transformers and with one below
    it (SDXL's first) gets its feature after it was halved. SDXL has one more, for the middle.
    """
    found, levels = [], len(config.channel_mult)
    for level in range(levels):
        last = level * (config.res_blocks + 1) + config.res_blocks
        late = config.transformer_depth[level] == 0 and level < levels - 1
        found.append(last + 1 if late else last)
    if config.transformer_depth[-1]:
        found.append(levels * (config.res_blocks + 1))
    return found


def placed(features: Sequence[Tensor], config: UnetConfig, scale: float = 1.0) -> dict[int, Tensor]:
    """For Unet's `features`; raises ValueError where there are more than the UNet has places."""
    at = places(config)
    if len(features) > len(at):
        raise ValueError(f"placed: features must be at most {len(at)}, got {len(features)}")
    return {place: feature * scale for place, feature in zip(at, features, strict=False)}
