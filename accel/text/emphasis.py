"""Weights of a prompt's tokens put onto what the text tower made of them.

Modes, by A1111's names:
original   each position times its weight, then everything scaled until its mean is as before
no norm    the first half of that
ignore     weights are read and not used
none       no syntax is read: brackets are text

and "comfy": each position moved from what an empty prompt gives there, by its weight.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from accel.core import ConfigError
from accel.text.prompt import Piece
from accel.text.prompt import emphasis as weighted

MODES = ("original", "no norm", "ignore", "none", "comfy")


def pieces(text: str, mode: str = "original") -> list[Piece]:
    """The text as chunks.chunk takes it: with emphasis read, or as it stands in mode "none"."""
    check(mode)
    return [Piece(text)] if mode == "none" else weighted(text)


def emphasised(
    hidden: Tensor,  # [B, tokens, width] a tower's result; each tower's is weighted on its own
    weights: Sequence[Sequence[float]] | Tensor,  # [B, tokens]
    mode: str = "original",
    empty: Tensor | None = None,  # [1 or B, tokens, width] of an empty prompt; "comfy" needs it
) -> Tensor:  # [B, tokens, width]
    """Apply weights to the chunks of a prompt.

    The mean of mode "original" is one number over all of `hidden`. A1111 takes it over one chunk,
    so each chunk of a prompt goes in a call of its own; several prompts together would depend on
    each other.
    Raises ConfigError for an unknown mode, ValueError for weights that do not fit.
    """
    check(mode)
    by = torch.as_tensor(weights, dtype=torch.float32, device=hidden.device)
    if by.shape != hidden.shape[:2]:
        raise ValueError(
            f"emphasised: weights must be {tuple(hidden.shape[:2])}, got {tuple(by.shape)}"
        )
    if mode in ("ignore", "none") or bool((by == 1).all()):  # weights come from the CPU: no wait
        return hidden
    by = by[..., None]
    wide = hidden.float()
    if mode == "comfy":
        if empty is None:
            raise ValueError('emphasised: mode "comfy" needs what an empty prompt gives')
        return torch.lerp(empty.float().expand_as(wide), wide, by).to(hidden.dtype)
    out = wide * by
    if mode == "original":
        out = out * (wide.mean() / out.mean())
    return out.to(hidden.dtype)


def check(mode: str) -> None:
    if mode not in MODES:
        raise ConfigError(f"emphasis must be one of {MODES}, got {mode!r}")
