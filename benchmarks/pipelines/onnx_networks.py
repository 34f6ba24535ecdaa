"""ONNX networks on our kernels against ONNX Runtime: a swapper of inswapper's size, and the
embedded face networks.

The swapper has random weights: 3 -> 128 (7x7) -> 256 -> 512 (stride 2) -> 1024 (stride 2), six
blocks of two convolutions with AdaIN at 1024 x 32 x 32, and back: 349 GFLOP a face.

Run: python -m benchmarks.pipelines.onnx_networks
"""

from __future__ import annotations

import numpy as np
from onnx import TensorProto, helper, numpy_helper

from accel.models.onnx import load_onnx
from accel.weights.assets import asset
from benchmarks.harness import conditions, interleaved, save

EMBEDDED = (
    "facemesh_468_192.fp16w.onnx", "iris_64.fp16w.onnx", "blazeface_back_256.fp16w.onnx",
    "dlib_face_embed_128.u8w.onnx", "esrgan_slim_x2.onnx",
)  # fmt: skip


class _Writer:
    """Collects nodes and random weights."""

    def __init__(self) -> None:
        self.nodes: list = []
        self.constants: dict[str, np.ndarray] = {}
        self.draw = np.random.default_rng(0)

    def weight(self, *shape: int, scale: float = 1.0) -> str:
        name = f"w{len(self.constants)}"
        fan_in = int(np.prod(shape[1:])) or 1
        values = self.draw.standard_normal(shape, np.float32) * np.float32(scale / fan_in**0.5)
        self.constants[name] = values
        return name

    def constant(self, value) -> str:
        name = f"w{len(self.constants)}"
        self.constants[name] = np.asarray(value)
        return name

    def add(self, kind: str, *inputs: str, **attributes) -> str:
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
    return model.SerializeToString()


def compare(label: str, source, rounds: int, threads: int) -> dict:
    """Check that both runtimes agree, then time them."""
    ours = load_onnx(source, runtime="accel")
    peer = load_onnx(source, runtime="onnxruntime", threads=threads)
    ports = peer._network.inputs
    draw = np.random.default_rng(1)
    feeds = {
        p.name: draw.random([s if isinstance(s, int) else 64 for s in p.shape]).astype(p.dtype)
        for p in ports
    }
    for name in feeds:  # a free batch is one
        if not isinstance(next(p for p in ports if p.name == name).shape[0], int):
            feeds[name] = feeds[name][:1]
    got, want = ours.run(feeds), peer.run(feeds)
    error = max(
        float(np.abs(got[n] - want[n]).max() / max(1.0, np.abs(want[n]).max())) for n in want
    )
    assert error < 1e-3, f"{label}: the runtimes differ by {error}"
    calls = {"accel": lambda: ours.run(feeds), "onnxruntime": lambda: peer.run(feeds)}
    medians = interleaved(calls, rounds=rounds, threads=threads)
    ratio = medians["onnxruntime"] / medians["accel"]
    chosen = load_onnx(source).runtime
    print(
        f"{label:34} accel {medians['accel'] * 1e3:9.2f} ms   onnxruntime"
        f" {medians['onnxruntime'] * 1e3:9.2f} ms   {ratio:5.2f} x"
        f"   error {error:.1e}   auto: {chosen}"
    )
    return {
        "network": label,
        "median_ms": {k: round(v * 1e3, 3) for k, v in medians.items()},
        "ratio_to_onnxruntime": round(ratio, 3),
        "error": error,
        "auto": chosen,
    }


def main() -> None:
    rows = [compare(name, asset(name), 15, 1) for name in EMBEDDED]
    rows.append(compare("swapper, inswapper's size", swapper(), 3, 1))
    save("onnx_networks", {"rows": rows, **conditions(1)})


if __name__ == "__main__":
    main()
