"""Operators whose results are as large as the numbers say: sized by the most that they can be."""

from __future__ import annotations

import numpy as np
import pytest
from onnx import TensorProto, helper, numpy_helper

from accel.core import InputError
from accel.models.onnx import load_onnx

RNG = np.random.default_rng(0)
BOXES = np.sort(RNG.random((1, 300, 4), np.float32), axis=-1)
SCORES = RNG.random((1, 2, 300), np.float32)
X = RNG.random((10, 20), np.float32)


def graph(nodes, inputs, outputs, **constants) -> bytes:
    held = [numpy_helper.from_array(np.array(value), name) for name, value in constants.items()]
    ports = [
        helper.make_tensor_value_info(name, TensorProto.FLOAT, shape)
        for name, shape in inputs.items()
    ]
    ends = [
        helper.make_tensor_value_info(name, kind, shape) for name, (kind, shape) in outputs.items()
    ]
    made = helper.make_graph(
        [helper.make_node(*n[:3], **n[3]) for n in nodes], "g", ports, ends, held
    )
    model = helper.make_model(made, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    return model.SerializeToString()


NMS = ("NonMaxSuppression", ["boxes", "scores", "most", "overlap", "least"], ["found"], {})
FEW = {"most": np.int64(7), "overlap": np.float32(0.5), "least": np.float32(0.3)}


def test_a_detector_that_keeps_the_best_boxes_itself():
    nodes = [
        NMS,
        ("Gather", ["found", "two"], ["which"], {"axis": 1}),
        ("Squeeze", ["boxes", "first"], ["rows"], {}),
        ("Gather", ["rows", "which"], ["best"], {"axis": 0}),
    ]
    data = graph(
        nodes, {"boxes": [1, 300, 4], "scores": [1, 2, 300]},
        {"best": (TensorProto.FLOAT, [None, 4])}, two=np.int64(2), first=np.array([0]), **FEW,
    )  # fmt: skip
    best = load_onnx(data).run({"boxes": BOXES, "scores": SCORES})["best"]
    assert 2 <= len(best) <= 14
    assert (BOXES[0][None] == best[:, None]).all(-1).any(1).all()


@pytest.mark.parametrize(
    ("picks", "wanted"),
    [
        ([("NonZero", ["mask"], ["found"], {}), ("Transpose", ["found"], ["at"], {"perm": [1, 0]}),
          ("GatherND", ["x", "at"], ["y"], {})], X[X > 0.5]),
        ([("Reshape", ["mask", "all"], ["flat"], {}), ("Compress", ["x", "flat"], ["y"], {})],
         X[X > 0.5]),
        ([("Reshape", ["mask", "all"], ["flat"], {}), ("Cast", ["flat"], ["n"], {"to": 1}),
          ("Unique", ["n"], ["y"], {})], np.array([0, 1], np.float32)),
    ],
)  # fmt: skip
def test_what_is_picked_by_a_mask(picks, wanted):
    nodes = [("Greater", ["x", "half"], ["mask"], {}), *picks]
    data = graph(
        nodes, {"x": [10, 20]}, {"y": (TensorProto.FLOAT, [None])},
        half=np.float32(0.5), all=np.array([-1]),
    )  # fmt: skip
    assert np.array_equal(load_onnx(data).run({"x": X})["y"], wanted)


@pytest.mark.parametrize("sized", [["n", "n"], ["rest", "rest"]])
def test_nothing_else_is_sized_by_it(sized):
    """Fewer may be found than at most, so that more is left than at least."""
    nodes = [
        ("NonZero", ["x"], ["found"], {}),
        ("Shape", ["found"], ["shape"], {}),
        ("Gather", ["shape", "one"], ["n"], {}),
        ("Sub", ["many", "n"], ["rest"], {}),
        ("Concat", sized, ["sizes"], {"axis": 0}),
        ("ConstantOfShape", ["sizes"], ["y"], {}),
    ]
    data = graph(
        nodes, {"x": [10, 20]}, {"y": (TensorProto.FLOAT, [None, None])},
        one=np.array([1]), many=np.array([200]),
    )  # fmt: skip
    with pytest.raises(
        InputError, match="'ConstantOfShape' must make what has a size that follows"
    ):
        load_onnx(data).run({"x": X})


def test_what_is_picked_out_of_constants_is_known():
    """Exporters make positions by NonZero of ones."""
    nodes = [
        ("ConstantOfShape", ["five"], ["ones"], {}),
        ("Not", ["ones"], ["yes"], {}),
        ("NonZero", ["yes"], ["found"], {}),
        ("Squeeze", ["found", "first"], ["at"], {}),
        ("Gather", ["x", "at"], ["rows"], {}),
        ("Shape", ["at"], ["n"], {}),
        ("Expand", ["half", "n"], ["y"], {}),
    ]
    nodes[0][3]["value"] = helper.make_tensor("", TensorProto.BOOL, [1], [0])
    data = graph(
        nodes, {"x": [10, 20]},
        {"y": (TensorProto.FLOAT, [5]), "rows": (TensorProto.FLOAT, [5, 20])},
        five=np.array([5]), first=np.array([0]), half=np.float32(0.5),
    )  # fmt: skip
    found = load_onnx(data).run({"x": X})
    assert np.array_equal(found["rows"], X[:5])
    assert np.array_equal(found["y"], np.full(5, 0.5, np.float32))


def test_what_is_picked_out_of_many_constants_sizes_nothing():
    nodes = [
        ("NonZero", ["held"], ["found"], {}),
        ("Shape", ["found"], ["shape"], {}),
        ("Gather", ["shape", "one"], ["n"], {}),
        ("Sub", ["many", "n"], ["rest"], {}),
        ("Concat", ["rest", "rest"], ["sizes"], {"axis": 0}),
        ("ConstantOfShape", ["sizes"], ["y"], {}),
    ]
    data = graph(
        nodes, {"x": [1]}, {"y": (TensorProto.FLOAT, [None, None])},
        held=np.zeros(50_000, np.float32), one=np.array([1]), many=np.array([50_001]),
    )  # fmt: skip
    with pytest.raises(InputError, match="'ConstantOfShape' must make what has a size"):
        load_onnx(data).run({"x": X[0, :1]})


def test_boxes_that_would_be_too_many_are_refused():
    data = graph(
        [NMS], {"boxes": [8, 5000, 4], "scores": [8, 800, 5000]},
        {"found": (TensorProto.INT64, [None, 3])}, **{**FEW, "most": np.int64(1 << 40)},
    )  # fmt: skip
    with pytest.raises(InputError, match=r"elements at most, got 96000000 of 'found'"):
        load_onnx(data)
