"""Pickles read for their data alone: numbers, strings, containers, numpy arrays, two enumerations.

DeepFaceLab keeps face metadata and weights as pickles, and a pickle is a program that may call
anything. It is run by `accel.weights.pickle_machine` with the few names below; every other name is
refused. Arrays are views of the file's bytes.
"""

from __future__ import annotations

import math
from enum import IntEnum
from typing import Any

import numpy as np

from accel.weights.pickle_machine import DEFAULT_LIMITS, Limits, Machine, Name, Vocabulary, brief


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
ARRAYS = {NDARRAY, DTYPE, *RECONSTRUCT, *SCALAR, *FROMBUFFER}
DTYPES = ("b1", "i1", "i2", "i4", "i8", "u1", "u2", "u4", "u8", "f2", "f4", "f8")
MAX_DIMENSIONS = 8
METADATA_LIMITS = Limits(opcodes=100_000, items=100_000, bytes=1 << 22, depth=16)


def load_pickle(data: bytes, who: str = "pickle", limits: Limits = DEFAULT_LIMITS) -> Any:
    """Build what a pickle describes, if it describes plain data.

    Returns None, bool, int, float, str, bytes, list, tuple, dict, the enumerations above, numpy
    scalars and arrays; arrays are read-only views of `data`. Bytes after the end are ignored.

    Raises InputError, one line that starts with `who`, for anything else: a name that is not
    known here (nothing is imported or called), damage, or more than `limits` allow.
    """
    return Machine(data, who, limits, DeepFaceLab()).load()


class _Empty:
    """An array that has been announced, before its shape and bytes."""


class Arrays(Vocabulary):
    """numpy's scalars and arrays of numbers."""

    leaves: tuple[type, ...] = (np.ndarray, np.generic, np.dtype)

    def knows(self, name: Name) -> bool:
        return name.pair in ARRAYS

    def is_unfinished(self, value: Any) -> bool:
        return type(value) is _Empty or isinstance(value, np.dtype)

    def call(self, machine: Machine, name: Name, args: tuple[Any, ...]) -> Any:
        pair = name.pair
        if pair == DTYPE:
            if not args or type(args[0]) is not str or args[0] not in DTYPES:
                must = f"must hold arrays of {', '.join(DTYPES)}"
                raise machine.refuse(must, brief(args[:1]))
            return np.dtype(args[0])
        if pair in RECONSTRUCT:
            if not args or args[0] != Name(*NDARRAY):
                raise machine.refuse("must reconstruct numpy.ndarray", brief(args[:1]))
            return _Empty()
        if pair in SCALAR and len(args) == 2:
            return _array(machine, (), args[0], args[1], "C")[()]
        if pair in FROMBUFFER and len(args) == 4:
            return _array(machine, args[2], args[1], args[0], args[3])
        return super().call(machine, name, args)

    def build(self, machine: Machine, old: Any, state: Any) -> Any:
        if type(state) is not tuple:
            raise machine.refuse("must hold data only", f"a state of {type(state).__name__}")
        if isinstance(old, np.dtype):
            # (version, byte order, then six fields that only structures and strings have)
            if len(state) not in (8, 9) or state[1] not in ("<", ">", "|", "="):
                raise machine.refuse("must hold a dtype's byte order", brief(state[1:2]))
            if any(part is not None for part in state[2:5]):
                raise machine.refuse("must hold arrays of numbers", "a dtype with fields")
            return np.dtype(state[1] + old.str[1:])  # one object a type, unlike newbyteorder's
        if type(old) is _Empty and len(state) == 5:
            _, shape, dtype, fortran, content = state
            return _array(machine, shape, dtype, content, "F" if fortran else "C")
        return super().build(machine, old, state)


class DeepFaceLab(Arrays):
    """Arrays, and the two enumerations that DeepFaceLab's files mention."""

    leaves = (*Arrays.leaves, IntEnum)
    keys: frozenset[type] = frozenset({SampleType, FaceTypeCode})

    def knows(self, name: Name) -> bool:
        return name.pair in ENUMS or super().knows(name)

    def call(self, machine: Machine, name: Name, args: tuple[Any, ...]) -> Any:
        kind = ENUMS.get(name.pair)
        if kind is None:
            return super().call(machine, name, args)
        if len(args) != 1 or type(args[0]) is not int or args[0] not in {int(k) for k in kind}:
            raise machine.refuse(f"must hold a known {kind.__name__}", brief(args))
        return kind(args[0])


def _array(
    machine: Machine, shape: Any, dtype: Any, content: Any, order: Any
) -> np.ndarray[Any, Any]:
    counts = type(shape) is tuple and all(type(n) is int and 0 <= n < 2**40 for n in shape)
    if not counts or len(shape) > MAX_DIMENSIONS or order not in ("C", "F"):
        raise machine.refuse("must hold arrays of a sane shape", brief(shape))
    if not isinstance(dtype, np.dtype) or type(content) is not bytes:
        raise machine.refuse("must hold arrays of numbers", brief((dtype, type(content))))
    if math.prod(shape) * dtype.itemsize != len(content):
        raise machine.refuse(f"must hold {brief(shape)} {dtype}", f"{len(content)} bytes")
    if math.prod(max(n, 1) for n in shape) >= 2**48:  # of no element, but its strides overflow
        raise machine.refuse("must hold arrays of a sane shape", brief(shape))
    flat = np.frombuffer(content, dtype) if content else np.empty(0, dtype)
    if order == "F":
        return flat.reshape(shape[::-1]).transpose()
    return flat.reshape(shape)
