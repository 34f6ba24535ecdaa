"""An adversary for the last part of a training: it tells the source's pictures from those drawn of
them, patch by patch and as a whole, and so asks for detail that no mean error asks for.

A U-Net over patches. How large a patch is follows from the strides of its layers; widths, weights
and the two answers are as DeepFaceLab's SAEHD is described. No file of its own was at hand to
compare with: a GAN file of another program may not fit.

Sources: Schönfeld et al. 2020, arXiv:2002.12655 (a U-Net as discriminator); Isola et al. 2017,
arXiv:1611.07004 (patches); Rudin et al. 1992, doi:10.1016/0167-2789(92)90242-F (total variation).
"""

from __future__ import annotations

from functools import lru_cache
from itertools import product

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from accel.faces.autoencoder import initialise
from accel.training.style import verdict

SLOPE = 0.2
KERNEL = 3
MOST_LAYERS, MOST_CHANNELS = 9, 512
ROUGHNESS = 1e-6  # weight of total variation: the adversary invites bright dots
AROUND = 0.02  # weight of what lies around the face, which the adversary is not shown


def adversary_loss(
    answers: tuple[Tensor, Tensor],  # of the adversary, to the face as it is shown
    face: Tensor,  # [B, 3, R, R] drawn, not masked
    target: Tensor,  # [B, 3, R, R]
    soft: Tensor | None,  # [B, 1, R, R] what the face was multiplied by; None: nothing
    power: float,
) -> Tensor:  # [B]
    """What the autoencoder is to make small so that the adversary takes its faces for true."""
    loss = power * sum((verdict(a, True) for a in answers), torch.zeros((), device=face.device))
    if soft is None:
        return loss
    face, around = face.float(), 1 - soft.float()
    apart = ((face - target.float()) * around).square().mean((1, 2, 3))
    return loss + ROUGHNESS * total_variation(face) + AROUND * apart


def adversary_own_loss(true: tuple[Tensor, Tensor], drawn: tuple[Tensor, Tensor]) -> Tensor:
    """What the adversary is to make small, from its answers to both kinds of faces. [B]"""
    return 0.5 * sum(
        (verdict(t, True) + verdict(d, False) for t, d in zip(true, drawn)),
        torch.zeros((), device=true[0].device),
    )


def total_variation(pictures: Tensor) -> Tensor:  # [B, C, H, W] -> [B]
    """The sum of squared steps from pixel to pixel, across and down."""
    across = pictures[..., 1:] - pictures[..., :-1]
    down = pictures[..., 1:, :] - pictures[..., :-1, :]
    return across.square().sum((1, 2, 3)) + down.square().sum((1, 2, 3))


def reach(strides: tuple[int, ...]) -> int:
    """Pixels of the picture that one answer behind layers of these strides looks at, per side."""
    pixels, step = 1, 1
    for stride in strides:
        pixels += (KERNEL - 1) * step
        step *= stride
    return pixels


@lru_cache(maxsize=32)
def strides_for(patch_px: int) -> tuple[int, ...]:
    """Strides, 1 or 2 and a 2 at the end, of the layers that look at about so many pixels.

    Of those that come nearest, the smaller reach, then the fewest layers, then the most halvings.
    """
    found = (
        (*strides, 2) for count in range(MOST_LAYERS) for strides in product((1, 2), repeat=count)
    )
    return min(found, key=lambda s: (abs(reach(s) - patch_px), reach(s), len(s), -sum(s), s))


class Adversary(nn.Module):
    """Logits for the middle of the U-Net, and for every pixel."""

    def __init__(
        self, patch_px: int, dims: int = 16, generator: torch.Generator | None = None
    ) -> None:
        super().__init__()
        self.strides = strides_for(patch_px)
        widths = [min(dims << i, MOST_CHANNELS) for i in range(len(self.strides) + 1)]
        last = len(self.strides) - 1
        self.in_conv = nn.Conv2d(3, widths[0], 1)
        levels = list(zip(widths, widths[1:], self.strides))
        self.convs = nn.ModuleList(
            nn.Conv2d(a, b, KERNEL, stride=s, padding=KERNEL // 2) for a, b, s in levels
        )
        self.res1, self.res2 = (nn.ModuleList(Residual(b) for _, b, _ in levels) for _ in range(2))
        self.center_out = nn.Conv2d(widths[-1], 1, 1)
        self.center_conv = nn.Conv2d(widths[-1], widths[-1], 1)
        # The way up, from the smallest picture on: all but the first also take what lies beside.
        self.upconvs = nn.ModuleList(
            nn.ConvTranspose2d(b if i == last else 2 * b, a, KERNEL, stride=s)
            for i, (a, b, s) in reversed(list(enumerate(levels)))
        )
        self.upres1, self.upres2 = (
            nn.ModuleList(Residual(2 * a) for a, _, _ in reversed(levels)) for _ in range(2)
        )
        self.out_conv = nn.Conv2d(2 * widths[0], 1, 1)
        initialise(self, generator)
        for up in self.modules():
            if isinstance(up, nn.ConvTranspose2d) and up.bias is not None:
                nn.init.xavier_uniform_(up.weight, generator=generator)
                nn.init.zeros_(up.bias)

    def forward(self, faces: Tensor) -> tuple[Tensor, Tensor]:
        # [B, 3, R, R] -> [B, 1, r, r] and [B, 1, R, R]
        x = F.leaky_relu(self.in_conv(faces), SLOPE)
        beside = []
        for conv, first, second in zip(self.convs, self.res1, self.res2):
            beside.append(x)
            x = second(first(F.leaky_relu(conv(x), SLOPE)))
        middle = self.center_out(x)
        x = F.leaky_relu(self.center_conv(x), SLOPE)
        rising = zip(self.upconvs, self.upres1, self.upres2, reversed(self.strides))
        for up, first, second, stride in rising:
            same = beside.pop()
            x = F.leaky_relu(_like(up(x), same, stride), SLOPE)
            x = second(first(torch.cat([same, x], 1)))
        return middle, self.out_conv(x)


class Residual(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, channels, KERNEL, padding=KERNEL // 2)
        self.conv2 = nn.Conv2d(channels, channels, KERNEL, padding=KERNEL // 2)

    def forward(self, x: Tensor) -> Tensor:
        inner = F.leaky_relu(self.conv1(x), SLOPE)
        return F.leaky_relu(self.conv2(inner) + x, SLOPE)


def _like(grown: Tensor, same: Tensor, stride: int) -> Tensor:
    """Cut what a transposed convolution gives too much: around, or where it doubles behind."""
    begin = 1 if stride == 1 else 0
    height, width = same.shape[-2:]
    return grown[..., begin : begin + height, begin : begin + width]
