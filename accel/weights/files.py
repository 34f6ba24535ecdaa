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
import os
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from accel.core import MAX_JSON_ITEMS, InputError, json_items, open_file, read_json

MAX_HEADER_BYTES = 64 << 20  # the format allows 100 MB; no published file comes near
MAX_TENSORS = 100_000
MAX_DIMENSIONS = 16
MAX_PARTS = 1000  # files of one network
WORTH_RELEASING = 64 << 20  # bytes of a file
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
        with open_file(path, "a file of weights") as file:
            self._map = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_COPY)

    @property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        return {name: entry.shape for name, entry in self.entries.items()}

    def __getitem__(self, name: str) -> Tensor:
        entry = self.entries[name]
        if entry.begin == entry.end:
            return torch.empty(entry.shape, dtype=entry.dtype)
        size, at = entry.end - entry.begin, entry.begin
        if at % entry.dtype.itemsize:  # torch wants its elements at even addresses
            flat = self._copied(at, size).view(entry.dtype)
        else:
            count = size // entry.dtype.itemsize
            flat = torch.frombuffer(self._map, dtype=entry.dtype, count=count, offset=at)
        return (
            flat.view(entry.shape)
            if entry.stride is None
            else flat.as_strided(entry.shape, entry.stride)
        )

    def _copied(self, at: int, size: int) -> Tensor:
        """Bytes of the file, past the map, whose pages would count as memory beside the copy."""
        copy = torch.empty(size, dtype=torch.uint8)
        with open_file(self.path, "a file of weights") as file:
            file.seek(at)
            if file.readinto(copy.numpy()) != size:  # type: ignore[attr-defined]  # of typeshed
                raise InputError(f"{self.path}: was cut short while it was read")
        return copy

    def __iter__(self) -> Iterator[str]:
        return iter(self.entries)

    def __len__(self) -> int:
        return len(self.entries)

    def release(self, tensors: Iterable[Tensor] | None = None) -> None:
        """Stop counting what was read of the file as this process's memory.

        tensors: what alone is let go; those that do not lie in the file are passed over.
        The system still has it, and it comes back where it is used. What was written to stays, and
        all does where the system does not say what was, or of a small file. No other thread may
        write meanwhile.
        """
        size = len(self._map)
        if size < WORTH_RELEASING:
            return
        first = torch.frombuffer(self._map, dtype=torch.uint8, count=1).data_ptr()
        spans = [(0, size)] if tensors is None else _spans(tensors, first, size)
        for begin, end in spans:
            if _is_as_read(first + begin, first + end):
                self._map.madvise(mmap.MADV_DONTNEED, begin, end - begin)


class Parts(TensorFile):
    """Tensors of several files under one roof."""

    def __init__(self, path: Path, owners: dict[str, TensorFile]):
        self.path, self.metadata, self._owners = path, {}, owners
        self.entries = {name: file.entries[name] for name, file in owners.items()}

    def __getitem__(self, name: str) -> Tensor:
        return self._owners[name][name]

    def release(self, tensors: Iterable[Tensor] | None = None) -> None:
        given = None if tensors is None else list(tensors)
        for owner in {id(file): file for file in self._owners.values()}.values():
            owner.release(given)


def open_parts(index: Path) -> Parts:
    """Open the files that a `.index.json` names, which lie beside it.

    Raises InputError for an index that names anything else, or tensors that its files lack.
    """
    about = read_json(index)
    named = about.get("weight_map") if isinstance(about, dict) else None
    if not isinstance(named, dict) or not all(isinstance(file, str) for file in named.values()):
        raise InputError(f"{index}: must have a weight_map from tensors to files")
    files = sorted(set(named.values()))
    if len(files) > MAX_PARTS or any(Path(file).name != file for file in files):
        raise InputError(f"{index}: must name at most {MAX_PARTS} files beside it, got {files[:3]}")
    opened = {file: open_tensors(index.with_name(file)) for file in files}
    for name, file in named.items():
        if name not in opened[file]:
            raise InputError(f"{index}: {name:.200} must be in {file}")
    return Parts(index, {name: opened[file] for name, file in named.items()})


def open_tensors(path: Path) -> TensorFile:
    """Open a file of tensors by what it holds, whatever its name ends in.

    Raises InputError, one line, for a file that is missing, cut short, damaged or not of tensors.
    """
    from accel.weights.checkpoint import is_torch_archive, open_checkpoint

    if not path.is_file():
        raise InputError(f"{path}: must be a file of weights, found none")
    return open_checkpoint(path) if is_torch_archive(path) else open_safetensors(path)


def open_safetensors(path: Path) -> TensorFile:
    """Read the header and check that the tensors fill the rest of the file, none over another."""
    with open_file(path, "a file of weights") as file:
        size = os.fstat(file.fileno()).st_size
        length = int.from_bytes(file.read(8), "little")
        if size < 8 or length > min(MAX_HEADER_BYTES, size - 8):
            raise InputError(
                f"{path}: not a safetensors file, or cut short: a header of {length} bytes is"
                f" announced in a file of {size}"
            )
        header = _header(path, file.read(length))
    metadata = header.pop("__metadata__", {})
    if not isinstance(metadata, dict):
        raise InputError(f"{path}: __metadata__ must be a JSON object")
    if len(header) > MAX_TENSORS:
        raise InputError(f"{path}: must hold {MAX_TENSORS} tensors at most, got {len(header)}")
    entries = {name: _entry(path, name, value, 8 + length) for name, value in header.items()}
    _check_layout(path, entries, 8 + length, size)
    return TensorFile(path, entries, {k: v for k, v in metadata.items() if isinstance(v, str)})


def _header(path: Path, text: bytes) -> dict[str, Any]:
    if json_items(text) > MAX_JSON_ITEMS:
        raise InputError(f"{path}: the header must hold {MAX_JSON_ITEMS} items at most, has more")

    def once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        found = dict(pairs)
        if len(found) < len(pairs):  # two readers might take different ones
            raise ValueError("a name comes twice")
        return found

    try:
        header = json.loads(text, object_pairs_hook=once)
    except (ValueError, RecursionError) as error:
        raise InputError(f"{path}: the safetensors header must be JSON: {error}") from error
    if not isinstance(header, dict):
        raise InputError(f"{path}: the safetensors header must be a JSON object")
    return header


def _entry(path: Path, name: str, value: object, data_begin: int) -> Entry:
    def are_counts(x: object, most: int) -> bool:
        return (
            isinstance(x, list)
            and len(x) <= most
            and all(type(n) is int and 0 <= n < 2**48 for n in x)
        )

    who = f"{path}: {name:.200}"
    fields = value if isinstance(value, dict) else {}
    parts: list[Any] = [fields.get(k) for k in ("dtype", "shape", "data_offsets")]
    dtype, shape, offsets = parts
    if not isinstance(dtype, str) or dtype not in DTYPES:
        raise InputError(f"{who}: dtype must be one of {sorted(DTYPES)}, got {dtype!r:.40}")
    if not are_counts(shape, MAX_DIMENSIONS) or math.prod(max(n, 1) for n in shape) >= 2**48:
        raise InputError(f"{who}: shape must be a list of counts, got {shape!r:.80}")
    if not are_counts(offsets, 2) or len(offsets) != 2:
        raise InputError(f"{who}: data_offsets must be two counts, got {offsets!r:.80}")
    begin, end = offsets
    wanted = math.prod(shape) * DTYPES[dtype].itemsize
    if end - begin != wanted:
        raise InputError(f"{who}: {dtype} {shape} needs {wanted} bytes, got {end - begin}")
    return Entry(DTYPES[dtype], tuple(shape), data_begin + begin, data_begin + end)


def _check_layout(path: Path, entries: dict[str, Entry], begin: int, size: int) -> None:
    previous, before = begin, "the header"
    for name, entry in sorted(entries.items(), key=lambda item: (item[1].begin, item[1].end)):
        if entry.end > size:
            raise InputError(
                f"{path}: cut short: {name:.200} ends at byte {entry.end} of a file of {size}"
            )
        if entry.begin < previous:
            raise InputError(f"{path}: {name:.200} and {before} must not overlap")
        if entry.begin > previous:
            raise InputError(
                f"{path}: every byte must belong to a tensor, but {entry.begin - previous} bytes"
                f" before {name:.200} do not"
            )
        previous, before = entry.end, f"{name:.200}"
    if size > previous:
        raise InputError(
            f"{path}: every byte must belong to a tensor, but {size - previous} at the end do not"
        )


def _spans(tensors: Iterable[Tensor], first: int, size: int) -> list[tuple[int, int]]:
    """The whole pages of tensors that lie in `size` bytes from address `first` on, from there.

    Neighbours are one span.
    """
    found: list[list[int]] = []
    for begin, end in sorted((t.data_ptr() - first, t.nbytes) for t in tensors):
        end += begin
        if begin < 0 or end > size:
            continue
        if found and begin <= found[-1][1]:
            found[-1][1] = max(end, found[-1][1])
        else:
            found.append([begin, end])
    page = mmap.PAGESIZE
    whole = [(-(-begin // page) * page, end // page * page) for begin, end in found]
    return [(begin, end) for begin, end in whole if begin < end]


def _is_as_read(begin: int, end: int) -> bool:
    """Whether no page between the addresses is this process's own, as those written to are.

    Source: https://docs.kernel.org/admin-guide/mm/pagemap.html. Of each page's 64 bits the last
    three say that it is there, that it was swapped out, and that it is a file's.
    """
    page, most = mmap.PAGESIZE, 1 << 17
    try:
        with open("/proc/self/pagemap", "rb", buffering=0) as table:
            for at in range(begin // page, -(-end // page), most):
                count = min(most, -(-end // page) - at)
                pages = np.frombuffer(os.pread(table.fileno(), 8 * count, 8 * at), np.uint64) >> 61
                if len(pages) != count or ((pages & 2 != 0) | (pages & 5 == 4)).any():
                    return False
    except OSError:
        return False
    return True


def first_not_finite(tensors: Mapping[str, Tensor]) -> str | None:
    """The name of a tensor with NaN or infinity in it, or None. Reads every byte."""
    for name, tensor in tensors.items():
        if not tensor.is_floating_point():
            continue
        wide = tensor.float() if tensor.dtype.itemsize == 1 else tensor
        # A sum runs at the memory's pace and cannot hide what is not finite; it may overflow, so
        # that a bad sum only raises the suspicion.
        if not wide.sum().isfinite() and not torch.stack(wide.aminmax()).isfinite().all():
            return name
    return None
