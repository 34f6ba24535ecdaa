"""`nano` as one file: half precision, named as a single-file Stable Diffusion 1.x checkpoint.

The header's metadata says what a full-size checkpoint need not say: the sizes, the token rows,
and which pictures were never shown in training.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import cast

import torch
from safetensors import torch as safetensors
from torch import Tensor, nn

from accel.core import InputError
from accel.models import nano
from accel.models.load import load as load_checkpoint
from accel.models.stable_diffusion import UNET_PREFIX, VAE_PREFIX
from accel.nn.text import ClipText
from accel.nn.unet import Unet
from accel.nn.vae import Vae
from accel.text.bpe import clip_tokenizer
from accel.text.rows import RowMap
from accel.unfinished import write_whole

TEXT_PREFIX = "cond_stage_model.transformer."
V_PREDICTION_MARK = "v_pred"  # an empty tensor of this name: other programs know it too


@dataclass(frozen=True)
class Nano:
    """The three networks with what is needed to prompt and to judge them.

    held_out: (concept, style) pairs that were never shown. seen: pictures shown to the UNet.
    """

    text: ClipText
    unet: Unet
    vae: Vae
    row_map: RowMap
    labels: list[str]
    held_out: set[tuple[int, int]]
    seen: int

    def rows(self, prompts: Sequence[str]) -> Tensor:  # [B, tokens]
        return token_rows(self.row_map, prompts)


def token_rows(row_map: RowMap, prompts: Sequence[str]) -> Tensor:  # [B, tokens]
    """Rows of the token table, padded to the tower's length."""
    length, encode = nano.text_config(0).length, clip_tokenizer().encode
    return torch.tensor([row_map.chunk(encode(p), length) for p in prompts])


def save(path: Path, model: Nano) -> None:
    """Write the file; the old one stays until the new one is whole."""
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
    metadata = {"family": nano.NAME, nano.NAME: json.dumps(about)}
    write_whole(path, safetensors.save(tensors, metadata))


def load(path: Path) -> Nano:
    """Read a file that `save` wrote, by way of the engine's own loader."""
    loaded = load_checkpoint(path)
    if nano.NAME not in loaded.metadata:
        raise InputError(f"{path}: must be a nano file, got a {loaded.name} checkpoint")
    about = json.loads(loaded.metadata[nano.NAME])
    return Nano(
        cast(ClipText, loaded.model.towers[0]),
        loaded.model.unet,
        loaded.model.vae,
        nano.row_map(loaded.metadata),
        about["labels"],
        {(c, s) for c, s in about["held_out"]},
        about["images_seen"],
    )
