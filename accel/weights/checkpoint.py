"""torch checkpoints (`.ckpt`, `.pt`, `.bin`) read for their tensors alone.

A checkpoint is a zip archive: `data.pkl` says which tensors there are, one stored member each holds
the bytes. The pickle is run by an unpickler that knows five names, all harmless; any other class
becomes an empty stand-in whose creation runs nothing, because many published files carry, for
instance, their training program's callbacks. Archives from before torch 1.6 are refused.
"""

from __future__ import annotations

import pickle
import struct
import zipfile
from collections import OrderedDict
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from accel.core import InputError
from accel.weights.files import Entry, TensorFile

STORAGES = {
    "DoubleStorage": torch.float64,
    "FloatStorage": torch.float32,
    "HalfStorage": torch.float16,
    "BFloat16Storage": torch.bfloat16,
    "LongStorage": torch.int64,
    "IntStorage": torch.int32,
    "ShortStorage": torch.int16,
    "CharStorage": torch.int8,
    "ByteStorage": torch.uint8,
    "BoolStorage": torch.bool,
}
LOCAL_HEADER = struct.Struct("<4s22xHH")  # of a zip member: mark, ..., name length, extra length
MAX_DEPTH = 4  # of dictionaries around the tensors: {"state_dict": {...}}


@dataclass(frozen=True)
class Lazy:
    """A tensor that is described but not read."""

    dtype: torch.dtype
    member: str
    offset: int  # elements
    shape: tuple[int, ...]
    stride: tuple[int, ...]


class Inert:
    """Stands for an object of any class that holds no tensor we need."""

    def __init__(self, *args: object, **kwargs: object):
        pass

    def __setstate__(self, state: object) -> None:
        pass

    def append(self, item: object) -> None:
        pass

    def extend(self, items: object) -> None:
        pass

    def __setitem__(self, key: object, value: object) -> None:
        pass


def is_torch_archive(path: Path) -> bool:
    with path.open("rb") as file:
        return file.read(4) == b"PK\x03\x04"


def open_checkpoint(path: Path) -> TensorFile:
    """Map the tensors of a checkpoint, with `state_dict` and the like taken off their names.

    Raises InputError for a damaged archive, or one whose tensors are compressed.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            members = {info.filename: info for info in archive.infolist()}
            program = next((n for n in members if n.endswith("data.pkl")), None)
            if program is None:
                raise InputError(f"{path}: a torch checkpoint must hold data.pkl, found none")
            with archive.open(program) as file:
                found = TensorUnpickler(file).load()
    except (zipfile.BadZipFile, pickle.UnpicklingError, EOFError, TypeError, ValueError) as error:
        if isinstance(error, InputError):
            raise
        raise InputError(f"{path}: cannot be read as a torch checkpoint: {error}") from error
    folder = program.removesuffix("data.pkl")
    lazies = collect(found)
    if not lazies:
        raise InputError(f"{path}: a checkpoint must hold named tensors, found none")
    with path.open("rb") as file:
        entries = {
            name: _entry(path, name, lazy, members.get(f"{folder}data/{lazy.member}"), file)
            for name, lazy in lazies.items()
        }
    return TensorFile(path, entries, {})


class TensorUnpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        if (module, name) == ("collections", "OrderedDict"):
            return OrderedDict
        if module == "torch._utils" and name == "_rebuild_tensor_v2":
            return _rebuild_tensor
        if module == "torch._utils" and name == "_rebuild_parameter":
            return lambda data, *rest: data
        if module in ("torch", "torch.storage") and name in STORAGES:
            return STORAGES[name]
        if (module, name) == ("torch", "Size"):
            return tuple
        return Inert

    def persistent_load(self, pid: Any) -> Any:
        kind, dtype, member, *_ = pid
        if kind != "storage" or not isinstance(dtype, torch.dtype):
            raise pickle.UnpicklingError(f"storage of an unknown kind: {dtype!r}")
        return dtype, str(member)


def _rebuild_tensor(
    storage: tuple[torch.dtype, str], offset: int, shape: Any, stride: Any, *rest: object
) -> Lazy:
    dtype, member = storage
    return Lazy(dtype, member, int(offset), tuple(map(int, shape)), tuple(map(int, stride)))


def collect(found: Any, prefix: str = "", depth: int = 0) -> dict[str, Lazy]:
    """All named tensors; a wrapping `state_dict`, `model` or `params` adds nothing to the name."""
    tensors: dict[str, Lazy] = {}
    if not isinstance(found, dict) or depth > MAX_DEPTH:
        return tensors
    for key, value in found.items():
        if isinstance(value, Lazy):
            tensors[prefix + str(key)] = value
        elif isinstance(value, dict):
            wrapper = depth == 0 and key in ("state_dict", "model", "params", "params_ema")
            tensors |= collect(value, prefix if wrapper else f"{prefix}{key}.", depth + 1)
    return tensors


def _entry(path: Path, name: str, lazy: Lazy, info: zipfile.ZipInfo | None, file: Any) -> Entry:
    if info is None or info.compress_type != zipfile.ZIP_STORED:
        raise InputError(f"{path}: {name}: its bytes must be a stored member of the archive")
    file.seek(info.header_offset)
    mark, name_length, extra_length = LOCAL_HEADER.unpack(file.read(LOCAL_HEADER.size))
    if mark != b"PK\x03\x04":
        raise InputError(f"{path}: {name}: its member of the archive is damaged")
    # Elements from the first to the last that the strides reach; 0 for an empty tensor.
    reach = sum((side - 1) * step for side, step in zip(lazy.shape, lazy.stride, strict=True))
    count = reach + 1 if all(lazy.shape) else 0
    start = info.header_offset + LOCAL_HEADER.size + name_length + extra_length
    begin = start + lazy.offset * lazy.dtype.itemsize
    end = begin + count * lazy.dtype.itemsize
    counts = (lazy.offset, *lazy.shape, *lazy.stride)
    if min(counts) < 0 or end > start + info.file_size:
        raise InputError(f"{path}: {name}: must lie inside its storage of {info.file_size} bytes")
    return Entry(lazy.dtype, lazy.shape, begin, end, lazy.stride)
