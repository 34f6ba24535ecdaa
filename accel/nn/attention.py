"""Attention blocks of the latent diffusion UNet: self, cross, and the transformer made of them.

Sources: Vaswani et al. 2017 (arXiv:1706.03762); Rombach et al. 2022 (arXiv:2112.10752).
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from accel.kernels import geglu_linear
from accel.nn.conv import Conv2d, Linear
from accel.nn.layers import LayerNorm, attention, geglu, norm_silu

HALF = (torch.float16, torch.bfloat16)
ROWS = 2048  # that a feed-forward takes at a time on the CPU


class CrossAttention(nn.Module):
    """Attention from `x` to `context`, or to itself where there is none."""

    def __init__(self, width: int, context_width: int, heads: int):
        super().__init__()
        self.heads = heads
        self.to_q = Linear(width, width, bias=False)
        self.to_k = Linear(context_width, width, bias=False)
        self.to_v = Linear(context_width, width, bias=False)
        self.to_out = nn.Sequential(Linear(width, width))

    def forward(
        self,
        x: Tensor,  # [B, N, width]
        context: Tensor | None = None,  # [B, M, context_width]
        residual: Tensor | None = None,  # [B, N, width] added to the result
    ) -> Tensor:  # [B, N, width]
        source = x if context is None else context
        q, k, v = self.to_q(x), self.to_k(source), self.to_v(source)
        return self.to_out[0](attention(q, k, v, self.heads), residual)


class Geglu(nn.Module):
    def __init__(self, width: int, hidden: int):
        super().__init__()
        self.proj = Linear(width, 2 * hidden)

    def forward(self, x: Tensor) -> Tensor:
        proj = self.proj
        if x.is_cuda and x.dtype in HALF and type(proj) is Linear and not torch.is_grad_enabled():
            return geglu_linear(x, proj.weight, proj.bias)
        return geglu(proj(x))


class FeedForward(nn.Module):
    def __init__(self, width: int, mult: int):
        super().__init__()
        # The middle entry was a dropout in training; it keeps the second layer's name.
        self.net = nn.Sequential(
            Geglu(width, mult * width), nn.Identity(), Linear(mult * width, width)
        )

    def forward(self, x: Tensor, residual: Tensor | None = None) -> Tensor:
        if not self.in_pieces(x):
            return self.whole(x, residual)
        rows = x.flatten(0, -2).split(ROWS)
        others = [None] * len(rows) if residual is None else residual.flatten(0, -2).split(ROWS)
        return torch.cat([self.whole(*pair) for pair in zip(rows, others, strict=True)]).view_as(x)

    def whole(self, x: Tensor, residual: Tensor | None) -> Tensor:
        up, _, down = self.net
        return down(up(x), residual)

    @staticmethod
    def in_pieces(x: Tensor) -> bool:
        """Where memory is short and nothing is to be recorded: the hidden width is eight times x's.

        A row's result is the same to the bit.
        """
        traced = torch.jit.is_tracing() or torch.compiler.is_exporting()  # type: ignore[attr-defined]
        recorded = traced or torch.is_grad_enabled()
        plain = x.device.type == "cpu" and x.dtype == torch.float32
        return plain and not recorded and x.numel() > ROWS * x.shape[-1]


class TransformerBlock(nn.Module):
    def __init__(self, width: int, context_width: int, heads: int, mult: int):
        super().__init__()
        self.attn1 = CrossAttention(width, width, heads)
        self.ff = FeedForward(width, mult)
        self.attn2 = CrossAttention(width, context_width, heads)
        self.norm1 = LayerNorm(width)
        self.norm2 = LayerNorm(width)
        self.norm3 = LayerNorm(width)

    def forward(self, x: Tensor, context: Tensor) -> Tensor:
        x = self.attn1(self.norm1(x), residual=x)
        x = self.attn2(self.norm2(x), context, residual=x)
        return self.ff(self.norm3(x), residual=x)


class SpatialTransformer(nn.Module):
    """Transformer blocks over the positions of a feature map, around a residual.

    `linear`: the projections in and out are linear layers (SD 2.x, SDXL) instead of 1x1
    convolutions (SD 1.x): the same function, other shapes in the file.
    """

    def __init__(
        self,
        channels: int,
        context_width: int,
        heads: int,
        depth: int,
        *,
        linear: bool,
        mult: int,
        groups: int,
    ):
        super().__init__()

        def projection() -> nn.Module:
            return Linear(channels, channels) if linear else Conv2d(channels, channels, 1)

        self.linear = linear
        self.norm = nn.GroupNorm(groups, channels, eps=1e-6)
        self.proj_in = projection()
        self.transformer_blocks = nn.ModuleList(
            TransformerBlock(channels, context_width, heads, mult) for _ in range(depth)
        )
        self.proj_out = projection()

    def forward(
        self,
        x: Tensor,  # [B, C, H, W]
        context: Tensor,  # [B, tokens, context_width]
    ) -> Tensor:  # [B, C, H, W]
        h = norm_silu(x, self.norm, silu=False)
        if not self.linear:
            h = self.proj_in(h)
        h = h.flatten(2).transpose(1, 2)  # [B, H * W, C]
        if self.linear:
            h = self.proj_in(h)
        for block in self.transformer_blocks:
            h = block(h, context)
        if self.linear:
            h = self.proj_out(h)
        h = h.transpose(1, 2).unflatten(2, x.shape[2:])
        return x + h if self.linear else self.proj_out(h, residual=x)
