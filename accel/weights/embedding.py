"""Textual inversion: vectors that stand for a word, in the five forms in which files hold them.

1. A1111's `.pt`: string_to_param {"*": [n, width]} with a name and where it comes from
2. diffusers' `.bin` or `.safetensors`: one entry {token: [width] or [n, width]}
3. for SDXL: clip_l [n, 768] and clip_g [n, 1280]
4. emb_params [n, width]
5. a PNG whose text chunk `sd-ti-embedding` holds base64 of (1) as JSON, or whose pixels do

Source: Gal et al. 2022 (arXiv:2208.01618). The forms of pictures are A1111's.
"""

from __future__ import annotations

import base64
import binascii
import math
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image, UnidentifiedImageError
from torch import Tensor

from accel.core import InputError, open_file, parse_json
from accel.weights.files import open_tensors

PNG_START = b"\x89PNG\r\n\x1a\n"
PNG_TEXT = "sd-ti-embedding"
SDXL_PARTS = ("clip_l", "clip_g")
NOT_VECTORS = ("string_to_token.",)
MAX_PIXELS = 1 << 22  # of a picture that holds one: a vector takes some thousand
MAX_JSON_BYTES = 64 << 20  # a compressed picture could unpack to anything
MAX_ELEMENTS = 1 << 24  # of a file that holds one
LCG = (1664525, 1013904223, 1 << 32)  # the generator that scrambles the pixels' low bits


@dataclass(frozen=True)
class Embedding:
    """name: the word that stands for it: the file's stem. vectors: per text tower, [n, width]."""

    name: str
    vectors: tuple[Tensor, ...]

    @property
    def count(self) -> int:
        """Tokens that it takes."""
        return self.vectors[0].shape[0]


def open_embedding(path: Path) -> Embedding:
    """Read an embedding by what the file holds. Raises InputError for one that holds none."""
    with open_file(path, "a file of an embedding") as file:
        is_png = file.read(len(PNG_START)) == PNG_START
    return Embedding(path.stem, vectors_of(from_png(path) if is_png else from_file(path), path))


def from_file(path: Path) -> dict[str, Tensor]:
    file = open_tensors(path)
    elements = sum(math.prod(shape) for shape in file.shapes.values())
    if elements > MAX_ELEMENTS:  # a checkpoint, say
        raise InputError(
            f"{path}: must hold an embedding of {MAX_ELEMENTS} numbers at most, got {elements}"
        )
    return {name: tensor.clone() for name, tensor in file.items()}


def vectors_of(tensors: Mapping[str, Tensor], path: Path) -> tuple[Tensor, ...]:
    if all(part in tensors for part in SDXL_PARTS):
        found = {part: tensors[part] for part in SDXL_PARTS}
    else:
        found = {k: t for k, t in tensors.items() if not k.startswith(NOT_VECTORS)}
        if len(found) != 1:
            some = ", ".join(sorted(found)[:3])
            raise InputError(f"{path}: must hold one embedding, got {len(found)} tensors ({some})")
    ready = []
    for name, tensor in found.items():
        vectors = tensor.float() if tensor.ndim == 2 else tensor.float()[None]
        if vectors.ndim != 2 or not vectors.numel():
            raise InputError(f"{path}: {name} must be [n, width], got {tuple(tensor.shape)}")
        if not vectors.isfinite().all():
            raise InputError(f"{path}: {name} must hold finite numbers, got NaN or infinity")
        ready.append(vectors)
    if len({len(vectors) for vectors in ready}) != 1:
        raise InputError(f"{path}: clip_l and clip_g must have equally many vectors")
    return tuple(ready)


# ------------------------------------------------------------------ pictures


def from_png(path: Path) -> dict[str, Tensor]:
    try:
        with Image.open(path, formats=("PNG",)) as image:
            if image.width * image.height > MAX_PIXELS:
                raise ValueError(f"{image.width} by {image.height} pixels are too many")
            image.load()
            text = image.info.get(PNG_TEXT)
            raw = base64.b64decode(text) if text else from_pixels(np.asarray(image.convert("RGB")))
    except (UnidentifiedImageError, OSError, ValueError, binascii.Error, zlib.error, SyntaxError,
            Image.DecompressionBombError) as error:  # fmt: skip
        raise InputError(f"{path}: holds no embedding that can be read: {error}") from error
    about = parse_json(raw, f"{path}: its embedding")
    params = about.get("string_to_param") if isinstance(about, dict) else None
    if not isinstance(params, dict):
        raise InputError(f"{path}: the picture's embedding must have string_to_param")
    return {name: tensor_of(value, path) for name, value in params.items()}


def tensor_of(value: Any, path: Path) -> Tensor:
    try:
        return torch.tensor(value["TORCHTENSOR"], dtype=torch.float32)
    except (TypeError, KeyError, ValueError, RuntimeError, OverflowError) as error:
        raise InputError(f"{path}: the picture's vectors must be lists of numbers") from error


def from_pixels(
    pixels: np.ndarray,  # [H, W, 3] uint8
) -> bytes:  # JSON
    """The low four bits of two blocks, parted from each other by columns whose low bits are 0.

    The left block has the low halves of the bytes, the right one the high halves; both are
    scrambled. Raises ValueError where there are no such blocks, zlib.error where they are damaged.
    """
    inside: np.ndarray = np.all(pixels > 0, axis=2)
    rows, columns = np.flatnonzero(np.any(inside, axis=1)), np.flatnonzero(np.any(inside, axis=0))
    if not len(rows):
        raise ValueError("the picture is black")
    low_bits = pixels[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1] & 0x0F
    empty = np.flatnonzero(low_bits.sum(axis=(0, 2)) == 0)
    if len(empty) < 2:
        raise ValueError("neither a text chunk nor pixels with an embedding")
    lower = unscrambled(low_bits[:, : empty[0]])
    upper = unscrambled(low_bits[:, empty[-1] + 1 :])
    if lower.shape != upper.shape:
        raise ValueError("the two halves of the pixels' data must have one size")
    unpack = zlib.decompressobj()
    return unpack.decompress((upper << 4 | lower).tobytes(), MAX_JSON_BYTES)


def unscrambled(block: np.ndarray) -> np.ndarray:
    mult, add, modulus = LCG
    states = np.array([add], np.uint64)  # what follows zero
    while len(states) < block.size:  # as many again, by so many steps at once
        states = np.concatenate([states, (mult * states + add) % modulus])
        mult, add = mult * mult % modulus, (mult * add + add) % modulus
    noise = (states[: block.size] % 255 & 0x0F).astype(np.uint8)
    return block ^ noise.reshape(block.shape)
