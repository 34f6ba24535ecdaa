"""TAESD files: the small autoencoder for previews, in its own two files or in diffusers' one."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from accel.core import InputError
from accel.models.folder import open_part
from accel.models.load import NAMED, fill
from accel.models.unfilled import unfilled
from accel.nn.tiny_vae import TinyDecoder, TinyEncoder
from accel.weights.files import TensorFile, open_tensors

SIDES = ("encoder", "decoder")


@dataclass(frozen=True)
class TinyVae:
    """Both directions, or the one that the file holds.

    Latents are as the diffusion model sees them; there is one TAESD for SD 1.x and 2.x and another,
    of the same shape, for SDXL.
    """

    encoder: TinyEncoder | None
    decoder: TinyDecoder | None

    def encode(self, image: Tensor) -> Tensor:  # [B, 3, H, W] in -1..1 -> [B, z, H/8, W/8]
        if self.encoder is None:
            raise InputError("this TAESD file has no encoder")
        return self.encoder(image)

    def decode(self, latent: Tensor) -> Tensor:  # [B, z, h, w] -> [B, 3, 8h, 8w] about -1..1
        if self.decoder is None:
            raise InputError("this TAESD file has no decoder")
        return self.decoder(latent)


def load_tiny(
    *paths: Path, dtype: torch.dtype = torch.float32, device: torch.device | str = "cpu"
) -> TinyVae:
    """Load a file of both, files of one each, or diffusers' folder.

    Raises InputError for files of another kind, missing tensors, wrong shapes or NaN.
    """
    found: dict[str, nn.Module] = {}
    for path in paths:
        file = open_part(path) if path.is_dir() else open_tensors(path)
        sides = split(file)
        if not sides:
            some = ", ".join(sorted(file)[:NAMED])
            raise InputError(f"{path}: must be a TAESD, got {len(file)} tensors ({some}, ...)")
        for side, names in sides.items():
            tensors = {own: file[key] for own, key in names.items()}
            found[side] = build(side, tensors, path, dtype, torch.device(device))
    encoder, decoder = (found.get(side) for side in SIDES)
    assert encoder is None or isinstance(encoder, TinyEncoder)  # for the type checker
    assert decoder is None or isinstance(decoder, TinyDecoder)
    return TinyVae(encoder, decoder)


def split(file: TensorFile) -> dict[str, dict[str, str]]:
    """Our names and the file's, for each side that is there."""
    sides: dict[str, dict[str, str]] = {}
    for key in file:
        for side in SIDES:
            for prefix in (f"{side}.layers.", f"taesd_{side}.", f"{side}."):
                if key.startswith(prefix):
                    own = key.removeprefix(prefix)
                    if side == "decoder" and prefix == "decoder.layers.":
                        own = moved(own, 1)  # diffusers' list begins behind the squashing
                    sides.setdefault(side, {})[own] = key
                    break
    if not sides and ("0.weight" in file or "1.weight" in file):
        # A side's own file: an encoder begins with a convolution, a decoder with none.
        sides["encoder" if "0.weight" in file else "decoder"] = {key: key for key in file}
    return sides


def moved(name: str, by: int) -> str:
    first, _, rest = name.partition(".")
    return f"{int(first) + by}.{rest}" if first.isdecimal() else name


def build(
    side: str, tensors: dict[str, Tensor], path: Path, dtype: torch.dtype, device: torch.device
) -> nn.Module:
    """One side of a TAESD, as wide as its file says; InputError for a file of another kind."""
    end = max((int(name.split(".")[0]) for name in tensors if name[0].isdecimal()), default=0)
    weight = tensors.get(f"{end}.weight" if side == "encoder" else "1.weight")
    if weight is None or weight.ndim != 4:
        raise InputError(f"{path}: the TAESD {side} must have a convolution for its latents")
    with unfilled():
        channels = weight.shape[0 if side == "encoder" else 1]
        network = TinyEncoder(channels) if side == "encoder" else TinyDecoder(channels)
    fill(network, tensors, path, dtype, device)
    return network.eval().requires_grad_(False)
