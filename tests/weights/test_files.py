"""Reading files of tensors: what comes out, and every way in which a file can be wrong."""

from __future__ import annotations

import io
import json
import mmap
import pickle
import sys
import zipfile
from collections import OrderedDict
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from accel.core import InputError
from accel.weights.checkpoint import open_checkpoint
from accel.weights.files import first_not_finite, open_safetensors, open_tensors

TENSORS = {
    "a": torch.arange(6.0).view(2, 3),
    "half": torch.randn(4).half(),
    "brain": torch.randn(3).bfloat16(),
    "eight": torch.randn(5).to(torch.float8_e4m3fn),
    "odd": torch.tensor([1, 2, 3], dtype=torch.uint8),
    "scalar": torch.tensor(7.0),
    "empty": torch.zeros(0, 4),
    "flag": torch.tensor([True, False]),
}


def assert_same(file, tensors) -> None:
    assert set(file) == set(tensors)
    for name, tensor in tensors.items():
        assert file[name].dtype == tensor.dtype, name
        assert file[name].shape == tensor.shape, name
        assert torch.equal(file[name].float(), tensor.float()), name


def test_reads_what_safetensors_writes(tmp_path):
    path = tmp_path / "a.safetensors"
    save_file(TENSORS, path, {"format": "pt"})
    file = open_tensors(path)
    assert_same(file, TENSORS)
    assert file.metadata == {"format": "pt"}
    assert file.shapes["a"] == (2, 3)


def test_writing_to_a_tensor_leaves_the_file_alone(tmp_path):
    path = tmp_path / "a.safetensors"
    save_file(TENSORS, path)
    before = path.read_bytes()
    file = open_tensors(path)
    file["a"].add_(1)
    assert torch.equal(file["a"], TENSORS["a"] + 1)  # the mapping is the tensor's memory
    assert path.read_bytes() == before
    assert torch.equal(open_tensors(path)["a"], TENSORS["a"])


def written(path, header, data: bytes = bytes(24), length: int | None = None):
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    length = len(text) if length is None else length
    path.write_bytes(length.to_bytes(8, "little") + text + data)
    return path


def entry(begin=0, end=24, dtype="F32", shape=(2, 3)):
    return {"dtype": dtype, "shape": list(shape), "data_offsets": [begin, end]}


@pytest.mark.parametrize(
    ("header", "message"),
    [
        ({"x": entry(end=20)}, r"x: F32 \[2, 3\] needs 24 bytes, got 20"),
        ({"x": entry(begin=8, end=32)}, "cut short: x ends at byte"),
        ({"x": entry(), "y": entry(20, 24, shape=[1])}, "y and x must not overlap"),
        ({"x": entry(dtype="F31")}, "x: dtype must be one of .*, got 'F31'"),
        ({"x": entry(shape=[-2, -3])}, "x: shape must be a list of counts"),
        ({"x": entry(begin=-24, end=0)}, "x: data_offsets must be two counts"),
        ({"x": {"dtype": "F32"}}, "x: shape must be a list of counts, got None"),
        ({"x": 5}, "x: dtype must be one of"),
        ({"__metadata__": [1]}, "__metadata__ must be a JSON object"),
        ({"x": entry(dtype=[])}, r"x: dtype must be one of .*, got \[\]"),
        ({"x": entry(shape=[2**48])}, "x: shape must be a list of counts"),
        ({"x": entry(0, 0, shape=[0, 2**30, 2**30])}, "x: shape must be a list of counts"),
        ({"x": entry(shape=[1] * 99)}, "x: shape must be a list of counts"),
        ({"x": entry(shape=[True, 6])}, "x: shape must be a list of counts"),
        ({"x": entry(8, 24, shape=[2, 2])}, "but 8 bytes before x do not"),
        ({"x": entry(0, 16, shape=[2, 2])}, "but 8 at the end do not"),
        ({}, "but 24 at the end do not"),
        (b"[" * 100_000, "must be JSON"),
        (b"[" + b"[]," * 4_000_000, "items at most"),
        (b'{"x": ' + b"1" * 5000 + b"}", "must be JSON"),
        (b'{"x": 1, "x": 2}', "a name comes twice"),
        (b"[1, 2]", "must be a JSON object"),
        (b"{not json", "must be JSON"),
        (b"\xff\xfe", "must be JSON"),
    ],
)
def test_refuses_a_wrong_header(tmp_path, header, message):
    with pytest.raises(InputError, match=message):
        open_safetensors(written(tmp_path / "x.safetensors", header))


@pytest.mark.parametrize("length", [2**63, 2**64 - 1, 10**9])
def test_refuses_a_header_longer_than_the_file(tmp_path, length):
    path = written(tmp_path / "x.safetensors", {"x": entry()}, length=length)
    with pytest.raises(InputError, match=f"header of {length} bytes is announced"):
        open_safetensors(path)


@pytest.mark.parametrize("size", [0, 3, 8, 60])
def test_refuses_a_file_cut_short(tmp_path, size):
    path = written(tmp_path / "x.safetensors", {"x": entry()})
    path.write_bytes(path.read_bytes()[:size])
    with pytest.raises(InputError, match=r"cut short|must be JSON"):
        open_safetensors(path)


def test_refuses_a_missing_file(tmp_path):
    with pytest.raises(InputError, match="must be a file of weights, found none"):
        open_tensors(tmp_path / "none.safetensors")


def test_reads_a_torch_checkpoint(tmp_path):
    base = torch.randn(4, 6)
    tensors = {"a": base, "part": base[1:3, 2:], "turned": base.t(), "i": torch.arange(3)}
    tensors |= {"parameter": torch.nn.Parameter(torch.ones(2))}
    path = tmp_path / "a.ckpt"
    torch.save({"state_dict": OrderedDict(tensors), "epoch": 3, "lr": [0.1]}, path)
    assert_same(open_tensors(path), tensors)


def test_keeps_the_names_of_groups_that_are_not_wrappers(tmp_path):
    path = tmp_path / "a.pt"
    torch.save({"string_to_param": {"*": torch.ones(2)}, "model": {"w": torch.zeros(1)}}, path)
    assert set(open_tensors(path)) == {"string_to_param.*", "w"}


class Trap:
    """Unpickled by Python, it would run a command."""

    def __reduce__(self):
        return eval, ("__import__('pathlib').Path('trapped').touch()",)


class Callbacks(dict):
    """Of a class that the reader does not know, with state, items and all."""


def test_runs_nothing_that_a_checkpoint_asks_for(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    torch.save({"state_dict": {"w": torch.ones(2)}, "trap": Trap()}, "a.ckpt")
    with pytest.raises(InputError, match=r"the name (builtins|__builtin__)\.eval"):
        open_checkpoint(tmp_path / "a.ckpt")
    assert not (tmp_path / "trapped").exists()


def test_what_training_programs_leave_in_a_checkpoint_is_dropped(tmp_path, monkeypatch):
    """Their classes are not there to be imported, and would not be."""
    import types

    module = types.ModuleType("pytorch_lightning.callbacks")
    Callbacks.__module__ = Callbacks.__qualname__ = ""
    Callbacks.__module__, Callbacks.__qualname__ = module.__name__, "Callbacks"
    module.Callbacks = Callbacks
    monkeypatch.setitem(sys.modules, "pytorch_lightning", types.ModuleType("pytorch_lightning"))
    monkeypatch.setitem(sys.modules, module.__name__, module)
    known = Callbacks(a=1)
    known.extra = [1, {"b": np.float64(2)}]
    rest = {
        "callbacks": {Callbacks: {"best": torch.ones(1)}, "other": known},
        "seen": {1, 2},
        "rng": np.arange(3),
        "loss": np.float32(0.5),
        "where": b"bytes",
        "p": torch.nn.Parameter(torch.zeros(2)),
        "size": torch.Size([1, 2]),
        "ordered": OrderedDict(a=1),
    }
    torch.save({"state_dict": {"w": torch.ones(2)}, **rest}, tmp_path / "a.ckpt")
    monkeypatch.delitem(sys.modules, module.__name__)
    file = open_checkpoint(tmp_path / "a.ckpt")
    assert {"w", "p"} <= set(file)
    assert torch.equal(file["w"], torch.ones(2))


def test_reads_parameter_dicts_and_eight_bit_floats(tmp_path):
    path = tmp_path / "a.pt"
    values = torch.nn.ParameterDict({"*": torch.ones(2)})
    eight = torch.arange(4.0).to(torch.float8_e4m3fn)
    torch.save({"string_to_param": values, "eight": eight}, path)
    file = open_checkpoint(path)
    assert torch.equal(file["string_to_param.*"], torch.ones(2))
    assert torch.equal(file["eight"].float(), eight.float())


def archive(path, pickled: bytes):
    with zipfile.ZipFile(path, "w") as file:
        file.writestr("archive/data.pkl", pickled)
    return path


def test_refuses_archives_without_tensors(tmp_path):
    with pytest.raises(InputError, match="must hold named tensors"):
        open_tensors(archive(tmp_path / "a.ckpt", pickle.dumps({"a": 1})))
    with pytest.raises(InputError, match=r"b\.ckpt: data\.pkl: pickle must"):
        open_tensors(archive(tmp_path / "b.ckpt", b"\x80\x02garbage"))
    empty = tmp_path / "c.ckpt"
    with zipfile.ZipFile(empty, "w") as file:
        file.writestr("readme", "")
    with pytest.raises(InputError, match=r"must hold one data\.pkl"):
        open_tensors(empty)


def test_refuses_a_checkpoint_cut_short(tmp_path):
    path = tmp_path / "a.ckpt"
    torch.save({"w": torch.randn(1000)}, path)
    path.write_bytes(path.read_bytes()[:-800])
    with pytest.raises(InputError, match="cannot be read as a torch checkpoint"):
        open_tensors(path)


class Lie:
    """Written as a tensor of any shape."""

    def __init__(self, shape, stride):
        self.args = (shape, stride)

    def __reduce__(self):
        return torch._utils._rebuild_tensor_v2, (Stored(), 0, *self.args, False, OrderedDict())


class Stored:
    """Stands for a storage until it is pickled."""


def torch_archive(path, value, content: bytes):
    """A checkpoint as torch would write it, of one storage of floats."""

    class Pickler(pickle.Pickler):
        def persistent_id(self, item):
            stored = isinstance(item, Stored)
            return ("storage", torch.FloatStorage, "0", "cpu", 10) if stored else None

    program = io.BytesIO()
    Pickler(program, 2).dump(value)
    with zipfile.ZipFile(path, "w") as file:
        file.writestr("archive/data.pkl", program.getvalue())
        file.writestr("archive/data/0", content)
    return path


def test_refuses_a_tensor_that_leaves_its_storage(tmp_path):
    for shape, stride, message in [
        ((99,), (1,), "w: must lie inside its storage of 40 bytes"),
        ((2**33,), (0,), r"w: must not repeat its storage of 40 bytes as \[8589934592\]"),
        ((2,), (1, 1), "tensors of a sane shape"),
        ((2**60,), (0,), "tensors of a sane shape"),
    ]:
        path = torch_archive(tmp_path / "a.ckpt", {"w": Lie(shape, stride)}, bytes(40))
        with pytest.raises(InputError, match=message):
            open_tensors(path)


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16], ids=str)
def test_finds_what_is_not_finite(bad, dtype):
    tensors = {"fine": torch.full((9,), 60000.0, dtype=dtype), "whole": torch.arange(3)}
    assert first_not_finite(tensors) is None
    largest = torch.finfo(dtype).max
    assert first_not_finite({"sums beyond its type": torch.full((9,), largest).to(dtype)}) is None
    tensors["broken"] = torch.tensor([1.0, bad], dtype=dtype)
    assert first_not_finite(tensors) == "broken"


def resident_kb(path: Path) -> int:
    parts = Path("/proc/self/smaps").read_text().split(str(path))[1:]
    return sum(int(part.split("Rss:")[1].split()[0]) for part in parts)


@pytest.mark.skipif(not Path("/proc/self/pagemap").exists(), reason="the system does not say")
def test_some_tensors_pages_are_let_go_alone(tmp_path, monkeypatch):
    from accel.weights import files

    monkeypatch.setattr(files, "WORTH_RELEASING", 1)
    path = tmp_path / "large.safetensors"
    save_file({name: torch.full((1 << 18,), 7.0) for name in "abcd"}, path)
    file = open_tensors(path)
    tensors = dict(file)
    total = sum(float(t.sum()) for t in tensors.values())
    tensors["b"][1 << 17] = 1
    whole = resident_kb(path)
    file.release([tensors["b"], torch.ones(3)])  # written to; of no file
    assert resident_kb(path) == whole
    file.release([tensors["d"], tensors["c"]])  # side by side: two, less the page that ends c
    assert (2 << 10) - 4 * mmap.PAGESIZE // 1024 <= whole - resident_kb(path) <= 2 << 10
    assert sum(float(t.sum()) for t in tensors.values()) == total - 6
    file.release([])
    file.release([tensors["a"][5:5]])


@pytest.mark.skipif(not Path("/proc/self/pagemap").exists(), reason="the system does not say")
@pytest.mark.parametrize("written", [False, True])
def test_pages_that_were_read_are_let_go_unless_written_to(tmp_path, monkeypatch, written):
    from accel.weights import files

    monkeypatch.setattr(files, "WORTH_RELEASING", 1)
    path = tmp_path / "large.safetensors"
    save_file({"a": torch.arange(1 << 18, dtype=torch.float32), "b": torch.ones(1 << 18)}, path)
    file = open_tensors(path)
    a, total = file["a"], file["b"].sum()

    a.sum()
    if written:
        a[5] = -1
    assert resident_kb(path) >= 2 << 10
    file.release()
    assert (resident_kb(path) == 0) is not written
    assert a[5] == (-1 if written else 5)
    assert a[1 << 17] == 1 << 17
    assert file["b"].sum() == total
