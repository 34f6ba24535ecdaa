"""The few operations that every network here is made of, each as one function on tensors.

The networks call these and not torch directly, so that a faster kernel has one place to go in.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn


def norm_silu(
    x: Tensor,  # [B, C, H, W]
    norm: nn.Module,  # an nn.GroupNorm
) -> Tensor:  # [B, C, H, W]
    """Group normalisation and the SiLU that follows it."""
    return F.silu(norm(x))


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

    out = F.scaled_dot_product_attention(split(q), split(k), split(v), is_causal=causal)
    return out.transpose(1, 2).flatten(2)


def geglu(
    x: Tensor,  # [..., 2 * D] values, then gates
) -> Tensor:  # [..., D]
    """Values times the exact (erf) GELU of the gates (Shazeer 2020, arXiv:2002.05202)."""
    value, gate = x.chunk(2, dim=-1)
    return value * F.gelu(gate)


def quick_gelu(x: Tensor) -> Tensor:
    """The sigmoid approximation that OpenAI's CLIP was trained with."""
    return x * torch.sigmoid(1.702 * x)


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
