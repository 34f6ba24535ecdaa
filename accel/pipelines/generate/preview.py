"""What a latent looks like so far: without a network, or through a small one."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from accel.models.tiny import TinyVae
from accel.pipelines.generate.model import Model
from accel.pipelines.generate.pictures import to_rgb
from accel.pipelines.provenance import Marker
from accel.unfinished import whole

FEW_PIXELS = 32 * 32  # of a latent: decoding one of this size is as quick as a step


class Preview:
    """A callback that keeps a PNG up to date with the picture that is being made.

    What it shows while that goes on is neither gated nor marked: call `settle` when the picture has
    been let through, else `give_up`.
    """

    def __init__(
        self,
        model: Model,
        path: Path,
        then: Callable[[int, Tensor], None] | None = None,
        tiny: TinyVae | None = None,
    ):
        self.view, self.path, self.then = Viewer(model, tiny), path, then
        self._shown: NDArray[np.uint8] | None = None

    def __call__(self, step: int, clean: Tensor) -> None:
        shown = self.view(clean)
        with whole(self.path) as part:  # a viewer never sees half a file
            Image.fromarray(shown).save(part, "PNG")
        self._shown = shown
        if self.then:
            self.then(step, clean)

    def settle(self, marker: Marker) -> None:
        """Mark what was shown last."""
        if self._shown is not None:
            marker.save(self._shown, self.path, format="PNG")

    def give_up(self) -> None:
        if self._shown is not None:
            self.path.unlink(missing_ok=True)


class Viewer:
    """Turns a denoised latent [1, z, h, w] into a rough picture [H, W, 3].

    `tiny` decodes them, if there is one. Without, small latents are decoded; of others a linear map
    of the channels to colours is taken. It is fitted to the decoder itself, on blocks of plain
    latents, when the first picture is wanted.
    """

    def __init__(self, model: Model, tiny: TinyVae | None = None):
        self.model, self.tiny = model, tiny
        self._map: Tensor | None = None  # [z + 1, 3]

    @torch.inference_mode()
    def __call__(self, clean: Tensor) -> NDArray[np.uint8]:
        if self.tiny is not None:
            image = self.tiny.decode(clean[:1].to(self.model.device, self.model.dtype))
        elif clean.shape[2] * clean.shape[3] <= FEW_PIXELS:
            image = self.model.decode(clean[:1])
        else:
            image = self.colours(clean[:1])
        return to_rgb(image)

    def colours(self, clean: Tensor) -> Tensor:  # [1, 3, h, w] about -1..1
        if self._map is None:
            self._map = fitted_map(self.model)
        flat = clean[0].float().flatten(1).T  # [h * w, z]
        rgb = torch.cat([flat, torch.ones_like(flat[:, :1])], dim=1) @ self._map
        return rgb.T.reshape(1, 3, *clean.shape[2:])


def fitted_map(model: Model, blocks: int = 12, block: int = 4) -> Tensor:  # [z + 1, 3]
    """Least squares from latents to the decoder's mean colours."""
    channels = model.loaded.model.config.vae.latent_channels
    random = torch.Generator().manual_seed(0)
    plain = torch.randn(1, channels, blocks, blocks, generator=random).to(model.device)
    latent = F.interpolate(plain, scale_factor=block, mode="nearest")
    colours = F.avg_pool2d(model.decode(latent).float(), block * model.factor)
    known = plain[0].flatten(1).T
    known = torch.cat([known, torch.ones_like(known[:, :1])], dim=1)
    solution: Tensor = torch.linalg.lstsq(known, colours[0].flatten(1).T).solution
    return solution
