"""Autoencoders in half precision: activations kept small, without changing the result.

SDXL's decoder has activations beyond 65504, the largest number of half precision, and gives black
pictures. But all that grows large is normalised before it is used: whatever scales the sum that
runs through the residual blocks, and what is inside a block before its second norm, falls out
again, if the norms' epsilon is scaled too. So weights in front of those places are made smaller
once; a power of two loses nothing.
"""

from __future__ import annotations

import torch
from torch import nn

from accel.core import ConfigError
from accel.nn.vae import Decoder, Downsample, Encoder, ResBlock, SelfAttention, Upsample, Vae

SCALE = 2.0**-5


@torch.no_grad()
def scale_activations(vae: Vae, scale: float = SCALE) -> None:
    """Scale the activations of both directions in place; results stay what they are.

    Weights that lie mapped to a file become the process's own. Doing it twice scales twice.
    """
    if not 0 < scale <= 1:
        raise ConfigError(f"scale must lie in 0..1, got {scale}")
    for module in vae.modules():
        if isinstance(module, Encoder | Decoder):
            shrink(module.conv_in, scale)
            module.norm_out.eps *= scale * scale
        elif isinstance(module, ResBlock):
            shrink(module.conv1, scale)
            shrink(module.conv2, scale)
            for norm in (module.norm1, module.norm2):
                norm.eps *= scale * scale
            if hasattr(module, "nin_shortcut"):
                shrink(module.nin_shortcut, scale, weight=False)
        elif isinstance(module, SelfAttention):
            shrink(module.proj_out, scale)
            module.norm.eps *= scale * scale
        elif isinstance(module, Upsample | Downsample):
            shrink(module.conv, scale, weight=False)


def shrink(conv: nn.Conv2d, scale: float, *, weight: bool = True) -> None:
    """Make a layer's result smaller; without `weight`, of one whose input was made smaller."""
    names = ("weight", "bias") if weight else ("bias",)
    for name in names:
        old = getattr(conv, name)
        setattr(conv, name, nn.Parameter(old * scale, requires_grad=old.requires_grad))
