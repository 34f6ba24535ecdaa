"""ControlNet: a copy of the UNet's way down that sees a picture and steers the UNet's skips.

Source: Zhang et al. 2023 (arXiv:2302.05543). Parameter names are those that follow
`control_model.` in a single-file checkpoint.
"""

from __future__ import annotations

from itertools import pairwise

from torch import Tensor, nn

from accel.nn.conv import Conv2d
from accel.nn.layers import channels_last
from accel.nn.unet import Trunk, UnetConfig

HINT_WIDTHS = (16, 32, 96, 256)  # channels of the picture's own layers; each after the first halves


class ControlNet(Trunk):
    """Gives what is added to each skip of the UNet and to its middle, in that order."""

    def __init__(self, config: UnetConfig, hint_channels: int = 3):
        super().__init__(config)
        self.hint_channels = hint_channels
        self.zero_convs = nn.ModuleList(nn.Sequential(Conv2d(w, w, 1)) for w in self.skip_widths)
        self.input_hint_block = hint_block(hint_channels, config.channels)
        width = self.skip_widths[-1]
        self.middle_block_out = nn.Sequential(Conv2d(width, width, 1))

    def forward(
        self,
        x: Tensor,  # [B, in_channels, H, W] scaled noisy latent
        hint: Tensor,  # [B, hint_channels, 8 H, 8 W] picture in 0..1
        t: Tensor,  # [B] timesteps
        context: Tensor,  # [B, tokens, context_width] prompt
        vector: Tensor | None = None,  # [B, vector_width] exactly for networks that have it
        scale: float = 1.0,
    ) -> list[Tensor]:  # for Unet's `control`
        self.check(x, t, context, vector)
        batch, _, height, width = x.shape
        wanted = (batch, self.hint_channels, 8 * height, 8 * width)
        if tuple(hint.shape) != wanted:
            raise ValueError(f"ControlNet: hint must be {wanted}, got {tuple(hint.shape)}")
        return self.steer(x, self.seen(hint), self.embed(t, vector, x.dtype), context, scale)

    def seen(
        self,
        hint: Tensor,  # [B, hint_channels, 8 H, 8 W] picture in 0..1
    ) -> Tensor:  # [B, channels, H, W] what of it goes into the network, the same at every step
        return self.input_hint_block(channels_last(hint))

    def steer(
        self,
        x: Tensor,  # [B, in_channels, H, W]
        seen: Tensor,  # [B or 1, channels, H, W]
        embedding: Tensor,  # [B, 4 * channels] of timestep and vector; goes to residual blocks
        context: Tensor,  # [B, tokens, context_width]; goes to transformers
        scale: float = 1.0,
    ) -> list[Tensor]:
        """As `forward`, of what `seen` and `embed` gave."""
        h, control = channels_last(x), []
        for i, (block, conv) in enumerate(zip(self.input_blocks, self.zero_convs, strict=True)):
            h = block(h, embedding, context)
            if i == 0:
                h = h + seen
            control.append(conv(h) * scale)
        h = self.middle_block(h, embedding, context)
        return [*control, self.middle_block_out(h) * scale]


def hint_block(inputs: int, outputs: int) -> nn.Sequential:
    """Convolutions with SiLU between them, down to an eighth of the side."""
    first = HINT_WIDTHS[0]
    layers: list[nn.Module] = [
        Conv2d(inputs, first, 3, padding=1),
        nn.SiLU(),
        Conv2d(first, first, 3, padding=1),
        nn.SiLU(),
    ]
    for before, width in pairwise(HINT_WIDTHS):
        layers += [Conv2d(before, width, 3, stride=2, padding=1), nn.SiLU()]
        if width != HINT_WIDTHS[-1]:
            layers += [Conv2d(width, width, 3, padding=1), nn.SiLU()]
    layers.append(Conv2d(HINT_WIDTHS[-1], outputs, 3, padding=1))
    return nn.Sequential(*layers)
