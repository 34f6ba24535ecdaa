"""Many items together, constants and results beside values: what a network takes at a time."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
from onnx import TensorProto, helper

from accel.core import InputError
from accel.models.onnx import load_onnx
from accel.nn.onnx.load import plan_of
from accel.nn.onnx.native import Runner, native
from accel.weights.onnx import open_onnx
from accel.weights.onnx_sizes import MAX_AT_ONCE, MAX_ELEMENTS, Sizes
from tests.weights.test_onnx import model, node

F = TensorProto.FLOAT
rng = np.random.default_rng(0)


def tiled(times: int) -> bytes:
    """A network for any number of items, each of which becomes `times` squared times as large."""
    nodes = [node("Tile", "x t", "a"), node("Neg", "a", "b"), node("Add", "a b", "c"),
             node("Slice", "c z e ax", "y")]  # fmt: skip
    shape = ["n", 64, 64, 3]
    constants = {"t": np.array([1, times, times, 1]), "z": np.array([0, 0]),
                 "e": np.array([64, 64]), "ax": np.array([1, 2])}  # fmt: skip
    return model(nodes, [("x", F, shape)], [("y", F, shape)], constants).SerializeToString()


def runs_of(network, feed, monkeypatch) -> tuple[np.ndarray, list[int]]:
    counts = []
    run = network._try_to_run

    def told(fed):
        counts.append(len(fed["x"]))
        return run(fed)

    monkeypatch.setattr(network, "_try_to_run", told)
    return network(feed)[0], counts


def test_items_whose_values_are_large_go_through_few_at_a_time(monkeypatch):
    x = rng.standard_normal((16, 64, 64, 3)).astype(np.float32)
    made, counts = runs_of(open_onnx(tiled(24)), x, monkeypatch)
    at_once = 3 * 4 * 24**2 * x[0].size  # values of three operators, or two
    assert max(counts) * at_once <= MAX_AT_ONCE * 4 * MAX_ELEMENTS
    assert sum(counts) == 16
    assert (made == 0).all()


def test_items_whose_values_are_small_go_through_together(monkeypatch):
    x = rng.standard_normal((16, 64, 64, 3)).astype(np.float32)
    assert 16 in runs_of(open_onnx(tiled(2)), x, monkeypatch)[1]


def unet(side: int, weights: int) -> Sizes:
    """Attention of eight heads over two pictures' pixels, beside weights of two bytes each."""
    nodes = [
        node("MatMul", "x w0", "q"), node("Transpose", "q", "k", perm=[0, 2, 1]),
        node("MatMul", "q k", "s"), node("Softmax", "s", "p"), node("MatMul", "p q", "y"),
    ]  # fmt: skip
    shape = [16, side * side, 40]
    made = model(nodes, [("x", F, shape)], [("y", F, shape)], {"w0": np.eye(40, dtype=np.float32)})
    tensor = made.graph.initializer.add(name="weights", data_type=TensorProto.FLOAT16)
    tensor.dims.append(weights)
    return Sizes(made, "unet")


def test_networks_of_gigabytes_may_make_values_in_proportion():
    unet(64, 860_000_000).check()  # Stable Diffusion 1.5 at 512 by 512, both halves of guidance


def test_the_same_values_of_few_weights_are_refused():
    with pytest.raises(InputError, match="elements at most"):
        unet(64, 1_000_000).check()


def test_results_are_nobody_elses():
    nodes = [node("Identity", "k", "y"), node("Identity", "x", "z"), node("Identity", "x", "u")]
    ports = [(name, F, [2, 3]) for name in "yzu"]
    loaded = load_onnx(
        model(nodes, [("x", F, [2, 3])], ports, {"k": np.ones((2, 3), np.float32)})
        .SerializeToString(),
        runtime="accel",
    )  # fmt: skip
    x = np.ones((2, 3), np.float32)
    for value in loaded.run({"x": x}).values():
        value += 1
    assert (x == 1).all()
    assert all((value == 1).all() for value in loaded.run({"x": x}).values())


@pytest.mark.skipif(native is None, reason="needs the native module")
def test_a_program_above_its_room_is_left_to_the_operators():
    import torch

    made = model(
        [node("Relu", "x", "a"), node("Add", "a x", "y")], [("x", F, [1, 4, 8, 8])],
        [("y", F, [1, 4, 8, 8])],
    )  # fmt: skip
    feeds = {"x": torch.randn(1, 4, 8, 8)}
    tight, free = Runner(plan_of(made), lambda sizes: 64), Runner(plan_of(made))
    assert tight.program(feeds) is None
    assert free.program(feeds) is not None
    assert torch.equal(tight.run(feeds)[0], free.run(feeds)[0])


def test_cuts_beyond_64_bits_print_nothing():
    most = np.iinfo(np.int64)
    made = model(
        [node("Slice", "x s e ax st", "y")], [("x", F, [7, 3])], [("y", F, None)],
        {"s": np.array([most.min]), "e": np.array([most.max]), "ax": np.array([0]),
         "st": np.array([most.max])},
    )  # fmt: skip
    x = rng.standard_normal((7, 3)).astype(np.float32)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        got = load_onnx(made.SerializeToString(), runtime="accel").run({"x": x})["y"]
    assert np.array_equal(got, x[:1])


def test_room_grows_with_what_is_put_in():
    sizes = Sizes(helper.make_model(_relu()), "n")
    assert sizes.at_once == 4 * 64  # the result; what is put in is the caller's
    assert sizes.room({}) < sizes.room({"x": [1, 3, 4096, 4096]})


def _relu():
    port = [helper.make_tensor_value_info(name, F, [1, 4, 4, 4]) for name in "xy"]
    return helper.make_graph([helper.make_node("Relu", ["x"], ["y"])], "g", port[:1], port[1:])
