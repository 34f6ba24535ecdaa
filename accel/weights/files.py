"""Files of named tensors, memory-mapped: safetensors, and torch checkpoints read without pickle.

A file is opened by reading its table of contents only; a tensor's bytes are touched when it is
used, and pages are shared between processes. Tensors may be written to: the change stays private
to the process (copy on write) and the file is never touched.

Source of the format: https://github.com/huggingface/safetensors, section "Format".
"""

from __future__ import annotations

import json
import math
import mmap
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from accel.core import InputError

MAX_HEADER_BYTES = 100_000_000  # the format's own limit
DTYPES = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "F8_E4M3": torch.float8_e4m3fn,
    "F8_E5M2": torch.float8_e5m2,
    "I64": torch.int64,
    "I32": torch.int32,
    "I16": torch.int16,
    "I8": torch.int8,
    "U8": torch.uint8,
    "BOOL": torch.bool,
}


@dataclass(frozen=True)
class Entry:
    """Where one tensor lies: `begin` and `end` are bytes from the start of the file.

    stride: in elements; None where the elements follow each other in order.
    """

    dtype: torch.dtype
    shape: tuple[int, ...]
    begin: int
    end: int
    stride: tuple[int, ...] | None = None


class TensorFile(Mapping[str, Tensor]):
    """Tensors by name; each look-up makes a view into the mapped file, nothing is copied."""

    def __init__(self, path: Path, entries: dict[str, Entry], metadata: dict[str, str]):
        self.path, self.entries, self.metadata = path, entries, metadata
        with path.open("rb") as file:
            self._map = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_COPY)

    @property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        return {name: entry.shape for name, entry in self.entries.items()}

    def __getitem__(self, name: str) -> Tensor:
        entry = self.entries[name]
        if entry.begin == entry.end:
            return torch.empty(entry.shape, dtype=entry.dtype)
        if entry.begin % entry.dtype.itemsize:  # torch wants its elements at even addresses
            odd = bytearray(self._map[entry.begin : entry.end])
            flat = torch.frombuffer(odd, dtype=entry.dtype)
        else:
            count = (entry.end - entry.begin) // entry.dtype.itemsize
            flat = torch.frombuffer(self._map, dtype=entry.dtype, count=count, offset=entry.begin)
        return (
            flat.view(entry.shape)
            if entry.stride is None
            else flat.as_strided(entry.shape, entry.stride)
        )

    def __iter__(self) -> Iterator[str]:
        return iter(self.entries)

    def __len__(self) -> int:
        return len(self.entries)


def open_tensors(path: Path) -> TensorFile:
    """Open a file of tensors by what it holds, whatever its name ends in.

    Raises InputError, one line, for a file that is missing, cut short, damaged or not of tensors.
    """
    from accel.weights.checkpoint import is_torch_archive, open_checkpoint

    if not path.is_file():
        raise InputError(f"{path}: must be a file of weights, found none")
    return open_checkpoint(path) if is_torch_archive(path) else open_safetensors(path)


def open_safetensors(path: Path) -> TensorFile:
    """Read the header and check that every tensor lies in the file and apart from the others."""
    size = path.stat().st_size
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        if size < 8 or length > min(MAX_HEADER_BYTES, size - 8):
            raise InputError(
                f"{path}: not a safetensors file, or cut short: a header of {length} bytes is"
                f" announced in a file of {size}"
            )
        try:
            header = json.loads(file.read(length))
        except ValueError as error:
            raise InputError(f"{path}: the safetensors header must be JSON: {error}") from error
    if not isinstance(header, dict):
        raise InputError(f"{path}: the safetensors header must be a JSON object")

    metadata = header.pop("__metadata__", {})
    if not isinstance(metadata, dict):
        raise InputError(f"{path}: __metadata__ must be a JSON object")
    entries = {name: _entry(path, name, value, 8 + length) for name, value in header.items()}
    _check_layout(path, entries, size)
    return TensorFile(path, entries, {str(k): str(v) for k, v in metadata.items()})


def _entry(path: Path, name: str, value: object, data_begin: int) -> Entry:
    def is_count(x: object) -> bool:
        return isinstance(x, int) and not isinstance(x, bool) and x >= 0

    fields = value if isinstance(value, dict) else {}
    dtype, shape, offsets = (fields.get(k) for k in ("dtype", "shape", "data_offsets"))
    if dtype not in DTYPES:
        raise InputError(f"{path}: {name}: dtype must be one of {sorted(DTYPES)}, got {dtype!r}")
    if not isinstance(shape, list) or not all(map(is_count, shape)):
        raise InputError(f"{path}: {name}: shape must be a list of counts, got {shape!r}")
    if not isinstance(offsets, list) or len(offsets) != 2 or not all(map(is_count, offsets)):
        raise InputError(f"{path}: {name}: data_offsets must be two counts, got {offsets!r}")
    begin, end = offsets
    wanted = math.prod(shape) * DTYPES[dtype].itemsize
    if end - begin != wanted:
        raise InputError(f"{path}: {name}: {dtype} {shape} needs {wanted} bytes, got {end - begin}")
    return Entry(DTYPES[dtype], tuple(shape), data_begin + begin, data_begin + end)


def _check_layout(path: Path, entries: dict[str, Entry], size: int) -> None:
    previous, before = 0, ""
    for name, entry in sorted(entries.items(), key=lambda item: (item[1].begin, item[1].end)):
        if entry.end > size:
            raise InputError(
                f"{path}: cut short: {name} ends at byte {entry.end} of a file of {size}"
            )
        if entry.begin < previous:
            raise InputError(f"{path}: {name} and {before} must not overlap")
        previous, before = entry.end, name


def first_not_finite(tensors: Mapping[str, Tensor]) -> str | None:
    """The name of a tensor with NaN or infinity in it, or None. Reads every byte."""
    for name, tensor in tensors.items():
        if not tensor.is_floating_point():
            continue
        wide = tensor.float() if tensor.dtype.itemsize == 1 else tensor
        # A sum runs at the memory's pace and cannot hide what is not finite; it may overflow, so
        # that a bad sum only raises the suspicion.
        if not wide.sum(dtype=torch.float32).isfinite() and not wide.isfinite().all():
            return name
    return None
