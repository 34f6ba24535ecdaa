"""The few operations that every network here is made of, each as one function on tensors.

The networks call these and not torch directly, so that a faster kernel has one place to go in.
"""

from __future__ import annotations

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from accel import kernels


def norm_silu(
    x: Tensor,  # [B, C, H, W]
    norm: nn.Module,  # an nn.GroupNorm
    silu: bool = True,  # False: the normalisation alone
) -> Tensor:  # [B, C, H, W]
    """Group normalisation and the SiLU that follows it."""
    if not isinstance(norm, nn.GroupNorm):  # one that stands for it, with statistics of its own
        return F.silu(norm(x)) if silu else norm(x)
    own: Any = norm
    return kernels.group_norm_silu(x, own.num_groups, own.weight, own.bias, own.eps, silu)


class LayerNorm(nn.LayerNorm):
    """torch.nn.LayerNorm over the last dimension, on our kernel."""

    def forward(self, x: Tensor) -> Tensor:  # [..., width] -> the same
        if len(self.normalized_shape) != 1:
            return super().forward(x)
        return kernels.layer_norm(x, self.weight, self.bias, self.eps)


def attention(
    q: Tensor,  # [B, N, heads * D]
    k: Tensor,  # [B, M, heads * D]
    v: Tensor,  # [B, M, heads * D]
    heads: int,
    causal: bool = False,
) -> Tensor:  # [B, N, heads * D]
    """Softmax attention scaled by 1/sqrt(D); `causal` lets position i see 0..i only."""

    def split(x: Tensor) -> Tensor:  # [B, heads, length, D]
        return x.view(*x.shape[:2], heads, -1).transpose(1, 2)

    out = kernels.attention(split(q), split(k), split(v), causal=causal)
    return out.transpose(1, 2).flatten(2)


def geglu(
    x: Tensor,  # [..., 2 * D] values, then gates
) -> Tensor:  # [..., D]
    """Values times the exact (erf) GELU of the gates (Shazeer 2020, arXiv:2002.05202)."""
    return kernels.geglu(x)


def quick_gelu(x: Tensor) -> Tensor:
    """The sigmoid approximation that OpenAI's CLIP was trained with."""
    return x * torch.sigmoid(1.702 * x)


def channels_last(
    x: Tensor,  # [B, C, H, W]
) -> Tensor:  # the same, in the layout that networks are quickest in from here on
    """Channels-last on the CPU; as it is elsewhere."""
    return x.contiguous(memory_format=torch.channels_last) if x.device.type == "cpu" else x


def upsample(
    x: Tensor,  # [B, C, H, W]
) -> Tensor:  # [B, C, 2H, 2W] nearest neighbour
    return F.interpolate(x, scale_factor=2.0, mode="nearest")


def sinusoids(
    t: Tensor,  # [B] timesteps, or sizes in pixels; fractions are meant
    width: int,  # even
) -> Tensor:  # [B, width] float32: cosines, then sines
    """Transformer position encoding of a number, periods from 2 pi to 20000 pi."""
    half = width // 2
    steps = torch.arange(half, dtype=torch.float32, device=t.device)
    angles = t.float()[:, None] * torch.exp(-math.log(10000.0) / half * steps)
    return torch.cat([angles.cos(), angles.sin()], dim=-1)
