"""Plain data goes through both ways; everything else is refused, by name, before it acts."""

from __future__ import annotations

import io
import os
import pickle
import struct
import sys
import time
from collections import OrderedDict
from types import ModuleType

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from accel.core import InputError
from accel.weights.pickle_writer import Rows, dump_pickle
from accel.weights.pickles import (
    METADATA_LIMITS,
    FaceTypeCode,
    Limits,
    SampleType,
    load_pickle,
)

FACE = {
    "face_type": "whole_face",
    "landmarks": [[float(i), i / 7] for i in range(68)],
    "source_rect": (1, -2, 300, 70000),
    "image_to_face_mat": np.arange(6.0).reshape(2, 3),
    "seg_ie_polys": {"polys": [{"type": 1, "pts": np.ones((4, 2), np.float32)}]},
    "xseg_mask": np.arange(200, dtype=np.uint8),
    "eyebrows_expand_mod": 1.0,
    "source_filename": "grüße.png",
    "nothing": None,
    "flags": [True, False, 2**40, -1, np.float32(0.5)],
    "kinds": [SampleType.FACE, FaceTypeCode.WHOLE_FACE],
}


def same(a, b):
    if isinstance(a, np.ndarray):
        return a.dtype == b.dtype and a.shape == b.shape and (a == b).all()
    if isinstance(a, dict):
        return list(a) == list(b) and all(same(a[k], b[k]) for k in a)
    if isinstance(a, (list, tuple)):
        return len(a) == len(b) and all(map(same, a, b))
    return type(a) is type(b) and a == b


@pytest.mark.parametrize("protocol", [3, 4, 5])
def test_reads_what_python_writes(protocol):
    value = {k: v for k, v in FACE.items() if k != "kinds"}
    assert same(load_pickle(pickle.dumps(value, protocol)), value)


def test_round_trip_keeps_values_and_bytes():
    first = dump_pickle(FACE)
    again = load_pickle(first)
    assert same(again, FACE)
    assert dump_pickle(again) == first


plain = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**100), 2**100) | st.floats(allow_nan=False)
    | st.text() | st.binary(),
    lambda x: st.lists(x) | st.tuples(x, x) | st.dictionaries(st.text(), x) | st.tuples(x, x, x, x),
    max_leaves=12,
)  # fmt: skip


@settings(max_examples=60, deadline=None)
@given(plain)
def test_writes_the_bytes_that_cpython_writes(value):
    assert dump_pickle(value) == pickle.dumps(value, 4)
    assert same(load_pickle(dump_pickle(value)), value)


@pytest.mark.parametrize("count", [0, 1, 2, 1000, 1001, 2000])
def test_batches_and_frames_are_cpythons(count):
    shared = "y" * 300
    for value in (
        [float(i) for i in range(count)],
        {i: str(i) for i in range(count)},
        tuple(range(count)),
        "x" * count * 70,
        [shared, b"x" * count * 70, shared],
    ):
        assert dump_pickle(value) == pickle.dumps(value, 4)


@pytest.mark.parametrize(
    "shape", [(68, 2), (2, 3), (1, 2), (68, 1), (0, 2), (68,), (1000, 2), (1001, 2), (5000, 2)]
)
@pytest.mark.parametrize("dtype", [np.float64, np.float32, np.int64], ids=str)
def test_rows_are_written_as_the_lists_they_stand_for(shape, dtype):
    rng = np.random.default_rng(0)
    array = (rng.normal(size=shape) * 1e3).astype(dtype)
    if array.dtype.kind == "f" and array.size:
        array.flat[0] = -0.0
    shared = "twice"
    lists, rows = array.tolist(), Rows(array)
    wanted = pickle.dumps({"a": shared, "b": lists, "c": array.tolist(), "d": shared}, 4)
    assert dump_pickle({"a": shared, "b": rows, "c": Rows(array), "d": shared}) == wanted


def test_arrays_are_written_as_numpy_1_and_cpython_would(monkeypatch):
    """numpy 2 names its functions differently; give it the old names and compare."""
    module = ModuleType("numpy.core.multiarray")

    def _reconstruct(*args):
        raise NotImplementedError

    _reconstruct.__module__, _reconstruct.__qualname__ = module.__name__, "_reconstruct"
    module._reconstruct = _reconstruct
    monkeypatch.setitem(sys.modules, module.__name__, module)

    class Old(pickle.Pickler):
        def reducer_override(self, obj):
            if isinstance(obj, np.ndarray):
                return (_reconstruct, *obj.__reduce__()[1:])
            return NotImplemented

    value = {"a:0": np.ones((3, 2), np.float32), "b:0": np.zeros(5, np.float32), "c": np.ones(2)}
    file = io.BytesIO()
    Old(file, 4).dump(value)
    assert dump_pickle(value) == file.getvalue()


@pytest.mark.parametrize(
    ("value", "name"),
    [
        (os.system, "system"),
        (print, "builtins.print"),
        (eval, "builtins.eval"),
        (OrderedDict(a=1), "collections.OrderedDict"),
        ({1, 2}, "EMPTY_SET"),
        (np.array([1, "x"], object), "must hold arrays of"),
        (np.array(["abc"]), "must hold arrays of"),
        (np.array([1 + 2j]), "must hold arrays of"),
        (np.zeros(2, [("a", "f4")]), "must hold arrays of"),
        (range(3), "builtins.range"),
    ],
)
def test_refuses_by_name(value, name):
    with pytest.raises(InputError, match=name) as caught:
        load_pickle(pickle.dumps(value, 4), "face.jpg")
    assert str(caught.value).startswith("face.jpg: pickle must")
    assert "\n" not in str(caught.value)


class Shell:
    def __reduce__(self):
        return os.system, ("exit 1",)


def test_calls_nothing():
    def fail(*args):
        raise AssertionError("the reader called what a pickle named")

    before, os.system = os.system, fail
    try:
        fail.__module__, fail.__qualname__ = "os", "system"
        blob = pickle.dumps({"landmarks": [Shell()]}, 4)
        with pytest.raises(InputError, match=r"os\.system"):
            load_pickle(blob)
    finally:
        os.system = before


def program(*parts: bytes) -> bytes:
    return b"\x80\x04" + b"".join(parts) + b"."


def text(value: str) -> bytes:
    return b"\x8c" + bytes([len(value)]) + value.encode()


RECONSTRUCT = text("numpy.core.multiarray") + text("_reconstruct") + b"\x93"
NDARRAY = text("numpy") + text("ndarray") + b"\x93"
F4 = text("numpy") + text("dtype") + b"\x93" + text("f4") + b"\x89\x88\x87R"


def array(shape: bytes, content: bytes = b"B\0\0\0\0") -> bytes:
    empty = RECONSTRUCT + NDARRAY + b"K\0\x85" + b"C\x01b" + b"\x87R"
    return empty + b"(K\x01" + shape + F4 + b"\x89" + content + b"tb"


def laughs(levels: int, wrap: bytes) -> bytes:
    return b"]\x94" + b"".join(b"h" + bytes([i]) * 1 + b"h" + bytes([i]) + wrap + b"\x94"
                              for i in range(levels))  # fmt: skip


@pytest.mark.parametrize(
    ("blob", "why"),
    [
        (program(array(b"J\xff\xff\xff\x7f\x85")), "must hold"),  # huge shape, no bytes
        (program(array(b"J\xff\xff\xff\xff\x85")), "sane shape"),
        (program(array(b"(" + b"K\x00" * 9 + b"t")), "sane shape"),
        (program(array(b"\x8a\x09" + b"\0" * 7 + b"\x01\0\x85")), "sane shape"),
        (program(b"\x8b\xff\xff\xff\x7f"), "integers of 16 bytes"),
        (program(b"\x8b\xff\xff\xff\xff"), "integers of some bytes"),
        (program(b"\x8a\x20" + b"\x01" * 32), "integers of 16 bytes"),
        (program(b"B\xff\xff\xff\xff"), "whole"),
        (program(b"\x8e" + b"\xff" * 8), "whole"),
        (program(b"X\xff\xff\xff\xff"), "whole"),
        (program(b"\x95" + b"\xff" * 8), "whole"),
        (program(b"]\x94h\0a"), "itself"),
        (program(b"}\x94" + text("a") + b"h\0s"), "itself"),
        (program(b"](" * 0 + b"]" * 50 + b"a" * 49), "nest 32 deep"),
        (program(laughs(60, b"\x86")), "pickle must"),  # t = (t, t), sixty times
        (program(b"}" + laughs(60, b"\x86") + b"Ns"), "pickle must"),  # the same as a key
        (program(NDARRAY), "numpy.ndarray"),  # a class is no datum
        (program(RECONSTRUCT + NDARRAY + b"K\0\x85C\x01b\x87R"), "_Empty"),
        (program(RECONSTRUCT + b"NK\0\x85C\x01b\x87R"), "reconstruct"),
        (program(b"}" + b"Nb"), "state"),
        (program(text("x") + b"}b"), "state"),
        (program(text("samplelib.Sample") + text("SampleType") + b"\x93K\x63\x85R"), "SampleType"),
        (program(text("facelib.FaceType") + text("FaceType") + b"\x93NR"), "call"),
        (program(b"h\x07"), "breaks off"),
        (program(b"0"), "breaks off"),
        (program(b"t"), "mark"),
        (program(b"(0"), "one value"),
        (program(b"}](u"), "dict"),
        (program(b"cos\nsystem\n"), "os.system"),
        (program(b"c" + b"A" * 500), "one line"),
        (program(b"V", b"x\n"), "UNICODE"),
        (program(b"\x82\x01"), "EXT1"),
        (program(text("P") + b"Q"), "BINPERSID"),
        (program(b"(i", b"os\nsystem\n"), "INST"),
        (program(text("x") + b")\x81"), "call of str"),
        (program(b"\x97"), "NEXT_BUFFER"),
        (program(b"\xff"), "0xff"),
        (program(b"X\x01\0\0\0\xff"), "UTF-8"),
        (b"\x80\x09N.", "protocol"),
        (b"\x80\x04N", "STOP"),
        (b"", "STOP"),
    ],
)
def test_refuses_bombs_and_damage(blob, why):
    start = time.perf_counter()
    with pytest.raises(InputError, match=why):
        load_pickle(blob)
    assert time.perf_counter() - start < 1


def test_a_shared_large_string_is_not_unfolded_without_end():
    big = program(b"B" + struct.pack("<I", 100_000) + b"x" * 100_000 + b"\x940]("
                  + b"h\0" * 5000 + b"e")  # fmt: skip
    with pytest.raises(InputError, match="bytes at most"):
        load_pickle(big)


def test_limits_hold():
    with pytest.raises(InputError, match="steps"):
        load_pickle(dump_pickle(list(range(99))), limits=Limits(opcodes=50))
    with pytest.raises(InputError, match="items"):
        load_pickle(dump_pickle(list(range(99))), limits=Limits(items=50))
    with pytest.raises(InputError, match="deep"):
        load_pickle(dump_pickle([[[1]]]), limits=Limits(depth=2))


@pytest.mark.parametrize(
    ("blob", "why"),
    [
        (b"(" * 1_100_000, "on its stack at most"),
        (b"N" + b"2" * 1_100_000, "on its stack at most"),
        (b"N" + b"\x94" * 2_100_000, "must remember fewer values"),
        (b"](" + b"}" * 1_100_000 + b"e", "at most"),
        (b"]0" * 1_100_000, "containers at most"),
    ],
)
def test_what_grows_faster_than_the_file_is_bounded(blob, why):
    with pytest.raises(InputError, match=why):
        load_pickle(b"\x80\x04" + blob + b".")


def test_an_array_met_twice_is_one_array():
    a = np.arange(3.0)
    first, second = load_pickle(dump_pickle([a, a]))
    assert first is second


def test_big_endian_and_fortran_arrays():
    value = {"big": np.arange(4, dtype=">f4"), "f": np.asfortranarray(np.ones((2, 3)))}
    back = load_pickle(dump_pickle(value))
    assert same(back, value)
    assert back["f"].flags.f_contiguous
    assert load_pickle(pickle.dumps(value["big"], 4)).tolist() == [0, 1, 2, 3]


BLOBS = [dump_pickle(FACE), pickle.dumps({k: FACE[k] for k in list(FACE)[:-1]}, 5)]


@settings(max_examples=300, deadline=None)
@given(st.data())
def test_damaged_pickles_are_read_or_refused(data):
    blob = bytearray(data.draw(st.sampled_from(BLOBS)))
    for _ in range(data.draw(st.integers(1, 6))):
        at = data.draw(st.integers(0, len(blob) - 1))
        how = data.draw(st.sampled_from(["set", "cut", "insert", "copy"]))
        if how == "set":
            blob[at] = data.draw(st.integers(0, 255))
        elif how == "cut":
            del blob[at : at + data.draw(st.integers(1, 20))]
        elif how == "insert":
            blob[at:at] = data.draw(st.binary(min_size=1, max_size=12))
        else:
            blob[at:at] = blob[at : at + data.draw(st.integers(1, 64))]
        if not blob:
            break
    try:
        result = load_pickle(bytes(blob), limits=METADATA_LIMITS)
    except InputError as error:
        assert "\n" not in str(error)  # noqa: PT017
    else:
        dump_pickle(result)


@settings(max_examples=200, deadline=None)
@given(st.lists(st.sampled_from([bytes([i]) for i in range(256)] + [NDARRAY, RECONSTRUCT, F4,
       text("a"), array(b"K\0\x85"), b"K\x01", b"}\x94", b"]\x94", b"h\0", b"(", b"\x94"]),
       max_size=40))  # fmt: skip
def test_random_programs_are_read_or_refused(parts):
    try:
        load_pickle(program(*parts), limits=METADATA_LIMITS)
    except InputError as error:
        assert len(str(error)) < 400  # noqa: PT017
