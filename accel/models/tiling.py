"""The autoencoder over pictures that are too large for it in one piece, without seams.

A tile computed alone differs from the whole for two reasons. At its borders it lacks its
neighbours: each tile is given as much around it as its result depends on, and only its own part is
kept. And group normalisation takes its mean and deviation over the whole picture: here all tiles
use the same ones, those of the whole picture. Each is measured by running all tiles as far as the
norm in question, those before it being known by then: so the result is exact, and takes the time of
about half as many decodings as there are norms. What is at an eighth of the side (the middle with
its attention) is computed whole.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from itertools import product

import torch
from torch import Tensor, nn

from accel.core import ConfigError
from accel.nn.layers import norm_silu
from accel.nn.perturb import with_children
from accel.nn.vae import Vae, VaeConfig

TILE = 96  # latent pixels along a side, without what is added around


def decode_tiled(
    vae: Vae,
    latent: Tensor,  # [B, z, h, w] shifted and scaled, as Vae.decode takes it
    tile: int = TILE,  # latent pixels along a side
) -> Tensor:  # [B, 3, f*h, f*w]
    """As vae.decode, in tiles; exactly that where one tile is enough."""
    check(tile)
    if max(latent.shape[2:]) <= tile:
        return vae.decode(latent)
    config, decoder = vae.config, vae.decoder
    start = vae.post_quant_conv(latent / config.scale + config.shift)
    start = decoder.mid(decoder.conv_in(start))
    shared = Shared()
    levels = [shared.twin(level) for level in reversed(decoder.up)]
    last = shared.twin(decoder.norm_out)

    def rest(h: Tensor) -> Tensor:
        for level in levels:
            h = level(h)
        return decoder.conv_out(norm_silu(h, last))

    out_size = [side * config.factor for side in start.shape[2:]]
    return over_tiles(rest, start, shared, tile, decoder_reach(config), out_size)


def encode_tiled(
    vae: Vae,
    image: Tensor,  # [B, 3, H, W] in -1..1, as Vae.encode takes it
    tile: int = TILE,  # latent pixels along a side
) -> Tensor:  # [B, z, H/f, W/f] mean, shifted and scaled
    """As vae.encode, in tiles; exactly that where one tile is enough."""
    check(tile)
    config, encoder = vae.config, vae.encoder
    factor = config.factor
    if max(image.shape[2:]) <= tile * factor or any(side % factor for side in image.shape[2:]):
        return vae.encode(image)  # which refuses sides that do not fit
    shared = Shared()
    levels = [shared.twin(level) for level in encoder.down]

    def begin(x: Tensor) -> Tensor:
        h = encoder.conv_in(x)
        for level in levels:
            h = level(h)
        return h

    out_size = [side // factor for side in image.shape[2:]]
    reach = factor * math.ceil(encoder_reach(config) / factor)
    h = over_tiles(begin, image, shared, tile * factor, reach, out_size)
    h = encoder.conv_out(norm_silu(encoder.mid(h), encoder.norm_out))
    mean = vae.quant_conv(h).chunk(2, dim=1)[0]
    return (mean - config.shift) * config.scale


def check(tile: int) -> None:
    if tile < 1:
        raise ConfigError(f"tile must be above 0, got {tile}")


def decoder_reach(config: VaeConfig) -> int:
    """Latent pixels around a tile that its picture depends on, behind the middle."""
    reach, scale = 1.0, config.factor  # of the last convolution, in pixels
    for level in range(len(config.channels)):
        reach += 2 * (config.res_blocks + 1) * 2**level  # two convolutions a block
        reach += 2**level if level else 0  # the one behind the doubling above this level
    return math.ceil(reach / scale) + 1  # doubling takes from the pixel at its left or right


def encoder_reach(config: VaeConfig) -> int:
    """Pixels around a tile that its features depend on, before the middle."""
    reach = 1
    for level in range(len(config.channels)):
        reach += 2 * config.res_blocks * 2**level
        reach += 2 * 2**level if level < len(config.channels) - 1 else 0  # the halving one
    return reach


# ------------------------------------------------------------------ tiles


@dataclass
class Piece:
    """Along one axis: what is given (begin, end), and which part of it is the tile's own."""

    begin: int
    end: int
    first: int
    last: int


def pieces(size: int, tile: int, reach: int) -> list[Piece]:
    count = math.ceil(size / tile)
    # Even tiles, and starts on a grid that halving levels do not shift.
    step = math.ceil(size / count / 16) * 16 if size > 16 * count else math.ceil(size / count)
    found = []
    for first in range(0, size, step):
        last = min(first + step, size)
        found.append(Piece(max(0, first - reach), min(size, last + reach), first, last))
    return found


def over_tiles(
    function: Callable[[Tensor], Tensor],
    x: Tensor,  # [B, C, H, W]
    shared: Shared,
    tile: int,
    reach: int,
    out_size: list[int],
) -> Tensor:  # [B, C', *out_size]
    """Run a function tile by tile, its norms once for all tiles, and put the parts together."""

    def tiles(until_measured: bool = False) -> Iterator[tuple[Piece, Piece, Tensor]]:
        height, width = x.shape[2:]
        for down, across in product(pieces(height, tile, reach), pieces(width, tile, reach)):
            given = x[:, :, down.begin : down.end, across.begin : across.end]
            shared.look_at(down, across)
            try:
                result = function(given)
            except Measured:
                if not until_measured:
                    raise
            else:
                yield down, across, result

    for norm in shared.norms:
        for _ in tiles(until_measured=True):
            pass
        norm.settle()
    out: Tensor | None = None
    ratio = out_size[0] / x.shape[2]
    for down, across, result in tiles():
        if out is None:
            out = result.new_empty(*result.shape[:2], *out_size)
        own = [scaled(p.first - p.begin, p.last - p.begin, ratio) for p in (down, across)]
        place = [scaled(p.first, p.last, ratio) for p in (down, across)]
        out[:, :, place[0], place[1]] = result[:, :, own[0], own[1]]
    assert out is not None  # there is at least one tile
    return out


def scaled(begin: int, end: int, ratio: float) -> slice:
    return slice(round(begin * ratio), round(end * ratio))


# ------------------------------------------------------------------ one normalisation for all tiles


@dataclass
class Shared:
    """The statistics of all norms of the layers that `twin` was asked for, in their order."""

    norms: list[SharedNorm] = field(default_factory=list)
    down: Piece | None = None
    across: Piece | None = None

    def twin(self, module: nn.Module) -> nn.Module:
        """The same layers, but for their norms; nothing is copied."""
        if isinstance(module, nn.GroupNorm):
            self.norms.append(SharedNorm(module, self))
            return self.norms[-1]
        children = {name: self.twin(child) for name, child in module.named_children()}
        return with_children(module, children) if children else module

    def look_at(self, down: Piece, across: Piece) -> None:
        self.down, self.across = down, across


class Measured(Exception):
    """A tile came to a norm that is not settled yet: its statistics are noted, the rest waits."""


class SharedNorm(nn.Module):
    """A group norm over all tiles: they are measured first, then all are scaled alike."""

    def __init__(self, norm: nn.GroupNorm, shared: Shared):
        super().__init__()
        self.weight, self.bias, self.groups, self.eps = (
            norm.weight,
            norm.bias,
            norm.num_groups,
            norm.eps,
        )
        self._shared = [shared]  # in a list, so that it is no part of the module
        self.settled: tuple[Tensor, Tensor] | None = None  # mean, mean of squares: [B, groups]
        self.sums: list[tuple[Tensor, Tensor, int]] = []

    def forward(self, x: Tensor) -> Tensor:
        if self.settled is None:
            wide = self._own(x).float().reshape(x.shape[0], self.groups, -1)
            self.sums.append((wide.mean(-1), wide.square().mean(-1), wide.shape[-1]))
            raise Measured
        mean, square = self.settled
        gain = (square - mean.square()).clamp_min(0).add(self.eps).rsqrt()
        per_group = x.shape[1] // self.groups
        mean, gain = (s.repeat_interleave(per_group, dim=1)[..., None, None] for s in (mean, gain))
        scale = gain * self.weight.float()[:, None, None]
        shift = self.bias.float()[:, None, None] - mean * scale
        return (x.float() * scale + shift).to(x.dtype)

    def _own(self, x: Tensor) -> Tensor:
        """The part of the tile that no other tile counts."""
        cut = [slice(None), slice(None)]
        shared = self._shared[0]
        for piece, size in ((shared.down, x.shape[2]), (shared.across, x.shape[3])):
            assert piece is not None  # `look_at` comes before any tile
            ratio = size / (piece.end - piece.begin)
            cut.append(scaled(piece.first - piece.begin, piece.last - piece.begin, ratio))
        return x[tuple(cut)]

    def settle(self) -> None:
        count = sum(n for *_, n in self.sums)
        mean = sum((m * n for m, _, n in self.sums), start=torch.tensor(0.0)) / count
        square = sum((s * n for _, s, n in self.sums), start=torch.tensor(0.0)) / count
        self.settled = mean, square
        self.sums = []
