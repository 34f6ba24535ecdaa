"""The cross-attention UNet of latent diffusion: SD 1.x, 2.x, SDXL and their inpainting kin.

Sources: Rombach et al. 2022 (arXiv:2112.10752); Podell et al. 2023 (arXiv:2307.01952) for the
second conditioning vector. Parameter names are those that follow `model.diffusion_model.` in a
single-file checkpoint, so the numbered `nn.Sequential`s below are part of the format.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from accel.core import ConfigError
from accel.nn.attention import SpatialTransformer
from accel.nn.conv import Conv2d, Linear
from accel.nn.layers import channels_last, norm_silu, sinusoids, upsample

EPS = 1e-5


@dataclass(frozen=True, kw_only=True)
class UnetConfig:
    """Sizes of one UNet.

    in_channels: 4; 9 with a mask and a masked picture (inpainting); 8 with a picture (edits).
    channels, channel_mult: width at each level, full resolution first.
    res_blocks: residual blocks a level on the way down; one more on the way up.
    transformer_depth: transformer blocks after each residual block, per level (0: none).
    middle_depth: transformer blocks in the middle.
    heads or head_width: number of heads everywhere, or their width; the other is 0.
    linear_projection: see SpatialTransformer.
    vector_width: length of the second conditioning vector (SDXL); 0 when there is none.
    guidance_width: length of the embedded guidance scale that distilled networks are told (LCM:
        256); 0 for all others.
    feedforward_mult: hidden width of the transformers' feed-forward, in widths.
    """

    in_channels: int = 4
    out_channels: int = 4
    channels: int = 320
    channel_mult: tuple[int, ...] = (1, 2, 4, 4)
    res_blocks: int = 2
    transformer_depth: tuple[int, ...] = (1, 1, 1, 0)
    middle_depth: int = 1
    context_width: int = 768
    heads: int = 8
    head_width: int = 0
    linear_projection: bool = False
    vector_width: int = 0
    guidance_width: int = 0
    feedforward_mult: int = 4
    norm_groups: int = 32

    def __post_init__(self) -> None:
        if len(self.transformer_depth) != len(self.channel_mult):
            raise ConfigError(
                "UnetConfig: transformer_depth must have one entry a level,"
                f" got {self.transformer_depth} for {len(self.channel_mult)} levels"
            )
        if (self.heads > 0) == (self.head_width > 0):
            raise ConfigError(
                "UnetConfig: one of heads and head_width must be above 0 and the other 0,"
                f" got {self.heads} and {self.head_width}"
            )
        levels = zip(self.widths, (*self.transformer_depth[:-1], self.middle_depth), strict=True)
        for width, depth in levels:
            parts = (self.heads or self.head_width) if depth else 1
            if width % self.norm_groups or width % parts:
                raise ConfigError(
                    f"UnetConfig: every level's width {self.widths} must be a multiple of"
                    f" norm_groups {self.norm_groups} and of heads or head_width"
                    f" {self.heads or self.head_width}"
                )

    @property
    def widths(self) -> tuple[int, ...]:
        return tuple(self.channels * m for m in self.channel_mult)


class Trunk(nn.Module):
    """The way down and the middle, which the UNet and its control network have in common."""

    def __init__(self, config: UnetConfig):
        super().__init__()
        self.config = config
        width, time_width = config.channels, 4 * config.channels
        self.time_embed = TimeEmbed(width, time_width, config.guidance_width)
        if config.vector_width:
            self.label_emb = nn.Sequential(mlp(config.vector_width, time_width))

        first = Conv2d(config.in_channels, width, 3, padding=1)
        self.input_blocks = nn.ModuleList([Stage(first)])
        self.skip_widths = [width]  # of each input block's result
        for level, out in enumerate(config.widths):
            depth = config.transformer_depth[level]
            for _ in range(config.res_blocks):
                self.input_blocks.append(stage(config, width, out, depth))
                width = out
                self.skip_widths.append(width)
            if level < len(config.widths) - 1:
                self.input_blocks.append(Stage(Downsample(width)))
                self.skip_widths.append(width)

        self.middle_block = Stage(
            *stage(config, width, width, config.middle_depth),
            ResBlock(width, width, time_width, config.norm_groups),
        )

    def embed(
        self,
        t: Tensor,  # [B]
        vector: Tensor | None,
        dtype: torch.dtype,
        guidance: float | None = None,  # scale, for networks that are told it
    ) -> Tensor:  # [B, 4 * channels]
        embedding = self.time_embed(sinusoids(t, self.config.channels).to(dtype), guidance)
        return embedding if vector is None else embedding + self.label_emb(vector)

    def check(self, x: Tensor, t: Tensor, context: Tensor, vector: Tensor | None) -> None:
        """Raise ValueError, naming the argument, unless all shapes fit each other."""
        name, config = type(self).__name__, self.config
        if x.ndim != 4 or x.shape[1] != config.in_channels or 0 in x.shape[2:]:
            raise ValueError(
                f"{name}: x must be [B, {config.in_channels}, H, W], got {tuple(x.shape)}"
            )
        batch = x.shape[0]
        if t.shape != (batch,):
            raise ValueError(f"{name}: t must be [{batch}], got {tuple(t.shape)}")
        if context.ndim != 3 or context.shape[::2] != (batch, config.context_width):
            raise ValueError(
                f"{name}: context must be [{batch}, tokens, {config.context_width}],"
                f" got {tuple(context.shape)}"
            )
        wanted = (batch, config.vector_width) if config.vector_width else None
        got = None if vector is None else tuple(vector.shape)
        if wanted != got:
            raise ValueError(f"{name}: vector must be of shape {wanted}, got {got}")


class Unet(Trunk):
    """Predicts noise or velocity, whichever it was trained for."""

    def __init__(self, config: UnetConfig):
        super().__init__(config)
        skips, width = list(self.skip_widths), self.skip_widths[-1]
        self.output_blocks = nn.ModuleList()
        for level, out in reversed(list(enumerate(config.widths))):
            depth = config.transformer_depth[level]
            for i in range(config.res_blocks + 1):
                block = stage(config, width + skips.pop(), out, depth)
                width = out
                if level > 0 and i == config.res_blocks:
                    block.append(Upsample(width))
                self.output_blocks.append(block)

        last = Conv2d(width, config.out_channels, 3, padding=1)
        self.out = nn.Sequential(nn.GroupNorm(config.norm_groups, width, EPS), nn.SiLU(), last)

    def forward(
        self,
        x: Tensor,  # [B, in_channels, H, W] scaled noisy latent
        t: Tensor,  # [B] timesteps 0..999; fractions allowed
        context: Tensor,  # [B, tokens, context_width] prompt
        vector: Tensor | None = None,  # [B, vector_width] exactly for networks that have it
        control: Sequence[Tensor] | None = None,  # what a ControlNet adds: skips, then middle
        features: Mapping[int, Tensor] | None = None,  # what a T2I-Adapter adds: adapter.placed
        guidance: float | None = None,  # scale, for networks with guidance_width
    ) -> Tensor:  # [B, out_channels, H, W]
        self.check(x, t, context, vector)
        embedding = self.embed(t, vector, x.dtype, guidance)
        return self.predict(x, embedding, context, control, features)

    def predict(
        self,
        x: Tensor,  # [B, in_channels, H, W]
        embedding: Tensor,  # [B, 4 * channels] of timestep and vector; goes to residual blocks
        context: Tensor,  # [B, tokens, context_width]; goes to transformers
        control: Sequence[Tensor] | None = None,
        features: Mapping[int, Tensor] | None = None,
        cut: Cut | None = None,
    ) -> Tensor:  # [B, out_channels, H, W]
        """As `forward`, of what `embed` gave. With `cut` the deep part may be left out: see Cut."""
        whole = cut is None or cut.deep is None
        down, up = list(self.input_blocks), list(self.output_blocks)
        if cut is not None and not whole:
            down, up = down[: cut.branch + 1], up[-cut.branch - 1 :]
        h, skips, features = channels_last(x), [], features or {}
        for i, block in enumerate(down):
            h = block(h, embedding, context)
            if i in features:
                h = h + features[i]
            skips.append(h)
        extra = [] if control is None else list(control)
        if whole:
            h = self.middle_block(h, embedding, context)
            if len(skips) in features:
                h = h + features[len(skips)]
            if control is not None:
                h = h + extra.pop()
        if control is not None:
            skips = [skip + one for skip, one in zip(skips, extra, strict=True)]
        if cut is not None and not whole:
            assert cut.deep is not None
            h = cut.deep
        for block in up:
            if cut is not None and whole and len(skips) == cut.branch + 1:
                cut.deep = h
            h = torch.cat([h, skips.pop()], dim=1)
            h = block(h, embedding, context, skips[-1].shape[2:] if skips else None)
        norm, _, conv = self.out
        return conv(norm_silu(h, norm))


@dataclass
class Cut:
    """Where a UNet is cut for step caching (Ma et al. 2023, arXiv:2312.00858).

    branch: the skip connection at which; 0 is the outermost, then only the first block down and the
        last one up lie outside the cut. At most `len(unet.input_blocks) - 1`.
    deep: [B, C, H, W] what goes into the block that takes that skip. None: the whole network runs
        and fills this in; else only what lies outside the cut runs, and `control` has one entry
        for each of its skips and none for the middle.
    """

    branch: int
    deep: Tensor | None = None


class TimeEmbed(nn.Sequential):
    """Of a timestep's sinusoids; with `guidance_width`, of the guidance scale's added to them.

    Source: Meng et al. 2023 (arXiv:2210.03142); the scale is counted from 1, as Luo et al. 2023
    (arXiv:2310.04378) do.
    """

    def __init__(self, inputs: int, outputs: int, guidance_width: int):
        super().__init__(*mlp(inputs, outputs))
        self.guidance_width = guidance_width
        if guidance_width:
            self.cond_proj = Linear(guidance_width, inputs, bias=False)

    def forward(self, waves: Tensor, guidance: float | None = None) -> Tensor:  # type: ignore[override]
        if self.guidance_width and guidance is not None:
            waves = waves + self.cond_proj(self._told(guidance).to(waves))
        first, activation, second = list(self)[:3]
        return second(activation(first(waves)))

    def _told(self, guidance: float) -> Tensor:  # [1, guidance_width] sines, then cosines
        half = self.guidance_width // 2
        steps = torch.arange(half, dtype=torch.float32) * (-math.log(10000.0) / (half - 1))
        angles = 1000.0 * (guidance - 1) * steps.exp()
        return torch.cat([angles.sin(), angles.cos()])[None]


def mlp(inputs: int, outputs: int) -> nn.Sequential:
    return nn.Sequential(Linear(inputs, outputs), nn.SiLU(), Linear(outputs, outputs))


def stage(config: UnetConfig, inputs: int, outputs: int, depth: int) -> Stage:
    """One residual block and, where depth says so, the transformer after it."""
    block = Stage(ResBlock(inputs, outputs, 4 * config.channels, config.norm_groups))
    if depth:
        block.append(
            SpatialTransformer(
                outputs,
                config.context_width,
                config.heads or outputs // config.head_width,
                depth,
                linear=config.linear_projection,
                mult=config.feedforward_mult,
                groups=config.norm_groups,
            )
        )
    return block


class Stage(nn.Sequential):
    """Modules in a row, each given what it needs of the embedding, the prompt and the next size."""

    def forward(  # type: ignore[override]
        self, x: Tensor, embedding: Tensor, context: Tensor, size: Sequence[int] | None = None
    ) -> Tensor:
        for module in self:
            if isinstance(module, ResBlock):
                x = module(x, embedding)
            elif isinstance(module, SpatialTransformer):
                x = module(x, context)
            elif isinstance(module, Upsample):
                x = module(x, size)
            else:
                x = module(x)
        return x


class ResBlock(nn.Module):
    """Two convolutions around which the input is added; the time embedding comes between them."""

    def __init__(self, inputs: int, outputs: int, time_width: int, groups: int):
        super().__init__()
        self.in_layers = nn.Sequential(
            nn.GroupNorm(groups, inputs, EPS), nn.SiLU(), Conv2d(inputs, outputs, 3, padding=1)
        )
        self.emb_layers = nn.Sequential(nn.SiLU(), Linear(time_width, outputs))
        # The third entry was a dropout in training; it keeps the convolution's name.
        self.out_layers = nn.Sequential(
            nn.GroupNorm(groups, outputs, EPS),
            nn.SiLU(),
            nn.Identity(),
            Conv2d(outputs, outputs, 3, padding=1),
        )
        same = inputs == outputs
        self.skip_connection = nn.Identity() if same else Conv2d(inputs, outputs, 1)

    def forward(self, x: Tensor, embedding: Tensor) -> Tensor:
        norm1, _, conv1 = self.in_layers
        norm2, *_, conv2 = self.out_layers
        h = conv1(norm_silu(x, norm1), bias=self.emb_layers(embedding))
        return conv2(norm_silu(h, norm2), residual=self.skip_connection(x))


class Downsample(nn.Module):
    def __init__(self, channels: int):
        super().__init__()
        self.op = Conv2d(channels, channels, 3, stride=2, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return self.op(x)


class Upsample(nn.Module):
    """Twice the size, or what of it fits the level above: a side that is odd was halved upwards."""

    def __init__(self, channels: int):
        super().__init__()
        self.conv = Conv2d(channels, channels, 3, padding=1)

    def forward(
        self,
        x: Tensor,  # [B, C, H, W]
        size: Sequence[int] | None = None,  # height 2H or 2H - 1, and width
    ) -> Tensor:
        h = upsample(x)
        if size is not None and h.shape[2:] != tuple(size):
            h = channels_last(h[..., : size[0], : size[1]].contiguous())
        return self.conv(h)
