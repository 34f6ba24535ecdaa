"""A UNet whose middle does not look around: what perturbed-attention guidance goes away from.

Source: Ahn et al. 2024 (arXiv:2403.17377): the attention map of self attention becomes the
identity, so that every position answers with its own value.
"""

from __future__ import annotations

import copy
from typing import TypeVar

from torch import Tensor, nn

from accel.nn.attention import CrossAttention, SpatialTransformer
from accel.nn.unet import Unet

Module = TypeVar("Module", bound=nn.Module)


class OwnValue(nn.Module):
    """Self attention with the identity for a map; shares the layers of the one it stands for."""

    def __init__(self, attention: CrossAttention):
        super().__init__()
        self.to_v, self.to_out = attention.to_v, attention.to_out

    def forward(self, x: Tensor, context: None = None, residual: Tensor | None = None) -> Tensor:
        return self.to_out[0](self.to_v(x), residual)


def perturbed(unet: Unet) -> Unet:
    """The same network, layer by layer the same objects, but for the middle's self attention.

    Nothing is copied and `unet` is left as it is, so both may run at once.
    """
    middle = with_children(unet.middle_block, {})
    for name, module in unet.middle_block.named_children():
        if isinstance(module, SpatialTransformer):
            blocks = nn.ModuleList(
                with_children(block, {"attn1": OwnValue(block.attn1)})  # type: ignore[arg-type]
                for block in module.transformer_blocks
            )
            middle._modules[name] = with_children(module, {"transformer_blocks": blocks})
    return with_children(unet, {"middle_block": middle})


def with_children(module: Module, children: dict[str, nn.Module]) -> Module:
    """A shallow copy of a module, some of its children being others."""
    other = copy.copy(module)
    other._modules = {**module._modules, **children}
    return other
