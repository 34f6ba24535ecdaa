"""A very small Stable Diffusion 1 with random weights, written and loaded as a real one is."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import torch
from safetensors.torch import save_file

from accel.models import stable_diffusion as sd
from accel.nn.adapter import Adapter, AdapterConfig
from accel.nn.control import ControlNet
from accel.nn.text import TextConfig
from accel.nn.tiny_vae import TinyDecoder
from accel.nn.unet import UnetConfig
from accel.nn.vae import VaeConfig
from tests.models.small import UNET, file_tensors

CONFIG = sd.Config(
    unet=UNET,
    towers=(
        sd.Tower(
            prefix="cond_stage_model.transformer.", config=TextConfig(width=16, layers=2, heads=2)
        ),
    ),
    vae=VaeConfig(base_channels=32, channel_mult=(1, 1, 1, 1)),
    side_px=64,
)
ADAPTER = AdapterConfig(channels=(32, 64), blocks=1)


def spread(network: torch.nn.Module) -> torch.nn.Module:
    """Weights that keep the size of what goes through; ControlNet's zeros among them."""
    with torch.no_grad():
        for tensor in network.parameters():
            if tensor.ndim > 1:
                tensor.normal_(0, tensor[0].numel() ** -0.5)
            else:
                tensor.add_(torch.randn_like(tensor) * 0.05)
    return network.eval().requires_grad_(False)


def write_checkpoint(path: Path, channels: int = 4, config: sd.Config = CONFIG) -> Path:
    torch.manual_seed(0)
    model = spread(sd.build(replace(config, unet=replace(config.unet, in_channels=channels))))
    save_file({name: t.contiguous() for name, t in file_tensors(model).items()}, path)
    return path


def write_control(path: Path, config: UnetConfig = CONFIG.unet) -> Path:
    torch.manual_seed(1)
    tensors = spread(ControlNet(config)).state_dict()
    save_file({"control_model." + k: v.contiguous() for k, v in tensors.items()}, path)
    return path


def write_adapter(path: Path, config: AdapterConfig = ADAPTER) -> Path:
    torch.manual_seed(2)
    save_file(
        {"adapter." + k: v.contiguous() for k, v in spread(Adapter(config)).state_dict().items()},
        path,
    )
    return path


def write_decoder(path: Path) -> Path:
    torch.manual_seed(3)
    save_file({k: v.contiguous() for k, v in spread(TinyDecoder(4)).state_dict().items()}, path)
    return path
