"""ONNX networks on our kernels against ONNX Runtime: the embedded face networks, and a swapper of
inswapper's size, that against MNN too where it is installed.

The swapper has random weights: 3 -> 128 (7x7) -> 256 -> 512 (stride 2) -> 1024 (stride 2), six
blocks of two convolutions with AdaIN at 1024 x 32 x 32, and back: 349 GFLOP a face.

The limit is the float32 multiply-adds that one core does in registers; a network's share of it
counts the operations of its convolutions and products. Above 1 they are done another way: with
fewer operations (Winograd), or on tile registers.

Run: python -m benchmarks.pipelines.onnx_networks [--only swapper]
"""

from __future__ import annotations

import argparse
import importlib
import importlib.util
import tempfile
import time
from pathlib import Path
from typing import cast

import numpy as np
import torch
from onnx import NodeProto, TensorProto, helper, numpy_helper

from accel.kernels import _native
from accel.models.onnx import OnnxModel, load_onnx
from accel.weights.assets import asset
from benchmarks.harness import Call, Written, conditions, interleaved, save
from benchmarks.pipelines.sd_peers import apart

EMBEDDED = (
    "facemesh_468_192.fp16w.onnx",
    "iris_64.fp16w.onnx",
    "blazeface_back_256.fp16w.onnx",
    "blazeface_full_192.fp16w.onnx",
    "dlib_face_embed_128.u8w.onnx",
    "esrgan_slim_x2.onnx",
)
FACES = EMBEDDED[:3]  # mesh, iris, detector: what a face of a video needs  # fmt: skip


class _Writer:
    """Collects nodes and random weights."""

    def __init__(self) -> None:
        self.nodes: list[NodeProto] = []
        self.constants: dict[str, np.ndarray] = {}
        self.draw = np.random.default_rng(0)

    def weight(self, *shape: int, scale: float = 1.0) -> str:
        name = f"w{len(self.constants)}"
        fan_in = int(np.prod(shape[1:])) or 1
        values = self.draw.standard_normal(shape, np.float32) * np.float32(scale / fan_in**0.5)
        self.constants[name] = values
        return name

    def constant(self, value: object) -> str:
        name = f"w{len(self.constants)}"
        self.constants[name] = np.asarray(value)
        return name

    def add(self, kind: str, *inputs: str, **attributes: object) -> str:
        name = f"v{len(self.nodes)}"
        self.nodes.append(helper.make_node(kind, list(inputs), [name], **attributes))
        return name

    def conv(self, x: str, c_in: int, c_out: int, kernel: int = 3, stride: int = 1) -> str:
        pads = [kernel // 2] * 4
        return self.add(
            "Conv", x, self.weight(c_out, c_in, kernel, kernel), self.weight(c_out, scale=0.1),
            pads=pads, strides=[stride] * 2,
        )  # fmt: skip

    def adain(self, x: str, source: str, channels: int) -> str:
        mean = self.add("ReduceMean", x, axes=[2, 3])
        centred = self.add("Sub", x, mean)
        variance = self.add("ReduceMean", self.add("Mul", centred, centred), axes=[2, 3])
        root = self.add("Sqrt", self.add("Add", variance, self.constant(np.float32(1e-8))))
        rate = self.add("Div", self.constant(np.float32(1)), root)
        normal = self.add("Mul", centred, rate)
        style = self.add("Gemm", source, self.weight(2 * channels, 512), transB=1)
        style = self.add("Unsqueeze", style, self.constant(np.array([2, 3])))
        cut = [
            self.add(
                "Slice", style, *(self.constant(np.array([v])) for v in (first, last, 1))
            )
            for first, last in ((0, channels), (channels, 2 * channels))
        ]  # fmt: skip
        return self.add("Add", self.add("Mul", normal, cut[0]), cut[1])


def swapper(side: int = 128, width: int = 128) -> bytes:
    """An ONNX file shaped as inswapper: target [1, 3, side, side] and source [1, 512]."""
    w = _Writer()
    h = w.add("LeakyRelu", w.conv("target", 3, width, 7), alpha=0.2)
    for i, stride in enumerate((1, 2, 2)):
        h = w.add("LeakyRelu", w.conv(h, width << i, width << (i + 1), 3, stride), alpha=0.2)
    for _ in range(6):
        skip, wide = h, width * 8
        h = w.add("Relu", w.adain(w.conv(h, wide, wide), "source", wide))
        h = w.add("Add", skip, w.adain(w.conv(h, wide, wide), "source", wide))
    twice = w.constant(np.array([1, 1, 2, 2], np.float32))
    for i in (3, 2):
        h = w.add("Resize", h, "", twice, mode="linear")
        h = w.add("LeakyRelu", w.conv(h, width << i, width << (i - 1)), alpha=0.2)
    h = w.add("LeakyRelu", w.conv(h, 2 * width, width), alpha=0.2)
    w.add("Tanh", w.conv(h, width, 3, 7))
    last = w.nodes[-1].output[0]
    graph = helper.make_graph(
        w.nodes,
        "swapper",
        [
            helper.make_tensor_value_info("target", TensorProto.FLOAT, [1, 3, side, side]),
            helper.make_tensor_value_info("source", TensorProto.FLOAT, [1, 512]),
        ],
        [helper.make_tensor_value_info(last, TensorProto.FLOAT, [1, 3, side, side])],
        [numpy_helper.from_array(a, n) for n, a in w.constants.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)])
    model.ir_version = 8
    whole: bytes = model.SerializeToString()
    return whole


def peak() -> float:
    """Multiply-adds of one core, in operations a second; best of five."""
    rates = []
    for _ in range(5):
        start = time.process_time()
        done = _native.module.multiply_adds(3_000_000)
        rates.append(done / (time.process_time() - start))
    return max(rates)


def mnn(source: bytes, feeds: dict[str, np.ndarray], output: str, threads: int) -> Call:
    """A call of MNN on the same file and inputs, in full precision."""
    library, expr = (importlib.import_module(name) for name in ("MNN", "MNN.expr"))
    settings = {"backend": "CPU", "numThread": threads, "precision": "high"}
    manager = library.nn.create_runtime_manager((settings,))
    with tempfile.TemporaryDirectory() as folder:
        graph, made = Path(folder, "graph.onnx"), Path(folder, "graph.mnn")
        graph.write_bytes(source)
        # The console command installs telemetry; the compiled entry under it does not.
        apart("import _tools; _tools.mnnconvert(['mnnconvert', '-f', 'ONNX', '--modelFile', a,"
              " '--MNNModel', b, '--bizCode', 'x'])", graph, made)  # fmt: skip
        module = library.nn.load_module_from_file(
            str(made), list(feeds), [output], runtime_manager=manager
        )
    given = [expr.const(a, list(a.shape), expr.NCHW) for a in feeds.values()]

    def run() -> np.ndarray:
        (result,) = module.onForward(given)
        return np.array(expr.convert(result, expr.NCHW).read())

    return run


def compare(
    label: str,
    source: Path | bytes,
    rounds: int,
    limit: float,
    *,
    threads: int = 1,
    with_mnn: bool = False,
) -> Written:  # fmt: skip
    """Check that the runtimes agree, then time them."""
    start = time.process_time()
    ours = load_onnx(source, runtime="accel")
    load_s = time.process_time() - start
    peer = load_onnx(source, runtime="onnxruntime", threads=threads)
    feeds, want, error = checked(label, ours, peer)
    calls: dict[str, Call] = {
        "accel": lambda: ours.run(feeds),
        "onnxruntime": lambda: peer.run(feeds),
    }
    if with_mnn and isinstance(source, bytes) and importlib.util.find_spec("MNN"):
        name = next(iter(want))
        calls["mnn"] = theirs = mnn(source, feeds, name, threads)
        off = np.abs(np.asarray(theirs()).reshape(want[name].shape) - want[name]).max()
        assert off < 1e-2 * max(1.0, np.abs(want[name]).max()), f"{label}: MNN is off by {off}"
    medians = interleaved(calls, rounds=rounds, threads=threads)
    assert ours._plan is not None
    program = ours._plan.program({n: torch.from_numpy(a) for n, a in feeds.items()})
    work = program.operations if program else 0
    share = work / medians["accel"] / (limit * threads)
    row: Written = {
        "network": label,
        "threads": threads,
        "clock": "process CPU time" if threads == 1 else "wall",
        "median_ms": {k: round(v * 1e3, 3) for k, v in medians.items()},
        **{
            f"ratio_to_{peer}": round(medians[peer] / medians["accel"], 3)
            for peer in calls
            if peer != "accel"
        },
        "gflop": round(work / 1e9, 4),
        "share_of_fma_peak": round(share, 3),
        "load_s": round(load_s, 3),
        "arena_mb": round(program.arena_floats * 4 / 1e6, 2) if program else None,
        "error": error,
        "auto": load_onnx(source).runtime,
    }
    tell(row, medians)
    return row


def checked(
    label: str, ours: OnnxModel, peer: OnnxModel
) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray], float]:
    """Random inputs, what the peer makes of them, and how far ours is from that."""
    draw = np.random.default_rng(1)
    feeds = {  # a free batch is one
        p.name: draw.random(
            [s if isinstance(s, int) else 64 if i else 1 for i, s in enumerate(p.shape)]
        ).astype(p.dtype)
        for p in peer.ports
    }
    got, want = ours.run(feeds), peer.run(feeds)
    error = max(
        float(np.abs(got[n] - want[n]).max() / max(1.0, np.abs(want[n]).max())) for n in want
    )
    assert error < 1e-3, f"{label}: the runtimes differ by {error}"
    return feeds, want, error


def tell(row: Written, medians: dict[str, float]) -> None:
    print(
        f"{row['network']:34} {row['threads']} threads  "
        + "   ".join(
            f"{k} {v * 1e3:8.2f} ms ({v / medians['accel']:.2f} x)" for k, v in medians.items()
        )
        + f"   {row['share_of_fma_peak']:.0%} of the limit   error {row['error']:.1e}"
        + f"   auto: {row['auto']}"
    )


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--only", choices=("swapper",), help="print this alone and write nothing")
    only = parser.parse_args().only
    limit = peak()
    if only:
        compare("swapper, inswapper's size", swapper(), 3, limit, with_mnn=True)
        return
    rows = [compare(name, asset(name), 15, limit) for name in EMBEDDED]
    times = {r["network"]: cast(dict[str, float], r["median_ms"]) for r in rows}
    sums = {k: sum(times[name][k] for name in FACES) for k in ("accel", "onnxruntime")}
    together = sums["onnxruntime"] / sums["accel"]
    print(f"mesh, iris and detector together: {together:.2f} x")
    for threads in (1, 2):
        name = "swapper, inswapper's size"
        rows.append(compare(name, swapper(), 3, limit, threads=threads, with_mnn=True))
    save(
        "onnx_networks",
        {
            "rows": rows,
            "mesh_iris_detector_ratio": round(together, 3),
            "fma_peak_gflops": round(limit / 1e9, 1),
            **conditions(1),
        },
    )


if __name__ == "__main__":
    main()
