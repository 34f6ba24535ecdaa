"""A checkpoint's UNet as the sampling package's guidance calls it, one picture at a time.

The UNet sees the same shapes whatever the number of pictures: matrix products of another batch size
may round otherwise, and a picture must not depend on its neighbours.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from accel.models.stable_diffusion import Conditioning, StableDiffusion


@dataclass(frozen=True)
class Told:
    """What one call of the network is told beside x.

    sizes: [1, size_numbers] for networks that take them (SDXL). extra: [1, channels, H, W] that
    inpainting and editing networks see beside x.
    """

    conditioning: Conditioning
    sizes: Tensor | None = None
    extra: Tensor | None = None


class Network:
    def __init__(self, model: StableDiffusion, dtype: torch.dtype):
        self.model, self.dtype = model, dtype

    def __call__(
        self,
        x: Tensor,  # [N, 4, H, W] scaled, one picture N times over
        t: Tensor,  # [N]
        told: Sequence[Told],  # N
    ) -> Tensor:  # [N, 4, H, W] float32
        """One call for prompts of equal length, one more for each other length."""
        answers: dict[int, Tensor] = {}
        for length in dict.fromkeys(one.conditioning.context.shape[1] for one in told):
            which = [i for i, one in enumerate(told) if one.conditioning.context.shape[1] == length]
            out = self._call(x[which], t[which], [told[i] for i in which])
            answers |= {i: out[row : row + 1] for row, i in enumerate(which)}
        return torch.cat([answers[i] for i in range(len(told))]).float()

    def _call(self, x: Tensor, t: Tensor, told: Sequence[Told]) -> Tensor:
        extra = [one.extra for one in told if one.extra is not None]
        if extra:
            x = torch.cat([x, torch.cat(extra)], dim=1)
        context = torch.cat([one.conditioning.context for one in told]).to(self.dtype)
        pooled = [one.conditioning.pooled for one in told if one.conditioning.pooled is not None]
        sizes = [one.sizes for one in told if one.sizes is not None]
        vector = None
        if sizes:
            vector = self.model.vector(torch.cat(pooled), torch.cat(sizes)).to(self.dtype)
        out: Tensor = self.model.unet(x.to(self.dtype), t, context, vector)
        return out
