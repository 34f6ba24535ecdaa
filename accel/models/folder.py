"""Stable Diffusion as diffusers keeps it: a folder with one folder of weights for each network.

The member of the family is found from names and shapes, as with single files; the configurations
are read where the sizes are those of no known member, and the scheduler's for what no shape tells.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TypeVar

import torch
from torch import Tensor, nn

from accel.core import InputError, read_json
from accel.models import stable_diffusion as sd
from accel.models.described import describe
from accel.models.diffusers_names import open_clip_module, unet_module, vae_module
from accel.models.unfilled import unfilled
from accel.weights.files import TensorFile, open_parts, open_tensors

WEIGHTS = (  # a network's file, the first that is there
    "diffusion_pytorch_model.safetensors",
    "model.safetensors",
    "diffusion_pytorch_model.bin",
    "pytorch_model.bin",
)
C = TypeVar("C")
OLDER = {"to_q": "query", "to_k": "key", "to_v": "value", "to_out.0": "proj_attn"}
THIRDS = ("q_proj", "k_proj", "v_proj")


def is_folder(path: Path) -> bool:
    return (path / "unet").is_dir()


def read_folder(path: Path) -> tuple[str, sd.Config, dict[str, Tensor], list[TensorFile]]:
    """The member's name, its configuration, all tensors under StableDiffusion's own names, files.

    Raises InputError where a network is missing or the UNet is of another family.
    """
    unet = open_part(path / "unet")
    name, config = recognise(unet, path) or describe(path)
    towers = [open_part(path / folder) for folder in tower_folders(path, config)]
    config = fit_towers(config, towers)
    with unfilled():
        model = sd.build(config)

    tensors = {}
    vae = open_part(path / "vae")
    for key in module_parameters(model.unet):
        tensors["unet." + key] = renamed(unet, key, unet_module, config.unet)
    for key in module_parameters(model.vae):
        tensors["vae." + key] = renamed(vae, key, vae_module, config.vae)
    for i, (network, file) in enumerate(zip(model.towers, towers, strict=True)):
        for key in module_parameters(network):
            tensors[f"towers.{i}.{key}"] = text_tensor(file, key, config.towers[i].open_clip)
    known = {key: tensor for key, tensor in tensors.items() if tensor is not None}
    return name, config, known, [unet, vae, *towers]


def read_prediction(path: Path) -> tuple[str, bool]:
    """("eps" or "v", zero terminal SNR) as the scheduler's configuration says."""
    file = path / "scheduler" / "scheduler_config.json"
    if not file.is_file():
        return "eps", False
    about = read_json(file)
    if not isinstance(about, dict):
        raise InputError(f"{file}: must be a JSON object")
    kind = "v" if about.get("prediction_type") == "v_prediction" else "eps"
    return kind, bool(about.get("rescale_betas_zero_snr", False))


def open_part(folder: Path) -> TensorFile:
    """One network's weights: its file, the files that an index names, or a variant (fp16) of them.

    Raises InputError where there are none.
    """
    for name in WEIGHTS:
        stem, _, ending = name.rpartition(".")
        for pattern in (name, f"{name}.index.json", f"{stem}.*.{ending}", f"{name}.index.*.json"):
            files = [file for file in sorted(folder.glob(pattern)) if "-of-" not in file.name]
            if files:
                is_index = files[0].suffix == ".json"
                return open_parts(files[0]) if is_index else open_tensors(files[0])
    raise InputError(f"{folder}: must hold one of {', '.join(WEIGHTS[:2])}, found none")


def tower_folders(path: Path, config: sd.Config) -> list[str]:
    folders = ["text_encoder", "text_encoder_2"]
    # SDXL's refiner has only the second.
    return folders[-1:] if not (path / folders[0]).is_dir() else folders[: len(config.towers)]


def recognise(unet: TensorFile, path: Path) -> tuple[str, sd.Config] | None:
    """Look up, for each member, the tensors by which it is told, under diffusers' names."""
    for config in sd.CONFIGS.values():
        shapes = {}
        for key in sd.telling_names(config.unet):
            module, _, last = key.rpartition(".")
            shape = unet.shapes.get(f"{unet_module(module, config.unet)}.{last}")
            if shape is not None:
                shapes[sd.UNET_PREFIX + key] = shape
        name = sd.detect(shapes)
        if name is not None:
            module, _, last = sd.GUIDANCE.rpartition(".")
            told = unet.shapes.get(f"{unet_module(module, config.unet)}.{last}")
            return name, sd.told_guidance(sd.config_of(name), told)
    if not (path / "unet" / "config.json").is_file():
        raise InputError(f"{path}: its UNet must be of Stable Diffusion 1, 2 or XL")
    return None


def fit_towers(config: sd.Config, files: Sequence[TensorFile]) -> sd.Config:
    """diffusers leaves out what SD 2.x does not use: the last layer and the projection."""
    towers = []
    for tower, file in zip(config.towers, files, strict=True):
        text = tower.config
        layers = 1 + max((layer_of(key) for key in file), default=-1)
        if tower.open_clip and layers == text.layers - (tower.from_last - 1) < text.layers:
            text = replace(text, layers=layers)
            tower = replace(tower, from_last=1)
        if text.projection and "text_projection.weight" not in file:
            text = replace(text, projection=0)
        towers.append(replace(tower, config=text))
    return replace(config, towers=tuple(towers))


def layer_of(key: str) -> int:
    parts = key.split(".layers.")
    return int(parts[1].split(".")[0]) if len(parts) == 2 else -1


def module_parameters(network: nn.Module) -> list[str]:
    return [name for name, _ in network.named_parameters()]


def renamed(
    file: Mapping[str, Tensor], key: str, rename: Callable[[str, C], str], config: C
) -> Tensor | None:
    module, _, last = key.rpartition(".")
    theirs = f"{rename(module, config)}.{last}"
    return file[theirs] if theirs in file else file.get(older(theirs))


def older(name: str) -> str:
    """Autoencoders saved by the first versions of diffusers name their attention otherwise."""
    for new, old in OLDER.items():
        if f".{new}." in name and "mid_block.attentions" in name:
            return name.replace(f".{new}.", f".{old}.")
    return name


def text_tensor(file: Mapping[str, Tensor], key: str, open_clip: bool) -> Tensor | None:
    """transformers splits OpenCLIP's joint projection and turns the last one over."""
    if not open_clip:
        return file.get(key)
    if key == "positional_embedding":
        return file.get(open_clip_module(key) + ".weight")
    if key == "text_projection":
        stored = file.get("text_projection.weight")
        return None if stored is None else stored.t().contiguous()
    module, _, last = key.rpartition(".")
    if last.startswith("in_proj_"):
        layer = module.split(".")[2]
        stem = f"text_model.encoder.layers.{layer}.self_attn."
        parts = [file.get(f"{stem}{third}.{last.removeprefix('in_proj_')}") for third in THIRDS]
        known = [part for part in parts if part is not None]
        return torch.cat(known) if len(known) == len(THIRDS) else None
    return file.get(f"{open_clip_module(module)}.{last}")
