"""How a picture lies in memory: as its shape says, or channels last."""

from __future__ import annotations

import torch
from torch import Tensor

from accel.kernels._direct import is_differentiated


def layout_of(x: Tensor) -> torch.memory_format:
    """Channels last where x lies so and could not be taken for contiguous."""
    if x.ndim != 4 or x.is_contiguous() or is_differentiated():  # vmap cannot tell
        return torch.contiguous_format
    last = x.is_contiguous(memory_format=torch.channels_last)
    return torch.channels_last if last else torch.contiguous_format


def is_channels_last(x: Tensor) -> bool:
    return layout_of(x) is torch.channels_last
