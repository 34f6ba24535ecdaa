"""Graphs as native programs: fusions, memory, batches, threads, what is kept, what is refused."""

from __future__ import annotations

import itertools
import os
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from onnx import helper

from accel.kernels import _native
from accel.models.onnx import load_onnx
from accel.nn.onnx.arena import Buffer, Node, Place, lay_out
from accel.weights.assets import asset
from tests.nn.test_onnx import STEEP, both, draw, model, swapper

pytestmark = pytest.mark.skipif(_native.module is None, reason=_native.reason)


def program_of(data, feeds):
    found = load_onnx(data, runtime="accel")._plan.program(
        {n: torch.from_numpy(a) for n, a in feeds.items()}
    )
    assert found is not None
    return found


def kinds(data, feeds):
    return [node.kind for node in program_of(data, feeds).nodes]


def block(c, k=3, stride=1, widen=0, activation="PRelu"):
    """Depthwise, 1x1, skip with or without a pool and a padding of channels, activation."""
    pads = [k // 2] * 4 if stride == 1 else [0, 0, k - 2, k - 2]
    constants = {
        "d": draw(c, 1, k, k), "db": draw(c, seed=1), "w": draw(c + widen, c, 1, 1, seed=2) / 4,
        "b": draw(c + widen, seed=3), "s": draw(c + widen, 1, 1, seed=4),
        "p": np.array([0, 0, 0, 0, 0, widen, 0, 0]),
    }  # fmt: skip
    add = helper.make_node
    nodes = [
        add("Conv", ["x", "d", "db"], ["a"], group=c, pads=pads, strides=[stride] * 2),
        add("Conv", ["a", "w", "b"], ["e"]),
    ]
    skip = "x"
    if stride == 2:
        nodes.append(add("MaxPool", [skip], ["m"], kernel_shape=[2, 2], strides=[2, 2]))
        skip = "m"
    if widen:
        nodes.append(add("Pad", [skip, "p"], ["q"]))
        skip = "q"
    nodes.append(add("Add", ["e", skip], ["f"]))
    nodes.append(add(activation, ["f", "s"][: 2 if activation == "PRelu" else 1], ["y"]))
    return nodes, constants


@pytest.mark.parametrize("size", [(12, 15), (13, 13), (3, 4), (6, 2)], ids=str)
@pytest.mark.parametrize(
    "more",
    [
        {},
        {"pads": [1, 1, 1, 1]},
        {"pads": [0, 1, 1, 0], "strides": [2, 3]},
        {"kernel_shape": [2, 2], "strides": [3, 3]},
        {"count_include_pad": 1},
    ],
    ids=str,
)
@pytest.mark.parametrize("kind", ["MaxPool", "AveragePool"])
def test_pools_that_round_up_are_native(kind, more, size):
    if kind == "MaxPool":
        more = {k: v for k, v in more.items() if k != "count_include_pad"}
    pool = {"kernel_shape": [3, 3], "strides": [2, 2], "ceil_mode": 1} | more
    feeds = {"x": draw(2, 5, *size) - 3}  # zeros of a padding would be the largest
    data = model([helper.make_node(kind, ["x"], ["y"], **pool)], feeds)
    both(data, feeds)
    assert "python" not in kinds(data, feeds)


def test_opening_a_large_graph_takes_time_with_its_length_alone():
    """Steps were compared one by one, and so was what they hold."""
    names = [f"v{i}" for i in range(4000)]
    nodes = [helper.make_node("Identity", ["x"], [names[0]])]
    nodes += [helper.make_node("Relu", [a], [b]) for a, b in itertools.pairwise(names)]
    data = model([*nodes, helper.make_node("Relu", [names[-1]], ["y"])], {"x": draw(1, 2, 3, 3)})
    begin = time.process_time()
    load_onnx(data)
    assert time.process_time() - begin < 8  # about 1


@pytest.mark.parametrize(
    ("c", "k", "stride", "widen", "size"),
    [
        (16, 3, 1, 0, (12, 17)),
        (24, 3, 1, 0, (9, 30)),
        (24, 3, 2, 24, (16, 18)),
        (5, 5, 1, 3, (7, 5)),
        (40, 5, 2, 0, (8, 8)),
        (1, 3, 1, 0, (1, 1)),
        (100, 3, 1, 33, (2, 3)),
    ],
)
def test_a_block_becomes_one_product(c, k, stride, widen, size):
    nodes, constants = block(c, k, stride, widen)
    feeds = {"x": draw(3, c, *size)}
    data = model(nodes, feeds, constants)
    both(data, feeds)
    made = [kind for kind in kinds(data, feeds) if kind != "copy"]
    if c > 1:  # one channel is no depthwise convolution but a plain one
        assert made == (["product"] if stride == 1 else ["pool", "product"])


@pytest.mark.parametrize("name", ["blazeface_back_256.fp16w.onnx", "iris_64.fp16w.onnx"])
def test_bytes_depend_neither_on_the_batch_nor_on_threads(name):
    ours = load_onnx(asset(name), runtime="accel")
    side = int(name.split("_")[-1].split(".")[0])
    runner = ours._plan
    x = torch.from_numpy(draw(2, side, side, 3))
    first = ours.inputs[0]

    def run(batch):
        return runner.run({first: batch})

    alone = run(x[1:])
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(1)
        assert all(torch.equal(a, b) for a, b in zip(alone, run(x[1:])))
        torch.set_num_threads(3)
        assert all(torch.equal(a, b) for a, b in zip(alone, run(x[1:])))
    finally:
        torch.set_num_threads(before)


def test_bytes_of_a_picture_are_those_it_has_alone():
    nodes, constants = block(24)
    x = draw(5, 24, 13, 11)
    ours = load_onnx(model(nodes, {"x": x}, constants), runtime="accel")
    together = ours.run({"x": x})["y"]
    for i in range(5):
        assert np.array_equal(ours.run({"x": x[i : i + 1]})["y"][0], together[i])


def test_what_hangs_on_the_identity_alone_is_computed_when_it_changes():
    nodes, constants = swapper()
    feeds = {"x": draw(1, 3, 32, 32), "s": draw(1, 8, seed=3)}
    data = model(nodes, feeds, constants)
    ours = load_onnx(data, runtime="accel")
    program = program_of(data, feeds)
    assert [n.kind for n in program.nodes if n.stays] == ["product"] * 4
    peer = load_onnx(data, runtime="onnxruntime")
    for seed in (3, 3, 4, 3):
        given = feeds | {"s": draw(1, 8, seed=seed), "x": draw(1, 3, 32, 32, seed=seed)}
        assert np.abs(ours.run(given)["y"] - peer.run(given)["y"]).max() < STEEP


def test_nan_reaches_what_it_reaches_in_a_sum_and_nothing_else():
    nodes, constants = block(24)
    x = draw(1, 24, 9, 9)
    data = model(nodes, {"x": x}, constants)
    clean = load_onnx(data, runtime="accel").run({"x": x})["y"]
    x[0, 7, 4, 4] = np.nan
    got = load_onnx(data, runtime="accel").run({"x": x})["y"]
    wrong = np.isnan(got).any(1)[0]
    assert wrong[3:6, 3:6].all()
    assert wrong.sum() == 9
    assert np.array_equal(got[:, :, ~wrong], clean[:, :, ~wrong])


@pytest.mark.parametrize("kind", ["MaxPool", "Relu", "Clip", "LeakyRelu", "Sigmoid", "Tanh"])
def test_nan_stays_nan(kind):
    x = draw(1, 20, 4, 4)
    x[0, 3, 1, 2] = np.nan
    attributes = {"kernel_shape": [2, 2]} if kind == "MaxPool" else {}
    data = model([helper.make_node(kind, ["x"], ["y"], **attributes)], {"x": x})
    got = load_onnx(data, runtime="accel").run({"x": x})["y"]
    assert np.isnan(got).any()
    assert not np.isnan(got[0, 4:]).any()


def test_joined_values_are_written_where_they_are_joined():
    constants = {"w": draw(6, 4, 3, 3), "v": draw(3, 10, 1, 1)}
    nodes = [
        helper.make_node("Relu", ["x"], ["r"]),
        helper.make_node("Conv", ["r", "w"], ["c"], pads=[1, 1, 1, 1]),
        helper.make_node("Sigmoid", ["c"], ["g"]),
        helper.make_node("Concat", ["r", "g"], ["j"], axis=1),
        helper.make_node("Conv", ["j", "v"], ["y"]),
    ]
    feeds = {"x": draw(2, 4, 6, 5)}
    data = model(nodes, feeds, constants)
    both(data, feeds)


def test_an_operator_without_a_kernel_is_computed_in_between():
    nodes = [
        helper.make_node("Conv", ["x", "w"], ["c"], pads=[1, 1, 1, 1]),
        helper.make_node("Sinh", ["c"], ["e"]),
        helper.make_node("ArgMax", ["e"], ["i"], axis=1),
        helper.make_node("Conv", ["e", "w"], ["y"], pads=[1, 1, 1, 1]),
    ]
    feeds = {"x": draw(2, 4, 6, 5)}
    data = model(nodes, feeds, {"w": draw(4, 4, 3, 3)}, outputs=("y", "i"))
    both(data, feeds)
    assert kinds(data, feeds).count("python") == 2


def test_memory_is_used_again():
    nodes = [
        helper.make_node("Conv", [f"v{i}", "w"], [f"v{i + 1}"], pads=[1, 1, 1, 1]) for i in range(9)
    ]
    x = draw(1, 4, 32, 32)
    data = model(nodes, {"v0": x}, {"w": draw(4, 4, 3, 3) / 6}, outputs=("v9",))
    both(data, {"v0": x})
    assert program_of(data, {"v0": x}).arena_floats <= 3 * x.size


def test_layout_never_lets_two_living_values_overlap():
    draw_int = np.random.default_rng(0).integers
    places = [Place(Buffer(int(draw_int(1, 500))), (1,)) for _ in range(60)]
    nodes = [Node("x", [], [places[0]])]
    for i in range(1, 60):
        reads = [places[int(draw_int(max(0, i - 6), i))] for _ in range(2)]
        nodes.append(Node("x", reads, [places[i]]))
    lay_out(nodes, 0)
    last = {p.buffer: i for i, n in enumerate(nodes) for p in [*n.reads, *n.writes]}
    for i, node in enumerate(nodes):
        new = node.writes[0].buffer
        for j in range(i):
            old = nodes[j].writes[0].buffer
            if last[old] >= i:
                assert old.at + old.floats <= new.at or new.at + new.floats <= old.at


class TestProgramRefuses:
    """What would reach outside an array is refused when a step is added, not found when it runs."""

    def made(self):
        program = _native.module.GraphProgram()
        return program, program.hold(torch.zeros(64)), _native.module.GraphFinish()

    def test_an_operand_beyond_its_array(self):
        program, slot, none = self.made()
        x = [slot, 0, 1, 2, 2, 16, 16]
        program.combine(6, x, None, x, none)
        for bad in (
            [slot, 1, 1, 2, 2, 16, 16],
            [slot, -1, 1, 2, 2, 16, 16],
            [slot, 0, 1, 2, 2, 16, 17],
            [slot, 0, 1, 2, 2, 16, 8],
            [slot, 0, 1 << 31, 1 << 31, 2, 16, 16],
            [slot + 1, 0, 1, 2, 2, 16, 16],
        ):
            with pytest.raises(ValueError, match="graph: "):
                program.combine(6, bad, None, bad, none)

    def test_too_few_weights_and_tables_that_point_outside(self):
        program, slot, none = self.made()
        x, y = [slot, 0, 1, 1, 1, 4, 4], [slot, 0, 1, 1, 1, 17, 17]
        with pytest.raises(ValueError, match="weights is too small"):
            program.product(x, y, 0, [1, 1, 1, 1, 0, 0, 1, 1], 4, [slot, 0, 64], None, none, none)
        table = program.hold(torch.tensor([0, 1], dtype=torch.int32))
        span = [table, 0, 2]
        a, b = [slot, 0, 1, 2, 2, 4, 4], [slot, 16, 1, 2, 2, 4, 4]
        program.resize(a, b, span, span, span, span, None, None)
        beyond = [program.hold(torch.tensor([0, 2], dtype=torch.int32)), 0, 2]
        with pytest.raises(ValueError, match="point inside"):
            program.resize(a, b, span, beyond, span, span, None, None)

    def test_a_run_with_arrays_of_other_sizes(self):
        program, slot, none = self.made()
        port = program.port(8, False)
        program.combine(6, [port, 0, 1, 1, 1, 8, 8], None, [slot, 0, 1, 1, 1, 8, 8], none)
        program.run([torch.zeros(8)], 0, 1, 1)
        for arrays in ([], [torch.zeros(7)], [torch.zeros(8, dtype=torch.float64)]):
            with pytest.raises(ValueError, match="graph: "):
                program.run(arrays, 0, 1, 1)
        with pytest.raises(ValueError, match="must not be written"):
            program.fill([port, 0, 1, 1, 1, 8, 8], 0.0)


@pytest.mark.slow
def test_a_thread_that_holds_a_network_at_the_end_is_no_ones_business(tmp_path):
    """The binding took it for a mistake of its own and said so, over many lines."""
    data = model([helper.make_node("Relu", ["x"], ["y"])], {"x": draw(1, 2, 3, 3)})
    (tmp_path / "relu.onnx").write_bytes(data)
    program = """if True:
        import threading
        import accel
        opened = threading.Event()
        def wait():
            network = accel.load_onnx("relu.onnx", runtime="accel")
            opened.set()
            threading.Event().wait()
        threading.Thread(target=wait, daemon=True).start()
        assert opened.wait(60)
    """
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=tmp_path, capture_output=True, text=True, timeout=100,
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}, check=True,
    )  # fmt: skip
    assert (done.stdout, done.stderr) == ("", "")
