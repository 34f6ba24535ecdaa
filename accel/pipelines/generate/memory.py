"""A ceiling for this process's memory, and what is done in smaller pieces to stay under it.

What networks need is estimated from their sizes; the estimates are on the safe side of what was
measured. Weights that lie mapped to a file count only where they are touched, which is everywhere.
"""

from __future__ import annotations

import sys
import threading
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from accel.core import ConfigError
from accel.models.load import Loaded
from accel.models.stable_diffusion import Config
from accel.models.tiling import decode_tiled, encode_tiled
from accel.nn.vae import Vae

MB = 1 << 20
TILES = (96, 64, 48, 32, 16)  # latent pixels a side, largest first
AROUND = 12  # latent pixels that a tile is given on each side
VAE_COPIES = 9.0  # of the first level's channels at full resolution that lie in memory at once
UNET_COPIES = 36.0  # of the same, at the latent's resolution, skips among them
ALWAYS_MB = 64  # for what is not counted
DEEP_PIXELS = 64  # of the deepest level, from which on weights are let go: a picture of 512 pixels


@dataclass(frozen=True)
class Budget:
    """max_mb: resident memory that this process may come to; None is no ceiling."""

    max_mb: float | None = None

    def __post_init__(self) -> None:
        if self.max_mb is not None and not self.max_mb > 0:
            raise ConfigError(f"max_memory must be above 0 MB, got {self.max_mb}")

    def left(self) -> float:
        """MB that may still be taken."""
        return float("inf") if self.max_mb is None else self.max_mb - resident_mb() - ALWAYS_MB

    def check_weights(self, path: Path) -> None:
        """Raise ConfigError before a file is loaded that alone would be too large."""
        if self.max_mb is None or not path.is_file():
            return
        needed = path.stat().st_size / MB
        if needed > self.left():
            raise ConfigError(
                f"max_memory must leave room for the weights: {needed:.0f} MB of {path.name},"
                f" {max(self.left(), 0):.0f} MB are left"
            )

    def one_by_one(self, config: Config, height: int, width: int, dtype: torch.dtype) -> bool:
        """Whether prompts must go through the UNet each on its own; sides are of the latent.

        Raises ConfigError where even that does not fit.
        """
        single = UNET_COPIES * config.unet.channels * height * width * dtype.itemsize / MB
        if single > self.left():
            raise self._too_small("sampling at this size", single)
        return 2 * single > self.left()

    def decode(self, vae: Vae, latent: Tensor) -> Tensor:  # [1, z, h, w] -> [1, 3, f*h, f*w]
        tile = self.tile(vae, latent.shape[2], latent.shape[3], latent.dtype)
        return vae.decode(latent) if tile is None else decode_tiled(vae, latent, tile)

    def encode(self, vae: Vae, image: Tensor) -> Tensor:  # [1, 3, H, W] -> [1, z, H/f, W/f]
        factor = vae.config.factor
        tile = self.tile(vae, image.shape[2] // factor, image.shape[3] // factor, image.dtype)
        return vae.encode(image) if tile is None else encode_tiled(vae, image, tile)

    def tile(self, vae: Vae, height: int, width: int, dtype: torch.dtype) -> int | None:
        """Side of the tiles that fit, None where the whole does; sides are of the latent."""
        if self.max_mb is None:
            return None
        pixel = VAE_COPIES * vae.config.base_channels * dtype.itemsize * vae.config.factor**2 / MB
        if pixel * height * width <= self.left():
            return None
        for tile in TILES:
            across = [min(side, tile + 2 * AROUND) for side in (height, width)]
            if pixel * across[0] * across[1] <= self.left():
                return tile
        raise self._too_small("the autoencoder in tiles", pixel * across[0] * across[1])

    def _too_small(self, what: str, needed: float) -> ConfigError:
        total = resident_mb() + ALWAYS_MB + needed
        return ConfigError(
            f"max_memory must be about {total:.0f} MB or more for {what}, got {self.max_mb:.0f}"
        )


def let_weights_go_when_passed(loaded: Loaded, lock: threading.RLock) -> None:
    """While a UNet samples, let the weights of its deepest level go that lie in a file.

    They are many, a third of SD 1.5's, and each serves few pixels: to find them again in the
    system's cache takes 2 % of a step of 512 pixels. What is left of the step, at full resolution,
    needs memory for its results. `lock` is held by who changes weights.
    """
    unet = loaded.model.unet

    def passed(stage: nn.Module, given: tuple[Any, ...], result: Any) -> None:
        x = given[0]
        if torch.compiler.is_compiling() or torch.jit.is_tracing():  # type: ignore[attr-defined, no-untyped-call]
            return
        if x.shape[0] * x.shape[2] * x.shape[3] >= DEEP_PIXELS and lock.acquire(blocking=False):
            try:
                loaded.release(stage.parameters())
            finally:
                lock.release()

    up = list(unet.output_blocks)[: unet.config.res_blocks + 1]
    for stage in (unet.middle_block, *up):
        stage.register_forward_hook(passed)


def resident_mb() -> float:
    """Memory that this process holds now; where the system does not say, the most it ever held."""
    try:
        pages = int(Path("/proc/self/statm").read_text().split()[1])
    except OSError:
        import resource

        most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return most / MB if sys.platform == "darwin" else most / 1024
    import mmap

    return pages * mmap.PAGESIZE / MB
