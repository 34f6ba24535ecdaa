"""The KL autoencoder of latent diffusion: pictures to a few channels at a fraction of their side.

Source: Rombach et al. 2022 (arXiv:2112.10752), appendix G. Parameter names are those that follow
`first_stage_model.` in a single-file checkpoint.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn

from accel.core import ConfigError
from accel.nn.conv import Conv2d
from accel.nn.layers import attention, channels_last, norm_silu, upsample

EPS = 1e-6


@dataclass(frozen=True, kw_only=True)
class VaeConfig:
    """Sizes of one autoencoder.

    latent_channels: channels of a latent.
    base_channels, channel_mult: channels at each level, the picture's own resolution first;
        every level after the first halves the side.
    res_blocks: residual blocks a level in the encoder; the decoder has one more.
    norm_groups: groups of every group normalisation; divides all channel counts.
    scale, shift: a latent as the diffusion model sees it is (mean - shift) * scale.
    """

    latent_channels: int = 4
    base_channels: int = 128
    channel_mult: tuple[int, ...] = (1, 2, 4, 4)
    res_blocks: int = 2
    norm_groups: int = 32
    scale: float = 0.18215
    shift: float = 0.0

    def __post_init__(self) -> None:
        for channels in self.channels:
            if channels % self.norm_groups:
                raise ConfigError(
                    f"VaeConfig: norm_groups must divide every level's channels {self.channels},"
                    f" got {self.norm_groups}"
                )

    @property
    def channels(self) -> tuple[int, ...]:
        return tuple(self.base_channels * m for m in self.channel_mult)

    @property
    def factor(self) -> int:
        """Picture pixels per latent pixel, along one side."""
        return 1 << (len(self.channel_mult) - 1)


class Vae(nn.Module):
    """Encoder and decoder; pictures are RGB in -1..1."""

    def __init__(self, config: VaeConfig):
        super().__init__()
        z = config.latent_channels
        self.config = config
        self.encoder = Encoder(config)
        self.decoder = Decoder(config)
        self.quant_conv = Conv2d(2 * z, 2 * z, 1)
        self.post_quant_conv = Conv2d(z, z, 1)

    def moments(
        self,
        image: Tensor,  # [B, 3, H, W] in -1..1; H and W multiples of config.factor
    ) -> tuple[Tensor, Tensor]:  # two [B, z, H/f, W/f]: mean and log-variance of the posterior
        factor = self.config.factor
        if image.ndim != 4 or image.shape[1] != 3 or any(s % factor for s in image.shape[2:]):
            raise ValueError(
                f"Vae: image must be [B, 3, H, W] with H and W multiples of {factor},"
                f" got {tuple(image.shape)}"
            )
        mean, log_variance = self.quant_conv(self.encoder(image)).chunk(2, dim=1)
        return mean, log_variance.clamp(-30.0, 20.0)

    def encode(
        self,
        image: Tensor,  # [B, 3, H, W] in -1..1
    ) -> Tensor:  # [B, z, H/f, W/f] the posterior's mean, shifted and scaled
        return (self.moments(image)[0] - self.config.shift) * self.config.scale

    def decode(
        self,
        latent: Tensor,  # [B, z, h, w] shifted and scaled, as the diffusion model makes it
    ) -> Tensor:  # [B, 3, f*h, f*w] about -1..1, not clamped
        mean = latent / self.config.scale + self.config.shift
        return self.decoder(self.post_quant_conv(mean))


class ResBlock(nn.Module):
    def __init__(self, inputs: int, outputs: int, groups: int):
        super().__init__()
        self.norm1 = nn.GroupNorm(groups, inputs, EPS)
        self.conv1 = Conv2d(inputs, outputs, 3, padding=1)
        self.norm2 = nn.GroupNorm(groups, outputs, EPS)
        self.conv2 = Conv2d(outputs, outputs, 3, padding=1)
        if inputs != outputs:
            self.nin_shortcut = Conv2d(inputs, outputs, 1)

    def forward(self, x: Tensor) -> Tensor:
        h = self.conv1(norm_silu(x, self.norm1))
        h = norm_silu(h, self.norm2)  # under one name: a picture of 512 pixels has 134 MB here
        shortcut = self.nin_shortcut(x) if hasattr(self, "nin_shortcut") else x
        return self.conv2(h, residual=shortcut)


class SelfAttention(nn.Module):
    """One head over all positions; checkpoints store the projections as 1x1 convolutions."""

    def __init__(self, channels: int, groups: int):
        super().__init__()
        self.norm = nn.GroupNorm(groups, channels, EPS)
        self.q = Conv2d(channels, channels, 1)
        self.k = Conv2d(channels, channels, 1)
        self.v = Conv2d(channels, channels, 1)
        self.proj_out = Conv2d(channels, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        y = norm_silu(x, self.norm, silu=False)
        q, k, v = (f(y).flatten(2).transpose(1, 2) for f in (self.q, self.k, self.v))
        out = attention(q, k, v, heads=1)  # [B, H * W, C]
        return self.proj_out(out.transpose(1, 2).unflatten(2, x.shape[2:]), residual=x)


class Middle(nn.Module):
    def __init__(self, channels: int, groups: int):
        super().__init__()
        self.block_1 = ResBlock(channels, channels, groups)
        self.attn_1 = SelfAttention(channels, groups)
        self.block_2 = ResBlock(channels, channels, groups)

    def forward(self, x: Tensor) -> Tensor:
        return self.block_2(self.attn_1(self.block_1(x)))


class Downsample(nn.Module):
    def __init__(self, channels: int):
        super().__init__()
        self.conv = Conv2d(channels, channels, 3, stride=2)

    def forward(self, x: Tensor) -> Tensor:
        # One row below and one column to the right, none on the other sides: as it was trained.
        return self.conv(F.pad(x, (0, 1, 0, 1)))


class Upsample(nn.Module):
    def __init__(self, channels: int):
        super().__init__()
        self.conv = Conv2d(channels, channels, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(upsample(x))


class Level(nn.Module):
    """The residual blocks of one resolution, then the change to the next one."""

    def __init__(self, inputs: int, outputs: int, blocks: int, groups: int):
        super().__init__()
        widths = [inputs] + [outputs] * blocks
        self.block = nn.ModuleList(ResBlock(i, o, groups) for i, o in pairwise(widths))

    def stages(self) -> Iterator[nn.Module]:
        """What a picture goes through, in order. Who runs them one by one keeps no older result."""
        yield from self.block
        for name in ("downsample", "upsample"):
            if hasattr(self, name):
                yield getattr(self, name)

    def forward(self, x: Tensor) -> Tensor:
        for stage in self.stages():
            x = stage(x)
        return x


def stages(levels: Iterable[Any]) -> Iterator[nn.Module]:
    for level in levels:
        yield from level.stages()


class Encoder(nn.Module):
    def __init__(self, config: VaeConfig):
        super().__init__()
        widths, groups = config.channels, config.norm_groups
        self.conv_in = Conv2d(3, widths[0], 3, padding=1)
        self.down = nn.ModuleList()
        for i, width in enumerate(widths):
            level = Level(widths[max(i - 1, 0)], width, config.res_blocks, groups)
            if i < len(widths) - 1:
                level.downsample = Downsample(width)
            self.down.append(level)
        self.mid = Middle(widths[-1], groups)
        self.norm_out = nn.GroupNorm(groups, widths[-1], EPS)
        self.conv_out = Conv2d(widths[-1], 2 * config.latent_channels, 3, padding=1)

    def forward(self, image: Tensor) -> Tensor:
        h = self.conv_in(channels_last(image))
        for stage in stages(self.down):
            h = stage(h)
        return self.conv_out(norm_silu(self.mid(h), self.norm_out))


class Decoder(nn.Module):
    """`up` counts from full resolution, so it is run from its end."""

    def __init__(self, config: VaeConfig):
        super().__init__()
        widths, groups = config.channels, config.norm_groups
        self.conv_in = Conv2d(config.latent_channels, widths[-1], 3, padding=1)
        self.mid = Middle(widths[-1], groups)
        self.up = nn.ModuleList()
        for i, width in enumerate(widths):
            below = widths[min(i + 1, len(widths) - 1)]
            level = Level(below, width, config.res_blocks + 1, groups)
            if i > 0:
                level.upsample = Upsample(width)
            self.up.append(level)
        self.norm_out = nn.GroupNorm(groups, widths[0], EPS)
        self.conv_out = Conv2d(widths[0], 3, 3, padding=1)

    def forward(self, latent: Tensor) -> Tensor:
        h = self.mid(self.conv_in(channels_last(latent)))
        for stage in stages(reversed(self.up)):
            h = stage(h)
        return self.conv_out(norm_silu(h, self.norm_out))
