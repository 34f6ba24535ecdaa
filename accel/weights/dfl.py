"""DeepFaceLab's weight files, `<name>_<model>_<part>.npy`, and its `<name>_<model>_data.dat`.

A part's file is no numpy file but a pickle of a dictionary from a variable's name, such as
`down1/downs_0/conv1/weight:0`, to its array: kernels [height, width, in, out], matrices [in, out].
Here names have dots and layouts are torch's; what channels mean is the network's affair.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from accel.core import InputError, read_file
from accel.unfinished import write_whole
from accel.weights.pickle_machine import DEFAULT_LIMITS, Limits
from accel.weights.pickle_writer import dump_pickle
from accel.weights.pickles import load_pickle

MAX_FILE_BYTES = 8 << 30
# The loss of every step since the start is in there.
DATA_LIMITS = Limits(opcodes=60_000_000, containers=5_000_000, items=50_000_000)
KINDS = ("Quick96", "SAEHD", "AMP", "XSeg")


def read_weights(path: Path) -> dict[str, Tensor]:
    """Read one part's weights, as float32 in torch's layout.

    Raises InputError, one line, for a file that is missing, damaged, hostile or not of weights.
    """
    found = _read(path)
    if not isinstance(found, dict) or not found:
        raise InputError(f"{path}: must be a dictionary of weights, got {type(found).__name__}")
    weights = {}
    for name, array in found.items():
        if not isinstance(name, str) or not isinstance(array, np.ndarray | np.generic):
            raise InputError(f"{path}: {name!r:.60} must be an array, got {type(array).__name__}")
        if np.asarray(array).dtype.kind not in "fiu" or not np.isfinite(array).all():
            raise InputError(f"{path}: {name:.60} must hold finite numbers")
        weights[name.split(":")[0].replace("/", ".")] = _to_torch(np.asarray(array))
    return weights


def write_weights(path: Path, weights: Mapping[str, Tensor]) -> None:
    """Write one part's weights; an old file stays until the new one is whole."""
    _write(path, weights_file(weights))


def weights_file(weights: Mapping[str, Tensor]) -> bytes:
    """What a part's file holds; whole numbers, such as a count of steps, stay whole."""
    return dump_pickle({f"{k.replace('.', '/')}:0": _from_torch(v) for k, v in weights.items()})


def read_data(path: Path) -> dict[str, Any]:
    """Read a model's `_data.dat`: its options, iteration, loss history."""
    found = _read(path, DATA_LIMITS)
    if not isinstance(found, dict):
        raise InputError(f"{path}: must be a model's data, got {type(found).__name__}")
    return found


def write_data(path: Path, data: Mapping[str, Any]) -> None:
    """Write a model's `_data.dat`."""
    _write(path, data_file(data))


def data_file(data: Mapping[str, Any]) -> bytes:
    """What a model's `_data.dat` holds."""
    return dump_pickle(dict(data))


def find_models(folder: Path) -> list[tuple[str, str]]:
    """Name and kind of every model in a folder, the one saved last first; none if there is none."""
    found = []
    for path in folder.glob("*_data.dat"):
        name, _, kind = path.name.removesuffix("_data.dat").rpartition("_")
        if name and kind in KINDS:
            found.append((path.stat().st_mtime, name, kind))
    return [(name, kind) for _, name, kind in sorted(found, reverse=True)]


def part_file(folder: Path, name: str, kind: str, part: str) -> Path:
    """Where a part's weights lie."""
    return folder / f"{name}_{kind}_{part}.npy"


def _read(path: Path, limits: Limits = DEFAULT_LIMITS) -> Any:
    return load_pickle(read_file(path, MAX_FILE_BYTES, "a model's file"), str(path), limits)


def _write(path: Path, content: bytes) -> None:
    write_whole(path, content)


def _to_torch(array: np.ndarray[Any, Any]) -> Tensor:
    if array.ndim == 4:
        array = array.transpose(3, 2, 0, 1)
    elif array.ndim == 2:
        array = array.T
    # A copy: the file's bytes, which the array is a view of, are not to be written to.
    return torch.from_numpy(np.array(array, np.float32, order="C"))


def _from_torch(tensor: Tensor) -> np.ndarray[Any, Any]:
    if not tensor.is_floating_point():
        return tensor.detach().cpu().numpy()
    array = tensor.detach().cpu().float().numpy()
    if array.ndim == 4:
        array = array.transpose(2, 3, 1, 0)
    elif array.ndim == 2:
        array = array.T
    return np.ascontiguousarray(array)
