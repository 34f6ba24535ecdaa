"""Files of the full size of published ones, of random weights: 4 GB for Stable Diffusion 1.5."""

from __future__ import annotations

import json
import math
import zlib
from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np
import torch

from accel.models import stable_diffusion as sd
from tests.models.small import file_tensors

BLOCK = 1 << 22  # numbers in memory at a time
KINDS = {"F32": np.float32, "F16": np.float16}  # safetensors' names


def write_full_size(path: Path, name: str = "sd1", kind: str = "F32") -> None:
    """A checkpoint in one file, under the published names."""
    config = sd.config_of(name)
    with torch.device("meta"):
        model = sd.build(config)
    write_random(path, {name: tuple(t.shape) for name, t in file_tensors(model).items()}, kind)


def write_random(path: Path, shapes: Mapping[str, tuple[int, ...]], kind: str = "F32") -> None:
    """Safetensors of one of KINDS, each tensor drawn by its own name's seed and streamed out."""
    header, end = {}, 0
    for name, shape in shapes.items():
        begin, end = end, end + np.dtype(KINDS[kind]).itemsize * math.prod(shape)
        header[name] = {"dtype": kind, "shape": list(shape), "data_offsets": [begin, end]}
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    with path.open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        for name, shape in shapes.items():
            for part in drawn(name, shape):
                file.write(part.astype(KINDS[kind]).tobytes())


def drawn(name: str, shape: tuple[int, ...]) -> Iterator[np.ndarray]:
    """Numbers of a spread that keeps activations of the order of 1; norms get gains near 1."""
    random = np.random.default_rng(zlib.crc32(name.encode()))
    spread, mean = 0.1, 0.0
    if len(shape) > 1:
        spread = 1 / math.sqrt(math.prod(shape[1:]))
    elif name.endswith("weight"):
        mean = 1.0
    for begin in range(0, math.prod(shape), BLOCK):
        count = min(BLOCK, math.prod(shape) - begin)
        yield random.standard_normal(count, dtype=np.float32) * np.float32(spread) + np.float32(
            mean
        )
