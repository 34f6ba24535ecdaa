"""Orthogonal adapters: weights multiplied by rotations of their outputs.

Sources: Qiu et al. 2023 (arXiv:2306.07280) for blocks on the diagonal; Liu et al. 2023
(arXiv:2311.06243) for butterflies of them. Names, order and the bound are LyCORIS's.
"""

from __future__ import annotations

import torch
from torch import Tensor


def rotated(
    weight: Tensor,  # [out, ...]
    blocks: Tensor,  # [n, b, b] with n b = out; or [stages, n, b, b]: butterflies
    rescale: Tensor | None,  # [out, 1, ...]
    bound: float,  # of the norm of all generators together, per output; 0: none
    strength: float = 1.0,
) -> Tensor:  # float32, shaped as weight
    """The weight itself, changed. Raises RuntimeError where the blocks do not fit."""
    base = weight.float()
    rotations = cayley(blocks.float(), bound * base.shape[0])
    identity = torch.eye(rotations.shape[-1], device=base.device)
    rotations = identity + strength * (rotations - identity)
    if blocks.ndim == 4:
        out = base
        for stage, rotation in enumerate(rotations):
            out = butterfly(out, rotation, 2**stage * (rotation.shape[-1] // 2))
        gain = 1.0 if rescale is None else rescale.float()
        return out * gain
    count, side, _ = rotations.shape
    split = base.reshape(count, side, *base.shape[1:])
    out = torch.einsum("knm,kn...->km...", rotations, split).reshape(base.shape)
    if rescale is None:
        return out
    # At less than full strength only the turn is less: LyCORIS merges so too.
    return out * rescale.float()


def cayley(blocks: Tensor, bound: float) -> Tensor:
    """(I + q) (I - q)^-1 of the generators q = b - b^T, which are shrunk to the bound."""
    q = blocks - blocks.transpose(-1, -2)
    norm = float(q.norm()) + 1e-8
    if 0 < bound < norm:
        q = q * (bound / norm)
    identity = torch.eye(q.shape[-1], device=q.device)
    turn: Tensor = (identity + q) @ torch.linalg.inv(identity - q)
    return turn


def butterfly(x: Tensor, rotation: Tensor, stride: int) -> Tensor:
    """Outputs in pairs of groups `stride` apart, shuffled together, turned, and shuffled back."""
    side, rest = rotation.shape[-1], x.shape[1:]
    mixed = x.reshape(-1, 2, stride, *rest).transpose(1, 2).reshape(-1, side, *rest)
    turned = torch.einsum("bij,bj...->bi...", rotation, mixed)
    return turned.reshape(-1, stride, 2, *rest).transpose(1, 2).reshape(x.shape)
