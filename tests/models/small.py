"""What several tests make small models of, and what their tensors are called in files."""

from __future__ import annotations

from torch import Tensor

from accel.models import stable_diffusion as sd
from accel.nn.unet import UnetConfig

UNET = UnetConfig(
    channels=32,
    channel_mult=(1, 2),
    res_blocks=1,
    transformer_depth=(1, 1),
    context_width=16,
    heads=2,
)


def file_tensors(model: sd.StableDiffusion) -> dict[str, Tensor]:
    """A model's tensors under their names in a checkpoint of one file."""
    prefixes = {"unet.": sd.UNET_PREFIX, "vae.": sd.VAE_PREFIX}
    prefixes |= {f"towers.{i}.": tower.prefix for i, tower in enumerate(model.config.towers)}
    tensors = {}
    for own, tensor in model.state_dict().items():
        part = next(p for p in prefixes if own.startswith(p))
        tensors[prefixes[part] + own.removeprefix(part)] = tensor
    return tensors
