"""A file of the full size of Stable Diffusion 1.5, 4 GB of random weights in one checkpoint."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import torch

from accel.models import stable_diffusion as sd

PREFIXES = {"unet.": sd.UNET_PREFIX, "vae.": sd.VAE_PREFIX}


def write_full_size(path: Path, name: str = "sd1") -> None:
    """Stream it out: no more than a block of numbers is in memory at a time."""
    config = sd.CONFIGS[name]
    with torch.device("meta"):
        model = sd.build(config)
    prefixes = PREFIXES | {f"towers.{i}.": t.prefix for i, t in enumerate(config.towers)}
    header, shapes, end = {}, [], 0
    for own, tensor in model.state_dict().items():
        part = next(p for p in prefixes if own.startswith(p))
        begin, end = end, end + 4 * tensor.numel()
        header[prefixes[part] + own.removeprefix(part)] = {
            "dtype": "F32", "shape": list(tensor.shape), "data_offsets": [begin, end],
        }  # fmt: skip
        shapes.append(tuple(tensor.shape))
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    block = np.random.default_rng(0).standard_normal(1 << 22, dtype=np.float32)
    with path.open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        for shape in shapes:
            # Such a spread keeps activations of the order of 1; norms get gains near 1.
            if len(shape) > 1:
                values = block / math.sqrt(math.prod(shape[1:]))
            else:
                values = 1 + 0.01 * block
            left = math.prod(shape)
            while left:
                part_size = min(left, len(values))
                file.write(values[:part_size].tobytes())
                left -= part_size
