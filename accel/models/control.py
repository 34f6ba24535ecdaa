"""ControlNet files: one network in one file, under its own names or diffusers'."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from accel.core import InputError
from accel.models import stable_diffusion as sd
from accel.models.diffusers_names import unet_module
from accel.models.folder import module_parameters, open_part
from accel.models.load import NAMED, fill
from accel.models.unfilled import unfilled
from accel.nn.control import HINT_WIDTHS, ControlNet
from accel.nn.unet import UnetConfig
from accel.weights.files import TensorFile, open_tensors

PREFIX = "control_model."
HINT = "controlnet_cond_embedding."
LAST_HINT = 4 * len(HINT_WIDTHS) - 2  # of the layers in a row; every other one is a SiLU


@dataclass(frozen=True)
class LoadedControl:
    """name: the member of the family that it steers, such as "sd1" or "sdxl"."""

    name: str
    network: ControlNet


def load_control(
    path: Path,
    *,
    dtype: torch.dtype = torch.float32,
    device: torch.device | str = "cpu",
    config: UnetConfig | None = None,  # of the UNet to be steered; None: found from shapes
) -> LoadedControl:
    """Load a ControlNet: a single file, or diffusers' folder of one.

    Raises InputError for a file of another kind, missing tensors, wrong shapes or NaN.
    """
    file = open_part(path) if path.is_dir() else open_tensors(path)
    is_theirs = f"{HINT}conv_in.weight" in file
    prefix = PREFIX if any(key.startswith(PREFIX) for key in file) else ""
    hint = file.shapes.get(
        HINT + "conv_in.weight" if is_theirs else f"{prefix}input_hint_block.0.weight"
    )
    if hint is None:
        some = ", ".join(sorted(file)[:NAMED])
        raise InputError(f"{path}: must be a ControlNet, got {len(file)} tensors ({some}, ...)")
    name = "given"
    if config is None:
        name, config = recognise(file, prefix, is_theirs)
    with unfilled():
        network = ControlNet(config, hint_channels=hint[1])
    tensors = {}
    for key in module_parameters(network):
        theirs = diffusers_name(key, config) if is_theirs else prefix + key
        if theirs in file:
            tensors[key] = file[theirs]
    fill(network, tensors, path, dtype, torch.device(device))
    return LoadedControl(name, network.eval().requires_grad_(False))


def recognise(file: TensorFile, prefix: str, is_theirs: bool) -> tuple[str, UnetConfig]:
    """The member whose way down has these shapes."""
    for base in sd.CONFIGS.values():
        shapes = {}
        for key in sd.telling_names(base.unet):
            theirs = diffusers_name(key, base.unet) if is_theirs else prefix + key
            if theirs in file.shapes:
                shapes[sd.UNET_PREFIX + key] = file.shapes[theirs]
        name = sd.detect(shapes)
        if name is not None:
            return name, sd.config_of(name).unet
    raise InputError(f"{file.path}: its ControlNet must be for Stable Diffusion 1, 2 or XL")


def diffusers_name(key: str, config: UnetConfig) -> str:
    """diffusers' name of one of ControlNet's parameters."""
    module, _, last = key.rpartition(".")
    part, _, rest = module.partition(".")
    if part == "zero_convs":
        return f"controlnet_down_blocks.{rest.split('.')[0]}.{last}"
    if part == "middle_block_out":
        return f"controlnet_mid_block.{last}"
    if part == "input_hint_block":
        at = int(rest)
        ends = {0: "conv_in", LAST_HINT: "conv_out"}
        return f"{HINT}{ends.get(at, f'blocks.{at // 2 - 1}')}.{last}"
    return f"{unet_module(module, config)}.{last}"


def summed(controls: Sequence[Sequence[Tensor]]) -> list[Tensor]:
    """What several ControlNets add together: for Unet's `control`."""
    return [sum(parts[1:], start=parts[0]) for parts in zip(*controls, strict=True)]


def soft_scales(count: int, base: float = 0.825) -> list[float]:
    """Less for the early, fine skips than for the middle: "my prompt is more important".

    The numbers of lllyasviel's extension, with which diffusers' guess mode and others agree in
    kind: base^(count - 1) for the first skip, 1 for the middle.
    """
    return [base ** (count - 1 - i) for i in range(count)]
