"""`nano` as one file: half precision, named as a single-file Stable Diffusion 1.x checkpoint.

The header's metadata says what a full-size checkpoint need not say: the sizes, the token rows,
and which (concept, style) pairs were never shown in training.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from accel.models import nano
from accel.nn.text import ClipText
from accel.nn.unet import Unet
from accel.nn.vae import Vae
from accel.text.bpe import clip_tokenizer
from accel.text.rows import RowMap

UNET_PREFIX = "model.diffusion_model."
TEXT_PREFIX = "cond_stage_model.transformer."
VAE_PREFIX = "first_stage_model."
V_PREDICTION_MARK = "v_pred"  # an empty tensor of this name: other programs know it too


@dataclass(frozen=True)
class Nano:
    """The three networks with what is needed to prompt and to judge them."""

    text: ClipText
    unet: Unet
    vae: Vae
    row_map: RowMap
    labels: list[str]
    held_out: set[tuple[int, int]]  # (concept, style) as evaluate.Pair counts them
    seen: int  # pictures shown to the UNet in training

    def rows(self, prompts: list[str]) -> Tensor:  # [B, tokens]
        length = self.text.config.length
        encode = clip_tokenizer().encode
        return torch.tensor([self.row_map.chunk(encode(p), length) for p in prompts])


def save(path: Path, model: Nano) -> None:
    tensors: dict[str, Tensor] = {V_PREDICTION_MARK: torch.zeros(0)}
    parts: list[tuple[str, nn.Module]] = [
        (UNET_PREFIX, model.unet),
        (TEXT_PREFIX, model.text),
        (VAE_PREFIX, model.vae),
    ]
    for prefix, part in parts:
        for name, tensor in part.state_dict().items():
            tensors[prefix + name] = tensor.half().contiguous()
    about = {
        "kept_tokens": list(model.row_map.kept),
        "hashed_rows": model.row_map.hashed,
        "labels": model.labels,
        "held_out": sorted(model.held_out),
        "images_seen": model.seen,
    }
    part = path.with_suffix(".part")
    save_file(tensors, part, {"family": "nano", "nano": json.dumps(about)})
    part.replace(path)


def load(path: Path) -> Nano:
    """Read a file that `save` wrote; networks come in float32, ready for inference."""
    with safe_open(path, "pt") as file:
        about = json.loads(file.metadata()["nano"])
    row_map = RowMap(tuple(about["kept_tokens"]), about["hashed_rows"])
    tensors = {name: t.float() for name, t in load_file(path).items()}

    def filled(part: nn.Module, prefix: str) -> nn.Module:
        own = {n.removeprefix(prefix): t for n, t in tensors.items() if n.startswith(prefix)}
        part.load_state_dict(own)
        return part.eval().requires_grad_(False)

    text = ClipText(nano.text_config(len(row_map.kept)))
    unet, vae = Unet(nano.UNET), Vae(nano.VAE)
    filled(text, TEXT_PREFIX)
    filled(unet, UNET_PREFIX)
    filled(vae, VAE_PREFIX)
    held_out = {(c, s) for c, s in about["held_out"]}
    return Nano(text, unet, vae, row_map, about["labels"], held_out, about["images_seen"])
