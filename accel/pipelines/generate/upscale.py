"""Ways to enlarge a latent or a picture between two passes, or a finished picture."""

from __future__ import annotations

import difflib
from functools import cache
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from accel.core import ConfigError
from accel.pipelines.generate.pictures import from_tensor, to_tensor
from accel.weights.assets import asset
from accel.weights.onnx import Network, open_onnx

LATENT: dict[str, dict[str, Any]] = {  # by A1111's names: arguments of torch's interpolate
    "latent": {"mode": "bilinear"},
    "latent (antialiased)": {"mode": "bilinear", "antialias": True},
    "latent (bicubic)": {"mode": "bicubic"},
    "latent (bicubic antialiased)": {"mode": "bicubic", "antialias": True},
    "latent (nearest)": {"mode": "nearest"},
    "latent (nearest-exact)": {"mode": "nearest-exact"},
}
PICTURE = ("lanczos", "nearest", "esrgan")
UPSCALERS = (*LATENT, *PICTURE)
TILE, OVERLAP = 192, 16  # pixels; ESRGAN-slim sees 12 to each side


def find_upscaler(name: str) -> str:
    """Our name; ConfigError, with the nearest names, for one that does not exist."""
    plain = " ".join(name.lower().replace("_", " ").split())
    if plain in ("esrgan 2x", "esrgan 4x", "esrgan x2", "esrgan x4", "r-esrgan 4x+"):
        return "esrgan"
    if plain not in UPSCALERS:
        near = difflib.get_close_matches(plain, UPSCALERS, n=3, cutoff=0.4) or UPSCALERS
        raise ConfigError(f"no upscaler is called {name!r}; near: {', '.join(near)}")
    return plain


def enlarged_latent(latent: Tensor, size: tuple[int, int], name: str) -> Tensor:
    """[1, z, h, w] to (width, height) in latent pixels."""
    return F.interpolate(latent.float(), size=(size[1], size[0]), **LATENT[name])


def enlarged(picture: Image.Image, size: tuple[int, int], name: str) -> Image.Image:
    """A picture to (width, height) pixels."""
    if name == "nearest":
        return picture.resize(size, Image.Resampling.NEAREST)
    if name == "esrgan":
        while picture.width < size[0] or picture.height < size[1]:
            need = max(size[0] / picture.width, size[1] / picture.height)
            picture = by_network(picture, 2 if need <= 2 else 4)
    return picture.resize(size, Image.Resampling.LANCZOS)


def enlarged_image(image: Tensor, size: tuple[int, int], name: str) -> Tensor:
    """[1, 3, H, W] in -1..1 to (width, height) pixels."""
    return to_tensor(enlarged(from_tensor(image), size, name)).to(image.device)


def by_network(picture: Image.Image, factor: int) -> Image.Image:
    """Twice or four times the size by ESRGAN-slim, in tiles with overlap: memory stays small."""
    values = np.asarray(picture, np.float32) / 255
    height, width = values.shape[:2]
    out = np.zeros((height * factor, width * factor, 3), np.float32)
    padded = np.pad(values, ((OVERLAP, OVERLAP), (OVERLAP, OVERLAP), (0, 0)), mode="reflect"
                    if min(height, width) > OVERLAP else "edge")  # fmt: skip
    network = network_of(factor)
    for top in range(0, height, TILE):
        for left in range(0, width, TILE):
            bottom, right = min(top + TILE, height), min(left + TILE, width)
            seen = padded[top : bottom + 2 * OVERLAP, left : right + 2 * OVERLAP]
            (made,) = network(seen[None])
            inner = made[0, OVERLAP * factor : -OVERLAP * factor]
            inner = inner[:, OVERLAP * factor : -OVERLAP * factor]
            out[top * factor : bottom * factor, left * factor : right * factor] = inner
    return Image.fromarray((out * 255).round().clip(0, 255).astype(np.uint8))


@cache
def network_of(factor: int) -> Network:
    return open_onnx(asset(f"esrgan_slim_x{factor}.onnx"), threads=torch.get_num_threads())
