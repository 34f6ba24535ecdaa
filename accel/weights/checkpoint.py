"""torch checkpoints (`.ckpt`, `.pt`, `.bin`) read for their tensors alone.

A checkpoint is a zip archive: `data.pkl` says which tensors there are, one stored member each holds
the bytes. The pickle is run by `accel.weights.pickle_machine` with the names that published files
need; of the classes of training programs among them nothing but the name is kept. Any other name
refuses the file. Nothing is ever decompressed. Archives from before torch 1.6 are refused.
"""

from __future__ import annotations

import math
import struct
import zipfile
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import torch

from accel.core import InputError, open_file
from accel.weights.files import Entry, TensorFile
from accel.weights.pickle_machine import Limits, Machine, Name, brief
from accel.weights.pickles import Arrays

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
    "UntypedStorage": torch.uint8,
}
DTYPES = {str(t): t for t in (*STORAGES.values(), torch.float8_e4m3fn, torch.float8_e5m2)}
ORDERED = ("collections", "OrderedDict")
PARAMETERS = ("torch.nn.modules.container", "ParameterDict")
TENSOR, TENSOR_3 = ("torch._utils", "_rebuild_tensor_v2"), ("torch._utils", "_rebuild_tensor_v3")
PARAMETER = ("torch._utils", "_rebuild_parameter")
SIZE, ENCODE = ("torch", "Size"), ("_codecs", "encode")
SETS = {("builtins", "set"), ("__builtin__", "set")}
KNOWN = {ORDERED, PARAMETERS, TENSOR, TENSOR_3, PARAMETER, SIZE, ENCODE, *SETS}
# Left in published files by the programs that trained them; their objects are dropped unread.
DROPPED = ("pytorch_lightning.", "lightning.", "lightning_fabric.", "omegaconf.")
LIMITS = Limits(depth=64)

LOCAL_HEADER = struct.Struct("<4s22xHH")  # of a zip member: mark, ..., name length, extra length
END = struct.Struct("<4s8xI6x")  # the archive's last record: mark, ..., bytes of the table, ...
END_MARK = b"PK\x05\x06"
END_BYTES = 76 + END.size + 0xFFFF  # with the longest comment, and what 64-bit archives add
MAX_DIRECTORY_BYTES = 8 << 20  # of the table of members; some 100,000 of them
MAX_PROGRAM_BYTES = 64 << 20
MAX_DIMENSIONS = 8
MAX_DEPTH = 4  # of dictionaries around the tensors: {"state_dict": {...}}
FREE_ELEMENTS = 1 << 20  # that a tensor may have however small its storage is


@dataclass(frozen=True)
class Lazy:
    """A tensor that is described but not read."""

    dtype: torch.dtype
    member: str
    offset: int  # elements
    shape: tuple[int, ...]
    stride: tuple[int, ...]


@dataclass(frozen=True)
class Storage:
    """What a tensor's elements lie in: a member of the archive."""

    dtype: torch.dtype
    member: str


class Dropped:
    """Stands for an object of a training program's class; takes anything and keeps nothing."""


class Parameters(Dropped):
    """A ParameterDict before its state, which holds the tensors, is there."""


def is_torch_archive(path: Path) -> bool:
    with open_file(path, "a file of weights") as file:
        return file.read(4) == b"PK\x03\x04"


def open_checkpoint(path: Path) -> TensorFile:
    """Map the tensors of a checkpoint, with `state_dict` and the like taken off their names.

    Raises InputError for a damaged archive, one whose members are compressed, or one that names
    what no tensor needs.
    """
    members = _members(path)
    programs = [name for name in members if name.rpartition("/")[2] == "data.pkl"]
    if len(programs) != 1:
        raise InputError(f"{path}: a torch checkpoint must hold one data.pkl, found {programs[:3]}")
    folder = programs[0].removesuffix("data.pkl")
    with path.open("rb") as file:
        data = _program(path, members[programs[0]], file)
        lazies = collect(Machine(data, f"{path}: data.pkl", LIMITS, Torch()).load())
        if not lazies:
            raise InputError(f"{path}: a checkpoint must hold named tensors, found none")
        entries = {
            name: _entry(path, name, lazy, members.get(f"{folder}data/{lazy.member}"), file)
            for name, lazy in lazies.items()
        }
    return TensorFile(path, entries, {})


class Torch(Arrays):
    """What a checkpoint's pickle may name."""

    leaves = (*Arrays.leaves, Lazy, Storage, Dropped, Name, torch.dtype)
    keys: frozenset[type] = frozenset({Name})

    def knows(self, name: Name) -> bool:
        return (
            name.pair in KNOWN
            or _storage_type(name) is not None
            or str(name) in DTYPES
            or name.module.startswith(DROPPED)
            or super().knows(name)
        )

    def is_unfinished(self, value: Any) -> bool:
        return type(value) is Parameters or super().is_unfinished(value)

    def swallows(self, container: Any) -> bool:
        return isinstance(container, Dropped)

    def persistent(self, machine: Machine, what: Any) -> Storage:
        if type(what) is tuple and len(what) >= 3 and what[0] == "storage":
            dtype, member = what[1], what[2]
            dtype = _storage_type(dtype) if type(dtype) is Name else None
            if dtype is not None and type(member) is str:
                return Storage(dtype, member)
        raise machine.refuse("must name a storage of numbers", brief(what))

    def call(self, machine: Machine, name: Name, args: tuple[Any, ...]) -> Any:
        pair = name.pair
        if pair == ORDERED and not args:
            return {}
        if pair in (TENSOR, TENSOR_3):
            return _rebuild_tensor(machine, args, has_dtype=pair == TENSOR_3)
        if pair == PARAMETER and args and type(args[0]) is Lazy:
            return args[0]
        if pair == SIZE and len(args) == 1 and type(args[0]) in (tuple, list):
            return tuple(args[0])
        if pair in SETS and len(args) == 1 and type(args[0]) is list:
            return args[0]
        if pair == ENCODE and len(args) == 2 and type(args[0]) is str and args[1] == "latin1":
            try:  # how protocol 2 writes bytes
                return args[0].encode("latin1")
            except UnicodeEncodeError:
                raise machine.refuse("must hold bytes", "characters beyond them") from None
        if pair == PARAMETERS:
            return Parameters()
        if name.module.startswith(DROPPED):
            return Dropped()
        return super().call(machine, name, args)

    def build(self, machine: Machine, old: Any, state: Any) -> Any:
        if type(old) is Parameters:
            found = state.get("_parameters", state) if type(state) is dict else {}
            return found if type(found) is dict else {}
        if type(old) in (Dropped, dict):  # of an OrderedDict: the versions of its modules
            return old
        return super().build(machine, old, state)


def _storage_type(name: Name) -> torch.dtype | None:
    return STORAGES.get(name.name) if name.module in ("torch", "torch.storage") else None


def _rebuild_tensor(machine: Machine, args: tuple[Any, ...], has_dtype: bool) -> Lazy:
    storage, offset, shape, stride = args[:4] if len(args) > 5 + has_dtype else (None,) * 4
    dtype = getattr(storage, "dtype", None)
    if has_dtype and len(args) > 6:
        dtype = DTYPES.get(str(args[6])) if type(args[6]) is Name else None
    counts = (shape, stride, (offset,))
    if type(storage) is not Storage or dtype is None or not all(map(_are_counts, counts)):
        raise machine.refuse("must hold tensors of a sane shape", brief(args))
    if len(shape) != len(stride):
        raise machine.refuse("must hold tensors of a sane shape", brief((shape, stride)))
    return Lazy(dtype, storage.member, offset, shape, stride)


def _are_counts(value: Any) -> bool:
    return (
        type(value) is tuple
        and len(value) <= MAX_DIMENSIONS
        and all(type(n) is int and 0 <= n < 2**48 for n in value)
    )


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


# --- the archive ----------------------------------------------------------------------------------


def _members(path: Path) -> dict[str, zipfile.ZipInfo]:
    """The archive's members by name; its table is bounded before it is read."""
    announced = _table_bytes(path)
    if announced > MAX_DIRECTORY_BYTES:
        raise InputError(
            f"{path}: an archive's table must take {MAX_DIRECTORY_BYTES} bytes at most, got"
            f" {announced}"
        )
    try:
        with zipfile.ZipFile(path) as archive:
            listed = archive.infolist()
    except (zipfile.BadZipFile, NotImplementedError, ValueError, struct.error, OSError) as error:
        raise InputError(f"{path}: cannot be read as a torch checkpoint: {error}") from error
    members = {info.filename: info for info in listed}
    if len(members) != len(listed):
        raise InputError(f"{path}: every member of an archive must have its own name")
    return members


def _table_bytes(path: Path) -> int:
    """How long the archive says its table is, found as `zipfile` finds it."""
    with path.open("rb") as file:
        file.seek(max(0, file.seek(0, 2) - END_BYTES))
        tail = file.read()
    alone = tail[-END.size :]
    is_alone = alone[:4] == END_MARK and alone[-2:] == b"\0\0"
    at = len(tail) - END.size if is_alone else tail.rfind(END_MARK)
    if at < 0 or at + END.size > len(tail):
        return 0
    if at >= 76 and tail[at - 20 : at - 16] == b"PK\x06\x07":
        return int.from_bytes(tail[at - 36 : at - 28], "little")  # the 64-bit record's
    return int(END.unpack_from(tail, at)[1])


def _begin(path: Path, what: str, info: zipfile.ZipInfo | None, file: BinaryIO) -> int:
    """Where a stored member's bytes begin."""
    if info is None or info.compress_type != zipfile.ZIP_STORED or info.flag_bits & 1:
        raise InputError(f"{path}: {what}: its bytes must be a stored member of the archive")
    if info.header_offset < 0:
        raise InputError(f"{path}: {what}: its member of the archive is damaged")
    file.seek(info.header_offset)
    header = file.read(LOCAL_HEADER.size)
    if len(header) < LOCAL_HEADER.size or header[:4] != b"PK\x03\x04":
        raise InputError(f"{path}: {what}: its member of the archive is damaged")
    _, name_length, extra_length = LOCAL_HEADER.unpack(header)
    return info.header_offset + LOCAL_HEADER.size + int(name_length) + int(extra_length)


def _program(path: Path, info: zipfile.ZipInfo, file: BinaryIO) -> bytes:
    begin = _begin(path, "data.pkl", info, file)
    if info.file_size > MAX_PROGRAM_BYTES:
        raise InputError(
            f"{path}: data.pkl must take {MAX_PROGRAM_BYTES} bytes at most, got {info.file_size}"
        )
    file.seek(begin)
    data = file.read(info.file_size)
    if len(data) != info.file_size or zlib.crc32(data) != info.CRC:
        raise InputError(f"{path}: data.pkl: its member of the archive is damaged")
    return data


def _entry(
    path: Path, name: str, lazy: Lazy, info: zipfile.ZipInfo | None, file: BinaryIO
) -> Entry:
    what = f"{name:.200}"
    start = _begin(path, what, info, file)
    room = info.file_size if info else 0
    size = file.seek(0, 2)
    # Elements from the first to the last that the strides reach; 0 for an empty tensor.
    reach = sum((side - 1) * step for side, step in zip(lazy.shape, lazy.stride, strict=True))
    count = reach + 1 if all(lazy.shape) else 0
    begin = start + lazy.offset * lazy.dtype.itemsize
    end = begin + count * lazy.dtype.itemsize
    if end > start + room or end > size:
        raise InputError(f"{path}: {what}: must lie inside its storage of {room} bytes")
    elements = math.prod(max(side, 1) for side in lazy.shape)
    if elements > max(room // lazy.dtype.itemsize, FREE_ELEMENTS):
        raise InputError(
            f"{path}: {what}: must not repeat its storage of {room} bytes as {list(lazy.shape)}"
        )
    return Entry(lazy.dtype, lazy.shape, begin, end, lazy.stride)
