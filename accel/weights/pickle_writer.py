"""Pickles of plain data, written so that DeepFaceLab and numpy 1 can read them.

Protocol 4, byte for byte what CPython's compiled pickler writes for the same objects: an object
met again is a reference, long lists go in batches, frames close at 64 KiB.

Source of the format: PEP 3154 and the opcodes documented in Python's `pickletools`.
"""

from __future__ import annotations

import pickle
import struct
from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np

from accel.weights.pickles import DTYPE, DTYPES, ENUMS, NDARRAY

FRAME_BYTES = 64 * 1024
SMALLEST_FRAME = 4  # bytes; a shorter one is written without its header
BATCH = 1000
NAMES = {kind: pair for pair, kind in ENUMS.items()}
RECONSTRUCT = ("numpy.core.multiarray", "_reconstruct")
SCALAR = ("numpy.core.multiarray", "scalar")
TUPLES = (pickle.EMPTY_TUPLE, pickle.TUPLE1, pickle.TUPLE2, pickle.TUPLE3)
BINFLOAT = struct.Struct(">cd")
ONE_BYTE = b"b"  # one object, so that every array after the first refers to it


@dataclass(frozen=True)
class Rows:
    """An array that is written as the list of lists which its `tolist` gives."""

    array: np.ndarray[Any, Any]


def dump_pickle(value: Any) -> bytes:
    """Write None, bool, int, float, str, bytes, list, tuple, dict, enumerations of `pickles.ENUMS`,
    numpy scalars and arrays of numbers, and `Rows`.

    Raises TypeError for other data, RecursionError for a container that holds itself.
    """
    writer = _Writer()
    writer.save(value)
    writer.frame += pickle.STOP
    writer.commit(force=True)
    return b"".join([pickle.PROTO + b"\x04", *writer.done])


class _Writer:
    def __init__(self) -> None:
        self.done: list[bytes] = []
        self.frame = bytearray()
        self.memo: dict[object, int] = {}
        self.count = 0  # of objects that can be referred to
        self.keep: list[Any] = []  # an id counts only as long as its object lives

    def commit(self, force: bool = False) -> None:
        if not self.frame or (not force and len(self.frame) < FRAME_BYTES):
            return
        if len(self.frame) >= SMALLEST_FRAME:
            self.done.append(pickle.FRAME + struct.pack("<Q", len(self.frame)))
        self.done.append(bytes(self.frame))
        self.frame = bytearray()

    def memoize(self, key: object) -> None:
        self.frame += pickle.MEMOIZE
        self.memo[key] = self.count
        self.count += 1

    def recall(self, key: object) -> bool:
        """Write a reference to what was written before, if it was."""
        if len(self.frame) >= FRAME_BYTES:
            self.commit()
        index = self.memo.get(key)
        if index is None:
            return False
        small = index < 256
        self.frame += pickle.BINGET if small else pickle.LONG_BINGET
        self.frame += struct.pack("<B" if small else "<I", index)
        return True

    def save(self, value: Any) -> None:
        if self.save_atom(value) or self.recall(id(value)):
            return
        kind = type(value)
        self.keep.append(value)
        if kind is str:
            self.save_bytes(value.encode("utf-8", "surrogatepass"), *UNICODE)
            self.memoize(id(value))
        elif kind is bytes:
            self.save_bytes(value, *BYTES)
            self.memoize(id(value))
        elif kind is list:
            self.frame += pickle.EMPTY_LIST
            self.memoize(id(value))
            self.save_list(value)
        elif kind is dict:
            self.frame += pickle.EMPTY_DICT
            self.memoize(id(value))
            self.save_dict(value)
        elif kind is tuple:
            self.save_tuple(value)
        elif kind in NAMES:
            self.save_call(NAMES[kind], (int(value),), value)
        elif isinstance(value, np.dtype):
            self.save_dtype(value)
        elif isinstance(value, np.generic):
            self.save_call(SCALAR, (value.dtype, value.tobytes()), value)
        elif kind is np.ndarray:
            fortran = value.flags.f_contiguous and not value.flags.c_contiguous
            content = value.tobytes("F" if fortran else "C")
            state = (1, value.shape, value.dtype, fortran, content)
            # numpy makes the shape (0,) anew each time, so it must not be written as a reference.
            args = (_Global(NDARRAY), np.empty(0).shape, ONE_BYTE)
            self.save_call(RECONSTRUCT, args, value, state)
        elif kind is Rows:
            self.save_rows(value.array)
        elif kind is _Global:
            self.save_name(value.pair)
        else:
            raise TypeError(f"dump_pickle: must be given plain data, got {kind.__name__}")

    def save_atom(self, value: Any) -> bool:
        if len(self.frame) >= FRAME_BYTES:
            self.commit()
        kind = type(value)
        if value is None:
            self.frame += pickle.NONE
        elif kind is bool:
            self.frame += pickle.NEWTRUE if value else pickle.NEWFALSE
        elif kind is float:
            self.frame += pickle.BINFLOAT + struct.pack(">d", value)
        elif kind is int:
            self.frame += integer_code(value)
        else:
            return False
        return True

    def save_bytes(self, code: bytes, short: bytes, usual: bytes, long: bytes) -> None:
        size = len(code)
        if size <= 0xFF:
            self.frame += short + struct.pack("<B", size) + code
            return
        head = (
            usual + struct.pack("<I", size)
            if size <= 0xFFFFFFFF
            else long + struct.pack("<Q", size)
        )
        if size < FRAME_BYTES:
            self.frame += head + code
            return
        self.commit(force=True)
        self.done += [head, code]  # outside of frames, so that it is not copied into one

    def save_list(self, items: list[Any]) -> None:
        if len(items) == 1:
            self.save(items[0])
            self.frame += pickle.APPEND
            return
        for start in range(0, len(items), BATCH):
            self.frame += pickle.MARK
            self.save_all(items[start : start + BATCH])
            self.frame += pickle.APPENDS

    def save_rows(self, array: np.ndarray[Any, Any]) -> None:
        rows, columns = array.shape if array.ndim == 2 else (0, 0)
        size = rows * (9 * columns + 4)
        plain = array.dtype.kind == "f" and 2 <= rows <= BATCH and 2 <= columns <= BATCH
        if not plain or len(self.frame) + size >= FRAME_BYTES:
            self.save(array.tolist())
            return
        self.frame += ROW + rows_code(array) + pickle.APPENDS
        self.count += 1 + rows  # nothing refers to these: their objects are nobody else's

    def save_dict(self, items: dict[Any, Any]) -> None:
        if not items:
            return
        flat = [part for pair in items.items() for part in pair]
        if len(items) == 1:
            self.save_all(flat)
            self.frame += pickle.SETITEM
            return
        # CPython writes one more, empty, batch when the last one is full.
        for start in range(0, 2 * len(items) + 1, 2 * BATCH):
            self.frame += pickle.MARK
            self.save_all(flat[start : start + 2 * BATCH])
            self.frame += pickle.SETITEMS

    def save_tuple(self, items: tuple[Any, ...]) -> None:
        if len(items) <= 3:
            self.save_all(items)
            self.frame += TUPLES[len(items)]
        else:
            self.frame += pickle.MARK
            self.save_all(items)
            self.frame += pickle.TUPLE
        if items:
            self.memoize(id(items))

    def save_all(self, items: Iterable[Any]) -> None:
        for item in items:
            if type(item) is float:  # most of a face's metadata: without the calls that lead there
                if len(self.frame) >= FRAME_BYTES:
                    self.commit()
                self.frame += BINFLOAT.pack(pickle.BINFLOAT, item)
            else:
                self.save(item)

    def save_name(self, pair: tuple[str, str]) -> None:
        if self.recall(pair):
            return
        self.save_all(pair)
        self.frame += pickle.STACK_GLOBAL
        self.memoize(pair)

    def save_dtype(self, dtype: np.dtype[Any]) -> None:
        code = dtype.str[1:]
        if code not in DTYPES:
            raise TypeError(f"dump_pickle: must be given arrays of numbers, got {dtype}")
        order = dtype.str[0]
        state = (3, order, None, None, None, -1, -1, 0)
        self.save_call(DTYPE, (code, False, True), dtype, state)

    def save_call(
        self, pair: tuple[str, str], args: tuple[Any, ...], value: Any, state: Any = None
    ) -> None:
        """Write that `value` is what calling a name with `args` gives, then given `state`."""
        self.save_name(pair)
        self.save(args)
        self.frame += pickle.REDUCE
        self.memoize(id(value))
        if state is not None:
            self.save(state)
            self.frame += pickle.BUILD


def integer_code(value: int) -> bytes:
    if 0 <= value < 1 << 16:
        if value < 256:
            return pickle.BININT1 + struct.pack("<B", value)
        return pickle.BININT2 + struct.pack("<H", value)
    if -(1 << 31) <= value < 1 << 31:
        return pickle.BININT + struct.pack("<i", value)
    code = pickle.encode_long(value)
    if len(code) > 255:
        raise TypeError(f"dump_pickle: must be given ints below 2^2040, got {len(code)} B")
    return pickle.LONG1 + struct.pack("<B", len(code)) + code


ROW = pickle.EMPTY_LIST + pickle.MEMOIZE + pickle.MARK


def rows_code(array: np.ndarray[Any, Any]) -> bytes:
    """The lists of an array's rows, all at once: landmarks are most of a face's metadata."""
    lists = _lists(*array.shape).copy()
    lists["numbers"]["value"] = array
    return lists.tobytes()


@lru_cache(maxsize=8)
def _lists(rows: int, columns: int) -> np.ndarray[Any, Any]:
    number = np.dtype([("mark", "S1"), ("value", ">f8")])
    lists = np.empty(rows, [("open", "S3"), ("numbers", number, columns), ("close", "S1")])
    lists["open"], lists["close"] = ROW, pickle.APPENDS
    lists["numbers"]["mark"] = pickle.BINFLOAT
    return lists


UNICODE = (pickle.SHORT_BINUNICODE, pickle.BINUNICODE, pickle.BINUNICODE8)
BYTES = (pickle.SHORT_BINBYTES, pickle.BINBYTES, pickle.BINBYTES8)


class _Global:
    """A class that is written by its name, as an argument."""

    def __init__(self, pair: tuple[str, str]):
        self.pair = pair
