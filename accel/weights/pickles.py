"""Pickles read for their data alone.

DeepFaceLab keeps face metadata and weights as pickles, and a pickle is a program that may call
anything. This reader runs that program on its own stack: it knows numbers, strings, lists, tuples,
dictionaries, numpy arrays, and two enumerations by name; every other name is refused before
anything is done with it. No byte count of the file is trusted further than the file reaches,
arrays are views of the file's bytes, and the result is walked once so that neither loops nor
shared parts that unfold without end reach the caller.

Source of the format: PEP 307, PEP 3154, and the opcodes documented in Python's `pickletools`.
"""

from __future__ import annotations

import math
import pickle
import struct
from collections.abc import Callable
from dataclasses import dataclass
from enum import IntEnum
from typing import Any

import numpy as np

from accel.core import InputError


class SampleType(IntEnum):
    """What DeepFaceLab's `samplelib.Sample.SampleType` stores."""

    IMAGE = 0
    FACE = 1
    FACE_PERSON = 2
    FACE_TEMPORAL_SORTED = 3
    QTY = 4


class FaceTypeCode(IntEnum):
    """What DeepFaceLab's `facelib.FaceType.FaceType` stores."""

    HALF = 0
    MID_FULL = 1
    FULL = 2
    FULL_NO_ALIGN = 3
    WHOLE_FACE = 4
    HEAD = 10
    HEAD_NO_ALIGN = 20
    MARK_ONLY = 100


ENUMS: dict[tuple[str, str], type[IntEnum]] = {
    ("samplelib.Sample", "SampleType"): SampleType,
    ("facelib.FaceType", "FaceType"): FaceTypeCode,
}
NDARRAY = ("numpy", "ndarray")
DTYPE = ("numpy", "dtype")
# numpy 1 and numpy 2 keep the same functions under two names.
CORES = ("numpy.core", "numpy._core")
RECONSTRUCT = {(f"{core}.multiarray", "_reconstruct") for core in CORES}
SCALAR = {(f"{core}.multiarray", "scalar") for core in CORES}
FROMBUFFER = {(f"{core}.numeric", "_frombuffer") for core in CORES}
KNOWN = {NDARRAY, DTYPE, *ENUMS, *RECONSTRUCT, *SCALAR, *FROMBUFFER}
DTYPES = ("b1", "i1", "i2", "i4", "i8", "u1", "u2", "u4", "u8", "f2", "f4", "f8")
MAX_INT_BYTES = 16
MAX_DIMENSIONS = 8
SHARING = 16


@dataclass(frozen=True, kw_only=True)
class Limits:
    """How much a pickle may make of itself.

    opcodes: steps of its program.
    items: values in all containers, a shared one counted wherever it appears.
    bytes: of all strings and arrays, counted the same way. Both are also held to SHARING times the
        file's size: in honest files little is shared.
    depth: containers within containers.
    """

    opcodes: int = 50_000_000
    items: int = 50_000_000
    bytes: int = 1 << 34
    depth: int = 32


METADATA_LIMITS = Limits(opcodes=100_000, items=100_000, bytes=1 << 22, depth=16)


def load_pickle(data: bytes, who: str = "pickle", limits: Limits = Limits()) -> Any:
    """Build what a pickle describes, if it describes plain data.

    Returns None, bool, int, float, str, bytes, list, tuple, dict, the enumerations above, numpy
    scalars and arrays; arrays are read-only views of `data`. Bytes after the end are ignored.

    Raises InputError, one line that starts with `who`, for anything else: a name that is not in
    KNOWN (nothing is imported or called), damage, or more than `limits` allow.
    """
    reader = _Reader(data, who, limits)
    try:
        result = reader.run()
    except (struct.error, IndexError, KeyError) as error:
        # Reads beyond the end, from an empty stack, from an unset memo.
        raise reader.refuse("must be whole", f"one that breaks off ({error!r})") from None
    _walk(result, reader)
    return result


# --- what the program is run on ----------------------------------------------------------------


@dataclass(frozen=True)
class _Name:
    """A global that the pickle mentioned; stands for nothing but its name."""

    module: str
    name: str

    @property
    def pair(self) -> tuple[str, str]:
        return self.module, self.name


class _Empty:
    """An array that has been announced, before its shape and bytes."""


_MARK = object()
_SCALARS = (type(None), bool, int, float, IntEnum, np.generic, np.dtype)
_KEYS = {str, bytes, int, bool, SampleType, FaceTypeCode}
_NUMBERS = {type(None), bool, int, float, SampleType, FaceTypeCode}


class _Reader:
    def __init__(self, data: bytes, who: str, limits: Limits):
        self.data, self.who, self.limits = data, who, limits
        self.at = 0
        self.stack: list[Any] = []
        self.memo: dict[int, Any] = {}
        self.unfinished: dict[int, list[int]] = {}  # id of what BUILD may replace -> memo indices

    def refuse(self, must: str, got: object) -> InputError:
        text = " ".join(str(got).split())[:120]
        return InputError(f"{self.who}: pickle {must}, got {text} at byte {self.at}")

    def run(self) -> Any:
        data, table, size = self.data, _OPCODES, len(self.data)
        for _ in range(self.limits.opcodes):
            if self.at >= size:
                raise self.refuse("must end with STOP", "its end")
            code = data[self.at]
            self.at += 1
            if code == 0x2E:  # STOP
                if len(self.stack) != 1 or self.stack[0] is _MARK:
                    raise self.refuse("must leave one value", f"{len(self.stack)}")
                return self.stack[0]
            step = table.get(code)
            if step is None:
                raise self.refuse("must hold data only", f"opcode {_opcode_name(code)}")
            step(self)
        raise self.refuse(f"must end within {self.limits.opcodes} steps", "more")

    # What opcodes are made of.

    def take(self, count: int) -> bytes:
        if count > len(self.data) - self.at:
            raise self.refuse("must be whole", f"a length of {count} bytes")
        self.at += count
        return bytes(self.data[self.at - count : self.at])

    def number(self, layout: struct.Struct) -> Any:
        (value,) = layout.unpack_from(self.data, self.at)
        self.at += layout.size
        return value

    def push(self, value: Any) -> None:
        self.stack.append(value)

    def pop(self) -> Any:
        value = self.stack.pop()
        if value is _MARK:
            raise self.refuse("must have a value here", "a mark")
        return value

    def since_mark(self) -> list[Any]:
        for at in range(len(self.stack) - 1, -1, -1):
            if self.stack[at] is _MARK:
                items = self.stack[at + 1 :]
                del self.stack[at:]
                return items
        raise self.refuse("must have set a mark", "none")

    def drop(self) -> None:
        self.stack.pop()

    def drop_to_mark(self) -> None:
        self.since_mark()

    def top(self, kind: type) -> Any:
        value = self.stack[-1]
        if type(value) is not kind:
            raise self.refuse(f"must have a {kind.__name__} here", type(value).__name__)
        return value

    def text(self, length: int) -> None:
        try:
            self.push(str(self.take(length), "utf-8", "surrogatepass"))
        except UnicodeDecodeError as error:
            raise self.refuse("must hold UTF-8", error.reason) from None

    def integer(self, length: int) -> None:
        if length > MAX_INT_BYTES:
            raise self.refuse(f"must hold integers of {MAX_INT_BYTES} bytes at most", length)
        self.push(int.from_bytes(self.take(length), "little", signed=True))

    def get(self, index: int) -> None:
        self.push(self.memo[index])

    def put(self, index: int) -> None:
        if self.stack[-1] is _MARK:
            raise self.refuse("must have a value here", "a mark")
        value = self.memo[index] = self.stack[-1]
        if type(value) is _Empty or isinstance(value, np.dtype):
            self.unfinished.setdefault(id(value), []).append(index)

    def set_items(self, pairs: list[Any]) -> None:
        into = self.top(dict)
        if len(pairs) % 2:
            raise self.refuse("must hold pairs", f"{len(pairs)} values")
        for key, value in zip(pairs[::2], pairs[1::2]):
            # A key made of shared tuples, or many large numbers of one hash, would take forever.
            if type(key) not in _KEYS or (type(key) is int and abs(key) >= 2**60):
                raise self.refuse("must have keys of str or small int", type(key).__name__)
            into[key] = value

    def name(self, module: Any, name: Any) -> None:
        if (module, name) not in KNOWN:
            raise self.refuse("must hold data only", f"the name {module!s:.60}.{name!s:.60}")
        self.push(_Name(module, name))

    def line(self) -> str:
        end = self.data.find(b"\n", self.at, self.at + 200)
        if end < 0:
            raise self.refuse("must hold names of one line", "a longer one")
        line = self.take(end - self.at)
        self.at += 1
        return line.decode("ascii", "replace")

    def reduce(self) -> None:
        args, what = self.pop(), self.pop()
        if type(what) is not _Name or type(args) is not tuple:
            raise self.refuse("must hold data only", f"a call of {type(what).__name__}")
        pair = what.pair
        if pair in ENUMS:
            self.push(self.enum(ENUMS[pair], args))
        elif pair == DTYPE:
            self.push(self.dtype(args))
        elif pair in RECONSTRUCT:
            if not args or args[0] != _Name(*NDARRAY):
                raise self.refuse("must reconstruct numpy.ndarray", args[:1])
            self.push(_Empty())
        elif pair in SCALAR and len(args) == 2:
            self.push(self.array((), args[0], args[1], "C")[()])
        elif pair in FROMBUFFER and len(args) == 4:
            self.push(self.array(args[2], args[1], args[0], args[3]))
        else:
            raise self.refuse("must hold data only", f"a call of {what.module}.{what.name}")

    def enum(self, kind: type[IntEnum], args: tuple[Any, ...]) -> IntEnum:
        if len(args) != 1 or type(args[0]) is not int or args[0] not in {int(k) for k in kind}:
            raise self.refuse(f"must hold a known {kind.__name__}", _brief(args))
        return kind(args[0])

    def dtype(self, args: tuple[Any, ...]) -> np.dtype[Any]:
        if not args or type(args[0]) is not str or args[0] not in DTYPES:
            raise self.refuse(f"must hold arrays of {', '.join(DTYPES)}", _brief(args[:1]))
        return np.dtype(args[0])

    def build(self) -> None:
        state, old = self.pop(), self.pop()
        new: Any
        if type(state) is not tuple:
            raise self.refuse("must hold data only", f"a state of {type(state).__name__}")
        if isinstance(old, np.dtype):
            # (version, byte order, then six fields that only structures and strings have)
            if len(state) not in (8, 9) or state[1] not in ("<", ">", "|", "="):
                raise self.refuse("must hold a dtype's byte order", _brief(state[1:2]))
            if any(part is not None for part in state[2:5]):
                raise self.refuse("must hold arrays of numbers", "a dtype with fields")
            new = np.dtype(state[1] + old.str[1:])  # one object a type, unlike newbyteorder's
        elif type(old) is _Empty and len(state) == 5:
            _, shape, dtype, fortran, content = state
            new = self.array(shape, dtype, content, "F" if fortran else "C")
        else:
            raise self.refuse("must hold data only", f"a state for {type(old).__name__}")
        # What was remembered before it was finished is replaced wherever it was remembered.
        for index in self.unfinished.pop(id(old), []):
            if self.memo[index] is old:
                self.memo[index] = new
        self.push(new)

    def array(self, shape: Any, dtype: Any, content: Any, order: Any) -> np.ndarray[Any, Any]:
        counts = type(shape) is tuple and all(type(n) is int and 0 <= n < 2**40 for n in shape)
        if not counts or len(shape) > MAX_DIMENSIONS or order not in ("C", "F"):
            raise self.refuse("must hold arrays of a sane shape", _brief(shape))
        if not isinstance(dtype, np.dtype) or type(content) is not bytes:
            raise self.refuse("must hold arrays of numbers", _brief((dtype, type(content))))
        if math.prod(shape) * dtype.itemsize != len(content):
            raise self.refuse(f"must hold {_brief(shape)} {dtype}", f"{len(content)} bytes")
        flat = np.frombuffer(content, dtype) if content else np.empty(0, dtype)
        if order == "F":
            return flat.reshape(shape[::-1]).transpose()
        return flat.reshape(shape)


def _brief(value: Any) -> str:
    """A few words on a hostile value: printing all of it might never end."""
    if type(value) is tuple:
        return "(" + ", ".join(_brief(part) for part in value[:4] if type(part) is not tuple) + ")"
    if type(value) in (str, int, float, bool, type(None)):
        return repr(value)[:40]
    return str(value)[:40] if isinstance(value, (type, np.dtype)) else type(value).__name__


def _walk(root: Any, reader: _Reader) -> None:
    """Count what the caller would meet by following every reference, and refuse loops."""
    limits, items, size = reader.limits, 0, 0
    free = 10_000 + SHARING * len(reader.data)
    most_items, most_bytes = min(limits.items, free), min(limits.bytes, free)
    open_now: set[int] = set()  # containers that we are inside of
    todo: list[tuple[Any, bool]] = [(root, False)]
    while todo:
        value, leaving = todo.pop()
        kind = type(value)
        if leaving:
            open_now.discard(id(value))
            continue
        items += 1
        if kind in _NUMBERS:
            continue
        if kind in (list, tuple, dict):
            if id(value) in open_now:
                raise reader.refuse("must not hold itself", kind.__name__)
            open_now.add(id(value))
            if len(open_now) > limits.depth:
                raise reader.refuse(f"must nest {limits.depth} deep at most", "more")
            items += len(value)
            todo.append((value, True))
            inside = [*value.keys(), *value.values()] if kind is dict else value
            todo += [(part, False) for part in inside if type(part) not in _NUMBERS]
        elif kind in (str, bytes):
            size += len(value)
        elif kind is np.ndarray:
            size += value.nbytes
        elif not isinstance(value, _SCALARS):
            what = f"the name {value.module}.{value.name}" if kind is _Name else kind.__name__
            raise reader.refuse("must hold data only", what)
        if items > most_items or size > most_bytes:
            must = f"must hold {most_items} items and {most_bytes} bytes at most"
            raise reader.refuse(must, "more")


def _opcode_name(code: int) -> str:
    from pickletools import opcodes

    named = {op.code: op.name for op in opcodes}
    return named.get(chr(code), f"0x{code:02x}")


_U8, _U16, _U32, _U64 = (struct.Struct("<" + c) for c in "BHIQ")
_I32, _F64 = struct.Struct("<i"), struct.Struct(">d")


def _appends(reader: _Reader) -> None:
    items = reader.since_mark()
    reader.top(list).extend(items)


def _dup(reader: _Reader) -> None:
    value = reader.pop()
    reader.stack += [value, value]


def _stack_global(reader: _Reader) -> None:
    name, module = reader.pop(), reader.pop()
    reader.name(*(n if type(n) is str else "?" for n in (module, name)))


def _append(reader: _Reader) -> None:
    value = reader.pop()
    reader.top(list).append(value)


def _set_item(reader: _Reader) -> None:
    value, key = reader.pop(), reader.pop()
    reader.set_items([key, value])


def _long4(reader: _Reader) -> None:
    length = reader.number(_I32)
    if length < 0:
        raise reader.refuse("must hold integers of some bytes", length)
    reader.integer(length)


def _tuple(count: int) -> Callable[[_Reader], None]:
    def step(reader: _Reader) -> None:
        items = [reader.pop() for _ in range(count)]
        reader.push(tuple(reversed(items)))

    return step


def _dict(reader: _Reader) -> None:
    pairs = reader.since_mark()
    reader.push({})
    reader.set_items(pairs)


def _frame(reader: _Reader) -> None:
    length = reader.number(_U64)
    if length > len(reader.data) - reader.at:
        raise reader.refuse("must be whole", f"a frame of {length} bytes")


def _proto(reader: _Reader) -> None:
    version = reader.number(_U8)
    if not 2 <= version <= 5:
        raise reader.refuse("must be of protocol 2 to 5", version)


_OPCODES: dict[int, Callable[[_Reader], None]] = {
    code[0]: step
    for code, step in {
        pickle.PROTO: _proto,
        pickle.FRAME: _frame,
        pickle.MARK: lambda r: r.push(_MARK),
        pickle.POP: lambda r: r.drop(),
        pickle.POP_MARK: lambda r: r.drop_to_mark(),
        pickle.DUP: _dup,
        pickle.NONE: lambda r: r.push(None),
        pickle.NEWTRUE: lambda r: r.push(True),
        pickle.NEWFALSE: lambda r: r.push(False),
        pickle.BININT: lambda r: r.push(r.number(_I32)),
        pickle.BININT1: lambda r: r.push(r.number(_U8)),
        pickle.BININT2: lambda r: r.push(r.number(_U16)),
        pickle.LONG1: lambda r: r.integer(r.number(_U8)),
        pickle.LONG4: _long4,
        pickle.BINFLOAT: lambda r: r.push(r.number(_F64)),
        pickle.SHORT_BINUNICODE: lambda r: r.text(r.number(_U8)),
        pickle.BINUNICODE: lambda r: r.text(r.number(_U32)),
        pickle.BINUNICODE8: lambda r: r.text(r.number(_U64)),
        pickle.SHORT_BINBYTES: lambda r: r.push(r.take(r.number(_U8))),
        pickle.BINBYTES: lambda r: r.push(r.take(r.number(_U32))),
        pickle.BINBYTES8: lambda r: r.push(r.take(r.number(_U64))),
        pickle.BYTEARRAY8: lambda r: r.push(r.take(r.number(_U64))),
        pickle.EMPTY_LIST: lambda r: r.push([]),
        pickle.APPEND: _append,
        pickle.APPENDS: _appends,
        pickle.LIST: lambda r: r.push(r.since_mark()),
        pickle.EMPTY_TUPLE: lambda r: r.push(()),
        pickle.TUPLE: lambda r: r.push(tuple(r.since_mark())),
        pickle.TUPLE1: _tuple(1),
        pickle.TUPLE2: _tuple(2),
        pickle.TUPLE3: _tuple(3),
        pickle.EMPTY_DICT: lambda r: r.push({}),
        pickle.DICT: _dict,
        pickle.SETITEM: _set_item,
        pickle.SETITEMS: lambda r: r.set_items(r.since_mark()),
        pickle.BINGET: lambda r: r.get(r.number(_U8)),
        pickle.LONG_BINGET: lambda r: r.get(r.number(_U32)),
        pickle.BINPUT: lambda r: r.put(r.number(_U8)),
        pickle.LONG_BINPUT: lambda r: r.put(r.number(_U32)),
        pickle.MEMOIZE: lambda r: r.put(len(r.memo)),
        pickle.GLOBAL: lambda r: r.name(r.line(), r.line()),
        pickle.STACK_GLOBAL: _stack_global,
        pickle.REDUCE: _Reader.reduce,
        pickle.BUILD: _Reader.build,
    }.items()
}
