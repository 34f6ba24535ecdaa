"""T2I-Adapter files: TencentARC's own names and diffusers'; the kind is found from shapes."""

from __future__ import annotations

import re
from pathlib import Path

import torch

from accel.core import InputError
from accel.models.folder import open_part
from accel.models.load import NAMED, fill
from accel.models.unfilled import unfilled
from accel.nn.adapter import Adapter, AdapterConfig
from accel.weights.files import open_tensors

PREFIX = "adapter."
OLD_NAME = re.compile(r"body\.(\d+)\.(.*)")
OLD_BLOCKS = 2  # a stage, in files that number all blocks in a row


def load_adapter(
    path: Path, *, dtype: torch.dtype = torch.float32, device: torch.device | str = "cpu"
) -> Adapter:
    """Load an adapter: one file, or diffusers' folder of one.

    Raises InputError for a file of another kind, missing tensors, wrong shapes or NaN.
    """
    file = open_part(path) if path.is_dir() else open_tensors(path)
    is_light = any(".out_conv." in key for key in file)
    names = {own_name(key, is_light): key for key in file}
    config = recognise({own: file.shapes[key] for own, key in names.items()}, is_light, path)
    with unfilled():
        network = Adapter(config)
    tensors = {own: file[key] for own, key in names.items()}
    fill(network, tensors, path, dtype, torch.device(device))
    return network.eval().requires_grad_(False)


def own_name(key: str, is_light: bool) -> str:
    """The name in accel.nn.adapter of a file's tensor.

    TencentARC's files number the blocks of all stages in a row, and keep what changes the width in
    a stage's first block; their light ones have a `body` in each stage.
    """
    name = key.removeprefix(PREFIX)
    old = OLD_NAME.fullmatch(name)
    if old is None or ".resnets." in name or key.startswith(PREFIX):
        return name
    index, rest = int(old[1]), old[2]
    if is_light:
        return f"body.{index}.{rest.replace('body.', 'resnets.', 1)}"
    stage, block = divmod(index, OLD_BLOCKS)
    return (
        f"body.{stage}.{rest}"
        if rest.startswith("in_conv.")
        else (f"body.{stage}.resnets.{block}.{rest}")
    )


def recognise(shapes: dict[str, tuple[int, ...]], is_light: bool, path: Path) -> AdapterConfig:
    """Widths and numbers of blocks as found; a picture has 3 channels, or 1."""
    stages = 1 + max(
        (int(name.split(".")[1]) for name in shapes if name.startswith("body.")), default=-1
    )
    blocks = sum(f"body.0.resnets.{i}.block1.weight" in shapes for i in range(len(shapes)))
    first = shapes.get("body.0.in_conv.weight" if is_light else "conv_in.weight")
    if first is None or stages < 2 or not blocks:
        some = ", ".join(sorted(shapes)[:NAMED])
        raise InputError(f"{path}: must be a T2I-Adapter, got {len(shapes)} tensors ({some}, ...)")
    if is_light:
        ends = [shapes.get(f"body.{i}.out_conv.weight", (0,)) for i in range(stages)]
    else:
        ends = [shapes.get(f"body.{i}.resnets.0.block1.weight", (0,)) for i in range(stages)]
    kinds = {3 * 64: ("full", 3, 8), 64: ("full", 1, 8), 3 * 256: ("full-xl", 3, 16),
             256: ("full-xl", 1, 16)}  # fmt: skip
    if first[1] not in kinds:
        raise InputError(
            f"{path}: a T2I-Adapter's first layer must take one of {sorted(kinds)} channels,"
            f" got {first[1]}"
        )
    kind, inputs, factor = kinds[first[1]]
    return AdapterConfig(
        kind="light" if is_light else kind,
        in_channels=inputs,
        channels=tuple(end[0] for end in ends),
        blocks=blocks,
        factor=factor,
    )
